"""Ranked lists: which items a query retrieves, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import check_labels
from xmbench.errors import InvalidInput, InvalidParameter, UnknownName
from xmbench.evaluation.counts import _guard
from xmbench.protocol import DEFAULT, Protocol

_BLOCK_BYTES = 100 * 2**20
_BYTES_PER_SCORE = 80


@dataclass(frozen=True)
class Ranking:
    """The ranked lists of a block of b queries.

    Args:
        query: (b,) rows of the queries.
        items: (b, top) gallery rows, best first, ties by gallery row; in the all-modal galleries 0..n-1 are the
            images, n..2n-1 the texts. A query item that the protocol excludes is not among them.
        above: (b, top) number of gallery items with a strictly higher score.
        scores: (b, top) cosine, inner product, or minus the squared distance.
        relevant: (b, top) whether the item shares a class with the query.
    """

    query: NDArray[np.int64]
    items: NDArray[np.int64]
    above: NDArray[np.int64]
    scores: NDArray[np.float64]
    relevant: NDArray[np.bool_]


def rank(
    images: NDArray[Any],
    texts: NDArray[Any],
    labels: NDArray[Any],
    task: str,
    protocol: Protocol = DEFAULT,
    *,
    queries: NDArray[np.int64] | None = None,
    top: int | None = None,
) -> Iterator[Ranking]:
    """Ranked lists of paired embeddings, block by block; two scores are tied if the evaluator says so.

    Args:
        images: (n, k) embeddings.
        texts: (n, k) embeddings.
        labels: (n,) int or (n, c) multi-hot.
        task: one of ``TASKS``.
        protocol: for similarity, post-processing and the exclusion of the query.
        queries: rows of the queries, in the order wanted; None for all.
        top: length of the lists; None for the whole gallery.

    Raises:
        InvalidInput: shapes differ, a value is not finite, or a query is no row.
        InvalidParameter: ``top`` is below 1.
    """
    from xmbench.evaluation import TASKS, _check_embedding, _comparable, _zscore

    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    if top is not None and top < 1:
        raise InvalidParameter(f"top must be at least 1, got {top}")
    source, target = task.split("->")
    classes = check_labels(labels, None)
    raw = {
        "image": _check_embedding(images, "image embeddings"),
        "text": _check_embedding(texts, "text embeddings"),
    }
    n = len(classes)
    if {len(rows) for rows in raw.values()} != {n} or raw["image"].shape != raw["text"].shape:
        raise InvalidInput("rank: expected image embeddings, text embeddings and labels of equal length")
    chosen = np.arange(n) if queries is None else np.asarray(queries, dtype=np.int64)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < n):
        raise InvalidInput(f"rank: queries must be rows 0..{n - 1}")
    changed = {name: _zscore(rows) if protocol.post != "none" else rows for name, rows in raw.items()}
    rows = changed if protocol.post == "test_zscore" else raw
    everything = target == "all"
    gallery = np.concatenate([rows["image"], rows["text"]]) if everything else rows[target]
    gallery_labels = np.concatenate([classes, classes]) if everything else classes
    excluded = everything and protocol.exclude_query
    size = len(gallery) - excluded
    plain = changed[source], gallery
    asked, gallery = _comparable(*plain, protocol.similarity)
    block = max(1, _BLOCK_BYTES // (_BYTES_PER_SCORE * len(gallery)))
    for start in range(0, len(chosen), block):
        mine = chosen[start : start + block]
        scores = asked[mine] @ gallery.T
        scale: Any = 1.0
        if protocol.similarity == "l2":
            squares = np.einsum("ij,ij->i", asked[mine], asked[mine])[:, None]
            scores = 2 * scores - squares - np.einsum("ij,ij->i", gallery, gallery)
            scale = squares
        guard = _guard(scale)
        scores = (scores + guard) - guard
        if classes.ndim == 1:
            relevant = classes[mine][:, None] == gallery_labels
        else:
            relevant = classes[mine].astype(np.float32) @ gallery_labels.T.astype(np.float32) > 0
        if excluded:
            scores[np.arange(len(mine)), mine + (n if source == "text" else 0)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : size if top is None else min(top, size)]
        sorted_scores = np.take_along_axis(scores, order, axis=1)
        new = np.ones(order.shape, dtype=bool)
        np.not_equal(sorted_scores[:, 1:], sorted_scores[:, :-1], out=new[:, 1:])
        if protocol.similarity != "cosine":  # compared after scaling, shown without
            scores = plain[0][mine] @ plain[1].T
            if protocol.similarity == "l2":
                squares = [np.einsum("ij,ij->i", matrix, matrix) for matrix in (plain[0][mine], plain[1])]
                scores = 2 * scores - squares[0][:, None] - squares[1]
        shown = np.take_along_axis(scores, order, axis=1)
        above = np.maximum.accumulate(np.where(new, np.arange(order.shape[1]), 0), axis=1)
        yield Ranking(mine, order, above, shown, np.take_along_axis(relevant, order, axis=1))
