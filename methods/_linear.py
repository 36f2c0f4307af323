"""What methods of one linear map per modality have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.method import Method


class Linear(Method):
    """Two linear projections of centred features: ``image_weights_``, ``text_weights_`` and the means."""

    image_mean_: NDArray[np.float64]
    text_mean_: NDArray[np.float64]
    image_weights_: NDArray[np.float64]
    text_weights_: NDArray[np.float64]

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((images - self.image_mean_) @ self.image_weights_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((texts - self.text_mean_) @ self.text_weights_)
