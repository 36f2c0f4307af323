"""NUS-WIDE-10k: 10,000 Flickr photographs of ten concepts with their tags, one concept each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean, digest, files_digest
from xmbench.data import Corpus, Dataset, DatasetCard, Split, draw, hash_order
from xmbench.errors import CorruptData, InvalidInput, MissingData, Unsupported
from xmbench.matrices import read_matrix

from ._parts import CNN, DOC2VEC, class_names, only_file, read_files, read_parts

CONCEPTS = ("animal", "clouds", "flowers", "food", "grass", "person", "sky", "toy", "water", "window")
SELECTION_SEED = 0
"""Seed of the draw of 1,000 images for each concept; it is no split seed, for all splits are of these images."""

LISTS = {"all": "Imagelist.txt", "train": "TrainImagelist.txt", "test": "TestImagelist.txt"}

ARRAYS = (".npy", ".npz", ".mat")
"""Suffixes under which a matrix of all images may lie in place of its text file, one array a file."""

LOW_LEVEL = {
    "ch": (64, "Normalized_CH.dat", "colour histogram"),
    "corr": (144, "Normalized_CORR.dat", "colour correlogram"),
    "edh": (73, "Normalized_EDH.dat", "edge direction histogram"),
    "wt": (128, "Normalized_WT.dat", "wavelet texture"),
    "cm55": (225, "Normalized_CM55.dat", "block-wise colour moments"),
    "bow": (500, "BoW_int.dat", "bag of visual words over SIFT, counts"),
}
"""Feature -> columns, the file of all images in ``Low_Level_Features/``, and what it is."""

OWN = "fc7"
"""Features of one's own network: ``Low_Level_Features/fc7`` with a suffix of ``ARRAYS``, any number of columns."""

PREPARED = (
    "nus_wide-10k_deep_doc2vec-corr-ae.h5py",
    "nus_wide_10k_deep_doc2vec-corr-ae.h5py",
    "nus_wide_deep_doc2vec-corr-ae.h5py",
    "nus_wide_10k_features.mat",
)


def _rows(corpus: Corpus, part: str) -> NDArray[np.int64]:
    return np.flatnonzero(np.array(corpus.official) == part)


def _cmgans(corpus: Corpus, seed: int) -> Split:
    """8,000 training, 1,000 validation and 1,000 test pairs (sizes of Corr-AE and the papers after it), by class; of
    a prepared file its own parts, if it has all three."""
    if corpus.official is not None and "validation" in corpus.official:
        return Split("cmgans", None, *(_rows(corpus, part) for part in ("train", "validation", "test")))
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1])
    return Split("cmgans", seed, train, validation, test)


def _acmr(corpus: Corpus, seed: int) -> Split:
    """8,000 training pairs, of which 1,000 are held for validation, and 1,000 test pairs, by class (the sizes of
    ACMR); the last 1,000 are in no part."""
    test, _, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1, 0.1])
    return Split("acmr", seed, train, validation, test)


