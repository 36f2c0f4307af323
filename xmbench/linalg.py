"""Linear algebra that several methods share. Inputs are float64, rows are items, columns are centred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, Unsupported

Matrix = NDArray[np.float64]

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero. Features stored as float32 carry
rounding noise near 1e-7, which a smaller tolerance would take for directions of the data."""


def whiten(rows: Matrix, ridge: float, *, tolerance: float = RANK_TOLERANCE) -> tuple[Matrix, Matrix]:
    """Ridge-whitened coordinates of centred rows, through the thin SVD (no covariance is inverted).

    With rows = U S V' (rank r after the cut), W = U diag(s / sqrt(s^2 + ridge)) and
    M = V diag(1 / sqrt(s^2 + ridge)), so that W = rows @ M; without ridge W'W = I.

    Args:
        rows: (n, d), centred.
        ridge: added to the eigenvalues of the scatter rows' rows, >= 0.
        tolerance: relative singular value at which the rank is cut.

    Returns:
        W (n, r) and M (d, r); r is 0 for rows that are all zero.
    """
    from scipy.linalg import svd

    left, values, right = svd(rows, full_matrices=False, check_finite=False)
    kept = values > tolerance * values.max(initial=0.0)
    left, values, right = left[:, kept], values[kept], right[kept]
    root = np.sqrt(values**2 + ridge)
    return left * (values / root), right.T / root


def mean_scatter(rows: Matrix) -> float:
    """Mean diagonal element of rows' rows: the natural unit of a ridge."""
    return float(np.einsum("ij,ij->", rows, rows) / rows.shape[1])


def align_signs(first: Matrix, second: Matrix) -> tuple[Matrix, Matrix]:
    """Flip pairs of columns so that the largest element (by size) of each column of ``first`` is positive.

    A singular pair is defined up to a common sign; this makes it one and the same everywhere.
    """
    peaks = first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])]
    signs = np.where(peaks < 0, -1.0, 1.0)
    return first * signs, second * signs


def leading_singular(matrix: Matrix, k: int) -> tuple[Matrix, Matrix, Matrix]:
    """The k largest singular triplets (U (m, k), s (k,) descending, V (n, k)), deterministic, signs aligned.

    Lanczos with a fixed start while k is small against the matrix, a full SVD otherwise.

    Args:
        matrix: (m, n).
        k: 1 <= k <= min(m, n).
    """
    from scipy.linalg import svd

    smallest = min(matrix.shape)
    if smallest > 50 and k <= smallest // 4 and matrix.any():
        from scipy.sparse.linalg import svds

        left, values, right = svds(matrix, k=k, v0=np.random.default_rng(0).standard_normal(smallest))
        order = np.argsort(-values, kind="stable")
        left, values, right = left[:, order], values[order], right[order]
    else:
        left, values, right = svd(matrix, full_matrices=False, check_finite=False)
        left, values, right = left[:, :k], values[:k], right[:k]
    left, turned = align_signs(left, right.T)
    return left, np.asarray(values, dtype=np.float64), turned


def choose_components(wanted: int | None, available: int, n_classes: int) -> int:
    """Dimension of a common space: what was asked for, else the number of classes as far as the rank goes.

    Raises:
        Unsupported: one modality is constant, so that there is no direction at all.
        InvalidParameter: less than 1, or more than the data's rank, was asked for.
    """
    if available == 0:
        raise Unsupported("the training rows of one modality are all the same: there is nothing to correlate")
    if wanted is None:
        return min(n_classes, available)
    if not 1 <= wanted <= available:
        raise InvalidParameter(
            f"n_components: expected 1..{available}, the rank of the training data, got {wanted}"
        )
    return wanted
