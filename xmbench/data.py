"""Paired data: what a dataset holds, how it is split, and the one door through which it reaches a method.

``Dataset.load`` gives a :class:`Corpus` (as on disk); a split rule gives a :class:`Split`;
:func:`prepare` gives :class:`PairedData`, whose three :class:`Pairs` are checked on construction. A
method is handed the training and validation pairs; test pairs reach only the encoders and the evaluator.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import short_id
from xmbench.errors import CorruptData, InvalidInput, MissingData, UnknownName
from xmbench.scaling import BLOCK, Scaling, gather

PARTS = ("train", "validation", "test")


def check_matrix(matrix: object, name: str, *, width: int | None = None) -> NDArray[np.float32]:
    """The one door for feature matrices: two dimensions, numbers, finite, float32.

    What is float32 and C-contiguous already, a memory map too, is not copied, and read a block at a time.

    Args:
        matrix: anything numpy understands; expected (n, d).
        name: what to call it in an error.
        width: the d that is expected, where it is known.

    Raises:
        InvalidInput: wrong number of dimensions, wrong width, no column, not numeric, or a value that is
            not finite in float32; the message names the row and column.
    """
    if hasattr(matrix, "toarray"):
        raise InvalidInput(f"{name}: expected a dense array, got a sparse matrix; pass matrix.toarray()")
    try:
        array = np.asarray(matrix)
    except ValueError as error:
        raise InvalidInput(f"{name}: rows differ in length ({error})") from error
    if array.ndim != 2:
        raise InvalidInput(f"{name}: expected 2 dimensions (rows, features), got shape {array.shape}")
    if array.shape[1] == 0:
        raise InvalidInput(f"{name}: expected at least one column, got shape {array.shape}")
    if width is not None and array.shape[1] != width:
        raise InvalidInput(f"{name}: expected {width} columns, got {array.shape[1]}")
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"{name}: expected real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32)
    size = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), size):
        finite = np.isfinite(rows[start : start + size])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + (start, 0)
            raise InvalidInput(
                f"{name}: row {row}, column {column} is {array[row, column]}, not a finite float32"
            )
    return rows


def check_labels(
    labels: object, n_classes: int | None, name: str = "labels", *, unlabelled: bool = False
) -> NDArray[Any]:
    """Labels as int64 (n,) in ``0..n_classes-1``, or multi-hot bool (n, c).

    Raises:
        InvalidInput: any other shape or type, a label out of range, or, unless ``unlabelled``, a row without a
            class.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise InvalidInput(f"{name}: rows differ in length ({error})") from error
    if array.ndim == 1 and array.dtype.kind in "iu":
        wrong = np.flatnonzero((array < 0) | (array >= (n_classes or 2**63)))
        if wrong.size:
            expected = f"0..{n_classes - 1}" if n_classes else "at least 0 and less than 2**63"
            hint = "; an unlabelled item is a row of zeros in a multi-hot matrix" if unlabelled else ""
            raise InvalidInput(
                f"{name}: row {wrong[0]} has label {array[wrong[0]]}, expected {expected}{hint}"
            )
        return array.astype(np.int64)
    if array.ndim == 2:
        if n_classes is not None and array.shape[1] != n_classes:
            raise InvalidInput(f"{name}: expected {n_classes} columns, got {array.shape[1]}")
        if array.dtype.kind not in "biuf":
            raise InvalidInput(f"{name}: a multi-hot matrix holds only 0 and 1, got dtype {array.dtype}")
        if (wrong := (array != 0) & (array != 1)).any():
            row, column = np.argwhere(wrong)[0]
            raise InvalidInput(
                f"{name}: a multi-hot matrix holds only 0 and 1; row {row}, column {column} has "
                f"{array[row, column]}"
            )
        empty = np.flatnonzero(~array.any(axis=1))
        if empty.size and not unlabelled:
            raise InvalidInput(f"{name}: row {empty[0]} has no class")
        return array.astype(bool)
    hint = ""
    if array.ndim == 1 and array.dtype.kind == "f":
        fractions = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if fractions.size:
            raise InvalidInput(f"{name} must be whole numbers, row {fractions[0]} has {array[fractions[0]]}")
        hint = "; pass labels.astype(int)"
    elif array.ndim == 1 and array.dtype.kind in "UTSO":
        hint = "; number them: np.unique(labels, return_inverse=True)[1]"
    raise InvalidInput(
        f"{name}: expected integers (n,) or a multi-hot matrix (n, c), got {array.dtype} {array.shape}{hint}"
    )


