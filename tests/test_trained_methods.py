"""What every method that is trained in epochs does with data of any shape, and what it says of its training."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from networks import scored
from numpy.testing import assert_array_equal

from xmbench import FitContext, Method, Pairs
from xmbench.errors import DeadlineExceeded, InvalidParameter, RunError
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

pytest.importorskip("torch")

BUILT_IN = {
    name: Registry().method(name)
    for name, plugin in Registry().methods.items()
    if plugin.origin == "built-in"
}
TRAINED = {
    name: cls for name, cls in sorted(BUILT_IN.items()) if cls.info.trained and "torch" in cls.info.requires
}

SMALL = {"hidden": 16, "n_components": 5, "pretrain_epochs": 3}
"""Small networks and short pretraining, where a method has the parameter."""

every_method = pytest.mark.parametrize("name", TRAINED)


def small(name: str, **parameters) -> Method:
    """The method with small networks and three epochs."""
    cls = TRAINED[name]
    given = {key: value for key, value in SMALL.items() if key in cls.defaults()}
    return cls(**given | {"max_epochs": 3} | parameters)


def last_stage(method: Method) -> list[dict]:
    """The lines of the history that belong to the last stage of the fit."""
    return [line for line in method.history_ if line.get("stage") == method.history_[-1].get("stage")]


def assert_sound(method: Method, pairs: Pairs) -> None:
    """Finite rows of one width, and a history that JSON can hold."""
    images, texts = method.encode_pairs(pairs)
    assert images.shape == texts.shape
    assert len(images) == len(pairs)
    assert np.isfinite(images).all()
    assert np.isfinite(texts).all()
    assert json.loads(json.dumps(method.history_, allow_nan=False)) == method.history_
    json.dumps(method.best_epoch_)


def test_the_walk_finds_the_methods():
    assert {"acmr", "ce_mlp", "corr_ae", "dcca", "deep_sm_mlp", "dscmr", "supcon"} <= set(TRAINED)


# -- data -------------------------------------------------------------------------------------------


@every_method
def test_fewer_pairs_than_a_batch_are_one_batch(name):
    data = synthetic_data(11, 10, 10)
    method = small(name).fit(data.train, data.validation, context=scored(data.validation))
    assert_sound(method, data.test)
    if "batch_size" in method.defaults():
        large, whole = (
            small(name, batch_size=size).fit(data.train, data.validation).encode_image(data.test.images)
            for size in (1000, 11)
        )
        assert_array_equal(large, whole)


@every_method
def test_a_last_batch_of_one_pair_does_no_harm(name):
    pairs = synthetic_pairs(41)
    assert_sound(small(name, batch_size=20).fit(pairs), pairs)


@every_method
def test_batches_may_lack_classes_and_training_rows_too(name):
    """Eight rows of thirty classes a batch, the last class without any row; then batches of one class alone."""
    rare = synthetic_pairs(60, n_classes=30)
    rare = replace(rare, labels=np.where(rare.labels == 29, 0, rare.labels))
    assert_sound(small(name, batch_size=8).fit(rare), rare)
    lopsided = synthetic_pairs(60, n_classes=3)
    lopsided = replace(lopsided, labels=np.where(np.arange(60) < 2, 1, 2))
    assert_sound(small(name, batch_size=8).fit(lopsided), lopsided)


@every_method
def test_narrow_texts_go_with_wide_images(name):
    data = synthetic_data(60, 20, 20, d_image=4096, d_text=10)
    method = small(name).fit(data.train, data.validation, context=scored(data.validation))
    assert_sound(method, data.test)


@every_method
@pytest.mark.parametrize("modality", ["images", "texts"])
def test_a_modality_that_is_constant_gives_finite_rows(name, modality):
    pairs = synthetic_pairs()
    pairs = replace(pairs, **{modality: np.zeros((120, 6))})
    assert_sound(small(name).fit(pairs), pairs)


@every_method
def test_items_of_several_classes_are_learned_from(name):
    data = synthetic_data(multi_label=True)
    method = small(name).fit(data.train, data.validation, context=scored(data.validation))
    assert_sound(method, data.test)


# -- training ---------------------------------------------------------------------------------------


@every_method
def test_a_deadline_that_has_passed_ends_the_fit_and_leaves_nothing_learned(name):
    method = small(name)
    with pytest.raises(DeadlineExceeded):
        method.fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))
    assert not [key for key in vars(method) if key.endswith("_")]


@every_method
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name):
    data = synthetic_data()
    found = []
    for seed in (0, 0, 1):
        method = small(name, random_state=seed)
        method.fit(data.train, data.validation, context=scored(data.validation))
        timeless = [
            {key: value for key, value in line.items() if key != "seconds"} for line in method.history_
        ]
        found.append((*(rows.tobytes() for rows in method.encode_pairs(data.test)), timeless))
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


@every_method
def test_the_history_has_each_epoch_with_its_losses_and_marks_the_kept_one(name):
    data = synthetic_data()
    method = small(name, patience=3).fit(data.train, data.validation, context=scored(data.validation))
    stages: dict = {}
    for line in method.history_:
        assert {"epoch", "seconds", "learning_rate", "kept"} <= set(line)
        assert set(line) - {"epoch", "seconds", "learning_rate", "kept", "stage", "validation_map"}
        assert line["seconds"] > 0
        stages.setdefault(line.get("stage"), []).append(line)
    for lines in stages.values():
        assert [line["epoch"] for line in lines] == [1, 2, 3]
        assert sorted(line["kept"] for line in lines) == [0.0, 0.0, 1.0]
    (kept,) = (line for line in last_stage(method) if line["kept"])
    assert method.best_epoch_ == kept["epoch"]
    assert "validation_map" in kept


@every_method
@pytest.mark.parametrize("max_epochs", [1, 4])
def test_without_validation_pairs_training_goes_on_to_the_last_epoch_and_keeps_it(name, max_epochs):
    method = small(name, max_epochs=max_epochs, patience=1).fit(synthetic_pairs())
    assert max(line["epoch"] for line in last_stage(method)) == method.best_epoch_ == max_epochs
    assert not any(key.startswith("validation") for line in method.history_ for key in line)


@every_method
def test_validation_pairs_are_not_trained_on(name):
    """With one epoch there is none to choose: other validation pairs change nothing."""
    data = synthetic_data()
    other = synthetic_pairs(25, seed=9)
    found = [
        small(name, max_epochs=1)
        .fit(data.train, validation, context=scored(validation))
        .encode_pairs(data.test)
        for validation in (data.validation, other)
    ]
    for first, second in zip(*found, strict=True):
        assert_array_equal(first, second)


@every_method
@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"max_epochs": 0},
        {"patience": 0},
        {"random_state": -1},
        {"batch_size": -1},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_parameters_of_the_loop_that_make_no_sense_are_refused_by_name(name, parameters):
    with pytest.raises(InvalidParameter, match=rf"{TRAINED[name].__name__}\.{next(iter(parameters))}"):
        small(name, **parameters).fit(synthetic_pairs())


@every_method
def test_encoding_needs_no_torch(name, monkeypatch):
    """A fitted method is arrays: with torch away, it encodes as before."""
    pairs = synthetic_pairs(40)
    method = small(name).fit(pairs)
    before = method.encode_pairs(pairs)
    monkeypatch.setitem(sys.modules, "torch", None)
    for first, second in zip(before, method.encode_pairs(pairs), strict=True):
        assert_array_equal(first, second)


@every_method
def test_the_grid_has_at_least_the_twelve_trials_of_an_equal_budget(name):
    grid = TRAINED[name].grid
    assert math.prod(len(values) for values in grid.values()) >= 12


@every_method
def test_parameters_of_a_fit_are_counted(name):
    """At least the weights of a layer for each modality."""
    method = small(name).fit(synthetic_pairs(40))
    assert method.n_parameters >= 12 * 5 + 9 * 5


@every_method
def test_divergence_in_the_last_step_is_an_error_in_words_too(name):
    """The losses are those before the step; what it makes of the networks has to be looked at as well."""
    data = synthetic_data()
    given = {"activation": "relu"} if name == "dcca" else {}
    with pytest.raises(RunError, match=rf"{TRAINED[name].__name__} diverged in epoch 1"):
        small(name, max_epochs=1, batch_size=128, learning_rate=1e38, **given).fit(data.train)


@every_method
def test_departures_and_ablations_are_those_of_the_parameters(name):
    """What a row says of itself in a table is not what another preset of the method would say."""
    cls = TRAINED[name]
    for preset in cls.presets:
        changed, plain = cls.resolve({"preset": preset}), cls()
        assert changed.departures != plain.departures
    for ablation, values in cls.ablations.items():
        assert cls.resolve({"ablation": ablation}).get_params() == cls.defaults() | values


@every_method
def test_all_parameters_can_be_asked_for_in_brackets(name):
    """As a re-run of a tuned row does; a choice called none is not the value None."""
    from xmbench.registry import label_of, parse_spec

    given, parameters = parse_spec(label_of(name, TRAINED[name].defaults()))
    assert given == name and TRAINED[name].resolve(parameters).get_params() == TRAINED[name].defaults()
