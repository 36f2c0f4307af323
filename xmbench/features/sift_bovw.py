"""Bags of visual words over SIFT descriptors, as the Wikipedia features are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, Unsupported
from xmbench.features import Encoder, Resources
from xmbench.features._images import Row, ahead, need, read

LONGER_SIDE = 500
"""Larger images are scaled down to this, so that a photograph has hundreds of keypoints and not ten thousand."""
SAMPLE = 100_000
"""Descriptors that the words are learned from, at the most: 51 MB."""

log = logging.getLogger("xmbench")


class SiftBovw(Encoder):
    """The share of each visual word among an image's SIFT keypoints; rows have the sum 1.

    An image, or a region of one, is turned as its metadata says, laid on white where it is transparent, scaled
    down to a longer side of 500 pixels if it is larger, and made grey. Keypoints and their descriptors of 128 numbers
    are OpenCV's, with Lowe's settings. The words are the centres of k-means (mini-batches) on descriptors of the
    training images, of each at most 100,000 / n that are drawn at random. A descriptor counts for the nearest word.
    An image without a keypoint is a zero row; :attr:`without_keypoints` counts them, and the log says so.

    Args:
        n_words: number of visual words.
        random_state: seed of the drawn descriptors and of k-means.

    Source: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004; Csurka et al.,
    "Visual categorization with bags of keypoints", 2004; 128 words as in Rasiwasia et al., "A new approach
    to cross-modal multimedia retrieval", ACM MM 2010.
    """

    modality: ClassVar = "image"
    learns: ClassVar = True
    scaling: ClassVar = "zscore"
    requires: ClassVar = ("PIL", "cv2")
    extra: ClassVar = "sift"

    def __init__(self, n_words: int = 128, random_state: int = 0) -> None:
        for name, value, least in (("n_words", n_words, 1), ("random_state", random_state, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidParameter(
                    f"sift_bovw: {name} must be a whole number of at least {least}, got {value!r}"
                )
        self.n_words, self.random_state = n_words, random_state
        self.without_keypoints = 0
        """Images without a keypoint among those transformed so far."""
        self._words: NDArray[np.float32] | None = None

    def provenance(self) -> dict[str, object]:
        """Name, version of the detection, number of words and seed."""
        return {"name": "sift_bovw", "version": 1, "n_words": self.n_words, "random_state": self.random_state}

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Learn the words from the training images.

        Raises:
            MissingDependency: the extra ``sift`` is not installed.
            MissingData, CorruptData: a file does not exist or is no readable image.
            Unsupported: the images have fewer different descriptors than there are to be words.
        """
        found = []
        share = max(1, SAMPLE // max(1, len(rows)))
        for number, own in enumerate(_described(rows, resources, "learning visual words: SIFT")):
            generator = np.random.default_rng((self.random_state, number))
            found.append(own[np.sort(generator.permutation(len(own))[:share])])
        sample = np.concatenate(found) if found else np.empty((0, 128), dtype=np.float32)
        if len(sample) > SAMPLE:  # more images than descriptors wanted
            sample = sample[
                np.sort(np.random.default_rng(self.random_state).permutation(len(sample))[:SAMPLE])
            ]
        different = len(np.unique(sample, axis=0))
        if different < self.n_words:
            raise Unsupported(
                f"sift_bovw: the training images have {different} different descriptors, too few for "
                f"{self.n_words} words; ask for fewer with sift_bovw[n_words=...]"
            )
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits

        resources.progress("learning visual words: k-means", None)
        means = MiniBatchKMeans(self.n_words, random_state=self.random_state, n_init=3, batch_size=4096)
        with threadpool_limits(1):  # sums over several threads would depend on their number
            means.fit(sample)
        self._words = means.cluster_centers_.astype(np.float32)

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, n_words) shares of n image files or regions of such.

        Raises:
            MissingDependency: the extra ``sift`` is not installed.
            MissingData, CorruptData: a file does not exist or is no readable image.
        """
        if self._words is None:
            raise Unsupported("sift_bovw: fit before transform")
        shares = np.zeros((len(rows), self.n_words), dtype=np.float32)
        lengths = (self._words**2).sum(axis=1)
        without = 0
        for row, own in enumerate(_described(rows, resources, "extracting sift_bovw image features")):
            if not len(own):
                without += 1
                continue
            nearest = (lengths - 2 * (own @ self._words.T)).argmin(axis=1)
            shares[row] = np.bincount(nearest, minlength=self.n_words) / len(own)
        if without:
            self.without_keypoints += without
            log.warning("sift_bovw: %d of %d images have no keypoint and are zero rows", without, len(rows))
        return shares


def _described(rows: Sequence[Row], resources: Resources, message: str) -> Iterator[NDArray[np.float32]]:
    """The descriptors of each image."""
    need("sift_bovw", "sift", "PIL", "cv2")
    with _one_thread_each(), closing(ahead(rows, _descriptors, resources.threads, 64)) as stream:
        for done, own in enumerate(stream, start=1):
            yield own
            resources.progress(message, done / len(rows))


def _descriptors(row: Row) -> NDArray[np.float32]:
    """(k, 128) SIFT descriptors of one image, k from 0."""
    import cv2
    from PIL import Image

    image = read(row)
    scale = LONGER_SIDE / max(image.size)
    if scale < 1:
        size = [max(1, round(scale * side)) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
    found = cv2.SIFT_create().detectAndCompute(np.asarray(image.convert("L")), None)[1]
    return np.empty((0, 128), dtype=np.float32) if found is None else found.astype(np.float32)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """OpenCV on the calling thread alone: images are what is done at the same time."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


ENCODER = SiftBovw