@dataclass(frozen=True)
class Ragged:
    """A variable number of feature rows per item: the sentences of a text, the regions of an image.

    Args:
        values: (m, d) all parts below each other.
        offsets: (n + 1,) item i owns rows ``offsets[i]:offsets[i + 1]``; an item may own none.
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", check_matrix(self.values, "parts"))
        offsets = np.asarray(self.offsets)
        valid = offsets.ndim == 1 and offsets.size > 0 and offsets.dtype.kind in "iu"
        if (
            not valid
            or offsets[0] != 0
            or offsets[-1] != len(self.values)
            or (offsets[1:] < offsets[:-1]).any()
        ):
            raise InvalidInput(f"parts: offsets must rise from 0 to {len(self.values)}, the number of rows")
        object.__setattr__(self, "offsets", offsets.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, item: int) -> NDArray[np.float32]:
        """The (k, d) rows of item ``item``, 0 <= item < n."""
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        return self.values[self.offsets[item] : self.offsets[item + 1]]

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The items ``rows`` in that order."""
        pieces = [self[int(row)] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])
        values = np.concatenate(pieces) if pieces else self.values[:0]
        return Ragged(values, offsets)


@dataclass(frozen=True)
class Pairs:
    """Paired rows: row i of ``images``, ``texts`` and ``labels`` is one item.

    Args:
        images: (n, d_image) float32.
        texts: (n, d_text) float32.
        labels: (n,) int64 in ``0..n_classes-1``, or (n, n_classes) multi-hot bool.
        ids: n names, unique.
        n_classes: number of classes of the dataset, present in these rows or not.
        image_parts: optional parts of each image.
        text_parts: optional parts of each text.

    Raises:
        InvalidInput: a wrong shape, a value that is not finite (row and column named), unequal lengths.
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    labels: NDArray[Any]
    ids: tuple[str, ...]
    n_classes: int
    image_parts: Ragged | None = None
    text_parts: Ragged | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", check_matrix(self.images, "images"))
        object.__setattr__(self, "texts", check_matrix(self.texts, "texts"))
        object.__setattr__(self, "labels", check_labels(self.labels, self.n_classes))
        lengths = {"images": len(self.images), "texts": len(self.texts), "labels": len(self.labels)}
        lengths["ids"] = len(self.ids)
        for name in ("image_parts", "text_parts"):
            if (parts := getattr(self, name)) is not None:
                lengths[name] = len(parts)
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"paired data: expected equal numbers of rows, got {lengths}")
        if not len(self):
            raise InvalidInput("paired data: expected at least one row, got none")
        if len(set(self.ids)) < len(self.ids):
            raise InvalidInput("paired data: ids are not unique")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        """Whether ``labels`` is a multi-hot matrix."""
        return self.labels.ndim == 2

    def one_hot(self) -> NDArray[np.float64]:
        """Labels as an (n, n_classes) 0/1 matrix."""
        if self.multi_label:
            return np.asarray(self.labels, dtype=np.float64)
        return np.asarray(np.eye(self.n_classes)[self.labels])

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """The pairs ``rows`` in that order."""
        return Pairs(
            images=self.images[rows],
            texts=self.texts[rows],
            labels=self.labels[rows],
            ids=tuple(self.ids[row] for row in rows),
            n_classes=self.n_classes,
            image_parts=self.image_parts.take(rows) if self.image_parts else None,
            text_parts=self.text_parts.take(rows) if self.text_parts else None,
        )


@dataclass(frozen=True)
class Split:
    """Which rows of a corpus are for training, for validation and for testing.

    Args:
        name: name of the rule that drew it.
        seed: the split seed it was drawn with; None for a fixed list.
        train: rows of the corpus, sorted; ``validation`` and ``test`` likewise. The three are disjoint;
            a row may be in none.
    """

    name: str
    seed: int | None
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def __post_init__(self) -> None:
        for part in PARTS:
            rows = np.asarray(getattr(self, part))
            if rows.ndim != 1 or (rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0)):
                raise InvalidInput(
                    f"split {self.name!r}: {part} must be row numbers of at least 0, got {rows!r}"
                )
            object.__setattr__(self, part, np.sort(rows.astype(np.int64)))
        rows = np.concatenate([self.train, self.validation, self.test])
        if len(np.unique(rows)) < len(rows):
            raise InvalidInput(f"split {self.name!r}: a row stands in two of train, validation and test")
        if not (len(self.train) and len(self.test)):
            raise InvalidInput(f"split {self.name!r}: train or test is empty")

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}


@dataclass(frozen=True)
class Corpus:
    """A dataset as it is on disk: every row, no split, nothing fitted.

    Args:
        name: the dataset's name.
        images: (n, d) features, or n paths of image files.
        texts: (n, d) features, or n strings.
        labels: (n,) int or (n, c) multi-hot.
        class_names: c names.
        ids: n unique names.
        groups: n group names; rows of one group are near-duplicates or parts of one source.
        digest: hash of the raw files that were read.
        official: for datasets that come with a split: "train" or "test" for each row.
        text_parts: optionally the sentences of each text.
        image_parts: optionally regions of each image.
        notes: facts counted while reading, in words, for the data card.
    """

    name: str
    images: NDArray[Any] | Sequence[Path]
    texts: NDArray[Any] | Sequence[str]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    digest: str
    official: tuple[str, ...] | None = None
    text_parts: Sequence[Sequence[str]] | None = None
    notes: tuple[str, ...] = ()
    image_parts: Sequence[Sequence[Region]] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.texts), len(self.labels), len(self.ids), len(self.groups)}
        if len(lengths) > 1:
            raise CorruptData(
                f"{self.name}: images, texts, labels, ids and groups differ in length: {lengths}"
            )
        for name, parts in (("image parts", self.image_parts), ("text parts", self.text_parts)):
            if parts is not None and len(parts) != len(self.ids):
                raise CorruptData(f"{self.name}: {name} of {len(parts)} items, ids of {len(self.ids)}")
        if len(set(self.ids)) < len(self.ids):
            raise CorruptData(f"{self.name}: ids are not unique")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, to be encoded as an image of its own.

    Args:
        path: the image file.
        box: left, top, right, bottom as shares of the width and height of the upright image, each in 0..1.
    """

    path: Path
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InvalidInput(
                f"{self.path.name}: a region must lie in the image and not be empty, got {self.box}"
            )


