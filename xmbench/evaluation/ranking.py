"""Ranked lists, item by item, from the distances that the scores are made of: for display and for export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidInput, InvalidParameter
from xmbench.evaluation.pairs import Paired, compare
from xmbench.evaluation.ranks import Relevance, Task, order_bits, put_last
from xmbench.protocol import DEFAULT, Protocol


@dataclass(frozen=True)
class Ranking:
    """The head of the ranked lists of a block of b queries.

    Args:
        query: (b,) int64, rows of the queries.
        items: (b, k) int64, gallery rows, nearest first, tied ones in the order of the gallery. In galleries
            of all items, 0..n-1 are the images and n..2n-1 the texts. An excluded query is not among them.
        above: (b, k) int64, how many items of the gallery are strictly nearer.
        similarity: (b, k) float64: cosine, inner product, or the negated squared distance.
        relevant: (b, k) bool.
    """

    query: NDArray[np.int64]
    items: NDArray[np.int64]
    above: NDArray[np.int64]
    similarity: NDArray[np.float64]
    relevant: NDArray[np.bool_]


def rank(
    images: NDArray[Any],
    texts: NDArray[Any],
    labels: NDArray[Any],
    task: str,
    protocol: Protocol = DEFAULT,
    *,
    queries: Sequence[int] | NDArray[np.int64] | None = None,
    top: int | None = None,
    precision: str = "auto",
) -> Iterator[Ranking]:
    """Ranked lists of paired embeddings, block by block of queries, under a protocol's similarity.

    Args:
        images: (n, d) embeddings.
        texts: (n, d) embeddings.
        labels: (n,) int or (n, c) multi-hot.
        task: one of ``evaluation.TASKS``.
        protocol: its similarity, its changes to the embeddings, and whether the query is left in its gallery.
        queries: rows of the queries; None for all.
        top: length of the lists; None, or more than the gallery holds, for the whole gallery.
        precision: see ``evaluation.Resources``.

    Raises:
        InvalidInput: embeddings or labels do not fit together, or a row of ``queries`` is not there.
        InvalidParameter: ``top`` is below 1.
    """
    if top is not None and top < 1:
        raise InvalidParameter(f"top must be at least 1, got {top}")
    rows, gallery, own_labels, gallery_labels, excluded = Paired(images, texts, labels, protocol).task(task)
    chosen = np.arange(len(rows)) if queries is None else np.asarray(queries)
    if chosen.size and not (
        chosen.ndim == 1 and chosen.dtype.kind in "iu" and chosen.min() >= 0 and chosen.max() < len(rows)
    ):
        raise InvalidInput(f"queries: expected rows from 0 to {len(rows) - 1}, got {chosen.tolist()}")
    chosen = chosen.astype(np.int64)
    if not chosen.size:
        return
    if queries is not None:
        rows = replace(rows, array=rows.array[chosen])
        own_labels, excluded = own_labels[chosen], None if excluded is None else excluded[chosen]
    comparison = compare(rows, gallery, protocol.similarity, precision)
    work = Task(comparison, Relevance(own_labels, gallery_labels), excluded, "index")
    length = comparison.size - (excluded is not None)
    length = length if top is None else min(top, length)
    for start in range(0, len(chosen), work.block):
        at = slice(start, min(start + work.block, len(chosen)))
        yield _block(work, at, chosen[at], length)


def _block(task: Task, at: slice, query: NDArray[np.int64], length: int) -> Ranking:
    comparison = task.comparison
    distances = np.empty((len(query), comparison.size), comparison.dtype)
    block = comparison.queries(at)
    comparison.products(block, distances)
    comparison.finish(distances, block)
    similarity = comparison.similarities(distances, at)
    keys = order_bits(distances, np.empty(distances.shape, f"i{comparison.dtype.itemsize}"))
    put_last(keys, at, task)
    items = np.argsort(keys, axis=1, kind="stable")[:, :length]
    keys = np.take_along_axis(keys, items, axis=1)
    above = np.zeros(keys.shape, np.int64)
    above[:, 1:] = np.where(keys[:, 1:] != keys[:, :-1], np.arange(1, length), 0)
    relevant = task.relevance.mask(at, comparison.size)
    return Ranking(
        query=query,
        items=items,
        above=np.maximum.accumulate(above, axis=1),
        similarity=np.take_along_axis(similarity, items, axis=1),
        relevant=np.take_along_axis(relevant, items, axis=1),
    )
