"""Iteratively reweighted least squares with row-sparse and group-sparse penalties.

A penalty sum_g (||P_g||^2 + e)^{q/2} is concave in the squared norms, so that its tangent, a weighted ridge, lies
above it and touches it at the present P. Solving that ridge and drawing the next tangent never raises the
objective. Inputs are float64, rows are items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import Unsupported
from xmbench.reuse import Pieces

Matrix = NDArray[np.float64]


# -- penalties --------------------------------------------------------------------------------------


def row_penalty(projection: Matrix, smoothing: float) -> float:
    """Smoothed l2,1 norm sum_i sqrt(||P_i||^2 + smoothing) of (d, k)."""
    return float(np.sqrt(np.einsum("ij,ij->i", projection, projection) + smoothing).sum())


def row_weights(projection: Matrix, smoothing: float) -> Matrix:
    """Weights (d,) of the ridge tangent to :func:`row_penalty`: 1 / (2 sqrt(||P_i||^2 + smoothing))."""
    return np.asarray(0.5 / np.sqrt(np.einsum("ij,ij->i", projection, projection) + smoothing))


def _group_norms(projection: Matrix, size: int, per_column: bool) -> Matrix:
    """Squared norms of blocks of ``size`` rows: (d / size, 1), or (d / size, k) column by column."""
    squared = (projection**2).reshape(-1, size, projection.shape[1]).sum(axis=1)
    return np.asarray(squared if per_column else squared.sum(axis=1, keepdims=True))


def group_penalty(projection: Matrix, size: int, q: float, smoothing: float, *, per_column: bool) -> float:
    """sum_g (||P_g||_F^2 + smoothing)^{q/2} over blocks of ``size`` rows; ``per_column``: of each column.

    Args:
        projection: (d, k).
        size: rows of a block; divides d.
        q: exponent in (0, 1].
        smoothing: e > 0.
        per_column: whether each column has blocks of its own.
    """
    return float(((_group_norms(projection, size, per_column) + smoothing) ** (q / 2)).sum())


def group_weights(projection: Matrix, size: int, q: float, smoothing: float, *, per_column: bool) -> Matrix:
    """Weights of the ridge tangent to :func:`group_penalty`: (d,), or (d, k) with ``per_column``."""
    norms = _group_norms(projection, size, per_column)
    weights = np.repeat((q / 2) * (norms + smoothing) ** (q / 2 - 1), size, axis=0)
    return weights if per_column else weights[:, 0]


# -- weighted ridge ---------------------------------------------------------------------------------


def solve_primal(gram: Matrix, weights: Matrix, right: Matrix) -> Matrix:
    """P of (G + diag(w)) P = R, in the scaled variables w^{1/2} P, whose system has no eigenvalue below 1.

    Args:
        gram: (d, d), symmetric, positive semidefinite.
        weights: (d,), > 0; however large, the result is exact.
        right: (d, k).

    Raises:
        Unsupported: G has negative curvature, so that the objective may have no minimum.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    scale = 1.0 / np.sqrt(weights)
    system = scale[:, None] * gram * scale
    system.flat[:: len(system) + 1] += 1.0
    try:
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise Unsupported(
            "the objective has negative curvature on these rows, and no minimum: take another graph, or more "
            "neighbours, or a smaller weight of the graph"
        ) from error
    solved = cho_solve(factor, scale[:, None] * right, overwrite_b=True, check_finite=False)
    return np.asarray(scale[:, None] * solved)


def solve_dual(rows: Matrix, weights: Matrix, targets: Matrix) -> Matrix:
    """P of (X'X + diag(w)) P = X'B as W^{-1} X' (I + X W^{-1} X')^{-1} B (Woodbury): an n x n system.

    Args:
        rows: X (n, d).
        weights: w (d,), > 0.
        targets: B (n, k).
    """
    from scipy.linalg import cho_factor, cho_solve

    scaled = rows / np.sqrt(weights)
    system = scaled @ scaled.T
    system.flat[:: len(system) + 1] += 1.0
    factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray((rows.T @ cho_solve(factor, targets, check_finite=False)) / weights[:, None])


def dual_is_cheaper(n: int, d: int) -> bool:
    """Whether an update of n rows and d columns costs less in :func:`solve_dual`: n^2 d + n^3/3 < d^3/3."""
    return 3 * n**2 * d + n**3 < d**3


