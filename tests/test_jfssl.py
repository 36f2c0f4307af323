"""JFSSL: its objective over the graph of all 2n items by loops, its limits."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import FitContext, reweighting
from xmbench.errors import DeadlineExceeded, InvalidParameter, Unsupported
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import synthetic_pairs

Jfssl, Lcfs = Registry().method("jfssl"), Registry().method("lcfs")
EXACT = {"tol": 0.0, "max_iter": 500}


@pytest.fixture(params=["random", "wide", "wikipedia"])
def pairs(request):
    if request.param == "wikipedia":
        return request.getfixturevalue("wikipedia_pairs")
    return synthetic_pairs(60, d_image=200 if request.param == "wide" else 12, noise=1.0)


def centred(rows) -> np.ndarray:
    return rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)


def slow_graph(method, pairs) -> np.ndarray:
    """The weights W of all 2n items, images first."""
    n = len(pairs)
    W = np.zeros((2 * n, 2 * n))
    for start, rows in ((0, centred(pairs.images)), (n, centred(pairs.texts))):
        distances = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
        chosen = [
            [j for j in np.argsort(distances[i], kind="stable") if j != i][: method.neighbours]
            for i in range(n)
        ]
        delta = np.median([distances[i, j] for i in range(n) for j in chosen[i]])
        for i in range(n):
            for j in chosen[i]:
                weight = method.beta * np.exp(-(distances[i, j] ** 2) / (2 * delta**2))
                W[start + i, start + j] += weight / 2
                W[start + j, start + i] += weight / 2
    for i in range(n):
        for j in range(n):
            W[i, n + j] = W[n + j, i] = pairs.labels[i] == pairs.labels[j]
    return W


def slow_objective(method, pairs) -> float:
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    P, Q = method.image_weights_, method.text_weights_
    items, W = np.vstack([X @ P, T @ Q]), slow_graph(method, pairs)
    total = ((items - np.vstack([Y, Y])) ** 2).sum()
    total += method.lambda1 * sum(np.sqrt(row @ row + method.smoothing) for row in (*P, *Q))
    for i in range(len(items)):  # tr(F'LF) = sum over pairs of W_ij ||f_i - f_j||^2 / 2
        total += method.lambda2 * (W[i] * ((items - items[i]) ** 2).sum(axis=1)).sum() / 2
    return float(total)


@pytest.mark.parametrize("settings", [{}, {"beta": 1.0, "neighbours": 3}, {"beta": 0.0}])
def test_the_objective_is_that_of_a_loop_over_all_items(settings):
    pairs = synthetic_pairs(40, noise=1.0)
    method = Jfssl(lambda1=2.0, lambda2=0.1, max_iter=3, **settings).fit(pairs)
    assert method.objective_history_[-1] == pytest.approx(slow_objective(method, pairs), rel=1e-9)


def test_no_update_raises_the_objective(pairs):
    rng = np.random.default_rng(0)
    for _ in range(8):
        settings = {"lambda1": 10 ** rng.uniform(-2, 2), "lambda2": 10 ** rng.uniform(-4, 0)}
        settings |= {"beta": rng.uniform(0, 2), "neighbours": int(rng.integers(1, 20))}
        history = Jfssl(**settings, max_iter=8, tol=0.0).fit(pairs).objective_history_
        assert len(history) > 2
        assert (np.diff(history) <= 1e-9 * history[:-1]).all(), settings


def test_the_solution_is_stationary():
    pairs = synthetic_pairs(40, noise=1.0)
    method = Jfssl(lambda1=2.0, lambda2=0.1, smoothing=1e-4, **EXACT).fit(pairs)
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    W = slow_graph(method, pairs)
    L = np.diag(W.sum(axis=1)) - W
    assert np.linalg.eigvalsh(L)[0] > -1e-10
    smooth = L @ np.vstack([X @ method.image_weights_, T @ method.text_weights_])
    for rows, weights, part in (
        (X, method.image_weights_, smooth[:40]),
        (T, method.text_weights_, smooth[40:]),
    ):
        gradient = rows.T @ (rows @ weights - Y + 0.1 * part)
        gradient += 2.0 * weights / (2 * np.sqrt((weights**2).sum(axis=1, keepdims=True) + 1e-4))
        assert np.abs(gradient).max() < 1e-6 * np.abs(rows.T @ Y).max()


def test_without_its_graph_it_is_row_sparse_regression(pairs):
    one = Jfssl(lambda1=5.0, lambda2=0.0, smoothing=1e-6, **EXACT).fit(pairs)
    other = Lcfs(lambda1=5.0, lambda2=0.0, smoothing=1e-6, **EXACT).fit(pairs)
    assert_allclose(one.image_weights_, other.image_weights_, atol=1e-8)
    assert_allclose(one.text_weights_, other.text_weights_, atol=1e-8)


def test_without_its_graph_the_modalities_are_fitted_apart(pairs):
    order = np.random.default_rng(0).permutation(len(pairs))
    other = replace(pairs, texts=pairs.texts[order])
    for lambda2, alike in ((0.0, True), (0.1, False)):
        one, two = (Jfssl(lambda2=lambda2, max_iter=5, tol=0.0).fit(each) for each in (pairs, other))
        assert np.allclose(one.image_weights_, two.image_weights_, atol=1e-12) == alike


def test_without_penalties_it_is_least_squares():
    pairs = synthetic_pairs(noise=1.0)
    method = Jfssl(lambda1=1e-9, lambda2=0.0).fit(pairs)
    for rows, weights in ((pairs.images, method.image_weights_), (pairs.texts, method.text_weights_)):
        assert_allclose(weights, np.linalg.lstsq(centred(rows), pairs.one_hot())[0], atol=1e-9)


def test_exchanging_the_modalities_exchanges_the_projections():
    pairs = synthetic_pairs(noise=1.0)
    one = Jfssl(lambda1=5.0, lambda2=0.01, **EXACT).fit(pairs)
    exchanged = replace(pairs, images=pairs.texts, texts=pairs.images)
    other = Jfssl(lambda1=5.0, lambda2=0.01, **EXACT).fit(exchanged)
    assert_allclose(other.text_weights_, one.image_weights_, atol=1e-6)
    assert_allclose(other.image_weights_, one.text_weights_, atol=1e-6)


def test_the_small_system_gives_what_the_large_one_gives(monkeypatch):
    pairs = synthetic_pairs(40, d_image=200, d_text=150, noise=1.0)
    settings = {"lambda1": 1.0, "lambda2": 0.1, "max_iter": 5, "tol": 0.0}
    small = Jfssl(**settings).fit(pairs)
    monkeypatch.setattr(reweighting, "dual_is_cheaper", lambda n, d: False)
    large = Jfssl(**settings).fit(pairs)
    assert_allclose(small.image_weights_, large.image_weights_, atol=1e-9)
    assert_allclose(small.objective_history_, large.objective_history_, rtol=1e-9)


@pytest.mark.parametrize("d_image", [12, 300])
def test_a_fit_that_shares_is_a_fresh_fit(d_image):
    pairs = synthetic_pairs(d_image=d_image)
    context = FitContext(pieces=Pieces(pairs))
    for changed in ({}, {"lambda1": 3.0}, {"lambda2": 0.1}, {"beta": 1.0}, {"neighbours": 3}):
        method = Jfssl(**changed).fit(pairs, context=context)
        assert_array_equal(method.image_weights_, Jfssl(**changed).fit(pairs).image_weights_)


def test_classes_of_one_item_are_borne_and_items_of_several_classes_refused():
    pairs = synthetic_pairs(60)
    single = replace(pairs, labels=np.where(np.arange(60) == 0, 0, 1))
    assert np.isfinite(Jfssl().fit(single).image_weights_).all()
    with pytest.raises(Unsupported, match="one class per item"):
        Jfssl().fit(synthetic_pairs(60, multi_label=True))


def test_constant_columns_get_no_weight():
    pairs = synthetic_pairs()
    more = np.hstack([pairs.images, np.full((120, 1), 0.1, dtype=np.float32)])
    assert_allclose(Jfssl(lambda1=1.0).fit(replace(pairs, images=more)).image_weights_[12], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lambda1": 0.0}, "Jfssl.lambda1: expected more than 0"),
        ({"smoothing": 0.0}, "Jfssl.smoothing: expected more than 0"),
        ({"lambda2": -1.0}, "Jfssl.lambda2: expected at least 0"),
        ({"beta": float("nan")}, "Jfssl.beta: expected at least 0"),
        ({"tol": -1.0}, "Jfssl.tol: expected at least 0"),
        ({"max_iter": 0}, "Jfssl.max_iter: expected at least 1"),
        ({"neighbours": 120}, "neighbours: expected 1..119"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        Jfssl(**parameters).fit(synthetic_pairs())


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        Jfssl().fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))
