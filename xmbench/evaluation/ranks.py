"""From distances to ranks: four integers for each group of tied items that holds a relevant one.

Every metric is a closed form of these (``metrics.py``), so engines can differ in speed and in nothing else.

A distance and the relevance of its item are packed into one integer: the bits of a float, read as an integer,
order like the float (after negative ones are turned round), and one bit is free, since a float32 below 1.5 has
the top bit of its exponent clear, and float64 distances are rounded to a grid. So one values-only sort, several
times as fast as an argsort, brings every relevant item to its place, behind the irrelevant ones that it is tied
with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xmbench.evaluation.similarity import Comparison

BLOCK_BYTES = 2**20
"""Packed distances that are sorted and scanned at a time: what a core's cache holds."""


class Groups(NamedTuple):
    """Tie groups of a block of queries, one entry a group, ordered by query and then by rank; (n,) int64 each.

    Args:
        query: index of the query within the block.
        above: items that are nearer.
        tied: items at this distance, >= 1.
        relevant_above: relevant items that are nearer.
        relevant_tied: relevant items at this distance, >= 1.
    """

    query: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    relevant_above: NDArray[np.int64]
    relevant_tied: NDArray[np.int64]


class Relevance:
    """Which items of a gallery are relevant to which query: those that share a class.

    Args:
        query_labels: (q,) int, or (q, c) multi-hot.
        gallery_labels: the same of the gallery, in one part or more.
    """

    def __init__(self, query_labels: NDArray[Any], gallery_labels: Sequence[NDArray[Any]]) -> None:
        self.labels = query_labels
        self.gallery_labels = tuple(gallery_labels)
        if query_labels.ndim == 1:
            known = np.unique(query_labels)
            self._classes = np.searchsorted(known, query_labels)
            self._offsets = np.arange(len(query_labels) + 1)
            codes, rows = [], []
            start = 0
            for part in gallery_labels:
                code = np.minimum(np.searchsorted(known, part), len(known) - 1)
                found = np.flatnonzero(known[code] == part)
                codes.append(code[found])
                rows.append((found + start).astype(np.int32))
                start += len(part)
            n_classes = len(known)
        else:
            queries, self._classes = np.nonzero(query_labels)
            self._offsets = np.searchsorted(queries, np.arange(len(query_labels) + 1))
            codes, rows = [], []
            start = 0
            for part in gallery_labels:
                found, code = np.nonzero(part)
                codes.append(code)
                rows.append((found + start).astype(np.int32))
                start += len(part)
            n_classes = query_labels.shape[1]
        code = np.concatenate(codes)
        order = np.argsort(code, kind="stable")
        self.items = np.concatenate(rows)[order]
        """(p,) int32: gallery rows, class after class; those of class c begin at ``starts[c]``."""
        self.starts = np.searchsorted(code[order], np.arange(n_classes + 1))

    def of(self, query: int) -> NDArray[np.int32]:
        """Rows of the items relevant to a query; one that shares two classes with it is there twice."""
        classes = self._classes[self._offsets[query] : self._offsets[query + 1]]
        if len(classes) == 1:
            return self.items[self.starts[classes[0]] : self.starts[classes[0] + 1]]
        return np.concatenate(
            [self.items[:0], *(self.items[self.starts[c] : self.starts[c + 1]] for c in classes)]
        )

    def mask(self, at: slice, size: int) -> NDArray[np.bool_]:
        """(b, size): which items are relevant to some queries."""
        found: NDArray[np.bool_] = np.zeros((at.stop - at.start, size), np.bool_)
        for row, query in zip(found, range(at.start, at.stop), strict=True):
            row[self.of(query)] = True
        return found

    def postings(self, at: slice) -> tuple[NDArray[Any], ...]:
        """Offsets of some queries' classes, classes, offsets of the classes' items, items."""
        return self._offsets[at.start : at.stop + 1], self._classes, self.starts, self.items


