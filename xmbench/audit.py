"""The audit of a dataset's split: what in the data would let a method look better, or worse, than it is.

Everything is counted on the split as it would be run, test rows against the rows that a method may learn
from (training and validation). Nothing here is used by a run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean
from xmbench.data import PARTS, Corpus, Dataset, DatasetCard, Split
from xmbench.errors import CorruptData, MissingData, MissingDependency, Unsupported
from xmbench.evaluation import evaluate

NEAR_IMAGE = 3
"""Bits of 64 in which the difference hashes of near-duplicate images differ at most."""
NEAR_TEXT = 0.8
"""Share of three-word sequences that near-duplicate texts have in common at least."""
NEAR_ROW = 0.9999
"""Cosine of centred feature rows that are near-duplicates, at least."""
BLOCK = 256

Progress = Callable[[str, "float | None"], None]


class Copies(msgspec.Struct, frozen=True):
    """Items of one modality that stand on both sides of a split, or twice on one side.

    ``compared`` says as what they were compared. ``exact`` test items have an exact copy among the rows that a
    method learns from, ``near`` have an exact or a near copy; ``near`` is None where it was not looked for.
    ``within_test`` and ``within_train`` count items with an exact copy on their own side. ``examples`` are pairs of
    ids, test and training, nearest copies first.
    """

    compared: str
    exact: int
    near: int | None
    within_test: int
    within_train: int
    examples: list[tuple[str, str]]


class Groups(msgspec.Struct, frozen=True):
    """Groups (articles, persons, series) with rows on both sides, and the test rows that are in them."""

    n_groups: int
    straddling: int
    test_rows: int


class Leak(msgspec.Struct, frozen=True):
    """What texts tell of the class: ``accuracy`` of a classifier that sees texts alone, ``majority`` of one that sees
    nothing, and the shares of test texts that hold a name of their own class, and of another class."""

    classifier: str
    accuracy: float
    majority: float
    own_class_named: float | None
    other_class_named: float | None


class Columns(msgspec.Struct, frozen=True):
    """Columns of a stored feature matrix: constant ones among the training rows, and values that are not finite."""

    name: str
    columns: int
    constant: int
    not_finite: int


class Audit(msgspec.Struct, frozen=True):
    """All findings on one split of a dataset."""

    dataset: str
    split: str
    split_seed: int | None
    sizes: dict[str, int]
    classes: dict[str, dict[str, int]]
    missing_classes: dict[str, list[str]]
    images: Copies
    texts: Copies
    groups: Groups
    leak: Leak
    columns: list[Columns]
    chance: dict[str, float | None]
    id_hashes: dict[str, str]
    shortfall: str
    """In words, where other pairs are there than the dataset has; empty otherwise."""
    grouped_splits: list[str]
    """Splits of the dataset that keep the rows of a group together."""

    def findings(self) -> list[str]:
        """What a reader of a table should know, in words; empty where nothing was found."""
        found = [self.shortfall] if self.shortfall else []
        test = self.sizes["test"]
        if self.groups.test_rows:
            remedy = (
                f" (split {', '.join(self.grouped_splits)} keeps them together)"
                if self.grouped_splits
                else ""
            )
            found.append(
                f"{self.groups.straddling:,} of {self.groups.n_groups:,} groups stand on both sides of the split, "
                f"with {self.groups.test_rows:,} of {test:,} test rows{remedy}"
            )
        for what, copies in (("image", self.images), ("text", self.texts)):
            if copies.exact or copies.near:
                near = "" if copies.near is None else f", {copies.near:,} an exact or near one"
                found.append(
                    f"{copies.exact:,} of {test:,} test {what}s have an exact copy among the rows learnt from{near} "
                    f"(compared as {copies.compared})"
                )
            if copies.within_test:
                found.append(f"{copies.within_test:,} test {what}s have an exact copy among the test rows")
        for part, missing in self.missing_classes.items():
            if missing:
                found.append(f"no {part} row of {', '.join(missing)}")
        for columns in self.columns:
            if columns.constant:
                found.append(
                    f"{columns.constant} of {columns.columns} columns of {columns.name} are constant"
                )
            if columns.not_finite:
                found.append(f"{columns.not_finite} values of {columns.name} are not finite")
        if self.leak.own_class_named:
            found.append(f"{self.leak.own_class_named:.0%} of the test texts hold a name of their own class")
        return found


COMPLETE = 0.95
"""Share of a dataset's pairs from which on it stands for the dataset: some lists leave a few out."""


