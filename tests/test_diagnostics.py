"""Figures of how a method learned: the numbers of the records, no test row where none belongs, refusals in words."""

from __future__ import annotations

import os
import statistics
import sys

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import cli, diagnostics, drawing, plot
from xmbench._io import read_npz
from xmbench.errors import InvalidRecord, MissingData, UsageError
from xmbench.plan import Places, Plan, Request
from xmbench.record import Results
from xmbench.registry import Registry
from xmbench.run import Embeddings, read_embeddings, write_embeddings
from xmbench.tuning import Trial, Tuning

if os.environ.get("CI") != "true":  # there, its absence is a failure
    pytest.importorskip("matplotlib", reason="needs the extra `plots`")

change = msgspec.structs.replace

PLUGIN = """
from xmbench import Method, MethodInfo

class Slow(Method):
    info = MethodInfo(title="Slow", paper="none", year=2026, supervised=False, trained=True)

    def __init__(self, alpha: float = 0.1, random_state: int = 0) -> None:
        self.alpha, self.random_state = alpha, random_state

    def _fit(self, train, validation, context):
        self.history_ = [
            {"epoch": e, "embedding_loss": 1 / e, "modality_accuracy": 0.5, "seconds": 0.1} for e in (1, 2, 3, 4)
        ]
        for line in self.history_[1::2]:
            line["validation_map"] = context.validation_score(self) * self.alpha
        self.best_epoch_ = 2

    def _encode_image(self, x):
        return x[:, :8]

    _encode_text = _encode_image

METHOD = Slow
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results of real runs: a method with a history and two values of a parameter, one without, two seeds."""
    folder = tmp_path_factory.mktemp("diagnostics")
    (folder / "slow.py").write_text(PLUGIN)
    places = Places(data=folder, cache=folder / "cache", results=folder / "results")
    methods = ["slow", "slow[alpha=0.5]", "random"]
    request = Request(methods=methods, dataset="emoji", seeds=[(0, 0), (1, 1)])
    records = Plan(request, Registry([folder / "slow.py"]), places, lambda message, fraction: None).run()
    assert all(record.status == "ok" for record in records)
    return Results(places.results)


@pytest.fixture
def put(tmp_path, keep_run):
    """Writes runs with a history; all of one small dataset."""
    rng = np.random.default_rng(0)
    model = keep_run(tmp_path / "model", rng.normal(size=(8, 3)), rng.normal(size=(8, 3)), np.arange(8) % 2)

    def write(label="slow", seed=0, *, history=None, params=None, trained=True, transductive=False, **fields):
        results = Results(tmp_path / "results")
        number = len(list(results))
        method = change(
            model.method, name=label.partition("[")[0], label=label, trained=trained, transductive=transductive,
            params={"random_state": seed, **(params or {})},
        )  # fmt: skip
        dataset = change(model.dataset, split_seed=seed, fingerprint=f"{seed}")
        record = change(
            model, fit_id=f"{number:016d}", score_id=f"{number:04d}" + 12 * "0", seed=seed, method=method,
            dataset=dataset, **fields,
        )  # fmt: skip
        results.put(record, {f"history/{name}": np.asarray(array) for name, array in (history or {}).items()})
        return record

    write.results = Results(tmp_path / "results")
    return write


def epochs(n, **columns):
    return {"epoch": np.arange(1.0, n + 1), **columns}


def scored(value):
    """A history whose best validation score is ``value``."""
    return epochs(3, validation_map=[value / 2, value, np.nan])


def draw(kind, results, *names, **which):
    return diagnostics.figure(kind, diagnostics.choose(kind, results, names, **which), results)


def texts(drawn):
    from matplotlib.text import Text

    return [" ".join(found.get_text().split()) for found in drawn.findobj(Text) if found.get_text()]


def thick(panel):
    """(x, y) of each line of a panel that has markers; ends of whiskers are none."""
    return [line.get_xydata() for line in panel.lines if line.get_marker() not in (None, "None", "", "_")]


def verticals(panel, dashes="--"):
    return [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == dashes]


# -- epochs -------------------------------------------------------------------------------------------


