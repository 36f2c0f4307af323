"""The multimodal DBN: inference of the missing modality, stages, text units, what may be asked of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from networks import over_after, scored
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import DeadlineExceeded, InvalidParameter, Unsupported
from xmbench.nn import forward
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

torch = pytest.importorskip("torch")

MultimodalDbn = Registry().method("multimodal_dbn")
module = sys.modules[MultimodalDbn.__module__]

SMALL = {"hidden": 8, "n_components": 6, "pretrain_epochs": 2, "max_epochs": 3}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def joint_of(seed: int = 0, scale: float = 1.0):
    """Weights of both modalities (5 and 4 units below, 3 above), biases below and the one above."""
    rng = np.random.default_rng(seed)
    weights = [scale * rng.standard_normal((d, 3)).astype(np.float32) for d in (5, 4)]
    biases = [rng.standard_normal(d).astype(np.float32) for d in (5, 4)]
    return weights, biases, rng.standard_normal(3).astype(np.float32)


def codes_of(given: int, n: int = 6):
    return np.random.default_rng(1).uniform(size=(n, (5, 4)[given])).astype(np.float32)


def counts(pairs):
    return replace(pairs, texts=np.floor(np.exp(pairs.texts)).astype(np.float32))


# -- inference --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_inference_is_that_of_a_loop_that_holds_the_given_modality(given, steps):
    weights, biases, bias = joint_of()
    codes = codes_of(given)
    found = module.inferred(codes, given, weights, biases, bias, steps)
    for row, hidden in zip(codes, found, strict=True):
        below = [np.zeros(5), np.zeros(4)]
        below[given] = row
        h = sigmoid(below[0] @ weights[0] + below[1] @ weights[1] + bias)
        for _ in range(steps):
            below[1 - given] = sigmoid(biases[1 - given] + weights[1 - given] @ h)
            h = sigmoid(below[0] @ weights[0] + below[1] @ weights[1] + bias)
        assert_allclose(hidden, h, atol=1e-6)


@pytest.mark.parametrize("given", [0, 1])
def test_more_rounds_come_nearer_to_a_fixed_point(given):
    weights, biases, bias = joint_of()
    codes = codes_of(given)
    rounds = [module.inferred(codes, given, weights, biases, bias, steps) for steps in range(12)]
    moves = [abs(after - before).max() for before, after in pairwise(rounds)]
    assert moves[0] > 1e-2
    assert moves[-1] < 0.02 * moves[0]
    last, further = (module.inferred(codes, given, weights, biases, bias, n) for n in (200, 201))
    assert_allclose(last, further, atol=1e-6)


@pytest.mark.parametrize("given", [0, 1])
def test_each_round_raises_the_bound_of_mean_field(given):
    """``-E`` of the means plus their entropy, with the given modality held (Hinton and others' variational bound)."""
    weights, biases, bias = joint_of(scale=2.0)
    W, b, c = ([w.astype(np.float64) for w in weights], biases, bias)
    row = codes_of(given, 1)

    def entropy(p) -> float:
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).sum())

    bounds = []
    for steps in range(1, 8):
        before, h = (
            module.inferred(row, given, weights, biases, bias, n).astype(np.float64)[0]
            for n in (steps - 1, steps)
        )
        missing = sigmoid(b[1 - given] + W[1 - given] @ before)
        inputs = row[0] @ W[given] + missing @ W[1 - given] + c
        bounds.append(inputs @ h + b[1 - given] @ missing + entropy(missing) + entropy(h))
    assert all(after >= before - 1e-6 for before, after in pairwise(bounds))
    assert bounds[-1] > bounds[0]


def test_a_modality_without_weights_tells_nothing():
    weights, biases, bias = joint_of()
    weights[1] = 0 * weights[1]
    rounds = [module.inferred(codes_of(0), 0, weights, biases, bias, steps) for steps in (0, 5)]
    assert_array_equal(*rounds)


# -- a fit ------------------------------------------------------------------------------------------


def test_stages_and_shapes():
    data = synthetic_data()
    method = MultimodalDbn(**SMALL).fit(data.train, data.validation, context=scored(data.validation))
    stages = [(line["stage"], line["epoch"]) for line in method.history_]
    below = [(f"rbm {level}", epoch) for level in (1, 2) for epoch in (1, 2)]
    assert stages == below + [("joint", epoch) for epoch in (1, 2, 3)]
    assert [("validation_map" in line) == (line["stage"] == "joint") for line in method.history_] == [
        True
    ] * 7
    for layers, d in ((method.image_layers_, 12), (method.text_layers_, 9)):
        assert [layer["weights"].shape for layer in layers] == [(d, 8), (8, 8)]
    assert [weights.shape for weights in method.joint_weights_] == [(8, 6), (8, 6)]
    assert [bias.shape for bias in method.visible_biases_] == [(8,), (8,)]
    assert method.joint_bias_.shape == (6,)
    assert method.encode_image(data.test.images).dtype == np.float32
    wide = MultimodalDbn(pretrain_epochs=1, max_epochs=1).fit(synthetic_pairs(40, d_image=200))
    assert [layer["weights"].shape for layer in wide.image_layers_] == [(200, 256), (256, 256)]
    assert [layer["weights"].shape for layer in wide.text_layers_] == [(9, 64), (64, 64)]
    assert wide.joint_weights_[0].shape == (256, 256)


