"""The bimodal autoencoder: tied layers, tripled batches, losses against loops, stages, ablations."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import by_hand, in_float64, over_after, scored, slope
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import DeadlineExceeded, InvalidParameter
from xmbench.nn import forward
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Batch, Session

torch = pytest.importorskip("torch")

BimodalAe = Registry().method("bimodal_ae")
module = sys.modules[BimodalAe.__module__.replace("bimodal_ae", "_bimodal")]

PAIRS = synthetic_pairs(7, d_image=5, d_text=4, n_classes=3)
SMALL = {"hidden": 8, "n_components": 6, "pretrain_epochs": 2, "max_epochs": 3}


def learner_of(pairs=PAIRS, k: int = 3, **settings):
    """A learner in float64 with 3 units in its code."""
    learner = module.BimodalLearner(pairs, k, Session(0), **settings)
    in_float64(*learner.heads, *([learner.classifier] if learner.classifier else []))
    joint = learner.joint
    joint.weights = [weights.detach().double().requires_grad_() for weights in joint.weights]
    joint.bias = joint.bias.detach().double().requires_grad_()
    learner._moments = [[part.double() for part in pair] for pair in learner._moments]
    return learner


def batch_of(pairs=PAIRS) -> Batch:
    batch = Session(0).batch(pairs)
    return Batch(batch.images.double(), batch.texts.double(), batch.targets.double(), batch.rows)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# -- the joint layer --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "widths", "k"), [(1, (5, 4), 3), (7, (130, 9), 64), (96, (17, 300), 33)])
def test_the_code_of_one_modality_is_bitwise_that_with_the_other_zero(n, widths, k):
    joint = module.Joint(widths, k, torch.Generator().manual_seed(0))
    with torch.no_grad():
        joint.bias.copy_(torch.randn(k))
        images, texts = (torch.randn(n, d) for d in widths)
        zeros = [torch.zeros_like(rows) for rows in (images, texts)]
        assert_array_equal(joint(images, None), joint(images, zeros[1]))
        assert_array_equal(joint(None, texts), joint(zeros[0], texts))


def test_both_codes_have_the_same_tensors_and_not_equal_ones():
    learner = module.BimodalLearner(PAIRS, 3, Session(0))
    joint = learner.joint
    image, text = joint.arrays()
    assert np.shares_memory(image["weights"], joint.weights[0].detach().numpy())
    assert np.shares_memory(text["weights"], joint.weights[1].detach().numpy())
    assert np.shares_memory(image["bias"], text["bias"])
    trained = learner.optimiser.parameters
    assert sum(tensor is joint.bias for tensor in trained) == 1
    for weights in joint.weights:
        assert sum(tensor is weights for tensor in trained) == 1


def test_each_way_through_the_joint_layer_is_that_of_a_loop():
    learner = learner_of()
    (V, W), b = ([w.detach().numpy() for w in learner.joint.weights], learner.joint.bias.detach().numpy())
    batch = batch_of()
    images, texts = batch.images.numpy(), batch.texts.numpy()
    found = [learner.joint(*given).detach() for given in ((batch.images, batch.texts), (batch.images, None))]
    for i in range(7):
        for j in range(3):
            one = sum(images[i, d] * V[d, j] for d in range(5)) + b[j]
            both = one + sum(texts[i, d] * W[d, j] for d in range(4))
            assert float(found[0][i, j]) == pytest.approx(sigmoid(both), abs=1e-12)
            assert float(found[1][i, j]) == pytest.approx(sigmoid(one), abs=1e-12)


# -- tripled batches and losses ---------------------------------------------------------------------


def test_a_tripled_batch_has_three_equal_thirds_with_zeros_for_what_is_missing():
    images, texts = torch.randn(6, 5), torch.randn(6, 4)
    rows, others = module.tripled(images, texts)
    assert rows.shape == (18, 5)
    assert others.shape == (18, 4)
    assert_array_equal(rows, torch.cat([images, torch.zeros(6, 5), images]))
    assert_array_equal(others, torch.cat([torch.zeros(6, 4), texts, texts]))


@pytest.mark.parametrize("label_weight", [0.0, 2.0])
@pytest.mark.parametrize("triple", [True, False])
def test_the_losses_are_those_of_a_loop_whose_targets_are_always_both(triple, label_weight):
    learner = learner_of(triple=triple, label_weight=label_weight)
    (V, W), b = ([w.detach().numpy() for w in learner.joint.weights], learner.joint.bias.detach().numpy())
    images, texts = (rows.astype(np.float64) for rows in (PAIRS.images, PAIRS.texts))
    ways = [(1, 0), (0, 1), (1, 1)] if triple else [(1, 1)]
    expected = {"image_loss": 0.0, "text_loss": 0.0, "label_loss": 0.0}
    for given in ways:
        for x, t, label in zip(images, texts, PAIRS.labels, strict=True):
            code = sigmoid(given[0] * x @ V + given[1] * t @ W + b)
            for name, head, row in zip(("image_loss", "text_loss"), learner.heads, (x, t), strict=True):
                found = by_hand(head.arrays(), code[None])[0]
                expected[name] += sum((row - found) ** 2) / len(row) / 7 / len(ways)
            if label_weight:
                logits = by_hand(learner.classifier.arrays(), code[None])[0]
                share = np.exp(logits[label]) / np.exp(logits).sum()
                expected["label_loss"] -= np.log(share) / 7 / len(ways)
    loss = expected["image_loss"] + expected["text_loss"] + label_weight * expected["label_loss"]
    if not label_weight:
        del expected["label_loss"]
    found = {name: float(value.detach()) for name, value in learner.losses(batch_of()).items()}
    assert found == pytest.approx({"loss": loss} | expected, abs=1e-12)


@pytest.mark.parametrize("label_weight", [0.0, 1.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(standardise, label_weight):
    learner = learner_of(standardise=standardise, label_weight=label_weight)
    joint, batch = learner.joint, batch_of()
    gradients = torch.autograd.grad(learner.losses(batch)["loss"], joint.parameters)

    def loss(weights: list, bias) -> float:
        joint.weights, joint.bias = weights, bias
        return learner.losses(batch)["loss"].detach()

    weights, bias = list(joint.weights), joint.bias
    for i in (0, 1):
        expected = slope(
            lambda moved, i=i: loss([moved if j == i else weights[j] for j in (0, 1)], bias), weights[i]
        )
        assert_allclose(gradients[i], expected, atol=1e-7)
    assert_allclose(gradients[2], slope(lambda moved: loss(weights, moved), bias), atol=1e-7)


def test_without_a_label_weight_no_label_is_read():
    learner = learner_of()
    assert learner.classifier is None
    batch = batch_of()
    nothing = Batch(batch.images, batch.texts, batch.targets * float("nan"), batch.rows)
    found, expected = (learner.losses(given)["loss"].detach() for given in (nothing, batch))
    assert float(found) == float(expected)


def test_items_of_several_classes_have_a_label_loss():
    pairs = synthetic_pairs(12, multi_label=True)
    for kind in ("soft", "squared", "bce"):
        learner = learner_of(pairs, label_weight=1.0, label_kind=kind)
        assert float(learner.losses(batch_of(pairs))["label_loss"].detach()) > 0


# -- standardised inputs ----------------------------------------------------------------------------


def test_learned_layers_read_inputs_as_they_were_before_they_were_standardised():
    pairs = replace(PAIRS, images=PAIRS.images * 3 + 5)
    learner = module.BimodalLearner(pairs, 3, Session(0), standardise=True, center=False)
    learned = learner.learned()
    rows = (pairs.images - pairs.images.mean(axis=0)) / pairs.images.std(axis=0)
    expected = learner.joint(torch.from_numpy(rows), None).detach()
    assert_allclose(forward(learned["image_layers_"], pairs.images), expected, atol=1e-5)
    assert_array_equal(learned["image_mean_"], np.zeros(3))


def test_a_constant_column_is_divided_by_one():
    rows = np.array([[2.0, 0.0], [2.0, 4.0]], np.float32)
    mean, scale = module.moments(rows)
    assert_array_equal(mean, [2, 2])
    assert_array_equal(scale, [1, 2])


# -- a fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pretrain", ["rbm", "none"])
def test_the_losses_fall_in_training(pretrain):
    method = BimodalAe(pretrain=pretrain, hidden=16, n_components=16, pretrain_epochs=10, max_epochs=20)
    history = method.fit(synthetic_pairs()).history_
    last = [line for line in history if "loss" in line]
    for name in ("loss", "image_loss", "text_loss"):
        assert last[-1][name] < 0.7 * last[0][name]


def test_the_code_of_one_modality_is_not_that_of_both():
    pairs = synthetic_pairs()
    method = BimodalAe(pretrain="none", center=False, n_components=8, max_epochs=5).fit(pairs)
    (image,), (text,) = method.image_layers_, method.text_layers_
    assert_array_equal(image["bias"], text["bias"])
    images, texts = method.encode_pairs(pairs)
    both = sigmoid(pairs.images @ image["weights"] + pairs.texts @ text["weights"] + image["bias"])
    assert abs(both - images).max() > 0.05
    assert abs(both - texts).max() > 0.05


def test_stages_layers_and_widths():
    data = synthetic_data()
    method = BimodalAe(**SMALL).fit(data.train, data.validation)
    stages = [(line["stage"], line["epoch"]) for line in method.history_]
    assert stages == [("rbm 1", 1), ("rbm 1", 2), ("joint", 1), ("joint", 2), ("joint", 3)]
    for layers, d in ((method.image_layers_, 12), (method.text_layers_, 9)):
        assert [layer["weights"].shape for layer in layers] == [(d, 8), (8, 6)]
        assert [layer["activation"] for layer in layers] == ["sigmoid", "sigmoid"]
    method = BimodalAe(pretrain_epochs=1, max_epochs=1).fit(data.train)
    for layers, d in ((method.image_layers_, 12), (method.text_layers_, 9)):
        assert [layer["weights"].shape for layer in layers] == [(d, 64), (64, 84)]


def test_machines_below_stay_as_they_are():
    pairs = synthetic_pairs()
    short, long = (BimodalAe(**SMALL | {"max_epochs": epochs}).fit(pairs) for epochs in (1, 4))
    for name in ("image_layers_", "text_layers_"):
        (lower, top), (same, other) = getattr(short, name), getattr(long, name)
        assert_array_equal(lower["weights"], same["weights"])
        assert (top["weights"] != other["weights"]).any()


def test_codes_of_the_training_rows_have_mean_zero_if_they_are_to_be_centred():
    data = synthetic_data()
    method, plain = (BimodalAe(center=center, **SMALL).fit(data.train) for center in (True, False))
    for rows, raw in zip(method.encode_pairs(data.train), plain.encode_pairs(data.train), strict=True):
        assert_allclose(rows.mean(axis=0), 0.0, atol=1e-6)
        assert ((raw > 0) & (raw < 1)).all()
        assert_allclose(rows, raw - raw.mean(axis=0), atol=1e-6)
        assert rows.dtype == np.float32


def test_labels_make_no_difference_unless_the_epoch_is_chosen_by_map():
    data = synthetic_data(noise=1.0)
    rng = np.random.default_rng(0)
    train, validation = (
        replace(part, labels=rng.permutation(part.labels)) for part in (data.train, data.validation)
    )
    settings = SMALL | {"max_epochs": 6, "patience": 2}
    one = BimodalAe(**settings).fit(data.train, data.validation, context=scored(data.validation))
    two = BimodalAe(**settings).fit(train, validation, context=scored(validation))
    assert one.best_epoch_ == two.best_epoch_ == 6
    for first, second in zip(one.encode_pairs(data.test), two.encode_pairs(data.test), strict=True):
        assert_array_equal(first, second)
    by_map = BimodalAe(select_by="map", **settings).fit(train, validation, context=scored(validation))
    own = [line["validation_map"] for line in by_map.history_ if "validation_map" in line]
    assert by_map.best_epoch_ == 1 + int(np.argmax(own))


def test_tripled_training_is_what_brings_the_codes_of_a_pair_together():
    """Mean cosine of the codes of a pair's image and text, held out."""
    data = synthetic_data()
    cosines = []
    for tripled in (True, False):
        images, texts = BimodalAe(tripled=tripled).fit(data.train).encode_pairs(data.test)
        norms = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
        cosines.append(((images * texts).sum(axis=1) / norms).mean())
    assert cosines[0] > cosines[1] + 0.1


@pytest.mark.parametrize("stage", ["rbm 1", "joint"])
def test_the_deadline_ends_the_fit_in_every_stage(stage):
    with pytest.raises(DeadlineExceeded):
        BimodalAe(**SMALL).fit(synthetic_pairs(), context=over_after(stage))


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden": 0},
        {"n_components": -1},
        {"pretrain_epochs": 0},
        {"pretrain_rate": 0.0},
        {"weight_decay": -1.0},
        {"batch_size": 0},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"BimodalAe\.{next(iter(parameters))}"):
        BimodalAe(**parameters).fit(synthetic_pairs())


def test_departures_follow_the_ablations():
    plain = BimodalAe().departures
    for ablation in BimodalAe.ablations:
        assert BimodalAe.resolve({"ablation": ablation}).departures != plain