def test_a_run_is_drawn_by_family_with_its_best_epoch(put):
    loss, accuracy = [4.0, 2.0, 1.0], [0.5, np.nan, 0.9]
    put(history=epochs(3, adversarial_loss=loss, class_accuracy=accuracy, seconds=[1.0] * 3, best_epoch=2))
    put(label="other", history=epochs(2, total_loss=[1.0, 2.0]))
    drawn = draw("losses", put.results, methods=["slow"])
    assert [panel.get_ylabel() for panel in drawn.axes] == ["loss terms", "accuracy"]
    assert_allclose(thick(drawn.axes[0])[0], np.stack([[1, 2, 3], loss], axis=1))
    assert_allclose(thick(drawn.axes[1])[0], [[1, 0.5], [3, 0.9]])
    assert all(verticals(panel) == [2] for panel in drawn.axes)
    shown = texts(drawn)
    assert {"adversarial loss", "class accuracy", "best epoch"} <= set(shown)
    footer = " ".join(" ".join(shown).split())
    assert "One run, seed 0. Best epoch: the one that was kept, by the method's own rule" in footer
    assert "In the record, and not drawn: seconds." in footer
    assert not any("Validation MAP" in text for text in shown)


def test_the_mean_goes_as_far_as_all_runs_do_and_each_run_is_drawn(put):
    for seed, n in enumerate((3, 5, 4)):
        put(seed=seed, history=epochs(n, loss=np.full(n, seed + 1.0), best_epoch=n))
    drawn = draw("losses", put.results)
    (mean,) = thick(drawn.axes[0])
    assert_allclose(mean, [[1, 2], [2, 2], [3, 2]])
    thin = [line for line in drawn.axes[0].lines if line.get_linewidth() < 1]
    assert sorted(len(line.get_xdata()) for line in thin) == [3, 4, 5]
    assert sorted(verticals(drawn.axes[0])) == [3, 4, 5]
    assert any(
        "Mean over 3 runs (seeds 0, 1, 2) at the epochs that all of them have" in text
        and "They have 3 to 5 epochs." in text
        for text in texts(drawn)
    )


@pytest.mark.parametrize("counted_on", [False, True])
def test_stages_follow_each_other_with_a_boundary(put, counted_on):
    for seed, n in enumerate((2, 4)):
        epoch = np.r_[np.arange(1.0, n + 1), np.arange(1.0, 4) + n * counted_on]
        stage = np.array(["first"] * n + ["second"] * 3)
        best = 2 + n * counted_on
        put(seed=seed, history={"epoch": epoch, "stage": stage, "loss": np.ones(n + 3), "best_epoch": best})
    drawn = draw("losses", put.results)
    first, second = thick(drawn.axes[0])
    assert_array_equal(first[:, 0], [1, 2])
    assert_array_equal(second[:, 0], [5, 6, 7])  # after the longest first stage
    assert verticals(drawn.axes[0], ":") == [4.5] and verticals(drawn.axes[0]) == [6]
    assert {"first", "second", "next stage"} <= set(texts(drawn))


def test_losses_of_very_different_size_have_a_logarithmic_axis_if_they_are_positive(put):
    for label, low, scale in (("a", 0.1, "log"), ("b", -0.1, "linear"), ("c", 3.0, "linear")):
        put(label=label, history=epochs(2, loss=[30.0, low]))
        assert draw("losses", put.results, methods=[label]).axes[0].get_yscale() == scale


def test_what_has_no_epochs_is_refused_by_name(put):
    put("closed", trained=False)
    put("old", trained=True)
    put("bare", history=epochs(2, seconds=[1.0, 1.0]))
    with pytest.raises(MissingData, match="closed is not trained by epochs"):
        draw("losses", put.results, methods=["closed"])
    with pytest.raises(MissingData, match="of old has no history; run it again with --fresh"):
        draw("losses", put.results, methods=["old"])
    with pytest.raises(MissingData, match="bare holds no loss, accuracy or validation_map; it has: seconds"):
        draw("losses", put.results, methods=["bare"])
    with pytest.raises(UsageError, match="these runs are of bare, closed, old: choose with --method"):
        draw("losses", put.results)
    with pytest.raises(MissingData, match=r"no finished run of new .* there are some of: bare, closed, old"):
        draw("losses", put.results, methods=["new"])