@dataclass(frozen=True)
class Task:
    """One retrieval task, as an engine takes it.

    Args:
        comparison: distances.
        relevance: who is relevant to whom.
        excluded: (q,) a gallery row to leave out for each query, or None.
        ties: ``groups``: tied items stay together; ``index`` or ``reverse_index``: they stand in the
            order of the gallery or against it, and each is a group of its own.
    """

    comparison: Comparison
    relevance: Relevance
    excluded: NDArray[np.int64] | None
    ties: Literal["groups", "index", "reverse_index"]

    @property
    def block(self) -> int:
        """Queries that go together. It depends on the task alone, so that sums are the same everywhere."""
        return max(1, BLOCK_BYTES // (self.comparison.size * self.comparison.dtype.itemsize))


# -- kernels ----------------------------------------------------------------------------------------


def order_bits(distances: NDArray[Any], scratch: NDArray[Any]) -> NDArray[Any]:
    """Integers that order as the distances do, with the lowest bit clear, in the same memory.

    Args:
        distances: (b, g) float32 within (-1.5, 1.5), or float64.
        scratch: (b, g) int32 or int64 of the same size, overwritten.
    """
    distances += 0.0  # no -0.0
    keys = distances.view(scratch.dtype)
    np.right_shift(keys, 8 * keys.itemsize - 1, out=scratch)
    unsigned = scratch.view(f"u{keys.itemsize}")
    unsigned >>= 1  # all bits but the sign, for negative distances
    keys ^= scratch
    if keys.itemsize == 4:
        keys <<= 1
    else:
        keys &= -2
    return keys


def tie_groups(flat: Any, positions: Any, width: int, rows: Any, xp: Any) -> tuple[Any, ...]:
    """Columns of :class:`Groups` from packed, sorted rows; for arrays of numpy and of torch.

    Args:
        flat: the rows, one after the other; the lowest bit says relevant.
        positions: where that bit is set, in order.
        width: length of a row.
        rows: 0, 1, ... for each row.
        xp: the module that the arrays are of.
    """
    if not len(positions):
        return (positions,) * 5
    query, key, zero = positions // width, flat[positions], 0 * positions[:1]
    inner = 1 + xp.argwhere((key[1:] != key[:-1]) | (query[1:] != query[:-1])).reshape(-1)
    begin, end = xp.concatenate([zero, inner]), xp.concatenate([inner, zero + len(positions)])
    query, key, start, relevant_tied = query[begin], key[begin], positions[begin], end - begin
    relevant_above = begin - xp.searchsorted(positions, rows * width)[query]
    left, stop = query * width, start + relevant_tied
    # irrelevant items at the same distance come right before: find the first of them
    mixed = xp.argwhere((start > left) & (flat[start - 1] == key - 1)).reshape(-1)
    low, high, target = left[mixed], start[mixed] - 1, key[mixed] - 1
    while bool((low < high).any()):
        middle = (low + high) // 2
        inside = flat[middle] == target
        low, high = xp.where(inside, low, middle + 1), xp.where(inside, middle, high)
    start[mixed] = low
    return query, start - left, stop - start, relevant_above, relevant_tied


def numpy_groups(distances: NDArray[Any], scratch: NDArray[Any], at: slice, task: Task) -> Groups:
    """Tie groups of a block of distances (b, g), which are overwritten; as all that follow here."""
    keys = order_bits(distances, scratch)
    for row, query in zip(keys, range(at.start, at.stop), strict=True):
        row[task.relevance.of(query)] |= 1
    put_last(keys, at, task)
    keys.sort(axis=1)
    flat = keys.reshape(-1)
    relevant = flat.view(np.uint8)[:: flat.itemsize] if np.little_endian else flat.astype(np.uint8)
    positions = np.flatnonzero((relevant & 1).view(np.bool_))
    return Groups(*tie_groups(flat, positions, keys.shape[1], np.arange(len(keys)), np))


def numba_groups(distances: NDArray[Any], scratch: NDArray[Any], at: slice, task: Task) -> Groups:
    """The same, compiled."""
    from xmbench.evaluation.compiled import pack, scan

    keys = distances.view(scratch.dtype)
    n = pack(keys, 8 * keys.itemsize - 1, *task.relevance.postings(at))
    n -= put_last(keys, at, task)
    keys.sort(axis=1)
    columns: NDArray[np.int64] = np.empty((5, n), np.int64)
    return Groups(*columns[:, : scan(keys, columns)])


def index_groups(distances: NDArray[Any], scratch: NDArray[Any], at: slice, task: Task) -> Groups:
    """Every relevant item as a group of its own, ties in the order of the gallery, or against it."""
    keys = order_bits(distances, scratch)
    relevant = task.relevance.mask(at, keys.shape[1])
    if task.excluded is not None:
        relevant[np.arange(len(keys)), task.excluded[at]] = False
    put_last(keys, at, task)
    if task.ties == "reverse_index":
        keys, relevant = keys[:, ::-1], relevant[:, ::-1]
    order = np.argsort(keys, axis=1, kind="stable")
    query, above = (np.asarray(found) for found in np.nonzero(np.take_along_axis(relevant, order, axis=1)))
    ones = np.ones_like(query)
    return Groups(query, above, ones, np.arange(len(query)) - np.searchsorted(query, query), ones)


def put_last(keys: NDArray[Any], at: slice, task: Task) -> int:
    """Put the excluded item of each query behind all others, as an irrelevant one.

    Returns:
        How many of them were marked as relevant.
    """
    if task.excluded is None:
        return 0
    rows, items = np.arange(len(keys)), task.excluded[at]
    marked = int((keys[rows, items] & 1).sum())
    keys[rows, items] = np.iinfo(keys.dtype).max - 1
    return marked
