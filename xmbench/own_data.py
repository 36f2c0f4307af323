"""Data of the user's own, without code: read as a :class:`~xmbench.description.Description` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean, digest, file_digest, source_digest
from xmbench.columns import (
    IMAGES,
    TEXTS,
    Report,
    as_text,
    check_names,
    few,
    list_files,
    locate,
    place,
    read_column,
    read_lines,
    stop,
)
from xmbench.data import PARTS, Corpus, Dataset, DatasetCard, Split, SplitRule, check_labels, draw
from xmbench.description import (
    FOLDER,
    TEST,
    VALIDATION,
    Description,
    Partition,
    Side,
    is_coco,
    read_description,
    recognise,
)
from xmbench.errors import CorruptData, InvalidInput, MissingData, Unsupported, UsageError, XmbenchError
from xmbench.matrices import read_matrix
from xmbench.registry import Plugin

RAW = "raw"
WORDS = {"train": "train", "validation": "validation", "val": "validation", "test": "test", "none": "none"}
"""What may stand in a split column; rows of ``none`` are in no part."""


@dataclass(frozen=True)
class _Rows:
    """Images or texts.

    Args:
        keys: names of the items, each once; None where only their order is known.
        values: one for each.
        sentences: of texts that were read raw: the sentences of each.
    """

    keys: list[str] | None
    values: Any
    sentences: list[list[str]] | None = None


@dataclass(frozen=True)
class _Items:
    """What is said of the items beside their images and texts, in the order of the corpus."""

    labels: NDArray[Any]
    class_names: tuple[str, ...]
    groups: tuple[str, ...] | None
    parts: tuple[str, ...] | None


class Reader:
    """Reads what a description refers to, into one corpus.

    A method that meets a problem reports it and returns None, or what is left without it.

    Args:
        said: the description.
        root: the folder that its references are relative to.
        report: told of each problem; raises it, or lets reading go on.
    """

    def __init__(self, said: Description, root: Path, report: Report = stop) -> None:
        self.said, self.root, self.report = said, root, report
        self.sides = {"image": said.images, "text": said.texts}
        self.columns: dict[str, list[str] | NDArray[Any]] = {}
        self.used: dict[str, Path] = {}
        self.notes: list[str] = []
        self.files = {modality: self._folder(modality) for modality in self.sides}
        self.aliases = _aliases([files for files in self.files.values() if files], root)

    def corpus(self, image: str, text: str) -> Corpus | None:
        """The corpus with these representations of images and texts."""
        images, texts = self._side("image", image), self._side("text", text)
        paired = None if images is None or texts is None else self._pair(images, texts)
        if images is None or texts is None or paired is None:
            self._look()
            return None
        keys, image_rows, text_rows = paired
        items = self._items(keys, len(image_rows))
        if items is None:
            return None
        ids = _ids(keys, len(image_rows), short=any(self.files.values()))
        values = [_take(images.values, image_rows), _take(texts.values, text_rows)]
        for modality, wanted in (("image", image), ("text", text)):
            files = self.files[modality] if wanted == RAW else None
            self.used.update({f"{modality} {key}": path for key, path in (files or {}).items()})
        if image == RAW and not self.files["image"]:
            self.used.update({f"image {name}": path for name, path in zip(ids, values[0], strict=True)})
        return Corpus(
            name=self.said.name,
            images=values[0],
            texts=values[1],
            labels=items.labels,
            class_names=items.class_names,
            ids=ids,
            groups=items.groups or ids,
            digest=digest([self.said.identity(), self._digests()]),
            official=items.parts,
            text_parts=None if texts.sentences is None else _take(texts.sentences, text_rows),
            notes=tuple(self.notes),
        )

    def _digests(self) -> list[list[str]]:
        """(what a file is, its sha256) of all that were read; where the folder lies does not count."""
        inside = self.root.resolve()
        outside = [path for path in self.used.values() if not path.resolve().is_relative_to(inside)]
        if outside:
            self.notes.append(f"{len(outside)} of the files lie outside the folder of the description")
        return sorted([name, file_digest(path)] for name, path in self.used.items() if path.is_file())

    # -- files ----------------------------------------------------------------------------------------

    def _folder(self, modality: str) -> dict[str, Path] | None:
        """The files of a modality's folder by name; None where its raw items are no folder."""
        raw = self.sides[modality].raw
        if raw is None or not (self.root / raw).is_dir():
            return None
        try:
            files, others = list_files(self.root / raw, IMAGES if modality == "image" else TEXTS)
            check_names(files, f"{modality}s.raw")
        except XmbenchError as error:
            self.report(error)
            return {}
        if others:
            self.notes.append(f"{len(others)} other files left out of {clean(raw)}: {few(others)}")
        return files

    def _column(self, reference: str, key: str) -> list[str] | NDArray[Any] | None:
        try:
            if reference not in self.columns:
                self.columns[reference] = read_column(reference, self.root)
        except XmbenchError as error:
            self.report(_about(key, error))
            return None
        path, name = locate(reference, self.root)
        self.used[f"{key} {name}"] = path
        return self.columns[reference]

    def _where(self, reference: str, ids: str | None, rows: Sequence[int]) -> str:
        """Rows of a column for a message: the first ones' ids, and where they stand."""
        names = None if ids is None else self.columns.get(ids)
        shown = [place(reference, self.root, row) for row in rows[:3]]
        if names is not None and max(rows) < len(names):
            shown = [f"{clean(names[row])[:60]} ({where})" for row, where in zip(rows, shown, strict=False)]
        return ", ".join(shown) + (", ..." if len(rows) > 3 else "")

    def _words(self, reference: str, key: str, *, names: bool = True) -> list[str] | None:
        """A column of names, or of any text."""
        values = self._column(reference, key)
        if values is None:
            return None
        try:
            words = as_text(values, reference)
            if names:
                check_names(set(words), clean(reference))
        except XmbenchError as error:
            self.report(_about(key, error))
            return None
        return words

    def _matrix(self, reference: str, key: str) -> NDArray[Any] | None:
        path, name = locate(reference, self.root)
        try:
            if not path.exists():
                raise MissingData(f"{clean(reference)} does not exist")
            if name is not None and path.suffix in (".csv", ".tsv"):
                raise UsageError(
                    f"{clean(reference)} names a column, but features in a {path.suffix} file are all its numbers, "
                    "without a header: write them to a file of their own and name it without a column"
                )
            matrix = read_matrix(path if name is None else Path(f"{path}:{name}"))
            if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
                raise InvalidInput(
                    f"expected rows and columns of real numbers, got {matrix.dtype} {matrix.shape}"
                )
        except XmbenchError as error:
            self.report(_about(key, error))
            return None
        self.used[f"{key} {name}"] = path
        return matrix

    # -- images and texts -----------------------------------------------------------------------------

    def _side(self, modality: str, wanted: str) -> _Rows | None:
        side, files, what = self.sides[modality], self.files[modality], f"{modality}s"
        if wanted == RAW and side.raw is None:
            shown = ", ".join(side.features)
            self.report(
                Unsupported(f"{self.said.name} has no raw {what} to encode; its {modality} features: {shown}")
            )
            return None
        if wanted == RAW and files is not None:
            if not files:
                return None
            return _Rows(list(files), list(files.values())) if modality == "image" else self._texts(files)
        reference = side.ids or self.said.ids
        if files is not None and reference is None:
            self.report(
                UsageError(f"{what}.features: the {what} are files, so their names are needed: {what}.ids")
            )
            return None
        names = None if reference is None else self._words(reference, f"{what}.ids" if side.ids else "ids")
        if reference is not None and names is None:
            return None
        keys = None if names is None else [self.aliases.get(name, name) for name in names]
        if wanted == RAW:
            values: Any = self._words(cast(str, side.raw), f"{what}.raw", names=False)
        else:
            values = self._matrix(self.said.stored(modality)[wanted].file, f"{what}.features.{wanted}")
        if values is None:
            return None
        if not len(values):
            self.report(CorruptData(f"{what}: there is no row"))
            return None
        if keys is not None and len(keys) != len(values):
            self.report(CorruptData(f"{what}: {len(values)} rows, but {len(keys)} ids"))
            return None
        if wanted == RAW and modality == "text":
            return self._captions(values, keys, reference)
        return self._once(what, keys, self._paths(values) if wanted == RAW else values)

    def _once(self, what: str, keys: list[str] | None, values: Any) -> _Rows:
        """Rows without a second one of the same id, which is a problem."""
        if keys is None or len(set(keys)) == len(keys):
            return _Rows(keys, values)
        first: dict[str, int] = {}
        again = [key for row, key in enumerate(keys) if first.setdefault(key, row) != row]
        self.report(CorruptData(f"{what}: {len(again)} rows repeat an id: {few(list(dict.fromkeys(again)))}"))
        return _Rows(list(first), _take(values, list(first.values())))

    def _texts(self, files: Mapping[str, Path]) -> _Rows:
        sentences = []
        for path in files.values():
            try:
                sentences.append(read_lines(path))
            except XmbenchError as error:
                self.report(error)
                sentences.append([])
        return _Rows(list(files), [" ".join(lines) for lines in sentences], sentences)

    def _captions(self, values: list[str], keys: list[str] | None, ids: str | None) -> _Rows:
        """Texts of a column; rows of one id are the sentences of one text."""
        empty = [row for row, value in enumerate(values) if not value.strip()]
        if empty:
            where = self._where(cast(str, self.sides["text"].raw), ids, empty)
            self.report(CorruptData(f"texts.raw: {len(empty)} of {len(values)} are empty: {where}"))
        texts: dict[str, list[str]] = {}
        for key, value in zip(keys or map(str, range(len(values))), values, strict=True):
            texts.setdefault(key, []).append(" ".join(value.split()))
        several = sum(len(sentences) > 1 for sentences in texts.values())
        if several:
            self.notes.append(f"{several:,} of {len(texts):,} texts are several rows of one id, joined")
        joined = [" ".join(sentences) for sentences in texts.values()]
        return _Rows(list(texts) if keys else None, joined, list(texts.values()))

    def _paths(self, values: list[str]) -> list[Path]:
        paths = [self.root / value for value in values]
        missing = [value for value, path in zip(values, paths, strict=True) if not _is(Path.is_file, path)]
        if missing:
            self.report(MissingData(f"images.raw: {len(missing)} files do not exist: {few(missing)}"))
        return paths

    def _pair(self, images: _Rows, texts: _Rows) -> tuple[list[str] | None, list[int], list[int]] | None:
        """Names of the pairs, if there are any, and the rows of the image and the text of each."""
        if images.keys is not None and texts.keys is not None:
            rows = {key: row for row, key in enumerate(texts.keys)}
            shared = [(key, row, rows[key]) for row, key in enumerate(images.keys) if key in rows]
            lonely = [key for key in images.keys if key not in rows]
            known = set(images.keys)
            others = [key for key in texts.keys if key not in known]
            if lonely or others:
                said = [
                    f"{len(keys)} {what} (first: {few(keys)})"
                    for keys, what in ((lonely, "images have no text"), (others, "texts have no image"))
                    if keys
                ]
                self.report(CorruptData(f"images and texts are paired by id: {', '.join(said)}"))
            if not shared:
                return None
            if any(self.files.values()):
                shared.sort()  # as files are listed, whichever form is read
            keys, image_rows, text_rows = zip(*shared, strict=True)
            return list(keys), list(image_rows), list(text_rows)
        if any(self.files.values()):
            needy = "texts" if texts.keys is None else "images"
            self.report(
                UsageError(f"{needy}: the other side is files, so name the rows: {needy}.ids, or ids for all")
            )
            return None
        n = len(images.values)
        if n != len(texts.values):
            self.report(
                CorruptData(
                    f"images and texts are paired by row: {n} images, {len(texts.values)} texts; where some are "
                    "missing, name the rows: images.ids and texts.ids"
                )
            )
            return None
        return images.keys or texts.keys, list(range(n)), list(range(n))

    def _look(self) -> None:
        """Report what is wrong with the columns beside images and texts, where these cannot be paired."""
        places = {
            "ids": self.said.ids,
            "labels": self.said.classes.file,
            "groups": self.said.groups,
            "split": self.said.partition.file,
        }
        for key, reference in places.items():
            if reference is not None and (key, reference) != ("labels", FOLDER):
                self._column(reference, key)

    # -- labels, groups, parts ------------------------------------------------------------------------

    def _items(self, keys: list[str] | None, n: int) -> _Items | None:
        labels = self._labels(keys, n)
        groups = parts = None
        if self.said.groups is not None:
            names = self._words(self.said.groups, "groups")
            groups = None if names is None else self._placed("groups", self.said.groups, names, keys, n)
        if self.said.partition.file is not None:
            words = self._words(self.said.partition.file, "split", names=False)
            file = self.said.partition.file
            parts = None if words is None else self._placed("split", file, words, keys, n)
            parts = None if parts is None else self._parts(parts)
        asked = (self.said.groups is not None, self.said.partition.file is not None)
        if labels is None or asked != (groups is not None, parts is not None):
            return None
        return _Items(*labels, None if groups is None else tuple(groups), parts)

    def _placed(self, key: str, reference: str, values: Any, keys: list[str] | None, n: int) -> Any:
        """The values of a column in the order of the corpus."""
        by_row = self.said.images.ids is None or self.said.texts.ids is None
        if self.said.ids is None:
            if any(self.files.values()) or not by_row:
                self.report(
                    UsageError(f"{key}: items are paired by id, so name the rows of this column: ids")
                )
                return None
            if len(values) != n:
                self.report(CorruptData(f"{key}: {len(values)} rows, but there are {n} pairs"))
                return None
            return values
        names = self._words(self.said.ids, "ids")
        if names is None or keys is None:
            return None
        if len(names) != len(values):
            self.report(CorruptData(f"{key}: {len(values)} rows, but {len(names)} ids"))
            return None
        rows: dict[str, int] = {}
        for row, name in enumerate(names):
            first = rows.setdefault(self.aliases.get(name, name), row)
            if first != row and not np.array_equal(values[first], values[row]):
                said_twice = " and ".join(
                    f"{clean(str(values[at]))!r} ({place(reference, self.root, at)})" for at in (first, row)
                )
                self.report(CorruptData(f"{key}: two rows of {clean(name)} differ: {said_twice}"))
                return None
        missing, extra = [name for name in keys if name not in rows], set(rows).difference(keys)
        if missing or extra:
            said = [
                f"{len(some)} {what} (first: {few(sorted(some))})"
                for some, what in ((missing, "pairs have no row"), (extra, "rows have no pair"))
                if some
            ]
            self.report(CorruptData(f"{key}: {', '.join(said)}"))
        return None if missing else _take(values, [rows[name] for name in keys])

    def _parts(self, words: list[str]) -> tuple[str, ...] | None:
        unknown = sorted({word for word in words if word.lower() not in WORDS})
        if unknown:
            self.report(
                UsageError(
                    f"split: unknown words {few(list(map(repr, unknown)))}; expected {', '.join(WORDS)}"
                )
            )
            return None
        return tuple(WORDS[word.lower()] for word in words)

    def _labels(self, keys: list[str] | None, n: int) -> tuple[NDArray[Any], tuple[str, ...]] | None:
        said = self.said.classes
        if said.file == FOLDER:
            values: Any = self._folder_names(keys)
        else:
            column = self._column(said.file, "labels")
            empty = [row for row, value in enumerate(column) if not value] if isinstance(column, list) else []
            if empty:
                where = self._where(said.file, self.said.ids, empty)
                self.report(CorruptData(f"labels: {len(empty)} items have no class: {where}"))
                return None
            values = None if column is None else self._placed("labels", said.file, column, keys, n)
        if values is None:
            return None
        try:
            labels, names = decode(values, said.separator, said.classes, said.first)
            check_names(names, "labels")
        except XmbenchError as error:
            self.report(_about("labels", error))
            return None
        if len(names) < 2:
            self.report(
                CorruptData(f"labels: all items are of one class, {clean(names[0])}; retrieval needs two")
            )
            return None
        return labels, names

    def _folder_names(self, keys: list[str] | None) -> list[str] | None:
        """The class of each item: the folder that it lies in."""
        if not any(self.files.values()) or keys is None:
            self.report(UsageError(f"labels: {FOLDER!r} asks for files in folders of their classes"))
            return None
        elsewhere = [key for key in keys if key.count("/") != 1]
        if elsewhere:
            self.report(
                CorruptData(
                    f"labels: {len(elsewhere)} files are not in a folder of their class, CLASS/FILE: {few(elsewhere)}"
                )
            )
            return None
        return [key.partition("/")[0] for key in keys]


