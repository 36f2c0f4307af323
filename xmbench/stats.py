"""Differences between methods over splits of one dataset, with intervals that know the splits overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidInput

Verdict = Literal["holds", "fails", "not resolved"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences a - b over splits.

    Args:
        mean: of the differences.
        low: lower end of the confidence interval.
        high: upper end.
        p_value: two-sided, of no difference.
        n_splits: how many differences there are.
    """

    mean: float
    low: float
    high: float
    p_value: float
    n_splits: int


def paired_difference(
    a: Sequence[float] | NDArray[np.float64],
    b: Sequence[float] | NDArray[np.float64],
    *,
    n_train: float,
    n_test: float,
    confidence: float = 0.95,
) -> Difference:
    """Corrected resampled t interval of the mean of a - b, where entry i of both is of the same split.

    Random splits of one dataset share training rows, so that their differences are correlated and the usual
    standard error is far too small. Nadeau and Bengio ("Inference for the generalization error", Machine
    Learning 52, 2003, section 3) put 1/J + n_test/n_train in the place of 1/J, for J splits.

    Args:
        a: (J,) scores of one method.
        b: (J,) scores of the other, on the same splits.
        n_train: rows that a fit learned from.
        n_test: rows that it was scored on.
        confidence: of the interval.

    Raises:
        InvalidInput: fewer than two splits, or numbers that are not finite.
    """
    from scipy import stats

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = np.stack([first, second]) if first.shape == second.shape else np.empty((2, 0))
    if both.ndim != 2 or both.shape[1] < 2 or not np.isfinite(both).all():
        raise InvalidInput("a difference needs finite scores of both methods on at least two common splits")
    if not (n_train > 0 and 0 < n_test < math.inf and 0 < confidence < 1):
        raise InvalidInput("a difference needs positive n_train and n_test, and a confidence between 0 and 1")
    d = both[0] - both[1]
    J, mean = len(d), float(d.mean())
    error = math.sqrt((1 / J + n_test / n_train) * float(d.var(ddof=1)))
    rounding = 1e-15 * float(np.abs(both).max())
    if error <= 2 * rounding:  # the same difference on every split
        return Difference(mean, mean, mean, 1.0 if abs(mean) <= rounding else 0.0, J)
    half = float(stats.t.ppf(0.5 + confidence / 2, J - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, J - 1))
    return Difference(mean, mean - half, mean + half, p_value, J)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for there being several of them: Holm's step-down procedure.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def verdict(difference: Difference, adjusted: float, level: float = 0.05) -> Verdict:
    """Whether the claim that a is above b ``holds``, ``fails`` (b is above a), or is ``not resolved``.

    Args:
        difference: of a and b.
        adjusted: its p value after :func:`holm`.
        level: below which a difference counts.
    """
    if adjusted >= level or difference.mean == 0:
        return "not resolved"
    return "holds" if difference.mean > 0 else "fails"
