"""Made-up data: what it promises, what every method does on its extremes, and that no leaderboard takes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from xmbench import FitContext, Method, PairedData
from xmbench.data import Features, prepare
from xmbench.datasets import synthetic
from xmbench.datasets.synthetic import Synthetic
from xmbench.describe import card_text, describe_card
from xmbench.errors import InvalidParameter, InvalidRecord, MissingData, UnknownName, Unsupported
from xmbench.evaluation import evaluate
from xmbench.leaderboard import check_boards, tables, to_text, write_boards
from xmbench.plan import Places, Plan, Request
from xmbench.record import Results, encode
from xmbench.registry import Registry

BUILT_IN = sorted(name for name, plugin in Registry().methods.items() if plugin.origin == "built-in")
SUPERVISED = [name for name in BUILT_IN if Registry().method(name).info.supervised]


def read(**parameters):
    return Synthetic(**parameters).load(Path(), "gaussian", "gaussian")


def prepared(*, constant: bool = False, scaling: str = "zscore", **parameters) -> PairedData:
    dataset, corpus = Synthetic(**parameters), read(**parameters)
    matrices = [np.array(corpus.images), np.array(corpus.texts)]
    if constant:
        for matrix in matrices:
            matrix[:, 0] = 0.1
    features = [Features(matrix, {"name": "gaussian"}) for matrix in matrices]
    return prepare(corpus, dataset.split(corpus, "random", 0), *features, (scaling, scaling))


def embeddings(name: str, data: PairedData) -> tuple[Method, np.ndarray, np.ndarray]:
    method = Registry().method(name)()
    context = FitContext(unlabelled_images=data.test.images, unlabelled_texts=data.test.texts)
    method.fit(data.train, data.validation, context=context if method.transductive else None)
    return method, method.encode_image(data.test.images), method.encode_text(data.test.texts)


# -- the data ---------------------------------------------------------------------------------------


def test_the_same_parameters_give_the_same_data_and_others_give_other_data():
    one, two = read(n=100, labels=2), read(n=100, labels=2)
    assert one.digest == two.digest and one.ids == two.ids
    for name in ("images", "texts", "labels"):
        assert_array_equal(getattr(one, name), getattr(two, name))
    other = read(n=100, labels=2, random_state=1)
    assert other.digest != one.digest
    for name in ("images", "texts", "labels"):
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(one.images[:, :64], one.texts)


@pytest.mark.parametrize("block", [1, 1000, 12_345])
def test_how_much_is_drawn_at_once_and_where_it_is_kept_changes_nothing(monkeypatch, block):
    whole = read(n=200, classes=7, d_image=33)
    monkeypatch.setattr(synthetic, "BLOCK", block)
    monkeypatch.setattr(synthetic, "IN_MEMORY", 200 * 64)  # the images lie in a file now
    pieces = read(n=200, classes=7, d_image=33, d_text=64)
    assert_array_equal(pieces.images, whole.images)
    assert_array_equal(pieces.texts, whole.texts)
    monkeypatch.setattr(synthetic, "IN_MEMORY", 0)
    assert_array_equal(read(n=200, classes=7, d_image=33).images, whole.images)


@pytest.mark.parametrize("labels", [1, 2, 4])
def test_every_item_has_its_number_of_classes_and_every_class_its_share(labels):
    corpus = read(n=503, classes=5, labels=labels)
    if labels == 1:
        sizes = np.bincount(corpus.labels)
    else:
        assert_array_equal(corpus.labels.sum(axis=1), labels)
        sizes = corpus.labels.sum(axis=0)
    assert len(sizes) == 5 and sizes.min() > 0.8 * labels * 100
    split = Synthetic().split(corpus, "random", 3)
    assert split.sizes == {"train": 403, "validation": 50, "test": 50}


def test_without_noise_items_are_the_centres_of_their_classes():
    corpus = read(n=60, classes=3, noise=0, d_image=2000)
    for label in range(3):
        rows = corpus.images[corpus.labels == label]
        assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
        assert np.linalg.norm(rows[0]) == pytest.approx(1, rel=1e-6)
    centres = [corpus.images[corpus.labels == label][0] for label in (0, 1)]
    assert np.linalg.norm(centres[0] - centres[1]) == pytest.approx(2**0.5, rel=0.1)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_noise_has_the_deviation_it_is_asked_for(noise):
    quiet, loud = read(n=500, noise=0), read(n=500, noise=noise)
    assert (loud.images - quiet.images).std() == pytest.approx(noise, rel=0.02)
    assert abs((loud.images - quiet.images).mean()) < 0.02 * noise


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 9},
        {"n": 50.0},
        {"n": "many"},
        {"n": True},
        {"n": 20, "classes": 5},
        {"classes": 1},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"noise": float("inf")},
        {"noise": None},
        {"d_image": 0},
        {"d_text": -3},
        {"labels": 0},
        {"labels": 11},
        {"random_state": -1},
    ],
    ids=str,
)
def test_parameters_out_of_bounds_are_refused_in_words(parameters):
    with pytest.raises(InvalidParameter, match=r"^synthetic: .*(must be|need)"):
        Synthetic(**parameters)


@pytest.mark.parametrize("features", [("raw", "gaussian"), ("gaussian", "raw")])
def test_there_are_no_raw_items(features):
    with pytest.raises(Unsupported, match="no image files and no texts"):
        Synthetic().load(Path(), *features)


# -- methods on it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUPERVISED)
def test_methods_that_learn_classes_are_perfect_without_noise(name):
    data = prepared(n=120, classes=4, noise=0, d_image=24, d_text=16)
    _, images, texts = embeddings(name, data)
    assert evaluate(images, texts, data.test.labels).main == pytest.approx(1)


@pytest.mark.parametrize("name", BUILT_IN)
def test_noise_takes_methods_from_above_chance_to_chance(name):
    scores = {}
    for noise in (0.2, 1e6):
        data = prepared(n=1000, classes=4, noise=noise, d_image=24, d_text=16)
        found = evaluate(*embeddings(name, data)[1:], data.test.labels)
        scores[noise] = found.main - np.mean(
            [found.tasks[task].chance for task in ("image->text", "text->image")]
        )
    assert abs(scores[1e6]) < 0.06
    if not Registry().method(name).info.control:
        assert scores[0.2] > 0.2


EXTREMES = {
    "fewer rows than columns": {"n": 40, "classes": 2, "d_image": 90, "d_text": 70},
    "two classes": {"n": 100, "classes": 2, "d_image": 12, "d_text": 8},
    "no noise": {"n": 100, "classes": 4, "noise": 0, "d_image": 12, "d_text": 8},
    "no noise, unscaled": {"n": 100, "classes": 4, "noise": 0, "d_image": 12, "scaling": "none"},
    "a constant column": {"n": 100, "classes": 4, "d_image": 12, "d_text": 8, "constant": True},
    "one column": {"n": 100, "classes": 4, "d_image": 1, "d_text": 1},
    "several classes": {"n": 100, "classes": 4, "d_image": 12, "d_text": 8, "labels": 2},
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", BUILT_IN)
def test_methods_cope_with_extremes_or_refuse_them_in_words(name, extreme):
    data = prepared(**EXTREMES[extreme])
    info = Registry().method(name).info
    if data.train.multi_label and not info.multi_label:
        with pytest.raises(Unsupported, match="one class per item"):
            embeddings(name, data)
        return
    if name == "dcca" and len(data.train) == 32:  # as many as its components
        with pytest.raises(
            Unsupported, match=r"needs more than 32 training pairs, got 32: .* set n_components to 3"
        ):
            embeddings(name, data)
        return
    _, images, texts = embeddings(name, data)
    assert len(images) == len(texts) == len(data.test) and images.shape == texts.shape
    assert np.isfinite(images).all() and np.isfinite(texts).all()
    assert 0 <= evaluate(images, texts, data.test.labels).main <= 1


# -- asked for by name ------------------------------------------------------------------------------


def run(folder: Path, dataset: str, methods: str = "random"):
    places = Places(data=folder, cache=folder / "cache", results=folder / "results")
    request = Request(methods=methods.split(","), dataset=dataset)
    return Plan(request, Registry(), places, lambda message, fraction: None).run()


def test_parameters_in_brackets_make_the_data_and_name_it(tmp_path):
    (record,) = run(tmp_path, "synthetic[n=60, classes=3]")
    assert record.status == "ok" and record.dataset.synthetic
    assert record.dataset.name == "synthetic[classes=3,n=60]"
    assert record.dataset.title == "Synthetic[classes=3,n=60]"
    assert record.dataset.sizes == {"train": 48, "validation": 6, "test": 6}
    assert record.dataset.n_classes == 3
    written = Results(tmp_path / "results").record_path(record.score_id).stat().st_mtime_ns
    (again,) = run(tmp_path, record.dataset.name)
    assert again == record
    assert Results(tmp_path / "results").record_path(record.score_id).stat().st_mtime_ns == written
    (other,) = run(tmp_path, "synthetic[classes=3,n=60,noise=2]")
    assert other.fit_id != record.fit_id
    assert other.dataset.fingerprint != record.dataset.fingerprint


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("emoji[n=3]", InvalidParameter, "dataset 'emoji' has no parameters; ask for it as --dataset emoji"),
        ("synthetic[nois=3]", UnknownName, "did you mean noise"),
        ("synthetic[n=3", InvalidParameter, "cannot read"),
        ("synthetic[n=many]", InvalidParameter, "n must be a whole number"),
        ("synthetik[n=100]", UnknownName, "synthetic"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused_in_words(spec, error, words):
    with pytest.raises(error, match=re.escape(words)):
        Registry().dataset(spec)


def test_tables_say_that_it_is_made_up(tmp_path):
    records = run(tmp_path, "synthetic[n=60,classes=3]")
    assert "no benchmark" in to_text(tables(records)[0])
    assert "no benchmark" not in to_text(tables(run(tmp_path, "emoji"))[0])


def test_no_leaderboard_is_made_of_it(tmp_path):
    results, boards = Results(tmp_path / "results"), tmp_path / "boards"
    for spec in ("synthetic", "synthetic[n=60,classes=3]"):
        records = run(tmp_path, spec)
        for only in (None, spec):
            with pytest.raises(MissingData, match="synthetic data are kept out of leaderboards"):
                write_boards(boards, results, Registry(), only)
    run(tmp_path, "emoji")
    assert [path.name for path in write_boards(boards, results, Registry())] == ["emoji.md"]
    with (boards / "emoji.jsonl").open("ab") as stream:
        stream.write(encode(records[0]) + b"\n")
    with pytest.raises(InvalidRecord, match="no place in a leaderboard"):
        check_boards(boards, Registry())


@pytest.mark.parametrize(("classes", "labels"), [(2, 2), (3, 3), (3, 4)])
def test_as_many_labels_as_classes_are_refused_for_every_pair_would_match(classes, labels):
    with pytest.raises(InvalidParameter, match=rf"labels must be less than .* \({classes}\), got {labels}"):
        read(classes=classes, labels=labels)


def test_the_card_explains_every_parameter():
    dataset = Registry().dataset("synthetic")
    text = card_text(describe_card("synthetic", dataset, present=False))
    lines = [line for line in text.splitlines() if line.startswith("parameter: ")]
    assert len(lines) == 7 and "parameter: classes = 10: number of classes, at least 2" in text
    assert all(re.fullmatch(r"parameter: \w+ = [\d.]+: .{10,}", line) for line in lines), lines
    assert "of equal size, but for one item." in text  # a meaning's second line
