"""Linear algebra that several methods share. Inputs are float64, rows are items, columns are centred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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

    While k is small against the matrix: Lanczos on the Gram matrix of the smaller side, whose vectors then span
    a small problem that is solved without squaring. A full SVD otherwise, and where values lie too close
    together for Lanczos.

    Args:
        matrix: (m, n).
        k: 1 <= k <= min(m, n).
    """
    from scipy.linalg import svd

    smallest = min(matrix.shape)
    basis = None
    if smallest > 50 and k <= smallest // 4 and matrix.any():
        upright = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        basis = _lanczos(upright.T @ upright, k)
    if basis is None:
        left, values, right = svd(matrix, full_matrices=False, check_finite=False)
        left, right = left[:, :k], right[:k].T
    else:
        left, values, turn = svd(upright @ basis, full_matrices=False, check_finite=False)
        right = basis @ turn.T
        if upright is not matrix:
            left, right = right, left
    left, right = align_signs(left, right)
    return left, np.asarray(values[:k], dtype=np.float64), right


def _lanczos(symmetric: Any, k: int) -> Matrix | None:
    """Vectors (n, k) of the k largest eigenvalues of a matrix or operator, from a fixed start; None if too slow."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.random.default_rng(0).standard_normal(symmetric.shape[0])
    try:
        return np.asarray(eigsh(symmetric, k=k, which="LA", v0=start, maxiter=50)[1])
    except ArpackNoConvergence:
        return None


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


# -- whitening without an SVD of the rows -----------------------------------------------------------

SAFE_RIDGE = 1e-7
"""Least ridge, as a share of the largest eigenvalue, at which squaring the rows costs no digit that matters."""

SAFE_SQUARE, SAFE_RANK = 1e-5, 1e-8
"""Least eigenvalue kept, as a share of the largest, at which the same holds without a ridge: at once, and after
the whitened rows have been whitened again."""

SMALL = 512
"""Columns up to which eigenvectors cost little beside the sums of products."""

BLOCK = 2**22
"""Numbers in one block of rows (32 MB)."""

Kept = dict[str, Any]
"""Decompositions of the training rows alone, kept for further fits to the same rows."""


def once(kept: Kept | None, key: str, compute: Callable[[], Any]) -> Any:
    """What ``compute`` returns, from ``kept`` where it was computed before."""
    if kept is None:
        return compute()
    if key not in kept:
        kept[key] = compute()
    return kept[key]


def centred_blocks(
    views: Sequence[NDArray[Any]], means: Sequence[NDArray[np.float64]]
) -> Iterator[list[Matrix]]:
    """The rows of all views, a block at a time, centred in float64; each block overwrites the one before."""
    n, widest = len(views[0]), max(view.shape[1] for view in views)
    size = min(n, max(1, BLOCK // widest))
    room = [np.empty((size, view.shape[1])) for view in views]
    for start in range(0, n, size):
        stop = min(n, start + size)
        yield [
            np.subtract(view[start:stop], mean, out=block[: stop - start])
            for view, mean, block in zip(views, means, room, strict=True)
        ]


@dataclass(frozen=True)
class Scatter:
    """Sums of products of centred views X_0, X_1, ...

    Args:
        n: number of rows.
        within: X_i'X_i (d_i, d_i) of each view; its lower triangle alone.
        between: X_i'X_j (d_i, d_j) for i < j.
        shifts: (d_i,) means of the views as they came.
    """

    n: int
    within: list[Matrix]
    between: dict[tuple[int, int], Matrix]
    shifts: list[NDArray[np.float64]]


def scatter(blocks: Iterable[Sequence[Matrix]], *, within: bool = True) -> Scatter:
    """Sums of products, accumulated in place; what is left of a mean in the blocks is taken out at the end.

    Args:
        blocks: for each block of rows one C-contiguous matrix per view, about centred.
        within: whether X_i'X_i are wanted; they stay zero otherwise.
    """
    from scipy.linalg.blas import dgemm, dsyr, dsyrk

    n, sums, squares, products = 0, [], [], {}
    for block in blocks:
        if not n:
            widths = [rows.shape[1] for rows in block]
            sums = [np.zeros(d) for d in widths]
            squares = [np.zeros((d, d) if within else (0, 0), order="F") for d in widths]
            products = {
                (i, j): np.zeros((widths[i], widths[j]), order="F")
                for j in range(len(widths))
                for i in range(j)
            }
        n += len(block[0])
        for i, rows in enumerate(block):
            sums[i] += rows.sum(axis=0)
            if within:
                squares[i] = dsyrk(1.0, rows.T, beta=1.0, c=squares[i], lower=1, overwrite_c=1)
        for (i, j), total in products.items():
            products[i, j] = dgemm(1.0, block[i].T, block[j].T, beta=1.0, c=total, trans_b=1, overwrite_c=1)
    means = [total / n for total in sums]
    if within:
        squares = [
            dsyr(-n, mean, a=square, lower=1, overwrite_a=1) if mean.any() else square
            for mean, square in zip(means, squares, strict=True)
        ]
    for (i, j), total in products.items():
        total -= np.outer(n * means[i], means[j])
    return Scatter(n, squares, products, means)


@dataclass(frozen=True)
class Whitening:
    """A map Z (d, rank) of one view with Z'(X'X + ridge I)Z = I.

    Args:
        route: how it was found: ``cholesky`` (Z' is an inverse Cholesky factor), ``eigh`` (eigenvectors of the
            d x d scatter), ``dual`` (those of the n x n Gram matrix of the rows) or ``svd`` (of the rows).
        rank: its columns; with ``cholesky`` the rank is known only to be enough.
        weights: A (rank, k) -> Z A.
        project: S (d, m) -> Z'S.
        rows: X Z (n, rank), on the routes that go over rows.
    """

    route: str
    rank: int
    weights: Callable[[Matrix], Matrix]
    project: Callable[[Matrix], Matrix]
    rows: Matrix | None = None


def _explicit(route: str, matrix: Matrix, rows: Matrix | None = None) -> Whitening:
    return Whitening(route, matrix.shape[1], lambda A: matrix @ A, lambda S: matrix.T @ S, rows)


def _enough_rank(square: Matrix, k: int) -> tuple[float, bool]:
    """The largest eigenvalue (from below, closely) of a large matrix, and whether k lie above the rank cut.

    A few columns of its Krylov space bound the eigenvalues from below.
    """
    from scipy.linalg import eigh
    from scipy.linalg.blas import dsymm

    start = np.random.default_rng(0).standard_normal((len(square), min(len(square), k + 10)))
    basis, _ = np.linalg.qr(dsymm(1.0, square, start, lower=1))
    values = eigh(basis.T @ dsymm(1.0, square, basis, lower=1), eigvals_only=True)[::-1]
    return float(values[0]), k <= len(values) and bool(values[k - 1] > 4 * RANK_TOLERANCE**2 * values[0])


def _whiten_square(
    square: Matrix, ridge: float, k: int, kept: Kept | None, key: str, strict: bool
) -> Whitening | None:
    """Whitening from X'X (lower triangle, overwritten unless ``kept``); None where that would cost digits."""
    from scipy.linalg.blas import dtrsm
    from scipy.linalg.lapack import dpotrf

    if len(square) > SMALL:
        most, enough = once(kept, f"rank of {key}, {k}", lambda: _enough_rank(square, k))
        safe = ridge >= SAFE_RIDGE * most
        if strict and not safe:
            return None
        if safe and enough:
            factor = square.copy(order="F") if kept is not None else square
            factor[np.diag_indices_from(factor)] += ridge
            factor, _ = dpotrf(factor, lower=1, clean=0, overwrite_a=1)
            return Whitening(
                "cholesky",
                len(factor),
                lambda A: np.asarray(dtrsm(1.0, factor, A, lower=1, trans_a=1)),
                lambda S: np.asarray(dtrsm(1.0, factor, S, lower=1)),
            )
    values, vectors = once(kept, f"eigenvectors of {key}", lambda: spectrum(square))
    largest = values.max(initial=0.0)
    if (
        strict
        and ridge < SAFE_RIDGE * largest
        and (ridge or values.min(initial=largest) < SAFE_SQUARE * largest)
    ):
        return None
    return _explicit("eigh", vectors / np.sqrt(values + ridge))