def test_runs_of_different_stages_are_refused(put):
    for seed, name in enumerate("ab"):
        put(seed=seed, history=epochs(2, stage=np.array([name] * 2), loss=[1.0, 1.0]))
    with pytest.raises(UsageError, match="went through different stages"):
        draw("losses", put.results)


@pytest.mark.parametrize(
    "history",
    [
        {"loss": np.ones(3)},
        epochs(3, loss=np.ones(2)),
        epochs(3, loss=np.ones((3, 1))),
        epochs(3, loss=np.ones(3, dtype=int)),
        {"epoch": np.array(["a", "b"])},
        {"epoch": np.array([1.0, 1.0])},
        {"epoch": np.array([1.0, np.nan])},
        {"epoch": np.zeros(0)},
        epochs(3, best_epoch=4),
        epochs(3, best_epoch=[1, 2]),
        epochs(3, best_epoch=1.0),
        epochs(3, class_accuracy=[50.0, 60.0, 70.0]),
        epochs(3, validation_map=[0.1, 0.2, -0.1]),
    ],
    ids=range(13),
)
def test_arrays_that_are_no_history_are_refused_by_name(put, history):
    record = put(history=history)
    with pytest.raises(InvalidRecord, match=rf"{record.score_id}\.npz"):
        draw("losses", put.results)


# -- parameters ---------------------------------------------------------------------------------------


def sweeps(results, **which):
    return diagnostics.sweeps(diagnostics.choose("sensitivity", results, (), **which))


def test_a_panel_varies_one_parameter_and_holds_the_others(put):
    scores = {}
    for seed in (0, 1, 2):
        for alpha, beta in ((0.1, 1), (0.0, 1), (10, 1), (0.1, 2), (10, 2)):
            label = "slow" if (alpha, beta) == (0.1, 1) else f"slow[alpha={alpha},beta={beta}]"
            scores[alpha, beta, seed] = 0.2 + 0.01 * alpha + 0.05 * beta + 0.02 * seed**2
            put(
                label,
                seed,
                params={"alpha": alpha, "beta": beta, "k": 5},
                history=scored(scores[alpha, beta, seed]),
            )
    put("other", history=scored(0.9))
    found, held, left_out = sweeps(put.results, methods=["slow"])
    assert [(sweep.name, sweep.values) for sweep in found] == [("alpha", (0.0, 0.1, 10)), ("beta", (1, 2))]
    assert held == {"alpha": 0.1, "beta": 1} and left_out == 3
    drawn = draw("sensitivity", put.results, methods=["slow"])
    for panel, sweep in zip(drawn.axes, found, strict=True):
        (points,) = thick(panel)
        for (_, y), value in zip(points, sweep.values, strict=True):
            key = (value, 1) if sweep.name == "alpha" else (0.1, value)
            assert y == pytest.approx(statistics.mean(scores[(*key, seed)] for seed in (0, 1, 2)))
        whiskers = panel.collections[0].get_segments()
        expected = statistics.stdev(scores[0.1, 1, seed] for seed in (0, 1, 2))
        assert all(np.ptp(segment[:, 1]) == pytest.approx(2 * expected) for segment in whiskers)
        assert panel.get_xlabel().startswith(sweep.name)
        assert len(verticals(panel)) == 1
    assert drawn.axes[0].get_ylabel() == "best validation MAP"
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["0", "0.1", "10"]
    assert_allclose(thick(drawn.axes[0])[0][:, 0], [-3, -1, 1])  # 0 at the left end
    shown = " ".join(texts(drawn))
    assert "Mean over 3 runs of each value, the same seeds (0, 1, 2)" in shown
    assert "no test row is used" in shown and "are not drawn: 3." in " ".join(shown.split())


def test_no_score_of_test_rows_is_drawn(put):
    """The figure is the same whatever the test rows gave."""
    images = []
    for value in (0.1, 0.9):
        for old in put.results:
            put.results.record_path(old.score_id).unlink()
        for alpha in (1, 2):
            record = put(f"slow[alpha={alpha}]", params={"alpha": alpha}, history=scored(alpha / 4))
            metrics = {
                task: change(row, mean_average_precision=value) for task, row in record.metrics.items()
            }
            put.results.put(change(record, metrics=metrics))
        drawn = draw("sensitivity", put.results)
        path = put.results.folder / "figure.svg"
        drawing.write(drawn, path)
        images.append(path.read_bytes())
    assert images[0] == images[1]


