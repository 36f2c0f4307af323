"""Neighbourhood graphs and Laplacians, against loops over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from xmbench import graphs
from xmbench.errors import DeadlineExceeded, InvalidParameter, Unsupported


def slow_nearest(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    indices, distances = [], []
    for i, row in enumerate(rows):
        others = sorted((float(np.linalg.norm(row - other)), j) for j, other in enumerate(rows) if j != i)[:k]
        distances.append([distance for distance, _ in others])
        indices.append([j for _, j in others])
    return np.array(indices), np.array(distances)


def slow_laplacian(weights: np.ndarray) -> np.ndarray:
    n = len(weights)
    degrees = [sum(weights[i]) for i in range(n)]
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if degrees[i] > 0 and degrees[j] > 0:
                result[i, j] = (i == j) - weights[i, j] / np.sqrt(degrees[i] * degrees[j])
    return result


@pytest.fixture(params=["random", "wikipedia"])
def rows(request):
    if request.param == "random":
        return np.random.default_rng(0).standard_normal((60, 5))
    pairs = request.getfixturevalue("wikipedia_pairs")
    return pairs.images[:150].astype(np.float64)


@pytest.mark.parametrize("block", [1, 500, 2**24])
def test_neighbours_are_those_of_a_loop_whatever_the_block(rows, block, monkeypatch):
    monkeypatch.setattr(graphs, "BLOCK", block)
    indices, distances = graphs.nearest(rows, 4)
    expected, far = slow_nearest(rows, 4)
    assert_array_equal(indices, expected)
    assert_allclose(distances, far, rtol=1e-6, atol=1e-6)


def test_no_item_is_its_own_neighbour_even_among_duplicates():
    rows = np.repeat(np.arange(6.0)[:, None], 3, axis=0)
    indices, distances = graphs.nearest(rows, 2)
    assert (indices != np.arange(18)[:, None]).all()
    assert_array_equal(indices // 3, np.arange(18)[:, None] // 3 * np.ones((1, 2)))
    assert_array_equal(distances, 0.0)


@pytest.mark.parametrize("k", [0, -1, 60, 61])
def test_the_number_of_neighbours_is_checked(k):
    with pytest.raises(InvalidParameter, match=rf"neighbours: expected 1\.\.59.*got {k}"):
        graphs.nearest(np.zeros((60, 2)), k)


def test_the_search_asks_for_the_time():
    def over():
        raise DeadlineExceeded("over")

    with pytest.raises(DeadlineExceeded):
        graphs.nearest(np.zeros((5, 2)), 1, check=over)


def test_the_affinity_is_the_symmetric_mean(rows):
    indices, distances = graphs.nearest(rows, 4)
    weights = graphs.gaussian_weights(distances)
    n = len(rows)
    dense = np.zeros((n, n))
    for i in range(n):
        for j, weight in zip(indices[i], weights[i], strict=True):
            dense[i, j] += weight / 2
            dense[j, i] += weight / 2
    assert_allclose(graphs.affinity(indices, weights).toarray(), dense, atol=1e-15)


def test_gaussian_weights_have_the_median_distance_as_bandwidth():
    distances = np.array([[1.0, 2.0], [2.0, 4.0]])
    assert_allclose(graphs.gaussian_weights(distances), np.exp(-(distances**2) / 8), rtol=1e-14)
    assert_array_equal(graphs.gaussian_weights(np.zeros((3, 2))), 1.0)


def test_sigmoid_weights_are_sigmoids_up_to_one_factor_and_never_all_zero():
    distances = np.random.default_rng(0).uniform(0, 30, (20, 3))
    ratio = graphs.sigmoid_weights(distances) * (1 + np.exp(distances))
    assert_allclose(ratio, ratio[0, 0], rtol=1e-12)
    far = graphs.sigmoid_weights(distances + 5000.0)  # exp(-5000) is 0
    assert far.max() == 1.0
    assert (far > 0).all()


@pytest.mark.parametrize("weights", ["sigmoid", "binary"])
def test_the_normalised_laplacian_is_that_of_a_loop(rows, weights):
    indices, distances = graphs.nearest(rows, 5)
    made = graphs.sigmoid_weights(distances) if weights == "sigmoid" else np.ones_like(distances)
    graph = graphs.affinity(indices, made)
    laplacian = graphs.normalised_laplacian(graph)
    assert isinstance(laplacian, csr_array)
    assert_allclose(laplacian.toarray(), slow_laplacian(graph.toarray()), atol=1e-12)


def test_laplacian_eigenvalues_lie_between_0_and_2_and_begin_with_0(rows):
    indices, distances = graphs.nearest(rows, 5)
    laplacian = graphs.normalised_laplacian(graphs.affinity(indices, graphs.sigmoid_weights(distances)))
    eigenvalues = np.linalg.eigvalsh(laplacian.toarray())
    assert abs(eigenvalues[0]) < 1e-10
    assert eigenvalues[0] > -1e-10
    assert eigenvalues[-1] < 2 + 1e-10


def test_an_item_without_neighbours_has_a_zero_row():
    graph = csr_array(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert_allclose(graphs.normalised_laplacian(graph).toarray(), [[1, -1, 0], [-1, 1, 0], [0, 0, 0]])


def test_the_dense_laplacian_is_that_of_a_loop(rows):
    indices, _ = graphs.nearest(rows, 5)
    n = len(rows)
    friends = [set(indices[i]) | {j for j in range(n) if i in indices[j]} for i in range(n)]
    expected = np.eye(n)
    for i in range(n):
        for j in range(n):
            similarity = 1 / (1 + np.exp(np.linalg.norm(rows[i] - rows[j])))
            expected[i, j] -= similarity / np.sqrt(len(friends[i]) * len(friends[j]))
    assert_allclose(graphs.dense_laplacian(rows, indices), expected, atol=1e-8)


def test_the_dense_laplacian_of_far_rows_is_nearly_the_identity(wikipedia_pairs):
    rows = wikipedia_pairs.images.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(graphs.dense_laplacian(rows, graphs.nearest(rows, 100)[0]))
    assert eigenvalues[0] > 0.9
    assert eigenvalues[-1] < 1.0


def test_dense_graphs_of_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(graphs, "DENSE_LIMIT", 9)
    with pytest.raises(Unsupported, match="10 rows is beyond the limit of 9; use graph=knn"):
        graphs.dense_laplacian(np.zeros((10, 2)), np.zeros((10, 1), dtype=np.int64))
