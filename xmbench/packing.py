"""Average precision of queries in few bytes, with a mean that is still exact to a millionth.

A committed leaderboard keeps the AP of every query, so that each mean in its records can be made again. Digits that
no mean needs do not compress, so they are not kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEAN_ERROR = 5e-7
"""By how much the mean of unpacked values may differ from that of the given ones."""

_ABSENT = 0xFFFF  # a query without an answer


def pack(values: NDArray[Any]) -> NDArray[Any]:
    """AP of queries as whole numbers of steps, or as float32 where there are fewer than 16 to average.

    A step is about N millionths for N values that are defined. They are rounded up or down so that their sum is
    exact to half a step: each is within one step, their mean within ``MEAN_ERROR``.

    Args:
        values: (n,) between 0 and 1; NaN where a query has no answer.

    Returns:
        (2, n) uint8, low and high bytes apart since they compress better so, or (n,) float32.

    Raises:
        ValueError: a value is above 1 or below 0.
    """
    known = ~np.isnan(values)
    if not ((values[known] >= 0) & (values[known] <= 1)).all():
        raise ValueError("an average precision is not between 0 and 1")
    steps = _steps(int(known.sum()))
    if steps is None:
        return values.astype(np.float32)
    exact = values[known].astype(np.float64) * steps
    whole = np.floor(exact)
    up = round(float(exact.sum() - whole.sum()))
    whole[np.argsort(whole - exact, kind="stable")[:up]] += 1  # the largest remainders
    codes = np.full(len(values), _ABSENT, dtype=np.uint16)
    codes[known] = whole
    return np.stack([codes & 0xFF, codes >> 8]).astype(np.uint8)


def unpack(packed: NDArray[Any]) -> NDArray[Any]:
    """What :func:`pack` packed; other arrays are given back.

    Returns:
        (n,) float64, or float32.

    Raises:
        ValueError: no such array.
    """
    if packed.dtype != np.uint8:
        return packed
    if packed.ndim != 2 or len(packed) != 2:
        raise ValueError("packed average precision has two rows of bytes")
    codes = packed[0].astype(np.uint16) | packed[1].astype(np.uint16) << 8
    known = codes != _ABSENT
    steps = _steps(int(known.sum()))
    if steps is None or (codes[known] > steps).any():
        raise ValueError("packed average precision is above 1")
    return np.where(known, codes / steps, np.nan)


def _steps(n: int) -> int | None:
    """Steps between 0 and 1 for the mean of n values; None where two bytes do not hold them."""
    steps = math.ceil(0.5 / (MEAN_ERROR * n)) if n else _ABSENT
    return steps if steps < _ABSENT else None
