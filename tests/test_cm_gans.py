"""CM-GANs: what is shared, who learns from whom, losses against loops, mismatches, and its reductions."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import scored
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import InvalidParameter, Unsupported
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Batch, Session

torch = pytest.importorskip("torch")

CmGans = Registry().method("cm_gans")
module = sys.modules[CmGans.__module__]

PAIRS = synthetic_pairs(24)
SMALL = {"hidden": 8, "n_components": 6}


def learner_of(pairs=PAIRS, seed: int = 0, **parameters):
    """A learner in float64, so that differences and sums can be compared closely."""
    learner = module.CmGansLearner(CmGans(**SMALL | parameters), pairs, Session(seed))
    seen: dict[int, object] = {}

    def doubled(tensor):
        if id(tensor) not in seen:
            double = tensor.detach().double().requires_grad_(tensor.requires_grad)
            seen[id(tensor)] = (tensor, double)
            seen[id(double)] = (double, double)
        return seen[id(tensor)][1]

    def dense(network):
        network.layers = [tuple(map(doubled, layer)) for layer in network.layers]

    def norm(one):
        for name in ("gain", "bias", "mean", "variance"):
            if getattr(one, name) is not None:
                setattr(one, name, doubled(getattr(one, name)))

    for block in [*learner.encoders[0], *learner.encoders[1], *(first for first, _ in learner.decoders)]:
        dense(block.linear)
        norm(block.norm)
    for network in [*(last for _, last in learner.decoders), learner.classifier, *learner.intra]:
        dense(network)
    for path in learner.inter:
        for name in ("of_codes", "of_features", "bias"):
            setattr(path, name, doubled(getattr(path, name)))
        dense(path.last)
        norm(path.norm)
    learner.generators = [doubled(tensor) for tensor in learner.generators]
    if learner.inter:
        learner.discriminators = [doubled(tensor) for tensor in learner.discriminators]
    learner.pairs = in_double(learner.pairs)
    return learner


def in_double(batch: Batch) -> Batch:
    return Batch(batch.images.double(), batch.texts.double(), batch.targets.double(), batch.rows)


def batch_of(pairs=PAIRS) -> Batch:
    return in_double(Session(0).batch(pairs))


def copies(tensors) -> list:
    return [tensor.detach().clone() for tensor in tensors]


def moved(before, tensors) -> list[bool]:
    return [not torch.equal(one, other) for one, other in zip(before, tensors, strict=True)]


# -- sharing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_the_second_layer_is_one_tensor_exactly_where_weights_are_shared(shared):
    learner = learner_of(weight_sharing=shared)
    image, text = (blocks[1].linear.weights[0] for blocks in learner.encoders)
    assert (image is text) == shared
    assert sum(tensor is image for tensor in learner.generators) == 1
    assert len({id(tensor) for tensor in learner.generators}) == len(learner.generators)
    norms = [blocks[1].norm for blocks in learner.encoders]
    assert norms[0] is not norms[1]
    together = learner_of(weight_sharing=shared, norm_per_modality=False)
    assert (together.encoders[0][1].norm is together.encoders[1][1].norm) == shared


def test_the_gradient_of_the_shared_layer_is_the_sum_of_both_modalities():
    """Each modality's own gradient, with the other one's codes cut off, adds up to the whole."""
    learner, batch = learner_of(weight_sharing=True, reconstruction_weight=1.0), batch_of()
    shared = learner.encoders[0][1].linear.weights[0]

    def gradient(cut: int | None):
        """Of all terms of the generators, where a modality's second layer is another tensor of equal numbers."""
        blocks = [blocks[1] for blocks in learner.encoders]
        plain = blocks[1].linear
        if cut is not None:
            other = copy.copy(plain)
            other.layers = [tuple(tensor.detach().clone() for tensor in layer) for layer in plain.layers]
            blocks[cut].linear = other
        told = learner.generator_losses(batch)
        for block in blocks:
            block.linear = plain
        loss = sum(value for name, value in told.items() if name != "code_difference")
        return torch.autograd.grad(loss, shared)[0]

    assert {"generator_inter_loss", "label_loss"} <= set(learner.generator_losses(batch))
    whole, image, text = gradient(None), gradient(1), gradient(0)
    assert image.abs().max() > 0 and text.abs().max() > 0
    assert_allclose(whole, image + text, rtol=0, atol=1e-12)


