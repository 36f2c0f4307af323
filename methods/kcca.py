"""Kernel canonical correlation analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.kernels import (
    Kernel,
    Smoother,
    Vector,
    centre_gram,
    distance_blocks,
    krylov_correlations,
    landmark_map,
    median_distance,
    pivots,
)
from xmbench.linalg import (
    BLOCK,
    RANK_TOLERANCE,
    SAFE_RIDGE,
    Matrix,
    Scatter,
    align_signs,
    choose_components,
    leading_singular,
    scatter,
    solved_for,
    spectrum,
    whiten_scatter,
)
from xmbench.method import FitContext, Method, MethodInfo
from xmbench.reuse import Pieces

LARGEST_EXACT = 10_000
"""Training pairs up to which ``approximation=auto`` is exact: two kernels of 800 MB. Nystrom beyond."""

LARGEST_EIGH = 1000
"""Training pairs up to which eigenvectors of both kernels are cheap beside the Krylov steps."""

LARGEST_KEPT = 3000
"""Training pairs up to which tuning keeps kernels, and not their distances alone."""


Views = tuple[NDArray[np.float32], NDArray[np.float32]]
Solution = tuple[str, Views, list[Vector], tuple[Matrix, Matrix], Vector]
"""Route, points of both modalities, mean kernel values of training rows with them, weights, correlations."""


class Kcca(Method):
    """Functions of both modalities with the largest correlations, in the spaces of two Gaussian kernels.

    Objective, for centred kernels K_x and K_t (n, n)::

        max a'K_x K_t b   subject to   a'(K_x^2 + kappa_x K_x)a = b'(K_t^2 + kappa_t K_t)b = n - 1

    with K[i, j] = exp(-|x_i - x_j|^2 / (2 sigma^2)). Without kappa every correlation is 1.

    Solver, ``exact``: with G = K(K + kappa)^-1 the squared correlations are the eigenvalues of
    (G_x G_t G_x) w = R^2 G_x w; block Krylov with one Cholesky factor of each kernel, then
    a = sqrt(n - 1) (K_x + kappa_x)^-1 w and b = sqrt(n - 1) (K_t + kappa_t)^-1 G_x w / R. Up to 1,000 pairs, and
    where kappa is too small or k too large for that, eigenvectors K = U diag(l) U' and one SVD of
    diag(g_x) U_x'U_t diag(g_t), g^2 = l / (l + kappa), instead. ``nystrom``: features that reproduce the kernel on
    random landmarks, then ridge CCA with kappa; ``cholesky``: the same on the pivots of an incomplete Cholesky
    decomposition, whose factor has the inner products of those features.

    Args:
        n_components: dimension k of the common space; None for the number of classes, or what the rank
            of the data allows if that is less.
        bandwidth: sigma of both kernels, each in units of the median distance of its training rows, > 0.
        kappa: both kappas, in units of the mean eigenvalue tr(K) / n of the centred kernels, > 0.
        kernel: ``gaussian``, or ``linear``, with which this is ridge CCA.
        approximation: ``auto`` is ``exact`` up to 10,000 training pairs and ``nystrom`` beyond.
        n_landmarks: most landmarks of each modality, for the two approximations.
        random_state: draws the landmarks of ``nystrom``.

    Learned: ``image_points_`` (m, d_image), training rows that new ones are compared with,
    ``image_weights_`` (m, k) and ``image_offset_`` (k,): a row's scores are k(row, points) @ weights - offset,
    which centres its kernel values as those of training; ``image_centre_`` (d_image,), subtracted from rows and
    points beforehand; ``text_*`` likewise; ``bandwidths_``, the two sigmas; ``correlations_`` (k,), regularised,
    descending; ``route_``: ``krylov``, ``eigh``, ``nystrom`` or ``cholesky``.

    Source: Hardoon, Szedmak, Shawe-Taylor, "Canonical correlation analysis: an overview with application to
    learning methods", Neural Computation 2004, sections 3 and 4.
    """

    info = MethodInfo(
        title="KCCA",
        paper="Hardoon, Szedmak, Shawe-Taylor, Canonical correlation analysis: an overview with application "
        "to learning methods, Neural Computation 16(12), 2004",
        year=2004,
        supervised=False,
        departures=(
            "kappa and bandwidth are relative to the data, and kernels are not decomposed incompletely",
        ),
    )
    grid: ClassVar = {"kappa": (1.0, 10.0, 100.0), "bandwidth": (0.5, 1.0), "n_components": (None, 5)}
    presets: ClassVar = {"incomplete": {"approximation": "cholesky"}}

    def __init__(
        self,
        n_components: int | None = None,
        bandwidth: float = 1.0,
        kappa: float = 10.0,
        kernel: Literal["gaussian", "linear"] = "gaussian",
        approximation: Literal["auto", "exact", "nystrom", "cholesky"] = "auto",
        n_landmarks: int = 1000,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.bandwidth = bandwidth
        self.kappa = kappa
        self.kernel = kernel
        self.approximation = approximation
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    @property
    def departures(self) -> tuple[str, ...]:
        """Incomplete Cholesky decomposition is the paper's own."""
        if self.approximation == "cholesky":
            return ("kappa and bandwidth are relative to the data",)
        return self.info.departures

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        for name in ("bandwidth", "kappa"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidParameter(f"Kcca.{name}: expected more than 0, got {getattr(self, name)}")
        if self.n_landmarks < 1:
            raise InvalidParameter(f"Kcca.n_landmarks: expected at least 1, got {self.n_landmarks}")
        n, views, pieces = len(train), (train.images, train.texts), context.pieces
        medians = pieces.get("medians", lambda: [median_distance(rows) for rows in views])
        means = pieces.get("means", lambda: [rows.mean(axis=0, dtype=np.float64) for rows in views])
        self.image_centre_, self.text_centre_ = means
        self.bandwidths_ = [self.bandwidth * median for median in medians]
        wanted = min(solved_for(self.n_components, train.n_classes), n - 1)
        key = (
            self.approximation,
            self.kernel,
            self.bandwidth,
            self.kappa,
            self.n_landmarks,
            self.random_state,
        )
        if self.approximation == "exact" or (self.approximation == "auto" and n <= LARGEST_EXACT):
            solve = self._exact
        else:
            solve = self._approximate
        self.route_, points, means_of_kernels, (a, b), R = pieces.get(
            (*key, wanted), lambda: solve(views, wanted, pieces, context.check_deadline)
        )
        rank = int((RANK_TOLERANCE * R.max(initial=0.0) < R).sum())
        k = choose_components(self.n_components, rank, train.n_classes)
        a, b = align_signs(a[:, :k], b[:, :k])
        self.image_points_, self.text_points_ = points
        self.image_weights_, self.text_weights_ = a, b
        self.image_offset_, self.text_offset_ = means_of_kernels[0] @ a, means_of_kernels[1] @ b
        self.correlations_ = R[:k]

    def _exact(self, views: Views, k: int, pieces: Pieces, check: Callable[[], None]) -> Solution:
        n = len(views[0])
        grams = pieces if n <= LARGEST_KEPT else Pieces()
        keys = [(side, self.kernel, self.bandwidth) for side in (0, 1)]

        def gram(side: int) -> tuple[Matrix, Vector]:
            kernel, rows = self._kernel(side), self._centred(side, views[side])
            if not pieces.kept or self.kernel == "linear":
                return centre_gram(kernel.gram(rows))
            distances = pieces.get(("distances", side), lambda: list(distance_blocks(rows)))
            return centre_gram(kernel.gram(rows, distances))

        centred = [grams.get(("gram", keys[side]), partial(gram, side)) for side in (0, 1)]
        means = [found[1] for found in centred]
        kappas = [self.kappa * max(float(np.trace(found[0])) / n, 0.0) for found in centred]
        if n > LARGEST_EIGH and 10 * (k + 10) < n and self.kappa >= SAFE_RIDGE * n and all(kappas):
            Gx, Gt = (
                Smoother(found[0].copy(order="F") if grams.kept else found[0], kappa)
                for found, kappa in zip(centred, kappas, strict=True)
            )
            solved = krylov_correlations(Gx, Gt, n, k, check=check)
            if solved is not None:
                R, w = solved
                a = Gx.solve(w)
                b = Gt.solve(Gx(w)) / np.where(R > 0, R, 1.0)
                scale = np.sqrt(n - 1)
                weights = scale * (a - a.mean(axis=0)), scale * (b - b.mean(axis=0))
                return "krylov", views, means, weights, R
            if not grams.kept:
                centred = [gram(side) for side in (0, 1)]  # the factors took their place
        (lx, Ux), (lt, Ut) = (
            grams.get(("spectrum", key), partial(spectrum, found[0]))
            for key, found in zip(keys, centred, strict=True)
        )
        product = grams.get(("product", *keys), lambda: Ux.T @ Ut)
        gx, gt = np.sqrt(lx / (lx + kappas[0])), np.sqrt(lt / (lt + kappas[1]))
        k = min(k, *product.shape)
        if not k:
            choose_components(None, 0, 1)
        A, R, B = leading_singular(gx[:, None] * product * gt, k)
        scale = np.sqrt(n - 1)
        a = scale * Ux @ (A / np.sqrt(lx * (lx + kappas[0]))[:, None])
        b = scale * Ut @ (B / np.sqrt(lt * (lt + kappas[1]))[:, None])
        return "eigh", views, means, (a - a.mean(axis=0), b - b.mean(axis=0)), R

    def _approximate(self, views: Views, k: int, pieces: Pieces, check: Callable[[], None]) -> Solution:
        n = len(views[0])
        route = "cholesky" if self.approximation == "cholesky" else "nystrom"
        key = (route, self.kernel, self.bandwidth, self.n_landmarks, self.random_state)
        points, maps, means, products = pieces.get(key, lambda: self._features(views, route, check))
        kappas = [self.kappa * float(np.trace(square)) / n for square in products.within]
        if pieces.kept:
            products = replace(products, within=[square.copy(order="F") for square in products.within])
        white = whiten_scatter(products, kappas, k)
        k = min(k, *(whitening.rank for whitening in white.maps))
        A, R, B = leading_singular(white.between[0, 1], k)
        scale = np.sqrt(n - 1)
        a, b = (
            scale * weigh @ whitening.weights(columns)
            for weigh, whitening, columns in zip(maps, white.maps, (A, B), strict=True)
        )
        return route, points, means, (a, b), R

    def _features(
        self, views: Views, route: str, check: Callable[[], None]
    ) -> tuple[Views, list[Matrix], list[Vector], Scatter]:
        """Landmarks, the maps from kernel values with them to features, mean kernel values, sums of products."""
        n, kernels = len(views[0]), [self._kernel(side) for side in (0, 1)]
        drawn = np.random.default_rng(self.random_state)
        points, landmarks, maps = [], [], []
        for side, rows in enumerate(views):
            if route == "cholesky":
                chosen = pivots(kernels[side], self._centred(side, rows), self.n_landmarks)
            else:
                chosen = np.sort(drawn.choice(n, min(n, self.n_landmarks), replace=False))
            points.append(rows[chosen])
            landmarks.append(self._centred(side, rows[chosen]))
            maps.append(landmark_map(kernels[side], landmarks[side]))
            check()
        sums = [np.zeros(len(rows)) for rows in points]
        shifts: list[Matrix] = []

        def features() -> Iterator[list[Matrix]]:
            size = max(1, BLOCK // max(*map(len, points), *(rows.shape[1] for rows in views)))
            for start in range(0, n, size):
                check()
                block = []
                for side, rows in enumerate(views):
                    values = kernels[side](self._centred(side, rows[start : start + size]), landmarks[side])
                    sums[side] += values.sum(axis=0)
                    if len(shifts) == side:
                        shifts.append(values.mean(axis=0) @ maps[side])
                    block.append(values @ maps[side] - shifts[side])
                yield block

        products = scatter(features())
        return (points[0], points[1]), maps, [total / n for total in sums], products

    def _kernel(self, side: int) -> Kernel:
        return Kernel(self.bandwidths_[side] if self.kernel == "gaussian" else None)

    def _centred(self, side: int, rows: NDArray[Any]) -> Matrix:
        return np.asarray(rows - (self.image_centre_, self.text_centre_)[side])

    def _scores(self, side: int, rows: NDArray[Any], points: NDArray[Any], weights: Matrix) -> Matrix:
        """k(rows, points) @ weights (m, k), a block of rows at a time."""
        kernel, others = self._kernel(side), self._centred(side, points)
        size = max(1, BLOCK // max(points.shape))
        starts = range(0, max(1, len(rows)), size)
        blocks = (self._centred(side, rows[start : start + size]) for start in starts)
        return np.vstack([kernel(block, others) @ weights for block in blocks])

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._scores(0, images, self.image_points_, self.image_weights_) - self.image_offset_

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._scores(1, texts, self.text_points_, self.text_weights_) - self.text_offset_


METHOD = Kcca
