"""Figures from records: precision-scope and precision-recall curves, and mean average precision by class.

A curve is a method: the mean over its runs, with a band of one sample deviation to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import read_npz
from xmbench.drawing import (
    MOST_LOOKS,
    NORMAL,
    SMALL,
    check_matplotlib,
    cut,
    dress,
    empty_panels,
    looks_of,
    own_style,
)
from xmbench.errors import InvalidRecord, MissingData, UsageError
from xmbench.evaluation import RECALL_LEVELS
from xmbench.leaderboard import BIMODAL, check_same_data, clean, group_key
from xmbench.protocol import Protocol
from xmbench.protocol import protocol as protocol_named
from xmbench.record import Record, Results
from xmbench.rescore import find, named_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUP = {
    "dataset": "--dataset",
    "split": "--split",
    "features": "--features",
    "scaling": "--scaling",
    "protocol": "--protocol",
    "tuning": "--tuned or --not-tuned",
}
"""What the runs of one figure have in common, in the order of ``group_key``, and the options that choose it."""
_NOT_TUNED = "not tuned"
_MOST_CLASSES = 1000
_TRANSDUCTIVE = "†"
TRANSDUCTIVE = "The method learns from the features of the test items (transductive)."


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and the file of the curves that lies beside it."""

    record: Record
    arrays: Path


@dataclass(frozen=True)
class Curve:
    """Mean and sample deviation over runs, where x is a position on the horizontal axis.

    Args:
        x: (n,) float64 or int64.
        mean: (n,) float64.
        deviation: (n,) float64, or None of a single run.
    """

    x: NDArray[Any]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64] | None


# -- which runs ---------------------------------------------------------------------------------------


def choose(
    results: Results,
    names: Sequence[str],
    *,
    methods: Sequence[str] = (),
    variants: bool = False,
    tuned: bool | None = None,
    **wanted: str | None,
) -> list[Run]:
    """The runs that ``names`` stand for, as ``rescore.find`` reads them; without names, all finished ones.

    Of several finished runs of the same method, data, seed and protocol in the folder, the newest stays.

    Args:
        results: the folder of records.
        names: score ids, their beginnings, or paths of records.
        methods: without names: labels of methods, such as ``cca[ridge=0.1]``; what is no label stands for all runs
            of the method of that name.
        variants: a name of a method stands for all of its runs even if it is a label too.
        tuned: without names: the tuned runs alone, or those that were not tuned; None for both.
        wanted: without names: the ``dataset``, ``split``, ``features``, ``scaling`` and ``protocol`` of the
            runs; None for any, but for the protocol ``default``.

    Raises:
        MissingData: there is no such run.
        UsageError: the runs cannot stand in one figure, or a name has no or several meanings.
        InvalidRecord: a record cannot be read, or two runs of one split were given different data.
    """
    if names:
        if methods or tuned is not None or any(value is not None for value in wanted.values()):
            raise UsageError(
                f"--method, {_options(_GROUP)} choose among all runs; leave them out, or every RECORD"
            )
        runs = [_run(results, name) for name in dict.fromkeys(names)]
        runs = list({run.record.score_id: run for run in runs}.values())
        _refuse_twins(runs)
    else:
        wanted["protocol"] = wanted.get("protocol") or "default"
        runs = _newest(results, wanted, methods, variants, tuned)
    _refuse_mixtures(runs)
    check_same_data(run.record for run in runs)
    return runs


def _run(results: Results, name: str) -> Run:
    record = find(results, name)
    path = Path(name) if name.endswith(".json") else results.record_path(record.score_id)
    return Run(record, path.with_suffix(".npz"))


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[tuple[object, ...], Record] = {}
    for run in runs:
        other = seen.setdefault(run.record.identity, run.record)
        if other is not run.record:
            raise UsageError(
                f"records {other.score_id} and {run.record.score_id} are both {clean(run.record.method.label)}, "
                f"seed {run.record.seed}; give one of them"
            )


