"""Neighbourhood graphs of feature rows and their Laplacians. Rows are items, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, Unsupported

Matrix = NDArray[np.float64]
Sparse = Any
"""A ``scipy.sparse.csr_array``; scipy is imported where it is needed."""

BLOCK = 2**22
"""Elements of the distance matrix that are held at a time."""

DENSE_LIMIT = 12_000
"""Rows beyond which a dense n x n graph is refused (1.2 GB)."""


def _nothing() -> None:
    """Check nothing."""


def squared_distances(rows: Matrix, others: Matrix) -> Matrix:
    """Squared Euclidean distances, (m, d) and (n, d) -> (m, n); rounding below zero is cut."""
    squares = rows @ others.T
    squares *= -2.0
    squares += np.einsum("ij,ij->i", rows, rows)[:, None]
    squares += np.einsum("ij,ij->i", others, others)
    return np.asarray(np.maximum(squares, 0.0, out=squares))


def nearest(
    rows: Matrix, k: int, *, check: Callable[[], None] = _nothing
) -> tuple[NDArray[np.int64], Matrix]:
    """The k nearest other rows of each row by Euclidean distance, nearest first, by blocks of rows.

    Args:
        rows: (n, d).
        k: 1 <= k < n.
        check: called once a block; may raise.

    Returns:
        Row numbers (n, k) and distances (n, k). Among equal distances the lower row number comes first.

    Raises:
        InvalidParameter: k is not in 1..n-1.
    """
    n = len(rows)
    if not 1 <= k < n:
        raise InvalidParameter(f"neighbours: expected 1..{n - 1}, one less than the number of rows, got {k}")
    indices, distances = np.empty((n, k), dtype=np.int64), np.empty((n, k))
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        check()
        squared = squared_distances(rows[start : start + step], rows)
        own = np.arange(len(squared))
        squared[own, start + own] = np.inf  # an item is no neighbour of its own
        chosen = np.sort(np.argpartition(squared, k - 1, axis=1)[:, :k], axis=1)
        found = np.take_along_axis(squared, chosen, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        indices[start : start + step] = np.take_along_axis(chosen, order, axis=1)
        distances[start : start + step] = np.sqrt(np.take_along_axis(found, order, axis=1))
    return indices, distances


def affinity(indices: NDArray[np.int64], weights: Matrix) -> Sparse:
    """Symmetric weights (W + W') / 2 of a neighbour list, W_ij = weight if j is a neighbour of i; csr (n, n)."""
    from scipy.sparse import csr_array

    n, k = indices.shape
    graph = csr_array((weights.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return ((graph + graph.T) * 0.5).tocsr()


def sigmoid_weights(distances: Matrix) -> Matrix:
    """1 / (1 + exp(distance)), up to one common factor that keeps the largest at 1.

    High-dimensional rows are so far apart that the plain value underflows; a normalised Laplacian does not
    change with a common factor.
    """
    logarithm = -np.logaddexp(0.0, distances)
    return np.asarray(np.exp(logarithm - logarithm.max(initial=-np.inf)))


def gaussian_weights(distances: Matrix) -> Matrix:
    """exp(-distance^2 / (2 delta^2)) with delta the median of the distances; all 1 where that is 0."""
    delta = float(np.median(distances))
    if delta == 0:
        return np.ones_like(distances)
    return np.asarray(np.exp(-((distances / delta) ** 2) / 2))


def normalised_laplacian(graph: Sparse) -> Sparse:
    """I - D^{-1/2} W D^{-1/2} of symmetric weights W >= 0, D = diag(W 1); eigenvalues in [0, 2].

    The row of an item without any neighbour is zero: the graph says nothing about it.
    """
    from scipy.sparse.csgraph import laplacian

    found: Any = laplacian(graph, normed=True)
    return found.tocsr()


def dense_laplacian(rows: Matrix, indices: NDArray[np.int64]) -> Matrix:
    """I - D^{-1/2} S D^{-1/2} with dense S_ij = 1 / (1 + exp(||x_i - x_j||)), D the degrees of a binary graph.

    The form of the code released with JRL: its neighbour graph (here: i ~ j if either is a neighbour of the
    other) enters through D alone, so that this matrix is nearly I for rows that lie far apart.

    Args:
        rows: (n, d).
        indices: (n, k) neighbours of each row.

    Raises:
        Unsupported: n is above :data:`DENSE_LIMIT`.
    """
    n = len(rows)
    if n > DENSE_LIMIT:
        raise Unsupported(
            f"a dense graph of {n:,} rows is beyond the limit of {DENSE_LIMIT:,}; use graph=knn"
        )
    degrees = np.diff((affinity(indices, np.ones(indices.shape)) > 0).indptr)
    distances = np.sqrt(squared_distances(rows, rows))
    np.fill_diagonal(distances, 0.0)
    similarity = np.exp(-np.logaddexp(0.0, distances))
    root = 1.0 / np.sqrt(degrees)
    return np.asarray(np.eye(n) - root[:, None] * similarity * root)
