"""Cross-modal supervised contrastive learning: its loss against loops, its symmetries and its least value."""

from __future__ import annotations

import sys

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

SupCon = Registry().method("supcon")
module = sys.modules[SupCon.__module__]

QUICK = {"hidden": 32, "n_components": 16, "max_epochs": 4}


def embeddings(multi_label: bool = False, n: int = 7) -> tuple:
    rng = np.random.default_rng(0)
    Y = synthetic_pairs(n, n_classes=3, multi_label=multi_label).one_hot()
    return rng.standard_normal((n, 4)), 3 * rng.standard_normal((n, 4)), Y


def loss_of(image, text, Y, temperature: float = 0.5) -> float:
    return float(module.contrastive_loss(*map(torch.as_tensor, (image, text, Y)), temperature))


def loss_by_hand(image, text, Y, temperature: float) -> float:
    """Both directions, anchor by anchor and positive by positive."""
    total, n = 0.0, len(Y)
    for anchors, others in ((image, text), (text, image)):
        for i in range(n):
            cosines = [
                sum(a * b for a, b in zip(anchors[i], other, strict=True))
                / np.linalg.norm(anchors[i])
                / np.linalg.norm(other)
                for other in others
            ]
            whole = sum(np.exp(cosine / temperature) for cosine in cosines)
            positives = [j for j in range(n) if any(a and b for a, b in zip(Y[i], Y[j], strict=True))]
            for j in positives:
                total -= np.log(np.exp(cosines[j] / temperature) / whole) / len(positives) / n
    return total


def learner_of(**parameters):
    pairs = synthetic_pairs(8, d_image=4, d_text=3, n_classes=3, multi_label=True)
    method = SupCon(hidden=6, n_components=4, dropout=0.0, **parameters)
    return module.SupConLearner(method, (4, 3, 3), Session(0)), Session(0).batch(pairs)


# -- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_that_of_a_double_loop(multi_label, temperature):
    image, text, Y = embeddings(multi_label)
    expected = loss_by_hand(image, text, Y, temperature)
    assert loss_of(image, text, Y, temperature) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_is_that_of_finite_differences(multi_label):
    image, text, Y = map(torch.from_numpy, embeddings(multi_label))
    image.requires_grad_(), text.requires_grad_()
    module.contrastive_loss(image, text, Y, 0.3).backward()
    still = image.detach(), text.detach()
    assert_allclose(
        image.grad, slope(lambda t: module.contrastive_loss(t, still[1], Y, 0.3), image), atol=1e-7
    )
    assert_allclose(text.grad, slope(lambda t: module.contrastive_loss(still[0], t, Y, 0.3), text), atol=1e-7)


def test_lengths_of_rows_and_their_order_and_which_modality_is_first_make_no_difference():
    image, text, Y = embeddings(multi_label=True)
    rng = np.random.default_rng(1)
    loss, order = loss_of(image, text, Y), rng.permutation(7)
    assert loss_of(rng.uniform(0.1, 9.0, (7, 1)) * image, 5 * text, Y) == pytest.approx(loss, abs=1e-10)
    assert loss_of(image[order], text[order], Y[order]) == pytest.approx(loss, abs=1e-10)
    assert loss_of(text, image, Y) == pytest.approx(loss, abs=1e-10)


def test_pairs_within_a_class_make_no_difference():
    """Positives are the items of the class, not the pair; other classes' texts are another matter."""
    image, text, Y = embeddings()
    exchanged = text[[3, 1, 2, 0, 4, 5, 6]]
    assert loss_of(image, exchanged, Y) == pytest.approx(loss_of(image, text, Y), abs=1e-10)
    assert loss_of(image, text[::-1].copy(), Y) != pytest.approx(loss_of(image, text, Y), abs=1e-3)


def test_classes_at_the_corners_of_a_simplex_in_both_modalities_are_the_best():
    """No nudge and no other rows have a smaller loss, and its gradient vanishes there."""
    rng = np.random.default_rng(0)
    Y = np.tile(np.eye(4), (3, 1))
    corners = Y - 0.25
    least = loss_of(corners, corners, Y)
    for size in (1e-3, 0.1, 10.0):
        for _ in range(30):
            nudged = [corners + size * rng.standard_normal(corners.shape) for _ in range(2)]
            assert loss_of(*nudged, Y) > least
    rows = torch.from_numpy(corners).requires_grad_()
    module.contrastive_loss(rows, rows.detach(), torch.from_numpy(Y), 0.5).backward()
    assert_allclose(rows.grad, 0.0, atol=1e-12)
    # own corner at cosine 1, three others at -1/3; three items each
    expected = 2 * np.log(3 + 9 * np.exp((-1 / 3 - 1) / 0.5))
    assert least == pytest.approx(expected, abs=1e-10)