# -- who learns from whom ---------------------------------------------------------------------------


def test_generator_steps_leave_the_discriminators_as_they_are_and_the_reverse():
    learner = module.CmGansLearner(CmGans(**SMALL), PAIRS, Session(0))
    batch = Session(0).batch(PAIRS)
    ours, theirs = copies(learner.generators), copies(learner.discriminators)
    learner.generator_step(batch)
    assert not any(moved(theirs, learner.discriminators))
    assert all(moved(ours, learner.generators))
    ours = copies(learner.generators)
    learner.discriminator_step(batch)
    assert not any(moved(ours, learner.generators))
    assert all(moved(theirs, learner.discriminators))
    assert all(tensor.requires_grad for tensor in learner.discriminators)


@pytest.mark.parametrize("resample", [True, False])
def test_a_step_is_one_of_the_discriminators_and_k_of_the_generators(resample, monkeypatch):
    learner = module.CmGansLearner(CmGans(**SMALL, generator_steps=3, resample=resample), PAIRS, Session(0))
    batch, seen = Session(0).batch(PAIRS.take(np.arange(6))), []
    for name in ("discriminator_step", "generator_step"):
        plain = getattr(learner, name)

        def watched(batch, name=name, plain=plain):
            seen.append((name, tuple(batch.rows.tolist())))
            return plain(batch)

        monkeypatch.setattr(learner, name, watched)
    learner.step(batch)
    assert [name for name, _ in seen] == ["discriminator_step", *["generator_step"] * 3]
    rows = [rows for _, rows in seen]
    assert all(len(set(each)) == 6 for each in rows)
    assert len(set(rows)) == (4 if resample else 1)
    assert (learner.discriminator_optimiser.steps, learner.generator_optimiser.steps) == (1, 3)


def test_without_an_adversary_there_is_none_and_the_loss_is_error_and_label_loss():
    learner, batch = learner_of(adversary=False, reconstruction_weight=0.5), batch_of()
    assert not learner.intra and not learner.inter and not hasattr(learner, "discriminators")
    codes = [rows.detach() for rows in learner.encoded([batch.images, batch.texts])]
    made = [rows.detach() for rows in learner.decoded(codes)]
    given, taken = {}, []
    learner.generator_optimiser = type(
        "", (), {"step": lambda self, loss: taken.append(float(loss.detach()))}
    )()
    given = learner.generator_step(batch)
    assert set(given) == {"label_loss", "reconstruction_error", "code_difference"}
    error = sum(
        np.mean((np.asarray(rows) - np.asarray(wanted)) ** 2)
        for rows, wanted in zip(made, (batch.images, batch.texts), strict=True)
    )
    label = 0.0
    for rows in codes:
        logits = np.asarray(learner.classifier(rows).detach())
        for i, row in enumerate(logits):
            label -= (row[PAIRS.labels[i]] - np.log(np.exp(row).sum())) / len(logits)
    assert_allclose(taken, [0.5 * error + label], rtol=1e-10)
    pairs, both = synthetic_data(), {"adversary": False, "reconstruction_weight": 1.0}
    history = CmGans(**SMALL, **both, max_epochs=2).fit(pairs.train).history_
    assert not any("inter" in name or "intra" in name for line in history for name in line)


def test_only_inter_has_no_decoders():
    learner = learner_of(intra=False)
    assert not learner.decoders and not learner.intra and len(learner.inter) == 2
    assert "reconstruction_error" not in learner.generator_losses(batch_of())


@pytest.mark.parametrize(("reconstruction_weight", "taken"), [(0.0, False), (1.0, True)])
def test_the_reconstruction_error_is_always_told_and_learned_from_by_its_weight(reconstruction_weight, taken):
    """With discriminators held at one half there is no other way that a decoder could learn."""
    learner = learner_of(reconstruction_weight=reconstruction_weight)
    silence(learner)
    learner.generator_optimiser = module.Adam(learner.generators, 1e-3)
    before = copies(learner.decoders[0][1].parameters)
    assert learner.generator_step(batch_of())["reconstruction_error"] > 0
    assert all(moved(before, learner.decoders[0][1].parameters)) == taken


