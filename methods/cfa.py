"""Cross-modal factor analysis."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from xmbench.data import Pairs
from xmbench.linalg import (
    RANK_TOLERANCE,
    Matrix,
    centred_blocks,
    choose_components,
    leading_singular,
    scatter,
)
from xmbench.method import FitContext, MethodInfo

from ._linear import Linear


class Cfa(Linear):
    """Orthonormal projections that bring the two modalities of a pair nearest to each other.

    Objective, for centred X (n, d_image) and T (n, d_text)::

        min ||X A - T B||_F^2   subject to   A'A = B'B = I

    With square A and B the optimum is the SVD X'T = A S B'; the first k columns maximise tr(A'X'T B), the sum
    of the k largest singular values. Not invariant to the scale of the features. X'T is summed in blocks of rows;
    its leading triplets come from Lanczos while k is small against it, and from a full SVD otherwise.

    Args:
        n_components: dimension k of the common space; None for the number of classes, or what the rank
            of X'T allows if that is less.

    Learned: ``image_weights_`` (d_image, k), ``text_weights_`` (d_text, k), ``image_mean_``, ``text_mean_``,
    ``singular_values_`` (k,), descending.

    Source: Li, Dimitrova, Li, Sethi, "Multimedia content processing through cross-modal association",
    ACM Multimedia 2003, section 3.3. Does not differ from it.
    """

    info = MethodInfo(
        title="CFA",
        paper="Li, Dimitrova, Li, Sethi, Multimedia content processing through cross-modal association, "
        "ACM Multimedia 2003",
        year=2003,
        supervised=False,
    )
    grid: ClassVar = {"n_components": (None, 3, 4, 5, 6, 7, 8, 9, 12, 15, 30, 50)}

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        views = (train.images, train.texts)
        means = [rows.mean(axis=0, dtype=np.float64) for rows in views]
        self.image_mean_, self.text_mean_ = means

        def product() -> Matrix:
            return scatter(centred_blocks(views, means), within=False).between[0, 1]

        cross = context.pieces.get("cross product", product)
        most = min(*cross.shape, len(train) - 1)
        k = choose_components(self.n_components, most, train.n_classes)
        A, S, B = leading_singular(cross, k)
        rank = int((RANK_TOLERANCE * S.max(initial=0.0) < S).sum())
        k = choose_components(self.n_components, rank, train.n_classes)
        self.image_weights_, self.text_weights_, self.singular_values_ = A[:, :k], B[:, :k], S[:k]


METHOD = Cfa