def _about(key: str, error: XmbenchError) -> XmbenchError:
    """An error of a file, with the key that refers to it; what a file holds is no matter of usage."""
    kind = CorruptData if isinstance(error, InvalidInput) else type(error)
    return kind(f"{key}: {error}")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path leads to a folder or a file, as ``kind`` asks."""
    try:
        return kind(path)
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _aliases(folders: Sequence[Mapping[str, Path]], root: Path) -> dict[str, str]:
    """Other ways to write the name of a file that are clear, such as of ``roses/x`` in the folder ``images``.

    These are ``roses/x.jpg``, ``x.jpg``, ``x``, and, as seen from ``root``, ``images/roses/x.jpg``.
    """
    base = root.absolute()
    found: dict[str, set[str]] = {}
    for files in folders:
        for key, path in files.items():
            at = path.absolute()
            whole = at.relative_to(base).as_posix() if at.is_relative_to(base) else path.name
            for alias in (key + path.suffix, path.name, path.stem, whole):
                found.setdefault(alias, set()).add(key)
    keys = {key for files in folders for key in files}
    return {alias: min(names) for alias, names in found.items() if len(names) == 1 and alias not in keys}


def _ids(keys: Sequence[str] | None, n: int, *, short: bool) -> tuple[str, ...]:
    """Names of the pairs: numbers if there are none, and of files the last part, where these differ."""
    if keys is None:
        return tuple(f"{row:0{len(str(n))}}" for row in range(n))
    last = [key.rpartition("/")[2] for key in keys]
    return tuple(last if short and len(set(last)) == n else keys)


def _take(values: Any, rows: Sequence[int]) -> Any:
    """Rows of an array or a list; all of them in their order are the thing itself, which may be mapped."""
    if list(rows) == list(range(len(values))):
        return values
    return values[np.asarray(rows)] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def decode(
    values: list[str] | NDArray[Any], separator: str | None, classes: Sequence[str] | None, first: int
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels and class names from what a file holds.

    Names, or numbers in place of them, become 0, 1, ... in the order of ``classes``, or else in alphabetical (of
    numbers: rising) order. A multi-hot matrix stays one; with ``separator``, names become one.

    Returns:
        labels, (n,) int64 or (n, c) bool, and c names.

    Raises:
        InvalidInput: a value that is no label, a class that ``classes`` lacks, an item without a class.
    """
    if not isinstance(values, list) and values.ndim == 2:
        hot = check_labels(values, None if classes is None else len(classes))
        return hot, tuple(classes or (f"class {number}" for number in range(hot.shape[1])))
    if not isinstance(values, list):
        if values.dtype.kind not in "iu":
            check_labels(values, None)  # says what is wrong with it
        if classes is not None:
            return check_labels(values.astype(np.int64) - first, len(classes)), tuple(classes)
        numbers, labels = np.unique(values, return_inverse=True)
        return labels.astype(np.int64), tuple(str(number) for number in numbers)
    of_items = [
        [name.strip() for name in (value.split(separator) if separator else [value]) if name.strip()]
        for value in values
    ]
    bare = [str(row) for row, names in enumerate(of_items) if not names]
    if bare:
        raise InvalidInput(f"{len(bare)} items have no class: row {few(bare)}")
    used = {name for names in of_items for name in names}
    if classes is not None and not used <= set(classes):
        unknown = sorted(used.difference(classes))
        raise InvalidInput(f"unknown class {few(unknown)}; known: {few(list(classes), 30)}")
    numeric = all(name.isdecimal() for name in used)
    known = list(classes or sorted(used, key=lambda name: (int(name) if numeric else 0, name)))
    place = {name: number for number, name in enumerate(known)}
    if separator is None:
        return np.array([place[names[0]] for names in of_items], dtype=np.int64), tuple(known)
    hot = np.zeros((len(of_items), len(known)), dtype=bool)
    for row, names in enumerate(of_items):
        hot[row, [place[name] for name in names]] = True
    return hot, tuple(known)


