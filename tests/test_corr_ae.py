"""The correspondence autoencoder: losses against loops, which gradients flow, its stages, what it may look at."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import by_hand, in_float64, scored, slope
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import InvalidParameter
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Batch, Session

torch = pytest.importorskip("torch")

CorrAe = Registry().method("corr_ae")
module = sys.modules[CorrAe.__module__]

VARIANTS = ("corr", "cross", "full")
WAYS = {"corr": [(0, 0), (1, 1)], "cross": [(0, 1), (1, 0)], "full": [(0, 0), (1, 1), (0, 1), (1, 0)]}
PAIRS = synthetic_pairs(7, d_image=5, d_text=4, n_classes=3)


def learner_of(variant: str, alpha: float | None = None, reduction: str = "mean", seed: int = 0):
    """A learner in float64 with 3 units a code."""
    method = CorrAe(variant=variant, alpha=alpha, n_components=3, reduction=reduction)
    learner = module.CorrAeLearner(method, PAIRS, ([], []), Session(seed))
    in_float64(*learner.encoders, *learner.decoders.values())
    return learner


def batch_of(pairs=PAIRS) -> Batch:
    batch = Session(0).batch(pairs)
    return Batch(batch.images.double(), batch.texts.double(), batch.targets, batch.rows)


def values(learner, pairs=PAIRS) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in learner.losses(batch_of(pairs)).items()}


def gradient(loss, network) -> list:
    return torch.autograd.grad(loss, network.parameters, allow_unused=True, retain_graph=True)


# -- losses and gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_those_of_a_loop(variant, reduction):
    learner = learner_of(variant, 0.3, reduction)
    inputs = PAIRS.images.astype(np.float64), PAIRS.texts.astype(np.float64)
    codes = [by_hand(learner.encoders[i].arrays(), inputs[i]) for i in (0, 1)]
    parts = [0.0, 0.0]
    for of, to in WAYS[variant]:
        found = by_hand(learner.decoders[of, to].arrays(), codes[of])
        dimensions = inputs[to].shape[1] if reduction == "mean" else 1
        for row, wanted in zip(found, inputs[to], strict=True):
            parts[of] += sum((a - b) ** 2 for a, b in zip(row, wanted, strict=True)) / dimensions / 7
    code = sum((a - b) ** 2 for a, b in zip(codes[0].ravel(), codes[1].ravel(), strict=True)) / 7
    code /= 3 if reduction == "mean" else 1
    found = values(learner)
    expected = {"image_loss": parts[0], "text_loss": parts[1], "code_loss": code}
    assert found == pytest.approx({"loss": 0.7 * sum(parts) + 0.3 * code} | expected, abs=1e-12)


def test_without_the_code_loss_images_are_learned_as_by_an_autoencoder_alone():
    """Backpropagation by hand through one layer of logistic units and a linear one."""
    learner = learner_of("corr", 0.0)
    (encoder, _), decoder = learner.encoders, learner.decoders[0, 0]
    (W, b), (V, e) = ([t.detach().numpy() for t in network.layers[0]] for network in (encoder, decoder))
    X = PAIRS.images.astype(np.float64)
    codes = 1 / (1 + np.exp(-(X @ W + b)))
    back = 2 * (codes @ V + e - X) / X.size
    inner = back @ V.T * codes * (1 - codes)
    loss = learner.losses(batch_of())["loss"]
    for found, expected in zip(gradient(loss, encoder), (X.T @ inner, inner.sum(axis=0)), strict=True):
        assert_allclose(found, expected, atol=1e-12)
    for found, expected in zip(gradient(loss, decoder), (codes.T @ back, back.sum(axis=0)), strict=True):
        assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_image_loss_reaches_no_parameter_that_reads_texts(variant):
    learner = learner_of(variant)
    losses = learner.losses(batch_of())
    for i, name in enumerate(("image_loss", "text_loss")):
        assert all(found is None for found in gradient(losses[name], learner.encoders[1 - i]))
        assert all((found != 0).any() for found in gradient(losses[name], learner.encoders[i]))
        for (of, _), decoder in learner.decoders.items():
            assert all((found is None) == (of != i) for found in gradient(losses[name], decoder))


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_the_code_loss_alone_decoders_learn_nothing(variant):
    learner = learner_of(variant, 1.0)
    loss = learner.losses(batch_of())["loss"]
    for decoder in learner.decoders.values():
        assert all((found == 0).all() for found in gradient(loss, decoder))
    for encoder in learner.encoders:
        assert all((found != 0).any() for found in gradient(loss, encoder))


def test_with_the_code_loss_alone_all_codes_become_one():
    """The degenerate solution that reconstruction is there to prevent."""
    pairs = synthetic_pairs()
    settings = {"n_components": 8, "max_epochs": 60, "learning_rate": 3e-2, "center": False}
    spread = [
        np.concatenate(CorrAe(alpha=alpha, **settings).fit(pairs).encode_pairs(pairs)).std(axis=0).mean()
        for alpha in (0.2, 1.0)
    ]
    assert spread[1] < 0.1 * spread[0]


def test_in_the_cross_form_images_are_what_text_codes_must_give_and_not_their_input():
    learner = learner_of("cross")
    assert sorted(learner.decoders) == [(0, 1), (1, 0)]
    texts = by_hand(learner.encoders[1].arrays(), PAIRS.texts)
    found = by_hand(learner.decoders[1, 0].arrays(), texts)
    for shift in (0.0, 1.0, -3.0):
        moved = replace(PAIRS, images=PAIRS.images + shift)
        expected = ((moved.images.astype(np.float64) - found) ** 2).mean()
        assert values(learner, moved)["text_loss"] == pytest.approx(expected, abs=1e-12)


def test_the_full_form_is_the_sum_of_the_plain_and_the_cross_form():
    """With decoders copied; the code loss counts once."""
    full, corr, cross = (learner_of(variant, 0.3) for variant in ("full", "corr", "cross"))
    for part in (corr, cross):
        part.encoders = full.encoders
        part.decoders = {way: full.decoders[way] for way in part.decoders}
    found, own, other = values(full), values(corr), values(cross)
    for name in ("image_loss", "text_loss"):
        assert found[name] == pytest.approx(own[name] + other[name], abs=1e-13)
    assert found["code_loss"] == own["code_loss"] == other["code_loss"]
    assert found["loss"] == pytest.approx(own["loss"] + other["loss"] - 0.3 * own["code_loss"], abs=1e-13)


@pytest.mark.parametrize(("variant", "alpha"), [("corr", 0.8), ("cross", 0.2), ("full", 0.8)])
def test_the_default_weight_is_that_of_the_paper_for_each_variant(variant, alpha):
    assert values(learner_of(variant)) == values(learner_of(variant, alpha))
    assert values(learner_of(variant))["loss"] != values(learner_of(variant, 1 - alpha))["loss"]


def test_wide_features_weigh_no_more_than_narrow_ones_unless_squares_are_summed():
    """Each column ten times: the same mean, ten times the sum."""
    wanted, found = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 6, 4)))
    wide = wanted.repeat(1, 10), found.repeat(1, 10)
    assert float(module.squared(*wide, "mean")) == pytest.approx(float(module.squared(wanted, found, "mean")))
    assert float(module.squared(*wide, "sum")) == pytest.approx(
        10 * float(module.squared(wanted, found, "sum"))
    )


# -- a fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_losses_fall_in_training(variant):
    method = CorrAe(variant=variant, n_components=32, max_epochs=60, learning_rate=3e-3)
    history = method.fit(synthetic_pairs()).history_
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["image_loss"] < 0.8 * history[0]["image_loss"]
    assert history[-1]["text_loss"] < 0.8 * history[0]["text_loss"]


def test_codes_of_the_training_rows_have_mean_zero_if_they_are_to_be_centred():
    data = synthetic_data()
    for pretrain in ("none", "dae"):
        settings = {"n_components": 16, "pretrain": pretrain, "pretrain_epochs": 2, "max_epochs": 3}
        method = CorrAe(**settings).fit(data.train, data.validation)
        plain = CorrAe(center=False, **settings).fit(data.train, data.validation)
        for rows, raw in zip(method.encode_pairs(data.train), plain.encode_pairs(data.train), strict=True):
            assert_allclose(rows.mean(axis=0), 0.0, atol=1e-6)
            assert ((raw > 0) & (raw < 1)).all()
            assert_allclose(rows, raw - raw.mean(axis=0), atol=1e-6)


def test_the_kept_epoch_has_the_least_loss_on_the_validation_pairs():
    data = synthetic_data(noise=1.0)
    settings = {"n_components": 64, "max_epochs": 60, "learning_rate": 0.1, "patience": 2}
    method = CorrAe(**settings).fit(data.train, data.validation)
    losses = [line["validation_loss"] for line in method.history_]
    assert method.best_epoch_ == 1 + int(np.argmin(losses))
    assert len(losses) == min(60, method.best_epoch_ + 2)
    assert losses != sorted(losses, reverse=True)


def test_the_validation_loss_is_the_loss_of_the_encoded_validation_pairs():
    """At alpha = 1 it is the distance of the codes."""
    data = synthetic_data()
    method = CorrAe(alpha=1.0, n_components=16, max_epochs=3, center=False).fit(data.train, data.validation)
    images, texts = method.encode_pairs(data.validation)
    kept = method.history_[method.best_epoch_ - 1]["validation_loss"]
    assert kept == pytest.approx(((images - texts) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("pretrain", ["none", "dae"])
def test_labels_make_no_difference_unless_the_epoch_is_chosen_by_map(pretrain):
    data = synthetic_data(noise=1.0)
    rng = np.random.default_rng(0)
    train, validation = (
        replace(part, labels=rng.permutation(part.labels)) for part in (data.train, data.validation)
    )
    settings = {
        "n_components": 16,
        "pretrain": pretrain,
        "pretrain_epochs": 2,
        "max_epochs": 6,
        "patience": 2,
    }
    one = CorrAe(**settings).fit(data.train, data.validation, context=scored(data.validation))
    two = CorrAe(**settings).fit(train, validation, context=scored(validation))
    for first, second in zip(one.encode_pairs(data.test), two.encode_pairs(data.test), strict=True):
        assert_array_equal(first, second)
    by_map = CorrAe(select_by="map", **settings).fit(train, validation, context=scored(validation))
    own = [line for line in by_map.history_ if "validation_map" in line]
    assert by_map.best_epoch_ == 1 + int(np.argmax([line["validation_map"] for line in own]))


# -- pretraining ------------------------------------------------------------------------------------


def test_pretraining_has_its_stages_in_the_history_and_its_layers_below_the_code():
    data = synthetic_data()
    method = CorrAe(pretrain="dae", pretrain_epochs=2, n_components=16, max_epochs=3)
    method.fit(data.train, data.validation)
    stages = [(line["stage"], line["epoch"]) for line in method.history_]
    expected = [(f"dae {level}", epoch) for level in (1, 2) for epoch in (1, 2)]
    assert stages == expected + [("correspondence", epoch) for epoch in (1, 2, 3)]
    for layers, d in ((method.image_layers_, 12), (method.text_layers_, 9)):
        assert [layer["weights"].shape for layer in layers] == [(d, 4 * d), (4 * d, 16), (16, 16)]
        assert [layer["activation"] for layer in layers] == ["sigmoid"] * 3


def test_pretrained_layers_stay_as_the_autoencoders_left_them():
    """What the correspondence stage learns is the last layer alone, however long it takes."""
    pairs = synthetic_pairs()
    settings = {"pretrain": "dae", "pretrain_epochs": 2, "n_components": 8}
    short, long = (CorrAe(max_epochs=epochs, **settings).fit(pairs) for epochs in (1, 9))
    for name in ("image_layers_", "text_layers_"):
        (*lower, top), (*same, other) = getattr(short, name), getattr(long, name)
        for one, two in zip(lower, same, strict=True):
            assert_array_equal(one["weights"], two["weights"])
        assert (top["weights"] != other["weights"]).any()


def test_first_layers_of_wide_features_have_at_most_1024_units():
    pairs = synthetic_pairs(20, d_image=300)
    method = CorrAe(pretrain="dae", pretrain_epochs=1, n_components=4, max_epochs=1).fit(pairs)
    assert method.image_layers_[0]["weights"].shape == (300, 1024)
    assert method.text_layers_[0]["weights"].shape == (9, 36)


def test_pretraining_hides_about_a_fifth_of_its_inputs_and_asks_for_all_of_them(monkeypatch):
    pairs = synthetic_pairs(400)
    hidden, wanted = [], []
    masked, squared = module.masked, module.squared

    def spy(rows, *arguments):
        found = masked(rows, *arguments)
        kept = found != 0
        hidden.append(float((~kept).float().mean()))
        assert (found[kept] == rows[kept]).all()
        return found

    def spy_loss(target, found, reduction):
        wanted.append(float((target == 0).float().mean()))
        return squared(target, found, reduction)

    monkeypatch.setattr(module, "masked", spy)
    monkeypatch.setattr(module, "squared", spy_loss)
    CorrAe(pretrain="dae", pretrain_epochs=1, n_components=8, max_epochs=1).fit(pairs)
    assert len(hidden) == 2 * 2 * 4  # two levels, two modalities, four batches
    assert all(0.15 < share < 0.25 for share in hidden)
    assert np.mean(hidden) == pytest.approx(0.2, abs=0.01)
    assert max(wanted) == 0


def test_pretraining_is_the_same_again():
    data = synthetic_data()
    settings = {"pretrain": "dae", "pretrain_epochs": 2, "n_components": 8, "max_epochs": 2}
    one, two = (CorrAe(**settings).fit(data.train, data.validation) for _ in range(2))
    for first, second in zip(one.encode_pairs(data.test), two.encode_pairs(data.test), strict=True):
        assert_array_equal(first, second)


# -- refusals and real data -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": -0.1},
        {"alpha": 1.1},
        {"alpha": float("nan")},
        {"n_components": 0},
        {"pretrain_epochs": 0},
        {"batch_size": 0},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"CorrAe\.{next(iter(parameters))}"):
        CorrAe(**parameters).fit(synthetic_pairs())


@pytest.mark.parametrize("variant", VARIANTS)
def test_pairs_of_wikipedia_are_nearer_to_each_other_than_to_others(wikipedia_pairs, variant):
    """Of the training pairs: an image's own text has a smaller rank than half of the texts, on average."""
    method = CorrAe(variant=variant, n_components=64, max_epochs=20, learning_rate=3e-3).fit(wikipedia_pairs)
    images, texts = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in method.encode_pairs(wikipedia_pairs)
    )
    cosines = images @ texts.T
    ranks = (cosines > np.diag(cosines)[:, None]).mean(axis=1)
    assert ranks.mean() < 0.45


