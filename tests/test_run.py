"""One run: what a method may see, what its identity depends on, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmbench._io import npz_bytes, read_npz
from xmbench.data import Corpus, Features, Ragged, Split, prepare
from xmbench.errors import ConformanceError
from xmbench.evaluation import evaluate
from xmbench.method import Method, MethodInfo
from xmbench.protocol import protocol
from xmbench.record import DatasetRow, MethodRow, Results
from xmbench.registry import Registry
from xmbench.run import (
    RunSpec,
    bundle_store,
    history_arrays,
    read_bundle,
    read_embeddings,
    run_one,
    write_bundle,
)

N, CLASSES = 60, 3

PLUGIN = """
import numpy as np
from xmbench import Method, MethodInfo

class Watcher(Method):
    info = MethodInfo(title="Watcher", paper="none", year=2026, supervised=True)

    def __init__(self, unlabelled: bool = False, random_state: int = 0) -> None:
        self.unlabelled = unlabelled
        self.random_state = random_state

    @property
    def transductive(self):
        return self.unlabelled

    def _fit(self, train, validation, context):
        with open({log!r}, "a") as stream:
            extra = None if context.unlabelled_images is None else context.unlabelled_images.shape
            print(sorted(train.ids), sorted(validation.ids), extra, sep=";", file=stream)
        assert 0.0 <= context.validation_score(self._pretend(train)) <= 1.0

    def _pretend(self, train):
        self.n_features_in_ = [train.images.shape[1], train.texts.shape[1]]
        return self

    def _encode_image(self, x):
        return x[:, :4]

    def _encode_text(self, x):
        return x[:, :4]