SplitRule = Callable[[Corpus, int], Split]


@dataclass(frozen=True)
class DatasetCard:
    """What a reader must know of a dataset before trusting a number from it.

    Args:
        title: full name.
        source: where it comes from, as a reference or an address.
        licence: terms of use.
        citation: the paper to cite.
        layout: where its files are expected below the data directory, one line a path.
        pairs: number of pairs that the complete dataset has.
        image_text: what images and texts are, in words.
        defects: known faults and peculiarities.
        embedded: whether it is shipped inside the package.
        synthetic: whether it is made up: for tests, and kept out of leaderboards.
    """

    title: str
    source: str
    licence: str
    citation: str
    layout: tuple[str, ...]
    pairs: int
    image_text: str
    defects: tuple[str, ...] = ()
    embedded: bool = False
    synthetic: bool = False


@dataclass(frozen=True)
class Download:
    """A public file that a dataset is made of.

    Args:
        url: where it is to be had.
        sha256: of the file as it is downloaded.
        size: its bytes.
        to: path below the data directory; for an archive, the folder that it is unpacked into.
        unpack: whether it is a ``.zip`` or ``.tar`` archive.
        unpacked: bytes that it may unpack to at most; None for four times its size.
    """

    url: str
    sha256: str
    size: int
    to: str
    unpack: bool = False
    unpacked: int | None = None


