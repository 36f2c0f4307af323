"""Whether a dataset can be used: everything that it refers to is read, and every problem is told."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmbench._io import clean, file_digest
from xmbench.audit import shortfall, straddling
from xmbench.columns import few
from xmbench.data import PARTS, Corpus, Dataset, Split, check_matrix
from xmbench.describe import card_text, class_counts, corpus_facts, describe_card
from xmbench.description import FOLDER
from xmbench.errors import (
    CorruptData,
    MissingData,
    MissingDependency,
    Unsupported,
    UsageError,
    XmbenchError,
)
from xmbench.evaluation import TASKS, evaluate
from xmbench.features import Modality, source, split_features
from xmbench.matrices import need
from xmbench.own_data import RAW, OwnDataset
from xmbench.record import scrub
from xmbench.registry import Registry

Progress = Callable[[str, "float | None"], None]

SHOWN = 20
"""Problems that are told one by one."""
BLOCK = 4096
"""Rows that are looked at at once."""
CHANCE_ROWS = 5000
"""Test rows up to which the chance level is computed."""


class Problems:
    """What is wrong with a dataset, each thing once."""

    def __init__(self) -> None:
        self.found: dict[str, XmbenchError] = {}

    def add(self, error: XmbenchError) -> None:
        """Note a problem."""
        self.found.setdefault(clean(str(error)), error)

    @property
    def exit_code(self) -> int:
        """0 without a problem; 3 if data are missing or damaged, else 2."""
        codes = {error.exit_code for error in self.found.values()}
        return 0 if not codes else 3 if 3 in codes else 2

    def shown(self) -> list[str]:
        """The first ``SHOWN``, and how many more there are."""
        more = len(self.found) - SHOWN
        return [*list(self.found)[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def check_dataset(
    name: str,
    dataset: Dataset,
    data_dir: Path,
    progress: Progress = lambda message, fraction: None,
    registry: Registry | None = None,
) -> tuple[dict[str, Any], Problems]:
    """Read all of a dataset: images are decoded, texts read, features looked through, splits drawn.

    Returns:
        Its card (see :func:`xmbench.describe.describe_dataset`) and the problems. If there are none, the card has
        what was read: classes and a hash of the ids for each part of each split, and chance levels of the first.
    """
    problems = Problems()
    corpora, notes = _corpora(dataset, data_dir, problems, registry)
    looked: set[tuple[str, str]] = set()
    for (image, text), corpus in corpora.items():
        rows: dict[tuple[str, str], Any] = {("image", image): corpus.images, ("text", text): corpus.texts}
        for (modality, form), values in rows.items():
            # raw texts of one's own were looked at when they were read
            seen = isinstance(dataset, OwnDataset) and (modality, form) == ("text", RAW)
            if not seen and (modality, form) not in looked:
                looked.add((modality, form))
                notes += _check_rows(f"{modality} {form}", values, corpus, problems, progress)
    found = describe_card(name, dataset, present=bool(corpora))
    first = next(iter(corpora.values()), None)
    if first is not None:
        notes += _check_classes(dataset, first, problems)
        notes += [words] if (words := shortfall(first, dataset.card)) else []
    splits = {} if first is None else _splits(dataset, first, problems)
    if first is not None and not problems.found:
        found["read"] = {**corpus_facts(dataset, first), "splits": splits, "chance": _chance(dataset, first)}
    found["notes"] = notes
    found["problems"] = problems.shown()
    return found, problems


def _corpora(
    dataset: Dataset, data_dir: Path, problems: Problems, registry: Registry | None
) -> tuple[dict[tuple[str, str], Corpus], list[str]]:
    """(image, text) -> the corpus, so that each form of each modality is read at least once; and what is not here.

    A known dataset need not come whole: what its default features do without may be missing.
    """
    try:
        images, texts = _forms(dataset, "image", registry), _forms(dataset, "text", registry)
    except XmbenchError as error:  # features by default that nobody knows
        problems.add(error)
        images, texts = (list(dataset.stored.get(modality, {})) or [RAW] for modality in ("image", "text"))
    found: dict[tuple[str, str], Corpus] = {}
    lacking: list[Unsupported] = []
    notes: list[str] = []
    for image, text in [(images[0], text) for text in texts] + [(image, texts[0]) for image in images[1:]]:
        corpus: Corpus | None
        try:
            if isinstance(dataset, OwnDataset):
                corpus = dataset.read(image, text, problems.add)
            else:
                corpus = dataset.load(data_dir, image, text)
        except Unsupported as error:
            lacking.append(error)
            continue
        except MissingData as error:
            if found and not isinstance(dataset, OwnDataset):
                notes.append(f"not here: {clean(str(error))}")
            else:
                problems.add(error)
            continue
        except XmbenchError as error:
            problems.add(error)
            continue
        except OSError as error:
            problems.add(CorruptData(f"a file cannot be read: {scrub(str(error))}"))
            continue
        if corpus is not None:
            found[image, text] = corpus
    if not found and not problems.found:
        problems.add(lacking[0])
    return found, list(dict.fromkeys(notes))


def _forms(dataset: Dataset, modality: Modality, registry: Registry | None) -> list[str]:
    """The default of a modality first, then every feature that is stored, then raw items if there are any."""
    default = split_features(dataset.features)[0 if modality == "image" else 1]
    forms = [source(dataset, modality, default, registry), *dataset.stored.get(modality, {})]
    if not isinstance(dataset, OwnDataset) or dataset.sides[modality].raw is not None:
        forms.append(RAW)
    return list(dict.fromkeys(forms))


def _check_classes(dataset: Dataset, corpus: Corpus, problems: Problems) -> list[str]:
    """Report labels that look like another column; what should be known of the classes' names."""
    if not isinstance(dataset, OwnDataset):
        return []
    counts = [n for n in class_counts(corpus, np.arange(len(corpus))).values() if n]
    single, reference = counts.count(1), dataset.said.classes.file
    if np.ndim(corpus.labels) == 1 and 2 * single > len(counts):
        where = (
            "every file in the folder of its class"
            if reference == FOLDER
            else f"{reference} the column of labels"
        )
        problems.add(
            UsageError(f"labels: {single} of {len(counts)} classes have one item: is {clean(where)}?")
        )
    spelt: dict[str, list[str]] = {}
    for name in corpus.class_names:
        spelt.setdefault(name.casefold(), []).append(name)
    return [
        f"classes that differ in case only count as different: {few(names, 5)}"
        for names in spelt.values()
        if len(names) > 1
    ]