def complete(corpus: Corpus, card: DatasetCard) -> bool:
    """Whether a corpus is the dataset that its card describes, rather than a piece of it."""
    return card.synthetic or not card.pairs or COMPLETE * card.pairs <= len(corpus) <= card.pairs / COMPLETE


def shortfall(corpus: Corpus, card: DatasetCard) -> str:
    """In words, that other pairs are there than the dataset has; empty otherwise."""
    if card.synthetic or not card.pairs or len(corpus) == card.pairs:
        return ""
    piece = "" if complete(corpus, card) else ": a piece of it, whose numbers are not the dataset's"
    return f"{len(corpus):,} pairs are there, the dataset has {card.pairs:,}{piece}"


def findings(corpus: Corpus, split: Split, card: DatasetCard) -> list[str]:
    """What goes with every number made on a split: missing pairs, groups and exact copies on both sides.

    Files are not read.
    """
    learnt = np.sort(np.concatenate([split.train, split.validation]))
    groups, test = straddling(corpus, split), len(split.test)
    found = [words] if (words := shortfall(corpus, card)) else []
    if groups.test_rows:
        found.append(
            f"{groups.straddling:,} of {groups.n_groups:,} groups stand on both sides of the split, with "
            f"{groups.test_rows:,} of {test:,} test rows"
        )
    for what, rows in (("image", corpus.images), ("text", corpus.texts)):
        if isinstance(rows, np.ndarray) or what == "text":
            known = {_key(rows[row]) for row in learnt} - {None}
            copies = sum(_key(rows[row]) in known for row in split.test)
            if copies:
                found.append(
                    f"{copies:,} of {test:,} test {what}s have an exact copy among the rows learnt from"
                )
    return found


def _key(row: Any) -> Hashable:
    """What equal items have in common: a hash of a feature row's bytes, the words of a text; None of what is empty.

    Two texts without a word, or two rows of zeros (no tags), are no copies of each other.
    """
    if isinstance(row, np.ndarray):
        return hashlib.sha256(row.tobytes()).digest() if row.any() else None
    return " ".join(_words(row)) or None


def audit(
    name: str, dataset: Dataset, data_dir: Path, split: str | None, seed: int, progress: Progress
) -> Audit:
    """Audit one split of a dataset.

    Raw images and texts are compared where the dataset has them, else its default stored features.

    Args:
        name: the dataset's name.
        dataset: its adapter.
        data_dir: the data directory.
        split: name of the split; None for the dataset's first.
        seed: split seed.
        progress: told what happens.

    Raises:
        MissingData: files are missing.
        CorruptData: files hold something else than they should.
    """
    progress(f"reading {name}", None)
    corpus = _load(dataset, data_dir)
    drawn = dataset.split(corpus, split or next(iter(dataset.splits)), seed)
    learnt = np.sort(np.concatenate([drawn.train, drawn.validation]))
    labels = np.asarray(corpus.labels)
    hot = labels if labels.ndim == 2 else np.eye(len(corpus.class_names), dtype=bool)[labels]
    counts = {part: hot[getattr(drawn, part)].sum(axis=0) for part in PARTS}
    progress("comparing images", None)
    images = _copies(corpus, corpus.images, learnt, drawn.test, "image")
    progress("comparing texts", None)
    texts = _copies(corpus, corpus.texts, learnt, drawn.test, "text")
    progress("classifying texts", None)
    scores = evaluate(
        np.ones((len(drawn.test), 1)), np.ones((len(drawn.test), 1)), labels[drawn.test], curves=False
    )
    return Audit(
        dataset=name,
        split=drawn.name,
        split_seed=drawn.seed,
        sizes=drawn.sizes,
        classes={
            class_name: {part: int(counts[part][number]) for part in PARTS}
            for number, class_name in enumerate(corpus.class_names)
        },
        missing_classes={
            part: [n for n, count in zip(corpus.class_names, counts[part], strict=True) if not count]
            for part in PARTS
            if len(getattr(drawn, part))
        },
        images=images,
        texts=texts,
        groups=straddling(corpus, drawn),
        leak=_leak(corpus, hot, learnt, drawn.test),
        columns=_stored_columns(dataset, data_dir, drawn.train),
        chance={task: _finite(found.chance) for task, found in scores.tasks.items()},
        id_hashes={part: id_hash(corpus, getattr(drawn, part)) for part in PARTS},
        shortfall=shortfall(corpus, dataset.card),
        grouped_splits=_grouped_splits(dataset, corpus, seed),
    )


