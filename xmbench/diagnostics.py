"""Figures of how a method learned: its epochs, its parameters on validation rows, its embeddings of test items.

Unlike the figures of ``plot.py`` each of these shows one method.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xmbench import plot
from xmbench._io import atomic_write, canonical_json, npz_bytes
from xmbench.drawing import (
    COLOURS,
    SMALL,
    check_matplotlib,
    cut,
    dress,
    empty_panels,
    looks_of,
    own_style,
)
from xmbench.errors import InvalidRecord, MissingData, UsageError
from xmbench.plot import TRANSDUCTIVE, Run, arrays_of, data_title
from xmbench.record import Results, check_ids, pack_header
from xmbench.rescore import kept
from xmbench.run import HISTORY, Embeddings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("losses", "sensitivity", "tsne")

_VALIDATION = (
    "Validation MAP: mean of image→text and text→image over the validation rows, default protocol; no test "
    "row is used."
)


def choose(
    kind: str, results: Results, names: Sequence[str], *, tuned: bool | None = None, **which: Any
) -> list[Run]:
    """As :func:`xmbench.plot.choose`; for ``sensitivity`` all variants of a method, and without names none tuned."""
    variants = kind == "sensitivity"
    if variants and not names and tuned is None:
        tuned = False
    return plot.choose(results, names, variants=variants, tuned=tuned, **which)


def figure(kind: str, runs: Sequence[Run], results: Results) -> Figure:
    """The figure of one of :data:`KINDS`.

    Args:
        kind: ``losses``, ``sensitivity`` or ``tsne``.
        runs: what :func:`choose` chose.
        results: where ``tsne`` finds kept embeddings.

    Raises:
        MissingDependency: the extra ``plots`` is not installed.
        UsageError: the runs are not what the figure is of; the message says what to choose.
        MissingData: the runs lack a history, validation scores, or kept embeddings.
        InvalidRecord: what lies beside a record is damaged.
    """
    check_matplotlib()
    with own_style():
        if kind == "losses":
            return _losses(runs)
        return _sensitivity(runs) if kind == "sensitivity" else _tsne(runs, results)


# -- epochs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """What one run tells of its n epochs.

    Args:
        stage: (n,) int64, the number of the stage from 0.
        epoch: (n,) float64, counted from 1 in each stage.
        stages: names of the stages; one may be empty.
        columns: name -> (n,) float64, NaN where an epoch lacks it.
        best: index of the epoch that was kept, if the record tells it.
    """

    stage: NDArray[np.int64]
    epoch: NDArray[np.float64]
    stages: tuple[str, ...]
    columns: dict[str, NDArray[np.float64]]
    best: int | None


def history(run: Run) -> History:
    """The history of a run.

    Raises:
        MissingData: the method is not trained by epochs, or the record was made before histories were kept.
        InvalidRecord: the arrays are no history.
    """
    arrays = arrays_of(run)
    found = {name.removeprefix(HISTORY): array for name, array in arrays.items() if name.startswith(HISTORY)}
    best = found.pop("best_epoch", None)
    if not found:
        method = run.record.method
        raise MissingData(
            f"record {run.record.score_id} of {cut(method.label, 200)} has no history; run it again with --fresh"
            if method.trained
            else f"{cut(method.label, 200)} is not trained by epochs: record {run.record.score_id} has no history"
        )
    n = len(found["epoch"]) if "epoch" in found and found["epoch"].ndim == 1 else 0
    if not n or any(array.shape != (n,) or array.dtype.kind not in "fU" for array in found.values()):
        raise InvalidRecord(f"{run.arrays.name}: its history is no table with a column epoch")
    epoch, names = found.pop("epoch"), found.pop("stage", np.zeros(n, dtype=np.str_))
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    stage = np.zeros(n, dtype=np.int64)
    stage[starts[1:]] = 1
    stage = stage.cumsum()
    if epoch.dtype.kind != "f" or not (np.diff(epoch)[np.diff(stage) == 0] > 0).all():
        raise InvalidRecord(f"{run.arrays.name}: the epochs of its history do not follow each other")
    place = _best_place(run, epoch, stage, best)
    if (np.diff(epoch) > 0).all():  # counted on through the stages
        before = np.r_[0.0, epoch[starts[1:] - 1]]
        epoch = epoch - before[stage]
    columns = {name: array for name, array in found.items() if array.dtype.kind == "f"}
    return History(stage, epoch, tuple(str(names[start]) for start in starts), columns, place)


def _best_place(
    run: Run, epoch: NDArray[np.float64], stage: NDArray[np.int64], best: NDArray[Any] | None
) -> int | None:
    """Index of the epoch that was kept: the last of that number, as it is one of the last stage."""
    if best is None:
        return None
    known = best.shape == () and best.dtype.kind in "iu"
    places = np.flatnonzero(epoch == best) if known else np.zeros(0, dtype=np.int64)
    if not len(places):
        raise InvalidRecord(f"{run.arrays.name}: its best epoch is none of its history")
    return int(places[-1])


_FAMILIES = {
    "loss": "loss terms",
    "correlation": "sum of correlations",
    "accuracy": "accuracy",
    "map": "validation MAP",
}


def _family(column: str) -> str | None:
    """The panel of a column; None if it has no place in the figure."""
    if column.startswith("validation_map"):
        return "map"
    for family in ("accuracy", "correlation"):
        if column.endswith(family):
            return family
    return "loss" if "loss" in column else None


def _losses(runs: Sequence[Run]) -> Figure:
    runs = sorted(runs, key=_seed)
    label = _one_label(runs)
    found = [history(run) for run in runs]
    if len({one.stages for one in found}) > 1:
        raise UsageError(
            f"these runs of {label} went through different stages; name the RECORDs of those that agree"
        )
    columns = sorted({column for one in found for column in one.columns})
    panels_of: dict[str, list[str]] = {}
    for family in _FAMILIES:
        mine = [column for column in columns if _family(column) == family and _somewhere(found, column)]
        if mine:
            panels_of[family] = mine
    if not panels_of:
        raise MissingData(
            f"the history of {label} holds no loss, accuracy or validation_map; it has: "
            f"{cut(', '.join(columns), 200) or 'nothing'}"
        )
    for run, one in zip(runs, found, strict=True):
        for column in [*panels_of.get("accuracy", []), *panels_of.get("map", [])]:
            values = one.columns.get(column, np.zeros(0))
            if ((values < 0) | (values > 1 + 1e-9)).any():
                raise InvalidRecord(f"{run.arrays.name}: {column} of its history is not between 0 and 1")
    lengths = [max(one.epoch[one.stage == s].max() for one in found) for s in range(len(found[0].stages))]
    offsets = np.r_[0.0, np.cumsum(lengths)]
    places = [one.epoch + offsets[one.stage] for one in found]
    drawn, panels = empty_panels(len(panels_of), 1.9 if len(panels_of) > 1 else 2.7, wide=True, sharex=True)
    looks = looks_of(column for mine in panels_of.values() for column in mine)
    for look in looks.values():
        look["linestyle"] = "-"  # dashes and noise are hard to tell apart
    handles: list[Any] = []
    labels: list[str] = []
    for panel, (family, mine) in zip(panels, panels_of.items(), strict=True):
        for column in mine:
            lines = [
                (place, one.stage, one.columns[column])
                for place, one in zip(places, found, strict=True)
                if column in one.columns
            ]
            handles.append(_draw_column(panel, lines, len(runs), looks[column]))
            labels.append(cut(column.replace("_map", " MAP").replace("_to_", "→").replace("_", " "), 60))
        scale = ""
        values = np.concatenate([one.columns[c] for one in found for c in mine if c in one.columns])
        values = values[np.isfinite(values)]
        if family == "accuracy":
            panel.set_ylim(-0.03, 1.03)
        elif family == "loss" and values.min() > 0 and values.max() > 20 * values.min():
            panel.set_yscale("log")
            scale = " (log scale)"
        panel.set_ylabel(f"{_FAMILIES[family]}{scale}")
    best = [place[one.best] for place, one in zip(places, found, strict=True) if one.best is not None]
    if best:
        handles.append(_verticals(panels, sorted(set(best)), "--"))
        labels.append("best epoch" if len(runs) == 1 else "best epoch of each run")
    if len(lengths) > 1:
        handles.append(_verticals(panels, list(offsets[1:-1] + 0.5), ":"))
        labels.append("next stage")
        stages = zip(found[0].stages, offsets, lengths, strict=False)
        for i, (name, offset, length) in enumerate(stages):
            height = 1.02 + 0.09 * (i % 2) if len(lengths) > 3 else 1.02  # neighbours' names may be long
            panels[0].text(
                offset + 0.5 + length / 2, height, cut(name, 30), transform=panels[0].get_xaxis_transform(),
                ha="center", va="bottom", fontsize=SMALL, color="#333333", parse_math=False,
            )  # fmt: skip
    panels[-1].set_xlabel("epoch" if len(lengths) == 1 else "epoch, stages one after the other")
    panels[-1].set_xlim(0.5, offsets[-1] + 1)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    notes = [_runs_note(runs, [len(one.epoch) for one in found])]
    if best:
        notes.append("Best epoch: the one that was kept, by the method's own rule (xmbench info NAME).")
    if "map" in panels_of:
        notes.append(_VALIDATION)
    undrawn = [column for column in columns if column not in looks]
    if undrawn:
        notes.append(f"In the record, and not drawn: {', '.join(undrawn)}.")
    return dress(drawn, f"{label}: {data_title(runs)}", handles, labels, [*notes, *_marks(runs)])


def _somewhere(found: Iterable[History], column: str) -> bool:
    return any(np.isfinite(one.columns[column]).any() for one in found if column in one.columns)


def _draw_column(panel: Axes, lines: Sequence[tuple[Any, Any, Any]], n: int, look: Mapping[str, Any]) -> Any:
    """Each of ``n`` runs as a thin line, and their mean where all of them have a value; one run as it is.

    Lines end where a stage does. Returns what stands for them in the legend.
    """
    from matplotlib.lines import Line2D

    finite = [(x[np.isfinite(y)], stage[np.isfinite(y)], y[np.isfinite(y)]) for x, stage, y in lines]
    if n > 1:
        for x, stage, y in finite:
            for s in np.unique(stage):
                panel.plot(x[stage == s], y[stage == s], color=look["color"], linewidth=0.6, alpha=0.45)
        common = finite[0][0] if len(finite) == n else np.zeros(0)
        for x, _, _ in finite[1:]:
            common = np.intersect1d(common, x)
        mean = np.mean([y[np.isin(x, common)] for x, _, y in finite], axis=0)
        stage = finite[0][1][np.isin(finite[0][0], common)]
        finite = [(common, stage, mean)]
    (whole,) = finite
    for s in np.unique(whole[1]):
        here = whole[1] == s
        every = 1 if here.sum() <= 12 else (0.0, 0.12)
        panel.plot(whole[0][here], whole[2][here], markevery=every, **look)
    return Line2D([], [], **look)


def _verticals(panels: Sequence[Axes], at: Sequence[float], dashes: str) -> Any:
    """A grey line through all panels at each of some places; returns one of them for the legend."""
    drawn = [
        panel.axvline(x, color="#777777", linewidth=1, linestyle=dashes, zorder=1)
        for panel in panels
        for x in at
    ]
    return drawn[0]


def _runs_note(runs: Sequence[Run], epochs: Sequence[int]) -> str:
    if len(runs) == 1:
        return f"One run, seed {_seeds(runs)}."
    few, many = min(epochs), max(epochs)
    ends = f" They have {few} to {many} epochs." if few != many else ""
    return (
        f"Mean over {len(runs)} runs (seeds {_seeds(runs)}) at the epochs that all of them have; thin: each "
        f"run.{ends}"
    )


# -- parameters ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """One parameter, the others held.

    Args:
        name: of the parameter.
        values: what it was set to, in order.
        scores: of each value, the best validation score of each run.
        seeds: of each value, the seeds of these runs.
    """

    name: str
    values: tuple[Any, ...]
    scores: tuple[NDArray[np.float64], ...]
    seeds: tuple[frozenset[tuple[int, int]], ...]


def sweeps(runs: Sequence[Run]) -> tuple[list[Sweep], dict[str, Any], int]:
    """One sweep for each parameter that varies, the values that the others are held at, and how many runs are in none.

    The values held are those of the runs of the method without brackets, or else the most frequent ones.

    Raises:
        UsageError: several methods, tuned runs, or no parameter that varies alone.
        MissingData, InvalidRecord: as :func:`history`, or there is no validation score.
    """
    names = sorted({run.record.method.name for run in runs})
    if len(names) > 1:
        raise UsageError(
            f"sensitivity is that of one method; these runs are of {_some(names)}: choose with --method, or name "
            "the RECORDs of one"
        )
    if any(run.record.tuning is not None for run in runs):
        raise UsageError(
            "the parameters of a tuned run were chosen on the validation rows; sensitivity takes runs that were not "
            "tuned, such as those of: xmbench run --methods 'NAME[PARAMETER=1],NAME[PARAMETER=2]'"
        )
    runs = sorted({run.record.fit_id: run for run in runs}.values(), key=_seed)  # a default has two labels
    params = [{k: v for k, v in run.record.params.items() if k != "random_state"} for run in runs]
    if len({tuple(sorted(one)) for one in params}) > 1:
        raise UsageError(
            f"these runs of {names[0]} are of versions with different parameters; run them again, into a results "
            "folder of their own"
        )
    varying = sorted(name for name in params[0] if len({_key(one[name]) for one in params}) > 1)
    if not varying:
        raise UsageError(
            f"no parameter varies among these {len(runs)} runs of {names[0]}; make some that differ, such as: "
            f"xmbench run --methods '{names[0]}[PARAMETER=1],{names[0]}[PARAMETER=2]'"
        )
    plain = [one for run, one in zip(runs, params, strict=True) if run.record.method.label == names[0]]
    held = {name: _most_frequent([one[name] for one in plain or params]) for name in varying}
    found, drawn = [], set()
    for name in varying:
        others = [other for other in varying if other != name]
        mine = [
            (run, one[name])
            for run, one in zip(runs, params, strict=True)
            if all(_key(one[other]) == _key(held[other]) for other in others)
        ]
        values = _in_order(value for _, value in mine)
        if len(values) < 2:
            continue
        at = [[run for run, value in mine if _key(value) == _key(wanted)] for wanted in values]
        if common := frozenset.intersection(*(frozenset(map(_seed, group)) for group in at)):
            at = [[run for run in group if _seed(run) in common] for group in at]  # splits differ by more
        found.append(
            Sweep(
                name,
                tuple(values),
                tuple(np.array([_validation_score(run) for run in group]) for group in at),
                tuple(frozenset(map(_seed, group)) for group in at),
            )
        )
        drawn |= {run.record.fit_id for group in at for run in group}
    if not found:
        raise UsageError(
            f"no two of these runs of {names[0]} differ in one parameter alone; {', '.join(varying)} vary together"
        )
    return found, held, len(runs) - len(drawn)


def _key(value: object) -> bytes:
    """Tells values of parameters apart: 1 and 1.0 are equal, 1 and True are not."""
    whole = isinstance(value, float) and value.is_integer()
    return canonical_json(int(value) if isinstance(value, float) and whole else value)


def _most_frequent(values: Sequence[Any]) -> Any:
    counts = Counter(map(_key, values))
    return max(_in_order(values), key=lambda value: counts[_key(value)])


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Each value once; numbers by size, others by how they are written."""
    each = list({_key(value): value for value in values}.values())
    return sorted(each) if _numeric(each) else sorted(each, key=_shown)


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _shown(value: Any) -> str:
    return (
        f"{value:g}"
        if _numeric([value])
        else str(value).lower()
        if value in (True, False, None)
        else str(value)
    )


