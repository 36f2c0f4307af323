"""Ridge regression of each modality on the labels: a control."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.linalg import mean_scatter
from xmbench.method import FitContext, MethodInfo
from xmbench.reuse import Pieces
from xmbench.reweighting import Quadratic

from ._linear import Linear


class RidgeLabels(Linear):
    """Each modality predicts the class indicators linearly; the predictions are the common space.

    Objective, for centred X (n, d) of either modality and Y (n, c), one-hot or multi-hot::

        min over P:   ||X P - Y||_F^2 + r ||P||_F^2

    Solver: P = (X'X + r I)^{-1} X'Y by Cholesky; with fewer rows than columns through the n x n system. The two
    modalities share nothing but Y, and pairs are not used. What a method that learns from labels *and* pairs
    adds is its distance from this row.

    Args:
        ridge: r in units of the mean diagonal of X'X, > 0. The default had the best validation score over
            the default splits of pascal, wikipedia and emoji together.

    Learned: ``image_weights_`` (d_image, c), ``text_weights_`` (d_text, c), ``image_mean_``, ``text_mean_``.

    Source: none; a control. The estimator is that of Hoerl and Kennard, "Ridge regression", Technometrics 1970.
    Y needs no centring (X'Y does not change), and no constant is added to the predictions.
    """

    info = MethodInfo(
        title="Ridge on labels (control)",
        paper="none: a control",
        year=2026,
        supervised=True,
        control=True,
    )
    grid: ClassVar = {"ridge": (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4)}

    def __init__(self, ridge: float = 3.0) -> None:
        self.ridge = ridge

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        if not 0 < self.ridge < np.inf:
            raise InvalidParameter(f"RidgeLabels.ridge: expected more than 0, got {self.ridge}")
        Y = train.one_hot()
        self.image_mean_, self.image_weights_ = self._regress(train.images, Y, "images", context.pieces)
        self.text_mean_, self.text_weights_ = self._regress(train.texts, Y, "texts", context.pieces)

    def _regress(
        self, rows: NDArray[np.float32], Y: NDArray[np.float64], name: str, pieces: Pieces
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        X = rows.astype(np.float64)
        mean = X.mean(axis=0)
        X -= mean
        r = self.ridge * (mean_scatter(X) or 1.0)  # of rows that are all the same, P = 0 whatever r is
        problem = Quadratic(X, {"fit": (1.0, None)}, pieces, name)
        return mean, problem.solve(np.full(X.shape[1], r), Y)


METHOD = RidgeLabels