def id_hash(corpus: Corpus, rows: NDArray[np.int64]) -> str:
    """sha256 of the sorted ids of some rows, a line each: equal for equal sets of items."""
    return hashlib.sha256(
        "".join(f"{corpus.ids[row]}\n" for row in sorted(rows, key=lambda r: corpus.ids[r])).encode()
    ).hexdigest()


def straddling(corpus: Corpus, split: Split) -> Groups:
    """Groups that have test rows and rows that a method may learn from."""
    tested = Counter(corpus.groups[row] for row in split.test)
    learnt = {corpus.groups[row] for row in (*split.train, *split.validation)}
    both = [group for group in tested if group in learnt]
    return Groups(len({*tested, *learnt}), len(both), sum(tested[group] for group in both))


def _grouped_splits(dataset: Dataset, corpus: Corpus, seed: int) -> list[str]:
    if len(set(corpus.groups)) == len(corpus):
        return []  # every row is a group of its own
    return [
        name for name in dataset.splits if not straddling(corpus, dataset.split(corpus, name, seed)).test_rows
    ]


def _load(dataset: Dataset, data_dir: Path) -> Corpus:
    """The corpus with raw images and texts where there are any."""
    image, text = (name.strip() for name in dataset.features.split("+"))
    stored = [
        name if name in dataset.stored.get(modality, {}) else "raw"
        for modality, name in (("image", image), ("text", text))
    ]
    for choice in (("raw", "raw"), (stored[0], "raw"), ("raw", stored[1])):
        try:
            return dataset.load(data_dir, *choice)
        except (Unsupported, MissingData):  # a dataset need not come with its photographs
            continue
    return dataset.load(data_dir, *stored)


# -- copies ---------------------------------------------------------------------------------------------------


def _copies(
    corpus: Corpus, rows: Any, learnt: NDArray[np.int64], test: NDArray[np.int64], modality: str
) -> Copies:
    keys: list[Hashable]
    if isinstance(rows, np.ndarray):
        matrix = np.asarray(rows, dtype=np.float32)
        compared, keys = "feature rows", [_key(row) for row in rows]
        near = _near_rows(matrix, learnt, test)
    elif modality == "image":
        hashes = _difference_hashes(rows)
        compared, keys = "files, near ones by a 64-bit difference hash", [_file_key(path) for path in rows]
        near = _near_hashes(hashes, learnt, test)
    else:
        compared = "words, near ones by shared three-word sequences"
        keys = [_key(text) for text in rows]
        near = _near_texts([key or "" for key in keys], learnt, test)
    of_learnt: dict[Hashable, int] = {}
    for row in learnt:
        if keys[row] is not None:
            of_learnt.setdefault(keys[row], int(row))
    twins = {int(row): of_learnt[keys[row]] for row in test if keys[row] in of_learnt}
    merged = {**near, **twins}
    order = sorted(merged, key=lambda row: (row not in twins, row))
    return Copies(
        compared=compared,
        exact=len(twins),
        near=len(merged),
        within_test=_repeated([keys[row] for row in test]),
        within_train=_repeated([keys[row] for row in learnt]),
        examples=[(corpus.ids[row], corpus.ids[merged[row]]) for row in order[:5]],
    )


def _repeated(keys: Sequence[Hashable]) -> int:
    return sum(count for key, count in Counter(keys).items() if count > 1 and key is not None)


