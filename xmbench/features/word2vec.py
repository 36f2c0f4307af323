"""Mean Word2Vec vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from xmbench._io import ID_LENGTH
from xmbench.errors import InvalidParameter, NotFittedError, Unsupported
from xmbench.features import Resources

from ._parameters import flag, seed, whole
from ._words import (
    TRAINING,
    MeanOfWords,
    WordVectors,
    read_vectors,
    train_vectors,
    vector_file,
    vector_file_digest,
)


class Word2Vec(MeanOfWords):
    """The mean of the Word2Vec vectors of a text's words.

    Words are runs of letters and digits in lower case; each occurrence counts once. A text without a known
    word is a row of zeros, which the log tells. Vectors are trained on the training texts (gensim, one
    thread: a seed gives the same vectors in every process), or read from ``path``.

    Args:
        vector_size: length d of a vector.
        window: words at most between a word and those that it predicts.
        min_count: occurrences in the training texts that a word needs.
        epochs: passes over the training texts.
        sg: skip-gram, else the continuous bag of words.
        random_state: seed of the training.
        path: a file in the word2vec format, text or binary, in place of training. The parameters of the
            training must then be left alone.

    Source: Mikolov, Chen, Corrado, Dean, "Efficient estimation of word representations in vector space",
    2013; Mikolov et al., "Distributed representations of words and phrases and their compositionality", NIPS
    2013 (negative sampling of 5 words, frequent words thinned at 1e-3). Differs: the papers train on up to
    100 billion words; a corpus of a thousand texts needs more epochs and gives poorer vectors. Files are
    looked up in lower case and word by word, without their phrases.
    """

    name: ClassVar = "word2vec"
    modality: ClassVar = "text"
    learns: ClassVar = True

    def __init__(
        self,
        vector_size: int = TRAINING["vector_size"],
        window: int = TRAINING["window"],
        min_count: int = TRAINING["min_count"],
        epochs: int = TRAINING["epochs"],
        sg: bool = TRAINING["sg"],
        random_state: int = TRAINING["random_state"],
        path: str | Path | None = None,
    ) -> None:
        self.training: dict[str, Any] = {
            "vector_size": whole("word2vec: vector_size", vector_size, below=10_000),
            "window": whole("word2vec: window", window),
            "min_count": whole("word2vec: min_count", min_count),
            "epochs": whole("word2vec: epochs", epochs),
            "sg": flag("word2vec: sg", sg),
            "random_state": seed("word2vec: random_state", random_state),
        }
        self.path = vector_file("word2vec", path)
        if self.path is not None:
            given = [name for name, value in self.training.items() if value != TRAINING[name]]
            if given:
                raise InvalidParameter(
                    f"word2vec: {', '.join(given)} says how to train, path not to; leave one out"
                )
            self.learns = False  # type: ignore[misc] # a file knows nothing of the split
        self._digest: str | None = None
        self._known: WordVectors | None = None

    def provenance(self) -> dict[str, object]:
        """Name, version of the tokenisation, and the parameters of the training or the hash of the file."""
        common: dict[str, object] = {"name": self.name, "version": 1}
        if self.path is None:
            return {**common, **self.training}
        self._digest = self._digest or vector_file_digest(self.path)
        return {**common, "file": self._digest[:ID_LENGTH]}

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Train the vectors on training rows."""
        if self.path is None:
            resources.progress("training word2vec vectors", None)
            try:
                self._known = train_vectors(rows, **self.training)
            except Unsupported as error:
                raise Unsupported(f"word2vec: {error}") from error

    def _vectors(self) -> WordVectors:
        if self._known is None:
            if self.path is None:
                raise NotFittedError("word2vec: fit it on training texts first")
            self._known = read_vectors(self.path)
        return self._known


ENCODER = Word2Vec