@dataclass
class Quadratic:
    """tr((XP)'M(XP)) of one modality, M = sum of terms: solves (X'MX + diag(w)) P = X'B for many w and B.

    Works with d x d matrices or, where that is cheaper and M is safely definite, with n x n ones.

    Args:
        rows: X (n, d).
        terms: name -> (coefficient >= 0, matrix): a dense or sparse symmetric (n, n) matrix, or None for I.
        pieces: where X'M_jX of each term is kept, under the names of modality and term.
        name: of the modality.
    """

    rows: Matrix
    terms: Mapping[str, tuple[float, Any]]
    pieces: Pieces
    name: str

    def __post_init__(self) -> None:
        n, d = self.rows.shape
        used = {key: term for key, term in self.terms.items() if term[0] > 0}
        self.half: Matrix | None = None
        if dual_is_cheaper(n, d) and any(matrix is None for _, matrix in used.values()):
            self._halve(used)
        if self.half is None:
            self.gram = np.zeros((d, d))
            for key, (coefficient, matrix) in used.items():
                self.gram += coefficient * self._product(key, matrix)

    def _halve(self, used: Mapping[str, tuple[float, Any]]) -> None:
        """With M = CC': X'MX = Z'Z for Z = C'X, and X'B = Z'C^{-1}B. Leaves no Z if M is not definite."""
        level = sum(coefficient for coefficient, matrix in used.values() if matrix is None)
        others = [(coefficient, matrix) for coefficient, matrix in used.values() if matrix is not None]
        self.root: float | Matrix = float(np.sqrt(level))
        if not others:
            self.half = self.root * self.rows
            return
        curvature = level * np.eye(len(self.rows))
        for coefficient, matrix in others:
            curvature += coefficient * (matrix.toarray() if hasattr(matrix, "toarray") else matrix)
        try:
            self.root = np.asarray(np.linalg.cholesky(curvature), dtype=np.float64)
        except np.linalg.LinAlgError:
            return
        self.half = self.root.T @ self.rows

    def _product(self, key: str, matrix: Any) -> Matrix:
        return self.pieces.get(("gram", self.name, key), lambda: gram(self.rows, matrix))

    def solve(self, weights: Matrix, targets: Matrix) -> Matrix:
        """P (d, k) for weights (d,), or (d, k) with weights of its own for each column, and B (n, k)."""
        from scipy.linalg import solve_triangular

        if weights.ndim == 2:
            columns = [self.solve(weights[:, j], targets[:, j : j + 1]) for j in range(targets.shape[1])]
            return np.hstack(columns)
        if self.half is None:
            return solve_primal(self.gram, weights, self.rows.T @ targets)
        if isinstance(self.root, float):
            return solve_dual(self.half, weights, targets / self.root)
        return solve_dual(self.half, weights, solve_triangular(self.root, targets, lower=True))


def gram(rows: Matrix, matrix: Any = None) -> Matrix:
    """X'X, or X'MX, (d, d)."""
    return np.asarray(rows.T @ (rows if matrix is None else matrix @ rows))


# -- iteration --------------------------------------------------------------------------------------

Projections = tuple[Matrix, Matrix]


@dataclass(frozen=True)
class Descent:
    """Where an iteration ended.

    Args:
        last: image and text projections after the last update.
        history: objective at the start and after each update.
        converged: whether the last relative change was below the tolerance.
    """

    last: Projections
    history: Matrix
    converged: bool


def descend(
    start: Projections,
    update: Callable[[Projections], Projections],
    objective: Callable[[Projections], float],
    *,
    max_iter: int,
    tol: float,
    check: Callable[[], None],
) -> Descent:
    """Repeat ``update`` until the objective changes by less than ``tol`` of itself, ``max_iter`` times at most.

    An update that raises the objective, as the first one from an arbitrary start or one of both modalities at once
    may, is no end of the iteration.

    Args:
        start: first projections.
        update: projections -> projections.
        objective: projections -> value, >= 0.
        max_iter: >= 1.
        tol: relative change that counts as none, >= 0; with 0 there are ``max_iter`` updates.
        check: called once a round; may raise.
    """
    last = start
    history = [objective(start)]
    for _ in range(max_iter):
        check()
        last = update(last)
        history.append(objective(last))
        if abs(history[-2] - history[-1]) < tol * abs(history[-2]):
            return Descent(last, np.array(history), True)
    return Descent(last, np.array(history), False)
