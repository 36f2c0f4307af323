"""Reweighted least squares: penalties by hand, tangents, and both routes of the weighted ridge."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import DeadlineExceeded, Unsupported
from xmbench.reuse import Pieces
from xmbench.reweighting import (
    Quadratic,
    descend,
    dual_is_cheaper,
    group_penalty,
    group_weights,
    row_penalty,
    row_weights,
    solve_dual,
    solve_primal,
)


def test_the_row_penalty_is_the_sum_of_smoothed_row_norms():
    P = np.random.default_rng(0).standard_normal((5, 3))
    expected = sum(np.sqrt(sum(value**2 for value in row) + 0.1) for row in P)
    assert row_penalty(P, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("q", [1.0, 0.5])
def test_the_group_penalty_is_the_sum_over_blocks(q, per_column):
    P = np.random.default_rng(0).standard_normal((6, 3))
    total = 0.0
    for g in range(0, 6, 2):
        if per_column:
            total += sum((P[g, j] ** 2 + P[g + 1, j] ** 2 + 0.1) ** (q / 2) for j in range(3))
        else:
            total += ((P[g : g + 2] ** 2).sum() + 0.1) ** (q / 2)
    assert group_penalty(P, 2, q, 0.1, per_column=per_column) == pytest.approx(total)


def test_groups_of_one_are_rows():
    P = np.random.default_rng(0).standard_normal((5, 3))
    assert group_penalty(P, 1, 1.0, 0.1, per_column=False) == pytest.approx(row_penalty(P, 0.1))
    assert_allclose(group_weights(P, 1, 1.0, 0.1, per_column=False), row_weights(P, 0.1), rtol=1e-14)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("q", [1.0, 0.5, 0.3])
def test_the_weighted_ridge_touches_the_penalty_from_above(q, per_column):
    rng = np.random.default_rng(0)
    for _ in range(50):
        P, other = rng.standard_normal((2, 6, 3)) * rng.uniform(0, 2, (2, 1, 1))
        weights = group_weights(P, 2, q, 1e-3, per_column=per_column)
        weights = weights if per_column else weights[:, None]

        def penalty(projection):
            return group_penalty(projection, 2, q, 1e-3, per_column=per_column)

        above = penalty(P) + (weights * (other**2 - P**2)).sum()
        assert above >= penalty(other) - 1e-10


def system(n: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    X, B, w = rng.standard_normal((n, d)), rng.standard_normal((n, 3)), rng.uniform(0.1, 5, d)
    half = rng.standard_normal((n, n)) / np.sqrt(n)
    return X, B, w, half @ half.T


@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 30), (12, 12)])
def test_both_routes_solve_the_weighted_ridge(n, d):
    X, B, w, _ = system(n, d)
    expected = np.linalg.solve(X.T @ X + np.diag(w), X.T @ B)
    assert_allclose(solve_primal(X.T @ X, w, X.T @ B), expected, atol=1e-10)
    assert_allclose(solve_dual(X, w, B), expected, atol=1e-10)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 30)])
def test_the_route_makes_no_difference(n, d, curved):
    X, B, w, M = system(n, d)
    terms = {"fit": (2.0, None)} | ({"graph": (0.7, M)} if curved else {})
    problem = Quadratic(X, terms, Pieces(), "images")
    assert (problem.half is not None) == (n < d)
    expected = np.linalg.solve(X.T @ (2.0 * np.eye(n) + 0.7 * curved * M) @ X + np.diag(w), X.T @ B)
    assert_allclose(problem.solve(w, B), expected, atol=1e-10)


def test_a_singular_curvature_takes_the_primal_route():
    X, B, w, _ = system(10, 30)
    labelled = np.diag((np.arange(10) < 6).astype(float))
    problem = Quadratic(X, {"fit": (1.0, labelled)}, Pieces(), "images")
    assert problem.half is None
    expected = np.linalg.solve(X.T @ labelled @ X + np.diag(w), X.T @ B)
    assert_allclose(problem.solve(w, B), expected, atol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 30)])
def test_columns_may_have_weights_of_their_own(n, d):
    X, B, _, _ = system(n, d)
    weights = np.random.default_rng(1).uniform(0.1, 5, (d, 3))
    found = Quadratic(X, {"fit": (1.0, None)}, Pieces(), "images").solve(weights, B)
    for j in range(3):
        expected = np.linalg.solve(X.T @ X + np.diag(weights[:, j]), X.T @ B[:, j])
        assert_allclose(found[:, j], expected, atol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 30)])
def test_huge_weights_give_rows_of_zero_and_leave_the_others_exact(n, d):
    X, B, w, _ = system(n, d)
    w[::2] = 1e30
    kept = X[:, 1::2]
    expected = np.linalg.solve(kept.T @ kept + np.diag(w[1::2]), kept.T @ B)
    for found in (solve_primal(X.T @ X, w, X.T @ B), solve_dual(X, w, B)):
        assert_allclose(found[::2], 0.0, atol=1e-20)
        assert_allclose(found[1::2], expected, atol=1e-10)


def test_rank_deficient_rows_and_tiny_weights_stay_finite():
    X, B, _, _ = system(40, 6)
    X = np.hstack([X, X[:, :3], np.zeros((40, 2))])
    found = solve_primal(X.T @ X, np.full(11, 1e-9), X.T @ B)
    assert np.isfinite(found).all()
    assert_allclose(X @ found, X @ np.linalg.lstsq(X, B)[0], atol=1e-4)


def test_an_indefinite_curvature_is_solved_where_there_is_a_minimum_and_refused_where_not():
    X, B, w, M = system(10, 30)
    terms = {"fit": (1.0, None), "graph": (1.0, M - 2.0 * np.eye(10))}
    problem = Quadratic(X, terms, Pieces(), "images")
    w = w + 100.0
    expected = np.linalg.solve(X.T @ (M - np.eye(10)) @ X + np.diag(w), X.T @ B)
    assert_allclose(problem.solve(w, B), expected, atol=1e-10)
    with pytest.raises(Unsupported, match="no minimum"):
        problem.solve(np.full(30, 0.1), B)


def test_wide_data_take_the_small_system():
    assert dual_is_cheaper(800, 4096)
    assert not dual_is_cheaper(800, 1000)
    assert not dual_is_cheaper(8000, 4096)


def test_descent_stops_when_the_objective_does_or_after_max_iter():
    def halve(pair):
        return pair[0] / 2, pair[1] / 2

    def value(pair):
        return 1.0 + float(pair[0].sum())

    start = (np.ones((1, 1)), np.ones((1, 1)))
    found = descend(start, halve, value, max_iter=50, tol=0.1, check=lambda: None)
    assert found.converged
    assert found.history[0] == 2.0
    assert found.history[-2] - found.history[-1] < 0.1 * found.history[-2]
    short = descend(start, halve, value, max_iter=2, tol=0.1, check=lambda: None)
    assert not short.converged
    assert_array_equal(short.history, [2.0, 1.5, 1.25])


def test_a_rise_of_the_objective_is_not_taken_for_convergence():
    values = iter([5.0, 6.0, 3.0, 2.0, 2.0])
    start = (np.ones((1, 1)), np.ones((1, 1)))
    found = descend(
        start, lambda pair: pair, lambda pair: next(values), max_iter=9, tol=0.1, check=lambda: None
    )
    assert found.converged
    assert_array_equal(found.history, [5.0, 6.0, 3.0, 2.0, 2.0])


def test_without_a_tolerance_every_update_is_made():
    start = (np.ones((1, 1)), np.ones((1, 1)))
    found = descend(start, lambda pair: pair, lambda pair: 1.0, max_iter=4, tol=0.0, check=lambda: None)
    assert len(found.history) == 5
    assert not found.converged


def test_descent_asks_for_the_time():
    def over():
        raise DeadlineExceeded("over")

    start = (np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(DeadlineExceeded):
        descend(start, lambda pair: pair, lambda pair: 1.0, max_iter=5, tol=0.0, check=over)