# -- losses -----------------------------------------------------------------------------------------


def silence(learner) -> None:
    """Let every discriminator say one half."""
    with torch.no_grad():
        for network in (*learner.intra, *(path.last for path in learner.inter)):
            for tensor in network.parameters:
                tensor.zero_()


@pytest.mark.parametrize("mismatch", ["own", "anchor"])
def test_losses_of_discriminators_that_know_nothing(mismatch):
    """D_I and D_T 2 log 2 each, D_Ci and D_Ct as well; the generators' -log 1/2 for each discriminator."""
    learner, batch = learner_of(mismatch=mismatch), batch_of()
    silence(learner)
    learner.discriminator_optimiser = type("", (), {"step": lambda self, loss: None})()
    told = learner.discriminator_step(batch)
    for name in ("image_intra_loss", "text_intra_loss", "image_inter_loss", "text_inter_loss"):
        assert float(told[name]) == pytest.approx(2 * math.log(2), abs=1e-6)
    told = learner.generator_losses(batch)
    assert float(told["generator_inter_loss"].detach()) == pytest.approx(2 * math.log(2), abs=1e-6)
    assert float(told["generator_intra_loss"].detach()) == pytest.approx(2 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("mismatch", ["own", "anchor"])
def test_losses_of_the_discriminators_are_those_of_a_loop(mismatch):
    learner, batch, n = learner_of(mismatch=mismatch), batch_of(), len(PAIRS)
    other = learner.taken(torch.from_numpy(learner.mismatches.draw(np.arange(n))[0]))
    codes = learner.encoded([batch.images, batch.texts])
    wrong, made = learner.encoded([other.images, other.texts]), learner.decoded(codes)
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 2, n).astype(float))
    told = learner.discriminator_losses(batch, codes, made, other, wrong, weights)
    h, h_other = (batch.images, batch.texts), (other.images, other.texts)

    def sigma(logits):
        return 1 / (1 + np.exp(-np.asarray(logits.detach(), dtype=np.float64)))

    for i, name in enumerate(("image", "text")):
        D, path = learner.intra[i], learner.inter[i]
        real, fake = sigma(D(h[i]))[:, 0], sigma(D(made[i]))[:, 0]
        intra = sum(-math.log(real[j]) - math.log(1 - fake[j]) for j in range(n)) / n
        read = path.read(h[i])
        real, crossed = sigma(path(codes[i], read)), sigma(path(codes[1 - i], read))
        beside = h_other[i] if mismatch == "own" else h[i]
        off = sigma(path(wrong[i], path.read(beside)))
        inter = sum(
            -math.log(real[j]) - math.log(1 - crossed[j]) / 2 - float(weights[j]) * math.log(1 - off[j]) / 2
            for j in range(n)
        )
        assert float(told[f"{name}_intra_loss"].detach()) == pytest.approx(intra, rel=1e-9)
        assert float(told[f"{name}_inter_loss"].detach()) == pytest.approx(inter / n, rel=1e-9)
        right = sum(real > 0.5) + sum(crossed < 0.5)
        assert float(told[f"{name}_inter_accuracy"]) == pytest.approx(right / (2 * n))


def test_an_image_s_code_is_shown_beside_its_text_s_features():
    """The image generator deceives D_Ct: with D_Ci held at one half, texts' codes get no gradient from it."""
    learner, batch = learner_of(intra=False, semantic_constraint=False, weight_sharing=False), batch_of()
    with torch.no_grad():
        for tensor in learner.inter[0].last.parameters:
            tensor.zero_()
    loss = learner.generator_losses(batch)["generator_inter_loss"]
    image, text = ([one for block in blocks for one in block.parameters] for blocks in learner.encoders)
    assert any(slope.abs().max() > 1e-8 for slope in torch.autograd.grad(loss, image, retain_graph=True))
    slopes = torch.autograd.grad(loss, text, retain_graph=True, allow_unused=True)
    assert all(slope is None or slope.abs().max() == 0 for slope in slopes)