class NusWide10k(Dataset):
    """Reads NUS-WIDE as it is distributed and takes 1,000 images of each concept from it, or a prepared file.

    Of the images with exactly one of the ten concepts, the first 1,000 of each in the order of sha256(0 / id) are
    taken, whatever features are asked for. An id is the path of the image without suffix, such as
    ``actor/0001_2124494179``; of lines with one photograph number (2124494179) only the first can be taken.

    Sources of the layout: https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html and
    the description at https://github.com/NExTplusplus/NUS-WIDE; names inside prepared files: see ``_parts``.
    """

    card = DatasetCard(
        title="NUS-WIDE-10k",
        source="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html (lists, labels, "
        "tags, low-level features; the photographs on request)",
        licence="for non-commercial research; the photographs are their Flickr authors'",
        citation="Chua, Tang, Hong, Li, Luo, Zheng, NUS-WIDE: a real-world web image database from National "
        "University of Singapore, CIVR 2009; the ten concepts: Feng, Wang, Li, Cross-modal retrieval with "
        "correspondence autoencoder, ACM Multimedia 2014",
        layout=(
            "nus_wide/ImageList/Imagelist.txt   (ImageList.txt is read too)",
            "nus_wide/Groundtruth/AllLabels/Labels_<concept>.txt   (0 or 1 a line; the ten concepts)",
            "nus_wide/NUS_WID_Tags/AllTags1k.txt   (or Train_Tags1k.dat and Test_Tags1k.dat, with their two lists)",
            "nus_wide/NUS_WID_Tags/All_Tags.txt   (for raw texts alone)",
            "nus_wide/Low_Level_Features/BoW_int.dat, Normalized_{CH,CORR,EDH,WT,CM55}.dat   (those asked for)",
            "    each matrix of all images may be a .npy, .npz or .mat file of that name; so may fc7, of one's own",
            "nus_wide/Flickr/<folder>/<name>.jpg, as in Imagelist.txt   (for raw images alone; images/ is read too)",
            "or, for cnn+doc2vec, a prepared file: nus_wide/{" + ",".join(PREPARED) + "}",
        ),
        pairs=10000,
        image_text="photographs with the tags that their authors gave them on Flickr",
        defects=(
            "which 10,000 images the papers took is not published: these are a fixed draw by hash from all that have "
            "exactly one of the ten concepts, so that figures are of the same kind and not the same images",
            "tags are noisy; some images have none of the 1,000 tags and are a zero row in tags1k, or an empty text",
            "classes overlap in what is seen (sky and clouds, grass and animal): one label is a matter of choice",
            "prepared files bring images of their own choice, with neither ids nor class names; the names of their "
            "arrays are unchecked against a real file",
            "low-level features come with the dataset; the papers' VGG-19 features of these images are not published",
        ),
    )
    folders: ClassVar = ("nus_wide", "NUS-WIDE", "nus_wide_10k", "nuswide")
    required: ClassVar = ("ImageList", "Groundtruth/AllLabels")
    stored: ClassVar = {
        "image": {
            **{name: f"{width}: {what} ({file})" for name, (width, file, what) in LOW_LEVEL.items()},
            OWN: "outputs of a network for all images (Low_Level_Features/fc7.npy, .npz or .mat)",
            "low_level": "634: ch, corr, edh, wt and cm55 side by side",
            "cnn": "outputs of a convolutional network (prepared file, with doc2vec)",
        },
        "text": {
            "tags1k": "1000: which of the 1,000 most frequent tags an image has",
            "doc2vec": "Doc2Vec vectors of the tags (prepared file, with cnn)",
        },
    }
    features = "bow+tags1k"
    scalings: ClassVar = {
        **dict.fromkeys(LOW_LEVEL, "zscore"),
        "bow": "l2_center_scale",
        "low_level": "zscore",
        OWN: "l2_center_scale",
        "cnn": "l2_center_scale",
        "tags1k": "l2_center_scale",
        "doc2vec": "l2_center_scale",
    }
    splits: ClassVar = {"cmgans": _cmgans, "acmr": _acmr}
    per_concept: ClassVar = 1000

    def folder(self, data_dir: Path) -> Path:
        """The folder in NUS-WIDE's layout or with a prepared file; see :meth:`xmbench.data.Dataset.folder`."""
        for candidate in (data_dir / folder for folder in self.folders):
            if any((candidate / file).is_file() for file in PREPARED):
                return candidate
        return super().folder(data_dir)

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Choose the images, then read what is asked for of them; see :meth:`xmbench.data.Dataset.load`."""
        root = self.folder(data_dir)
        if (image, text) == ("cnn", "doc2vec"):
            return self._prepared(root)
        wrong = {image, text} & {"cnn", "doc2vec"}
        if wrong or image not in ("raw", *self.stored["image"]) or text not in ("raw", *self.stored["text"]):
            raise Unsupported(
                f"nus_wide_10k pairs raw images, {OWN}, low_level or one of {', '.join(LOW_LEVEL)} with raw tags "
                f"or tags1k, and cnn with doc2vec of a prepared file; got {image!r} and {text!r}"
            )
        if not all((root / path).exists() for path in self.required):
            raise MissingData(
                f"nus_wide_10k: {image} and {text} need ImageList and Groundtruth/AllLabels in {root}, where only a "
                "prepared file lies; its features: cnn+doc2vec"
            )
        lines = _Lines(root)
        chosen = self._choose(lines)
        images, image_files, image_notes = _images(lines, chosen, image)
        texts, text_files, text_notes = _texts(lines, chosen, text)
        ids = tuple(lines.ids[row] for row in chosen.rows)
        return Corpus(
            name="nus_wide_10k",
            images=images,
            texts=texts,
            labels=chosen.labels,
            class_names=CONCEPTS,
            ids=ids,
            groups=ids,
            digest=digest([files_digest(root, [*lines.used, *image_files, *text_files]), self.per_concept]),
            notes=(*chosen.notes, *image_notes, *text_notes),
        )

    def _choose(self, lines: _Lines) -> _Chosen:
        held = np.stack([lines.labels(concept) for concept in CONCEPTS], axis=1)
        count = held.sum(axis=1)
        first = np.zeros(len(held), dtype=bool)
        first[np.unique(lines.numbers, return_index=True)[1]] = True
        single = (count == 1) & first
        rows: list[int] = []
        labels: list[int] = []
        for label, concept in enumerate(CONCEPTS):
            pool = np.flatnonzero(single & held[:, label])
            if len(pool) < self.per_concept:
                raise CorruptData(
                    f"nus_wide_10k: {len(pool):,} images have {concept} alone among the ten concepts, "
                    f"{self.per_concept:,} are needed; is {lines.list.name} the whole list?"
                )
            order = hash_order([lines.ids[row] for row in pool], SELECTION_SEED)[: self.per_concept]
            rows += sorted(int(pool[place]) for place in order)
            labels += [label] * self.per_concept
        left = int(single.sum()) - len(rows)
        return _Chosen(
            np.array(rows),
            np.array(labels),
            (
                f"{len(rows):,} of the {len(held):,} images of {lines.list.name}, {self.per_concept:,} a concept",
                f"left out: {int((count == 0).sum()):,} images with none of the ten concepts, "
                f"{int((count > 1).sum()):,} with several, {int(((count == 1) & ~first).sum()):,} listed before, and "
                f"{left:,} by draw",
            ),
        )

    def _prepared(self, root: Path) -> Corpus:
        path = only_file(root, PREPARED, "nus_wide_10k")
        if path is None:
            raise MissingData(
                f"nus_wide_10k: cnn and doc2vec come from a prepared file, and none is in {root}; its name may be "
                + " or ".join(PREPARED)
            )
        parts = read_parts(path, "nus_wide_10k", CNN, DOC2VEC, len(CONCEPTS))
        return Corpus(
            name="nus_wide_10k",
            images=parts.images,
            texts=parts.texts,
            labels=parts.labels,
            class_names=class_names(root, len(CONCEPTS), "nus_wide_10k"),
            ids=parts.ids,
            groups=parts.ids,
            digest=files_digest(root, read_files(root, path)),
            official=parts.official,
            notes=(f"read from {path.name}, a choice of images of its own; items are numbered",),
        )


@dataclass(frozen=True)
class _Chosen:
    """The images taken: lines of the list, their labels, and what was left out."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    notes: tuple[str, ...]


