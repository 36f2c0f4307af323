"""Hyper-parameters by validation: candidates from a method's grid, a ledger of trials, and one winner.

The candidates are known before anything is fitted, so that they are part of what a run is named by. Test rows
have no way in here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from xmbench.data import Pairs
from xmbench.errors import DeadlineExceeded, UsageError, XmbenchError
from xmbench.method import FitContext, Method

Mode = Literal["grid", "random"]

BUDGET = 12
"""Trials of each method in a published table."""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate: its parameters, its validation score, and what it took."""

    params: dict[str, Any]
    score: float | None
    """Mean of image->text and text->image MAP of the validation rows, default protocol; None if it failed."""
    seconds: float
    reason: str | None = None
    """Why it failed."""


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the parameters of a run were chosen: the highest validation score, the first of equal ones."""

    mode: Mode
    budget: int
    trials: list[Trial]
    chosen: int
    """Index of the winner among the trials."""


def candidates(
    params: Mapping[str, Any],
    grid: Mapping[str, Sequence[object]],
    fixed: Sequence[str],
    mode: Mode,
    budget: int,
    seed: int,
) -> list[dict[str, Any]]:
    """What tuning tries: the parameters as they are, then others of the grid.

    ``grid`` takes every combination, ``random`` a seeded draw of ``budget`` from them without replacement (all
    of them where they are no more than that).

    Args:
        params: all parameters, as resolved.
        grid: parameter -> values.
        fixed: parameters set by hand, which stay.
        mode: ``grid`` or ``random``.
        budget: trials at most.
        seed: of the draw.

    Raises:
        UsageError: ``grid``, and there are more combinations than the budget allows.
    """
    free = {name: list(values) for name, values in grid.items() if name not in fixed}
    n = math.prod(map(len, free.values()))
    combinations = np.arange(n) if n <= 4 * budget else None
    if n > budget:
        if mode == "grid":
            raise UsageError(
                f"the grid over {', '.join(free)} has {n} combinations, the budget allows {budget}: raise --budget, "
                "or take --tune random"
            )
        combinations = np.random.default_rng(seed).choice(n, size=budget, replace=False)
    found = [dict(params)]
    for number in combinations if combinations is not None else ():
        candidate, rest = dict(params), int(number)
        for name, values in free.items():
            rest, index = divmod(rest, len(values))
            candidate[name] = values[index]
        if candidate not in found:
            found.append(candidate)
    return found[:budget]


def tune(
    make: Callable[[Mapping[str, Any]], Method],
    wanted: Sequence[Mapping[str, Any]],
    train: Pairs,
    validation: Pairs,
    context: FitContext,
) -> tuple[Method, list[Trial], int]:
    """Fit every candidate on the training pairs; keep the one with the highest validation score.

    A candidate that fails costs a trial, unless all of them do.

    Args:
        make: parameters -> an unfitted method.
        wanted: parameters of each candidate.
        train: training pairs.
        validation: validation pairs.
        context: with a validation score.

    Returns:
        The fitted winner, the ledger, and the winner's index in it.
    """
    assert context.validation_score is not None
    trials: list[Trial] = []
    best: tuple[float, int, Method] | None = None
    previous: Method | None = None
    failure: Exception | None = None
    for number, params in enumerate(wanted):
        context.check_deadline()
        progress = partial(_report, context.progress, f"trial {number + 1} of {len(wanted)}")
        progress("fitting", None)
        start = time.perf_counter()
        try:
            method = make(params)
            if previous is not None:
                method.share(previous)
            method.fit(train, validation, context=replace(context, progress=progress))
            score = context.validation_score(method)
        except DeadlineExceeded:
            raise
        except (XmbenchError, ArithmeticError, ValueError) as error:
            failure = failure or error
            trials.append(Trial(dict(params), None, time.perf_counter() - start, str(error)[:300]))
            continue
        trials.append(Trial(dict(params), float(score), time.perf_counter() - start))
        previous = method
        if best is None or score > best[0]:
            best = (score, number, method)
    if best is None:
        assert failure is not None
        raise failure
    best[2].forget_shared()
    return best[2], trials, best[1]


def _report(
    report: Callable[[str, float | None], None], trial: str, message: str, fraction: float | None = None
) -> None:
    report(f"{trial}: {message}", fraction)