def _near_rows(
    matrix: NDArray[np.float32], learnt: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[int, int]:
    """Test row -> the learnt row that it is nearest to, if that is near enough."""

    def usable(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows that hold something; a value that is not finite would hide all copies, and the columns tell of it."""
        kept = [row for row in rows if np.isfinite(matrix[row]).all() and matrix[row].any()]
        return np.array(kept, dtype=np.int64)

    learnt, test = usable(learnt), usable(test)
    if not len(learnt):
        return {}
    total = np.zeros(matrix.shape[1])
    for start in range(0, len(learnt), BLOCK):
        total += matrix[learnt[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
    centre = (total / len(learnt)).astype(np.float32)

    def units(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found = matrix[rows]  # a copy
        for start in range(0, len(found), BLOCK):
            block = found[start : start + BLOCK]
            block -= centre
            norms = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(norms > 0, norms, 1)
        return found

    known, found = units(learnt), dict[int, int]()
    for start in range(0, len(test), BLOCK):
        block = test[start : start + BLOCK]
        cosines = units(block) @ known.T
        best = cosines.argmax(axis=1)
        for i in np.flatnonzero(cosines[np.arange(len(block)), best] >= NEAR_ROW):
            found[int(block[i])] = int(learnt[best[i]])
    return found


def _file_key(path: Path) -> str:
    from xmbench._io import file_digest

    return file_digest(Path(path))


def _difference_hashes(paths: Sequence[Path]) -> NDArray[np.uint64]:
    """64 bits an image: whether each of 8 x 8 points is brighter than its right neighbour, in a 9 x 8 thumbnail."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency("comparing images needs pillow: pip install 'xmbench[features]'") from error
    from xmbench.features._images import FORMATS

    hashes = np.empty(len(paths), dtype=np.uint64)
    for number, path in enumerate(paths):
        try:
            with Image.open(path, formats=FORMATS) as opened:
                opened.draft("L", (64, 64))
                pixels = np.asarray(opened.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
        except Exception as error:  # a damaged file may raise anything in a decoder
            reason = clean(str(error)) or type(error).__name__
            raise CorruptData(f"{path.parent.name}/{path.name} is not a readable image: {reason}") from error
        hashes[number] = np.packbits(pixels[:, :-1] > pixels[:, 1:]).view(np.uint64)[0]
    return hashes


def _near_hashes(
    hashes: NDArray[np.uint64], learnt: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[int, int]:
    known, found = hashes[learnt], dict[int, int]()
    for row in test:
        distances = np.bitwise_count(known ^ hashes[row])
        best = int(distances.argmin())
        if distances[best] <= NEAR_IMAGE:
            found[int(row)] = int(learnt[best])
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _near_texts(texts: Sequence[Any], learnt: NDArray[np.int64], test: NDArray[np.int64]) -> dict[int, int]:
    """As :func:`_near_rows`, by the Jaccard similarity of three-word sequences; of words where a text is shorter."""
    from scipy.sparse import csr_array

    numbers: dict[tuple[str, ...], int] = {}
    columns: list[int] = []
    offsets = [0]
    for text in texts:
        words = text.split()
        pieces: set[tuple[str, ...]] = set(zip(words, words[1:], words[2:], strict=False))
        pieces = pieces or {(word,) for word in words}
        columns += [numbers.setdefault(piece, len(numbers)) for piece in pieces]
        offsets.append(len(columns))
    matrix = csr_array(
        (np.ones(len(columns), dtype=np.float32), columns, offsets), shape=(len(texts), max(1, len(numbers)))
    )
    sizes = np.diff(offsets)
    known, found = matrix[learnt].T.tocsc(), dict[int, int]()
    for start in range(0, len(test), BLOCK):
        block = test[start : start + BLOCK]
        shared = (matrix[block] @ known).tocoo()
        jaccard = shared.data / (sizes[block][shared.row] + sizes[learnt][shared.col] - shared.data)
        for i in np.flatnonzero(jaccard >= NEAR_TEXT):
            found.setdefault(int(block[shared.row[i]]), int(learnt[shared.col[i]]))
    return found


# -- classes ----------------------------------------------------------------------------------------------------


def _leak(corpus: Corpus, hot: NDArray[Any], learnt: NDArray[np.int64], test: NDArray[np.int64]) -> Leak:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    own = other = None
    if isinstance(corpus.texts, np.ndarray):
        scale: Any = StandardScaler()
        rows: Any = np.asarray(corpus.texts, dtype=np.float64)
        train, tested, what = rows[learnt], rows[test], "logistic regression on the stored text features"
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer

        scale = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(learnt) > 100 else 1)
        train, tested = ([corpus.texts[row] for row in part] for part in (learnt, test))
        what = "logistic regression on TF-IDF of the texts"
        own, other = _named(corpus, hot, tested, test)
    known = np.flatnonzero(hot[learnt].any(axis=0) & ~hot[learnt].all(axis=0))
    majority = int(hot[learnt].sum(axis=0).argmax())
    accuracy = float(hot[test, majority].mean())
    if len(known) > 1:
        model = make_pipeline(scale, OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000)))
        try:
            model.fit(train, hot[learnt][:, known].astype(int))
        except ValueError as error:
            raise Unsupported(f"{corpus.name}: the texts cannot be classified: {error}") from error
        best = known[np.asarray(model.predict_proba(tested)).argmax(axis=1)]
        accuracy = float(hot[test, best].mean())
    return Leak(what, accuracy, float(hot[test, majority].mean()), own, other)


def _named(
    corpus: Corpus, hot: NDArray[Any], texts: Sequence[str], test: NDArray[np.int64]
) -> tuple[float, float]:
    """Shares of texts that hold a name of an own class, and of another class; plurals with s count."""
    names = [_words(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) for name in corpus.class_names]
    patterns = [
        re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"s?\b") if words else None for words in names
    ]
    own = other = 0
    for text, classes in zip(texts, hot[test], strict=True):
        lower = text.lower()
        held = np.array([pattern is not None and pattern.search(lower) is not None for pattern in patterns])
        own += bool((held & classes).any())
        other += bool((held & ~classes).any())
    return own / len(test), other / len(test)


