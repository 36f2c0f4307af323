"""The evaluator: embeddings, labels and a protocol in, scores out. It knows no method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import source_digest
from xmbench.data import check_labels
from xmbench.errors import InvalidInput, InvalidParameter, UnknownName
from xmbench.evaluation.counts import Engine, Groups, choose_engine
from xmbench.evaluation.metrics import (
    harmonic,
    hit_slopes,
    precision_over_hits,
    precision_sums,
    relevant_counts,
)
from xmbench.evaluation.ranking import Ranking, rank
from xmbench.protocol import DEFAULT, Protocol

__all__ = ["TASKS", "Ranking", "Scores", "TaskScores", "evaluate", "evaluator_digest", "rank", "retrieve"]

TASKS = ("image->text", "text->image", "image->all", "text->all")

TILE_BYTES = 100 * 2**20
"""Working memory of a tile of scores, above the inputs."""

_BYTES_PER_SCORE = 160  # measured peak, when every item is relevant; a tenth of it is the usual


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task, for q queries.

    Args:
        mean_average_precision: mean of ``average_precision`` over queries that have a relevant item.
        average_precision: (q,) float64; NaN for a query without a relevant item.
        chance: mean average precision of a random order of the gallery.
        precision: (s,) float64, mean precision among the first K for K = 1..s, over the same queries;
            fractions, not per cent.
        per_class: class -> mean average precision of its queries; classes without queries are left out.
        n_queries: q.
        n_unanswerable: queries without a relevant item; they are in no mean.
        gallery: number of items that a query is compared with.
    """

    mean_average_precision: float
    average_precision: NDArray[np.float64]
    chance: float
    precision: NDArray[np.float64]
    per_class: dict[int, float]
    n_queries: int
    n_unanswerable: int
    gallery: int


@dataclass(frozen=True)
class Scores:
    """Scores of all tasks under one protocol."""

    protocol: Protocol
    engine: str
    tasks: dict[str, TaskScores]

    @property
    def main(self) -> float:
        """The protocol's main metric, of the two bi-modal tasks: the mean of their MAP."""
        return 0.5 * sum(self.tasks[task].mean_average_precision for task in TASKS[:2])


def evaluate(
    images: NDArray[Any],
    texts: NDArray[Any],
    labels: NDArray[Any],
    protocol: Protocol = DEFAULT,
    *,
    tasks: tuple[str, ...] = TASKS,
    engine: str = "auto",
    device: str = "cpu",
    tile_bytes: int = TILE_BYTES,
) -> Scores:
    """Score paired embeddings: row i of ``images``, ``texts`` and ``labels`` is one item.

    Args:
        images: (n, k) embeddings.
        texts: (n, k) embeddings.
        labels: (n,) int or (n, c) multi-hot; two items are relevant to each other if they share a class.
        protocol: what to compute.
        tasks: which of :data:`TASKS`.
        engine: ``auto``, ``numpy`` or ``torch``.
        device: for the torch engine.
        tile_bytes: working memory above the inputs.

    Raises:
        InvalidInput: shapes differ, or a value is not finite; the message names the row.
    """
    for task in tasks:
        if task not in TASKS:
            raise UnknownName("task", task, TASKS)
    classes = check_labels(labels, None)
    rows = {
        "image": _check_embedding(images, "image embeddings"),
        "text": _check_embedding(texts, "text embeddings"),
    }
    lengths = {
        "image embeddings": len(rows["image"]),
        "text embeddings": len(rows["text"]),
        "labels": len(classes),
    }
    if len(set(lengths.values())) > 1:
        raise InvalidInput(f"evaluate: expected equal numbers of rows, got {lengths}")
    if rows["image"].shape[1] != rows["text"].shape[1]:
        widths = (rows["image"].shape[1], rows["text"].shape[1])
        raise InvalidInput(f"evaluate: expected embeddings of equal width, got {widths[0]} and {widths[1]}")
    counter = choose_engine(engine, device)
    changed = {name: _zscore(matrix) if protocol.post != "none" else matrix for name, matrix in rows.items()}
    asking, rows = changed, changed if protocol.post == "test_zscore" else rows
    everything = np.concatenate([rows["image"], rows["text"]])
    found: dict[str, TaskScores] = {}
    for task in tasks:
        source, target = task.split("->")
        queries, own = asking[source], None
        gallery, gallery_labels = everything, np.concatenate([classes, classes])
        if target != "all":
            gallery, gallery_labels = rows[target], classes
        elif protocol.exclude_query:
            own = np.arange(len(queries)) + (len(queries) if source == "text" else 0)
        found[task] = _score(counter, queries, gallery, classes, gallery_labels, own, protocol, tile_bytes)
    return Scores(protocol, counter.name, found)


def retrieve(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    query_labels: NDArray[Any],
    gallery_labels: NDArray[Any],
    protocol: Protocol = DEFAULT,
    *,
    engine: str = "auto",
    device: str = "cpu",
    tile_bytes: int = TILE_BYTES,
) -> TaskScores:
    """Score one retrieval task between any two sets of embeddings, (q, k) against (g, k)."""
    left, right = check_labels(query_labels, None), check_labels(gallery_labels, None)
    q, g = _check_embedding(queries, "queries"), _check_embedding(gallery, "gallery")
    if q.shape[1] != g.shape[1] or left.shape[1:] != right.shape[1:]:
        raise InvalidInput(
            f"retrieve: queries {q.shape} and gallery {g.shape}, or their labels, do not fit together"
        )
    if len(q) != len(left) or len(g) != len(right):
        raise InvalidInput(
            f"retrieve: {len(q)} queries, {len(left)} labels; {len(g)} items, {len(right)} labels"
        )
    return _score(choose_engine(engine, device), q, g, left, right, None, protocol, tile_bytes)


