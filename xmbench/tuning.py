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
from xmbench.errors import DeadlineExceeded, Unsupported, UsageError, XmbenchError
from xmbench.method import FitContext, Method
from xmbench.reuse import Pieces

Mode = Literal["grid", "random"]

BUDGET = 12
"""Trials of each method in a published table."""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate: its parameters, its validation score, and what it took."""

    params: dict[str, Any]
    score: float | None
    """Mean of image->text and text->image MAP of the validation rows, default protocol; None if it failed, or
    the whole run did."""
    seconds: float
    reason: str | None = None
    """Why it failed."""


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the parameters of a run were chosen: the highest validation score, the first of equal ones."""

    mode: Mode
    budget: int
    trials: list[Trial]
    chosen: int | None
    """Index of the winner among the trials; None where the run did not finish."""

    def __post_init__(self) -> None:
        if self.chosen != winner(self.trials):
            raise ValueError("the chosen trial is not the first one with the highest validation score")


def winner(trials: Sequence[Trial]) -> int | None:
    """Index of the highest score, the first of equal ones; None if no trial has a score."""
    scored = [(trial.score, -number) for number, trial in enumerate(trials) if trial.score is not None]
    return -max(scored)[1] if scored else None


def candidates(
    params: Mapping[str, Any],
    grid: Mapping[str, Sequence[object]],
    fixed: Sequence[str],
    mode: Mode,
    budget: int,
    seed: int,
) -> list[dict[str, Any]]:
    """What tuning tries: combinations of the grid, and nothing else.

    ``grid`` takes every combination, ``random`` a seeded draw of ``budget`` of them without replacement (every one
    where these are no more than that). Defaults have no place of their own: rows of other splits chose them.

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
    free = {name: [_plain(value) for value in values] for name, values in grid.items() if name not in fixed}
    n = math.prod(map(len, free.values()))
    numbers: Sequence[int] = range(n)
    if n > budget:
        if mode == "grid":
            raise UsageError(
                f"the grid over {', '.join(free)} takes {n} trials, the budget allows {budget}: raise --budget, "
                "or take --tune random"
            )
        numbers = np.random.default_rng(seed).choice(n, size=budget, replace=False).tolist()
    found: list[dict[str, Any]] = []
    for number in numbers:
        candidate, rest = dict(params), number
        for name, values in free.items():
            rest, index = divmod(rest, len(values))
            candidate[name] = values[index]
        if candidate not in found:
            found.append(candidate)
    return found


def _plain(value: object) -> object:
    """A number of numpy's as one of Python's, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def tune(
    make: Callable[[Mapping[str, Any]], Method],
    wanted: Sequence[Mapping[str, Any]],
    train: Pairs,
    validation: Pairs,
    context: FitContext,
) -> tuple[Method, list[Trial], int]:
    """Fit every candidate on the training pairs; keep the one with the highest validation score.

    A candidate that fails, or has no score, costs a trial, unless all of them do. What depends on the training
    pairs alone is computed once, and dropped at the end: see :class:`xmbench.reuse.Pieces`.

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
    pieces = Pieces(train)
    failure: Exception | None = None
    for number, params in enumerate(wanted):
        context.check_deadline()
        progress = partial(_report, context.progress, f"trial {number + 1} of {len(wanted)}")
        progress("fitting", None)
        start = time.perf_counter()
        try:
            method = make(params)
            method.fit(train, validation, context=replace(context, progress=progress, pieces=pieces))
            score = float(context.validation_score(method))
            if not math.isfinite(score):
                raise Unsupported(
                    "no validation row has a relevant one among the others, so that nothing can be chosen"
                )
        except DeadlineExceeded:
            raise
        except Exception as error:  # a method may raise anything
            failure = failure or error
            trials.append(Trial(dict(params), None, time.perf_counter() - start, _reason(error)))
            continue
        trials.append(Trial(dict(params), score, time.perf_counter() - start))
        if best is None or score > best[0]:
            best = (score, number, method)
    if best is None:
        assert failure is not None
        raise failure
    return best[2], trials, best[1]


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, XmbenchError) else f"{type(error).__name__}: {error}"
    return text if len(text) <= 300 else text[:300] + " ..."


def _report(
    report: Callable[[str, float | None], None], trial: str, message: str, fraction: float | None = None
) -> None:
    report(f"{trial}: {message}", fraction)