def test_without_a_plain_run_the_most_frequent_values_are_held(put):
    for alpha, beta in ((1, 5), (2, 5), (3, 5), (1, 6)):
        put(f"slow[alpha={alpha},beta={beta}]", params={"alpha": alpha, "beta": beta}, history=scored(0.5))
    found, held, left_out = sweeps(put.results)
    assert held == {"alpha": 1, "beta": 5} and left_out == 0
    assert [sweep.values for sweep in found] == [(1, 2, 3), (5, 6)]


def test_one_fit_under_two_labels_counts_once(put):
    first = put("slow", params={"alpha": 1}, history=scored(0.5))
    put("slow[alpha=2]", params={"alpha": 2}, history=scored(0.5))
    twin = put("slow[alpha=1]", params={"alpha": 1}, history=scored(0.5))
    put.results.put(change(twin, fit_id=first.fit_id))
    (sweep,), _, _ = sweeps(put.results)
    assert [len(scores) for scores in sweep.scores] == [1, 1]


def test_points_are_over_the_seeds_that_all_values_have(put):
    """Splits differ by more than parameters do."""
    for seed, alpha, score in ((0, 1, 0.2), (1, 1, 0.9), (0, 2, 0.4)):
        put(f"slow[alpha={alpha}]", seed, params={"alpha": alpha}, history=scored(score))
    (sweep,), _, left_out = sweeps(put.results)
    assert [scores.tolist() for scores in sweep.scores] == [[0.2], [0.4]] and left_out == 1
    shown = " ".join(texts(draw("sensitivity", put.results)))
    assert "One run of each value, seed 0." in shown


def test_points_without_a_seed_in_common_say_so(put):
    for seed, alpha in ((0, 1), (1, 1), (2, 2)):
        put(f"slow[alpha={alpha}]", seed, params={"alpha": alpha}, history=scored(0.5))
    drawn = draw("sensitivity", put.results)
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["1\nn = 2", "2\nn = 1"]
    assert "Mean over 1 to 2 runs of each value, not over the same seeds." in " ".join(texts(drawn))


def test_correlations_have_a_panel_of_their_own(put):
    put(history=epochs(2, correlation=[1.0, 4.0], validation_correlation=[0.5, 0.7]))
    (panel,) = draw("losses", put.results).axes
    assert panel.get_ylabel() == "sum of correlations" and len(thick(panel)) == 2


@pytest.mark.parametrize(
    ("values", "places", "joined", "logarithmic"),
    [
        ((1, 2, 10), [1, 2, 10], [True] * 3, False),
        ((1, 10, 100), [0, 1, 2], [True] * 3, True),
        ((0, 0.01, 1), [-4, -2, 0], [False, True, True], True),
        ((-1, 0, 100), [-1, 0, 100], [True] * 3, False),
        ((0, 1), [0, 1], [True] * 2, False),
        ((False, True), [0, 1], [False] * 2, False),
        (("a", "b", None), [0, 1, 2], [False] * 3, False),
        ((None, 1, 2), [0, 1, 2], [False] * 3, False),
    ],
)
def test_where_values_stand(values, places, joined, logarithmic):
    found = diagnostics._axis(values)
    assert_allclose(found[0], places, atol=1e-12)
    assert found[1].tolist() == joined and found[2] == logarithmic


def test_values_are_told_apart_as_json_tells_them():
    assert diagnostics._in_order([2, 1.0, 1, 10]) == [1, 2, 10]
    assert diagnostics._in_order([True, 1, False]) == [1, False, True]
    assert diagnostics._in_order([None, "b", [1, 2], None]) == [[1, 2], "b", None]


