"""The kernels of ``ranks.py`` that numba compiles: an accelerator, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _compiled(function: Callable[..., int]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the cache can be written to: compiled anew in every process
        return numba.njit(nogil=True)(function)


@_compiled
def pack(keys: Any, top: int, offsets: Any, classes: Any, starts: Any, items: Any) -> int:
    """``ranks.order_bits`` in place, and the lowest bit set for relevant items; returns how many there are.

    Args:
        keys: (b, g) bits of float32 or float64 distances, as int32 or int64.
        top: number of the highest bit.
        offsets, classes, starts, items: see ``ranks.Relevance.postings``.
    """
    n = 0
    sign = keys.dtype.type(-1) << keys.dtype.type(top)
    shift = keys.dtype.type(1 if top == 31 else 0)
    for i in range(keys.shape[0]):
        row = keys[i]
        for j in range(row.shape[0]):
            key = row[j]
            if key < 0:
                key = sign - key
            row[j] = (key << shift) & keys.dtype.type(-2)
        for k in range(offsets[i], offsets[i + 1]):
            for p in range(starts[classes[k]], starts[classes[k] + 1]):
                n += 1 - (row[items[p]] & 1)
                row[items[p]] |= keys.dtype.type(1)
    return n


@_compiled
def scan(keys: Any, columns: Any) -> int:
    """``ranks.tie_groups`` of packed, sorted rows (b, g), into ``columns`` (5, n); returns how many groups."""
    n = 0
    positions = np.empty(keys.shape[1] + 1, np.int32)
    for i in range(keys.shape[0]):
        row = keys[i]
        found = 0
        for j in range(row.shape[0]):  # without a branch
            positions[found] = j
            found += row[j] & 1
        k = 0
        while k < found:
            start, first, key = positions[k], k, row[positions[k]]
            while k < found and row[positions[k]] == key:
                k += 1
            stop = start + k - first
            if start > 0 and row[start - 1] == key - 1:
                start = np.searchsorted(row[:start], key - 1)
            columns[0, n] = i
            columns[1, n] = start
            columns[2, n] = stop - start
            columns[3, n] = first
            columns[4, n] = k - first
            n += 1
    return n
