"""What methods of one linear or kernel map per modality have in common."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.linalg import Kept
from xmbench.method import Method


class Sharing(Method):
    """A method whose decompositions of the training rows serve further fits to the same rows.

    The first fit of a tuning run keeps nothing, as a fit on its own does; one that :meth:`share` was called on
    keeps what it computes and hands it on.
    """

    def share(self, other: Self) -> None:
        """Go on with the decompositions that ``other`` keeps, or begin to keep them."""
        self._cache = vars(other).get("_cache", {})

    def _kept(self, train: Pairs) -> Kept | None:
        """Where decompositions of these training pairs are kept, if they are."""
        cache: Kept | None = vars(self).get("_cache")
        if cache is not None and cache.get("pairs") is not train:
            cache.clear()
            cache["pairs"] = train
        return cache


class Projections(Sharing):
    """Two linear projections of centred features: ``image_weights_``, ``text_weights_`` and the means."""

    image_mean_: NDArray[np.float64]
    text_mean_: NDArray[np.float64]
    image_weights_: NDArray[np.float64]
    text_weights_: NDArray[np.float64]

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((images - self.image_mean_) @ self.image_weights_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((texts - self.text_mean_) @ self.text_weights_)
