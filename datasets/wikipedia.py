"""Wikipedia: 2,866 sections of featured articles, each with an image, in 10 classes."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import files_digest
from xmbench.data import Corpus, Dataset, DatasetCard, Download, Split, draw
from xmbench.errors import CorruptData, MissingData, Unsupported

SOURCE = "https://raw.githubusercontent.com/emanuetre/crossmodal/306fafe76b47f45c74204c3ab81705c09e6ff298/wikipedia_info/"
FILES = {
    "raw_features.mat": (1_075_232, "ca628f765a69575e168ab29eb97f5ade12fadf47b31de1328c7ff631c7f225ae"),
    "trainset_txt_img_cat.list": (
        155_153,
        "30c1ba8afbe90da5986de9b12496b6dd2e4680d3876b79ab7aae2e437d5819a3",
    ),
    "testset_txt_img_cat.list": (49_494, "ec3123ee31cc89dd95fbeb23eb73b2ecfd1d8909bba863723471aad99408c1eb"),
    "categories.list": (75, "4929f3ee00e9de9ffe11f9ab18fc8919b0f6182cc801309409df2f2d05e2b0f5"),
}
"""A public copy of the features and lists: name -> bytes, sha256."""
LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
VALIDATION = 231


def _rows(corpus: Corpus, part: str) -> NDArray[np.int64]:
    return np.flatnonzero(np.array(corpus.official) == part)


def _official(corpus: Corpus, seed: int) -> Split:
    """The dataset's own 2,173 / 693, with 231 of the training pairs, drawn by class, held for validation."""
    validation, train = draw(corpus, _rows(corpus, "train"), seed, [VALIDATION])
    return Split("official", seed, train, validation, _rows(corpus, "test"))


def _cmgans(corpus: Corpus, seed: int) -> Split:
    """2,173 training, 231 validation and 462 test pairs: the official test set, divided by class."""
    validation, test = draw(corpus, _rows(corpus, "test"), seed, [VALIDATION])
    return Split("cmgans", seed, _rows(corpus, "train"), validation, test)


def _acmr(corpus: Corpus, seed: int) -> Split:
    """130 pairs of each class, 13 of them for validation, and the other 1,566 for testing (sizes of ACMR)."""
    train, validation, test = [], [], []
    for label in range(len(corpus.class_names)):
        chosen, rest = draw(corpus, np.flatnonzero(corpus.labels == label), seed, [130])
        held, kept = draw(corpus, chosen, seed, [13])
        train.append(kept)
        validation.append(held)
        test.append(rest)
    return Split("acmr", seed, *(np.concatenate(rows) for rows in (train, validation, test)))


def _grouped(corpus: Corpus, seed: int) -> Split:
    """About 1,942 training, 231 validation and 693 test pairs; the sections of an article stay on one side."""
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [693, VALIDATION], grouped=True)
    return Split("grouped", seed, train, validation, test)


