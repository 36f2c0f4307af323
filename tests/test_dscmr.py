"""DSCMR: its three losses against loops, what its shared layers are, and what its weights switch off."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import by_hand, copied, scored, slope
from numpy.testing import assert_allclose, assert_array_equal

import xmbench
from xmbench.errors import InvalidParameter
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Session

torch = pytest.importorskip("torch")

Dscmr = Registry().method("dscmr")
module = sys.modules[Dscmr.__module__]

SMALL = {"hidden": 6, "n_components": 4}
QUICK = {"hidden": 32, "n_components": 16, "max_epochs": 4}


def learner_of(multi_label: bool = False, **parameters):
    """A learner and the batch of its eight pairs."""
    pairs = synthetic_pairs(8, d_image=4, d_text=3, n_classes=3, multi_label=multi_label)
    learner = module.DscmrLearner(Dscmr(**SMALL, **parameters), (4, 3, 3), Session(0))
    return learner, Session(0).batch(pairs)


def norm(row) -> float:
    return sum(value**2 for value in row) ** 0.5


def similarity_by_hand(u, w, Y) -> float:
    """J2 pair by pair."""
    total, n = 0.0, len(Y)
    for first, second in ((u, u), (u, w), (w, w)):
        for i in range(n):
            for j in range(n):
                cosine = sum(a * b for a, b in zip(first[i], second[j], strict=True))
                half = 0.5 * cosine / norm(first[i]) / norm(second[j])
                alike = any(a and b for a, b in zip(Y[i], Y[j], strict=True))
                total += (np.log(1 + np.exp(half)) - alike * half) / n**2
    return total


def embeddings(multi_label: bool, n: int = 6) -> tuple:
    rng = np.random.default_rng(0)
    pairs = synthetic_pairs(n, n_classes=3, multi_label=multi_label)
    return rng.standard_normal((n, 4)), 3 * rng.standard_normal((n, 4)), pairs.one_hot()


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_step_tells_the_losses_before_it(multi_label):
    learner, batch = learner_of(multi_label)
    shared, predictor = copied(learner.shared.arrays()), copied(learner.predictor.arrays())
    u = by_hand([*copied(learner.image.arrays()), *shared], batch.images)
    w = by_hand([*copied(learner.text.arrays()), *shared], batch.texts)
    Y = batch.targets.numpy()
    label = sum(
        norm(row - wanted) / 8
        for rows in (u, w)
        for row, wanted in zip(by_hand(predictor, rows), Y, strict=True)
    )
    pair = sum(norm(a - b) for a, b in zip(u, w, strict=True)) / 8
    found = {name: float(loss) for name, loss in learner.step(batch).items()}
    expected = {"label_loss": label, "similarity_loss": similarity_by_hand(u, w, Y), "pair_loss": pair}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_similarity_loss_is_that_of_a_loop(multi_label):
    u, w, Y = embeddings(multi_label)
    found = module.similarity_loss(*map(torch.from_numpy, (u, w, Y)))
    assert float(found) == pytest.approx(similarity_by_hand(u, w, Y), abs=1e-12)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_of_the_similarity_loss_is_that_of_finite_differences(multi_label):
    u, w, Y = map(torch.from_numpy, embeddings(multi_label))
    u.requires_grad_(), w.requires_grad_()
    module.similarity_loss(u, w, Y).backward()
    still = u.detach(), w.detach()
    assert_allclose(u.grad, slope(lambda t: module.similarity_loss(t, still[1], Y), u), atol=1e-8)
    assert_allclose(w.grad, slope(lambda t: module.similarity_loss(still[0], t, Y), w), atol=1e-8)


def test_the_similarity_loss_knows_neither_lengths_nor_order_nor_which_modality_is_first():
    u, w, Y = map(torch.from_numpy, embeddings(multi_label=True))
    loss = float(module.similarity_loss(u, w, Y))
    rng = np.random.default_rng(1)
    lengths, order = torch.from_numpy(rng.uniform(0.1, 9.0, (6, 1))), rng.permutation(6)
    assert float(module.similarity_loss(lengths * u, 5 * w, Y)) == pytest.approx(loss, abs=1e-12)
    assert float(module.similarity_loss(u[order], w[order], Y[order])) == pytest.approx(loss, abs=1e-12)
    assert float(module.similarity_loss(w, u, Y)) == pytest.approx(loss, abs=1e-12)


def test_embeddings_at_zero_have_finite_slopes():
    """Dead hidden units and a bias of zero; equal embeddings of both modalities likewise."""
    zero = torch.zeros(3, 4, requires_grad=True)
    Y = torch.eye(3)
    (module.similarity_loss(zero, zero, Y) + module.row_norms(zero - zero).sum()).backward()
    assert zero.grad.isfinite().all()
    assert_allclose(module.row_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]])), [5.0, 2.0])


def test_the_second_layer_is_one_for_both_modalities():
    data = synthetic_data()
    method = Dscmr(**QUICK).fit(data.train, data.validation, context=scored(data.validation))
    image, text = method.image_layers_[-1], method.text_layers_[-1]
    assert image["activation"] == text["activation"] == "linear"
    assert image["weights"].shape == (32, 16)
    for name in ("weights", "bias"):
        assert_array_equal(image[name], text[name])
    own = method.image_layers_[0], method.text_layers_[0]
    assert [layer["weights"].shape for layer in own] == [(12, 32), (9, 32)]
    assert [layer["activation"] for layer in own] == ["relu", "relu"]
    rows = data.test.images[:4]
    assert_allclose(method.encode_image(rows), by_hand(method.image_layers_, rows), atol=1e-5)


def test_shared_layers_learn_from_both_modalities():
    """Their gradient is that of the image's predictions and that of the text's; the step is of both at once."""
    learner, batch = learner_of(similarity_weight=0.0, pair_weight=0.0)
    shared = [*learner.shared.parameters, *learner.predictor.parameters]
    paths = []
    for network, rows in ((learner.image, batch.images), (learner.text, batch.texts)):
        misses = learner.predictor(learner.shared(network(rows))) - batch.targets
        paths.append(torch.autograd.grad(misses.norm(dim=1).mean(), shared))
    learner.step(batch)
    for parameter, image, text in zip(shared, *paths, strict=True):
        assert_allclose(parameter.grad, image + text, atol=1e-6)
        assert (image != text).any()


@pytest.mark.parametrize(
    "weights",
    [{"similarity_weight": 0.0, "pair_weight": 0.0}, {"similarity_weight": 2.0, "pair_weight": 0.5}],
)
def test_weights_of_zero_leave_the_label_loss_alone_and_others_add_their_losses(weights):
    learner, batch = learner_of(**weights)
    u, w = (
        learner.shared(network(rows))
        for network, rows in ((learner.image, batch.images), (learner.text, batch.texts))
    )
    loss = sum((learner.predictor(rows) - batch.targets).norm(dim=1).mean() for rows in (u, w))
    if weights["pair_weight"]:
        loss = loss + 2.0 * module.similarity_loss(u, w, batch.targets) + 0.5 * (u - w).norm(dim=1).mean()
    networks = (learner.image, learner.text, learner.shared, learner.predictor)
    parameters = [tensor for network in networks for tensor in network.parameters]
    expected = torch.autograd.grad(loss, parameters)
    learner.step(batch)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert_allclose(parameter.grad, gradient, atol=1e-6)


def test_without_the_pair_loss_pairing_matters_to_no_gradient():
    """Labels stay with their rows: J1 and J2 are sums over all items."""
    pairs = synthetic_pairs(15, n_classes=3)
    order = np.arange(15).reshape(-1, 3)[::-1].ravel()
    assert_array_equal(pairs.labels[order], pairs.labels)
    other = replace(pairs, texts=pairs.texts[order])
    for weight, same in ((0.0, True), (1.0, False)):
        method = Dscmr(**SMALL, similarity_weight=1.0, pair_weight=weight)
        found = []
        for given in (pairs, other):
            learner = module.DscmrLearner(method, (12, 9, 3), Session(0))
            learner.step(Session(0).batch(given))
            found.append(learner.shared.parameters[0].grad.numpy())
        assert np.allclose(*found, atol=1e-6) == same


def test_a_large_pair_weight_draws_the_modalities_of_a_pair_together():
    data = synthetic_data(noise=1.0)
    gaps = []
    for weight in (0.0, 10.0):
        method = Dscmr(hidden=32, n_components=16, max_epochs=40, pair_weight=weight).fit(data.train)
        u, w = method.encode_pairs(data.train)
        gaps.append(np.linalg.norm(u - w, axis=1).mean())
    assert gaps[1] < 0.8 * gaps[0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_easy_classes_are_retrieved(multi_label):
    data = synthetic_data(200, 50, 100, multi_label=multi_label)
    method = Dscmr(hidden=64, n_components=16, max_epochs=20, learning_rate=3e-3)
    method.fit(data.train, data.validation, context=scored(data.validation))
    assert xmbench.evaluate(*method.encode_pairs(data.test), data.test.labels).main > 0.7


def test_the_released_preset_is_that_of_the_docstring():
    released = Dscmr.resolve({"preset": "released"})
    assert (released.hidden, released.n_components) == (2048, 1024)
    assert (released.learning_rate, released.max_epochs) == (1e-4, 500)
    assert released.patience >= released.max_epochs  # as there, where training ends at the last epoch
    assert (released.similarity_weight, released.pair_weight, released.batch_size) == (1e-3, 0.1, 100)
    assert Dscmr.resolve({"preset": "released", "max_epochs": 2}).max_epochs == 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"similarity_weight": -1.0},
        {"pair_weight": -0.1},
        {"hidden": 0},
        {"n_components": 0},
        {"dropout": 1.0},
        {"batch_size": 1},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"Dscmr\.{next(iter(parameters))}"):
        Dscmr(**parameters).fit(synthetic_pairs())


def test_wikipedia_is_retrieved_better_than_by_chance(wikipedia_pairs):
    """Random rankings of ten classes of unequal size have a MAP of about .12."""
    train, held = (wikipedia_pairs.take(np.flatnonzero((np.arange(725) % 4 == 0) == part)) for part in (0, 1))
    method = Dscmr(hidden=128, n_components=64, max_epochs=15).fit(train, held, context=scored(held))
    assert xmbench.evaluate(*method.encode_pairs(held), held.labels).main > 0.17


def test_row_norms_have_the_slopes_of_finite_differences():
    """The label loss (J1) and the pair loss (J3) are means of them."""
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module.row_norms(rows).mean(), rows)
    assert_allclose(gradient, slope(lambda moved: module.row_norms(moved).mean(), rows), atol=1e-7)
