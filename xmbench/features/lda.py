"""Topic proportions of latent Dirichlet allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import NotFittedError, Unsupported
from xmbench.features import Encoder, Resources

from ._parameters import seed, share, whole
from ._words import words

BATCH = 256
"""Training texts an update."""


class Lda(Encoder):
    """The shares of ``n_topics`` topics in a text; rows sum to 1.

    Words are runs of three or more letters, lower case, without English stop words, that at least
    ``min_texts`` of the training texts hold and at most the share ``max_share`` of them; of these the ``n_words``
    with the most occurrences, words with equally many in alphabetical order. Topics are learned
    from the training texts by online variational Bayes, the prior over topics with them. A text's shares are
    the mean of its own posterior, always started from the same point, so that neither other texts nor their
    order have a say. A text without a known word has the shares of the prior.

    Where a dataset stores features of this name (wikipedia), ``lda`` stands for those and ``lda[]`` or
    ``lda[n_topics=10]`` for this encoder.

    Args:
        n_topics: topics.
        min_texts: training texts that hold a word of the vocabulary, at the least.
        max_share: share of the training texts that do, at the most.
        n_words: size of the vocabulary at the most.
        passes: passes over the training texts.
        iterations: steps at the most to fit the shares of one text.
        random_state: seed of topics and shares. One seed gives the same features in every process.

    Source: Blei, Ng, Jordan, "Latent Dirichlet allocation", JMLR 2003; Hoffman, Blei, Bach, "Online learning
    for latent Dirichlet allocation", NIPS 2010, as gensim computes it. Differs: Rasiwasia et al. 2010, who
    made the official features of Wikipedia, state neither their preprocessing nor their inference. The
    defaults here had the best accuracy of a classifier on training and validation rows of Wikipedia.
    """

    modality: ClassVar = "text"
    learns: ClassVar = True
    scaling: ClassVar = "zscore"

    def __init__(
        self,
        n_topics: int = 10,
        min_texts: int = 5,
        max_share: float = 0.5,
        n_words: int = 5000,
        passes: int = 10,
        iterations: int = 100,
        random_state: int = 0,
    ) -> None:
        self.n_topics = whole("lda: n_topics", n_topics, 2)
        self.min_texts = whole("lda: min_texts", min_texts)
        self.max_share = share("lda: max_share", max_share)
        self.n_words = whole("lda: n_words", n_words)
        self.passes = whole("lda: passes", passes)
        self.iterations = whole("lda: iterations", iterations)
        self.random_state = seed("lda: random_state", random_state)
        self._model: Any = None

    def provenance(self) -> dict[str, object]:
        """Name, version of the preprocessing, and the parameters."""
        named = ("n_topics", "min_texts", "max_share", "n_words", "passes", "iterations", "random_state")
        return {"name": "lda", "version": 1, **{name: getattr(self, name) for name in named}}

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Choose the vocabulary and learn the topics, on training rows.

        Raises:
            Unsupported: no word is left for the vocabulary.
        """
        from gensim.models import LdaModel
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        texts = [words(text) for text in rows]
        occurrences = Counter(word for text in texts for word in text)
        holding = Counter(word for text in texts for word in set(text))
        eligible = [
            word
            for word, count in holding.items()
            if self.min_texts <= count <= self.max_share * len(rows)
            and len(word) > 2
            and word.isalpha()
            and word not in ENGLISH_STOP_WORDS
        ]
        kept = sorted(sorted(eligible, key=lambda word: (-occurrences[word], word))[: self.n_words])
        if not kept:
            raise Unsupported(
                f"lda: no word of the {len(rows)} training texts stands in at least min_texts = {self.min_texts} and "
                f"at most the share max_share = {self.max_share:g} of them; lower min_texts or raise max_share"
            )
        self._index = {word: number for number, word in enumerate(kept)}
        resources.progress("learning lda topics", None)
        self._model = LdaModel(
            [self._counts(text) for text in rows],
            id2word=dict(enumerate(kept)),
            num_topics=self.n_topics,
            alpha="auto",
            chunksize=BATCH,
            passes=self.passes,
            iterations=self.iterations,
            eval_every=None,
            random_state=self.random_state,
        )

    def _counts(self, text: str) -> list[tuple[int, int]]:
        """(number, occurrences) of the known words of a text, by number."""
        numbers = [self._index[word] for word in words(text) if word in self._index]
        found, counts = np.unique(np.array(numbers, dtype=np.int64), return_counts=True)
        return list(zip(found.tolist(), counts.tolist(), strict=True))

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, n_topics) shares."""
        if self._model is None:
            raise NotFittedError("lda: fit it on training texts first")
        features = np.empty((len(rows), self.n_topics), dtype=np.float32)
        for row, text in enumerate(rows):
            # gensim starts from a draw of the model's generator: one that is new for each text
            self._model.random_state = np.random.RandomState(self.random_state)
            posterior = self._model.inference([self._counts(text)])[0][0].astype(np.float64)
            features[row] = posterior / posterior.sum()
            if (row + 1) % 100 == 0 or row + 1 == len(rows):
                resources.progress("extracting lda text features", (row + 1) / len(rows))
        return features


ENCODER = Lda