def _stored_columns(dataset: Dataset, data_dir: Path, train: NDArray[np.int64]) -> list[Columns]:
    """Every stored feature matrix that is here, read on its own."""
    names = {modality: list(dataset.stored.get(modality, {})) for modality in ("image", "text")}
    found = []
    for modality, others in (("image", "text"), ("text", "image")):
        for name in names[modality]:
            for beside in (*names[others], "raw"):
                choice = (name, beside) if modality == "image" else (beside, name)
                try:
                    corpus = dataset.load(data_dir, *choice)
                except (Unsupported, MissingData):
                    continue
                matrix = np.asarray(corpus.images if modality == "image" else corpus.texts)
                rows = matrix[train]
                finite = np.isfinite(matrix)
                constant = int((rows == rows[:1]).all(axis=0).sum())
                found.append(Columns(f"{modality} {name}", matrix.shape[1], constant, int((~finite).sum())))
                break
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# -- in words -----------------------------------------------------------------------------------------------------


def audit_text(found: Audit) -> str:
    """An audit for a terminal."""
    from tabulate import tabulate

    seed = "" if found.split_seed is None else f", split seed {found.split_seed}"
    lines = [
        f"{clean(found.dataset)}, split {clean(found.split)}{seed}: "
        + ", ".join(f"{n:,} {part}" for part, n in found.sizes.items()),
        "",
    ]
    findings = found.findings()
    lines += [f"finding:   {clean(text)}" for text in findings] or ["finding:   none"]
    for what, copies in (("images", found.images), ("texts", found.texts)):
        near = "" if copies.near is None else f", exact or near {copies.near:,}"
        lines.append(
            f"{what + ':':<10} of the test {what}, also among the rows learnt from: exact {copies.exact:,}{near}; "
            f"twice among the test rows {copies.within_test:,}, among the others {copies.within_train:,} "
            f"({copies.compared})"
        )
        lines += [f"           such as {clean(test)} and {clean(train)}" for test, train in copies.examples]
    groups, leak = found.groups, found.leak
    lines.append(
        f"groups:    {groups.n_groups:,}, of which {groups.straddling:,} stand on both sides, "
        f"with {groups.test_rows:,} test rows"
        + (
            f"; kept together by split {', '.join(map(clean, found.grouped_splits))}"
            if found.grouped_splits
            else ""
        )
    )
    lines.append(
        f"texts tell: {leak.accuracy:.3f} accuracy of {leak.classifier}; "
        f"{leak.majority:.3f} by always naming the largest class"
    )
    if leak.own_class_named is not None and leak.other_class_named is not None:
        lines.append(
            f"           {leak.own_class_named:.1%} of the test texts hold a name of their own class, "
            f"{leak.other_class_named:.1%} of another"
        )
    lines += [
        f"columns:   {clean(c.name)}: {c.columns}, constant {c.constant}, values not finite {c.not_finite}"
        for c in found.columns
    ]
    lines.append(
        "chance:    "
        + ", ".join(
            f"{task} {'–' if value is None else f'{value:.3f}'}" for task, value in found.chance.items()
        )
    )
    lines += [f"ids:       {part}: sha256 {value}" for part, value in found.id_hashes.items()]
    rows = [[clean(name), *(str(counts[part]) for part in PARTS)] for name, counts in found.classes.items()]
    return "\n".join([*lines, "", tabulate(rows, headers=["class", *PARTS], tablefmt="simple")])
