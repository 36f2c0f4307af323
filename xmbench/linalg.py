"""Linear algebra that several methods share. Inputs are float64, rows are items, columns are centred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, Unsupported
from xmbench.reuse import Pieces

Matrix = NDArray[np.float64]

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero. Features stored as float32 carry
rounding noise near 1e-7, which a smaller tolerance would take for directions of the data."""


def thin_svd(rows: Matrix) -> tuple[Matrix, NDArray[np.float64], Matrix]:
    """U (n, r), s (r,) and V (d, r) of rows = U diag(s) V', r the rank after the cut; 0 for rows of zeros.

    Centred rows are whitened with a ridge as U diag(s / sqrt(s^2 + ridge)), the rows times V diag(1 / sqrt(s^2 +
    ridge)), so that no covariance is inverted.
    """
    from scipy.linalg import svd

    left, values, right = svd(rows, full_matrices=False, check_finite=False)
    kept = values > RANK_TOLERANCE * values.max(initial=0.0)
    return left[:, kept], values[kept], right[kept].T


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

    While k is small against the matrix: the leading eigenvectors of the Gram matrix of its smaller side, by Lanczos
    or, where values lie too close together for that, by a dense solver; they span a small problem that is solved
    without squaring. A full SVD otherwise.

    Args:
        matrix: (m, n).
        k: 1 <= k <= min(m, n).
    """
    from scipy.linalg import eigh, svd

    smallest = min(matrix.shape)
    basis = None
    if smallest > 50 and k <= smallest // 4 and matrix.any():
        upright = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        gram = upright.T @ upright
        basis = _lanczos(gram, k)
        if basis is None:
            basis = eigh(gram, subset_by_index=(smallest - k, smallest - 1), overwrite_a=True)[1]
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


def solved_for(n_components: int | None, n_classes: int) -> int:
    """How many directions to solve for: at least ten, so that tuning need not solve anew for fewer of them."""
    return max(n_components or 0, n_classes, 10)


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

BLOCK, CACHED = 2**22, 2**18
"""Numbers in one block of rows (32 MB), and in a part of it that stays in a core's cache (2 MB)."""


