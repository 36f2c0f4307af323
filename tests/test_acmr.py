"""ACMR: its equations against loops and differences, who learns from whom, and what becomes of odd batches."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import xmbench
from xmbench.errors import InvalidParameter, RunError, UnknownName, Unsupported
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Batch, Session

Acmr = Registry().method("acmr")
module = sys.modules[Acmr.__module__]

SMALL = {"hidden_image": 8, "hidden_text": 6, "n_components": 4}
QUICK = {"hidden_image": 32, "hidden_text": 24, "n_components": 12, "learning_rate": 3e-3, "batch_size": 32}


def number(tensor) -> float:
    return float(tensor.detach())


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape)).requires_grad_()


def learner_of(pairs=None, *, double: bool = True, **parameters):
    """A learner for the pairs, in float64 so that differences and sums can be compared closely."""
    pairs = pairs or synthetic_pairs(20)
    widths = pairs.images.shape[1], pairs.texts.shape[1], pairs.n_classes
    learner = module.AcmrLearner(Acmr(**{**SMALL, **parameters}), widths, Session(0))
    if double:
        for network in (learner.f_V, learner.f_T, learner.label_classifier, learner.D):
            network.layers = [
                tuple(one.detach().double().requires_grad_() for one in layer) for layer in network.layers
            ]
        learner.projections = [*learner.f_V.weights, *learner.f_T.weights]
        learner.measure()
    return learner


def batch_of(pairs, *, double: bool = True) -> Batch:
    batch = Session(0).batch(pairs)
    if not double:
        return batch
    return Batch(batch.images.double(), batch.texts.double(), batch.targets.double(), batch.rows)


def snapshot(*networks) -> list[torch.Tensor]:
    return [tensor.detach().clone() for network in networks for tensor in network.parameters]


def moved(before: list[torch.Tensor], *networks) -> list[bool]:
    return [not torch.equal(one, other) for one, other in zip(before, snapshot(*networks), strict=True)]


class Recorder:
    """In place of an optimiser: keeps the gradients of the losses and moves nothing."""

    def __init__(self, parameters) -> None:
        self.parameters = list(parameters)
        self.weight_decays = [0.0] * len(self.parameters)
        self.gradients: list[list[torch.Tensor | None]] = []

    def step(self, loss) -> None:
        self.gradients.append(list(torch.autograd.grad(loss, self.parameters, allow_unused=True)))


def slow_triplet_loss(D, relevant, margin, weight, reduction="mean", mining="all") -> float:
    """Eq. 4, one triplet after the other."""
    total, n = 0.0, 0
    for i in range(len(D)):
        matches = [j for j in range(len(D)) if relevant[i][j]]
        others = [k for k in range(len(D)) if not relevant[i][k]]
        triplets = [(j, k) for j in matches for k in others]
        if mining == "hardest" and triplets:
            triplets = [(max(matches, key=lambda j: D[i][j]), min(others, key=lambda k: D[i][k]))]
        for j, k in triplets:
            total += D[i][j] + weight * max(0.0, margin - D[i][k])
            n += 1
    return total / max(n, 1) if reduction == "mean" else total


def slow_distances(v, t) -> list[list[float]]:
    return [[float(np.sqrt(((a - b) ** 2).sum())) for b in t] for a in v]


def labels_of(kind: str, n: int = 12) -> torch.Tensor:
    rng = np.random.default_rng(3)
    if kind == "single":
        targets = np.eye(4)[rng.integers(0, 4, n)]
    elif kind == "multi":
        targets = np.maximum(np.eye(4)[rng.integers(0, 4, n)], rng.random((n, 4)) < 0.25)
    elif kind == "one class":
        targets = np.eye(4)[np.zeros(n, dtype=int)]
    elif kind == "all different":
        targets = np.eye(n)
    else:  # an item that matches all others, and is the only one to
        targets = np.eye(n)
        targets[0] = 1
    return torch.from_numpy(targets)


# -- the losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["single", "multi", "one class", "all different", "hub"])
def test_the_triplet_loss_is_that_of_a_loop_over_triplets(kind, reduction, mining):
    targets = labels_of(kind)
    v, t = normal(12, 3, scale=0.7), normal(12, 3, seed=1, scale=0.7)
    method = Acmr(reduction=reduction, mining=mining, margin=1.5, triplet_weight=0.3)
    D, relevant = module.distances(v, t), module.matching(targets, targets)
    rows = slow_distances(v.detach().numpy(), t.detach().numpy())
    for found, expected in ((D, rows), (D.T, list(zip(*rows, strict=True)))):
        slow = slow_triplet_loss(expected, relevant.tolist(), 1.5, 0.3, reduction, mining)
        assert number(module.triplet_loss(found, relevant, method)) == pytest.approx(
            slow, rel=1e-9, abs=1e-12
        )
    assert kind == "one class" or slow > 0


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_anchors_without_a_match_have_no_triplet(reduction, mining):
    """Every item matches itself, but the function does not rest on it."""
    D = normal(5, 5).detach().abs()
    relevant = torch.tensor(
        [[0.0] * 5, [1.0] * 5, [1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]]
    ).double()
    method = Acmr(reduction=reduction, mining=mining, margin=1.5, triplet_weight=0.3)
    slow = slow_triplet_loss(D.tolist(), relevant.tolist(), 1.5, 0.3, reduction, mining)
    assert number(module.triplet_loss(D, relevant, method)) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_one_and_a_batch_of_one_class_have_no_triplet_and_finite_gradients(reduction, mining):
    for n in (1, 4):
        v, t = normal(n, 3), normal(n, 3, seed=1)
        loss = module.triplet_loss(
            module.distances(v, t), torch.ones(n, n), Acmr(reduction=reduction, mining=mining)
        )
        loss.backward()
        assert number(loss) == 0
        assert_array_equal(v.grad, 0)
        assert_array_equal(t.grad, 0)


def test_the_mean_is_the_sum_over_the_number_of_triplets():
    targets = labels_of("multi")
    relevant, D = module.matching(targets, targets), module.distances(normal(12, 3), normal(12, 3, seed=1))
    n = sum(
        bool(relevant[i, j] and not relevant[i, k]) for i in range(12) for j in range(12) for k in range(12)
    )
    total, mean = (module.triplet_loss(D, relevant, Acmr(reduction=one)) for one in ("sum", "mean"))
    assert number(total) == pytest.approx(n * number(mean), rel=1e-12)


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("multi_label", ["soft", "squared", "bce"])
def test_the_order_of_a_batch_does_not_matter(multi_label, mining):
    pairs = synthetic_pairs(20, multi_label=True)
    learner = learner_of(pairs, multi_label=multi_label, mining=mining)
    batch, order = batch_of(pairs), np.random.default_rng(0).permutation(20)
    v, t = learner.f_V(batch.images), learner.f_T(batch.texts)
    one = learner.embedding_losses(v, t, batch.targets) | learner.modality_losses(v, t)
    other = learner.embedding_losses(v[order], t[order], batch.targets[order])
    other |= learner.modality_losses(v[order], t[order])
    for name, value in one.items():
        assert number(other[name]) == pytest.approx(number(value), rel=1e-12), name


@pytest.mark.parametrize("multi_label", [False, True])
def test_all_terms_are_those_of_loops(multi_label):
    pairs = synthetic_pairs(15, multi_label=multi_label, noise=1.0)
    settings = {"alpha": 0.7, "beta": 1.3, "reg_weight": 0.01, "margin": 2.0, "triplet_weight": 0.4}
    learner, batch = learner_of(pairs, **settings), batch_of(pairs)
    v, t = learner.f_V(batch.images), learner.f_T(batch.texts)
    found = learner.embedding_losses(v, t, batch.targets) | learner.modality_losses(v, t)
    V, T, Y = v.detach().numpy(), t.detach().numpy(), pairs.one_hot()
    relevant = [[bool((Y[i] * Y[j]).sum()) for j in range(15)] for i in range(15)]
    D = slow_distances(V, T)

    def network(rows, dense):
        for (weights, bias), activation in zip(dense.layers, dense.activations, strict=True):
            rows = rows @ weights.detach().numpy() + bias.detach().numpy()
            rows = np.maximum(rows, 0) if activation == "relu" else rows
        return np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)

    imd = adversarial = right = 0.0
    for column, rows in enumerate((V, T)):
        modality = network(rows, learner.D)
        for i, shares in enumerate(network(rows, learner.label_classifier)):
            imd -= sum(Y[i] / Y[i].sum() * np.log(shares)) / 15
            adversarial -= np.log(modality[i, column]) / 15
            right += modality[i, column] > 0.5
    imi = slow_triplet_loss(D, relevant, 2.0, 0.4)
    imi += slow_triplet_loss(list(zip(*D, strict=True)), list(zip(*relevant, strict=True)), 2.0, 0.4)
    norms = 0.0
    for tensor in (*learner.f_V.weights, *learner.f_T.weights):
        norms += sum(float(value) ** 2 for value in tensor.detach().flatten()) ** 0.5
    near = [D[i][j] for i in range(15) for j in range(15) if relevant[i][j]]
    far = [D[i][j] for i in range(15) for j in range(15) if not relevant[i][j]]
    expected = {
        "embedding_loss": 0.7 * imi + 1.3 * imd + 0.01 * norms,
        "triplet_loss": imi,
        "label_loss": imd,
        "positive_distance": np.mean(near),
        "negative_distance": np.mean(far),
        "adversarial_loss": adversarial,
        "modality_accuracy": right / 30,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        precise = 1e-6 if name == "modality_accuracy" else 1e-9  # a share of counts, in single precision
        assert number(found[name]) == pytest.approx(value, rel=precise), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reduction": "sum"},
        {"mining": "hardest"},
        {"multi_label": "bce"},
        {"use_imi": False},
        {"use_imd": False},
    ],
    ids=str,
)
def test_the_gradients_of_the_embeddings_are_those_of_differences(settings):
    pairs = synthetic_pairs(6, n_classes=3, multi_label=True)
    learner, targets = (
        learner_of(pairs, alpha=0.7, margin=2.0, triplet_weight=0.4, **settings),
        batch_of(pairs).targets,
    )
    ends = [normal(6, 4, scale=0.3), normal(6, 4, seed=1, scale=0.3)]

    def loss(v, t):
        return learner.embedding_losses(v, t, targets)["embedding_loss"]

    for side, gradient in enumerate(torch.autograd.grad(loss(*ends), ends)):
        for index in np.ndindex(6, 4):
            values = []
            for sign in (1, -1):
                rows = [one.detach().clone() for one in ends]
                rows[side][index] += sign * 1e-6
                values.append(number(loss(*rows)))
            assert number(gradient[index]) == pytest.approx(
                (values[0] - values[1]) / 2e-6, abs=1e-6, rel=1e-5
            )


def test_a_modality_classifier_of_zeros_can_tell_nothing():
    learner = learner_of()
    with torch.no_grad():
        for tensor in learner.D.parameters:
            tensor.zero_()
    found = learner.modality_losses(normal(20, 4), normal(20, 4, seed=1))
    assert number(found["adversarial_loss"]) == pytest.approx(2 * np.log(2), rel=1e-12)


def test_a_modality_classifier_that_knows_has_no_loss_and_one_that_errs_has_much():
    learner = learner_of()
    with torch.no_grad():
        for tensor in learner.D.parameters:
            tensor.zero_()
        learner.D.layers[0][0][0, :2] = torch.tensor([1.0, -1.0])
        learner.D.layers[1][0][0, 0] = learner.D.layers[1][0][1, 1] = 50.0
    images, texts = torch.zeros(9, 4).double(), torch.zeros(9, 4).double()
    images[:, 0], texts[:, 0] = 1.0, -1.0
    found = learner.modality_losses(images, texts)
    assert number(found["adversarial_loss"]) < 1e-12 and number(found["modality_accuracy"]) == 1
    wrong = learner.modality_losses(texts, images)
    assert number(wrong["adversarial_loss"]) == pytest.approx(100) and number(wrong["modality_accuracy"]) == 0


# -- Eq. 7 ------------------------------------------------------------------------------------------


def test_the_weight_decay_is_the_gradient_of_the_norms():
    learner, reg_weight = learner_of(reg_weight=0.3), 0.3
    decays = dict(zip(map(id, learner.embeds), learner.embedding_optimiser.weight_decays, strict=True))
    # The learner's list of parameters holds the tensors of single precision that the networks began with.
    places = [i for i, decay in enumerate(decays.values()) if decay]
    assert places == learner.places == [0, 2, 4, 6]

    def norms() -> float:
        return reg_weight * sum(number((W**2).sum().sqrt()) for W in learner.projections)

    for place, W in zip(places, learner.projections, strict=True):
        assert W.shape == learner.embeds[place].shape
        for index in [(0, 0), (1, 2), (-1, -1)]:
            with torch.no_grad():
                kept = W[index].clone()
                W[index] = kept + 1e-6
                up = norms()
                W[index] = kept - 1e-6
                down = norms()
                W[index] = kept
            slope = learner.embedding_optimiser.weight_decays[place] * number(W[index])
            assert (up - down) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_the_first_step_follows_the_whole_objective():
    """One Adam step with the norms in the loss, as Eq. 8 has them, is the step with them as weight decay."""
    pairs = synthetic_pairs(20)
    settings = {"reg_weight": 0.5, "learning_rate": 1e-2, "adversary": "off"}
    learner, slow = (learner_of(pairs, double=False, **settings) for _ in range(2))
    batch = batch_of(pairs, double=False)
    reference = torch.optim.Adam(slow.embeds, lr=1e-2, betas=(0.5, 0.999), foreach=False)
    for _ in range(5):
        learner.step(batch)
        slow.measure()
        losses = slow.embedding_losses(slow.f_V(batch.images), slow.f_T(batch.texts), batch.targets)
        loss = 0.1 * losses["triplet_loss"] + losses["label_loss"]
        loss = loss + 0.5 * sum((W**2).sum().sqrt() for W in slow.projections)
        reference.zero_grad()
        loss.backward()
        reference.step()
    for one, other in zip(learner.embeds, slow.embeds, strict=True):
        assert_allclose(one.detach(), other.detach(), atol=2e-4)


def test_weights_of_zero_have_no_decay_and_biases_and_the_label_classifier_never():
    learner = learner_of(double=False, reg_weight=2.0)
    with torch.no_grad():
        learner.f_V.weights[0].zero_()
    learner.measure()
    decays = learner.embedding_optimiser.weight_decays
    assert decays[0] == 0 and np.isfinite(decays).all()
    assert [i for i, decay in enumerate(decays) if decay] == [2, 4, 6]
    assert len(decays) == len(learner.embeds) == 10


# -- the adversary ----------------------------------------------------------------------------------


def both_gradients(adversary: str, *, epoch: int, weight: float, max_epochs: int = 20):
    """Gradients of one step by all parameters, and those of L_emb - c L_adv and of L_adv, taken apart."""
    pairs = synthetic_pairs(20, multi_label=True)
    learner, batch = learner_of(pairs, adversary=adversary, adversary_weight=weight), batch_of(pairs)
    learner.begin_epoch(epoch, max_epochs)
    embeds = [*learner.f_V.parameters, *learner.f_T.parameters, *learner.label_classifier.parameters]
    together = [*embeds, *learner.D.parameters]
    learner.embedding_optimiser = Recorder(together)
    learner.modality_optimiser = Recorder(learner.D.parameters)
    learner.method.embedding_steps = 1
    learner.step(batch)
    v, t = learner.f_V(batch.images), learner.f_T(batch.texts)
    emb = learner.embedding_losses(v, t, batch.targets)["embedding_loss"]
    adv = learner.modality_losses(v, t)["adversarial_loss"]
    of_emb, of_adv = (
        torch.autograd.grad(loss, together, retain_graph=True, allow_unused=True) for loss in (emb, adv)
    )
    return learner, len(embeds), of_emb, of_adv


def plain(gradient, like):
    return torch.zeros_like(like) if gradient is None else gradient


@pytest.mark.parametrize("epoch", [1, 3, 20])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_reversed_gradients_are_those_of_the_minimax_game(epoch, weight):
    learner, n, of_emb, of_adv = both_gradients("reversal", epoch=epoch, weight=weight)
    c = weight * (2 / (1 + np.exp(-10 * (epoch - 1) / 20)) - 1)
    (found,) = learner.embedding_optimiser.gradients
    assert learner.modality_optimiser.gradients == []
    for i, (one, emb, adv) in enumerate(zip(found, of_emb, of_adv, strict=True)):
        like = learner.embedding_optimiser.parameters[i]
        emb, adv = plain(emb, like), plain(adv, like)
        expected = emb - c * adv if i < n else adv
        assert_allclose(plain(one, like), expected, rtol=1e-12, atol=1e-13)
    assert max(float(one.abs().max()) for one in found[n:]) > 1e-3


def test_the_reversal_grows_from_nothing_to_nearly_one():
    learner = learner_of(adversary="reversal")
    strengths = []
    for epoch in range(1, 21):
        learner.begin_epoch(epoch, 20)
        strengths.append(learner.reversal)
    assert strengths[0] == 0 and strengths == sorted(strengths) and 0.99 < strengths[-1] < 1
    assert strengths[10] == pytest.approx(2 / (1 + np.exp(-5.0)) - 1)


def test_alternating_steps_descend_the_difference_and_then_the_adversarial_loss():
    learner, n, of_emb, of_adv = both_gradients("alternating", epoch=3, weight=0.3)
    (found,) = learner.embedding_optimiser.gradients
    for i, (one, emb, adv) in enumerate(zip(found[:n], of_emb, of_adv, strict=False)):
        like = learner.embedding_optimiser.parameters[i]
        assert_allclose(plain(one, like), plain(emb, like) - 0.3 * plain(adv, like), rtol=1e-12, atol=1e-13)
    assert all(one is None for one in found[n:])
    (modality,) = learner.modality_optimiser.gradients
    for one, adv in zip(modality, of_adv[n:], strict=True):
        assert_allclose(one, adv, rtol=1e-12, atol=1e-14)


def test_without_an_adversary_no_gradient_of_it_reaches_the_embeddings():
    learner, n, of_emb, of_adv = both_gradients("off", epoch=3, weight=1.0)
    (found,) = learner.embedding_optimiser.gradients
    for i, (one, emb) in enumerate(zip(found[:n], of_emb[:n], strict=True)):
        like = learner.embedding_optimiser.parameters[i]
        assert torch.equal(plain(one, like), plain(emb, like))
    assert all(one is None for one in found[n:])
    (modality,) = learner.modality_optimiser.gradients
    for one, adv in zip(modality, of_adv[n:], strict=True):
        assert_allclose(one, adv, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("adversary", ["alternating", "off"])
def test_the_modality_classifier_moves_in_its_own_steps_alone(adversary):
    pairs = synthetic_pairs(20)
    learner = learner_of(pairs, double=False, adversary=adversary, embedding_steps=3)
    batch = batch_of(pairs, double=False)
    others = (learner.f_V, learner.f_T, learner.label_classifier)
    for number_of_step in range(1, 8):
        before, kept = snapshot(learner.D), snapshot(*others)
        learner.step(batch)
        assert all(moved(kept, *others))
        assert any(moved(before, learner.D)) == (number_of_step % 3 == 0)
    before, kept = snapshot(learner.D), snapshot(*others)
    learner.modality_step(learner.f_V(batch.images).detach(), learner.f_T(batch.texts).detach())
    assert any(moved(before, learner.D)) and not any(moved(kept, *others))
    assert all(tensor.requires_grad for tensor in learner.D.parameters)


def test_a_reversed_step_moves_everything_at_once():
    pairs = synthetic_pairs(20)
    learner = learner_of(pairs, double=False, adversary="reversal")
    networks = (learner.f_V, learner.f_T, learner.label_classifier, learner.D)
    before = snapshot(*networks)
    learner.step(batch_of(pairs, double=False))
    changed = moved(before, *networks)
    assert all(changed[:10]) and any(changed[10:])
    assert learner.modality_optimiser.steps == 0


@pytest.fixture
def learners(monkeypatch):
    """All learners of the fits to come."""
    found = []

    class Kept(module.AcmrLearner):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            found.append(self)

    monkeypatch.setattr(module, "AcmrLearner", Kept)
    return found


@pytest.mark.parametrize("adversary", ["alternating", "off"])
@pytest.mark.parametrize("embedding_steps", [1, 2, 5, 7, 100])
def test_the_modality_classifier_steps_once_for_every_k_steps_of_the_embeddings(
    learners, embedding_steps, adversary
):
    settings = {"batch_size": 10, "max_epochs": 3, "embedding_steps": embedding_steps, "adversary": adversary}
    Acmr(**SMALL, **settings).fit(synthetic_pairs(40))
    assert learners[0].embedding_optimiser.steps == learners[0].steps == 12
    assert learners[0].modality_optimiser.steps == 12 // embedding_steps


def test_without_an_adversary_training_the_probe_changes_no_embedding(monkeypatch):
    data = synthetic_data()
    settings = {**SMALL, "adversary": "off", "max_epochs": 3, "embedding_steps": 1, "dropout": 0.1}
    trained = Acmr(**settings).fit(data.train, data.validation)
    monkeypatch.setattr(module.AcmrLearner, "modality_step", lambda *_: None)
    untouched = Acmr(**settings).fit(data.train, data.validation)
    for name in ("images", "texts"):
        rows, encode = getattr(data.test, name), f"encode_{name[:-1]}"
        assert_array_equal(getattr(trained, encode)(rows), getattr(untouched, encode)(rows))
    accuracies = [[line["modality_accuracy"] for line in one.history_] for one in (trained, untouched)]
    assert accuracies[0] != accuracies[1]


def test_the_weight_of_the_adversary_does_not_matter_without_one_and_does_with_one():
    pairs = synthetic_pairs(40)
    for adversary, alike in (("off", True), ("alternating", False), ("reversal", False)):
        settings = {**SMALL, "adversary": adversary, "max_epochs": 2, "batch_size": 20}
        one, other = (Acmr(adversary_weight=weight, **settings).fit(pairs) for weight in (0.0, 5.0))
        assert np.array_equal(one.encode_text(pairs.texts), other.encode_text(pairs.texts)) == alike


def test_an_adversary_of_weight_zero_is_none():
    pairs = synthetic_pairs(40)
    settings = {**SMALL, "max_epochs": 2, "batch_size": 20}
    rows = [
        Acmr(adversary=adversary, adversary_weight=0.0, **settings).fit(pairs).encode_image(pairs.images)
        for adversary in ("off", "alternating", "reversal")
    ]
    assert_allclose(rows[1], rows[0], atol=1e-6)
    assert_allclose(rows[2], rows[0], atol=1e-6)


def test_a_strong_adversary_hides_the_modality_that_a_probe_would_tell():
    pairs = synthetic_pairs(200, noise=0.5)
    found = {}
    for adversary in ("off", "alternating"):
        settings = {
            **QUICK,
            "adversary": adversary,
            "embedding_steps": 1,
            "max_epochs": 25,
            "adversary_weight": 2.0,
        }
        history = Acmr(**settings).fit(pairs).history_
        found[adversary] = np.mean([line["modality_accuracy"] for line in history[-10:]])
    assert found["off"] > found["alternating"] + 0.1


# -- switches ---------------------------------------------------------------------------------------


def test_parts_that_are_switched_off_leave_their_networks_alone():
    pairs = synthetic_pairs(20)
    batch = batch_of(pairs, double=False)
    learner = learner_of(pairs, double=False, use_imd=False)
    before = snapshot(learner.label_classifier)
    learner.step(batch)
    assert not any(moved(before, learner.label_classifier))
    for off, weight in (("use_imi", "alpha"), ("use_imd", "beta")):
        one, other = (
            Acmr(**SMALL, **setting, max_epochs=2).fit(pairs).encode_text(pairs.texts)
            for setting in ({off: False}, {weight: 0.0})
        )
        assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("reg_weight", [0.0, 0.5])
def test_with_every_part_off_the_norms_alone_move_the_weights(reg_weight):
    pairs = synthetic_pairs(20)
    settings = {"use_imi": False, "use_imd": False, "adversary": "off", "learning_rate": 1e-3}
    learner = learner_of(pairs, double=False, reg_weight=reg_weight, **settings)
    networks = (learner.f_V, learner.f_T, learner.label_classifier)
    before, batch = snapshot(*networks), batch_of(pairs, double=False)
    for _ in range(3):
        learner.step(batch)
    weights = [bool(reg_weight) and i in (0, 2, 4, 6) for i in range(10)]
    assert moved(before, *networks) == weights
    for one, other, shrinks in zip(before, snapshot(*networks), weights, strict=True):
        assert other.norm() < one.norm() or not shrinks


@pytest.mark.parametrize("adversary", ["alternating", "reversal", "off"])
def test_a_fit_with_both_parts_off_keeps_its_history(adversary):
    pairs = synthetic_pairs(20)
    method = Acmr(**SMALL, use_imi=False, use_imd=False, adversary=adversary, max_epochs=2).fit(pairs)
    assert all(line["embedding_loss"] > 0 for line in method.history_)


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        ({"preset": "paper"}, {"reduction": "sum", "reg_weight": 1.0, "learning_rate": 1e-4}),
        ({"ablation": "imi_only"}, {"use_imd": False}),
        ({"ablation": "imi_only_lambda_1"}, {"use_imd": False, "triplet_weight": 1.0}),
        ({"ablation": "imd_only"}, {"use_imi": False}),
        ({"ablation": "no_adversary"}, {"adversary": "off"}),
    ],
    ids=lambda value: str(*value.values()) if len(value) == 1 else "",
)
def test_presets_and_ablations_change_what_they_declare(spec, changed):
    defaults = Acmr.defaults()
    assert Acmr.resolve(spec).get_params() == defaults | changed
    assert changed.items() - defaults.items()
    pairs = synthetic_pairs(20)
    method = Acmr.resolve({**spec, **SMALL, "max_epochs": 1}).fit(pairs)
    assert np.isfinite(method.encode_image(pairs.images)).all()


@pytest.mark.parametrize("name", ["adversary", "mining", "reduction", "multi_label"])
def test_options_that_do_not_exist_are_refused(name):
    with pytest.raises(InvalidParameter, match=rf"Acmr\.{name}"):
        Acmr.resolve({name: "nonsense"})
    with pytest.raises(UnknownName):
        Acmr.resolve({"ablation": "nonsense"})


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("margin", value) for value in (0.0, -1.0)),
        *((name, 0) for name in ("hidden_image", "hidden_text", "n_components", "embedding_steps")),
        *(
            (name, -0.1)
            for name in ("alpha", "beta", "triplet_weight", "adversary_weight", "reg_weight", "dropout")
        ),
        ("dropout", 1.0),
    ],
)
def test_parameters_out_of_range_are_refused(parameter, value):
    with pytest.raises(InvalidParameter, match=rf"^Acmr\.{parameter}: expected .*got {value}"):
        Acmr(**{parameter: value}).fit(synthetic_pairs(10))


def test_departures_go_with_the_parameters():
    default, paper = Acmr().departures, Acmr.resolve({"preset": "paper"}).departures
    assert paper == ("the epoch is chosen on validation rows",)
    assert default[-1:] == paper and len(default) == 3
    assert "mean over triplets" in default[0] and "0.0001" in default[1]
    assert "0.25" in Acmr(reg_weight=0.25).departures[1]


# -- data -------------------------------------------------------------------------------------------


def test_embeddings_lie_within_the_cube():
    data = synthetic_data(noise=5.0)
    method = Acmr(**QUICK, max_epochs=3).fit(data.train, data.validation)
    for rows in (method.encode_image(data.test.images), method.encode_text(data.test.texts)):
        assert rows.shape == (30, 12) and rows.dtype == np.float32
        assert (np.abs(rows) < 1).all() and np.abs(rows).max() > 0.1


def test_items_of_one_class_only_are_refused():
    pairs = synthetic_pairs()
    with pytest.raises(Unsupported, match="ACMR learns from classes and needs at least 2"):
        Acmr().fit(pairs.take(np.flatnonzero(pairs.labels == 2)))


@pytest.mark.parametrize("settings", [{}, {"reduction": "sum"}, {"mining": "hardest"}], ids=str)
def test_batches_that_lack_classes_or_hold_one_alone_are_learned_from(settings):
    """Batches of two of many classes; and nearly all items of one class."""
    pairs = synthetic_pairs(30, n_classes=10)
    labels = np.zeros(30, dtype=int)
    labels[7] = 4
    for some in (pairs, replace(pairs, labels=labels)):
        method = Acmr(**SMALL, batch_size=2, max_epochs=2, **settings).fit(some)
        assert np.isfinite([list(line.values()) for line in method.history_]).all()


@pytest.mark.parametrize("multi_label", ["soft", "squared", "bce"])
def test_items_of_several_classes_are_learned(multi_label):
    data = synthetic_data(150, 0, 60, multi_label=True)
    method = Acmr(**QUICK, multi_label=multi_label, max_epochs=20).fit(data.train)
    images, texts = method.encode_pairs(data.test)
    scores = xmbench.evaluate(images, texts, data.test.labels)
    assert scores.main > scores.tasks["image->text"].chance + 0.3
    assert method.history_[-1]["label_loss"] < method.history_[0]["label_loss"]


def test_one_hot_labels_are_the_labels():
    pairs = synthetic_pairs(30)
    multi_hot = replace(pairs, labels=pairs.one_hot().astype(bool))
    one, two = (Acmr(**SMALL, max_epochs=2).fit(some) for some in (pairs, multi_hot))
    assert_array_equal(one.encode_image(pairs.images), two.encode_image(pairs.images))


def test_narrow_rows_beside_wide_ones_are_learned():
    data = synthetic_data(60, 20, 40, d_image=4096, d_text=10)
    method = Acmr(**{**QUICK, "max_epochs": 10}).fit(data.train, data.validation)
    images, texts = method.encode_pairs(data.test)
    assert xmbench.evaluate(images, texts, data.test.labels).main > 0.5


@pytest.mark.parametrize("adversary", ["alternating", "reversal", "off"])
def test_easy_pairs_are_learned_with_each_adversary(adversary):
    data = synthetic_data(150, 0, 60)
    method = Acmr(**QUICK, adversary=adversary, max_epochs=20).fit(data.train)
    images, texts = method.encode_pairs(data.test)
    assert xmbench.evaluate(images, texts, data.test.labels).main > 0.7
    first, last = method.history_[0], method.history_[-1]
    assert last["embedding_loss"] < first["embedding_loss"]
    assert last["positive_distance"] < last["negative_distance"]


def test_the_history_has_the_terms_of_the_paper():
    data = synthetic_data()
    context = xmbench.FitContext(validation_score=lambda method: 0.5)
    method = Acmr(**SMALL, max_epochs=2).fit(data.train, data.validation, context=context)
    columns = {
        *("epoch", "seconds", "learning_rate", "kept", "validation_map"),
        *("embedding_loss", "triplet_loss", "label_loss", "adversarial_loss", "modality_accuracy"),
        *("positive_distance", "negative_distance"),
    }
    for line in method.history_:
        assert set(line) == columns
        assert 0 <= line["modality_accuracy"] <= 1
        assert all(line[name] >= 0 for name in columns)


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 1e30}, {"preset": "paper", "learning_rate": 1e25}], ids=str
)
def test_training_that_diverges_ends_the_run_naming_epoch_and_terms(settings):
    data = synthetic_data()
    with pytest.raises(RunError, match=r"Acmr diverged in epoch [12]: .*embedding_loss.* not finite"):
        Acmr.resolve({**SMALL, **settings, "max_epochs": 3}).fit(data.train, data.validation)


def test_huge_rows_saturate_their_projector_and_the_others_are_learned():
    data = synthetic_data()
    train = replace(data.train, images=data.train.images * np.float32(1e30))
    method = Acmr(**QUICK, max_epochs=3).fit(train)
    assert_allclose(np.abs(method.encode_image(train.images)) <= 1, True)
    assert method.history_[-1]["label_loss"] < method.history_[0]["label_loss"]


@pytest.mark.parametrize("adversary", ["alternating", "reversal"])
def test_two_epochs_on_real_pairs_beat_chance(wikipedia_pairs, adversary):
    order = np.random.default_rng(0).permutation(len(wikipedia_pairs))
    train, test = wikipedia_pairs.take(order[:525]), wikipedia_pairs.take(order[525:])
    settings = {"hidden_image": 500, "hidden_text": 200, "n_components": 50, "learning_rate": 1e-3}
    method = Acmr(**settings, max_epochs=2, adversary=adversary).fit(train)
    images, texts = method.encode_pairs(test)
    scores = xmbench.evaluate(images, texts, test.labels)
    assert all(task.mean_average_precision > 1.2 * task.chance for task in scores.tasks.values())


def test_a_linear_modality_classifier_is_an_affine_map():
    learner = learner_of(synthetic_pairs(20), modality_activation="linear")
    first, second = (torch.randn(3, 4, dtype=torch.float64) for _ in range(2))
    half = learner.D((first + second) / 2)
    assert_allclose(half.detach(), ((learner.D(first) + learner.D(second)) / 2).detach(), atol=1e-12)
