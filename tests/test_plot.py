"""Figures: what is drawn is what the records hold, nothing is drawn that they do not, and text stays text."""

from __future__ import annotations

import os
import re
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import cli, drawing, plot
from xmbench.errors import (
    InvalidRecord,
    MissingData,
    MissingDependency,
    UnknownName,
    UsageError,
)
from xmbench.evaluation import TASKS
from xmbench.leaderboard import BIMODAL
from xmbench.plan import Places, Plan, Request
from xmbench.protocol import PROTOCOLS
from xmbench.record import Record, Results
from xmbench.registry import Registry
from xmbench.tuning import Trial, Tuning

if os.environ.get("CI") != "true":  # there, its absence is a failure
    pytest.importorskip("matplotlib", reason="needs the extra `plots`")

change = msgspec.structs.replace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results of four real runs: two methods, two seeds."""
    folder = tmp_path_factory.mktemp("plot")
    places = Places(data=folder, cache=folder / "cache", results=folder / "results")
    request = Request(methods=["cfa", "random"], dataset="emoji", seeds=[(0, 0), (1, 1)])
    records = Plan(request, Registry(), places, lambda message, fraction: None).run()
    assert all(record.status == "ok" for record in records)
    return Results(places.results)


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def put(
    results: Results,
    model: Record,
    label: str,
    seed: int = 0,
    *,
    value: float = 0.5,
    gallery: int = 40,
    arrays: dict | None = None,
    per_class: dict[str, float] | None = None,
    method: dict | None = None,
    dataset: dict | None = None,
    **fields,
) -> Record:
    """A record like ``model`` with curves that depend on ``value``; no ids of a true run."""
    per_class = {"birds": value, "cats": value / 2} if per_class is None else per_class
    metrics = {
        task: change(row, gallery=gallery, chance=0.25, per_class=per_class, mean_average_precision=value)
        for task, row in model.metrics.items()
    }
    record = change(
        model,
        score_id=f"{len(list(results)):04d}" + 12 * "0",
        seed=seed,
        metrics=metrics,
        method=change(model.method, label=label, **(method or {})),
        dataset=change(model.dataset, split_seed=seed, fingerprint=f"{seed}", **(dataset or {})),
        **fields,
    )
    curves = {}
    for task in TASKS:
        curves[f"scopes/{task}"] = np.arange(1, gallery + 1)
        curves[f"precision/{task}"] = np.linspace(value, 0.1, gallery)
        curves[f"interpolated_precision/{task}"] = np.linspace(value, 0.05, 101)
    curves |= arrays or {}
    results.put(record, {key: array for key, array in curves.items() if array is not None})
    return record


@pytest.fixture(scope="module")
def model(made):
    return next(iter(made))


def texts(drawn) -> list[str]:
    """All text of a figure that is not a number of an axis."""
    from matplotlib.text import Text

    return [found.get_text() for found in drawn.findobj(Text) if found.get_text()]


def lines(panel) -> list[np.ndarray]:
    """(x, y) of each line of a panel, the chance level left out."""
    return [line.get_xydata() for line in panel.lines if line.get_marker() not in (None, "None", "")]


def written(drawn, path: Path) -> bytes:
    drawing.write(drawn, path)
    return path.read_bytes()


# -- the numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_curve_of_real_runs_is_their_mean_and_sample_deviation(made, task):
    found, _ = plot.curves("precision-scope", plot.choose(made, []), task)
    assert set(found) == {"cfa", "random"}
    for label, curve in found.items():
        rows = [
            made.arrays(record.score_id)[f"precision/{task}"]
            for record in made
            if record.method.label == label
        ]
        n = min(map(len, rows))
        assert_array_equal(curve.x, np.arange(1, n + 1))
        for k in (1, 2, n // 2, n):
            values = [float(row[k - 1]) for row in rows]
            assert curve.mean[k - 1] == pytest.approx(statistics.mean(values), abs=1e-12)
            assert curve.deviation[k - 1] == pytest.approx(statistics.stdev(values), abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_precision_at_recall_of_real_runs_falls_from_the_best_precision_to_the_last(made, task):
    found, chance = plot.curves("pr", plot.choose(made, []), task)
    assert chance is None
    for label, curve in found.items():
        rows = [
            made.arrays(record.score_id)[f"interpolated_precision/{task}"]
            for record in made
            if record.method.label == label
        ]
        assert_allclose(curve.x, np.arange(101) / 100, atol=1e-12)
        assert_allclose(curve.mean, np.mean(rows, axis=0), atol=1e-12)
        assert (np.diff(curve.mean) <= 1e-12).all()


def test_one_run_has_no_band(made):
    first = next(iter(made))
    runs = plot.choose(made, [first.score_id])
    (curve,) = plot.curves("precision-scope", runs, "image->text")[0].values()
    assert curve.deviation is None
    assert_array_equal(curve.mean, made.arrays(first.score_id)["precision/image->text"])
    assert not plot.figure("precision-scope", runs).axes[0].collections


def test_the_chance_precision_is_the_share_of_relevant_items(made):
    """For a random order the expected precision is the same at every K: that of the whole gallery."""
    from xmbench.run import read_embeddings

    for record in made:
        labels = read_embeddings(made.embeddings_path(record.fit_id)).labels
        share = float((labels[:, None] == labels[None]).mean())
        for name in (record.score_id, str(made.record_path(record.score_id))):
            chance = plot.curves("precision-scope", plot.choose(made, [name]), "image->text")[1]
            assert chance == pytest.approx(share, abs=1e-9)


def test_there_is_no_chance_level_that_records_do_not_tell(results, model):
    put(results, model, "short", gallery=40, arrays={
        "scopes/image->text": np.arange(1, 31), "precision/image->text": np.linspace(0.5, 0.2, 30)
    })  # fmt: skip
    runs = plot.choose(results, [])
    assert plot.curves("precision-scope", runs, "image->text")[1] is None
    assert plot.curves("precision-scope", runs, "text->image")[1] == pytest.approx(0.1)
    assert plot.curves("pr", runs, "text->image")[1] is None
    assert "chance" not in texts(plot.figure("precision-scope", runs, ["image->text"]))
    assert "chance" in texts(plot.figure("precision-scope", runs, ["text->image"]))


def test_the_figure_draws_the_curves(results, model):
    for seed, value in enumerate((0.4, 0.6, 0.8)):
        put(results, model, "good", seed, value=value)
        put(results, model, "bad", seed, value=value / 2)
    runs = plot.choose(results, [])
    for kind in ("precision-scope", "pr"):
        drawn = plot.figure(kind, runs, ["text->all", "image->text", "text->all"])
        assert [panel.get_title() for panel in drawn.axes] == ["text→all", "image→text"]
        found, _ = plot.curves(kind, runs, "text->all")
        assert list(found) == ["good", "bad"]  # the better one first
        for curve, line in zip(found.values(), lines(drawn.axes[0]), strict=True):
            assert_allclose(line, np.stack([curve.x, curve.mean], axis=1))
        band = drawn.axes[0].collections[0].get_paths()[0].vertices
        good = found["good"]
        assert band[:, 1].max() == pytest.approx((good.mean + good.deviation).max())


def test_max_scope_ends_the_curve_and_is_not_clamped(results, model):
    put(results, model, "long", 0, gallery=40)
    put(results, model, "long", 1, gallery=30)
    runs = plot.choose(results, [])
    for k in (2, 7, 30):
        (line,) = lines(plot.figure("precision-scope", runs, ["image->text"], max_scope=k).axes[0])
        assert_array_equal(line[:, 0], np.arange(1, k + 1))
    with pytest.raises(UsageError, match=r"--max-scope 31: image->text is stored up to K = 30"):
        plot.figure("precision-scope", runs, max_scope=31)
    for kind in ("pr", "per-class"):
        with pytest.raises(UsageError, match=f"goes with precision-scope, not with {kind}"):
            plot.figure(kind, runs, max_scope=5)


def test_classes_stand_from_best_to_worst_with_all_their_values(results, model):
    put(results, model, "a", 0, per_class={"mid": 0.5, "low": 0.1, "high": 0.9})
    put(results, model, "a", 1, per_class={"mid": 0.7, "low": 0.3})
    put(results, model, "b", 0, per_class={"mid": 0.4, "low": 0.2, "new": 0.05})
    runs = plot.choose(results, [])
    found, names = plot.by_class(runs, "image->text")
    assert set(names) == {"mid", "low", "high", "new"}
    values = {label: dict(zip(names, curve.mean, strict=True)) for label, curve in found.items()}
    assert values["a"]["mid"] == pytest.approx(0.6) and values["a"]["low"] == pytest.approx(0.2)
    assert values["a"]["high"] == 0.9 and np.isnan(values["a"]["new"]) and np.isnan(values["b"]["high"])
    spread = dict(zip(names, found["a"].deviation, strict=True))
    assert spread["mid"] == pytest.approx(statistics.stdev([0.5, 0.7])) and np.isnan(spread["high"])
    (panel,) = plot.figure("per-class", runs, ["image->text"]).axes
    order = [label.get_text() for label in panel.get_yticklabels()]
    assert order == ["high", "mid", "low", "new"]
    assert panel.yaxis_inverted()
    for label, line in zip(found, lines(panel), strict=True):
        for x, y in line:
            expected = values[label][order[round(y)]]
            assert x == pytest.approx(expected) or (np.isnan(x) and np.isnan(expected))
    (chance,) = [line for line in panel.lines if set(line.get_xdata()) == {0.25}]
    assert chance is not None


@pytest.mark.parametrize("n", [2, 20, 80, 200])
def test_the_figure_grows_with_the_classes(results, model, n):
    put(results, model, "a", per_class={f"class {i}": i / n for i in range(n)})
    drawn = plot.figure("per-class", plot.choose(results, []))
    drawn.draw_without_rendering()
    labels = drawn.axes[0].get_yticklabels()
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert len(boxes) == n
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))  # none hides another
    assert min(box.x0 for box in boxes) >= 0


# -- which runs ---------------------------------------------------------------------------------------


def test_runs_are_named_by_id_beginning_or_path(made):
    records = list(made)
    by_id = plot.choose(made, [record.score_id for record in records])
    by_path = plot.choose(Results(Path("nowhere")), [str(made.record_path(r.score_id)) for r in records])
    both = plot.choose(made, [records[0].score_id, str(made.record_path(records[0].score_id))])
    assert by_id == by_path and len(both) == 1
    assert {run.record.score_id for run in plot.choose(made, [])} == {record.score_id for record in records}


def test_the_arrays_lie_beside_the_record(made, tmp_path):
    record = next(iter(made))
    for suffix in (".json", ".npz"):
        source = made.record_path(record.score_id).with_suffix(suffix)
        (tmp_path / f"moved{suffix}").write_bytes(source.read_bytes())
    found = plot.choose(Results(tmp_path), [str(tmp_path / "moved.json")])
    (curve,) = plot.curves("precision-scope", found, "image->text")[0].values()
    assert_array_equal(curve.mean, made.arrays(record.score_id)["precision/image->text"])
    (tmp_path / "moved.npz").unlink()
    with pytest.raises(InvalidRecord, match=record.score_id):
        plot.curves("precision-scope", found, "image->text")


def test_the_newest_of_equal_runs_stays_and_two_named_ones_are_refused(results, model):
    old, new = put(results, model, "a", value=0.3), put(results, model, "a", value=0.6)
    for age, record in enumerate((new, old)):
        os.utime(results.record_path(record.score_id), (1e9 - age, 1e9 - age))
    (run,) = plot.choose(results, [])
    assert run.record == new
    with pytest.raises(UsageError, match=f"{old.score_id} and {new.score_id} are both a, seed 0"):
        plot.choose(results, [old.score_id, new.score_id])


MIXTURES = {
    "dataset": ({"dataset": {"name": "other"}}, r"dataset \(emoji, other\)", "--dataset"),
    "split": ({"dataset": {"split": "other"}}, r"split \(grouped, other\)", "--split"),
    "features": ({"dataset": {"features": "a+b"}}, r"features \(a\+b, ", "--features"),
    "scaling": ({"dataset": {"scaling": "none+none"}}, r"scaling \(", "--scaling"),
    "tuning": (
        {"tuning": Tuning("random", 4, [Trial({}, 0.5, 0.1)], 0)},
        r"tuning \(not tuned, random 4\)",
        "--tuned or --not-tuned",
    ),
}


@pytest.mark.parametrize("field", MIXTURES)
def test_different_data_do_not_share_a_figure_and_an_option_chooses(results, model, field):
    fields, words, option = MIXTURES[field]
    records = [put(results, model, "a"), put(results, model, "b", **fields)]
    for names in ([], [record.score_id for record in records]):
        with pytest.raises(
            UsageError, match=rf"these differ in {words}.*; choose with {option}, or name each"
        ):
            plot.choose(results, names)
    for record in records:
        if field == "tuning":
            options = {"tuned": record.tuning is not None}
        else:
            options = {field: getattr(record.dataset, "name" if field == "dataset" else field)}
        (run,) = plot.choose(results, [], **options)
        assert run.record == record
        with pytest.raises(UsageError, match="leave them out, or every RECORD"):
            plot.choose(results, [record.score_id], **options)
    if field not in ("tuning", "dataset"):
        with pytest.raises(MissingData, match=f"with the {field} gone.*there are some with the {field}: "):
            plot.choose(results, [], **{field: "gone"})


def test_all_options_that_a_mixture_needs_are_named(results, model):
    put(results, model, "a")
    put(results, model, "b", dataset={"name": "other", "split": "s", "scaling": "none+none"})
    with pytest.raises(UsageError, match="choose with --dataset, --split and --scaling, or name each RECORD"):
        plot.choose(results, [])


def test_no_tuned_run_is_missing_data(results, model):
    put(results, model, "a")
    with pytest.raises(MissingData, match=r"none of these 1 runs in .* is tuned .*xmbench run --tune"):
        plot.choose(results, [], tuned=True)


def test_runs_under_other_protocols_are_left_out_unless_asked_for(results, model):
    default = put(results, model, "a")
    other = put(results, model, "a", protocol=PROTOCOLS["l2"].to_dict())
    assert [run.record for run in plot.choose(results, [])] == [default]
    assert [run.record for run in plot.choose(results, [], protocol="l2")] == [other]
    with pytest.raises(UsageError, match=r"protocol \(default, l2\); choose with --protocol, or name each"):
        plot.choose(results, [default.score_id, other.score_id])
    results.record_path(default.score_id).unlink()
    with pytest.raises(
        MissingData, match=r"under default .* --protocol among l2, or make them with: .*rescore"
    ):
        plot.choose(results, [])


def test_dataset_and_protocol_narrow_the_folder(results, model):
    put(results, model, "a")
    put(results, model, "b", dataset={"name": "other"})
    put(results, model, "c", protocol=PROTOCOLS["l2"].to_dict())
    for options, expected in (({"dataset": "other"}, "b"), ({"protocol": "l2"}, "c")):
        (run,) = plot.choose(results, [], **options)
        assert run.record.method.label == expected
    (run,) = plot.choose(results, [], dataset="emoji", protocol="default")
    assert run.record.method.label == "a"
    with pytest.raises(UsageError, match="leave them out"):
        plot.choose(results, [run.record.score_id], dataset="emoji")
    with pytest.raises(MissingData, match="there are some on: emoji, other"):
        plot.choose(results, [], dataset="third")
    with pytest.raises(MissingData, match=r"rescore .* --protocol query-zscore"):
        plot.choose(results, [], protocol="query-zscore")
    with pytest.raises(UnknownName, match="did you mean l2"):
        plot.choose(results, [], protocol="l3")


def test_other_data_under_the_same_name_is_found(results, model):
    put(results, model, "a")
    other = put(results, model, "b")
    results.put(change(other, dataset=change(other.dataset, fingerprint="another")))
    with pytest.raises(InvalidRecord, match="was run on"):
        plot.choose(results, [])


def test_unfinished_runs_are_left_out_and_cannot_be_named(results, model):
    with pytest.raises(MissingData, match="no finished run"):
        plot.choose(results, [])
    kept, failed = put(results, model, "a"), put(results, model, "b", status="failed", reason="no")
    (run,) = plot.choose(results, [])
    assert run.record == kept
    with pytest.raises(UsageError, match="did not finish"):
        plot.choose(results, [failed.score_id])


# -- records that hold no curve -----------------------------------------------------------------------


def test_older_records_are_told_how_to_get_recall_levels(made, results, model):
    put(results, model, "a", arrays={"interpolated_precision/image->text": None})
    with pytest.raises(MissingData, match=rf"xmbench rescore {results.folder} --protocol default"):
        plot.figure("pr", plot.choose(results, []))


DAMAGE = {
    "a NaN": ("precision/image->text", np.full(40, np.nan)),
    "above one": ("precision/image->text", np.full(40, 1.5)),
    "below zero": ("interpolated_precision/image->text", np.full(101, -0.1)),
    "too short": ("precision/image->text", np.zeros(39)),
    "too few levels": ("interpolated_precision/image->text", np.zeros(11)),
    "integers": ("precision/image->text", np.zeros(40, dtype=int)),
    "words": ("precision/image->text", np.array(["a"] * 40)),
    "a matrix": ("precision/image->text", np.zeros((40, 1))),
    "no precision": ("precision/image->text", None),
    "no scopes": ("scopes/image->text", None),
    "empty scopes": ("scopes/image->text", np.zeros(0, dtype=int)),
    "scopes from 0": ("scopes/image->text", np.arange(40)),
    "scopes in disorder": ("scopes/image->text", np.r_[1, np.arange(40, 1, -1)]),
    "a scalar": ("scopes/image->text", np.array(1)),
    "fractions as scopes": ("scopes/image->text", np.arange(1, 41) + 0.0),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_arrays_that_are_no_curve_are_refused_by_name(results, model, case):
    key, array = DAMAGE[case]
    record = put(results, model, "a", arrays={key: array})
    kind = "pr" if key.startswith("interpolated") else "precision-scope"
    with pytest.raises(InvalidRecord, match=rf"{record.score_id}\.npz"):
        plot.figure(kind, plot.choose(results, []))


def test_a_damaged_archive_is_refused(results, model):
    record = put(results, model, "a")
    path = results.record_path(record.score_id).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidRecord, match=record.score_id):
        plot.figure("pr", plot.choose(results, []))


def test_a_task_without_answerable_queries_is_refused(results, model):
    record = put(results, model, "a", per_class={}, arrays={"precision/image->text": np.full(40, np.nan)})
    row = change(record.metrics["image->text"], mean_average_precision=None, chance=None)
    results.put(change(record, metrics={**record.metrics, "image->text": row}))
    runs = plot.choose(results, [])
    with pytest.raises(UsageError, match="no query of image->text has a relevant item"):
        plot.figure("precision-scope", runs)
    assert plot.figure("precision-scope", runs, ["text->image"])
    with pytest.raises(UsageError, match="no class"):
        plot.figure("per-class", runs)


def test_more_than_can_be_told_apart_is_refused(results, model):
    for i in range(36):
        put(results, model, f"m{i}", per_class={f"{j}": 0.5 for j in range(1001)} if i == 0 else {})
    with pytest.raises(UsageError, match="36 methods"):
        plot.figure("precision-scope", plot.choose(results, []))
    with pytest.raises(UsageError, match="1001 classes"):
        plot.figure("per-class", plot.choose(results, [next(iter(results)).score_id]))


# -- what a reader sees -------------------------------------------------------------------------------


def test_no_two_methods_look_alike():
    looks = [tuple(map(str, drawing.nth_looks(i).values())) for i in range(drawing.MOST_LOOKS)]
    assert len({(colour, line) for colour, line, _ in looks}) == len(looks)
    assert len({line for _, line, _ in looks[:5]}) == 5  # in print without colours
    assert len({marker for _, _, marker in looks[:8]}) == 8


@pytest.mark.parametrize("kind", plot.KINDS)
def test_a_method_looks_alike_whatever_its_rank(made, results, model, kind):
    def looks(runs) -> dict[str, tuple]:
        drawn = plot.figure(kind, runs)
        labels = [text.get_text() for text in drawn.legends[0].get_texts()]
        lines = drawn.legends[0].get_lines()
        shown = {
            label: (line.get_color(), line.get_linestyle(), line.get_marker())
            for label, line in zip(labels, lines, strict=True)
        }
        assert list(shown)[: len(order)] == order
        panel = drawn.axes[0].get_lines()
        assert [line.get_color() for line in panel[: len(order)]] == [shown[label][0] for label in order]
        return {label: shown[label] for label in order}

    order = ["cfa", "random"]
    real = looks(plot.choose(made, []))
    for place, values in enumerate(({"cfa": 0.2, "random": 0.8}, {"cfa": 0.8, "random": 0.2})):
        folder = Results(results.folder / f"{place}")
        for label, value in values.items():
            put(folder, model, label, value=value)
        order = sorted(values, key=values.__getitem__, reverse=True)
        assert looks(plot.choose(folder, [])) == real


def test_panels_of_classes_share_their_axis(results, model):
    record = put(results, model, "a", per_class={"x": 0.2, "y": 0.1})
    row = change(record.metrics["text->image"], per_class={"x": 0.9, "y": 0.1})
    results.put(change(record, metrics={**record.metrics, "text->image": row}))
    drawn = plot.figure("per-class", plot.choose(results, []), TASKS[:3])
    assert len({panel.get_xlim() for panel in drawn.axes}) == 1
    assert drawn.axes[0].get_xlim()[0] == 0 and 0.9 < drawn.axes[0].get_xlim()[1] <= 1.02
    assert all(panel.xaxis.get_ticklabels()[0].get_visible() for panel in drawn.axes)


@pytest.mark.parametrize("kind", plot.KINDS)
def test_a_deviation_ends_at_0_and_1(results, model, kind):
    for seed, value in enumerate((1.0, 1.0, 0.0)):
        ends = {f"{name}/{task}": np.r_[value, np.zeros(n - 1)] for task in TASKS for name, n in (
            ("precision", 40), ("interpolated_precision", 101),
        )}  # fmt: skip
        put(results, model, "a", seed, value=0.5, per_class={"x": value, "y": 1 - value}, arrays=ends)
    drawn = plot.figure(kind, plot.choose(results, []))
    for panel in drawn.axes:
        drawn_spread = np.concatenate(
            [path.vertices for spread in panel.collections for path in spread.get_paths()]
        )
        values = drawn_spread[:, 0 if kind == "per-class" else 1]
        assert values.min() >= 0 and values.max() == pytest.approx(1) and values.max() <= 1
    assert any("cut to 0 and 1" in text for text in texts(drawn))


@pytest.mark.parametrize("kind", plot.KINDS)
def test_no_word_of_a_deviation_that_is_not_drawn(results, model, kind):
    put(results, model, "a", 0, per_class={"x": 0.5})
    put(results, model, "a", 1, per_class={"y": 0.5})
    drawn = plot.figure(kind, plot.choose(results, []))
    shown = texts(drawn)
    assert "Mean over 2 runs." in shown and not any("deviation" in text for text in shown)


@pytest.mark.parametrize("gallery", [1, 2, 40, 700, 5000])
def test_the_head_of_the_scope_has_room(results, model, gallery):
    put(results, model, "a", gallery=gallery)
    drawn = plot.figure("precision-scope", plot.choose(results, []))
    drawn.draw_without_rendering()
    for panel in drawn.axes:
        place = panel.transAxes.inverted().transform(
            panel.transData.transform([(1, 0.1), (min(100, gallery), 0.1)])
        )
        assert place[0, 0] >= 0 and place[1, 0] <= 1
        assert gallery < 2 or place[1, 0] - place[0, 0] > 0.5
        ticks = [label.get_text() for label in panel.get_xticklabels()]
        assert ticks[0] == "1" and all(int(tick) <= gallery for tick in ticks)
        boxes = [label.get_window_extent() for label in panel.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_the_chance_of_classes_is_told_to_be_a_mean(made):
    assert "chance, mean over all queries" in texts(plot.figure("per-class", plot.choose(made, [])))


@pytest.mark.parametrize("kind", plot.KINDS)
def test_the_figure_names_data_protocol_warning_and_marks(results, model, kind):
    put(results, model, "open", 0, protocol=PROTOCOLS["test-zscore"].to_dict())
    put(results, model, "open", 1, value=0.4, protocol=PROTOCOLS["test-zscore"].to_dict())
    put(
        results, model, "peeks", 0, protocol=PROTOCOLS["test-zscore"].to_dict(), method={"transductive": True}
    )
    runs = plot.choose(results, [], protocol="test-zscore")
    shown = [" ".join(text.split()) for text in texts(plot.figure(kind, runs))]
    data = model.dataset
    (title,) = [text for text in shown if text.startswith(data.title)]
    for words in (data.split, data.features, data.scaling, "protocol test-zscore"):
        assert words in title
    assert "Warning: this protocol has embeddings changed by statistics of the test set." in shown
    assert {"open (2 runs)", "peeks † (1 run)", "image→text", "text→image"} <= set(shown)
    (notes,) = [text for text in shown if "sample standard deviation" in text]
    assert "† The method learns from the features of the test items" in notes
    plain = texts(plot.figure(kind, plot.choose(Results(results.folder), [next(iter(results)).score_id])))
    assert "open" in plain and "One run of each method." in plain and not any("†" in text for text in plain)


NASTY = ["$x^2$", r"$\frac{1}", "_hidden", "{a}_{b}", "<b>&amp;", "%s %d", "a\x1b[31m\nb", "‮evil", "x" * 5000]


@pytest.mark.parametrize("suffix", drawing.SUFFIXES)
@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_text_of_records_is_shown_as_it_is(results, model, tmp_path, nasty, suffix):
    put(results, model, nasty, per_class={nasty: 0.5, "$": 0.1}, dataset={"title": nasty, "features": nasty})
    for kind in plot.KINDS:
        drawn = plot.figure(kind, plot.choose(results, []))
        for text in drawn.findobj(lambda artist: hasattr(artist, "get_parse_math")):
            known = re.fullmatch(r"[\d.−]*|[→a-zA-Z ]*|\d+", text.get_text())
            assert known or not text.get_parse_math(), text.get_text()
        content = written(drawn, tmp_path / f"figure{suffix}")
        assert content and (suffix != ".svg" or b"<b>" not in content)
        width, height = drawn.get_size_inches()
        assert width <= 7 and height < 20
        shown = "".join("".join(texts(drawn)).split())
        if len(nasty) < 100:
            assert "".join(plot.clean(nasty).split()) in shown


def test_nothing_lies_outside_or_on_top_of_each_other(results, model):
    """Title, warning, panels, legend and notes follow each other from top to bottom, inside the figure."""
    for i in range(14):
        for seed, value in enumerate((0.4, 0.5)):
            label = f"method_{i}[preset=quite_long_name]"
            put(results, model, label, seed, value=value, protocol=PROTOCOLS["l2"].to_dict())
    for kind in plot.KINDS:
        for tasks in (TASKS[:1], TASKS[:2], TASKS[:3], TASKS):
            drawn = plot.figure(kind, plot.choose(results, [], protocol="l2"), tasks)
            drawn.draw_without_rendering()
            width, height = drawn.get_size_inches() * drawn.dpi
            title, notes = (text.get_window_extent() for text in drawn.texts)
            legend = drawn.legends[0].get_window_extent()
            panels = [panel.get_tightbbox() for panel in drawn.axes]
            assert len(panels) == len(tasks)
            assert (
                notes.y0 >= 0 and notes.y1 <= legend.y0 + 2 and legend.y1 <= min(box.y0 for box in panels) + 2
            )
            assert max(box.y1 for box in panels) <= title.y0 + 2 and title.y1 <= height
            for box in (title, notes, legend, *panels):
                assert box.x0 >= -1 and box.x1 <= width + 1


# -- files --------------------------------------------------------------------------------------------

SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", drawing.SUFFIXES)
@pytest.mark.parametrize("kind", ["precision-scope", "per-class"])
def test_equal_figures_are_equal_bytes_whatever_the_settings(made, tmp_path, suffix, kind):
    import matplotlib

    runs = plot.choose(made, [])
    first = written(plot.figure(kind, runs), tmp_path / f"a{suffix}")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        second = written(plot.figure(kind, runs), tmp_path / f"b{suffix}")
        assert dict(matplotlib.rcParams) == before
    assert first == second and first.startswith(SIGNATURES[suffix])
    assert b"dc:date" not in first and b"CreationDate" not in first


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.PNG", "figure.eps", ".png"])
def test_other_formats_are_refused(name):
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        drawing.check_output(Path(name))


def test_without_matplotlib_the_extra_is_named(made, monkeypatch):
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"xmbench\[plots\]"):
        plot.figure("pr", plot.choose(made, []))


# -- the command --------------------------------------------------------------------------------------


@pytest.fixture
def call(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["xmbench", "plot", *map(str, arguments), "--results", str(made.folder)]
        )
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_the_command_writes_one_file(call, made, tmp_path):
    record = next(iter(made))
    assert call("precision-scope") == (0, "wrote precision-scope.png\n", "")
    arguments = ("per-class", record.score_id[:8], "--task", "image-all", "-o", "one.svg")
    assert call(*arguments) == (0, "wrote one.svg\n", "")
    assert (
        call("precision-scope", "-d", "emoji", "--protocol", "default", "--max-scope", 9, "-o", "c.pdf")[0]
        == 0
    )
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert files == ["c.pdf", "one.svg", "precision-scope.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["histogram"], 2, "precision-scope"),
        ([], 2, "Usage"),
        (["per-class", "-o", "x.jpg"], 2, ".png, .svg, .pdf"),
        (["per-class", "-o", "."], 2, "directory"),
        (["per-class", "--task", "image-txt"], 2, "did you mean image-text"),
        (["per-class", "--max-scope", "5"], 2, "goes with precision-scope"),
        (["per-class", "-o", "gone/x.png"], 2, "xmbench: --output gone/x.png: there is no folder gone;"),
        (["precision-scope", "--tuned"], 3, "is tuned"),
        (["precision-scope", "--features", "sift+lda"], 3, "there are some with the features: lite0+tfidf"),
        (["precision-scope", "--max-scope", "0"], 2, "max-scope"),
        (["precision-scope", "--max-scope", "1"], 2, "max-scope"),
        (["precision-scope", "--max-scope", "100000"], 2, "stored up to K"),
        (["precision-scope", "zz"], 3, "zz"),
        (["precision-scope", "gone.json"], 3, "gone.json does not exist"),
        (["precision-scope", "-d", "pascal"], 3, "emoji"),
        (["precision-scope", "--protocol", "l2"], 3, "rescore"),
    ],
)
def test_the_command_refuses_in_words_and_writes_nothing(call, tmp_path, arguments, code, words):
    found = call(*arguments)
    assert found[0] == code and found[1] == "" and words in found[2]
    assert not list(tmp_path.rglob("*.*"))


def test_the_tasks_shown_by_default_are_the_two_between_modalities(made):
    drawn = plot.figure("per-class", plot.choose(made, []))
    assert [panel.get_title() for panel in drawn.axes] == [task.replace("->", "→") for task in BIMODAL]


def test_a_file_that_cannot_be_written_is_refused_in_words(tmp_path):
    from matplotlib.figure import Figure

    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output.*there is no folder"):
        drawing.write(Figure(), tmp_path / "file" / "figure.png")