def test_a_pathway_is_a_dense_layer_on_representations_beside_features():
    path = module.Pathway(4, 3, 5, "relu", torch.Generator().manual_seed(0), "cpu")
    codes, features = torch.randn(7, 4), torch.randn(7, 3)
    weights = torch.cat([path.of_codes, path.of_features])
    rows = torch.cat([codes, features], dim=1) @ weights + path.bias
    rows = (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + 1e-5).sqrt() * path.norm.gain
    wanted = path.last((rows + path.norm.bias).clamp(min=0))[:, 0]
    found = path(codes, path.read(features))
    assert_allclose(found.detach(), wanted.detach(), atol=1e-5)


# -- mismatches -------------------------------------------------------------------------------------


def test_mismatched_items_never_share_a_class_and_reach_each_other_class_equally():
    labels = np.repeat([0, 1, 3, 4], [3, 40, 7, 50])
    pairs = replace(synthetic_pairs(100), labels=labels)  # class 2 has no row
    mismatches = module.Mismatches(pairs, np.random.default_rng(0))
    rows = np.tile(np.arange(100), 1000)
    drawn, weights = mismatches.draw(rows)
    assert not (labels[drawn] == labels[rows]).any()
    assert (weights == 1).all()
    for label in (0, 1, 3, 4):
        others, counts = np.unique(labels[drawn][labels[rows] == label], return_counts=True)
        assert set(others) == {0, 1, 3, 4} - {label}
        assert counts.min() / counts.sum() > 0.31  # each one third
    members, counts = np.unique(drawn[labels[drawn] == 0], return_counts=True)
    assert set(members) == {0, 1, 2} and counts.min() / counts.sum() > 0.3


def test_mismatches_of_several_classes_share_none_or_weigh_nothing():
    pairs = synthetic_pairs(30, multi_label=True)
    labels = pairs.labels.copy()
    labels[3] = True  # shares a class with everybody
    mismatches = module.Mismatches(replace(pairs, labels=labels), np.random.default_rng(0))
    seen = set()
    for _ in range(500):
        rows = np.random.default_rng(1).permutation(30)[:20]
        rows = np.append(rows[rows != 3], 3)
        drawn, weights = mismatches.draw(rows)
        assert set(drawn) <= set(rows)
        shared = (labels[drawn] & labels[rows]).any(axis=1)
        assert_array_equal(shared, weights == 0)
        assert_array_equal(weights == 0, rows == 3)
        seen.add(int(drawn[0]))
    assert len(seen) > 5


# -- what labels do ---------------------------------------------------------------------------------


def test_without_constraint_and_sharing_labels_enter_through_mismatches_alone(monkeypatch):
    data = synthetic_data()
    turned = replace(data.train, labels=np.random.default_rng(0).permutation(data.train.labels))

    def embeddings(pairs):
        method = CmGans(**SMALL, weight_sharing=False, semantic_constraint=False, max_epochs=2)
        return method.fit(pairs).encode_pairs(data.test)

    assert not np.array_equal(embeddings(data.train)[0], embeddings(turned)[0])

    def without_labels(self, rows):
        return self.generator.permutation(rows), np.ones(len(rows), dtype=np.float32)

    monkeypatch.setattr(module.Mismatches, "draw", without_labels)
    for first, second in zip(embeddings(data.train), embeddings(turned), strict=True):
        assert_array_equal(first, second)


# -- encoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_encoding_is_the_encoder_with_running_statistics_and_needs_nothing_else(activation):
    data = synthetic_data()
    method = CmGans(**SMALL, activation=activation, max_epochs=2)
    learner = module.CmGansLearner(method, data.train, Session(0))
    batch = Session(0).batch(data.train)
    for _ in range(3):
        learner.step(batch)
    vars(method).update(learner.learned(), n_features_in_=[12, 9])
    for i, (rows, encode) in enumerate(
        ((data.test.images, method.encode_image), (data.test.texts, method.encode_text))
    ):
        found = torch.from_numpy(rows)
        for block in learner.encoders[i]:
            norm = block.norm
            found = block.linear(found)
            found = (found - norm.mean) / (norm.variance + 1e-5).sqrt() * norm.gain + norm.bias
            slope = 0.2 if activation == "leaky_relu" else 0.0
            found = torch.where(found > 0, found, slope * found)
        assert_allclose(encode(rows), found.detach().numpy(), atol=1e-4)
    fitted = CmGans(**SMALL, max_epochs=1).fit(data.train)
    assert {name for name in vars(fitted) if name.endswith("_")} == {
        "n_features_in_",
        "history_",
        "best_epoch_",
        "image_layers_",
        "text_layers_",
    }