def test_what_shows_no_sensitivity_is_refused_in_words(put):
    put("a", history=scored(0.5), params={"alpha": 1})
    put("b[alpha=1]", history=scored(0.5), params={"alpha": 1})
    put("b[alpha=2]", params={"alpha": 2}, trained=False)
    with pytest.raises(UsageError, match="these runs are of a, b: choose with --method"):
        draw("sensitivity", put.results)
    with pytest.raises(UsageError, match=r"no parameter varies among these 1 runs of a; .*'a\[PARAMETER=1\]"):
        draw("sensitivity", put.results, methods=["a"])
    with pytest.raises(MissingData, match=r"b\[alpha=2\] is not trained by epochs"):
        draw("sensitivity", put.results, methods=["b"])
    put("c[x=1]", history=epochs(2, loss=[1.0, 1.0]), params={"x": 1})
    put("c[x=2]", history=scored(0.5), params={"x": 2})
    with pytest.raises(MissingData, match="has no validation scores: its split has no validation rows"):
        draw("sensitivity", put.results, methods=["c"])
    put("d[x=1,y=1]", history=scored(0.5), params={"x": 1, "y": 1})
    put("d[x=2,y=2]", history=scored(0.5), params={"x": 2, "y": 2})
    with pytest.raises(UsageError, match="differ in one parameter alone; x, y vary together"):
        draw("sensitivity", put.results, methods=["d"])
    put("e", history=scored(0.5), params={"x": 1})
    put("e[z=2]", history=scored(0.5), params={"x": 1, "z": 2})
    with pytest.raises(UsageError, match="versions with different parameters"):
        draw("sensitivity", put.results, methods=["e"])


def test_tuned_runs_have_no_sensitivity(put):
    tuning = Tuning("random", 4, [Trial({"alpha": 1}, 0.5, 0.1)], 0)
    records = [put(f"t[alpha={a}]", history=scored(0.5), params={"alpha": a}, tuning=tuning) for a in (1, 2)]
    with pytest.raises(MissingData, match="is not tuned"):
        draw("sensitivity", put.results)
    for names, which in (([record.score_id for record in records], {}), ([], {"tuned": True})):
        with pytest.raises(UsageError, match="the parameters of a tuned run were chosen"):
            draw("sensitivity", put.results, *names, **which)
    put("t", history=scored(0.5), params={"alpha": 0})
    with pytest.raises(UsageError, match="no parameter varies"):  # the tuned ones are left out
        draw("sensitivity", put.results)


# -- test items ---------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, keep_run):
    """Keeps a run of n items in two dimensions more than one, classes apart; returns its results and record."""

    def keep(n=20, labels=None, **options):
        rng = np.random.default_rng(1)
        labels = np.arange(n) % 3 if labels is None else labels
        mean = 4 * np.eye(5)[(labels if labels.ndim == 1 else labels.argmax(axis=1)) % 5]
        images, texts = (mean + rng.normal(size=(n, 5)) for _ in range(2))
        record = keep_run(tmp_path / "kept", images, texts, labels, **options)
        return Results(tmp_path / "kept"), record

    return keep


def arrays_of(results, record):
    return read_npz(results.record_path(record.score_id).with_suffix(".npz"))


def coordinates(results, record):
    (run,) = plot.choose(results, [record.score_id])
    return diagnostics.tsne(run, read_embeddings(results.embeddings_path(record.fit_id)))


def test_the_coordinates_are_kept_beside_the_record_and_not_computed_again(kept, monkeypatch):
    results, record = kept()
    before = arrays_of(results, record)
    first = coordinates(results, record)
    stored = arrays_of(results, record)
    assert set(stored) - set(before) == {f"tsne/{name}" for name in ("images", "texts", "items", "settings")}
    assert all((stored[name] == before[name]).all() for name in before)
    assert first.images.shape == first.texts.shape == (20, 2)
    assert_array_equal(first.items, np.arange(20))
    assert_array_equal(stored["tsne/images"], first.images)
    results.record_path(record.score_id).with_suffix(".npz").write_bytes(b"")
    results.put(record, before)
    again = coordinates(results, record)
    assert_array_equal(again.images, first.images)  # deterministic
    assert_array_equal(again.texts, first.texts)
    monkeypatch.setattr(diagnostics, "_compute", lambda rows: pytest.fail("computed again"))
    third = coordinates(results, record)
    assert_array_equal(third.images, first.images)
    drawn = draw("tsne", results, record.score_id)
    offsets = np.concatenate([found.get_offsets() for found in drawn.axes[0].collections])
    assert_allclose(np.sort(offsets, axis=0), np.sort(np.r_[first.images, first.texts], axis=0))
    assert [panel.get_title() for panel in drawn.axes] == ["by modality", "by class"]


