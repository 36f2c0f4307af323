"""Canonical correlation analysis."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.linalg import align_signs, choose_components, mean_scatter, whiten
from xmbench.method import FitContext, Method, MethodInfo


class Cca(Method):
    """Projections of both modalities with the largest correlations, regularised by a ridge.

    Objective, for centred X (n, d_image) and T (n, d_text)::

        max tr(P' X'T Q)   subject to   P'(X'X + r_x I)P = Q'(T'T + r_t I)Q = (n - 1) I

    Solver: ridge-whiten both modalities through their thin SVD, then one SVD of the whitened cross
    product; nothing is inverted, and no n x n or d x d matrix is formed beside the factors. With n < d and
    no ridge every correlation is 1 and the projections mean nothing: that is what ``preset=unregularised``
    shows. They are not even determined then: another BLAS gives other ones, and other scores near chance.

    Args:
        n_components: dimension k of the common space; None for the number of classes, or what the rank
            of the data allows if that is less.
        ridge: r_x and r_t in units of the mean diagonal of X'X and T'T, >= 0. The default had the best
            validation score over the default splits of pascal, wikipedia and emoji together.

    Learned: ``image_weights_`` (d_image, k), ``text_weights_`` (d_text, k), ``image_mean_``, ``text_mean_``,
    ``correlations_`` (k,): the regularised correlations, descending.

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
    grid: ClassVar = {"ridge": (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)}
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
        X, T = train.images.astype(np.float64), train.texts.astype(np.float64)
        self.image_mean_, self.text_mean_ = X.mean(axis=0), T.mean(axis=0)
        X -= self.image_mean_
        T -= self.text_mean_
        Wx, Mx = whiten(X, self.ridge * mean_scatter(X))
        Wt, Mt = whiten(T, self.ridge * mean_scatter(T))
        k = choose_components(self.n_components, min(Wx.shape[1], Wt.shape[1]), train.n_classes)
        A, R, Bt = np.linalg.svd(Wx.T @ Wt, full_matrices=False)
        scale = np.sqrt(len(train) - 1)
        self.image_weights_, self.text_weights_ = align_signs(scale * Mx @ A[:, :k], scale * Mt @ Bt[:k].T)
        self.correlations_ = R[:k]

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((images - self.image_mean_) @ self.image_weights_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((texts - self.text_mean_) @ self.text_weights_)


METHOD = Cca
