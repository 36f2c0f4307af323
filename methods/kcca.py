"""Kernel canonical correlation analysis."""

from __future__ import annotations

from collections.abc import Iterator
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
    krylov_correlations,
    landmark_map,
    median_distance,
    pivots,
)
from xmbench.linalg import (
    BLOCK,
    RANK_TOLERANCE,
    SAFE_RIDGE,
    Kept,
    Matrix,
    align_signs,
    choose_components,
    leading_singular,
    once,
    scatter,
    spectrum,
    whiten_scatter,
)
from xmbench.method import FitContext, MethodInfo

from ._sharing import Sharing

LARGEST_EXACT = 10_000
"""Training pairs up to which ``approximation=auto`` is exact: two kernels of 800 MB. Nystrom beyond."""

LARGEST_EIGH = 1000
"""Training pairs up to which eigenvectors of both kernels are cheap beside the Krylov steps."""

LARGEST_KEPT = 3000
"""Training pairs up to which kernels are kept while tuning."""


Solution = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], list[Vector], tuple[Matrix, Matrix], Vector]
"""Points of both modalities, mean kernel values of training rows with them, weights, correlations."""


class Kcca(Sharing):
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
        image_bandwidth: sigma of the image kernel, in units of the median distance of training rows, > 0.
        text_bandwidth: likewise of the text kernel.
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
    grid: ClassVar = {
        "kappa": (0.1, 1.0, 10.0, 100.0),
        "image_bandwidth": (0.5, 1.0, 2.0),
        "text_bandwidth": (0.5, 1.0, 2.0),
    }
    presets: ClassVar = {"incomplete": {"approximation": "cholesky"}}

    def __init__(
        self,
        n_components: int | None = None,
        image_bandwidth: float = 1.0,
        text_bandwidth: float = 1.0,
        kappa: float = 10.0,
        kernel: Literal["gaussian", "linear"] = "gaussian",
        approximation: Literal["auto", "exact", "nystrom", "cholesky"] = "auto",
        n_landmarks: int = 1000,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.image_bandwidth = image_bandwidth
        self.text_bandwidth = text_bandwidth
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
        for name in ("image_bandwidth", "text_bandwidth", "kappa"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidParameter(f"Kcca.{name}: expected more than 0, got {getattr(self, name)}")
        if self.n_landmarks < 1:
            raise InvalidParameter(f"Kcca.n_landmarks: expected at least 1, got {self.n_landmarks}")
        kept, n = self._kept(train), len(train)
        views = (train.images, train.texts)
        factors = (self.image_bandwidth, self.text_bandwidth)
        medians = once(kept, "medians", lambda: [median_distance(rows) for rows in views])
        means = once(kept, "means", lambda: [rows.mean(axis=0, dtype=np.float64) for rows in views])
        self.bandwidths_ = [f * median for f, median in zip(factors, medians, strict=True)]
        gaussian = self.kernel == "gaussian"
        kernels = [
            Kernel(mean, sigma if gaussian else None)
            for mean, sigma in zip(means, self.bandwidths_, strict=True)
        ]
        wanted = train.n_classes if self.n_components is None else max(self.n_components, 1)
        wanted = min(wanted, n - 1)
        if self.approximation == "exact" or (self.approximation == "auto" and n <= LARGEST_EXACT):
            solution = self._exact(views, kernels, wanted, kept if n <= LARGEST_KEPT else None, context)
        else:
            solution = self._approximate(views, kernels, wanted, context)
        points, means_of_kernels, (a, b), R = solution
        rank = int((RANK_TOLERANCE * R.max(initial=0.0) < R).sum())
        k = choose_components(self.n_components, rank, train.n_classes)
        a, b = align_signs(a[:, :k], b[:, :k])
        self.image_points_, self.text_points_ = points
        self.image_weights_, self.text_weights_ = a, b
        self.image_centre_, self.text_centre_ = means
        self.image_offset_, self.text_offset_ = means_of_kernels[0] @ a, means_of_kernels[1] @ b
        self.correlations_ = R[:k]

    def _exact(
        self,
        views: tuple[NDArray[np.float32], NDArray[np.float32]],
        kernels: list[Kernel],
        k: int,
        kept: Kept | None,
        context: FitContext,
    ) -> Solution:
        n = len(views[0])
        keys = [f"{side} {kernel.bandwidth}" for side, kernel in zip(("image", "text"), kernels, strict=True)]

        def gram(side: int) -> tuple[Matrix, Vector]:
            return centre_gram(kernels[side].gram(views[side]))

        centred = [once(kept, f"gram of {keys[side]}", partial(gram, side)) for side in (0, 1)]
        means = [found[1] for found in centred]
        kappas = [self.kappa * max(float(np.trace(found[0])) / n, 0.0) for found in centred]
        if n > LARGEST_EIGH and 20 * (k + 10) < n and self.kappa >= SAFE_RIDGE * n and all(kappas):
            Gx, Gt = (
                Smoother(found[0].copy(order="F") if kept is not None else found[0], kappa)
                for found, kappa in zip(centred, kappas, strict=True)
            )
            solved = krylov_correlations(Gx, Gt, n, k, check=context.check_deadline)
            if solved is not None:
                R, w = solved
                self.route_ = "krylov"
                a = Gx.solve(w)
                b = Gt.solve(Gx(w)) / np.where(R > 0, R, 1.0)
                scale = np.sqrt(n - 1)
                return views, means, (scale * (a - a.mean(axis=0)), scale * (b - b.mean(axis=0))), R
            if kept is None:
                centred = [gram(side) for side in (0, 1)]  # the factors took their place
        self.route_ = "eigh"
        (lx, Ux), (lt, Ut) = (
            once(kept, f"eigenvectors of {key}", partial(spectrum, found[0]))
            for key, found in zip(keys, centred, strict=True)
        )
        cross = once(kept, f"product of {keys}", lambda: Ux.T @ Ut)
        gx, gt = np.sqrt(lx / (lx + kappas[0])), np.sqrt(lt / (lt + kappas[1]))
        k = min(k, *cross.shape)
        if not k:
            choose_components(None, 0, 1)
        A, R, B = leading_singular(gx[:, None] * cross * gt, k)
        scale = np.sqrt(n - 1)
        a = scale * Ux @ (A / np.sqrt(lx * (lx + kappas[0]))[:, None])
        b = scale * Ut @ (B / np.sqrt(lt * (lt + kappas[1]))[:, None])
        return views, means, (a - a.mean(axis=0), b - b.mean(axis=0)), R

    def _approximate(
        self,
        views: tuple[NDArray[np.float32], NDArray[np.float32]],
        kernels: list[Kernel],
        k: int,
        context: FitContext,
    ) -> Solution:
        n, points, maps = len(views[0]), [], []
        self.route_ = "cholesky" if self.approximation == "cholesky" else "nystrom"
        drawn = np.random.default_rng(self.random_state)
        for rows, kernel in zip(views, kernels, strict=True):
            if self.route_ == "cholesky":
                chosen = pivots(kernel, rows, self.n_landmarks)
            else:
                chosen = np.sort(drawn.choice(n, min(n, self.n_landmarks), replace=False))
            points.append(rows[chosen])
            maps.append(landmark_map(kernel, points[-1]))
            context.check_deadline()
        sums = [np.zeros(len(rows)) for rows in points]
        shifts: list[Matrix] = []

        def features() -> Iterator[list[Matrix]]:
            size = max(1, BLOCK // max(*map(len, points), *(rows.shape[1] for rows in views)))
            for start in range(0, n, size):
                context.check_deadline()
                block = []
                for i, (rows, kernel) in enumerate(zip(views, kernels, strict=True)):
                    values = kernel(rows[start : start + size], points[i])
                    sums[i] += values.sum(axis=0)
                    if len(shifts) == i:
                        shifts.append(values.mean(axis=0) @ maps[i])
                    block.append(values @ maps[i] - shifts[i])
                yield block

        products = scatter(features())
        kappas = [self.kappa * float(np.trace(square)) / n for square in products.within]
        white = whiten_scatter(products, kappas, k)
        k = min(k, *(whitening.rank for whitening in white.maps))
        A, R, B = leading_singular(white.between[0, 1], k)
        scale = np.sqrt(n - 1)
        weights = [
            scale * weigh @ whitening.weights(columns)
            for weigh, whitening, columns in zip(maps, white.maps, (A, B), strict=True)
        ]
        return (points[0], points[1]), [total / n for total in sums], (weights[0], weights[1]), R

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        kernel = self._kernel(0, self.image_centre_)
        return scores(kernel, images, self.image_points_, self.image_weights_) - self.image_offset_

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        kernel = self._kernel(1, self.text_centre_)
        return scores(kernel, texts, self.text_points_, self.text_weights_) - self.text_offset_

    def _kernel(self, side: int, centre: Vector) -> Kernel:
        return Kernel(centre, self.bandwidths_[side] if self.kernel == "gaussian" else None)


def scores(kernel: Kernel, rows: NDArray[Any], points: NDArray[Any], weights: Matrix) -> Matrix:
    """k(rows, points) @ weights (m, k), a block of rows at a time."""
    size = max(1, BLOCK // max(len(points), rows.shape[1]))
    starts = range(0, max(1, len(rows)), size)
    return np.vstack([kernel(rows[start : start + size], points) @ weights for start in starts])


METHOD = Kcca