def _check_rows(what: str, rows: Any, corpus: Corpus, problems: Problems, progress: Progress) -> list[str]:
    """Look through the features, image files or texts of a corpus; what should be known of them.

    Adapters say whether a text may be empty.
    """
    if isinstance(rows, np.ndarray):
        try:
            check_matrix(rows, f"{what} features")
        except XmbenchError as error:
            problems.add(CorruptData(str(error)))
            return []
        constant = _constant_columns(rows)
        if len(rows) > 1 and constant == rows.shape[1]:
            problems.add(
                CorruptData(f"{what} features: all {len(rows)} rows are equal, so they tell nothing apart")
            )
        elif len(rows) > 1 and constant:
            return [f"{constant:,} of {rows.shape[1]:,} columns of the {what} features are constant"]
    elif isinstance(rows[0], str):
        empty = [name for name, text in zip(corpus.ids, rows, strict=True) if not text.strip()]
        if empty:
            return [f"{len(empty)} texts are empty: {few(empty)}"]
    else:
        _check_images(rows, problems, progress)
        return [] if problems.found else _copies(rows, corpus)
    return []


def _constant_columns(rows: np.ndarray[Any, Any]) -> int:
    """How many columns have one value in all rows; read in blocks, as the matrix may be larger than memory."""
    same = np.ones(rows.shape[1], dtype=bool)
    for start in range(0, len(rows), BLOCK):
        same &= (rows[start : start + BLOCK] == rows[0]).all(axis=0)
        if not same.any():
            break
    return int(same.sum())