METHOD = Watcher
"""


def corpus_and_split():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    ids = tuple(f"i{row}" for row in range(N))
    corpus = Corpus(
        name="toy",
        images=rng.normal(size=(N, 6)).astype(np.float32),
        texts=rng.normal(size=(N, 5)).astype(np.float32),
        labels=labels,
        class_names=("a", "b", "c"),
        ids=ids,
        groups=ids,
        digest="0" * 64,
    )
    return corpus, Split("thirds", 0, np.arange(40), np.arange(40, 50), np.arange(50, N))


def prepared(**parts):
    corpus, split = corpus_and_split()
    return prepare(
        corpus, split, Features(corpus.images, {"name": "x"}), Features(corpus.texts, {"name": "y"}), **parts
    )


@pytest.fixture
def case(tmp_path):
    """A spec of the watching method, its bundle and results folder."""
    log = tmp_path / "log"
    plugin = tmp_path / "watcher.py"
    plugin.write_text(PLUGIN.format(log=str(log)))
    data = prepared()
    bundle = tmp_path / "bundle"
    write_bundle(bundle, data)
    found = Registry([plugin]).plugin("method", "watcher")
    spec = RunSpec(
        plugin=found,
        method=MethodRow(
            name="watcher",
            label="watcher",
            title="Watcher",
            params={"unlabelled": False, "random_state": 0},
            source=found.source_digest()[:16],
            supervised=True,
            transductive=False,
            control=False,
            trained=False,
            departures=[],
        ),
        dataset=DatasetRow(
            name="toy",
            title="Toy",
            features="x+y",
            scaling="none+none",
            provenance={},
            split="thirds",
            split_seed=0,
            sizes=dict(data.sizes),
            n_classes=CLASSES,
            fingerprint=data.fingerprint,
        ),
        class_names=data.class_names,
        protocol=protocol("default"),
        seed=0,
        numerics="n",
        evaluator="e",
    )
    return spec, bundle, tmp_path / "results", log, data


def go(spec, bundle, results, *, keep=True, fresh=False):
    run_one(spec, bundle, results, keep, fresh, None, lambda *news: None)
    return Results(results).get(spec.score_id)


def test_fit_sees_training_and_validation_rows_and_no_test_row(case):
    spec, bundle, results, log, data = case
    go(spec, bundle, results)
    train, validation, extra = log.read_text().strip().split(";")
    assert train == str(sorted(data.train.ids)) and validation == str(sorted(data.validation.ids))
    assert extra == "None"
    assert not set(data.test.ids) & (set(data.train.ids) | set(data.validation.ids))


def test_a_transductive_fit_gets_test_features_alone(case):
    spec, bundle, results, log, data = case
    asked = replace(
        spec, method=_with(spec.method, params={"unlabelled": True, "random_state": 0}, transductive=True)
    )
    record = go(asked, bundle, results)
    assert log.read_text().strip().split(";")[2] == str(data.test.images.shape)
    assert record.method.transductive and asked.fit_id != spec.fit_id


def test_the_record_holds_what_the_evaluator_says(case):
    spec, bundle, results, _, data = case
    record = go(spec, bundle, results)
    expected = evaluate(data.test.images[:, :4], data.test.texts[:, :4], data.test.labels)
    arrays = Results(results).arrays(spec.score_id)
    for task, scores in expected.tasks.items():
        row = record.metrics[task]
        assert row.mean_average_precision == pytest.approx(scores.mean_average_precision, abs=1e-12)
        np.testing.assert_array_equal(arrays[f"average_precision/{task}"], scores.average_precision)
        np.testing.assert_array_equal(arrays[f"scopes/{task}"], np.arange(1, len(scores.precision) + 1))
        assert set(row.per_class) == {"a", "b", "c"}
    assert record.cost.peak_memory_bytes is None or record.cost.peak_memory_bytes >= 0
    assert record.cost.fit_seconds >= 0 and "numpy" in record.cost.versions


def test_a_new_protocol_scores_the_kept_embeddings_and_fits_nothing(case):
    spec, bundle, results, log, data = case
    go(spec, bundle, results)
    other = replace(spec, protocol=protocol("l2"))
    assert other.fit_id == spec.fit_id and other.score_id != spec.score_id
    record = go(other, bundle, results)
    assert len(log.read_text().splitlines()) == 1
    expected = evaluate(data.test.images[:, :4], data.test.texts[:, :4], data.test.labels, protocol("l2"))
    assert record.metrics["text->image"].mean_average_precision == pytest.approx(
        expected.tasks["text->image"].mean_average_precision, abs=1e-12
    )


@pytest.mark.parametrize("damage", ["delete", "truncate", "garbage", "fresh", "not kept"])
def test_embeddings_that_are_not_there_whole_are_made_again(case, damage):
    spec, bundle, results, log, _ = case
    first = go(spec, bundle, results, keep=damage != "not kept")
    path = Results(results).embeddings_path(spec.fit_id)
    assert path.exists() == (damage != "not kept")
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "garbage":
        path.write_bytes(b"<html>not found</html>")
    second = go(spec, bundle, results, fresh=damage == "fresh")
    assert len(log.read_text().splitlines()) == 2
    assert {k: v.mean_average_precision for k, v in first.metrics.items()} == {
        k: v.mean_average_precision for k, v in second.metrics.items()
    }


def test_embeddings_come_back_as_they_were(case):
    spec, bundle, results, _, data = case
    go(spec, bundle, results)
    kept = read_embeddings(Results(results).embeddings_path(spec.fit_id))
    np.testing.assert_array_equal(kept.images, data.test.images[:, :4])
    assert kept.images.dtype == data.test.images.dtype


def _with(row, **fields):
    import msgspec

    return msgspec.structs.replace(row, **fields)


CHANGES = {
    "source": lambda s: replace(s, method=_with(s.method, source="other")),
    "params": lambda s: replace(s, method=_with(s.method, params={"unlabelled": False, "random_state": 1})),
    "fingerprint": lambda s: replace(s, dataset=_with(s.dataset, fingerprint="other")),
    "split seed": lambda s: replace(s, dataset=_with(s.dataset, split_seed=1)),
    "seed": lambda s: replace(s, seed=1),
    "numerics": lambda s: replace(s, numerics="other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_can_change_a_fit_changes_both_ids(case, change):
    spec = case[0]
    changed = CHANGES[change](spec)
    assert changed.fit_id != spec.fit_id and changed.score_id != spec.score_id


def test_what_cannot_change_a_fit_is_in_no_fit_id(case):
    spec = case[0]
    for other in (
        replace(spec, threads=2),
        replace(spec, evaluator="other"),
        replace(spec, protocol=protocol("l2")),
        replace(spec, method=_with(spec.method, label="watcher[random_state=0]", title="Other")),
    ):
        assert other.fit_id == spec.fit_id
    assert replace(spec, evaluator="other").score_id != spec.score_id
    assert replace(spec, threads=2).score_id == spec.score_id


def test_a_bundle_gives_back_what_went_in(tmp_path):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, size=N)
    offsets = np.concatenate([[0], counts.cumsum()])
    parts = Ragged(rng.normal(size=(offsets[-1], 3)).astype(np.float32), offsets)
    data = prepared(text_parts=parts, parts_provenance={"name": "sentences"})
    write_bundle(tmp_path / "bundle", data)
    for part in ("train", "validation", "test"):
        before, after = getattr(data, part), read_bundle(tmp_path / "bundle", part)
        assert before.ids == after.ids and before.n_classes == after.n_classes and after.image_parts is None
        for name in ("images", "texts", "labels"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        for item in range(len(before)):
            np.testing.assert_array_equal(before.text_parts[item], after.text_parts[item])


def test_matrices_that_lie_in_the_bundle_already_are_not_written_again(tmp_path):
    plain, direct = tmp_path / "plain", tmp_path / "direct"
    write_bundle(plain, prepared())
    direct.mkdir()
    data = prepared(store=bundle_store(direct))
    before = {path.name: path.stat().st_mtime_ns for path in direct.iterdir()}
    assert set(before) == {
        f"{p}-{m}.npy" for p in ("train", "validation", "test") for m in ("images", "texts")
    }
    write_bundle(direct, data, stored=True)
    assert all((direct / name).stat().st_mtime_ns == time for name, time in before.items())
    assert {path.name: path.read_bytes() for path in plain.iterdir()} == {
        path.name: path.read_bytes() for path in direct.iterdir()
    }


def test_what_a_run_writes_to_its_data_reaches_no_other_run(tmp_path):
    write_bundle(tmp_path / "bundle", prepared())
    one = read_bundle(tmp_path / "bundle", "train")
    before = one.images.copy()
    one.images[:] = 7
    np.testing.assert_array_equal(read_bundle(tmp_path / "bundle", "train").images, before)
    assert (one.images == 7).all()


# -- what a method tells of its epochs --------------------------------------------------------------


class Told(Method):
    """Has whatever history it is given."""

    info = MethodInfo(title="Told", paper="none", year=2026, supervised=False)

    def __init__(self, **learned):
        vars(self).update(learned)

    def _fit(self, train, validation, context):
        raise NotImplementedError

    _encode_image = _encode_text = None


EPOCHS = """
from xmbench import Method, MethodInfo

