"""Ridge regression on the labels, beside scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from xmbench.errors import InvalidParameter
from xmbench.method import FitContext
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import synthetic_pairs

RidgeLabels = Registry().method("ridge_labels")


@pytest.fixture(params=["random", "multi_label", "wide", "wikipedia"])
def pairs(request):
    if request.param == "wikipedia":
        return request.getfixturevalue("wikipedia_pairs")
    width = 300 if request.param == "wide" else 12
    return synthetic_pairs(d_image=width, multi_label=request.param == "multi_label", noise=1.0)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
def test_sklearn_finds_the_same_predictions_less_their_mean(pairs, ridge):
    method = RidgeLabels(ridge=ridge).fit(pairs)
    for rows, encode in ((pairs.images, method.encode_image), (pairs.texts, method.encode_text)):
        X, Y = rows.astype(np.float64), pairs.one_hot()
        alpha = ridge * ((X - X.mean(axis=0)) ** 2).sum() / X.shape[1]
        predicted = Ridge(alpha=alpha).fit(X, Y).predict(X)
        assert_allclose(encode(rows), predicted - Y.mean(axis=0), atol=1e-6)


def test_a_small_ridge_is_least_squares():
    pairs = synthetic_pairs(noise=1.0)
    X, Y = (rows - rows.mean(axis=0) for rows in (pairs.images.astype(np.float64), pairs.one_hot()))
    expected = np.linalg.lstsq(X, Y)[0]
    assert_allclose(RidgeLabels(ridge=1e-12).fit(pairs).image_weights_, expected, atol=1e-9)


def test_pairs_make_no_difference():
    pairs = synthetic_pairs(n=60)
    order = np.arange(60).reshape(12, 5)[::-1].ravel()  # other pairs of the same classes
    shuffled = replace(pairs, texts=pairs.texts[order])
    one, other = RidgeLabels().fit(pairs), RidgeLabels().fit(shuffled)
    assert_allclose(one.image_weights_, other.image_weights_, atol=1e-14)
    assert_allclose(one.text_weights_, other.text_weights_, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_ridge_is_relative_to_the_scale_of_the_features(scale):
    pairs = synthetic_pairs()
    scaled = replace(pairs, images=pairs.images * np.float32(scale))
    one, other = RidgeLabels().fit(pairs), RidgeLabels().fit(scaled)
    assert_allclose(other.encode_image(scaled.images), one.encode_image(pairs.images), atol=1e-12)


def test_constant_columns_get_no_weight_and_a_constant_modality_none_at_all():
    pairs = synthetic_pairs()
    padded = replace(pairs, images=np.hstack([pairs.images, np.full((120, 2), 0.1, dtype=np.float32)]))
    assert_allclose(RidgeLabels().fit(padded).image_weights_[12:], 0.0, atol=1e-7)
    empty = replace(pairs, images=np.full_like(pairs.images, 0.1))
    assert_allclose(RidgeLabels().fit(empty).encode_image(empty.images), 0.0, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_the_ridge_is_more_than_zero(ridge):
    with pytest.raises(InvalidParameter, match=r"RidgeLabels\.ridge: expected more than 0"):
        RidgeLabels(ridge=ridge).fit(synthetic_pairs())


@pytest.mark.parametrize("d_image", [12, 300])
def test_a_fit_that_shares_is_a_fresh_fit(d_image):
    pairs = synthetic_pairs(d_image=d_image)
    context = FitContext(pieces=Pieces(pairs))
    for ridge in (3.0, 0.1):
        method = RidgeLabels(ridge=ridge).fit(pairs, context=context)
        np.testing.assert_array_equal(
            method.image_weights_, RidgeLabels(ridge=ridge).fit(pairs).image_weights_
        )
