"""Random embeddings: the control that every other row must beat."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.method import FitContext, Method, MethodInfo


class Random(Method):
    """A Gaussian vector per item, drawn from a generator seeded with the item's own features.

    Each row depends on that row's bytes, the modality and the seed alone, so the control obeys the same
    contract as every method. Two items with the same features get the same vector.

    Args:
        n_components: dimension of the vectors.
        random_state: the seed.

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
        """Nothing is learned."""

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._draw(images, "image")

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._draw(texts, "text")

    def _draw(self, rows: NDArray[np.float32], modality: str) -> NDArray[np.float64]:
        drawn = np.empty((len(rows), self.n_components))
        for i, row in enumerate(rows):
            key = hashlib.sha256(f"{self.random_state}/{modality}/".encode() + row.tobytes()).digest()
            drawn[i] = np.random.default_rng(int.from_bytes(key)).standard_normal(self.n_components)
        return drawn


METHOD = Random