def _newest(
    results: Results,
    wanted: Mapping[str, str | None],
    methods: Sequence[str],
    variants: bool,
    tuned: bool | None,
) -> list[Run]:
    protocol_named(str(wanted["protocol"]))
    found = results.newest()
    if not found:
        raise MissingData(f"no finished run in {results.folder}; make some with: xmbench run")
    for place, field in enumerate(_GROUP):
        value = wanted.get(field)
        if value is not None:
            known = sorted({group_key(record)[place] for record in found})
            found = [record for record in found if group_key(record)[place] == value]
            if not found:
                raise MissingData(_nothing(results, field, value, known))
    if methods:
        found = _of_methods(results, found, methods, variants)
    kept = [record for record in found if tuned in (None, record.tuning is not None)]
    if not kept:
        what = (
            "is tuned (--tuned); xmbench run --tune makes some" if tuned else f"is {_NOT_TUNED} (--not-tuned)"
        )
        raise MissingData(f"none of these {len(found)} runs in {results.folder} {what}")
    return [Run(record, results.record_path(record.score_id).with_suffix(".npz")) for record in kept]


def _of_methods(
    results: Results, records: Sequence[Record], methods: Sequence[str], variants: bool
) -> list[Record]:
    """The records of ``methods``, as :func:`choose` reads them, in the order they had."""
    found: set[str] = set()
    for method in methods:
        mine = {record.score_id for record in records if record.method.label == method}
        if variants or not mine:
            mine |= {record.score_id for record in records if record.method.name == method}
        if not mine:
            known = ", ".join(sorted({clean(record.method.label) for record in records}))
            raise MissingData(
                f"no finished run of {clean(method)} among these in {results.folder}; there are some of: {known}"
            )
        found |= mine
    return [record for record in records if record.score_id in found]


def _nothing(results: Results, field: str, value: str, known: Sequence[str]) -> str:
    others = ", ".join(map(clean, known))
    if field == "protocol":
        return (
            f"no finished run under {value} in {results.folder}; choose with --protocol among {others}, or make "
            f"them with: xmbench rescore {results.folder} --protocol {value}"
        )
    word = "on" if field == "dataset" else f"with the {field}"
    return f"no finished run {word} {clean(value)} in {results.folder}; there are some {word}: {others}"


def _refuse_mixtures(runs: Sequence[Run]) -> None:
    values = zip(*(group_key(run.record) for run in runs), strict=True)
    differ = {
        field: ", ".join(clean(value) or _NOT_TUNED for value in sorted(set(found)))
        for field, found in zip(_GROUP, values, strict=True)
        if len(set(found)) > 1
    }
    if differ:
        shown = " and ".join(f"{field} ({found})" for field, found in differ.items())
        raise UsageError(
            f"one figure takes runs on the same data under one protocol; these differ in {shown}; choose with "
            f"{_options(differ)}, or name each RECORD"
        )


def _options(fields: Iterable[str]) -> str:
    *first, last = (_GROUP[field] for field in fields)
    return f"{', '.join(first)} and {last}" if first else last