def _validation_score(run: Run) -> float:
    values = history(run).columns.get("validation_map", np.zeros(0))
    values = values[np.isfinite(values)]
    if not len(values):
        raise MissingData(
            f"record {run.record.score_id} of {cut(run.record.method.label, 200)} has no validation scores: its "
            "split has no validation rows, or the method does not score them"
        )
    if values.min() < 0 or values.max() > 1 + 1e-9:
        raise InvalidRecord(f"{run.arrays.name}: validation_map of its history is not between 0 and 1")
    return float(values.max())


def _sensitivity(runs: Sequence[Run]) -> Figure:
    found, held, left_out = sweeps(runs)
    drawn, panels = empty_panels(len(found), 2.7, sharey=True)
    label = runs[0].record.method.name
    look = next(iter(looks_of([label]).values()))
    sizes = {len(scores) for sweep in found for scores in sweep.scores}
    seeds = {seeds for sweep in found for seeds in sweep.seeds}
    spreads = False
    references: list[Any] = []
    for panel, sweep in zip(panels, found, strict=True):
        places, joined, logarithmic = _axis(sweep.values)
        mean = np.array([scores.mean() for scores in sweep.scores])
        spread = [scores.std(ddof=1) if len(scores) > 1 else 0.0 for scores in sweep.scores]
        panel.plot(places, mean, **{**look, "linestyle": "none"})
        panel.plot(places[joined], mean[joined], color=look["color"], linewidth=1.2)
        if max(spread) > 1e-9:
            low, high = np.minimum(spread, mean), np.minimum(spread, 1 - mean)
            panel.errorbar(
                places, mean, yerr=[low, high], fmt="none", ecolor=look["color"], alpha=0.6, lw=1, capsize=2
            )
            spreads = True
        shown = [cut(_shown(value), 20) for value in sweep.values]
        if len(seeds) > 1:
            shown = [f"{text}\nn = {len(s)}" for text, s in zip(shown, sweep.scores, strict=True)]
        crowded = sum(map(len, shown)) > 30 and len(seeds) == 1
        panel.set_xticks(places, shown, parse_math=False, fontsize=SMALL, rotation=90 if crowded else 0)
        panel.set_xticks([], minor=True)
        panel.margins(x=0.08)
        zero = ", 0 at the left end" if 0 in sweep.values else ""
        scale = f" (log scale{zero})" if logarithmic else ""
        panel.set_xlabel(f"{cut(sweep.name, 40)}{scale}", parse_math=False)
        at = [
            place
            for place, value in zip(places, sweep.values, strict=True)
            if _key(value) == _key(held[sweep.name])
        ]
        if len(found) > 1 and at:
            references.append(_verticals([panel], at, "--"))
    for panel in panels[::2]:
        panel.set_ylabel("best validation MAP")
    handles: list[Any] = [panels[0].get_lines()[0]]
    labels = [label]
    if references:
        handles.append(references[0])
        labels.append("value held in the other panels")
    each = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    extent = "; whiskers: ± one sample standard deviation, cut to 0 and 1" if spreads else ""
    if len(seeds) > 1:
        notes = [f"Mean over {each} runs of each value, not over the same seeds{extent}."]
    elif sizes == {1}:
        notes = [f"One run of each value, seed {_seed_words(next(iter(seeds)))}."]
    else:
        words = _seed_words(next(iter(seeds)))
        notes = [f"Mean over {each} runs of each value, the same seeds ({words}){extent}."]
    notes.append(f"The highest of all epochs. {_VALIDATION}")
    if left_out:
        notes.append(
            "Runs with seeds that not all values have, or that differ in several parameters, and are not drawn: "
            f"{left_out}."
        )
    return dress(drawn, f"{label}: {data_title(runs)}", handles, labels, [*notes, *_marks(runs)])


