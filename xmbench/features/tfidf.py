"""TF-IDF bag of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, Unsupported
from xmbench.features import Encoder, Resources


class TfIdf(Encoder):
    """Term frequency times inverse document frequency of the most frequent words; rows of length 1.

    Words are runs of two or more letters, digits or underscores, lower case, without English stop words. The
    vocabulary is the ``n_words`` words with the most occurrences in the training rows; words with equally many are
    taken in alphabetical order, so that the cut does not depend on the order of the rows.

    Args:
        n_words: size of the vocabulary at the most.

    Source: Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988, as
    scikit-learn computes it (smoothed idf, natural logarithm).
    """

    modality: ClassVar = "text"
    learns: ClassVar = True
    scaling: ClassVar = "l2_center_scale"

    def __init__(self, n_words: int = 1000) -> None:
        if not isinstance(n_words, int) or isinstance(n_words, bool) or n_words < 1:
            raise InvalidParameter(f"tfidf: n_words must be a whole number of at least 1, got {n_words!r}")
        self.n_words = n_words

    def provenance(self) -> dict[str, object]:
        """Name, version of the tokenisation, size of the vocabulary."""
        return {"name": "tfidf", "version": 1, "n_words": self.n_words}

    def fit(self, rows: Sequence[str], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Choose the vocabulary and weigh it, on training rows."""
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        counter = CountVectorizer(stop_words="english")
        try:
            totals = np.asarray(counter.fit_transform(rows).sum(axis=0)).ravel()
        except ValueError as error:
            raise Unsupported(f"tfidf: the training texts hold no words ({error})") from error
        words = counter.get_feature_names_out()
        kept = sorted(range(len(words)), key=lambda i: (-totals[i], words[i]))[: self.n_words]
        self._vectorizer = TfidfVectorizer(stop_words="english", vocabulary=sorted(words[i] for i in kept))
        self._vectorizer.fit(rows)

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, vocabulary) weights; a text without a known word is a zero row."""
        resources.progress("extracting tfidf text features", None)
        return np.asarray(self._vectorizer.transform(rows).toarray(), dtype=np.float32)


ENCODER = TfIdf
