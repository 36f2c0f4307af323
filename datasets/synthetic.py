"""Made-up pairs of any size, for tests of scale and robustness; never ranked with real data."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import digest
from xmbench.data import Corpus, Dataset, DatasetCard, Split, draw
from xmbench.errors import InvalidParameter, Unsupported

BLOCK = 2**22
"""Numbers that are drawn at once (16 MB)."""

IN_MEMORY = 2**25
"""Numbers of a matrix up to which it is kept in memory (128 MB); a larger one lies in a temporary file."""


def _random(corpus: Corpus, seed: int) -> Split:
    """80 % training, 10 % validation, 10 % test, by class; by the first class of an item with several."""
    if corpus.labels.ndim == 2:
        corpus = replace(corpus, labels=corpus.labels.argmax(axis=1))
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1])
    return Split("random", seed, train, validation, test)


class Synthetic(Dataset):
    """Pairs that share their class and nothing else.

    Each class has a centre in either modality: a direction drawn at random, of length 1, so that two centres are
    about 1.4 apart in any number of dimensions. An item is the centre of its class, or the mean of the centres of
    its classes, plus normal noise. Without noise, classes coincide with points, and a method that has learned them
    ranks every item of a query's class first. With two classes, no method tells them apart more often than
    Phi(D / (2 noise)), D the distance of the centres. With much noise all that is left is chance.

    Args:
        n: number of pairs, at least 10.
        classes: number of classes, at least 2, and at most n / 5. They are of equal size, but for one item.
        noise: standard deviation of the noise in each dimension, at least 0.
        d_image: width of the image features.
        d_text: width of the text features.
        labels: classes of an item, fewer than there are; with more than 1, labels are multi-hot.
        random_state: of the generator that draws everything; independent of split seeds and of those of methods.

    Raises:
        InvalidParameter: a number is none, or out of these bounds.
    """

    card = DatasetCard(
        title="Synthetic",
        source="made by xmbench",
        licence="none needed",
        citation="none: not for publication",
        layout=(),
        pairs=1000,
        image_text="normal noise around one point per class in either modality; parameters in brackets: n, classes, "
        "noise, d_image, d_text, labels, random_state",
        defects=(
            "made up: for tests of scale and robustness, and kept out of leaderboards",
            "numbers are those of numpy's Generator, which may draw others in another release of numpy",
        ),
        embedded=True,
        synthetic=True,
    )
    stored: ClassVar = {
        "image": {"gaussian": "normal noise around the centre of the class"},
        "text": {"gaussian": "normal noise around the centre of the class"},
    }
    features = "gaussian+gaussian"
    splits: ClassVar = {"random": _random}

    def __init__(
        self,
        n: int = 1000,
        classes: int = 10,
        noise: float = 0.3,
        d_image: int = 128,
        d_text: int = 64,
        labels: int = 1,
        random_state: int = 0,
    ) -> None:
        whole = {"n": (n, 10), "classes": (classes, 2), "labels": (labels, 1)}
        whole |= {"d_image": (d_image, 1), "d_text": (d_text, 1)}
        whole["random_state"] = (random_state, 0)
        for name, (value, least) in whole.items():
            if type(value) is not int or value < least:
                raise InvalidParameter(
                    f"synthetic: {name} must be a whole number of at least {least}, got {value!r}"
                )
        if labels >= classes:
            raise InvalidParameter(
                f"synthetic: labels must be less than the number of classes ({classes}), got {labels}; "
                "else every pair would match"
            )
        if classes > n // 5:
            raise InvalidParameter(f"synthetic: {classes} classes need n of at least {5 * classes}, got {n}")
        if type(noise) not in (int, float) or not 0 <= noise <= 1e6:
            raise InvalidParameter(f"synthetic: noise must be a number of 0 to 1e6, got {noise!r}")
        self.n, self.classes, self.noise, self.labels = n, classes, float(noise), labels
        self.d_image, self.d_text, self.random_state = d_image, d_text, random_state

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Draw the pairs, whatever ``data_dir`` is; see :meth:`xmbench.data.Dataset.load`."""
        if image != "gaussian" or text != "gaussian":
            raise Unsupported(
                f"synthetic has numbers only, no image files and no texts; got {image!r}, {text!r}"
            )
        for_labels, for_images, for_texts = np.random.SeedSequence(self.random_state).spawn(3)
        member = self._classes(np.random.default_rng(for_labels))
        labels = member[:, 0]
        if self.labels > 1:
            labels = np.zeros((self.n, self.classes), dtype=bool)
            np.put_along_axis(labels, member, True, axis=1)
        ids = tuple(f"item-{item}" for item in range(self.n))
        return Corpus(
            name="synthetic",
            images=self._features(member, self.d_image, np.random.default_rng(for_images)),
            texts=self._features(member, self.d_text, np.random.default_rng(for_texts)),
            labels=labels,
            class_names=tuple(f"class-{label}" for label in range(self.classes)),
            ids=ids,
            groups=ids,
            digest=digest(
                [self.n, self.classes, self.noise, self.d_image, self.d_text, self.labels, self.random_state]
            ),
        )

    def _classes(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n, labels) the classes of each item, in a random order of items."""
        first = rng.permutation(np.arange(self.n) % self.classes)[:, None]
        if self.labels == 1:
            return first
        steps = rng.random((self.n, self.classes - 1)).argsort(axis=1, kind="stable") + 1
        return np.hstack([first, (first + steps[:, : self.labels - 1]) % self.classes])

    def _features(self, member: NDArray[np.int64], d: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """(n, d) rows around the centres of their classes, drawn block by block."""
        centres = rng.standard_normal((self.classes, d))
        centres /= np.sqrt(np.square(centres).sum(axis=1, keepdims=True))
        size = max(1, BLOCK // d)
        if self.n * d <= IN_MEMORY:
            matrix = np.empty((self.n, d), np.float32)
            for start in range(0, self.n, size):
                matrix[start : start + size] = self._block(member[start : start + size], centres, rng)
            return matrix
        with tempfile.TemporaryFile(prefix="xmbench-") as stream:  # gone with the last use of the map
            for start in range(0, self.n, size):
                stream.write(self._block(member[start : start + size], centres, rng).data)
            stream.flush()
            return np.asarray(np.memmap(stream, np.float32, "r", shape=(self.n, d)))

    def _block(
        self, member: NDArray[np.int64], centres: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        rows = rng.standard_normal((len(member), centres.shape[1]), dtype=np.float32)
        rows *= np.float32(self.noise)
        rows += centres[member].mean(axis=1).astype(np.float32)
        return rows


DATASET = Synthetic