def centred_blocks(
    views: Sequence[NDArray[Any]], means: Sequence[NDArray[np.float64]]
) -> Iterator[list[Matrix]]:
    """The rows of all views, a block at a time, centred in float64; each block overwrites the one before."""
    n, widest = len(views[0]), max(view.shape[1] for view in views)
    size = min(n, max(1, BLOCK // widest))
    room = [np.empty((size, view.shape[1])) for view in views]
    for start in range(0, n, size):
        stop = min(n, start + size)
        for view, mean, block in zip(views, means, room, strict=True):
            step = max(1, CACHED // view.shape[1])
            for first in range(start, stop, step):
                part = block[first - start : min(first + step, stop) - start]
                part[:] = view[first : first + len(part)]
                part -= mean
        yield [block[: stop - start] for block in room]


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
    """

    route: str
    rank: int
    weights: Callable[[Matrix], Matrix]


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
    square: Matrix, ridge: float, k: int, pieces: Pieces, view: int, strict: bool
) -> tuple[Whitening, Callable[[Matrix], Matrix]] | None:
    """Z, and S -> Z'S, from X'X (lower triangle, overwritten unless kept); None where that would cost digits."""
    from scipy.linalg.blas import dtrsm
    from scipy.linalg.lapack import dpotrf

    if len(square) > SMALL:
        most, enough = pieces.get(("rank", view, k), lambda: _enough_rank(square, k))
        safe = ridge >= SAFE_RIDGE * most
        if strict and not safe:
            return None
        if safe and enough:
            factor = square.copy(order="F") if pieces.kept else square
            factor[np.diag_indices_from(factor)] += ridge
            factor, _ = dpotrf(factor, lower=1, clean=0, overwrite_a=1)
            back = partial(dtrsm, 1.0, factor, lower=1, trans_a=1)
            return Whitening("cholesky", len(factor), back), partial(dtrsm, 1.0, factor, lower=1)
    values, vectors = pieces.get(("spectrum", view), lambda: spectrum(square))
    if strict and not _squaring_is_safe(values, ridge):
        return None
    Z = vectors / np.sqrt(values + ridge)
    return Whitening("eigh", Z.shape[1], lambda A: Z @ A), lambda S: Z.T @ S


def _squaring_is_safe(eigenvalues: NDArray[np.float64], ridge: float) -> bool:
    largest = eigenvalues.max(initial=0.0)
    if ridge:
        return bool(ridge >= SAFE_RIDGE * largest)
    return bool(eigenvalues.min(initial=largest) >= SAFE_SQUARE * largest)


def spectrum(square: Matrix) -> tuple[NDArray[np.float64], Matrix]:
    """Eigenvalues above the rank cut, descending, and their vectors; of the lower triangle."""
    from scipy.linalg import eigh

    values, vectors = eigh(square, lower=True, driver="evd", check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > RANK_TOLERANCE**2 * max(values.max(initial=0.0), 0.0)
    return values[kept], vectors[:, kept]


@dataclass(frozen=True)
class Factors:
    """Centred rows as U diag(s) V'.

    Args:
        route: ``eigh``, ``dual`` or ``svd``, as of :class:`Whitening`.
        left: U (n, r).
        values: s (r,).
        right: A (r, k) -> V A.
    """

    route: str
    left: Matrix
    values: NDArray[np.float64]
    right: Callable[[Matrix], Matrix]

    def weights(self, root: NDArray[np.float64], A: Matrix) -> Matrix:
        """V diag(1 / root) A."""
        return self.right(A / root[:, None])


def _factorise(rows: Matrix, ridge: float, pieces: Pieces, view: int) -> tuple[str, Factors]:
    """Factors by the cheapest way that costs no digit, and its name.

    ``gram``: from the smaller of X'X and XX'. ``again``: from these too, and the whitened rows, which stand in
    for U with s = 1, are whitened once more. ``svd``: of the rows.
    """
    squares, vectors = pieces.get(("spectrum of rows", view), lambda: spectrum(_smaller_gram(rows)))
    if _squaring_is_safe(squares, ridge):
        way, make = "gram", partial(_by_gram, rows, squares, vectors)
    elif not ridge and squares.min() >= SAFE_RANK * squares.max():
        way, make = "again", partial(_by_whitening, rows, squares, vectors)
    else:
        way, make = "svd", partial(_by_svd, rows)
    return way, pieces.get(("factors", view, way), make)


def _smaller_gram(rows: Matrix) -> Matrix:
    """Lower triangle of X'X, or of XX' where there are fewer rows than columns."""
    from scipy.linalg.blas import dsyrk

    return np.asarray(dsyrk(1.0, rows.T, lower=1, trans=int(rows.shape[0] <= rows.shape[1])))


def _by_gram(rows: Matrix, squares: NDArray[np.float64], vectors: Matrix) -> Factors:
    s = np.sqrt(squares)
    if rows.shape[0] > rows.shape[1]:
        return Factors("eigh", rows @ (vectors / s), s, lambda A: vectors @ A)
    return Factors("dual", vectors, s, lambda A: rows.T @ (vectors @ (A / s[:, None])))


def _by_whitening(rows: Matrix, squares: NDArray[np.float64], vectors: Matrix) -> Factors:
    """The digits that squaring lost are won back."""
    from scipy.linalg import cholesky, solve_triangular

    tall = rows.shape[0] > rows.shape[1]
    Z = vectors / np.sqrt(squares) if tall else rows.T @ (vectors / squares)
    white = rows @ Z
    factor = cholesky(white.T @ white)
    correction = solve_triangular(factor, np.eye(len(factor)))
    Z, white = Z @ correction, white @ correction
    return Factors("eigh" if tall else "dual", white, np.ones(len(squares)), lambda A: Z @ A)


def _by_svd(rows: Matrix) -> Factors:
    left, values, right = thin_svd(rows)
    return Factors("svd", left, values, lambda A: right @ A)


@dataclass(frozen=True)
class WhiteViews:
    """Views in whitened coordinates.

    Args:
        means: (d_i,) of each view.
        maps: the whitening Z_i of each view.
        between: Z_i'X_i'X_j Z_j for i < j.
        ridges: of each view, in the units of X_i'X_i.
    """

    means: list[NDArray[np.float64]]
    maps: list[Whitening]
    between: dict[tuple[int, int], Matrix]
    ridges: list[float]


def whiten_scatter(sums: Scatter, ridges: Sequence[float], k: int) -> WhiteViews:
    """Views whitened from their sums of products alone, which are overwritten.

    Cholesky factors where the rank is certain to be at least k and the view wide, else eigenvectors.

    Args:
        sums: of the views.
        ridges: added to the eigenvalues of each X_i'X_i, > 0; below 1e-7 of the largest they cost digits.
        k: how many directions will be wanted.
    """
    found = _whiten_squares(sums, ridges, k, Pieces(), strict=False)
    assert found is not None
    return found


def _whiten_squares(
    sums: Scatter, ridges: Sequence[float], k: int, pieces: Pieces, *, strict: bool
) -> WhiteViews | None:
    """None where a ridge is so small that squaring the rows costs digits, and ``strict`` forbids that."""
    maps, projections = [], []
    for i, (square, ridge) in enumerate(zip(sums.within, ridges, strict=True)):
        found = _whiten_square(square, ridge, k, pieces, i, strict)
        if found is None:
            return None
        maps.append(found[0])
        projections.append(found[1])
    between = {(i, j): projections[j](projections[i](S).T).T for (i, j), S in sums.between.items()}
    return WhiteViews(sums.shifts, maps, between, list(ridges))


def _whiten_rows(
    rows: Sequence[Matrix], means: list[NDArray[np.float64]], ridge: float, pieces: Pieces
) -> WhiteViews:
    """With X_i = U_i diag(s_i) V_i', X_i Z_i = U_i diag(g_i) for the gains g = s / sqrt(s^2 + ridge)."""
    maps, ways, found, gains, ridges = [], [], [], [], []
    for i, x in enumerate(rows):
        r = ridge * mean_scatter(x)
        way, factors = _factorise(x, r, pieces, i)
        root = np.sqrt(factors.values**2 + r)
        maps.append(Whitening(factors.route, len(root), partial(factors.weights, root)))
        ways.append(way)
        found.append(factors)
        gains.append(factors.values / root)
        ridges.append(r)
    between = {}
    for i, j in combinations(range(len(rows)), 2):
        key, sides = ("product", i, j, ways[i], ways[j]), (found[i].left.T, found[j].left)
        product = pieces.get(key, partial(np.matmul, *sides))
        between[i, j] = gains[i][:, None] * product * gains[j]
    return WhiteViews(means, maps, between, ridges)


def whiten_views(
    views: Sequence[NDArray[Any]], ridge: float, k: int, *, pieces: Pieces | None = None
) -> WhiteViews:
    """Views (n, d_i) whitened with one ridge, each by the cheapest route that keeps ten digits.

    With more rows than columns, and a ridge or few columns: from sums of products, gathered in blocks, so that
    nothing of the size of the rows is made. Otherwise over centred rows: see :class:`Whitening` for the routes.

    Args:
        views: float matrices with the same n.
        ridge: in units of the mean diagonal of each X_i'X_i, >= 0.
        k: how many directions will be wanted.
        pieces: for further calls with the same views.
    """
    pieces = Pieces() if pieces is None else pieces
    means = pieces.get("means", lambda: [view.mean(axis=0, dtype=np.float64) for view in views])
    widest = max(view.shape[1] for view in views)
    if len(views[0]) > widest and (ridge or widest <= SMALL):
        sums = pieces.get("scatter", lambda: scatter(centred_blocks(views, means)))
        ridges = [ridge * max(float(np.trace(square)), 0.0) / len(square) for square in sums.within]
        found = _whiten_squares(sums, ridges, k, pieces, strict=True)
        if found is not None:
            shifted = [mean + shift for mean, shift in zip(means, sums.shifts, strict=True)]
            return WhiteViews(shifted, found.maps, found.between, found.ridges)
        del sums
    rows = pieces.get(
        "rows", lambda: [view.astype(np.float64) - mean for view, mean in zip(views, means, strict=True)]
    )
    return _whiten_rows(rows, means, ridge, pieces)


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