class Epochs(Method):
    info = MethodInfo(title="Epochs", paper="none", year=2026, supervised=False, trained=True)

    def __init__(self, a: int = 2, random_state: int = 0) -> None:
        self.a = a
        self.random_state = random_state

    def _fit(self, train, validation, context):
        self.history_ = [{"stage": "only", "epoch": e, "embedding_loss": self.a / e} for e in (1, 2, 3)]
        self.history_[1]["validation_map"] = context.validation_score(self)
        self.best_epoch_ = 2

    def _encode_image(self, x):
        return x[:, : self.a]

    _encode_text = _encode_image

METHOD = Epochs
"""


@pytest.fixture
def told(case):
    """A spec of a method with a history, its bundle and results folder."""
    spec, bundle, results, log, _ = case
    plugin = log.parent / "epochs.py"
    plugin.write_text(EPOCHS)
    row = _with(spec.method, name="epochs", label="epochs", params={"a": 2, "random_state": 0})
    data = _with(spec.dataset, sizes={"train": 40, "validation": 10, "test": 10})
    return (
        replace(spec, plugin=Registry([plugin]).plugin("method", "epochs"), method=row, dataset=data),
        bundle,
        results,
    )


def test_a_history_lies_beside_the_record_under_any_protocol(told):
    spec, bundle, results = told
    go(spec, bundle, results)
    go(replace(spec, protocol=protocol("l2")), bundle, results)  # from kept embeddings
    for one in (spec, replace(spec, protocol=protocol("l2"))):
        arrays = Results(results).arrays(one.score_id)
        found = {name: array for name, array in arrays.items() if name.startswith("history/")}
        assert set(found) == {
            f"history/{name}" for name in ("stage", "epoch", "embedding_loss", "validation_map", "best_epoch")
        }
        np.testing.assert_array_equal(found["history/epoch"], [1.0, 2.0, 3.0])
        np.testing.assert_allclose(found["history/embedding_loss"], [2, 1, 2 / 3])
        np.testing.assert_array_equal(np.isnan(found["history/validation_map"]), [True, False, True])
        assert found["history/stage"].tolist() == ["only"] * 3 and found["history/best_epoch"] == 2
        assert all(array.dtype.kind in "fUi" for array in found.values())


def test_the_history_of_a_tuned_run_is_that_of_the_winner(told):
    spec, bundle, results = told
    tried = tuple({"a": a, "random_state": 0} for a in (1, 2, 3))
    record = go(replace(spec, tuning=("grid", 3), tried=tried), bundle, results)
    arrays = Results(results).arrays(record.score_id)
    assert arrays["history/embedding_loss"][0] == record.params["a"]
    assert arrays["history/validation_map"][1] == pytest.approx(
        record.tuning.trials[record.tuning.chosen].score
    )


def test_embeddings_kept_before_there_were_histories_are_read_as_they_are(told, case):
    """They are of methods that had none: nothing has to be fitted again."""
    spec, bundle, results = told
    go(spec, bundle, results)
    path = Results(results).embeddings_path(spec.fit_id)
    arrays = {name: array for name, array in read_npz(path).items() if not name.startswith("history/")}
    path.write_bytes(npz_bytes(arrays))
    assert read_embeddings(path).history == {}
    other = replace(spec, protocol=protocol("l2"))
    go(other, bundle, results)
    assert not any(name.startswith("history/") for name in Results(results).arrays(other.score_id))
    watcher, bundle, results, *_ = case
    go(watcher, bundle, results)
    assert not any(name.startswith("history/") for name in Results(results).arrays(watcher.score_id))


def test_lines_may_lack_columns_and_no_array_holds_objects():
    lines = [{"epoch": 1, "stage": "a"}, {"epoch": 2, "loss": np.float32(0.5)}, {"stage": "long name"}]
    arrays = history_arrays(Told(history_=lines, best_epoch_=1))
    np.testing.assert_array_equal(arrays["history/epoch"], [1, 2, np.nan])
    np.testing.assert_array_equal(arrays["history/loss"], [np.nan, 0.5, np.nan])
    assert arrays["history/stage"].tolist() == ["a", "", "long name"]
    assert arrays["history/best_epoch"].shape == () and arrays["history/best_epoch"].dtype == np.int64
    assert not any(array.dtype.hasobject for array in arrays.values())
    assert history_arrays(Told()) == history_arrays(Told(history_=[])) == {}


@pytest.mark.parametrize(
    ("learned", "words"),
    [
        ({"history_": np.zeros(3)}, "list of dictionaries"),
        ({"history_": [1, 2]}, "list of dictionaries"),
        ({"history_": [{"epoch": 1}, {"epoch": "two"}]}, "epoch has to hold numbers alone, or text alone"),
        ({"history_": [{"epoch": None}]}, "epoch has to hold numbers alone"),
        ({"history_": [{"epoch": np.zeros(2)}]}, "epoch has to hold numbers alone"),
        ({"history_": [{"a/b": 1}]}, "'a/b' cannot be a column"),
        ({"history_": [{3: 1}]}, "3 cannot be a column"),
        ({"history_": [{"best_epoch": 1}]}, "'best_epoch' cannot be a column"),
        ({"history_": [{"epoch": 1}], "best_epoch_": 0}, "1 or more, got 0"),
        ({"history_": [{"epoch": 1}], "best_epoch_": 1.5}, "1 or more, got 1.5"),
    ],
)
def test_what_is_no_history_is_refused_in_words(learned, words):
    with pytest.raises(ConformanceError, match=words):
        history_arrays(Told(**learned))
