"""Kernels that several methods share: their bandwidth, centring in and out of sample, landmarks, correlations.

Matrices of n x n are Fortran-ordered and hold their lower triangle alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import Unsupported
from xmbench.graphs import squared_distances
from xmbench.linalg import BLOCK, Matrix

Vector = NDArray[np.float64]
Block = tuple[int, Matrix]
"""First row and column j of a block, and its values (n - j, b)."""


@dataclass(frozen=True)
class Kernel:
    """A kernel between rows of features, float64, from which some common centre has been subtracted.

    Kernels do not see the centre, rounding does.

    Args:
        bandwidth: sigma of exp(-|x - y|^2 / (2 sigma^2)); None for the linear kernel x'y.
    """

    bandwidth: float | None

    def __call__(self, rows: Matrix, others: Matrix) -> Matrix:
        """Values (m, n) for rows (m, d) and others (n, d)."""
        if self.bandwidth is None:
            return np.asarray(rows @ others.T)
        squares = squared_distances(rows, others)
        return self._of_squares(squares, squares)

    def _of_squares(self, squares: Matrix, out: Matrix) -> Matrix:
        assert self.bandwidth is not None
        return np.exp(np.multiply(squares, -0.5 / self.bandwidth**2, out=out), out=out)

    def gram(self, rows: Matrix, distances: Iterable[Block] | None = None) -> Matrix:
        """Lower triangle (n, n) of the kernel of rows (n, d) with themselves.

        Args:
            rows: (n, d).
            distances: their :func:`distance_blocks`, where these are at hand.
        """
        n = len(rows)
        found = np.zeros((n, n), order="F")
        if self.bandwidth is None:
            for start, stop in _blocks(n, n):
                found[start:, start:stop] = (rows[start:stop] @ rows[start:].T).T
            return found
        for start, squares in distance_blocks(rows) if distances is None else distances:
            self._of_squares(squares, found[start:, start : start + squares.shape[1]])
        np.fill_diagonal(found, 1.0)
        return found

    def diagonal(self, rows: Matrix) -> Vector:
        """(n,) values of the kernel of each row with itself."""
        return np.einsum("ij,ij->i", rows, rows) if self.bandwidth is None else np.ones(len(rows))


def _blocks(n: int, width: int) -> Iterator[tuple[int, int]]:
    size = max(1, BLOCK // max(1, width))
    for start in range(0, n, size):
        yield start, min(n, start + size)


def distance_blocks(rows: Matrix) -> Iterator[Block]:
    """Squared distances of rows (n, d) among themselves, by blocks of columns that hold the lower triangle."""
    for start, stop in _blocks(len(rows), len(rows)):
        yield start, squared_distances(rows[start:stop], rows[start:]).T


def median_distance(rows: NDArray[Any], *, most: int = 2000) -> float:
    """Median distance between different rows; of a fixed draw of ``most`` rows where there are more.

    Pairs of rows that are equal, up to 1e-6 of the rows' size, are left out: duplicates do not shrink it to zero.

    Raises:
        Unsupported: all rows are the same.
    """
    if len(rows) > most:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    squares = squared_distances(centred, centred)
    squares = np.concatenate([row[:i] for i, row in enumerate(squares)])
    squares = squares[squares > 1e-12 * np.einsum("ij,ij->i", centred, centred).max()]
    if not len(squares):
        raise Unsupported("the training rows of one modality are all the same: there is nothing to correlate")
    return float(np.sqrt(np.median(squares, overwrite_input=True)))


def centre_gram(gram: Matrix) -> tuple[Matrix, Vector]:
    """H K H, in place, and the column means (n,) of K; H takes the mean out.

    New items: k~ = k - mean(k) - column means + grand mean, with the mean over the training items.
    """
    from scipy.linalg.blas import dsymv

    n = len(gram)
    means = np.asarray(dsymv(1.0 / n, gram, np.ones(n), lower=1))
    grand = means.mean()
    for start, stop in _blocks(n, n):
        block = gram[start:, start:stop]
        block -= means[start:, None]
        block -= means[start:stop] - grand
    return gram, means


def pivots(kernel: Kernel, rows: Matrix, most: int, *, tolerance: float = 1e-3) -> NDArray[np.int64]:
    """Rows chosen by pivoted incomplete Cholesky: each time the one that those before explain least.

    Args:
        kernel: of the rows.
        rows: (n, d).
        most: at most so many.
        tolerance: stop when the residual trace is at most this share of the kernel's trace.

    Returns:
        Indices in the order of choice. K ~ G G' with G = K[:, p] L^-T, L the Cholesky factor of K[p, p].
    """
    residual = kernel.diagonal(rows)
    total = residual.sum()
    factor = np.zeros((min(most, len(rows)), len(rows)))
    chosen: list[int] = []
    while len(chosen) < len(factor) and residual.sum() > tolerance * total:
        step, pivot = len(chosen), int(residual.argmax())
        if residual[pivot] <= 1e-12 * total / len(rows):
            break
        column = kernel(rows[pivot : pivot + 1], rows)[0] - factor[:step, pivot] @ factor[:step]
        factor[step] = column / np.sqrt(residual[pivot])
        residual -= factor[step] ** 2
        np.maximum(residual, 0.0, out=residual)
        residual[pivot] = 0.0
        chosen.append(pivot)
    return np.array(chosen, dtype=np.int64)


def landmark_map(kernel: Kernel, landmarks: Matrix) -> Matrix:
    """E (m, r) with k(x, landmarks) @ E the Nystrom features of x: their inner products approximate the kernel.

    E = U diag(lambda^-1/2) of the kernel between the landmarks; eigenvalues of at most 1e-10 of the largest are
    left out.
    """
    from scipy.linalg import eigh

    values, vectors = eigh(kernel.gram(landmarks), lower=True, driver="evd", check_finite=False)
    kept = values > 1e-10 * values.max(initial=0.0)
    return np.asarray(vectors[:, kept][:, ::-1] / np.sqrt(values[kept][::-1]))


class Smoother:
    """G = K(K + kappa I)^-1 of a centred kernel, through one Cholesky factor; K is overwritten by it.

    Args:
        gram: (n, n), the lower triangle of the centred kernel.
        kappa: > 0.
    """

    def __init__(self, gram: Matrix, kappa: float) -> None:
        from scipy.linalg.lapack import dpotrf

        self.kappa = kappa
        gram[np.diag_indices_from(gram)] += kappa
        self._factor, _ = dpotrf(gram, lower=1, clean=0, overwrite_a=1)

    def solve(self, columns: Matrix) -> Matrix:
        """(K + kappa I)^-1 columns (n, b)."""
        from scipy.linalg.lapack import dpotrs

        return np.asarray(dpotrs(self._factor, columns, lower=1)[0])

    def __call__(self, columns: Matrix) -> Matrix:
        """G columns (n, b) = columns - kappa (K + kappa I)^-1 columns."""
        return columns - self.kappa * self.solve(columns)


def krylov_correlations(
    first: Callable[[Matrix], Matrix],
    second: Callable[[Matrix], Matrix],
    n: int,
    k: int,
    *,
    tolerance: float = 1e-9,
    most: int = 40,
    check: Callable[[], None] = lambda: None,
) -> tuple[Vector, Matrix] | None:
    """Leading solutions of (Gx Gt Gx) w = R^2 Gx w by block Krylov and Rayleigh-Ritz, from a fixed start.

    Args:
        first: applies Gx (symmetric, eigenvalues in 0..1, zero on constants) to (n, b).
        second: applies Gt likewise.
        n: number of rows.
        k: how many solutions.
        tolerance: largest relative residual ||Gt Gx w - R^2 w|| / ||w||.
        most: block steps.
        check: called once a step.

    Returns:
        R (k,), descending, and w (n, k) with w'Gx w = 1; None when the tolerance was not reached.
    """
    from scipy.linalg import qr

    block: Matrix = np.random.default_rng(0).standard_normal((n, min(k + 10, n - 1)))
    block, _ = qr(block - block.mean(axis=0), mode="economic", check_finite=False)
    width = block.shape[1]
    room = np.empty((3, min(most * width, n), n))  # only what is used of it takes memory
    norms, squares = np.empty((0, 0)), np.empty((0, 0))
    residuals: list[float] = []
    for step in range(1, most + 1):
        check()
        used = slice(0, step * width)
        basis, once, twice = (part[used].T for part in room)
        new = slice(used.stop - width, used.stop)
        basis[:, new] = block
        once[:, new] = first(block)
        twice[:, new] = second(once[:, new])
        norms = _bordered(norms, basis.T @ once[:, new])
        squares = _bordered(squares, once.T @ twice[:, new])
        found = _largest_ratios(squares, norms, k)
        if found is not None:
            R2, turn = found
            weights = basis @ turn
            residual = np.linalg.norm(twice @ turn - R2 * weights, axis=0) / np.linalg.norm(weights, axis=0)
            residuals.append(float(residual.max()))
            if residuals[-1] <= tolerance:
                return np.sqrt(np.maximum(R2, 0.0)), weights
            if _hopeless(residuals, tolerance, most - step):
                return None
        if used.stop + width >= n:
            return None
        block = twice[:, new]
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
            block = np.asarray(qr(block, mode="economic", check_finite=False)[0], dtype=np.float64)
    return None


def _bordered(matrix: Matrix, columns: Matrix) -> Matrix:
    """A symmetric (m, m) matrix extended by its last columns (m + b, b)."""
    size = len(matrix)
    found = np.empty((len(columns), len(columns)))
    found[:size, :size] = matrix
    found[:, size:] = columns
    found[size:, :size] = columns[:size].T
    return found


def _largest_ratios(squares: Matrix, norms: Matrix, k: int) -> tuple[Vector, Matrix] | None:
    """The k largest solutions of S v = t N v, descending, v'Nv = 1; None if N has not so many directions."""
    from scipy.linalg import eigh

    sizes, turn = eigh(norms, check_finite=False)
    kept = sizes > 1e-14 * sizes[-1]
    turn = turn[:, kept] / np.sqrt(sizes[kept])
    m = turn.shape[1]
    if m < k:
        return None
    values, vectors = eigh(turn.T @ squares @ turn, subset_by_index=(m - k, m - 1), check_finite=False)
    return values[::-1], turn @ vectors[:, ::-1]


def _hopeless(residuals: list[float], tolerance: float, left: int) -> bool:
    """Whether residuals, at the rate of the last six steps, would take twice the steps that are left, and more."""
    if len(residuals) < 20:
        return False
    rate = np.log(residuals[-7] / residuals[-1]) / 6
    return bool(np.log(residuals[-1] / tolerance) > 2 * left * rate)