def test_one_class_alone_leaves_nothing_to_learn_but_equal_cosines():
    """All are positives of all: the least loss is log n a direction."""
    Y = np.ones((5, 1))
    assert loss_of(np.ones((5, 3)), np.ones((5, 3)), Y) == pytest.approx(2 * np.log(5))


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
def test_rows_at_zero_and_small_temperatures_stay_finite(temperature):
    image, text, Y = map(torch.from_numpy, embeddings())
    image[0], text[3] = 0.0, 0.0
    image.requires_grad_()
    loss = module.contrastive_loss(image, text, Y, temperature)
    loss.backward()
    assert loss.isfinite() and image.grad.isfinite().all()


# -- a step and a fit -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["soft", "squared", "bce"])
def test_a_step_tells_the_losses_before_it(kind):
    learner, batch = learner_of(multi_label=kind, temperature=0.3)
    image, text = (
        by_hand(copied(network.arrays()), rows)
        for network, rows in ((learner.image, batch.images), (learner.text, batch.texts))
    )
    Y, label = batch.targets.numpy(), 0.0
    for rows in (image, text):
        for logits, wanted in zip(by_hand(copied(learner.classifier.arrays()), rows), Y, strict=True):
            for z, p, y in zip(logits, np.exp(logits) / sum(np.exp(logits)), wanted, strict=True):
                share, sigmoid = y / wanted.sum(), 1 / (1 + np.exp(-z))
                label += {
                    "soft": -share * np.log(p),
                    "squared": (p - share) ** 2,
                    "bce": -y * np.log(sigmoid) - (1 - y) * np.log(1 - sigmoid),
                }[kind] / len(Y)
    found = {name: float(loss) for name, loss in learner.step(batch).items()}
    expected = {"contrastive_loss": loss_by_hand(image, text, Y, 0.3), "label_loss": label}
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_the_cross_entropy_the_classifier_is_not_touched():
    for weight, still in ((0.0, True), (1.0, False)):
        learner, batch = learner_of(ce_weight=weight, weight_decay=0.0)
        before = [tensor.detach().clone() for tensor in learner.classifier.parameters]
        moved = [tensor.detach().clone() for tensor in learner.image.parameters]
        for _ in range(3):
            learner.step(batch)
        after = learner.classifier.parameters
        assert all(torch.equal(one, two) == still for one, two in zip(before, after, strict=True))
        assert not any(
            torch.equal(one, two) for one, two in zip(moved, learner.image.parameters, strict=True)
        )


def test_without_the_cross_entropy_its_kind_makes_no_difference():
    data = synthetic_data(multi_label=True)
    found = [
        SupCon(ce_weight=0.0, multi_label=kind, **QUICK).fit(data.train).encode_pairs(data.test)
        for kind in ("soft", "squared", "bce")
    ]
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            assert_array_equal(first, second)


def test_rows_are_what_the_two_networks_make_of_them():
    pairs = synthetic_pairs()
    method = SupCon(**QUICK).fit(pairs)
    for layers, d, rows, found in zip(
        (method.image_layers_, method.text_layers_),
        (12, 9),
        (pairs.images, pairs.texts),
        method.encode_pairs(pairs),
        strict=True,
    ):
        assert [layer["weights"].shape for layer in layers] == [(d, 32), (32, 16)]
        assert [layer["activation"] for layer in layers] == ["relu", "linear"]
        assert_allclose(found[:4], by_hand(layers, rows[:4]), atol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("ce_weight", [0.0, 1.0])
def test_easy_classes_are_retrieved(ce_weight, multi_label):
    data = synthetic_data(200, 50, 100, multi_label=multi_label)
    method = SupCon(ce_weight=ce_weight, hidden=64, n_components=16, max_epochs=15, learning_rate=3e-3)
    method.fit(data.train, data.validation, context=scored(data.validation))
    assert xmbench.evaluate(*method.encode_pairs(data.test), data.test.labels).main > 0.7


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.0},
        {"temperature": -0.1},
        {"ce_weight": -1.0},
        {"hidden": 0},
        {"n_components": 0},
        {"weight_decay": -1.0},
        {"dropout": 1.0},
        {"batch_size": 1},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"SupCon\.{next(iter(parameters))}"):
        SupCon(**parameters).fit(synthetic_pairs())


def test_wikipedia_is_retrieved_better_than_by_chance(wikipedia_pairs):
    """Random rankings of ten classes of unequal size have a MAP of about .12."""
    train, held = (wikipedia_pairs.take(np.flatnonzero((np.arange(725) % 4 == 0) == part)) for part in (0, 1))
    method = SupCon(hidden=128, n_components=64, max_epochs=10).fit(train, held, context=scored(held))
    assert xmbench.evaluate(*method.encode_pairs(held), held.labels).main > 0.17