def evaluator_digest() -> str:
    """Digest of the evaluator's source: equal digests compute equal numbers."""
    return source_digest(sorted(Path(__file__).parent.glob("*.py")))


def _check_embedding(rows: object, name: str) -> NDArray[np.float64]:
    array = np.asarray(rows)
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiub":
        raise InvalidInput(
            f"{name}: expected real numbers (rows, dimensions), got {array.dtype} {array.shape}"
        )
    if not len(array):
        raise InvalidInput(f"{name}: expected at least one row, got none")
    array = array.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise InvalidInput(f"{name}: row {wrong[0]} has values that are not finite")
    return array


def _score(
    engine: Engine,
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    query_labels: NDArray[Any],
    gallery_labels: NDArray[Any],
    excluded: NDArray[np.int64] | None,
    protocol: Protocol,
    tile_bytes: int,
) -> TaskScores:
    queries, gallery = _comparable(queries, gallery, protocol.similarity)
    if tile_bytes < 1:
        raise InvalidParameter(f"tile_bytes must be at least 1, got {tile_bytes}")
    n, size = len(queries), len(gallery) - (excluded is not None)
    longest = min(protocol.max_scope, size)
    H = harmonic(len(gallery))
    engine.load(gallery, gallery_labels)
    block = max(1, tile_bytes // (_BYTES_PER_SCORE * len(gallery)))
    average = np.empty(n)
    chance = np.empty(n)
    slopes = np.zeros(longest + 1)
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        left_out = None if excluded is None else excluded[rows]
        groups = engine.count(queries[rows], query_labels[rows], protocol.similarity, left_out)
        average[rows], chance[rows] = _average_precision(groups, rows.stop - start, size, H, protocol)
        slopes += hit_slopes(groups, longest)
    answered = np.isfinite(average)
    n_answered = int(answered.sum())
    hits = np.cumsum(np.cumsum(slopes)[:-1])  # hits[K - 1]: among the first K
    membership = query_labels if query_labels.ndim == 2 else None
    per_class: dict[int, float] = {}
    for label in range(query_labels.shape[1]) if membership is not None else np.unique(query_labels):
        mine = answered & (membership[:, label] if membership is not None else query_labels == label)
        if mine.any():
            per_class[int(label)] = float(average[mine].mean())
    return TaskScores(
        mean_average_precision=float(average[answered].mean()) if n_answered else float("nan"),
        average_precision=average,
        chance=float(chance[answered].mean()) if n_answered else float("nan"),
        precision=hits / (np.arange(1, longest + 1) * (n_answered or np.nan)),
        per_class=per_class,
        n_queries=n,
        n_unanswerable=n - n_answered,
        gallery=size,
    )


def _average_precision(
    groups: Groups, n: int, size: int, H: NDArray[np.float64], protocol: Protocol
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision of each query, and what a random order of the gallery would give it."""
    relevant = relevant_counts(groups, n)
    divisor = relevant.astype(np.float64)
    if protocol.cutoff is not None and protocol.denominator == "min":
        divisor = np.minimum(divisor, protocol.cutoff)
    divisor[relevant == 0] = np.nan
    zeros = np.zeros(n, dtype=np.int64)
    one_group = Groups(np.arange(n), zeros, zeros + size, zeros, relevant)
    if protocol.cutoff is not None and protocol.denominator == "hits":
        divisor[relevant > 0] = 1.0
        results = [precision_over_hits(some, n, H, protocol.cutoff) for some in (groups, one_group)]
    else:
        results = [precision_sums(some, n, H, protocol.cutoff) for some in (groups, one_group)]
    return results[0] / divisor, results[1] / divisor


def _comparable(
    queries: NDArray[np.float64], gallery: NDArray[np.float64], similarity: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same rankings from numbers near 1, so that no score overflows or vanishes.

    cosine: unit rows. inner: a factor for each query and one for the gallery, none of which moves an item.
    l2: one factor for everything, then the gallery's mean goes to the origin; distances keep their order and
    their expansion loses no digits.
    """
    if similarity == "cosine":
        return _unit(queries), _unit(gallery)
    if similarity == "inner":
        return np.ldexp(queries, -_exponent(queries, 1)), np.ldexp(gallery, -_exponent(gallery, None))
    shift = -np.maximum(_exponent(queries, None), _exponent(gallery, None))
    queries, gallery = np.ldexp(queries, shift), np.ldexp(gallery, shift)
    centre = gallery.mean(axis=0)
    return queries - centre, gallery - centre


def _exponent(rows: NDArray[np.float64], axis: int | None) -> NDArray[np.int32]:
    """e, such that the largest value is 2^e times 0.5..1 (scaling by 2^-e is free of rounding); 0 for zeros."""
    return np.asarray(np.frexp(np.abs(rows).max(axis=axis, keepdims=True))[1])


def _zscore(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with mean 0 and deviation 1 (ddof 0; a constant column is left at 0), by their own statistics."""
    centred = rows - rows.mean(axis=0)
    deviation = centred.std(axis=0)
    constant = deviation <= 1e-12 * np.abs(rows).max(axis=0)
    return np.asarray(np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation)))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a zero row stays zero and so has similarity 0 to everything."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1.0)  # squares of tiny or huge rows would leave the range
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0))
