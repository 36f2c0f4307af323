"""Deep-SM with a hidden layer: probabilities, branches of their own, and logistic regression as its linear case."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import by_hand, scored
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

import xmbench
from xmbench.errors import InvalidParameter
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

torch = pytest.importorskip("torch")

DeepSmMlp = Registry().method("deep_sm_mlp")
module = sys.modules[DeepSmMlp.__module__]

QUICK = {"hidden": 16, "max_epochs": 4, "learning_rate": 1e-2}
KINDS = ("soft", "squared", "bce")


def lines_of(method, stage: str) -> list[dict]:
    return [line for line in method.history_ if line["stage"] == stage]


def loss_by_hand(probabilities, targets, kind: str) -> float:
    """The label loss from probabilities, row by row and class by class."""
    total = 0.0
    for row, wanted in zip(probabilities.astype(np.float64), targets, strict=True):
        for p, y in zip(row, wanted, strict=True):
            share = y / wanted.sum()
            if kind == "soft":
                total -= share * np.log(p)
            elif kind == "squared":
                total += (p - share) ** 2
            else:
                total -= y * np.log(p) + (1 - y) * np.log(1 - p)
    return total / len(targets)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_class_probabilities(multi_label, kind):
    """Those of several sigmoids need not sum to 1; with one class an item there are none."""
    data = synthetic_data(multi_label=multi_label)
    method = DeepSmMlp(multi_label=kind, **QUICK).fit(data.train, data.validation)
    for rows in method.encode_pairs(data.test):
        assert rows.shape == (30, 5)
        assert ((rows >= 0) & (rows <= 1)).all()
        if not (multi_label and kind == "bce"):
            assert_allclose(rows.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(("modality", "other"), [("image", "text"), ("text", "image")])
def test_the_branches_share_nothing(modality, other):
    """Not even the random draws: with noise for the other modality, a branch is the same to the last bit."""
    data = synthetic_data()
    rng = np.random.default_rng(0)
    train, validation = (
        replace(part, **{f"{other}s": rng.standard_normal((len(part), 7))})
        for part in (data.train, data.validation)
    )
    one = DeepSmMlp(**QUICK).fit(data.train, data.validation)
    two = DeepSmMlp(**QUICK).fit(train, validation)
    for first, second in zip(
        getattr(one, f"{modality}_layers_"), getattr(two, f"{modality}_layers_"), strict=True
    ):
        assert_array_equal(first["weights"], second["weights"])
        assert_array_equal(first["bias"], second["bias"])
    losses = [[line["label_loss"] for line in lines_of(method, modality)] for method in (one, two)]
    assert losses[0] == losses[1]


def test_equal_modalities_start_differently():
    """Each branch has streams of its own."""
    pairs = synthetic_pairs()
    method = DeepSmMlp(**QUICK).fit(replace(pairs, texts=pairs.images))
    assert not np.allclose(method.image_layers_[0]["weights"], method.text_layers_[0]["weights"], atol=0.05)


def test_without_a_hidden_layer_it_is_logistic_regression():
    """Adam's penalty is on the intercept too, so that sklearn gets that as a column: C = 1 / (n weight_decay)."""
    pairs = synthetic_pairs(60, noise=1.0, n_classes=3)
    method = DeepSmMlp(
        hidden=None, dropout=0.0, weight_decay=0.02, learning_rate=0.01, batch_size=60, max_epochs=1200
    ).fit(pairs)
    for rows, found in zip((pairs.images, pairs.texts), method.encode_pairs(pairs), strict=True):
        rows = np.hstack([rows, np.ones((60, 1))]).astype(np.float64)
        solver = LogisticRegression(C=1 / (60 * 0.02), fit_intercept=False, tol=1e-10, max_iter=10000)
        assert_allclose(found, solver.fit(rows, pairs.labels).predict_proba(rows), atol=1e-3)


def test_without_a_hidden_layer_the_gradient_vanishes_for_items_of_several_classes():
    """At the optimum of the cross-entropy with y / sum(y) and the penalty."""
    pairs = synthetic_pairs(60, noise=1.0, n_classes=3, multi_label=True)
    method = DeepSmMlp(
        hidden=None, multi_label="soft", dropout=0.0, weight_decay=0.02, learning_rate=0.01, batch_size=60
    )
    method.max_epochs = 1200
    P, _ = method.fit(pairs).encode_pairs(pairs)
    Y = pairs.one_hot()
    residual = P - Y / Y.sum(axis=1, keepdims=True)
    (layer,) = method.image_layers_
    assert_allclose(pairs.images.T @ residual / 60 + 0.02 * layer["weights"], 0.0, atol=1e-3)
    assert_allclose(residual.mean(axis=0) + 0.02 * layer["bias"], 0.0, atol=1e-3)