def _axis(values: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_], bool]:
    """Where values stand on the horizontal axis, which of them a line joins, and whether steps are factors.

    Numbers from 0 up that span more than a factor of 10 stand by their logarithm, with 0 at the left end; what is no
    number stands side by side.
    """
    if not _numeric(values):
        return np.arange(len(values), dtype=np.float64), np.zeros(len(values), dtype=bool), False
    numbers = np.array(values, dtype=np.float64)
    positive = numbers > 0
    if (numbers < 0).any() or not positive.any() or numbers.max() <= 10 * numbers[positive].min():
        return numbers, np.ones(len(numbers), dtype=bool), False
    places = np.log10(numbers, where=positive, out=np.zeros(len(numbers)))
    steps = np.diff(places[positive])
    places[~positive] = places[positive].min() - steps.mean()
    return places, positive, True


# -- test items ---------------------------------------------------------------------------------------

_PERPLEXITY = 30
_MOST_ITEMS = 1000
_SEED = 0
_MANY_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#000000",
    "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5", "#5254a3",
)  # fmt: skip
_OTHERS = "#cccccc"


@dataclass(frozen=True)
class Map:
    """Test items in the plane.

    Args:
        images: (m, 2) float32.
        texts: (m, 2) float32.
        items: (m,) int64, rows of the embeddings, in order.
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    items: NDArray[np.int64]


def tsne(run: Run, embeddings: Embeddings) -> Map:
    """The t-SNE of a run's test items, images and texts together; computed once and kept beside its record.

    Rows have unit length first, so that distances are those of the cosine. Of many items ``_MOST_ITEMS`` are drawn.

    Raises:
        UsageError: there are too few items, or they have one place or one dimension.
        InvalidRecord: the arrays of the record cannot be read.
    """
    import sklearn

    n = len(embeddings.labels)
    items = np.arange(n)
    if n > _MOST_ITEMS:
        items = np.sort(np.random.default_rng(_SEED).choice(n, size=_MOST_ITEMS, replace=False))
    drawn = [np.ascontiguousarray(rows[items]) for rows in (embeddings.images, embeddings.texts)]
    settings = {
        "perplexity": _PERPLEXITY,
        "init": "pca",
        "random_state": _SEED,
        "most_items": _MOST_ITEMS,
        "unit_length": True,
        "scikit-learn": sklearn.__version__,
        "embeddings": hashlib.sha256(b"".join(rows.tobytes() for rows in drawn)).hexdigest()[:16],
    }
    header = pack_header(settings)
    arrays = arrays_of(run)
    if np.array_equal(arrays.get("tsne/settings", np.zeros(0)), header):
        found = Map(arrays["tsne/images"], arrays["tsne/texts"], arrays["tsne/items"])
        if found.images.shape == found.texts.shape == (len(items), 2) and np.array_equal(found.items, items):
            return found
        raise InvalidRecord(
            f"{run.arrays.name}: its t-SNE is not that of these items; run again with --fresh"
        )
    width = drawn[0].shape[1]
    if width < 2 or drawn[1].shape[1] != width:
        raise UsageError(
            f"t-SNE takes images and texts of one width, 2 or more; {cut(run.record.method.label, 200)} gives "
            f"{width} and {drawn[1].shape[1]}"
        )
    if 2 * len(items) <= _PERPLEXITY:
        raise UsageError(
            f"t-SNE at perplexity {_PERPLEXITY} takes more than {_PERPLEXITY} images and texts; this run has "
            f"{2 * len(items)}: choose a run on more test items"
        )
    rows = _unit_rows(np.concatenate(drawn))
    if (rows == rows[0]).all():
        raise UsageError(
            f"all test items of {cut(run.record.method.label, 200)}, seed {run.record.seed}, have one place; there is "
            "nothing to draw"
        )
    places = _compute(rows)
    found = Map(places[: len(items)], places[len(items) :], items)
    added: dict[str, NDArray[Any]] = {
        "tsne/images": found.images,
        "tsne/texts": found.texts,
        "tsne/items": found.items,
    }
    atomic_write(run.arrays, npz_bytes({**arrays, **added, "tsne/settings": header}))
    return found


def _unit_rows(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows at length 1; those of length 0 stay."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _compute(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, 2) places of rows (n, d); equal rows give equal places: one thread, as sums of several differ."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        places = TSNE(
            perplexity=_PERPLEXITY, init="pca", learning_rate="auto", random_state=_SEED
        ).fit_transform(rows)
    return np.asarray(places, dtype=np.float32)


def classes(labels: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) the class of each item; of several the one that is rarest among all items, -1 for none.

    Args:
        labels: (n,) int or (n, c) multi-hot.
    """
    if labels.ndim == 1:
        return labels.astype(np.int64)
    has = labels != 0
    counts = np.where(has, has.sum(axis=0), len(labels) + 1)
    return np.where(has.any(axis=1), counts.argmin(axis=1), -1)