def test_other_embeddings_are_computed_anew(kept):
    results, record = kept()
    first = coordinates(results, record)
    path = results.embeddings_path(record.fit_id)
    old = read_embeddings(path)
    write_embeddings(path, Embeddings(**{**vars(old), "images": -old.images}))
    assert not np.array_equal(coordinates(results, record).images, first.images)


def test_the_length_of_rows_makes_no_difference(kept):
    """That is the cosine: only directions count."""
    rows = np.random.default_rng(0).normal(size=(6, 3))
    scaled = rows * np.array([[1], [2], [5], [0.1], [7], [3]])
    assert_allclose(diagnostics._unit_rows(scaled), diagnostics._unit_rows(rows), atol=1e-15)
    assert_array_equal(diagnostics._unit_rows(np.zeros((2, 3))), np.zeros((2, 3)))


def test_of_many_items_some_are_drawn(kept, monkeypatch):
    monkeypatch.setattr(diagnostics, "_MOST_ITEMS", 18)
    results, record = kept(n=40)
    found = coordinates(results, record)
    assert len(found.items) == 18 == len(np.unique(found.items)) and (np.diff(found.items) > 0).all()
    assert found.items.max() < 40 and found.images.shape == (18, 2)
    assert any("of 18 of 40 test items, drawn at random" in text for text in texts(draw("tsne", results)))
    monkeypatch.setattr(diagnostics, "_MOST_ITEMS", 19)
    assert len(coordinates(results, record).items) == 19


def test_an_item_of_several_classes_is_of_the_rarest():
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]])
    assert diagnostics.classes(labels).tolist() == [1, 0, 2, -1, 2, 0]
    assert diagnostics.classes(np.array([2, 0])).tolist() == [2, 0]


def test_multi_label_items_and_many_classes_stay_readable(kept):
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 40)) < 0.08).astype(int)
    labels[0] = 0
    labels[np.arange(1, 41), np.arange(40)] = 1
    results, _ = kept(n=60, labels=labels)
    drawn = draw("tsne", results)
    shown = texts(drawn)
    assert any("rarest among the test items" in text for text in shown)
    named = [text for text in shown if text.startswith("class ")]
    assert len(named) == 20
    assert any("classes of fewer items and no class" in text for text in shown)
    width, height = drawn.get_size_inches()
    assert width <= 7 and height < 8


def test_what_cannot_be_shown_is_refused_in_words(kept, tmp_path, keep_run, made):
    rng = np.random.default_rng(0)
    results, _ = kept(n=15)
    with pytest.raises(UsageError, match="takes more than 30 images and texts; this run has 30"):
        draw("tsne", results)
    labels = np.arange(20) % 2
    one = keep_run(tmp_path / "one", rng.normal(size=(20, 1)), rng.normal(size=(20, 1)), labels)
    with pytest.raises(UsageError, match="one width, 2 or more; made gives 1 and 1"):
        draw("tsne", Results(tmp_path / "one"), one.score_id)
    keep_run(tmp_path / "same", np.ones((20, 3)), np.ones((20, 3)), labels)
    with pytest.raises(UsageError, match="all test items of made, seed 0, have one place"):
        draw("tsne", Results(tmp_path / "same"))
    with pytest.raises(
        UsageError, match=r"tsne draws one run; name one RECORD of these 6: .*\(slow, seed 1\)"
    ):
        draw("tsne", made)
    results, record = kept()
    results.embeddings_path(record.fit_id).unlink()
    with pytest.raises(MissingData, match=r"are not in .* without --discard-embeddings"):
        draw("tsne", results)


def test_a_record_with_ids_that_are_not_its_own_is_refused(kept):
    results, record = kept()
    forged = change(record, fit_id="../../elsewhere")
    results.put(forged)
    with pytest.raises(InvalidRecord, match="ids were made from"):
        draw("tsne", results)


def test_damaged_coordinates_are_refused(kept):
    results, record = kept()
    coordinates(results, record)
    results.put(record, {**arrays_of(results, record), "tsne/images": np.zeros((3, 2))})
    with pytest.raises(InvalidRecord, match="t-SNE is not that of these items"):
        coordinates(results, record)


# -- which runs, and the command ----------------------------------------------------------------------