# -- splits -----------------------------------------------------------------------------------------


def _splits(said: Partition) -> dict[str, SplitRule]:
    return {"drawn": _drawn(said)} if said.file is None else {"given": _given(said)}


def _drawn(said: Partition) -> SplitRule:
    test = TEST if said.test is None else said.test
    validation = VALIDATION if said.validation is None else said.validation

    def rule(corpus: Corpus, seed: int) -> Split:
        rows = np.arange(len(corpus))
        held = draw(corpus, rows, seed, [test, validation], grouped=_grouped(said, corpus))
        return Split("drawn", seed, held[2], held[1], held[0])

    rule.__doc__ = (
        f"Drawn by class: {_amount(test)} for testing, {_amount(validation)} for "
        "validation; groups stay together unless the description says otherwise."
    )
    return rule


def _given(said: Partition) -> SplitRule:
    def rule(corpus: Corpus, seed: int) -> Split:
        words = np.array(corpus.official)
        train, validation, test = (np.flatnonzero(words == part) for part in PARTS)
        if said.validation is None:
            return Split("given", None, train, validation, test)
        if len(validation):
            raise InvalidInput("split.validation: the column has validation rows of its own; leave one out")
        validation, train = draw(corpus, train, seed, [said.validation], grouped=_grouped(said, corpus))
        return Split("given", seed, train, validation, test)

    held = (
        "" if said.validation is None else f", {_amount(said.validation)} of its training rows for validation"
    )
    rule.__doc__ = f"As the data says{held}."
    return rule