def _copies(paths: Sequence[Path], corpus: Corpus) -> list[str]:
    """Image files that have the same bytes as an earlier one."""
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    often = Counter(sizes.get(path) for path in paths)
    first: dict[str, int] = {}
    pairs = []
    for row, path in enumerate(paths):
        if path in sizes and often[sizes[path]] > 1:
            earlier = first.setdefault(file_digest(path), row)
            if earlier != row:
                pairs.append((earlier, row))
    if not pairs:
        return []
    labels = np.asarray(corpus.labels)
    apart = [pair for pair in pairs if not np.array_equal(labels[pair[0]], labels[pair[1]])]
    one, other = (corpus.ids[row] for row in (apart or pairs)[0])
    other_class = f", {len(apart):,} of them under another class" if apart else ""
    return [f"{len(pairs):,} images are exact copies of another{other_class}: {few([other])} is {few([one])}"]


def _check_images(paths: Sequence[Path], problems: Problems, progress: Progress) -> None:
    try:
        need("PIL", "looking at images", "features")
    except MissingDependency as error:
        problems.add(error)
        return
    from xmbench.features._images import read

    for number, path in enumerate(paths, start=1):
        progress("decoding images", number / len(paths))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd metadata and large sizes; what cannot be decoded raises
                read(path)
        except (MissingData, CorruptData) as error:
            problems.add(type(error)(clean(scrub(str(error)))))


def _splits(dataset: Dataset, corpus: Corpus, problems: Problems) -> dict[str, Any]:
    """Split name -> part -> rows of each class, and what should be known, with split seed 0."""
    found: dict[str, Any] = {}
    for name in dataset.splits:
        try:
            split = dataset.split(corpus, name, 0)
        except XmbenchError as error:
            # a column holds what it holds; a rule is the description's
            drawn = isinstance(dataset, OwnDataset) and dataset.said.partition.file is None
            problems.add((UsageError if drawn else CorruptData)(f"split {name}: {error}"))
            continue
        found[name] = {part: {"classes": class_counts(corpus, getattr(split, part))} for part in PARTS}
        found[name]["warnings"] = _warnings(corpus, split)
    return found


def _warnings(corpus: Corpus, split: Split) -> list[str]:
    """What need not be wrong with a split, but should be known."""
    found = []
    for part in ("train", "test"):
        counts = class_counts(corpus, getattr(split, part))
        absent = [name for name, n in counts.items() if not n]
        if absent:
            found.append(f"{len(absent)} of {len(counts)} classes have no {part} row: {few(absent)}")
    if not len(split.validation):
        found.append(
            "no row is for validation, which --tune and early stopping need: mark some rows validation"
        )
    groups = straddling(corpus, split)
    if groups.straddling:
        found.append(f"{groups.straddling} of {groups.n_groups} groups stand on both sides of the split")
    return found


def _chance(dataset: Dataset, corpus: Corpus) -> dict[str, float] | None:
    """Task -> mean average precision of a random order, on the test rows of the first split."""
    rows = dataset.split(corpus, next(iter(dataset.splits)), 0).test
    if len(rows) > CHANCE_ROWS:
        return None
    same = np.ones((len(rows), 1))
    tasks = evaluate(same, same, corpus.labels[rows]).tasks
    return {task: float(tasks[task].chance) for task in TASKS if np.isfinite(tasks[task].chance)}


def check_text(found: dict[str, Any]) -> str:
    """The card, what was checked, and the problems, for a terminal."""
    lines = [card_text(found)]
    for name, parts in found.get("read", {}).get("splits", {}).items():
        for part in PARTS:
            counts = ", ".join(f"{clean(key)} {n}" for key, n in parts[part]["classes"].items() if n)
            lines.append(f"{name + '/' + part + ':':<21} {counts or 'none'}")
        lines += [f"{name + ':':<21} {text}" for text in parts["warnings"]]
    chance = found.get("read", {}).get("chance") or {}
    if chance:
        lines.append("chance:    MAP " + ", ".join(f"{task} {value:.4f}" for task, value in chance.items()))
    lines += [f"note:      {clean(text)}" for text in found["notes"]]
    lines += [f"problem:   {text}" for text in found["problems"]]
    lines.append("checked:   " + ("not usable as it is" if found["problems"] else "no problem found"))
    return "\n".join(lines)