def test_default_widths_follow_the_features_and_given_ones_are_taken_as_they_are():
    def widths(pairs, **parameters):
        learner = module.CmGansLearner(CmGans(**parameters), pairs, Session(0))
        first, second = learner.encoders[0]
        return first.linear.weights[0].shape[1], second.linear.weights[0].shape[1]

    assert widths(PAIRS) == (64, 64)
    assert widths(synthetic_pairs(24, d_image=100)) == (400, 400)
    assert widths(synthetic_pairs(24, d_image=300)) == (512, 512)
    assert widths(PAIRS, hidden=700) == (700, 700)
    assert widths(PAIRS, hidden=10, n_components=3) == (10, 3)


# -- the whole --------------------------------------------------------------------------------------


def test_the_history_has_the_terms_of_the_docstring():
    data = synthetic_data()
    line = CmGans(**SMALL, max_epochs=1).fit(data.train).history_[0]
    for kind in ("intra", "inter"):
        for modality in ("image", "text"):
            assert f"{modality}_{kind}_loss" in line and 0 <= line[f"{modality}_{kind}_accuracy"] <= 1
        assert f"generator_{kind}_loss" in line
    assert {"label_loss", "reconstruction_error", "code_difference"} <= set(line)


def test_a_reconstruction_weight_keeps_the_decoder_by_the_features():
    """The game within a modality has no anchor: r runs away from h; with the error in the loss it stays."""
    data = synthetic_data(200)
    errors = []
    for preset in ({}, {"preset": "stable"}):
        method = CmGans.resolve({**preset, "hidden": 32, "max_epochs": 15, "learning_rate": 3e-3})
        errors.append(method.fit(data.train).history_[-1]["reconstruction_error"])
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("ablation", ["ws_only", "sc_only", "only_inter", "cae"])
def test_ablations_that_share_weights_or_predict_labels_learn(ablation):
    """Without either, nothing but the game between the modalities is left, and that alone learns next to nothing."""
    data = synthetic_data(120)
    method = CmGans.resolve({"ablation": ablation, "hidden": 32, "max_epochs": 8, "learning_rate": 1e-3})
    method.fit(data.train, data.validation, context=scored(data.validation))
    assert max(line["validation_map"] for line in method.history_) > 0.35  # chance: about .25


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"generator_steps": 0}, r"CmGans\.generator_steps: expected more than 0"),
        ({"reconstruction_weight": -1.0}, r"CmGans\.reconstruction_weight: expected at least 0"),
        ({"hidden": 1}, r"CmGans\.hidden: expected at least 2, got 1"),
        ({"n_components": 0}, r"CmGans\.n_components: expected at least 2, got 0"),
        ({"intra": False, "reconstruction_weight": 1.0}, "there are no decoders"),
        ({"adversary": False, "semantic_constraint": False}, "nothing to learn from"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        CmGans(**parameters).fit(PAIRS)


def test_a_batch_of_one_cannot_be_normalised():
    one = replace(synthetic_pairs(3, multi_label=True), ids=("a", "b", "c")).take(np.array([0]))
    assert one.labels.sum() == 2  # two classes, one pair
    with pytest.raises(Unsupported, match="at least 2 training pairs, got 1"):
        CmGans(**SMALL).fit(one)


def test_departures_say_what_the_parameters_make_of_the_model():
    assert "narrower layers" in CmGans().departures
    assert "narrower layers" not in CmGans.resolve({"preset": "paper"}).departures
    assert "narrower layers" not in CmGans(hidden=1024).departures
    assert any("reconstruction" in text for text in CmGans.resolve({"preset": "stable"}).departures)
    assert not any("reconstruction" in text for text in CmGans.resolve({"ablation": "cae"}).departures)
    assert any("mismatched" in text for text in CmGans(mismatch="anchor").departures)
