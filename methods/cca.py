"""Canonical correlation analysis."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.linalg import (
    Matrix,
    align_signs,
    choose_components,
    leading_singular,
    solved_for,
    whiten_views,
)
from xmbench.method import FitContext, MethodInfo
from xmbench.reuse import Pieces

from ._linear import Linear

Vector = NDArray[np.float64]
Solution = tuple[Vector, Vector, Matrix, Matrix, Vector, Vector, int, tuple[str, str]]
"""Means, projections, regularised and empirical correlations, the lower of the two ranks, and the routes."""


class Cca(Linear):
    """Projections of both modalities with the largest correlations, regularised by a ridge.

    Objective, for centred X (n, d_image) and T (n, d_text)::

        max tr(P' X'T Q)   subject to   P'(X'X + r_x I)P = Q'(T'T + r_t I)Q = (n - 1) I

    Solver: ridge-whiten both modalities, X Z_x with Z_x'(X'X + r_x I)Z_x = I, then the leading singular vectors of
    Z_x'X'T Z_t. ``route_`` names how each modality was whitened, all to the same ten digits: ``cholesky``, the
    inverse factor of X'X + r_x I, summed in blocks of rows; ``eigh``, eigenvectors of X'X, where it is small or its
    rank in doubt; ``dual``, those of the n x n matrix XX', with fewer rows than columns; ``svd`` of the rows,
    where squaring them would cost digits (a very small ridge, or none and singular values far apart).
    Directions below 1e-6 of the largest singular value count as rounding noise and are cut.

    With n < d and no ridge every correlation is 1 and the projections mean nothing: that is what
    ``preset=unregularised`` shows. They are not even determined then: another BLAS gives other ones, and other
    scores near chance.

    Args:
        n_components: dimension k of the common space; None for the number of classes, or what the rank
            of the data allows if that is less.
        ridge: r_x and r_t in units of the mean diagonal of X'X and T'T, >= 0. The default had the best
            validation score over the default splits of pascal, wikipedia and emoji together.

    Learned: ``image_weights_`` (d_image, k), ``text_weights_`` (d_text, k), ``image_mean_``, ``text_mean_``,
    ``correlations_`` (k,): the regularised correlations R, descending; ``empirical_correlations_`` (k,): those of the
    columns of XP with those of TQ, R / sqrt((1 - r_x ||p||^2 / (n - 1)) (1 - r_t ||q||^2 / (n - 1)));
    ``route_``: see above.

    Source: Hotelling, "Relations between two sets of variates", Biometrika 1936; the ridge is that of
    Vinod, "Canonical ridge and econometrics of joint production", J. Econometrics 1976.
    """

    info = MethodInfo(
        title="CCA",
        paper="Hotelling, Relations between two sets of variates, Biometrika 28, 1936",
        year=1936,
        supervised=False,
        departures=("a ridge is added (Vinod 1976); preset=unregularised is the method without it",),
    )
    grid: ClassVar = {"ridge": (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0), "n_components": (None, 5)}
    presets: ClassVar = {"unregularised": {"ridge": 0.0}}

    def __init__(self, n_components: int | None = None, ridge: float = 10.0) -> None:
        self.n_components = n_components
        self.ridge = ridge

    @property
    def departures(self) -> tuple[str, ...]:
        """None without a ridge."""
        return () if self.ridge == 0 else self.info.departures

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        if not 0 <= self.ridge < np.inf:
            raise InvalidParameter(f"Cca.ridge: expected at least 0, got {self.ridge}")
        wanted = solved_for(self.n_components, train.n_classes)
        self.image_mean_, self.text_mean_, P, Q, R, empirical, rank, routes = context.pieces.get(
            (self.ridge, wanted), lambda: self._solve(train, wanted, context.pieces)
        )
        k = choose_components(self.n_components, rank, train.n_classes)
        self.image_weights_, self.text_weights_, self.correlations_ = (
            P[:, :k].copy(),
            Q[:, :k].copy(),
            R[:k].copy(),
        )
        self.empirical_correlations_ = empirical[:k].copy()
        self.route_ = dict(zip(("image", "text"), routes, strict=True))

    def _solve(self, train: Pairs, wanted: int, pieces: Pieces) -> Solution:
        white = whiten_views((train.images, train.texts), self.ridge, wanted, pieces=pieces)
        Zx, Zt = white.maps
        rank = min(Zx.rank, Zt.rank)
        if not rank:
            choose_components(None, 0, train.n_classes)
        A, R, B = leading_singular(white.between[0, 1], min(wanted, rank))
        scale = np.sqrt(len(train) - 1)
        P, Q = align_signs(scale * Zx.weights(A), scale * Zt.weights(B))
        shares = [
            1.0 - r * np.einsum("ij,ij->j", weights, weights) / scale**2
            for r, weights in zip(white.ridges, (P, Q), strict=True)
        ]  # of the variance under the constraint, what is not the ridge's
        product = np.maximum(shares[0] * shares[1], np.finfo(float).tiny)
        empirical = np.minimum(R / np.sqrt(product), 1.0)
        image_mean, text_mean = white.means
        return image_mean, text_mean, P, Q, R, empirical, rank, (Zx.route, Zt.route)


METHOD = Cca
