"""One run: what a method may see, what its identity depends on, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmbench.data import Corpus, Features, Ragged, Split, prepare
from xmbench.evaluation import evaluate
from xmbench.protocol import protocol
from xmbench.record import DatasetRow, MethodRow, Results
from xmbench.registry import Registry
from xmbench.run import RunSpec, bundle_store, read_bundle, read_embeddings, run_one, write_bundle

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
