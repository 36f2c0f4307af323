"""The evaluator: embeddings, labels and a protocol in, scores out. It knows no method.

similarity (``similarity.py``) -> ranks (``ranks.py``, on the ``engines.py`` there are) -> metrics (``metrics.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import source_digest
from xmbench.data import check_labels
from xmbench.errors import InvalidInput, InvalidParameter
from xmbench.evaluation.engines import choose_engine
from xmbench.evaluation.metrics import RECALL_LEVELS, BlockScores, Measures
from xmbench.evaluation.pairs import TASKS, Paired, compare
from xmbench.evaluation.ranking import Ranking, rank
from xmbench.evaluation.ranks import Groups, Relevance, Task
from xmbench.evaluation.similarity import Comparison, Rows, check_rows
from xmbench.protocol import DEFAULT, Protocol

__all__ = [
    "RECALL_LEVELS",
    "TASKS",
    "Ranking",
    "Scores",
    "TaskScores",
    "evaluate",
    "evaluator_digest",
    "rank",
    "retrieve",
]

WORKING_BYTES = 96 * 2**20
"""Working memory above the inputs."""


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task, for q queries; all means are over queries that have a relevant item.

    Args:
        mean_average_precision: mean of ``average_precision``.
        average_precision: (q,) float64; NaN for a query without a relevant item.
        chance: mean average precision of a random order of the gallery.
        precision: (s,) float64, mean precision among the first K for K = 1..s; fractions, not per cent.
        recall: (s,) mean recall among the first K.
        ndcg: (s,) mean normalised discounted cumulative gain of the first K (binary gains, log2(1 + rank)).
        interpolated_precision: (101,) mean interpolated precision at :data:`RECALL_LEVELS`.
        r_precision: mean precision among the first R, the query's number of relevant items.
        mean_reciprocal_rank: mean of one over the rank of the first relevant item.
        per_class: class -> mean average precision of its queries; classes without queries are left out.
        n_queries: q.
        n_unanswerable: queries without a relevant item; they are in no mean.
        n_zero_norm: rows of length 0, of queries and gallery together: under cosine their similarity to
            everything is 0; 0 under other similarities.
        gallery: number of items that a query is compared with.
    """

    mean_average_precision: float
    average_precision: NDArray[np.float64]
    chance: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    interpolated_precision: NDArray[np.float64]
    r_precision: float
    mean_reciprocal_rank: float
    per_class: dict[int, float]
    n_queries: int
    n_unanswerable: int
    n_zero_norm: int
    gallery: int


@dataclass(frozen=True)
class Scores:
    """Scores of all tasks under one protocol; ``engine`` says what computed them, and in which precision."""

    protocol: Protocol
    engine: str
    tasks: dict[str, TaskScores]

    @property
    def main(self) -> float:
        """The protocol's main metric, of the two bi-modal tasks: the mean of their MAP."""
        missing = [task for task in TASKS[:2] if task not in self.tasks]
        if missing:
            raise InvalidParameter(f"the main metric needs {missing[0]}, which was not among the tasks")
        return 0.5 * sum(self.tasks[task].mean_average_precision for task in TASKS[:2])


@dataclass(frozen=True)
class Resources:
    """With what to compute; scores may differ by it where distances differ in the last bit, and nowhere else.

    Args:
        engine: ``auto``, ``numpy``, ``numba`` or ``torch``; see ``engines.choose_engine``.
        device: for the torch engine.
        precision: of distances: ``float32``, ``float64``, or ``auto``: float32 if all embeddings are (or
            are of a smaller type). Of float32, ties that are ties in exact arithmetic may break; in float64, scores
            closer than 2^-36 of their scale are tied (clusters tighter than about 4e-6 of the data's extent).
        threads: on the CPU; None for as many as the BLAS may use.
        working_bytes: memory above the inputs; at least one query's distances are held, whatever this says.
        curves: False computes average precision alone; curves are then empty and the other means NaN.
    """

    engine: str = "auto"
    device: str = "cpu"
    precision: str = "auto"
    threads: int | None = None
    working_bytes: int = WORKING_BYTES
    curves: bool = True

    def __post_init__(self) -> None:
        numbers = {
            "working_bytes": self.working_bytes,
            "threads": 1 if self.threads is None else self.threads,
        }
        for name, value in numbers.items():
            if not isinstance(value, int | np.integer) or value < 1:
                raise InvalidParameter(f"{name} must be a whole number of at least 1, got {value!r}")


def evaluate(
    images: NDArray[Any],
    texts: NDArray[Any],
    labels: NDArray[Any],
    protocol: Protocol = DEFAULT,
    *,
    tasks: tuple[str, ...] = TASKS,
    **resources: Any,
) -> Scores:
    """Score paired embeddings: row i of ``images``, ``texts`` and ``labels`` is one item.

    Args:
        images: (n, k) embeddings; any array of real numbers, a memory map too.
        texts: (n, k) embeddings.
        labels: (n,) int or (n, c) multi-hot; two items are relevant to each other if they share a class, one
            without a class to none.
        protocol: what to compute.
        tasks: which of :data:`TASKS`.
        **resources: see :class:`Resources`.

    Raises:
        InvalidInput: shapes differ, or a value is not finite; the message names the row.
    """
    paired = Paired(images, texts, labels, protocol)
    found: dict[str, TaskScores] = {}
    name = ""
    for task in tasks:
        name, found[task] = _score(*paired.task(task), protocol, Resources(**resources))
    return Scores(protocol, name, found)


