"""What queries of a finished run retrieve: the ranked lists behind a score, with right and wrong marked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Corpus, fingerprint
from xmbench.errors import CorruptData, InvalidParameter, InvalidRecord, MissingData, Unsupported, UsageError
from xmbench.evaluation import evaluate, rank
from xmbench.features import source, split_features
from xmbench.leaderboard import clean
from xmbench.plan import read_corpus
from xmbench.protocol import Protocol
from xmbench.record import Record, scrub
from xmbench.registry import Registry
from xmbench.run import Embeddings

LEGEND = "relevant: shares a class with the query", "not relevant", "3= has the score of another item"


@dataclass(frozen=True)
class Item:
    """One image or text of the test set.

    Args:
        modality: ``image`` or ``text``.
        id: name of the pair it belongs to.
        classes: names of its classes.
        image: file of the pair's image, where there is one to show.
        text: the pair's text, where there is one to show.
    """

    modality: str
    id: str
    classes: tuple[str, ...]
    image: Path | None
    text: str | None


@dataclass(frozen=True)
class Result:
    """An item of a ranked list.

    Args:
        rank: 1 + the number of items with a higher score, with ``=`` if another item has the same score.
        score: similarity to the query.
        relevant: whether it shares a class with the query.
        item: what was retrieved.
    """

    rank: str
    score: float
    relevant: bool
    item: Item


@dataclass(frozen=True)
class Example:
    """A query, its average precision, and the first of what it retrieves."""

    query: Item
    average_precision: float
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Report:
    """Examples of one run.

    Args:
        title: method and dataset.
        facts: (name, value) of all that a reader must know of the run.
        warnings: flags of the protocol.
        notes: what cannot be shown, and why.
        galleries: task -> number of items that a query is compared with.
        tasks: task -> examples.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    galleries: dict[str, int]
    tasks: dict[str, tuple[Example, ...]]


def collect(
    record: Record,
    embeddings: Embeddings,
    registry: Registry,
    data_dir: Path,
    *,
    tasks: Sequence[str],
    ids: Sequence[str] = (),
    n_queries: int | None = None,
    random_state: int = 0,
    top: int = 10,
) -> Report:
    """The first ``top`` results of some queries, ranked as the record's protocol does, and how good they are.

    Items of equal score stand in the order of the gallery. Where the dataset's files are not there, items
    have only their id and classes, and a note says so.

    Args:
        record: a finished run.
        embeddings: its kept test embeddings.
        registry: where the dataset is to be had.
        data_dir: where datasets lie.
        tasks: some of ``TASKS``.
        ids: test items to ask for.
        n_queries: how many to draw where no id is given; 5 by default, or all of fewer.
        random_state: seed of that draw.
        top: length of the lists.

    Raises:
        UsageError: no test item has such an id, or fewer are there than asked for.
        InvalidParameter: ``top`` is below 1.
        CorruptData: the dataset's files, or what its adapter makes of them, changed since the run.
        InvalidRecord: record and embeddings do not belong together.
    """
    if top < 1:
        raise InvalidParameter(f"top must be at least 1, got {top}")
    rows = _choose(embeddings.ids, ids, n_queries, random_state)
    protocol = Protocol(**record.protocol)
    images, texts, notes = _raw(record, embeddings, registry, data_dir)
    arrays = embeddings.images, embeddings.texts, embeddings.labels
    scores = evaluate(*arrays, protocol, tasks=tuple(tasks), precision="float64", curves=False).tasks
    n = len(embeddings.ids)

    def item(modality: str, row: int) -> Item:
        label = embeddings.labels[row]
        classes = np.flatnonzero(label) if embeddings.labels.ndim == 2 else [label]
        names = tuple(embeddings.class_names[number] for number in classes)
        return Item(
            modality,
            embeddings.ids[row],
            names,
            None if images is None else images[row],
            None if texts is None else texts[row],
        )

    found: dict[str, tuple[Example, ...]] = {}
    for task in tasks:
        _check_scores(record, task, scores[task].mean_average_precision)
        asking, target = task.split("->")
        examples = []
        lists = rank(*arrays, task, protocol, queries=rows, top=top + 1, precision="float64")
        for block in lists:  # one item more than shown, for a tie with the last
            for query, items, above, similarity, relevant in zip(
                block.query, block.items, block.above, block.similarity, block.relevant, strict=True
            ):
                tied = np.bincount(above)[above] > 1
                results = []
                for place in range(min(top, len(items))):
                    asked_for = target if target != "all" else "text" if items[place] >= n else "image"
                    results.append(
                        Result(
                            rank=f"{above[place] + 1}{'=' if tied[place] else ''}",
                            score=float(similarity[place]),
                            relevant=bool(relevant[place]),
                            item=item(asked_for, int(items[place]) % n),
                        )
                    )
                value = float(scores[task].average_precision[query])  # a query's own pair is always relevant
                examples.append(Example(item(asking, int(query)), value, tuple(results)))
        found[task] = tuple(examples)
    return Report(
        title=f"{record.method.title} on {record.dataset.title}",
        facts=_facts(record, protocol),
        warnings=tuple(f"Warning: {flag}" for flag in protocol.flags),
        notes=tuple(f"Note: {note}" for note in notes),
        galleries={task: scores[task].gallery for task in tasks},
        tasks=found,
    )


