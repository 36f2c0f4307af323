"""LCFS: its objective with the full n x n matrix, its limits, both routes."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import sqrtm

from xmbench import FitContext, Pairs, reweighting
from xmbench.errors import DeadlineExceeded, InvalidParameter
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import synthetic_pairs

Lcfs, Jrl = Registry().method("lcfs"), Registry().method("jrl")
module = sys.modules[Lcfs.__module__]
EXACT = {"tol": 0.0, "max_iter": 500}


@pytest.fixture(params=["random", "multi_label", "wide", "wikipedia"])
def pairs(request):
    if request.param == "wikipedia":
        return request.getfixturevalue("wikipedia_pairs")
    width = 200 if request.param == "wide" else 12
    return synthetic_pairs(60, d_image=width, multi_label=request.param == "multi_label", noise=1.0)


def centred(rows) -> np.ndarray:
    return rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)


def slow_objective(method, pairs, P, Q) -> float:
    """J with the trace norm as the trace of the root of the n x n matrix."""
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    total = 0.0
    for rows, W in ((X, P), (T, Q)):
        total += sum(float((x @ W - y) @ (x @ W - y)) for x, y in zip(rows, Y, strict=True))
        total += method.lambda1 * sum(np.sqrt(row @ row + method.smoothing) for row in W)
    F, G = X @ P, T @ Q
    eigenvalues = np.linalg.eigvalsh(F @ F.T + G @ G.T + method.smoothing * np.eye(len(X)))
    return float(total + 2 * method.lambda2 * np.sqrt(eigenvalues.clip(0)).sum())


@pytest.mark.parametrize("lambda2", [0.0, 0.01, 1.0])
def test_the_objective_is_that_of_the_full_matrix(lambda2):
    pairs = synthetic_pairs(40, noise=1.0)
    method = Lcfs(lambda1=2.0, lambda2=lambda2, smoothing=1e-4, max_iter=3).fit(pairs)
    expected = slow_objective(method, pairs, method.image_weights_, method.text_weights_)
    assert method.objective_history_[-1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("d_image", [12, 200])
def test_an_update_is_that_of_the_formula(d_image):
    pairs = synthetic_pairs(40, d_image=d_image, d_text=9, noise=1.0)
    settings = {"lambda1": 2.0, "lambda2": 0.3, "smoothing": 1e-3, "tol": 0.0}
    one, two = (Lcfs(**settings, max_iter=steps).fit(pairs) for steps in (1, 2))
    X, T, Y = centred(pairs.images), centred(pairs.texts), pairs.one_hot()
    F, G = X @ one.image_weights_, T @ one.text_weights_
    inverse = np.linalg.inv(sqrtm(F @ F.T + G @ G.T + 1e-3 * np.eye(40)))
    for rows, before, after in (
        (X, one.image_weights_, two.image_weights_),
        (T, one.text_weights_, two.text_weights_),
    ):
        D = np.diag(1 / (2 * np.sqrt((before**2).sum(axis=1) + 1e-3)))
        expected = np.linalg.solve(rows.T @ rows + 2.0 * D + 0.3 * rows.T @ inverse @ rows, rows.T @ Y)
        assert_allclose(after, expected, atol=1e-8)


def test_no_update_raises_the_objective(pairs):
    rng = np.random.default_rng(0)
    for _ in range(8):
        settings = {"lambda1": 10 ** rng.uniform(-2, 2), "lambda2": 10 ** rng.uniform(-4, 0)}
        settings |= {"smoothing": 10 ** rng.uniform(-7, -3), "init": str(rng.choice(["ridge", "eye"]))}
        history = Lcfs(**settings, max_iter=8, tol=0.0).fit(pairs).objective_history_
        history = (
            history[1:] if settings["init"] == "eye" else history
        )  # its first D is not that of its first P
        assert len(history) > 2
        assert (np.diff(history) <= 1e-9 * history[:-1]).all(), settings


def test_without_the_trace_norm_it_is_row_sparse_regression(pairs):
    one = Lcfs(lambda1=5.0, lambda2=0.0, smoothing=1e-6, **EXACT).fit(pairs)
    other = Jrl(gamma=5.0, lam=0.0, sigma=0.0, smoothing=1e-6, **EXACT).fit(pairs)
    assert_allclose(one.image_weights_, other.image_weights_, atol=1e-6)
    assert_allclose(one.text_weights_, other.text_weights_, atol=1e-6)


def test_without_penalties_it_is_least_squares():
    pairs = synthetic_pairs(noise=1.0)
    method = Lcfs(lambda1=1e-9, lambda2=0.0).fit(pairs)
    for rows, weights in ((pairs.images, method.image_weights_), (pairs.texts, method.text_weights_)):
        assert_allclose(weights, np.linalg.lstsq(centred(rows), pairs.one_hot())[0], atol=1e-9)


def test_a_larger_lambda2_couples_more_and_leaves_a_smaller_trace_norm():
    pairs = synthetic_pairs(noise=1.0)
    order = np.random.default_rng(0).permutation(len(pairs))
    X, T = centred(pairs.images), centred(pairs.texts)
    norms = []
    for lambda2 in (0.0, 0.1, 1.0, 3.0):
        settings = {"lambda1": 0.1, "lambda2": lambda2, "smoothing": 1e-4, "max_iter": 100, "tol": 0.0}
        method = Lcfs(**settings).fit(pairs)
        alone = Lcfs(**settings).fit(replace(pairs, texts=pairs.texts[order]))
        assert np.allclose(method.image_weights_, alone.image_weights_, atol=1e-12) == (lambda2 == 0)
        items = np.hstack([X @ method.image_weights_, T @ method.text_weights_])
        norms.append(np.linalg.svd(items, compute_uv=False).sum())
    assert (np.diff(norms) < 0).all()


def test_exchanging_the_modalities_exchanges_the_projections(pairs):
    one = Lcfs(max_iter=4, tol=0.0).fit(pairs)
    other = Lcfs(max_iter=4, tol=0.0).fit(replace(pairs, images=pairs.texts, texts=pairs.images))
    assert_allclose(other.text_weights_, one.image_weights_, atol=1e-8)
    assert_allclose(other.image_weights_, one.text_weights_, atol=1e-8)


def test_the_small_system_gives_what_the_large_one_gives(monkeypatch):
    pairs = synthetic_pairs(40, d_image=200, d_text=150, noise=1.0)
    settings = {"lambda1": 1.0, "lambda2": 0.01, "max_iter": 5, "tol": 0.0}
    small = Lcfs(**settings).fit(pairs)
    for where in (module, reweighting):
        monkeypatch.setattr(where, "dual_is_cheaper", lambda n, d: False)
    large = Lcfs(**settings).fit(pairs)
    assert_allclose(small.image_weights_, large.image_weights_, atol=1e-8)
    assert_allclose(small.objective_history_, large.objective_history_, rtol=1e-8)


def test_the_author_preset_makes_five_updates_from_the_identity():
    pairs = synthetic_pairs(noise=1.0)
    method = Lcfs.resolve({"preset": "author"}).fit(pairs)
    assert len(method.objective_history_) == 6
    eye = slow_objective(method, pairs, np.eye(12, 5), np.eye(9, 5))
    assert method.objective_history_[0] == pytest.approx(eye, rel=1e-6)
    assert method.departures == ()
    assert Lcfs().departures != ()


def test_the_author_preset_makes_five_updates_though_the_first_may_raise_the_objective():
    rng = np.random.default_rng(0)
    pairs = Pairs(
        images=rng.standard_normal((70, 300), dtype=np.float32) * np.float32(0.005),
        texts=rng.standard_normal((70, 40), dtype=np.float32) * np.float32(0.005),
        labels=np.arange(70) % 6,
        ids=tuple(map(str, range(70))),
        n_classes=6,
    )
    method = Lcfs.resolve({"preset": "author"}).fit(pairs)
    first, second, *rest = method.objective_history_
    assert second > first
    assert len(rest) == 4
    assert (np.diff([second, *rest]) < 0).all()


@pytest.mark.parametrize("d_image", [12, 300])
def test_a_fit_that_shares_is_a_fresh_fit(d_image):
    pairs = synthetic_pairs(d_image=d_image)
    context = FitContext(pieces=Pieces(pairs))
    for changed in ({}, {"lambda1": 3.0}, {"lambda2": 0.0}, {"init": "eye"}):
        method = Lcfs(**changed).fit(pairs, context=context)
        assert_array_equal(method.image_weights_, Lcfs(**changed).fit(pairs).image_weights_)


def test_fewer_rows_than_columns_of_the_common_space_are_borne():
    method = Lcfs().fit(synthetic_pairs(8, n_classes=6))
    assert np.isfinite(method.image_weights_).all()


def test_constant_columns_get_no_weight():
    pairs = synthetic_pairs()
    more = np.hstack([pairs.images, np.full((120, 1), 0.1, dtype=np.float32)])
    assert_allclose(Lcfs(lambda1=1.0).fit(replace(pairs, images=more)).image_weights_[12], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lambda1": 0.0}, "Lcfs.lambda1: expected more than 0"),
        ({"smoothing": 0.0}, "Lcfs.smoothing: expected more than 0"),
        ({"lambda2": -1.0}, "Lcfs.lambda2: expected at least 0"),
        ({"tol": -1.0}, "Lcfs.tol: expected at least 0"),
        ({"max_iter": 0}, "Lcfs.max_iter: expected at least 1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(InvalidParameter, match=message):
        Lcfs(**parameters).fit(synthetic_pairs())


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        Lcfs().fit(synthetic_pairs(), context=FitContext(deadline=time.monotonic()))