def retrieve(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    query_labels: NDArray[Any],
    gallery_labels: NDArray[Any],
    protocol: Protocol = DEFAULT,
    **resources: Any,
) -> TaskScores:
    """Score one retrieval task between any two sets of embeddings, (q, k) against (g, k).

    The arguments are those of :func:`evaluate`; there is no query item in the gallery to leave out.
    """
    left = check_labels(query_labels, None, "query labels", unlabelled=True)
    right = check_labels(gallery_labels, None, "gallery labels", unlabelled=True)
    q, g = check_rows(queries, "queries"), check_rows(gallery, "gallery")
    if q.width != g.width or left.shape[1:] != right.shape[1:]:
        raise InvalidInput(
            f"retrieve: queries {q.array.shape} and gallery {g.array.shape}, or their labels, do not fit together"
        )
    if len(q) != len(left) or len(g) != len(right):
        raise InvalidInput(
            f"retrieve: {len(q)} queries, {len(left)} labels; {len(g)} items, {len(right)} labels"
        )
    return _score(q, [g], left, [right], None, protocol, Resources(**resources))[1]


def evaluator_digest() -> str:
    """Digest of the evaluator's source: equal digests compute equal numbers."""
    return source_digest(sorted(Path(__file__).parent.glob("*.py")))


def _score(
    queries: Rows,
    gallery: Sequence[Rows],
    query_labels: NDArray[Any],
    gallery_labels: Sequence[NDArray[Any]],
    excluded: NDArray[np.int64] | None,
    protocol: Protocol,
    resources: Resources,
) -> tuple[str, TaskScores]:
    n, items = len(queries), sum(map(len, gallery))
    memory = resources.working_bytes
    half = max(1, memory // 2)
    engine = choose_engine(resources.engine, resources.device, resources.threads, half, n * items)
    comparison = compare(queries, gallery, protocol.similarity, resources.precision, memory * 3 // 8)
    size = items - (excluded is not None)
    measures = Measures(protocol, size, resources.curves)
    ties: Any = protocol.ties if "index" in protocol.ties else "groups"
    task = Task(comparison, Relevance(query_labels, gallery_labels), excluded, ties)
    totals = _Totals()

    def measure(at: slice, groups: Groups) -> BlockScores:
        return measures(groups, at.stop - at.start)

    engine.run(task, measure, totals.add)
    return f"{engine.name} {comparison.dtype}", _summary(totals, query_labels, comparison, size, protocol)


class _Totals:
    """Scores of all blocks: values of queries side by side, curves added up, so that memory does not grow by them."""

    def __init__(self) -> None:
        self._values: dict[str, list[NDArray[np.float64]]] = {}
        self._sums: dict[str, Any] = {}

    def add(self, block: BlockScores) -> None:
        for field in ("average_precision", "chance", "r_precision", "reciprocal_rank"):
            self._values.setdefault(field, []).append(getattr(block, field))
        for field in ("precision", "recall", "ndcg", "interpolated"):
            self._sums[field] = self._sums.get(field, 0) + getattr(block, field)

    def values(self, field: str) -> NDArray[np.float64]:
        return np.concatenate(self._values[field])

    def curve(self, field: str) -> NDArray[np.float64]:
        return np.asarray(self._sums[field])


def _summary(
    totals: _Totals,
    labels: NDArray[Any],
    comparison: Comparison,
    size: int,
    protocol: Protocol,
) -> TaskScores:
    average = totals.values("average_precision")
    answered = np.isfinite(average)
    n_answered = int(answered.sum())

    def mean(values: NDArray[np.float64]) -> float:
        return float(values[answered].mean()) if n_answered and len(values) else float("nan")

    def curve(field: str) -> NDArray[np.float64]:
        return totals.curve(field) / (n_answered or np.nan)

    known = labels[answered]
    if labels.ndim == 2:
        classes = np.flatnonzero(known.any(axis=0))
        sums, counts = average[answered] @ known[:, classes], known[:, classes].sum(axis=0)
    else:
        classes, codes, counts = np.unique(known, return_inverse=True, return_counts=True)
        sums = np.bincount(codes, weights=average[answered], minlength=len(classes))
    per_class = {int(label): float(value) for label, value in zip(classes, sums / counts, strict=True)}
    return TaskScores(
        mean_average_precision=mean(average),
        average_precision=average,
        chance=mean(totals.values("chance")),
        precision=curve("precision"),
        recall=curve("recall"),
        ndcg=curve("ndcg"),
        interpolated_precision=curve("interpolated"),
        r_precision=mean(totals.values("r_precision")),
        mean_reciprocal_rank=mean(totals.values("reciprocal_rank")),
        per_class=per_class,
        n_queries=comparison.n,
        n_unanswerable=comparison.n - n_answered,
        n_zero_norm=comparison.n_zero_norm,
        gallery=size,
    )