class Wikipedia(Dataset):
    """Reads the official features, the two lists and, for raw texts, the article sections."""

    card = DatasetCard(
        title="Wikipedia",
        source="http://www.svcl.ucsd.edu/projects/crossmodal/ (archive wikipedia_dataset)",
        licence="none stated; a citation is asked for; the texts are Wikipedia's (CC BY-SA, GFDL)",
        citation="Rasiwasia, Costa Pereira, Coviello, Doyle, Lanckriet, Levy, Vasconcelos, A new approach to "
        "cross-modal multimedia retrieval, ACM Multimedia 2010",
        layout=(
            "wikipedia/wikipedia_dataset/raw_features.mat",
            "wikipedia/wikipedia_dataset/{trainset,testset}_txt_img_cat.list",
            "wikipedia/wikipedia_dataset/categories.list",
            "wikipedia/wikipedia_dataset/texts/<text id>.xml   (for raw texts alone)",
        ),
        pairs=2866,
        image_text="images of featured articles, each with the section of the article that shows it",
        defects=(
            "888 of the 2,866 text files are not well-formed XML; all are read, leniently",
            "the pairs come from 1,168 articles, and the official split has sections of one article on both sides",
            "rows of the features are histograms: both matrices are rank-deficient by one",
            "the splits of CM-GANs and ACMR are published as sizes only: `cmgans` and `acmr` are seeded draws",
        ),
    )
    folders: ClassVar = ("wikipedia/wikipedia_dataset", "wikipedia_dataset")
    downloads: ClassVar = {
        "features": tuple(
            Download(SOURCE + name, sha256, size, f"wikipedia/wikipedia_dataset/{name}")
            for name, (size, sha256) in FILES.items()
        )
    }
    """Features, lists and classes, which runs on sift+lda need; the texts are in the dataset's own archive."""
    required: ClassVar = (*LISTS.values(), "categories.list", "raw_features.mat")
    stored: ClassVar = {
        "image": {"sift": "128 visual words over SIFT, as shares (official)"},
        "text": {"lda": "10 topics, as shares (official)"},
    }
    features = "sift+lda"
    scalings: ClassVar = {"sift": "zscore", "lda": "zscore"}
    splits: ClassVar = {"official": _official, "cmgans": _cmgans, "acmr": _acmr, "grouped": _grouped}

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read lists and features, and the texts if asked for; see :meth:`xmbench.data.Dataset.load`."""
        if image == "raw":
            raise Unsupported(
                "wikipedia's images are not part of the archive that is read; image features: sift"
            )
        if image != "sift" or text not in ("lda", "raw"):
            raise Unsupported(f"wikipedia stores sift and lda, and raw texts; got {image!r} and {text!r}")
        root = self.folder(data_dir)
        entries = [(part, *line) for part, name in LISTS.items() for line in _list(root / name)]
        matrices = _features(root / "raw_features.mat")
        sizes = tuple(sum(entry[0] == part for entry in entries) for part in LISTS)
        for modality in "IT":
            rows = tuple(len(matrices[f"{modality}_{part}"]) for part in ("tr", "te"))
            if rows != sizes:
                raise CorruptData(
                    f"wikipedia: the lists name {sizes} pairs, {modality}_tr and {modality}_te of "
                    f"raw_features.mat have {rows} rows"
                )
        images, topics = (np.vstack([matrices[f"{m}_tr"], matrices[f"{m}_te"]]) for m in "IT")
        names = tuple(line.strip() for line in _lines(root / "categories.list"))
        if not entries:
            raise CorruptData("wikipedia: the two lists name no pair")
        labels = np.array([int(entry[3]) - 1 for entry in entries])
        if labels.min() < 0 or labels.max() >= len(names):
            raise CorruptData(f"wikipedia: the lists use categories outside 1..{len(names)}")
        used = [root / name for name in (*LISTS.values(), "categories.list", "raw_features.mat")]
        articles = tuple(entry[1].rpartition("-")[0] for entry in entries)
        notes = [f"{len(set(articles)):,} articles"]
        texts: Any = topics
        if text == "raw":
            paths = [root / "texts" / f"{entry[1]}.xml" for entry in entries]
            texts = [_body(path) for path in paths]
            used += paths
            notes.append(f"{len(texts):,} texts read")
        return Corpus(
            name="wikipedia",
            images=images,
            texts=texts,
            labels=labels,
            class_names=names,
            ids=tuple(entry[1] for entry in entries),
            groups=articles,
            digest=files_digest(root, used),
            official=tuple(entry[0] for entry in entries),
            notes=tuple(notes),
        )


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise CorruptData(f"wikipedia: {path.name} is not UTF-8 ({error})") from error


def _list(path: Path) -> list[tuple[str, str, str]]:
    """(text id, image id, category number) of each line."""
    lines = [tuple(line.split("\t")) for line in _lines(path)]
    for number, line in enumerate(lines, start=1):
        if len(line) != 3 or not line[2].strip().isdecimal():
            raise CorruptData(f"wikipedia: {path.name}, line {number}: expected text id, image id, category")
    return [(text.strip(), image.strip(), category.strip()) for text, image, category in lines]


def _features(path: Path) -> dict[str, NDArray[np.float64]]:
    from scipy.io import loadmat

    wanted = ("I_tr", "I_te", "T_tr", "T_te")
    try:
        found = loadmat(path, variable_names=wanted)
    except Exception as error:  # on a damaged file scipy raises almost anything, zlib.error included
        raise CorruptData(f"wikipedia: {path.name} is not a readable MATLAB v5 file: {error}") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CorruptData(f"wikipedia: {path.name} lacks {', '.join(missing)}")
    for name in wanted:
        matrix = found[name]
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            raise CorruptData(f"wikipedia: {name} in {path.name} is no dense matrix of numbers")
    for modality in "IT":
        widths = [found[f"{modality}_{part}"].shape[1] for part in ("tr", "te")]
        if widths[0] != widths[1]:
            raise CorruptData(
                f"wikipedia: {modality}_tr and {modality}_te in {path.name} have {widths[0]} and {widths[1]} columns"
            )
    return {name: found[name] for name in wanted}


def _body(path: Path) -> str:
    """The text of a section. A third of the files would not pass a strict parser; all have one <text>."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingData(f"wikipedia: texts/{path.name} is missing") from error
    except UnicodeDecodeError as error:
        raise CorruptData(f"wikipedia: texts/{path.name} is not UTF-8 ({error})") from error
    match = re.search(r"<text>(.*)</text>", content, flags=re.DOTALL)
    if not match:
        raise CorruptData(f"wikipedia: texts/{path.name} has no <text> ... </text>")
    if not match[1].strip():
        raise CorruptData(f"wikipedia: texts/{path.name} holds no text")
    return html.unescape(match[1]).strip()


DATASET = Wikipedia