def test_the_errors_of_each_machine_fall_in_training():
    history = MultimodalDbn(pretrain_epochs=20, max_epochs=20).fit(synthetic_pairs()).history_
    for stage in ("rbm 1", "rbm 2", "joint"):
        lines = [line for line in history if line["stage"] == stage]
        for name in ("image_loss", "text_loss"):
            assert lines[-1][name] < 0.9 * lines[0][name], stage


def test_codes_are_the_inferred_ones_less_the_mean_of_the_training_rows():
    data = synthetic_data()
    method, plain = (MultimodalDbn(center=center, **SMALL).fit(data.train) for center in (True, False))
    for rows, raw in zip(method.encode_pairs(data.train), plain.encode_pairs(data.train), strict=True):
        assert_allclose(rows.mean(axis=0), 0.0, atol=1e-6)
        assert ((raw > 0) & (raw < 1)).all()
        assert_allclose(rows, raw - raw.mean(axis=0), atol=1e-6)
    joint = method.joint_weights_, method.visible_biases_, method.joint_bias_
    below = forward(method.text_layers_, data.test.texts)
    expected = module.inferred(below, 1, *joint, 10) - method.text_mean_
    assert_array_equal(method.encode_text(data.test.texts), expected)


def test_the_code_of_one_modality_is_not_that_of_both():
    pairs = synthetic_pairs()
    method = MultimodalDbn(center=False, **SMALL | {"pretrain_epochs": 20, "max_epochs": 20}).fit(pairs)
    (V, W), c = method.joint_weights_, method.joint_bias_
    stacks = method.image_layers_, method.text_layers_
    v, t = (forward(layers, rows) for layers, rows in zip(stacks, (pairs.images, pairs.texts), strict=True))
    both = sigmoid(v @ V + t @ W + c)
    for rows in method.encode_pairs(pairs):
        assert abs(both - rows).max() > 0.01


def test_the_ablation_of_inference_leaves_training_as_it_is():
    pairs = synthetic_pairs()
    full, ablated = (MultimodalDbn(**SMALL, mean_field_steps=steps).fit(pairs) for steps in (10, 0))
    assert_array_equal(full.joint_bias_, ablated.joint_bias_)
    for one, other in zip(full.joint_weights_, ablated.joint_weights_, strict=True):
        assert_array_equal(one, other)
    assert (full.encode_image(pairs.images) != ablated.encode_image(pairs.images)).any()


def test_labels_make_no_difference_unless_the_epoch_is_chosen_by_map():
    data = synthetic_data(noise=1.0)
    rng = np.random.default_rng(0)
    train, validation = (
        replace(part, labels=rng.permutation(part.labels)) for part in (data.train, data.validation)
    )
    settings = SMALL | {"max_epochs": 6, "patience": 2}
    one = MultimodalDbn(**settings).fit(data.train, data.validation, context=scored(data.validation))
    two = MultimodalDbn(**settings).fit(train, validation, context=scored(validation))
    assert one.best_epoch_ == two.best_epoch_ == 6
    for first, second in zip(one.encode_pairs(data.test), two.encode_pairs(data.test), strict=True):
        assert_array_equal(first, second)
    by_map = MultimodalDbn(select_by="map", **settings).fit(train, validation, context=scored(validation))
    own = [line["validation_map"] for line in by_map.history_ if "validation_map" in line]
    assert by_map.best_epoch_ == 1 + int(np.argmax(own))


@pytest.mark.parametrize("stage", ["rbm 1", "rbm 2", "joint"])
def test_the_deadline_ends_the_fit_in_every_stage(stage):
    with pytest.raises(DeadlineExceeded):
        MultimodalDbn(**SMALL).fit(synthetic_pairs(), context=over_after(stage))


# -- text units -------------------------------------------------------------------------------------


def test_softmax_units_refuse_negative_texts_in_words():
    data = synthetic_data()
    method = MultimodalDbn(text_units="softmax", **SMALL)
    with pytest.raises(Unsupported, match="counts of words"):
        method.fit(data.train)
    with pytest.raises(Unsupported, match="text_units=gaussian"):
        method.fit(counts(data.train), data.validation)


def test_softmax_units_learn_from_counts_and_from_rows_without_a_word():
    pairs = counts(synthetic_pairs())
    texts = pairs.texts.copy()
    texts[3] = 0
    pairs = replace(pairs, texts=texts)
    method = MultimodalDbn(text_units="softmax", learning_rate=0.02, hidden=16, n_components=8).fit(pairs)
    lines = [line for line in method.history_ if line["stage"] == "rbm 1"]
    assert lines[-1]["text_loss"] < lines[0]["text_loss"]
    assert np.isfinite(method.encode_text(pairs.texts)).all()


# -- parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden": 0},
        {"n_components": -1},
        {"mean_field_steps": -1},
        {"pretrain_epochs": 0},
        {"weight_decay": -1.0},
        {"sparsity": 0.0},
        {"sparsity": 1.0},
        {"batch_size": 0},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"MultimodalDbn\.{next(iter(parameters))}"):
        MultimodalDbn(**parameters).fit(synthetic_pairs())


def test_departures_follow_the_parameters():
    plain = MultimodalDbn().departures
    for changed in ({"ablation": "no_inference"}, {"ablation": "not_centered"}, {"preset": "counts"}):
        assert MultimodalDbn.resolve(changed).departures != plain
