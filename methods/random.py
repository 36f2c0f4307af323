"""Random embeddings: the control that every other row must beat."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.method import FitContext, Method, MethodInfo


class Random(Method):
    """A Gaussian vector per item, drawn from a generator seeded with the item's own features.

    An item's seed is a hash of the signs of its centred features along 256 random directions. So each row
    depends on that row, the modality and the seed alone, as the contract of all methods wants, and not on the
    last bits of the features, which differ between processors. Items with (nearly) the same features get the
    same vector.

    Args:
        n_components: dimension of the vectors.
        random_state: the seed.

    Learned: ``image_mean_``, ``text_mean_``: the means of the training rows.

    Source: none; a control.
    """

    info = MethodInfo(
        title="Random (control)",
        paper="none: a control",
        year=2026,
        supervised=False,
        control=True,
    )

    def __init__(self, n_components: int = 16, random_state: int = 0) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        if self.n_components < 1:
            raise InvalidParameter(f"Random.n_components: expected at least 1, got {self.n_components}")
        self.image_mean_ = train.images.mean(axis=0, dtype=np.float64)
        self.text_mean_ = train.texts.mean(axis=0, dtype=np.float64)

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._draw(images - self.image_mean_, 0)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._draw(texts - self.text_mean_, 1)

    def _draw(self, rows: NDArray[np.float64], modality: int) -> NDArray[np.float64]:
        directions = np.random.default_rng([self.random_state, modality]).standard_normal(
            (rows.shape[1], 256)
        )
        signs = np.packbits(rows @ directions > 0, axis=1)
        drawn = np.empty((len(rows), self.n_components))
        for i, bits in enumerate(signs):
            key = hashlib.sha256(bytes([modality]) + bits.tobytes()).digest()
            seed = [self.random_state, int.from_bytes(key)]
            drawn[i] = np.random.default_rng(seed).standard_normal(self.n_components)
        return drawn


METHOD = Random