def _tsne(runs: Sequence[Run], results: Results) -> Figure:
    from matplotlib.lines import Line2D

    if len(runs) > 1:
        shown = [
            f"{run.record.score_id} ({cut(run.record.method.label, 60)}, seed {_seed(run)[0]})"
            for run in runs
        ]
        raise UsageError(f"tsne draws one run; name one RECORD of these {len(runs)}: {_some(shown)}")
    (run,) = runs
    check_ids(run.record)
    embeddings = kept(results, run.record)
    found = tsne(run, embeddings)
    mine = classes(embeddings.labels)[found.items]
    counts = Counter(mine[mine >= 0].tolist())
    coloured = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: len(_MANY_COLOURS)])
    palette = COLOURS if len(coloured) <= len(COLOURS) else _MANY_COLOURS
    colour = dict(zip(coloured, palette, strict=False))
    drawn, panels = empty_panels(2, 3.6)
    size = 14 if len(found.items) <= 300 else 6
    order = np.random.default_rng(_SEED).permutation(
        2 * len(found.items)
    )  # so that none lies over all others
    places = np.concatenate([found.images, found.texts])[order]
    is_text = order >= len(found.items)
    centre, reach = (places.max(axis=0) + places.min(axis=0)) / 2, np.ptp(places, axis=0).max() * 0.53
    low, high = centre - reach, centre + reach
    by_class = np.array([colour.get(c, _OTHERS) for c in mine.tolist()] * 2)[order]
    by_modality = np.where(is_text, COLOURS[1], COLOURS[0])
    for panel, title, colours in zip(
        panels, ("by modality", "by class"), (by_modality, by_class), strict=True
    ):
        for marker, here in (("o", ~is_text), ("^", is_text)):
            for layer in (colours == _OTHERS, colours != _OTHERS):
                at = here & layer
                panel.scatter(*places[at].T, c=colours[at], marker=marker, s=size, linewidths=0, alpha=0.75)
        panel.set_title(title)
        panel.set(xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1]), box_aspect=1)
        panel.spines[:].set(visible=True, color="#cccccc")
    key: dict[str, Any] = {"linestyle": "none", "markersize": 5.5, "markeredgewidth": 0}
    panels[0].legend(
        [Line2D([], [], marker="o", color=COLOURS[0], **key), Line2D([], [], marker="^", color=COLOURS[1], **key)],
        ["image", "text"],
        ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), handlelength=1,
    )  # fmt: skip
    handles = [Line2D([], [], marker="s", color=colour[c], **key) for c in coloured]
    labels = [cut(embeddings.class_names[c], 32) for c in coloured]
    others = len(counts) - len(coloured)
    words = [f"{others} classes of fewer items"] * (others > 0) + ["no class"] * bool((mine < 0).any())
    if words:
        handles.append(Line2D([], [], marker="s", color=_OTHERS, **key))
        labels.append(" and ".join(words))
    n = len(embeddings.labels)
    share = (
        f"{len(found.items)} of {n} test items, drawn at random"
        if n > len(found.items)
        else f"{n} test items"
    )
    notes = [
        f"t-SNE (perplexity {_PERPLEXITY}, PCA start, seed {_SEED}) of {share}: images and texts together, rows "
        "at unit length (distances of the cosine). Sizes of groups, and distances between far ones, mean little."
    ]
    if embeddings.labels.ndim == 2:
        notes.append(
            "An item of several classes has the colour of the one that is rarest among the test items."
        )
    label = f"{cut(run.record.method.label, 200)}, seed {_seeds(runs)}"
    return dress(drawn, f"{label}: {data_title(runs)}", handles, labels, [*notes, *_marks(runs)])


# -- words --------------------------------------------------------------------------------------------


def _one_label(runs: Sequence[Run]) -> str:
    labels = sorted({run.record.method.label for run in runs})
    if len(labels) > 1:
        shown = _some([cut(label, 60) for label in labels])
        raise UsageError(
            f"losses are those of one method; these runs are of {shown}: choose with --method, or name its RECORDs"
        )
    return cut(labels[0], 200)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:8])} and {len(names) - 8} more"


def _marks(runs: Sequence[Run]) -> list[str]:
    return [TRANSDUCTIVE] if any(run.record.method.transductive for run in runs) else []


def _seed(run: Run) -> tuple[int, int]:
    """Seed of the method and of the split; equal where the split has none."""
    split_seed = run.record.dataset.split_seed
    return run.record.seed, run.record.seed if split_seed is None else split_seed


def _seeds(runs: Iterable[Run]) -> str:
    return _seed_words(map(_seed, runs))


def _seed_words(seeds: Iterable[tuple[int, int]]) -> str:
    each = sorted(set(seeds))
    return ", ".join(f"{seed}" if seed == split else f"{seed} of split {split}" for seed, split in each)