def _amount(share: float) -> str:
    return f"{share:.0%}" if share < 1 else f"{share:g} items"


def _grouped(said: Partition, corpus: Corpus) -> bool:
    """Whether groups stay together; unless it is said, they do."""
    return len(set(corpus.groups)) < len(corpus) if said.grouped is None else said.grouped


# -- the dataset ------------------------------------------------------------------------------------


class OwnDataset(Dataset):
    """Data that a description speaks of; :func:`own_plugin` makes a class for each."""

    said: ClassVar[Description]
    root: ClassVar[Path]

    @property
    def sides(self) -> dict[str, Side]:
        """What is said of images and texts."""
        return {"image": self.said.images, "text": self.said.texts}

    def folder(self, data_dir: Path) -> Path:
        """The folder of the description, wherever the data directory is."""
        return self.root

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read what the description refers to; see :meth:`xmbench.data.Dataset.load`."""
        corpus = self.read(image, text, stop)
        assert corpus is not None  # the first problem was raised
        return corpus

    def read(self, image: str, text: str, report: Report) -> Corpus | None:
        """As :meth:`load`, but problems are reported; None where they leave no corpus."""
        return Reader(self.said, self.root, report).corpus(image, text)


@dataclass(frozen=True)
class OwnPlugin(Plugin):
    """Data of the user's own in the place of a registered dataset.

    Args:
        made: its class.
        adapter: whose source reads it, where that is not this module's.
    """

    made: type[Dataset] | None = None
    adapter: Plugin | None = None

    def load(self) -> type[Any]:
        """The class that was made for it."""
        assert self.made is not None
        return self.made

    def source_digest(self) -> str:
        """Digest of the source that reads it."""
        if self.adapter is not None:
            return self.adapter.source_digest()
        here = Path(__file__)
        return source_digest([here, here.with_name("columns.py"), here.with_name("description.py")])


def own_plugin(path: Path, registered: Mapping[str, Plugin]) -> OwnPlugin:
    """The dataset in a folder, or in a TOML file, under the name that it gives itself.

    Raises:
        MissingData: there is no such file or folder.
        UsageError: it is off, or its name is taken.
    """
    if not (_is(Path.is_dir, path) or _is(Path.is_file, path)):
        raise MissingData(f"{clean(str(path))}: there is no such file or folder, and no dataset of that name")
    said = recognise(path) if path.is_dir() else read_description(path)
    known = registered.get(said.name)
    if known is not None and known.path != path.resolve():
        where = "rename the folder" if path.is_dir() else f"change name in {clean(path.name)}"
        raise UsageError(f"{said.name!r} is the name of another dataset ({known.origin}); {where}")
    root = path if path.is_dir() else path.parent
    adapter = None
    if path.is_dir() and is_coco(path):
        adapter = registered.get("mscoco")
        if adapter is None:
            raise UsageError(
                f"{clean(path.name)} is laid out as MS-COCO is, which takes the dataset plugin mscoco; it is not here"
            )
    made = _described(said, root) if adapter is None else _coco(said, root, adapter.load())
    return OwnPlugin(
        "dataset", said.name, "the user's own", None, "", path.resolve(), made=made, adapter=adapter
    )


def _described(said: Description, root: Path) -> type[Dataset]:
    stored = {modality: said.stored(modality) for modality in ("image", "text")}
    first = [next(iter(stored[modality]), raw) for modality, raw in (("image", "lite0"), ("text", "tfidf"))]
    return type(
        "OwnDataset",
        (OwnDataset,),
        {
            "said": said,
            "root": root,
            "card": _card(said),
            "stored": {
                modality: {name: clean(feature.about) for name, feature in found.items()}
                for modality, found in stored.items()
            },
            "scalings": {
                name: feature.scaling for found in stored.values() for name, feature in found.items()
            },
            "features": said.features or "+".join(first),
            "splits": _splits(said.partition),
        },
    )


def _card(said: Description) -> DatasetCard:
    return DatasetCard(
        title=clean(said.title) or said.name,
        source=clean(said.source),
        licence=clean(said.licence),
        citation=clean(said.citation),
        layout=(),
        pairs=0,
        image_text=clean(said.what),
        defects=tuple(map(clean, said.defects)),
    )


def _coco(said: Description, root: Path, adapter: type[Dataset]) -> type[Dataset]:
    """The adapter of MS-COCO, reading another folder."""

    def folder(self: Dataset, data_dir: Path) -> Path:
        return adapter.folder(self, root)

    card = replace(_card(said), image_text=adapter.card.image_text, defects=adapter.card.defects)
    return type("OwnDataset", (adapter,), {"folder": folder, "folders": (".",), "card": card})
