"""Three-view canonical correlation analysis: images, texts and class labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.linalg import align_signs, choose_components, multiview_directions, whiten_views
from xmbench.method import FitContext, MethodInfo

from ._linear import Linear


class Cca3v(Linear):
    """Projections of images, texts and class labels in which each two of the three correlate most.

    Objective, for centred X (n, d_image), T (n, d_text) and one-hot labels C (n, c) as third view: with the blocks
    S_ij = X_i'X_j / (n - 1) and a ridge on each S_ii, the leading solutions of the generalised eigenproblem ::

        [ S_11 S_12 S_13 ]       [ S_11   0    0  ]
        [ S_21 S_22 S_23 ] w = t [  0   S_22   0  ] w
        [ S_31 S_32 S_33 ]       [  0     0  S_33 ]

    scaled to W'S_diag W = I. A row is encoded as x W_1 diag(t^power): directions that correlate more count more
    in the cosine. Labels are used in training alone.

    Solver: each view is ridge-whitened as in ``cca`` (``route_`` names how), after which the blocks of the
    diagonal are the identity and an ordinary eigenproblem is left; Lanczos with a fixed start where it is large.
    With two views t = 1 + the correlation of CCA.

    Args:
        n_components: dimension k of the common space; None for the number of classes, or what the rank
            of images and texts allows if that is less.
        ridge: in units of the mean diagonal of each S_ii, > 0.
        power: of the eigenvalues in the embedding, >= 0.

    Learned: ``image_weights_`` (d_image, k) and ``text_weights_`` (d_text, k), with the power; ``label_weights_``
    (c, k), without it; ``image_mean_``, ``text_mean_``; ``eigenvalues_`` (k,), descending; ``route_``.

    Source: Gong, Ke, Isard, Lazebnik, "A multi-view embedding space for modeling Internet images, tags, and their
    semantics", IJCV 2014, sections on the three-view formulation and its similarity function.
    """

    info = MethodInfo(
        title="CCA-3V",
        paper="Gong, Ke, Isard, Lazebnik, A Multi-View Embedding Space for Modeling Internet Images, Tags, and "
        "their Semantics, IJCV 106, 2014",
        year=2014,
        supervised=True,
        departures=(
            "no explicit kernel maps: the scaled features themselves are the views",
            "the ridge is relative to the mean variance of each view",
        ),
    )
    grid: ClassVar = {"ridge": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "power": (0.0, 2.0, 4.0)}
    presets: ClassVar = {"paper": {"ridge": 1e-4, "power": 4.0}}

    def __init__(self, n_components: int | None = None, ridge: float = 1.0, power: float = 4.0) -> None:
        self.n_components = n_components
        self.ridge = ridge
        self.power = power

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        if not 0 < self.ridge < np.inf:
            raise InvalidParameter(f"Cca3v.ridge: expected more than 0, got {self.ridge}")
        if not 0 <= self.power < np.inf:
            raise InvalidParameter(f"Cca3v.power: expected at least 0, got {self.power}")
        c = train.n_classes
        wanted = c if self.n_components is None else self.n_components
        views = (train.images, train.texts, train.one_hot())
        white = whiten_views(views, self.ridge, wanted, pieces=context.pieces)
        Zx, Zt, Zc = white.maps
        k = choose_components(self.n_components, min(Zx.rank, Zt.rank), c)
        values, (A, B, D) = context.pieces.get(
            ("directions", self.ridge, k),
            lambda: multiview_directions(white.between, [Z.rank for Z in white.maps], k),
        )
        scale = np.sqrt(len(train) - 1)
        P = scale * Zx.weights(A)
        _, Q = align_signs(P, scale * Zt.weights(B))
        P, self.label_weights_ = align_signs(P, scale * Zc.weights(D))
        self.image_weights_, self.text_weights_ = P * values**self.power, Q * values**self.power
        self.image_mean_, self.text_mean_, _ = white.means
        self.eigenvalues_ = values
        self.route_ = {"image": Zx.route, "text": Zt.route, "labels": Zc.route}


METHOD = Cca3v