def _methods(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Label -> its runs; the best mean of image->text and text->image first, in each kind of figure."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.record.seed, run.record.dataset.split_seed or 0)):
        found.setdefault(run.record.method.label, []).append(run)
    if len(found) > MOST_LOOKS:
        raise UsageError(
            f"{len(found)} methods cannot be told apart in one figure; name the records of at most "
            f"{MOST_LOOKS}"
        )

    def score(label: str) -> tuple[float, str]:
        values = [run.record.metrics[task].mean_average_precision for run in found[label] for task in BIMODAL]
        return -float(np.mean([0.0 if value is None else value for value in values])), label

    return {label: found[label] for label in sorted(found, key=score)}


# -- what is drawn ------------------------------------------------------------------------------------


def curves(
    kind: str, runs: Sequence[Run], task: str, max_scope: int | None = None
) -> tuple[dict[str, Curve], float | None]:
    """Label -> curve of one task, and the chance level where the records tell it.

    The chance precision among the first K is the share of relevant items, for every K. That is the precision
    among all items of the gallery, known where the stored curves go so far. For ``pr`` there is none.

    Args:
        kind: ``precision-scope`` or ``pr``.
        runs: of one dataset and protocol.
        task: one of ``evaluation.TASKS``.
        max_scope: the largest K of ``precision-scope``; None for the largest that all runs have.

    Raises:
        InvalidRecord: arrays are missing, damaged, or hold no curve.
        MissingData: the runs have no precision at recall levels yet.
        UsageError: ``max_scope`` is beyond the stored curves, or no query of the task has a relevant item.
    """
    stored = {
        label: [
            _precision_at_recall(run, task) if kind == "pr" else _precision_at_k(run, task) for run in mine
        ]
        for label, mine in _methods(runs).items()
    }
    everything = [curve for mine in stored.values() for curve in mine]
    x = reduce(np.intersect1d, [curve.x for curve in everything])
    chance = None
    if kind == "precision-scope":
        if max_scope is not None and max_scope > x[-1]:
            raise UsageError(
                f"--max-scope {max_scope}: {task} is stored up to K = {x[-1]} in all of these runs"
            )
        x = x if max_scope is None else x[x <= max_scope]
        galleries = [run.record.metrics[task].gallery for mine in _methods(runs).values() for run in mine]
        if all(curve.x[-1] == size for curve, size in zip(everything, galleries, strict=True)):
            chance = float(np.mean([curve.mean[-1] for curve in everything]))
    found = {}
    for label, mine in stored.items():
        rows = np.stack([curve.mean[np.searchsorted(curve.x, x)] for curve in mine])
        found[label] = Curve(x, rows.mean(axis=0), rows.std(axis=0, ddof=1) if len(rows) > 1 else None)
    return found, chance


def _precision_at_k(run: Run, task: str) -> Curve:
    arrays = arrays_of(run)
    k, values = arrays.get(f"scopes/{task}"), arrays.get(f"precision/{task}")
    whole = k is not None and k.ndim == 1 and len(k) > 0 and k.dtype.kind in "iu"
    if k is None or not whole or k[0] != 1 or (k[1:] <= k[:-1]).any():
        raise InvalidRecord(f"{run.arrays.name}: the scopes of {task} are no numbers 1, 2, ...")
    return Curve(k, _precision(run, task, values, len(k)), None)


def _precision_at_recall(run: Run, task: str) -> Curve:
    values = arrays_of(run).get(f"interpolated_precision/{task}")
    if values is None:
        raise MissingData(
            f"record {run.record.score_id} was made without precision at recall levels; add it with: "
            f"xmbench rescore {run.arrays.parent.parent} --protocol {clean(str(run.record.protocol['name']))}"
        )
    return Curve(RECALL_LEVELS, _precision(run, task, values, len(RECALL_LEVELS)), None)


def arrays_of(run: Run) -> dict[str, NDArray[Any]]:
    """What lies beside the record of a run; raises InvalidRecord."""
    try:
        return read_npz(run.arrays)
    except (FileNotFoundError, ValueError) as error:
        raise InvalidRecord(
            f"the arrays of record {run.record.score_id} cannot be read: {clean(str(error))}"
        ) from error


def _precision(run: Run, task: str, values: NDArray[Any] | None, n: int) -> NDArray[np.float64]:
    if values is None or values.shape != (n,) or values.dtype.kind != "f":
        raise InvalidRecord(f"{run.arrays.name} holds no precision of {task} at each of {n} places")
    if run.record.metrics[task].mean_average_precision is None:
        raise UsageError(
            f"no query of {task} has a relevant item in record {run.record.score_id}; choose another --task"
        )
    if not ((values >= 0) & (values <= 1 + 1e-9)).all():
        raise InvalidRecord(f"{run.arrays.name}: a precision of {task} is not between 0 and 1")
    return values.astype(np.float64)


def by_class(runs: Sequence[Run], task: str) -> tuple[dict[str, Curve], list[str]]:
    """Label -> mean average precision of each class, and the classes that stand at x = 0, 1, ...

    A run counts for the classes that have queries in it; a class without any in all runs of a method is NaN.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.record.metrics[task].per_class))
    found = {}
    for label, mine in _methods(runs).items():
        rows = [[run.record.metrics[task].per_class.get(name) for run in mine] for name in names]
        values = [[value for value in row if value is not None] for row in rows]
        mean = np.array([np.mean(row) if row else np.nan for row in values])
        spread = np.array([np.std(row, ddof=1) if len(row) > 1 else np.nan for row in values])
        found[label] = Curve(np.arange(len(names)), mean, spread if len(mine) > 1 else None)
    return found, names


# -- the figure ---------------------------------------------------------------------------------------

_AXES = {
    "precision-scope": ("K", "precision among the first K"),
    "pr": ("recall", "interpolated precision"),
    "per-class": ("mean average precision", ""),
}
KINDS = tuple(_AXES)


def figure(
    kind: str, runs: Sequence[Run], tasks: Sequence[str] = BIMODAL, *, max_scope: int | None = None
) -> Figure:
    """One panel a task, two in a row; title, legend, and below them what a reader must know.

    Args:
        kind: one of :data:`KINDS`.
        runs: what :func:`choose` chose.
        tasks: of ``evaluation.TASKS``, one or more.
        max_scope: of ``precision-scope``: the largest K.

    Raises:
        MissingDependency: the extra ``plots`` is not installed.
        UnknownName: there is no such task.
        UsageError: as :func:`curves`, or ``max_scope`` below 2 or for another kind, or too many methods or
            classes.
        InvalidRecord, MissingData: as :func:`curves`.
    """
    check_matplotlib()
    if max_scope is not None and kind != "precision-scope":
        raise UsageError(f"--max-scope goes with precision-scope, not with {kind}")
    if max_scope is not None and max_scope < 2:
        raise UsageError(f"--max-scope {max_scope}: a curve has at least two places; give 2 or more")
    tasks = named_tasks(tasks)
    with own_style():
        return _per_class(runs, tasks) if kind == "per-class" else _curves(kind, runs, tasks, max_scope)


def _curves(kind: str, runs: Sequence[Run], tasks: Sequence[str], max_scope: int | None) -> Figure:
    drawn, panels = empty_panels(len(tasks), 2.7, sharey=True)
    handles: list[Any] = []
    chances = []
    spreads = False
    for panel, task in zip(panels, tasks, strict=True):
        found, chance = curves(kind, runs, task, max_scope)
        looks = looks_of(found)
        handles = []
        for i, (label, curve) in enumerate(found.items()):
            # markers a ninth of the panel's diagonal apart, those of different curves at different places
            every = (i / len(found) / 9, 1 / 9) if len(curve.x) > 1 else None
            handles += panel.plot(curve.x, curve.mean, markevery=every, **looks[label])
            if _spreads(curve):
                low, high = _whiskers(curve)
                panel.fill_between(
                    curve.x, curve.mean - low, curve.mean + high, color=looks[label]["color"], alpha=0.12,
                    linewidth=0,
                )  # fmt: skip
                spreads = True
        if chance is not None:
            chances.append(_chance(panel.axhline, chance))
        if kind == "precision-scope":
            _scope_axis(panel, int(curve.x[-1]))
        else:
            panel.margins(x=0.02)
        panel.set_title(_arrow(task))
        panel.set(xlabel=_AXES[kind][0])
    panels[0].set_ylim(0, min(panels[0].get_ylim()[1], 1.02))  # the panels share it
    for panel in panels[::2]:
        panel.set(ylabel=_AXES[kind][1])
    return _dress(drawn, runs, handles, chances[:1], "chance", "band" if spreads else "")


def _scope_axis(panel: Axes, last: int) -> None:
    """K from 1 to ``last`` on a logarithmic axis: a user looks at the head, the tail has most of the items."""
    panel.set_xscale("log")
    panel.set_xlim(0.92, max(last, 2) * 1.09)
    steps = (1, 2, 5) if last <= 1000 else (1,)
    ticks = [step * 10**power for power in range(len(str(last))) for step in steps]
    ticks = [tick for tick in ticks if tick <= last]
    panel.set_xticks(ticks, [f"{tick}" for tick in ticks])
    panel.set_xticks([], minor=True)


def _spreads(curve: Curve) -> bool:
    """Whether there is a deviation to draw: several runs may give one and the same curve."""
    return curve.deviation is not None and bool((curve.deviation > 1e-9).any())  # not so where it is NaN


def _whiskers(curve: Curve) -> NDArray[np.float64]:
    """(2, n): how far one deviation goes below and above the mean within 0 and 1."""
    room = np.clip([curve.mean, 1 - curve.mean], 0, None)
    return np.asarray(np.minimum(room, np.asarray(curve.deviation)))


def _per_class(runs: Sequence[Run], tasks: Sequence[str]) -> Figure:
    found = {task: by_class(runs, task) for task in tasks}
    best: dict[str, list[float]] = {}
    for methods, names in found.values():
        for j, name in enumerate(names):
            best.setdefault(name, []).extend(curve.mean[j] for curve in methods.values())
    if not best:
        raise UsageError("no class has a query with a relevant item in these runs; choose another --task")
    if len(best) > _MOST_CLASSES:
        raise UsageError(f"{len(best)} classes do not fit one figure; it takes up to {_MOST_CLASSES}")
    order = sorted(best, key=lambda name: (-float(np.nanmean(best[name])), name))
    place = {name: i for i, name in enumerate(order)}
    row = 0.3 if len(order) <= 25 else 0.2
    drawn, panels = empty_panels(len(tasks), 0.7 + row * len(order), sharey=True)
    handles: list[Any] = []
    chances = []
    spreads = False
    for panel, task in zip(panels, tasks, strict=True):
        methods, names = found[task]
        at = np.array([place[name] for name in names])
        looks = looks_of(methods)
        handles = []
        for i, (label, curve) in enumerate(methods.items()):
            y = at + 0.6 * ((i + 0.5) / len(methods) - 0.5)
            handles += panel.plot(curve.mean, y, **{**looks[label], "linestyle": "none"})
            if _spreads(curve):
                panel.errorbar(
                    curve.mean, y, xerr=_whiskers(curve), fmt="none", ecolor=looks[label]["color"], alpha=0.5,
                    lw=1,
                )  # fmt: skip
                spreads = True
        levels = [run.record.metrics[task].chance for run in runs]
        known = [level for level in levels if level is not None]
        if known:
            chances.append(_chance(panel.axvline, float(np.mean(known))))
        for i in range(0, len(order), 2):
            panel.axhspan(i - 0.5, i + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        panel.grid(visible=False, axis="y")
        panel.set_ylim(len(order) - 0.5, -0.5)
        panel.set_yticks(range(len(order)), [cut(name, 32) for name in order], parse_math=False)
        panel.tick_params(axis="y", length=0, labelsize=SMALL if row < 0.3 else NORMAL - 1)
        panel.set_title(_arrow(task))
        panel.set(xlabel=_AXES["per-class"][0])
    right = min(max(panel.get_xlim()[1] for panel in panels), 1.02)
    for panel in panels:
        panel.set_xlim(0, right)  # the same class is compared across panels
    return _dress(
        drawn, runs, handles, chances[:1], "chance, mean over all queries", "line" if spreads else ""
    )


def _chance(draw: Callable[..., Any], level: float) -> Any:
    return draw(level, color="#888888", linewidth=1, zorder=1)


def _dress(
    drawn: Figure, runs: Sequence[Run], handles: list[Any], chance: list[Any], chance_label: str, spread: str
) -> Figure:
    protocol = Protocol(**runs[0].record.protocol)
    return dress(
        drawn,
        f"{data_title(runs)}, protocol {protocol.name}",
        [*handles, *chance],
        [*_labels(runs), *([chance_label] if chance else [])],
        _notes(runs, spread),
        f"Warning: this protocol has {', '.join(protocol.flags)}." if protocol.flags else "",
    )


def data_title(runs: Sequence[Run]) -> str:
    """The data that runs of one figure have in common, in words."""
    data = runs[0].record.dataset
    return f"{data.title}, split {data.split}, features {data.inputs}, scaling {data.scaling}"


def _labels(runs: Sequence[Run]) -> list[str]:
    """Methods as they stand in the legend, marked where they need a word."""
    methods = _methods(runs)
    uneven = len({len(mine) for mine in methods.values()}) > 1
    found = []
    for label, mine in methods.items():
        mark = f" {_TRANSDUCTIVE}" if any(run.record.method.transductive for run in mine) else ""
        count = f" ({len(mine)} run{'s' * (len(mine) > 1)})" if uneven else ""
        found.append(cut(label, 200) + mark + count)
    return found


def _notes(runs: Sequence[Run], spread: str) -> list[str]:
    """What a reader must know; ``spread`` is what stands for the deviation, empty if nothing does."""
    counts = sorted({len(mine) for mine in _methods(runs).values()})
    if counts[-1] > 1:
        over = f"{counts[0]} runs" if len(counts) == 1 else "the runs of each method"
        extent = f"; {spread}: ± one sample standard deviation, cut to 0 and 1" if spread else ""
        notes = [f"Mean over {over}{extent}."]
    else:
        notes = ["One run of each method."]
    if any(run.record.method.transductive for run in runs):
        notes.append(f"{_TRANSDUCTIVE} {TRANSDUCTIVE}")
    return notes


def _arrow(task: str) -> str:
    return task.replace("->", "→")