def _choose(
    known: Sequence[str], ids: Sequence[str], n_queries: int | None, random_state: int
) -> NDArray[np.int64]:
    """Rows of the queries: those of ``ids`` in their order, or a seeded draw in the order of the test set."""
    if ids and n_queries is not None:
        raise UsageError("give queries by id (--query) or their number (--queries), not both")
    for name in ids:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"the first one is called {known[0]!r}"
            raise UsageError(f"no test item has the id {name!r}; {hint}")
    if ids:
        return np.array([known.index(name) for name in dict.fromkeys(ids)], dtype=np.int64)
    wanted = min(5, len(known)) if n_queries is None else n_queries
    if not 1 <= wanted <= len(known):
        raise UsageError(f"expected 1 to {len(known)} queries, the number of test items, got {wanted}")
    return np.sort(np.random.default_rng(random_state).choice(len(known), size=wanted, replace=False))


def _raw(
    record: Record, embeddings: Embeddings, registry: Registry, data_dir: Path
) -> tuple[list[Path] | None, list[str] | None, list[str]]:
    """Image files and texts of the test items, None where there are none to show, and notes that say why."""
    data = record.dataset
    adapter, dataset = registry.plugin("dataset", data.name), registry.dataset(data.name)
    image, text = split_features(data.features)
    image, text = (
        source(dataset, "image", image, registry),
        source(dataset, "text", text, registry),
    )
    try:
        corpus = read_corpus(adapter, dataset, data_dir, image, text)
    except MissingData:
        note = (
            f"the files of {data.name} are not there, so items are shown by id and class alone, and the data is not "
            "checked against the record; name its directory with --data-dir or XMBENCH_DATA_DIR"
        )
        return None, None, [note]
    split = dataset.split(corpus, data.split, data.split_seed or 0)
    if (
        fingerprint(corpus, split, data.provenance, split_features(data.scaling, "scaling"))
        != data.fingerprint
    ):
        raise CorruptData(
            f"the files of {data.name}, or the adapter that reads them, are not those of this run (data "
            f"fingerprint {data.fingerprint}); use the former ones, or run the method again"
        )
    if tuple(corpus.ids[row] for row in split.test) != embeddings.ids:
        raise InvalidRecord(
            f"the kept embeddings of record {record.score_id} are of other test items than its split names; "
            "run it again with --fresh"
        )
    notes: list[str] = []

    def other(kind: str, *wanted: str) -> Corpus | None:
        try:
            raw = dataset.load(data_dir, *wanted)
        except Unsupported:
            notes.append(f"{data.name} has no {kind} to show; its {kind.split()[0]}s stand by id and class")
            return None
        except MissingData as error:
            notes.append(f"{data.name} has no {kind} to show: {scrub(str(error).splitlines()[0])}")
            return None
        if raw.ids != corpus.ids:
            raise CorruptData(f"{data.name}: the ids of its {kind} are not those of its features")
        return raw

    with_images = corpus if image == "raw" else other("image files", "raw", text)
    with_texts = corpus if text == "raw" else other("texts", image, "raw")
    images = [Path(with_images.images[row]) for row in split.test] if with_images else None
    texts = [str(with_texts.texts[row]) for row in split.test] if with_texts else None
    return images, texts, notes


