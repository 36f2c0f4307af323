"""LGCFL, as reconstructed: its objective by loops, its limits, its groups."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import FitContext, reweighting
from xmbench.errors import DeadlineExceeded, InvalidParameter
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import synthetic_pairs

Lgcfl, Jrl = Registry().method("lgcfl"), Registry().method("jrl")
EXACT = {"tol": 0.0, "max_iter": 500}


@pytest.fixture(params=["random", "multi_label", "wide", "wikipedia"])
def pairs(request):
    if request.param == "wikipedia":
        found = request.getfixturevalue("wikipedia_pairs")
        return replace(found, texts=found.texts[:, :8])
    width = 200 if request.param == "wide" else 12
    multi_label = request.param == "multi_label"
    return synthetic_pairs(60, d_image=width, d_text=8, multi_label=multi_label, noise=1.0)


def centred(rows) -> np.ndarray:
    return rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)


def slow_objective(method, pairs) -> float:
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    P, Q = method.image_weights_, method.text_weights_
    total = 0.0
    for x, t, y in zip(X, T, Y, strict=True):
        for j in range(Y.shape[1]):
            f, g = x @ P[:, j], t @ Q[:, j]
            total += (f - y[j]) ** 2 + (g - y[j]) ** 2 + method.mu * (f - g) ** 2
    for W, size in ((P, method.image_group), (Q, method.text_group)):
        for first in range(0, len(W), size):
            block = W[first : first + size]
            parts = [block] if method.mode == "shared" else list(block.T)
            total += sum(
                method.eta * ((part**2).sum() + method.smoothing) ** (method.q / 2) for part in parts
            )
    return float(total)


@pytest.mark.parametrize("mode", ["shared", "class"])
@pytest.mark.parametrize("q", [1.0, 0.5])
def test_the_objective_is_that_of_a_loop(pairs, mode, q):
    method = Lgcfl(eta=3.0, mu=0.7, q=q, mode=mode, image_group=4, text_group=2, max_iter=4).fit(pairs)
    assert method.objective_history_[-1] == pytest.approx(slow_objective(method, pairs), rel=1e-9)


def test_no_update_raises_the_objective(pairs):
    rng = np.random.default_rng(0)
    for _ in range(8):
        settings = {
            "eta": 10 ** rng.uniform(-2, 3),
            "mu": 10 ** rng.uniform(-2, 1),
            "q": rng.choice([1.0, 0.5]),
        }
        settings |= {"mode": str(rng.choice(["shared", "class"])), "image_group": int(rng.choice([1, 2, 4]))}
        history = Lgcfl(**settings, text_group=2, max_iter=8, tol=0.0).fit(pairs).objective_history_
        assert len(history) > 2
        assert (np.diff(history) <= 1e-9 * history[:-1]).all(), settings


def test_without_penalties_it_is_least_squares():
    pairs = synthetic_pairs(noise=1.0)
    method = Lgcfl(eta=1e-9, mu=1e-12).fit(pairs)
    for rows, weights in ((pairs.images, method.image_weights_), (pairs.texts, method.text_weights_)):
        assert_allclose(weights, np.linalg.lstsq(centred(rows), pairs.one_hot())[0], atol=1e-9)


def test_groups_of_one_are_jrl_without_its_graph(pairs):
    one = Lgcfl(eta=5.0, mu=2.0, smoothing=1e-6, **EXACT).fit(pairs)
    other = Jrl(gamma=5.0, lam=2.0, mu=1.0, sigma=0.0, smoothing=1e-6, **EXACT).fit(pairs)
    assert_allclose(one.image_weights_, other.image_weights_, atol=1e-6)
    assert_allclose(one.text_weights_, other.text_weights_, atol=1e-6)
    assert one.objective_history_[-1] == pytest.approx(other.objective_history_[-1], rel=1e-12)


def test_without_the_pair_term_the_modalities_are_fitted_apart(pairs):
    order = np.random.default_rng(0).permutation(len(pairs))
    other = replace(pairs, texts=pairs.texts[order])
    for mu, alike in ((0.0, True), (1.0, False)):
        one, two = (Lgcfl(mu=mu, eta=10.0, max_iter=5, tol=0.0).fit(each) for each in (pairs, other))
        assert np.allclose(one.image_weights_, two.image_weights_, atol=1e-12) == alike


def test_exchanging_the_modalities_exchanges_the_projections():
    pairs = synthetic_pairs(noise=1.0)
    settings = {"eta": 5.0, "mu": 3.0, **EXACT}
    one = Lgcfl(**settings, image_group=4, text_group=3).fit(pairs)
    exchanged = replace(pairs, images=pairs.texts, texts=pairs.images)
    other = Lgcfl(**settings, image_group=3, text_group=4).fit(exchanged)
    assert_allclose(other.text_weights_, one.image_weights_, atol=1e-6)
    assert_allclose(other.image_weights_, one.text_weights_, atol=1e-6)


@pytest.mark.parametrize("mode", ["shared", "class"])
def test_columns_that_move_with_their_group_take_their_rows_along(mode):
    pairs = synthetic_pairs(noise=1.0)
    order = np.concatenate([[6, 4, 5, 7], [1, 3, 2, 0], [8, 9, 11, 10]])
    settings = {"eta": 10.0, "mode": mode, "image_group": 4, "max_iter": 6, "tol": 0.0}
    one = Lgcfl(**settings).fit(pairs)
    other = Lgcfl(**settings).fit(replace(pairs, images=pairs.images[:, order]))
    assert_allclose(other.image_weights_, one.image_weights_[order], atol=1e-10)
    assert_allclose(other.text_weights_, one.text_weights_, atol=1e-10)


def test_groups_are_dropped_whole():
    rng = np.random.default_rng(0)
    pairs = synthetic_pairs(d_image=8, noise=0.5)
    noise = rng.standard_normal((120, 8)).astype(np.float32)
    method = Lgcfl(eta=40.0, image_group=4, mu=0.0, **EXACT).fit(
        replace(pairs, images=np.hstack([pairs.images[:, :4], noise, pairs.images[:, 4:]]))
    )
    norms = np.linalg.norm(method.image_weights_.reshape(4, -1), axis=1)
    assert (norms[[1, 2]] < 1e-3).all()
    assert (norms[[0, 3]] > 1e-2).all()


def test_one_group_of_everything_is_a_ridge():
    """At the minimum P solves the ridge whose strength is that of the tangent at P."""
    pairs = synthetic_pairs(noise=1.0)
    P = Lgcfl(eta=20.0, mu=0.0, image_group=12, **EXACT).fit(pairs).image_weights_
    X = centred(pairs.images)
    ridge = 20.0 / (2 * np.sqrt((P**2).sum() + 1e-8))
    expected = np.linalg.solve(X.T @ X + ridge * np.eye(12), X.T @ pairs.one_hot())
    assert_allclose(P, expected, atol=1e-7)


@pytest.mark.parametrize("mode", ["shared", "class"])
def test_the_small_system_gives_what_the_large_one_gives(monkeypatch, mode):
    pairs = synthetic_pairs(40, d_image=200, d_text=150, noise=1.0)
    settings = {"mode": mode, "image_group": 4, "eta": 1.0, "max_iter": 5, "tol": 0.0}
    small = Lgcfl(**settings).fit(pairs)
    monkeypatch.setattr(reweighting, "dual_is_cheaper", lambda n, d: False)
    large = Lgcfl(**settings).fit(pairs)
    assert_allclose(small.image_weights_, large.image_weights_, atol=1e-9)
    assert_allclose(small.objective_history_, large.objective_history_, rtol=1e-9)


@pytest.mark.parametrize("d_image", [12, 300])
def test_a_fit_that_shares_is_a_fresh_fit(d_image):
    pairs = synthetic_pairs(d_image=d_image)
    context = FitContext(pieces=Pieces(pairs))
    for changed in ({}, {"eta": 3.0}, {"mu": 0.0}, {"mode": "class", "max_iter": 2}, {"image_group": 4}):
        method = Lgcfl(**changed).fit(pairs, context=context)
        assert_array_equal(method.image_weights_, Lgcfl(**changed).fit(pairs).image_weights_)


def test_constant_columns_get_no_weight():
    pairs = synthetic_pairs()
    more = np.hstack([pairs.images, np.full((120, 1), 0.1, dtype=np.float32)])
    assert_allclose(Lgcfl(eta=1.0).fit(replace(pairs, images=more)).image_weights_[12], 0.0, atol=1e-6)


def test_it_is_said_that_this_is_a_reconstruction():
    assert "reconstruction" in Lgcfl().departures[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"eta": 0.0}, "Lgcfl.eta: expected more than 0"),
        ({"smoothing": -1.0}, "Lgcfl.smoothing: expected more than 0"),
        ({"mu": -1.0}, "Lgcfl.mu: expected at least 0"),
        ({"tol": float("inf")}, "Lgcfl.tol: expected at least 0"),
        ({"q": 0.0}, "Lgcfl.q: expected more than 0 and at most 1"),
        ({"q": 1.5}, "Lgcfl.q: expected more than 0 and at most 1"),
        ({"max_iter": 0}, "Lgcfl.max_iter: expected at least 1"),
        ({"image_group": 5}, "Lgcfl.image_group: expected a divisor of the 12 columns, got 5"),
        ({"text_group": 0}, "Lgcfl.text_group: expected a divisor of the 9 columns, got 0"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        Lgcfl(**parameters).fit(synthetic_pairs())


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        Lgcfl().fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))