class Dataset(ABC):
    """A dataset adapter: one file in ``datasets/`` or one third-party module, ending in ``DATASET = Class``.

    A subclass declares the class attributes below and reads its files in :meth:`load`. Features are named
    ``IMAGE+TEXT``. A name among ``stored`` is read from the dataset's own files; any other is an encoder
    that is applied to the raw images or texts.
    """

    card: ClassVar[DatasetCard]
    folders: ClassVar[tuple[str, ...]] = ()
    """Where the dataset may lie below the data directory, in order of preference."""
    required: ClassVar[tuple[str, ...]] = ()
    """Paths that must exist below the folder for it to count as present."""
    stored: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """``{"image": {name: what it is}, "text": {...}}``: features that the dataset brings."""
    features: ClassVar[str]
    """Default features, ``IMAGE+TEXT``."""
    scalings: ClassVar[Mapping[str, str]] = {}
    """Feature name -> default scaling, for stored features."""
    splits: ClassVar[Mapping[str, SplitRule]]
    """Split name -> rule; the first is the default. The rule's docstring says what it draws."""
    downloads: ClassVar[Mapping[str, Sequence[Download]]] = {}
    """Edition -> public files that make it; the first is the default. Empty where there is no public source."""
    parameters: Mapping[str, object] = {}
    """What was asked for in brackets, such as ``synthetic[n=100]``; the arguments of the class."""

    def folder(self, data_dir: Path) -> Path:
        """The folder that holds the dataset.

        Raises:
            MissingData: none does; the message has the expected layout.
        """
        candidates = [data_dir / folder for folder in self.folders]
        for candidate in candidates:
            if all((candidate / path).exists() for path in self.required):
                return candidate
        layout = "\n  ".join(self.card.layout)
        raise MissingData(
            f"{self.card.title}: not found under the data directory {data_dir}\n"
            f"expected there:\n  {layout}\n"
            "name the directory with --data-dir or XMBENCH_DATA_DIR; get the data from: " + self.card.source
        )

    def member(self, data_dir: Path, name: str) -> str | None:
        """Where a member of a downloaded archive goes, relative to ``Download.to``; None to leave it out.

        Args:
            data_dir: where the files of the earlier downloads lie.
            name: the member's path, checked.
        """
        return name

    def assemble(self, data_dir: Path) -> None:  # noqa: B027 - most datasets are whole when unpacked
        """Make what the downloads lack to be the dataset, below ``data_dir``."""

    @abstractmethod
    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read the dataset.

        Args:
            data_dir: the data directory, above the dataset's own folder.
            image: a name in ``stored["image"]``, or ``"raw"`` for paths of image files.
            text: a name in ``stored["text"]``, or ``"raw"`` for strings.

        Raises:
            MissingData: files are missing.
            CorruptData: files hold something else than they should.
            Unsupported: this dataset has no raw images, say.
        """

    def split(self, corpus: Corpus, name: str, seed: int) -> Split:
        """Draw the split ``name`` of ``corpus`` with split seed ``seed``."""
        if name not in self.splits:
            raise UnknownName("split", name, self.splits)
        return self.splits[name](corpus, seed)


def draw(
    corpus: Corpus,
    rows: NDArray[np.int64],
    seed: int,
    quotas: Sequence[float],
    *,
    grouped: bool = False,
) -> list[NDArray[np.int64]]:
    """Stratified, seeded draw of disjoint subsets of ``rows``; what is left over is the last entry.

    Within each class, items are put in the order of sha256(seed / id) and cut. No random generator is
    involved, so a draw is the same on every machine, for every version of numpy and in any row order.

    An item of several classes counts for the rarest of them among ``rows`` (the first of equally rare ones), so
    that classes with few items, which chance would treat worst, get their shares; an item of no class counts for
    a class of its own.

    Args:
        corpus: for labels, ids and groups.
        rows: rows to draw from.
        seed: the split seed.
        quotas: for each subset its size; a fraction of the class below 1, else items over all classes,
            shared among the classes in proportion to their size (largest remainder).
        grouped: keep the rows of one group together. Sizes are then met as nearly as whole groups allow.

    Returns:
        ``len(quotas) + 1`` arrays of rows.
    """
    unit = np.array([corpus.groups[row] if grouped else corpus.ids[row] for row in rows])
    names, member = np.unique(unit, return_inverse=True)
    classes = _strata(np.asarray(corpus.labels)[rows])
    votes = np.zeros((len(names), int(classes.max()) + 1), dtype=np.int64)
    np.add.at(votes, (member, classes), 1)
    labels = votes.argmax(axis=1)  # a group's class is that of most of its rows, the first of several
    weights = np.bincount(member)
    order = hash_order([str(name) for name in names], seed)
    by_class = {int(label): [i for i in order if labels[i] == label] for label in np.unique(labels)}
    sizes = {label: int(weights[units].sum()) for label, units in by_class.items()}
    subsets: list[list[int]] = [[] for _ in range(len(quotas) + 1)]
    for label, shares in _shares(sizes, quotas).items():
        queue = deque(by_class[label])
        for subset, share in zip(subsets, shares, strict=False):
            taken = 0
            while queue and taken + weights[queue[0]] / 2 <= share:
                taken += weights[queue[0]]
                subset.append(queue.popleft())
        subsets[-1].extend(queue)
    return [np.sort(rows[np.isin(member, subset)]) for subset in subsets]


def hash_order(names: Sequence[str], seed: int) -> list[int]:
    """The positions of ``names`` in the order of sha256(seed / name)."""
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest())


def _strata(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The class that each row counts for: its own, or of several the rarest; after the last if it has none."""
    if labels.ndim == 1:
        return labels
    held = labels.astype(bool)
    rarity = np.where(held, held.sum(axis=0), len(held) + 1)
    return np.asarray(np.where(held.any(axis=1), rarity.argmin(axis=1), held.shape[1]), dtype=np.int64)