def _check_scores(record: Record, task: str, found: float) -> None:
    """Raise InvalidRecord if the record has another score than its embeddings."""
    known = record.metrics[task].mean_average_precision
    if known is None or not abs(found - known) <= 1e-6:
        raise InvalidRecord(
            f"record {record.score_id} has {known} for {task}, its kept embeddings give {found}; run it again "
            "with --fresh"
        )


def _facts(record: Record, protocol: Protocol) -> tuple[tuple[str, str], ...]:
    data = record.dataset
    split = data.split if data.split_seed is None else f"{data.split}, split seed {data.split_seed}"
    transductive = "; transductive: learned from test features" if record.method.transductive else ""
    return (
        ("method", record.method.label + transductive),
        ("dataset", data.name),
        ("split", split),
        ("features", f"{data.inputs}, scaling {data.scaling}"),
        ("seed", str(record.seed)),
        ("protocol", protocol.describe()),
        ("record", record.score_id),
    )


def snippet(text: str, length: int) -> str:
    """The beginning of a text in one line, cut at a word where it is longer than ``length``."""
    text = clean(text[: 4 * length])
    if len(text) <= length:
        return text
    return (text[:length].rsplit(" ", 1)[0] or text[:length]) + " ..."


def heading(task: str, report: Report) -> str:
    """A task and the size of its gallery, in words."""
    return f"{task.replace('->', ' to ')}, gallery of {report.galleries[task]:,}"


def precision_words(example: Example) -> str:
    """The average precision of a query, in words."""
    return f"average precision {example.average_precision:.3f}"


def show(report: Report, stream: TextIO) -> None:
    """Print a report: in colour where the stream is a terminal that has it; marks need no colour."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    right, wrong = _marks(console.encoding)

    def line(*pieces: str | tuple[str, str]) -> None:
        text = Text.assemble(*pieces)
        text.rstrip()
        if console.is_terminal:
            console.print(text, no_wrap=True, overflow="crop")
        else:
            console.print(text, soft_wrap=True)

    line((clean(report.title), "bold"))
    for name, value in report.facts:
        console.print(Text(f"{name + ':':<10}{clean(value)}"), soft_wrap=True)
    for message in report.warnings:
        console.print(Text(clean(message), "bold yellow"), soft_wrap=True)
    for message in report.notes:
        console.print(Text(clean(message)), soft_wrap=True)
    console.print(Text(f"{right} {LEGEND[0]}; {wrong} {LEGEND[1]}; {LEGEND[2]}"), soft_wrap=True)
    for task, examples in report.tasks.items():
        line("")
        line((heading(task, report), "bold"))
        for example in examples:
            line("")
            *asked, shown = _cells(example.query)
            line(("  ".join(["query", *asked, precision_words(example)]), "bold"), f"  {shown}")
            rows = [[found.rank, f"{found.score:.3f}", *_cells(found.item)] for found in example.results]
            widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
            for (place, *cells), result in zip(rows, example.results, strict=True):
                place = f"{place:>{widths[0]}} {right if result.relevant else wrong}"
                padded = [
                    cell + " " * (width - cell_len(cell))
                    for cell, width in zip(cells, widths[1:], strict=True)
                ]
                line("  ", (place, "green" if result.relevant else "red"), "  " + "  ".join(padded))


def _marks(encoding: str) -> tuple[str, str]:
    """Signs for relevant and not relevant that the encoding has."""
    try:
        "✓✗".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "+", "x"
    return "✓", "✗"


def _cells(item: Item) -> list[str]:
    """Modality, id, classes, and the beginning of the text or the name of the image file."""
    shown = (
        snippet(item.text or "", 160) if item.modality == "text" else item.image.name if item.image else ""
    )
    return [item.modality, clean(item.id), snippet(", ".join(item.classes), 40), clean(shown)]