def test_logistic_decoders_reconstruct_between_0_and_1():
    method = CorrAe(output="sigmoid", pretrain="dae", pretrain_epochs=2, max_epochs=2, n_components=4)
    pairs = synthetic_pairs(20)
    learner = module.CorrAeLearner(method, pairs, ([], []), Session(0))
    for decoder in learner.decoders.values():
        rows = decoder(torch.randn(5, 4)).detach()
        assert ((rows > 0) & (rows < 1)).all()
    assert np.isfinite(method.fit(pairs).encode_image(pairs.images)).all()


@pytest.mark.parametrize("variant", ["corr", "cross", "full"])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(variant):
    pairs = synthetic_pairs(6, d_image=3, d_text=2)
    learner = module.CorrAeLearner(CorrAe(variant=variant, n_components=2), pairs, ([], []), Session(0))
    networks = [*learner.encoders, *learner.decoders.values()]
    in_float64(*networks)
    whole = Session(0).batch(pairs)
    batch = replace(whole, images=whole.images.double(), texts=whole.texts.double())
    for network in networks:
        (layer,) = network.layers
        (gradient,) = torch.autograd.grad(learner.losses(batch)["loss"], layer[0])

        def moved(weights, network=network, bias=layer[1]):
            network.layers = [(weights, bias)]
            return learner.losses(batch)["loss"].detach()

        assert_allclose(gradient, slope(moved, layer[0]), atol=1e-7)
        network.layers = [layer]
