"""Whitening, leading singular directions, signs and dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import InvalidParameter, Unsupported
from xmbench.linalg import (
    RANK_TOLERANCE,
    align_signs,
    centred_blocks,
    choose_components,
    leading_singular,
    mean_scatter,
    multiview_directions,
    scatter,
    thin_svd,
    whiten_scatter,
    whiten_views,
)


def centred(n: int, d: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize(("n", "d"), [(30, 6), (6, 30)])
def test_the_thin_svd_is_that_of_the_rows_to_their_rank(n, d):
    rows = centred(n, d)
    left, values, right = thin_svd(rows)
    rank = min(n - 1, d)
    assert (left.shape, values.shape, right.shape) == ((n, rank), (rank,), (d, rank))
    for side in (left, right):
        assert_allclose(side.T @ side, np.eye(rank), atol=1e-12)
    assert_allclose(left * values @ right.T, rows, atol=1e-12)


def test_directions_of_rounding_noise_are_cut():
    """Rank 3 in 8 columns stored as float32: five singular values are noise near 1e-7 of the largest."""
    rows = centred(50, 3) @ np.random.default_rng(2).standard_normal((3, 8))
    rows = np.float32(rows).astype(np.float64)
    rows -= rows.mean(axis=0)
    left, values, right = thin_svd(rows)
    assert left.shape[1] == right.shape[1] == 3
    assert values.min() > 0.1


@pytest.mark.parametrize(("size", "kept"), [(10 * RANK_TOLERANCE, 2), (0.1 * RANK_TOLERANCE, 1)])
def test_the_rank_is_cut_at_the_stated_share_of_the_largest_singular_value(size, kept):
    left, _ = np.linalg.qr(centred(20, 2))
    assert len(thin_svd(left * [1.0, size])[1]) == kept


def test_rows_that_are_all_zero_have_no_direction():
    assert [part.shape for part in thin_svd(np.zeros((5, 3)))] == [(5, 0), (0,), (3, 0)]


def test_the_mean_scatter_is_the_mean_diagonal_of_the_scatter():
    rows = centred(20, 4)
    assert mean_scatter(rows) == pytest.approx(np.diag(rows.T @ rows).mean())


def test_signs_are_aligned_in_pairs():
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    one, two = align_signs(first, second), align_signs(first * signs, second * signs)
    assert_array_equal(one[0], two[0])
    assert_array_equal(one[1], two[1])
    assert (one[0].max(axis=0) == np.abs(first).max(axis=0)).all()
    assert_allclose(one[0] @ one[1].T, first @ second.T, atol=1e-14)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (120, 60), (60, 120)], ids=str)
def test_leading_triplets_are_those_of_the_full_decomposition(shape):
    """Small matrices take the full decomposition, large ones Lanczos; nothing else may show it."""
    matrix = np.random.default_rng(4).standard_normal(shape)
    left, values, right = leading_singular(matrix, 5)
    assert left.shape == (shape[0], 5)
    assert right.shape == (shape[1], 5)
    assert_allclose(values, np.linalg.svd(matrix, compute_uv=False)[:5], rtol=1e-10)
    assert_allclose(left.T @ left, np.eye(5), atol=1e-8)
    assert_allclose(right.T @ right, np.eye(5), atol=1e-8)
    assert_allclose(left.T @ matrix @ right, np.diag(values), atol=1e-7)
    assert (left.max(axis=0) == np.abs(left).max(axis=0)).all()


@pytest.mark.parametrize("shape", [(9, 6), (120, 60)], ids=str)
def test_leading_triplets_are_the_same_each_time(shape):
    matrix = np.random.default_rng(5).standard_normal(shape)
    for one, two in zip(leading_singular(matrix, 3), leading_singular(matrix, 3), strict=True):
        assert_array_equal(one, two)


def test_lanczos_finds_repeated_singular_values():
    rng = np.random.default_rng(6)
    left, right = (np.linalg.qr(rng.standard_normal((d, 60)))[0] for d in (90, 70))
    values = np.repeat([5.0, 4.0, 1.0], [3, 3, 54])
    found = leading_singular(left * values @ right.T, 6)
    assert_allclose(found[1], values[:6], rtol=1e-10)
    assert_allclose(found[0].T @ found[0], np.eye(6), atol=1e-8)


def test_values_too_close_for_lanczos_are_found_all_the_same():
    rng = np.random.default_rng(11)
    left, right = (np.linalg.qr(rng.standard_normal((d, 300)))[0] for d in (310, 320))
    values = 1.0 - 1e-9 * np.arange(300.0)
    one, two = (leading_singular(left * values @ right.T, 5) for _ in range(2))
    assert_allclose(one[1], values[:5], rtol=0, atol=1e-13)
    assert_array_equal(one[0], two[0])
    assert_allclose(one[0].T @ one[0], np.eye(5), atol=1e-10)


def test_lanczos_copes_with_a_rank_below_k():
    rng = np.random.default_rng(7)
    matrix = rng.standard_normal((90, 2)) @ rng.standard_normal((2, 70))
    left, values, right = leading_singular(matrix, 5)
    assert_allclose(values[2:], 0.0, atol=1e-6 * values[0])
    assert_allclose((left[:, :2] * values[:2]) @ right[:, :2].T, matrix, atol=1e-8 * values[0])


@pytest.mark.parametrize("side", [0, 1], ids=["columns", "rows"])
def test_lanczos_does_not_start_in_the_null_space(side):
    """The entries of each column (or row) sum to exactly zero, as after centring rows that sum to one."""
    matrix = np.random.default_rng(8).integers(-9, 10, (30, 120)).astype(float)
    matrix = np.vstack([matrix, -matrix])
    matrix = matrix.T if side else matrix
    _, values, _ = leading_singular(matrix, 4)
    assert_allclose(values, np.linalg.svd(matrix, compute_uv=False)[:4], rtol=1e-8)


@pytest.mark.parametrize("shape", [(9, 6), (120, 60)], ids=str)
def test_a_zero_matrix_has_singular_values_of_zero(shape):
    assert_array_equal(leading_singular(np.zeros(shape), 3)[1], np.zeros(3))


def test_components_default_to_the_classes_as_far_as_the_rank_goes():
    assert choose_components(None, 9, 10) == 9
    assert choose_components(None, 9, 5) == 5
    assert choose_components(7, 9, 5) == 7


@pytest.mark.parametrize("wanted", [0, -3, 10])
def test_components_lie_within_the_rank(wanted):
    with pytest.raises(InvalidParameter, match=rf"expected 1\.\.9, .*, got {wanted}"):
        choose_components(wanted, 9, 5)


@pytest.mark.parametrize("wanted", [None, 1])
def test_without_a_direction_there_is_nothing_to_choose(wanted):
    with pytest.raises(Unsupported, match="all the same"):
        choose_components(wanted, 0, 5)


# -- sums of products, and whitening from them ------------------------------------------------------


def test_sums_of_products_are_those_of_centred_views(monkeypatch):
    rng = np.random.default_rng(9)
    views = [np.float32(rng.standard_normal((53, d)) + 100.0) for d in (7, 4, 3)]
    means = [view.mean(axis=0, dtype=np.float64) for view in views]
    exact = [view - mean for view, mean in zip(views, means, strict=True)]
    monkeypatch.setattr("xmbench.linalg.BLOCK", 7 * 10)
    for start in (means, [mean + 0.5 for mean in means]):  # blocks need not be centred to the last digit
        found = scatter(centred_blocks(views, start))
        assert found.n == 53
        for i in range(3):
            assert_allclose(np.tril(found.within[i]), np.tril(exact[i].T @ exact[i]), atol=1e-10)
            assert_allclose(start[i] + found.shifts[i], means[i], atol=1e-12)
        for (i, j), product in found.between.items():
            assert_allclose(product, exact[i].T @ exact[j], atol=1e-10)
    assert set(found.between) == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("shape", [(60, 8, 5), (20, 30, 6), (620, 540, 20)], ids=str)
def test_whitened_views_keep_their_constraint_and_products(shape, ridge):
    n, *widths = shape
    views = [np.float32(centred(n, d, seed=d) + 2.0) for d in widths]
    white = whiten_views(views, ridge, 4)
    rows = [view - view.mean(axis=0, dtype=np.float64) for view in views]
    maps = [found.weights(np.eye(found.rank)) for found in white.maps]
    for X, Z, mean, view in zip(rows, maps, white.means, views, strict=True):
        r = ridge * mean_scatter(X)
        assert_allclose(Z.T @ (X.T @ X + r * np.eye(X.shape[1])) @ Z, np.eye(Z.shape[1]), atol=1e-8)
        assert_allclose(mean, view.mean(axis=0, dtype=np.float64), atol=1e-12)
    assert_allclose(white.between[0, 1], maps[0].T @ rows[0].T @ rows[1] @ maps[1], atol=1e-9)


def test_views_whitened_from_their_sums_are_those_whitened_from_their_rows():
    rows = [centred(60, 8), centred(60, 5, seed=1)]
    white = whiten_scatter(scatter([rows]), [0.5, 2.0], 4)
    for X, r, found in zip(rows, (0.5, 2.0), white.maps, strict=True):
        Z = found.weights(np.eye(found.rank))
        assert_allclose(Z @ Z.T, np.linalg.inv(X.T @ X + r * np.eye(X.shape[1])), atol=1e-10)


@pytest.mark.parametrize("k", [1, 4])
def test_directions_of_several_views_are_those_of_the_whole_matrix(k):
    rng = np.random.default_rng(10)
    ranks, between = (5, 4, 3), {}
    whole = np.eye(12)
    edges = np.cumsum((0, *ranks))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        between[i, j] = 0.2 * rng.standard_normal((ranks[i], ranks[j]))
        whole[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = between[i, j]
    values, parts = multiview_directions(between, ranks, k)
    expected, vectors = np.linalg.eigh(np.triu(whole) + np.triu(whole, 1).T)
    assert_allclose(values, expected[::-1][:k], atol=1e-12)
    found = np.vstack(parts)
    assert_allclose(np.abs((found * vectors[:, ::-1][:, :k]).sum(axis=0)), 1.0, atol=1e-10)