def test_a_method_is_named_by_label_or_by_name(made):
    def labels(**which):
        return {run.record.method.label for run in plot.choose(made, [], **which)}

    assert labels(methods=["slow"]) == {"slow"}
    assert labels(methods=["slow", "random"]) == {"slow", "random"}
    assert labels(methods=["slow"], variants=True) == {"slow", "slow[alpha=0.5]"}
    first = next(iter(made))
    with pytest.raises(UsageError, match=r"--method, .* leave them out, or every RECORD"):
        plot.choose(made, [first.score_id], methods=["slow"])
    with pytest.raises(
        MissingData, match=r"no finished run of slo .*some of: random, slow, slow\[alpha=0.5\]"
    ):
        plot.choose(made, [], methods=["slo"])


def test_a_name_without_a_plain_run_stands_for_its_variants(put):
    put("slow[alpha=1]", history=scored(0.5))
    assert len(plot.choose(put.results, [], methods=["slow"])) == 1


def test_real_runs_give_what_their_records_hold(made):
    runs = diagnostics.choose("sensitivity", made, [], methods=["slow"])
    (sweep,), held, _ = diagnostics.sweeps(runs)
    assert sweep.name == "alpha" and sweep.values == (0.1, 0.5) and held == {"alpha": 0.1}
    for scores, value in zip(sweep.scores, sweep.values, strict=True):
        mine = sorted(
            (run for run in runs if run.record.params["alpha"] == value), key=lambda r: r.record.seed
        )
        expected = [np.nanmax(plot.arrays_of(run)["history/validation_map"]) for run in mine]
        assert_array_equal(scores, expected)


@pytest.fixture
def call(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command = ["xmbench", "plot", *map(str, arguments), "--results", str(made.folder)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_the_command_writes_one_file(call, made, tmp_path):
    assert call("losses", "-m", "slow") == (0, "wrote losses.png\n", "")
    assert call("sensitivity", "--method", "slow", "-o", "s.svg") == (0, "wrote s.svg\n", "")
    (record, *_) = [record for record in made if record.method.label == "slow"]
    assert call("tsne", record.score_id[:8], "-o", "t.pdf") == (0, "wrote t.pdf\n", "")
    assert call("pr", "-m", "slow", "-m", "random", "-o", "pr.png")[0] == 0
    files = sorted(path.name for path in tmp_path.rglob("*.*"))
    assert files == ["losses.png", "pr.png", "s.svg", "t.pdf"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["losses"], 2, "choose with --method"),
        (["losses", "-m", "random"], 3, "random is not trained by epochs"),
        (["losses", "-m", "gone"], 3, "no finished run of gone"),
        (
            ["losses", "-m", "slow", "--task", "image-text"],
            2,
            "--task and --max-scope go with precision-scope",
        ),
        (["sensitivity", "-m", "slow", "--max-scope", "5"], 2, "not with sensitivity"),
        (["sensitivity", "-m", "random"], 2, "no parameter varies"),
        (["tsne", "-m", "slow"], 2, "name one RECORD of these 2"),
        (["tsne", "zz"], 3, "zz"),
    ],
)
def test_the_command_refuses_in_words_and_writes_nothing(call, tmp_path, arguments, code, words):
    found = call(*arguments)
    assert found[0] == code and found[1] == "" and words in found[2]
    assert not list(tmp_path.rglob("*.*"))


NASTY = ["$x^2$", r"$\frac{1}", "_hidden", "%s %d", "a\x1b[31m\nb", "x" * 5000]


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_text_of_records_is_shown_as_it_is(put, kept, tmp_path, nasty):
    for value in ("a", nasty):
        label = "slow" if value == "a" else f"slow[{nasty}]"
        put(
            label, params={nasty: value},
            history=epochs(2, stage=np.array([nasty, nasty]), loss=[1.0, 2.0], validation_map=[0.1, 0.2]),
            transductive=True,
        )  # fmt: skip
    results, record = kept(class_names=(nasty, "b", "c"), label=nasty, title=nasty)
    figures = [
        draw("losses", put.results, methods=[f"slow[{nasty}]"]),
        draw("sensitivity", put.results, methods=["slow"]),
        draw("tsne", results, record.score_id),
    ]
    for drawn in figures:
        drawing.write(drawn, tmp_path / "figure.png")
        width, height = drawn.get_size_inches()
        assert width <= 7 and height < 12