class _Lines:
    """The image list, whose line i is line i of every other file of all images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.list = _list_file(root, "all")
        self.ids = _ids(self.list)
        self.used = [self.list]
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise CorruptData(f"nus_wide_10k: {self.list.name} lists {clean(twice[0])} twice")

    @property
    def numbers(self) -> list[str]:
        """The number of each photograph on Flickr."""
        return [name.rpartition("_")[2] for name in self.ids]

    def labels(self, concept: str) -> NDArray[np.bool_]:
        """Which images show a concept: (n,)."""
        path = self.root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt"
        if not path.is_file():
            raise MissingData(f"nus_wide_10k: {path} is missing")
        values = np.array(path.read_bytes().split(), dtype=bytes)
        if len(values) != len(self.ids):
            raise CorruptData(
                f"nus_wide_10k: {path.name} holds {len(values):,} labels, {self.list.name} lists "
                f"{len(self.ids):,} images"
            )
        shown = values == b"1"
        if len(wrong := np.flatnonzero(~shown & (values != b"0"))):
            value = clean(values[wrong[0]].decode("utf-8", "replace"))[:40]
            raise CorruptData(
                f"nus_wide_10k: {path.name}, line {wrong[0] + 1}: expected 0 or 1, got {value!r}"
            )
        self.used.append(path)
        return np.asarray(shown, dtype=bool)


def _list_file(root: Path, part: str) -> Path:
    name = LISTS[part]
    for spelling in (name, name.replace("list", "List")):
        if (root / "ImageList" / spelling).is_file():
            return root / "ImageList" / spelling
    raise MissingData(f"nus_wide_10k: {root / 'ImageList' / name} is missing")


def _ids(path: Path) -> list[str]:
    """``actor/0001_2124494179`` for the line ``actor\\0001_2124494179.jpg``."""
    found = []
    for number, line in enumerate(_text_lines(path), start=1):
        name = line.strip().replace("\\", "/").removeprefix("./")
        if not re.fullmatch(r"[^/\x00]+/[^/\x00]*_\d+\.jpg", name) or name.startswith("../"):
            shown = clean(name)[:60]
            raise CorruptData(
                f"nus_wide_10k: {path.name}, line {number}: expected a path such as actor\\0001_2124494179.jpg, "
                f"got {shown!r}"
            )
        found.append(name.removesuffix(".jpg"))
    return found


def _text_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CorruptData(f"nus_wide_10k: {path.name} is not UTF-8 ({error})") from error
    return lines[:-1] if lines[-1] == "" else lines


# -- images --------------------------------------------------------------------------------------------


def _images(lines: _Lines, chosen: _Chosen, name: str) -> tuple[Any, list[Path], list[str]]:
    """Paths or features of the chosen images, the files read for them, and notes."""
    if name == "raw":
        paths = _image_paths(lines, chosen)
        return paths, paths, []
    if name == OWN:
        places = [f"{OWN}{suffix}" for suffix in ARRAYS]
        path = only_file(lines.root / "Low_Level_Features", places, "nus_wide_10k")
        if path is None:
            raise MissingData(
                f"nus_wide_10k: none of {', '.join(places)} is in {lines.root / 'Low_Level_Features'}"
            )
        return _array_rows(path, chosen.rows, len(lines.ids), None), [path], []
    names = [one for one in LOW_LEVEL if one != "bow"] if name == "low_level" else [name]
    blocks, used = [], []
    for one in names:
        width, file, _ = LOW_LEVEL[one]
        block, files = _table(lines, chosen.rows, "Low_Level_Features", _spellings(file), width)
        blocks.append(block)
        used += files
    return np.hstack(blocks), used, []


def _image_paths(lines: _Lines, chosen: _Chosen) -> list[Path]:
    folders = [lines.root / name for name in ("Flickr", "images", "image")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise MissingData(
            f"nus_wide_10k: raw images are expected in {folders[0]}; without them: --features bow+tags1k"
        )
    paths = [folder / f"{lines.ids[row]}.jpg" for row in chosen.rows]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingData(
            f"nus_wide_10k: {len(missing):,} of {len(paths):,} chosen images are missing, "
            f"first: {clean(str(missing[0]))}"
        )
    return paths


def _spellings(file: str) -> tuple[str, tuple[str, str]]:
    """The file of all images, and the pair of files of the training and the test images."""
    if file.startswith("BoW"):
        return file, ("BoW_Train_int.dat", "BoW_Test_int.dat")
    return file, (f"Train_{file}", f"Test_{file}")


def _table(
    lines: _Lines,
    rows: NDArray[np.int64],
    folder: str,
    files: tuple[str, tuple[str, str]],
    width: int,
) -> tuple[NDArray[np.float32], list[Path]]:
    """Rows of a matrix of all images, from one file or the two of the official parts, and what was read."""
    stem, pair = files[0].rpartition(".")[0], [lines.root / folder / name for name in files[1]]
    places = [files[0], *(f"{stem}{suffix}" for suffix in ARRAYS)]
    if whole := only_file(lines.root / folder, places, "nus_wide_10k"):
        read = _array_rows if whole.suffix in ARRAYS else _table_rows
        return read(whole, rows, len(lines.ids), width), [whole]
    if not all(path.is_file() for path in pair):
        raise MissingData(
            f"nus_wide_10k: neither {folder}/{files[0]} nor {folder}/{' and '.join(files[1])} is in {lines.root}"
        )
    lists = [_list_file(lines.root, part) for part in ("train", "test")]
    place = {name: (file, line) for file, path in enumerate(lists) for line, name in enumerate(_ids(path))}
    table = np.empty((len(rows), width), dtype=np.float32)
    wanted = [lines.ids[row] for row in rows]
    strangers = [name for name in wanted if name not in place]
    if strangers:
        raise CorruptData(
            f"nus_wide_10k: {len(strangers):,} chosen images are neither in {lists[0].name} nor in {lists[1].name}, "
            f"first: {clean(strangers[0])}"
        )
    for file, path in enumerate(pair):
        at = np.array([i for i, name in enumerate(wanted) if place[name][0] == file], dtype=np.int64)
        inside = np.array([place[wanted[i]][1] for i in at], dtype=np.int64)
        table[at] = _table_rows(path, inside, sum(one == file for one, _ in place.values()), width)
    return table, [*pair, *lists]


def _array_rows(path: Path, rows: NDArray[np.int64], n: int, width: int | None) -> NDArray[np.float32]:
    """The wanted rows of the array of ``n`` rows in a file; of a .npy file nothing else is read."""
    try:
        array = read_matrix(path)
    except InvalidInput as error:
        raise CorruptData(f"nus_wide_10k: {error}") from error
    if array.ndim != 2 or len(array) != n or (width is not None and array.shape[1] != width):
        wanted = f"({n:,}, {width if width is not None else 'any'})"
        raise CorruptData(f"nus_wide_10k: {path.name} has shape {array.shape}, expected {wanted}")
    return np.asarray(array[rows], dtype=np.float32)


def _table_rows(path: Path, rows: NDArray[np.int64], n: int, width: int) -> NDArray[np.float32]:
    """The wanted rows of a text matrix of ``n`` lines; the others are counted and not parsed."""
    places = {int(row): i for i, row in enumerate(rows)}
    table = np.empty((len(rows), width), dtype=np.float32)
    count = 0
    for count, line in enumerate(_filled_lines(path), start=1):
        if (place := places.get(count - 1)) is None:
            continue
        fields = line.split()
        if len(fields) != width:
            raise CorruptData(
                f"nus_wide_10k: {path.name}, line {count} has {len(fields)} numbers, expected {width}"
            )
        try:
            table[place] = np.array(fields, dtype=np.float32)
        except ValueError as error:
            raise CorruptData(f"nus_wide_10k: {path.name}, line {count}: {clean(str(error))}") from error
    if count != n:
        raise CorruptData(f"nus_wide_10k: {path.name} has {count:,} lines, the list of its images {n:,}")
    return table


def _filled_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for line in stream:
            if not line.isspace():
                yield line


# -- tags ----------------------------------------------------------------------------------------------


def _texts(lines: _Lines, chosen: _Chosen, name: str) -> tuple[Any, list[Path], list[str]]:
    """Tags of the chosen images as strings or as a matrix, the files read for them, and notes."""
    if name == "raw":
        path = lines.root / "NUS_WID_Tags" / "All_Tags.txt"
        texts = _tags(path, lines, chosen.rows)
        return (
            texts,
            [path],
            [f"{sum(not text for text in texts):,} images without a tag: their text is empty"],
        )
    files = ("AllTags1k.txt", ("Train_Tags1k.dat", "Test_Tags1k.dat"))
    table, used = _table(lines, chosen.rows, "NUS_WID_Tags", files, 1000)
    if not np.isin(table, (0, 1)).all():
        raise CorruptData(f"nus_wide_10k: {used[0].name} holds other numbers than 0 and 1")
    zero = int((~table.any(axis=1)).sum())
    return table, used, [f"{zero:,} images with none of the 1,000 tags: their row of tags1k is zero"]


def _tags(path: Path, lines: _Lines, rows: NDArray[np.int64]) -> list[str]:
    """The tags of each chosen image, from the line of its photograph number: the number, then the tags."""
    if not path.is_file():
        raise MissingData(f"nus_wide_10k: {path} is missing")
    numbers = lines.numbers
    wanted = {numbers[row] for row in rows}
    found: dict[str, str] = {}
    for line, content in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        first, *tags = content.split() or [b""]
        number = first.decode("ascii", "replace")
        if number in wanted and number not in found:
            try:
                found[number] = b" ".join(tags).decode("utf-8")
            except UnicodeDecodeError as error:
                raise CorruptData(f"nus_wide_10k: {path.name}, line {line} is not UTF-8 ({error})") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise CorruptData(
            f"nus_wide_10k: {path.name} has no line for {len(missing):,} chosen images, first: photograph {missing[0]}"
        )
    return [found[numbers[row]] for row in rows]


DATASET = NusWide10k