def test_perfect_classifiers_retrieve_perfectly():
    labels = np.arange(60) % 4
    images, texts = np.eye(4)[labels], np.eye(4)[labels][:, ::-1] * 3
    pairs = replace(synthetic_pairs(60, n_classes=4), images=images, texts=texts, labels=labels)
    method = DeepSmMlp(dropout=0.0, max_epochs=60, learning_rate=1e-2).fit(pairs)
    scores = xmbench.evaluate(*method.encode_pairs(pairs), labels)
    assert all(task.mean_average_precision == pytest.approx(1.0) for task in scores.tasks.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multi_label", [False, True])
def test_each_branch_keeps_the_epoch_of_its_least_validation_loss(multi_label, kind):
    """What is encoded in the end, without dropout, gives that loss; each branch has an epoch of its own."""
    data = synthetic_data(noise=1.5, multi_label=multi_label)
    method = DeepSmMlp(hidden=32, multi_label=kind, dropout=0.3, learning_rate=2e-2, max_epochs=40)
    method.fit(data.train, data.validation, context=scored(data.validation))
    kind, targets = (kind if multi_label else "soft"), data.validation.one_hot()
    for stage, rows in zip(("image", "text"), method.encode_pairs(data.validation), strict=True):
        lines = lines_of(method, stage)
        losses = [line["validation_loss"] for line in lines]
        best = int(np.argmin(losses))
        assert [line["kept"] for line in lines] == [float(i == best) for i in range(len(lines))]
        assert len(lines) == min(best + 1 + method.patience, 40)
        assert loss_by_hand(rows, targets, kind) == pytest.approx(min(losses), abs=1e-4)
        assert ("validation_map" in lines[0]) == (stage == "text")
    assert method.best_epoch_ == best + 1


def test_only_the_labels_decide_which_loss_is_taken_for_one_class_an_item():
    data = synthetic_data()
    methods = [DeepSmMlp(multi_label=kind, **QUICK).fit(data.train, data.validation) for kind in KINDS]
    for other in methods[1:]:
        for first, second in zip(
            methods[0].encode_pairs(data.test), other.encode_pairs(data.test), strict=True
        ):
            assert_array_equal(first, second)
        assert other.history_[-1]["label_loss"] == methods[0].history_[-1]["label_loss"]


def test_several_classes_an_item_are_learned_in_three_ways():
    """All rank the item's own classes first; none gives what another gives."""
    data = synthetic_data(400, 50, 100, multi_label=True)
    found = []
    for kind in KINDS:
        method = DeepSmMlp(multi_label=kind, dropout=0.0, max_epochs=20).fit(data.train, data.validation)
        found.append(method.encode_image(data.test.images))
        own = np.take_along_axis(data.test.labels, found[-1].argmax(axis=1)[:, None], axis=1)
        assert own.mean() > 0.9
    assert not any(np.allclose(found[i], found[j], atol=0.01) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_hidden_layer_is_between_features_and_probabilities():
    pairs = synthetic_pairs()
    method = DeepSmMlp(**QUICK).fit(pairs)
    first, last = method.text_layers_
    assert (first["weights"].shape, first["activation"]) == ((9, 16), "relu")
    assert (last["weights"].shape, last["activation"]) == ((16, 5), "softmax")
    logits = by_hand([first, {**last, "activation": "linear"}], pairs.texts[:6])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(method.encode_text(pairs.texts[:6]), expected, atol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [{"hidden": 0}, {"weight_decay": -1e-4}, {"dropout": 1.0}, {"dropout": -0.1}, {"batch_size": 0}],
)
def test_parameters_that_make_no_sense_are_refused_by_name(parameters):
    with pytest.raises(InvalidParameter, match=rf"DeepSmMlp\.{next(iter(parameters))}"):
        DeepSmMlp(**parameters).fit(synthetic_pairs())


def test_classes_of_wikipedia_are_learned(wikipedia_pairs):
    """A tenth would be right by chance, and the largest class alone gives less than a fifth."""
    train, held = (wikipedia_pairs.take(np.flatnonzero((np.arange(725) % 4 == 0) == part)) for part in (0, 1))
    method = DeepSmMlp(max_epochs=15).fit(train, held)
    images, texts = ((rows.argmax(axis=1) == held.labels).mean() for rows in method.encode_pairs(held))
    assert images > 0.17
    assert texts > 0.5


def test_outputs_are_functions_of_the_probabilities():
    pairs = synthetic_pairs(40)
    p, centered, log = (
        DeepSmMlp(output=output, max_epochs=3).fit(pairs).encode_text(pairs.texts)
        for output in ("probabilities", "centered", "log")
    )
    assert_allclose(centered, p - 1 / 5, atol=1e-6)
    assert_allclose(log, np.log(p), rtol=1e-5)