def _shares(sizes: Mapping[int, int], quotas: Sequence[float]) -> dict[int, list[int]]:
    """Items that each class gives to each quota: proportional, largest remainder, ties to the first class."""
    total = sum(sizes.values())
    result: dict[int, list[int]] = {label: [] for label in sizes}
    left = dict(sizes)
    for quota in quotas:
        if not 0 <= quota < float("inf"):
            raise InvalidInput(f"split: a quota must be a number of at least 0, got {quota}")
        wanted, there = round(quota * total) if quota < 1 else int(quota), sum(left.values())
        if wanted > there:
            raise InvalidInput(f"split: {wanted} rows wanted, {there} are there")
        exact = {label: wanted * size / max(there, 1) for label, size in left.items()}
        given = {label: int(value) for label, value in exact.items()}
        by_remainder = sorted(sizes, key=lambda label: (given[label] - exact[label], label))
        for label in by_remainder[: wanted - sum(given.values())]:
            given[label] += 1
        for label in sizes:
            result[label].append(given[label])
            left[label] -= given[label]
    return result


@dataclass(frozen=True)
class Features:
    """One modality's feature matrix for every row of a corpus, and where it comes from.

    Args:
        matrix: (n, d) before scaling.
        provenance: name, version and weights of the encoder, parameters included; goes into the
            fingerprint. The matrix's own bytes do not: they differ between processors.
    """

    matrix: NDArray[np.float32]
    provenance: Mapping[str, object]


@dataclass(frozen=True)
class PairedData:
    """A dataset, split, encoded and scaled: what one run is given.

    Args:
        name: the dataset's name.
        class_names: the names of its classes.
        train: training pairs; ``validation`` may be None; ``test`` never reaches ``fit``.
        split: name of the split; ``split_seed`` the seed it was drawn with, None if fixed.
        features: ``{"image": provenance, "text": provenance}``.
        scaling: ``{"image": name, "text": name}``.
        fingerprint: hash of raw files, encoders, scaling and the ids of each part.
    """

    name: str
    class_names: tuple[str, ...]
    train: Pairs
    validation: Pairs | None
    test: Pairs
    split: str
    split_seed: int | None
    features: Mapping[str, Mapping[str, object]]
    scaling: Mapping[str, str]
    fingerprint: str
    sizes: Mapping[str, int] = field(default_factory=dict)


