"""The cross-entropy control: one classifier or two, and nothing that looks at pairs."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import by_hand, copied, scored
from numpy.testing import assert_allclose, assert_array_equal

import xmbench
from xmbench.errors import InvalidParameter
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import Session

torch = pytest.importorskip("torch")

CeMlp = Registry().method("ce_mlp")
module = sys.modules[CeMlp.__module__]

QUICK = {"hidden": 32, "max_epochs": 8, "learning_rate": 3e-3}


def shuffled_within_classes(pairs, seed: int = 0):
    """Texts exchanged among the items of each class: same rows and labels, other pairs."""
    rng, order = np.random.default_rng(seed), np.arange(len(pairs))
    for label in range(pairs.n_classes):
        own = np.flatnonzero(pairs.labels == label)
        order[own] = rng.permutation(own)
    assert_array_equal(pairs.labels[order], pairs.labels)
    assert (order != np.arange(len(pairs))).mean() > 0.5
    return replace(pairs, texts=pairs.texts[order])


def test_one_classifier_serves_both_modalities_or_each_has_its_own():
    pairs = synthetic_pairs()
    one, two = CeMlp(**QUICK).fit(pairs), CeMlp(shared=False, **QUICK).fit(pairs)
    for name in ("weights", "bias"):
        assert_array_equal(one.image_layers_[-1][name], one.text_layers_[-1][name])
        assert not np.allclose(two.image_layers_[-1][name], two.text_layers_[-1][name], atol=0.05)
    assert one.image_layers_[-1]["weights"].shape == (32, 5)


def test_with_classifiers_of_their_own_the_modalities_share_nothing():
    """In float32 to the last bit; a shared classifier carries one modality into the other."""
    pairs = synthetic_pairs()
    noise = np.random.default_rng(0).standard_normal(pairs.texts.shape)
    for shared in (False, True):
        one, two = (
            CeMlp(shared=shared, dropout=0.0, **QUICK).fit(given).encode_image(pairs.images)
            for given in (pairs, replace(pairs, texts=noise))
        )
        assert (one == two).all() == (not shared)


def test_the_embedding_is_the_hidden_layer_and_the_probabilities_are_what_it_is_classified_as():
    """The same seed: the same training, whatever of it is the common space."""
    pairs = synthetic_pairs()
    hidden, classes = (CeMlp(output=output, **QUICK).fit(pairs) for output in ("embedding", "probabilities"))
    for name, rows, h, p in zip(
        ("image_layers_", "text_layers_"),
        (pairs.images, pairs.texts),
        hidden.encode_pairs(pairs),
        classes.encode_pairs(pairs),
        strict=True,
    ):
        assert h.shape == (120, 32)
        assert (h >= 0).all() and (h > 0).any()
        assert_allclose(h[:5], by_hand(getattr(hidden, name), rows[:5]), atol=1e-5)
        last = getattr(classes, name)[-1]
        powers = np.exp(h.astype(np.float64) @ last["weights"] + last["bias"])
        assert_allclose(p, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
        assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["soft", "squared", "bce"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_step_tells_the_losses_before_it(shared, multi_label, kind):
    pairs = synthetic_pairs(8, d_image=4, d_text=3, n_classes=3, multi_label=multi_label)
    method = CeMlp(hidden=5, shared=shared, multi_label=kind, dropout=0.0)
    learner = module.CeMlpLearner(method, (4, 3, 3), Session(0))
    networks = {
        "image": (learner.image, learner.image_classifier, pairs.images),
        "text": (learner.text, learner.text_classifier, pairs.texts),
    }
    expected = {}
    for name, (network, classifier, rows) in networks.items():
        logits = by_hand([*copied(network.arrays()), *copied(classifier.arrays())], rows)
        total = 0.0
        for row, wanted in zip(logits, pairs.one_hot(), strict=True):
            softmax = np.exp(row) / sum(np.exp(row))
            for z, p, y in zip(row, softmax, wanted, strict=True):
                share, sigmoid = y / wanted.sum(), 1 / (1 + np.exp(-z))
                total += {
                    "soft": -share * np.log(p),
                    "squared": (p - share) ** 2,
                    "bce": -y * np.log(sigmoid) - (1 - y) * np.log(1 - sigmoid),
                }[kind]
        expected[f"{name}_label_loss"] = total / 8
    found = {name: float(loss) for name, loss in learner.step(Session(0).batch(pairs)).items()}
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_shared_classifier_learns_from_both_modalities():
    """Its gradient is the sum of those of classifiers of their own that are equal to it."""
    pairs = synthetic_pairs(20, n_classes=3)
    one = module.CeMlpLearner(CeMlp(hidden=5, dropout=0.0), (12, 9, 3), Session(0))
    two = module.CeMlpLearner(CeMlp(hidden=5, dropout=0.0, shared=False), (12, 9, 3), Session(0))
    with torch.no_grad():
        for source, target in zip(
            one.image_classifier.parameters, two.text_classifier.parameters, strict=True
        ):
            target.copy_(source)
    for learner in (one, two):
        learner.step(Session(0).batch(pairs))
    for shared, image, text in zip(
        one.image_classifier.parameters,
        two.image_classifier.parameters,
        two.text_classifier.parameters,
        strict=True,
    ):
        assert_allclose(shared.grad, image.grad + text.grad, atol=1e-6)
        assert (image.grad != text.grad).any()


@pytest.mark.parametrize("output", ["probabilities", "embedding"])
def test_pairing_does_not_matter_while_labels_stay_with_their_rows(output):
    data = synthetic_data(200, 50, 100)
    scores = []
    for train in (data.train, shuffled_within_classes(data.train)):
        method = CeMlp(output=output, hidden=64, max_epochs=15, learning_rate=3e-3)
        method.fit(train, data.validation, context=scored(data.validation))
        scores.append(xmbench.evaluate(*method.encode_pairs(data.test), data.test.labels).main)
    assert min(scores) > 0.8
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


@pytest.mark.parametrize("kind", ["soft", "squared", "bce"])
def test_several_classes_an_item_are_learned(kind):
    data = synthetic_data(200, 50, 100, multi_label=True)
    method = CeMlp(multi_label=kind, **QUICK)
    method.fit(data.train, data.validation, context=scored(data.validation))
    for layers, rows in zip(
        (method.image_layers_, method.text_layers_), method.encode_pairs(data.test), strict=True
    ):
        assert layers[-1]["activation"] == ("sigmoid" if kind == "bce" else "softmax")
        assert ((rows >= 0) & (rows <= 1)).all()
        own = np.take_along_axis(data.test.labels, rows.argmax(axis=1)[:, None], axis=1)
        assert own.mean() > 0.7


def test_the_kept_epoch_has_the_best_validation_score():
    data = synthetic_data(noise=1.5)
    method = CeMlp(hidden=16, max_epochs=15, patience=4, learning_rate=1e-2)
    context = scored(data.validation)
    method.fit(data.train, data.validation, context=context)
    scores = [line["validation_map"] for line in method.history_]
    assert method.best_epoch_ == 1 + int(np.argmax(scores))
    assert len(scores) == min(15, method.best_epoch_ + 4)
    assert context.validation_score(copy.deepcopy(method)) == max(scores)


@pytest.mark.parametrize(
    "parameters", [{"hidden": 0}, {"weight_decay": -1.0}, {"dropout": 1.0}, {"batch_size": 0}]
)
def test_parameters_that_make_no_sense_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"CeMlp\.{next(iter(parameters))}"):
        CeMlp(**parameters).fit(synthetic_pairs())


def test_wikipedia_is_retrieved_better_than_by_chance(wikipedia_pairs):
    """Random rankings of ten classes of unequal size have a MAP of about .12."""
    train, held = (wikipedia_pairs.take(np.flatnonzero((np.arange(725) % 4 == 0) == part)) for part in (0, 1))
    method = CeMlp(hidden=128, max_epochs=10).fit(train, held, context=scored(held))
    assert xmbench.evaluate(*method.encode_pairs(held), held.labels).main > 0.17
