"""Deep-SM in its linear form: logistic regression, checked against another solver and by hand."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

import xmbench
from xmbench import FitContext
from xmbench.errors import DeadlineExceeded, InvalidParameter, RunError, Unsupported
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs

DeepSm = Registry().method("deep_sm")
module = sys.modules[DeepSm.__module__]


def test_rows_are_class_probabilities():
    data = synthetic_data()
    method = DeepSm(C=10.0).fit(data.train)
    for rows in (method.encode_image(data.test.images), method.encode_text(data.test.texts)):
        assert rows.shape == (30, 5)
        assert (rows >= 0).all()
        assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("C", [0.001, 0.1, 10.0])
def test_sklearn_finds_the_same_classifiers(C):
    data = synthetic_data(noise=1.0)
    method = DeepSm(C=C).fit(data.train)
    for name, encode in (("images", method.encode_image), ("texts", method.encode_text)):
        train, test = (getattr(part, name).astype(np.float64) for part in (data.train, data.test))
        reference = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(train, data.train.labels)
        assert_allclose(encode(test), reference.predict_proba(test), atol=1e-3)


def test_two_classes_need_no_special_case():
    data = synthetic_data(n_classes=2, noise=1.0)
    method = DeepSm(C=1.0).fit(data.train)
    X = data.train.images.astype(np.float64)
    # With two columns of weights W = (-w/2, w/2), so that ||W||^2 = ||w||^2 / 2: half the penalty.
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(X, data.train.labels)
    assert_allclose(method.encode_image(X), reference.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_solution_is_stationary(multi_label):
    """The gradient of C * CE + ||W||^2 / 2 vanishes at the learned weights, targets being y / sum(y)."""
    pairs = synthetic_pairs(multi_label=multi_label, noise=1.0)
    method = DeepSm(C=0.5).fit(pairs)
    X, Y = pairs.images.astype(np.float64), pairs.one_hot()
    residual = method.encode_image(pairs.images) - Y / Y.sum(axis=1, keepdims=True)
    assert_allclose(0.5 * X.T @ residual + method.image_weights_, 0.0, atol=1e-3)
    assert_allclose(0.5 * residual.sum(axis=0), 0.0, atol=1e-3)


def test_the_gradient_of_the_cross_entropy_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.standard_normal((4, 3)), rng.dirichlet(np.ones(3), 4)
    _, gradient = module.cross_entropy(logits, targets)
    for i, j in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[i, j] = 1e-6
        up, down = (module.cross_entropy(logits + sign * step, targets)[0] for sign in (1, -1))
        assert gradient[i, j] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_the_cross_entropy_is_the_sum_over_rows_and_classes():
    rng = np.random.default_rng(1)
    logits, targets = rng.standard_normal((5, 4)), rng.dirichlet(np.ones(4), 5)
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        powers = [np.exp(value) for value in row]
        total -= sum(t * np.log(p / sum(powers)) for t, p in zip(target, powers, strict=True))
    assert module.cross_entropy(logits, targets)[0] == pytest.approx(total)


def test_huge_logits_stay_finite():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    value, gradient = module.cross_entropy(logits, np.eye(3)[[1, 0]])
    assert value == pytest.approx(2e4 + np.log(3))
    assert np.isfinite(gradient).all()
    assert_allclose(module.softmax(logits), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_the_two_classifiers_share_nothing():
    pairs = synthetic_pairs()
    rng = np.random.default_rng(2)
    other = replace(pairs, texts=rng.standard_normal(pairs.texts.shape))
    one, two = DeepSm().fit(pairs), DeepSm().fit(other)
    assert_array_equal(one.encode_image(pairs.images), two.encode_image(pairs.images))
    assert not np.allclose(one.encode_text(pairs.texts), two.encode_text(pairs.texts))


def test_pairing_does_not_matter_while_labels_stay_with_their_rows():
    """Texts exchanged within their classes: the text classifier sees the same rows in another order."""
    pairs = synthetic_pairs(noise=1.0)
    order = np.arange(len(pairs)).reshape(-1, 5)[::-1].ravel()  # rows of the same classes, from the end
    assert_array_equal(pairs.labels[order], pairs.labels)
    one, two = DeepSm().fit(pairs), DeepSm().fit(replace(pairs, texts=pairs.texts[order]))
    assert_array_equal(one.image_weights_, two.image_weights_)
    assert_allclose(one.encode_text(pairs.texts), two.encode_text(pairs.texts), atol=1e-4)


def test_a_class_without_training_rows_has_probability_zero():
    pairs = synthetic_pairs(n_classes=5)
    kept = pairs.take(np.flatnonzero(~np.isin(pairs.labels, (0, 3))))
    rows = DeepSm(C=1.0).fit(kept).encode_text(pairs.texts)
    assert rows.shape == (120, 5)
    assert (rows[:, [0, 3]] == 0).all()
    assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    small = replace(kept, labels=np.searchsorted([1, 2, 4], kept.labels), n_classes=3)
    assert_array_equal(rows[:, [1, 2, 4]], DeepSm(C=1.0).fit(small).encode_text(pairs.texts))


def test_one_hot_labels_are_the_labels():
    pairs = synthetic_pairs()
    multi_hot = replace(pairs, labels=pairs.one_hot().astype(bool))
    one, two = DeepSm().fit(pairs), DeepSm().fit(multi_hot)
    assert_array_equal(one.encode_image(pairs.images), two.encode_image(pairs.images))


def test_an_item_of_two_classes_pulls_equally_to_both():
    labels = np.zeros((30, 3), dtype=bool)
    labels[:10, 0] = labels[10:20, 1] = labels[20:, :2] = labels[29, 2] = True
    images = np.zeros((30, 2))
    images[:20] = np.repeat(np.eye(2), 10, axis=0)
    images[20:] = 0.5
    pairs = replace(synthetic_pairs(30, d_image=2, n_classes=3), images=images, labels=labels)
    both = DeepSm(C=100.0).fit(pairs).encode_image(np.float32([[0.5, 0.5]]))[0]
    assert both[0] == pytest.approx(both[1], abs=1e-4)
    assert both[0] > 0.4


def test_items_of_one_class_only_are_refused():
    pairs = synthetic_pairs()
    with pytest.raises(Unsupported, match="at least 2"):
        DeepSm().fit(pairs.take(np.flatnonzero(pairs.labels == 2)))


def test_perfect_classifiers_retrieve_perfectly():
    labels = np.arange(60) % 4
    images, texts = np.eye(4)[labels], np.eye(4)[labels][:, ::-1] * 3
    pairs = replace(synthetic_pairs(60, n_classes=4), images=images, texts=texts, labels=labels)
    method = DeepSm(C=100.0).fit(pairs)
    scores = xmbench.evaluate(method.encode_image(images), method.encode_text(texts), labels)
    assert all(task.mean_average_precision == pytest.approx(1.0) for task in scores.tasks.values())


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 5])
def test_a_solver_that_was_stopped_early_is_an_error(max_iter):
    """Large features and a weak penalty need many more iterations."""
    labels = np.arange(37) % 3
    rows = 1000 * (np.random.default_rng(0).standard_normal((37, 40)) + labels[:, None])
    pairs = replace(synthetic_pairs(37, n_classes=3), images=rows, texts=rows)
    with pytest.raises(RunError, match="did not converge"):
        DeepSm(C=1000.0, max_iter=max_iter).fit(pairs)


def test_running_out_of_evaluations_is_an_error_too(monkeypatch):
    """The line search can use up its evaluations while iterations are left."""
    minimize = scipy.optimize.minimize

    def hasty(*arguments, options, **rest):
        return minimize(*arguments, options={**options, "maxfun": 3}, **rest)

    monkeypatch.setattr(scipy.optimize, "minimize", hasty)
    with pytest.raises(RunError, match="did not converge"):
        DeepSm().fit(synthetic_pairs())


def test_a_modality_whose_rows_are_all_the_same_gets_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    pairs = replace(synthetic_pairs(60, n_classes=3), images=np.full((60, 4), 0.1), labels=labels)
    rows = DeepSm().fit(pairs).encode_image(np.full((2, 4), 0.1))
    assert_allclose(rows, [[1 / 6, 2 / 6, 3 / 6]] * 2, atol=1e-5)


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf")])
def test_an_inverse_penalty_that_is_no_finite_positive_number_is_refused(C):
    with pytest.raises(InvalidParameter, match=r"DeepSm\.C"):
        DeepSm(C=C).fit(synthetic_pairs())


def test_the_deadline_ends_a_fit():
    with pytest.raises(DeadlineExceeded):
        DeepSm().fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))