Store = Callable[[str, tuple[int, int], Iterator[NDArray[np.float32]]], NDArray[np.float32]]
"""Puts a matrix that comes in blocks of rows somewhere: its name (such as ``train-images``), its shape, the blocks;
returns the matrix."""


def in_memory(
    name: str, shape: tuple[int, int], blocks: Iterator[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The :data:`Store` that keeps matrices in memory."""
    return gather(shape, blocks)


def check_split(corpus: Corpus, split: Split) -> None:
    """Raise InvalidInput if ``split`` names a row that ``corpus`` does not have."""
    for part in PARTS:
        rows = getattr(split, part)
        if len(rows) and rows[-1] >= len(corpus):
            raise InvalidInput(
                f"split {split.name!r}: {part} has row {rows[-1]}, the corpus {len(corpus)} rows"
            )


def prepare(
    corpus: Corpus,
    split: Split,
    images: Features,
    texts: Features,
    scaling: tuple[str, str] = ("none", "none"),
    *,
    image_parts: Ragged | None = None,
    text_parts: Ragged | None = None,
    parts_provenance: Mapping[str, object] | None = None,
    store: Store = in_memory,
) -> PairedData:
    """Split, scale and check: from a corpus and its features to the data of a run.

    Scaling is fitted on training rows only. Parts are passed through with their provenance. Features are read
    and scaled a block of rows at a time; ``store`` says where they go.

    Raises:
        InvalidInput: a shape is wrong or a value is not finite; the message names the row and column.
    """
    if not (image_parts is None and text_parts is None) and not parts_provenance:
        raise InvalidInput("parts: a provenance is needed, or the fingerprint would not know of them")
    check_split(corpus, split)
    whole = Pairs(
        images=images.matrix,
        texts=texts.matrix,
        labels=corpus.labels,
        ids=corpus.ids,
        n_classes=len(corpus.class_names),
        image_parts=image_parts,
        text_parts=text_parts,
    )
    scalers = [Scaling(name) for name in scaling]
    parts: dict[str, Pairs | None] = {}
    for part in PARTS:
        rows = getattr(split, part)
        if not len(rows):
            parts[part] = None
            continue
        scaled = []
        for name, scaler in zip(("images", "texts"), scalers, strict=True):
            matrix = getattr(whole, name)
            if part == "train":
                scaler.fit(matrix, rows)
            scaled.append(store(f"{part}-{name}", (len(rows), matrix.shape[1]), scaler.blocks(matrix, rows)))
        parts[part] = Pairs(
            images=scaled[0],
            texts=scaled[1],
            labels=whole.labels[rows],
            ids=tuple(whole.ids[row] for row in rows),
            n_classes=whole.n_classes,
            image_parts=image_parts.take(rows) if image_parts else None,
            text_parts=text_parts.take(rows) if text_parts else None,
        )
    train, test = parts["train"], parts["test"]
    assert train is not None and test is not None  # Split refuses empty ones
    features = {"image": dict(images.provenance), "text": dict(texts.provenance)}
    if parts_provenance:
        features["parts"] = dict(parts_provenance)
    return PairedData(
        name=corpus.name,
        class_names=corpus.class_names,
        train=train,
        validation=parts["validation"],
        test=test,
        split=split.name,
        split_seed=split.seed,
        features=features,
        scaling={"image": scaling[0], "text": scaling[1]},
        fingerprint=fingerprint(corpus, split, features, scaling),
        sizes=split.sizes,
    )


def fingerprint(
    corpus: Corpus, split: Split, features: Mapping[str, object], scaling: tuple[str, ...]
) -> str:
    """Hash of what a run is given: raw files, provenance of the features, scaling, and the ids of each part."""
    return short_id(
        {
            "corpus": corpus.digest,
            "features": features,
            "scaling": list(scaling),
            "split": {part: [corpus.ids[row] for row in getattr(split, part)] for part in PARTS},
        }
    )