def spectrum(square: Matrix) -> tuple[NDArray[np.float64], Matrix]:
    """Eigenvalues above the rank cut, descending, and their vectors; of the lower triangle."""
    from scipy.linalg import eigh

    values, vectors = eigh(square, lower=True, driver="evd", check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > RANK_TOLERANCE**2 * max(values.max(initial=0.0), 0.0)
    return values[kept], vectors[:, kept]


def _whiten_rows(rows: Matrix, ridge: float, kept: Kept | None, key: str) -> Whitening:
    """Whitening from centred rows: of the smaller of X'X and XX' where that costs no digit, else of X."""
    from scipy.linalg.blas import dsyrk

    n, d = rows.shape
    if ridge or n > d:
        values, vectors = once(
            kept,
            f"eigenvectors of rows of {key}",
            lambda: spectrum(dsyrk(1.0, rows.T, lower=1, trans=int(n <= d))),
        )
        largest = values.max(initial=0.0)
        if ridge and ridge >= SAFE_RIDGE * largest:
            root = np.sqrt(values + ridge)
            if n > d:
                return _explicit("eigh", vectors / root, rows @ (vectors / root))
            scaled = vectors / (root * np.sqrt(values))
            return Whitening(
                "dual",
                len(values),
                lambda A: rows.T @ (scaled @ A),
                lambda S: scaled.T @ (rows @ S),
                vectors * (np.sqrt(values) / root),
            )
        smallest = values.min(initial=largest)
        if not ridge and n > d and smallest >= SAFE_RANK * largest:
            weights = vectors / np.sqrt(values)
            if smallest >= SAFE_SQUARE * largest:
                return _explicit("eigh", weights, rows @ weights)
            return _explicit("eigh", *_whiten_again(rows, weights))
    white, weights = once(kept, f"whitened {key}, {ridge}", lambda: whiten(rows, ridge))
    return _explicit("svd", weights, white)


def _whiten_again(rows: Matrix, weights: Matrix) -> tuple[Matrix, Matrix]:
    """Z and X Z, for a Z that whitens but for rounding: the digits that squaring lost are won back."""
    from scipy.linalg import cholesky, solve_triangular

    white = rows @ weights
    factor = cholesky(white.T @ white)
    correction = solve_triangular(factor, np.eye(len(factor)))
    return weights @ correction, white @ correction


@dataclass(frozen=True)
class WhiteViews:
    """Views in whitened coordinates.

    Args:
        means: (d_i,) of each view.
        maps: the whitening Z_i of each view.
        between: Z_i'X_i'X_j Z_j for i < j.
    """

    means: list[NDArray[np.float64]]
    maps: list[Whitening]
    between: dict[tuple[int, int], Matrix]


def whiten_scatter(sums: Scatter, ridges: Sequence[float], k: int) -> WhiteViews:
    """Views whitened from their sums of products alone, which are overwritten.

    Cholesky factors where the rank is certain to be at least k and the view wide, else eigenvectors.

    Args:
        sums: of the views.
        ridges: added to the eigenvalues of each X_i'X_i, > 0; below 1e-7 of the largest they cost digits.
        k: how many directions will be wanted.
    """
    found = _white_views(sums, ridges, k, None, strict=False)
    assert found is not None
    return found


def _white_views(
    sums: Scatter, ridges: Sequence[float], k: int, kept: Kept | None, *, strict: bool
) -> WhiteViews | None:
    """None where a ridge is so small that squaring the rows costs digits, and ``strict`` forbids that."""
    maps = []
    for i, (square, ridge) in enumerate(zip(sums.within, ridges, strict=True)):
        found = _whiten_square(square, ridge, k, kept, f"view {i}", strict)
        if found is None:
            return None
        maps.append(found)
    between = {
        (i, j): maps[j].project(maps[i].project(product).T).T for (i, j), product in sums.between.items()
    }
    return WhiteViews(sums.shifts, maps, between)


def whiten_views(
    views: Sequence[NDArray[Any]], ridge: float, k: int, *, kept: Kept | None = None
) -> WhiteViews:
    """Views (n, d_i) whitened with one ridge, each by the cheapest route that keeps ten digits.

    With more rows than columns, and a ridge or few columns: from sums of products, gathered in blocks, so that
    nothing of the size of the rows is made. Otherwise over centred rows: see :class:`Whitening` for the routes.

    Args:
        views: float matrices with the same n.
        ridge: in units of the mean diagonal of each X_i'X_i, >= 0.
        k: how many directions will be wanted.
        kept: for further calls with the same views.
    """
    means = once(kept, "means", lambda: [view.mean(axis=0, dtype=np.float64) for view in views])
    widest = max(view.shape[1] for view in views)
    if len(views[0]) > widest and (ridge or widest <= SMALL):
        sums = once(kept, "scatter", lambda: scatter(centred_blocks(views, means)))
        ridges = [ridge * max(float(np.trace(square)), 0.0) / len(square) for square in sums.within]
        found = _white_views(sums, ridges, k, kept, strict=True)
        if found is not None:
            return WhiteViews(
                [m + s for m, s in zip(means, sums.shifts, strict=True)], found.maps, found.between
            )
        del sums
    rows = once(
        kept,
        "rows",
        lambda: [view.astype(np.float64) - mean for view, mean in zip(views, means, strict=True)],
    )
    maps = [_whiten_rows(x, ridge * mean_scatter(x), kept, f"view {i}") for i, x in enumerate(rows)]
    white = [np.asarray(whitening.rows) for whitening in maps]
    between = {(i, j): white[i].T @ white[j] for j in range(len(white)) for i in range(j)}
    return WhiteViews(means, maps, between)


def multiview_directions(
    between: dict[tuple[int, int], Matrix], ranks: Sequence[int], k: int
) -> tuple[NDArray[np.float64], list[Matrix]]:
    """The k largest eigenvalues, and vectors, of whitened views side by side.

    The matrix has the identity of each rank on its diagonal and the products of the views elsewhere; with two
    views its eigenvalues are 1 + the canonical correlations, 1 and 1 - those.

    Args:
        between: C_ij (r_i, r_j) for i < j.
        ranks: r_i of each view.
        k: at most the sum of the ranks.

    Returns:
        Eigenvalues (k,), descending, and for each view its rows (r_i, k) of the unit eigenvectors.
    """
    from scipy.linalg import eigh
    from scipy.sparse.linalg import LinearOperator

    edges = np.cumsum([0, *ranks])
    size = int(edges[-1])
    parts = [slice(start, stop) for start, stop in pairwise(edges)]

    def apply(vectors: Matrix) -> Matrix:
        result = vectors.copy()
        for (i, j), product in between.items():
            result[parts[i]] += product @ vectors[parts[j]]
            result[parts[j]] += product.T @ vectors[parts[i]]
        return result

    found = None
    if size > 600 and k <= size // 4:
        found = _lanczos(LinearOperator((size, size), matvec=apply, matmat=apply, dtype=np.float64), k)
    if found is None:
        values, vectors = eigh(apply(np.eye(size)), subset_by_index=(size - k, size - 1))
    else:
        values, turn = eigh(found.T @ apply(found))
        vectors = found @ turn
    return np.asarray(values[::-1]), [vectors[part, ::-1] for part in parts]
