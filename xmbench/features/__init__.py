"""Encoders: from raw images and texts to matrices, by name, cached by content.

An encoder is a small class; its name, version, weights and parameters are the provenance that goes into a
dataset's fingerprint. One that learns (TF-IDF) learns from training rows, and its cache key knows them.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tokenize import TokenError
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH, atomic_write, digest
from xmbench.data import Corpus, Dataset, Features, Split, check_matrix
from xmbench.errors import CorruptData, InvalidInput, UnknownName, Unsupported, UsageError
from xmbench.registry import parse_spec

Modality = Literal["image", "text"]
Progress = Callable[[str, "float | None"], None]

log = logging.getLogger("xmbench")

ENCODERS: dict[Modality, dict[str, str]] = {
    "image": {"lite0": "xmbench.features.lite0:Lite0"},
    "text": {
        "glove": "xmbench.features.glove:Glove",
        "lda": "xmbench.features.lda:Lda",
        "minilm": "xmbench.features.minilm:MiniLm",
        "textcnn": "xmbench.features.textcnn:TextCnn",
        "tfidf": "xmbench.features.tfidf:TfIdf",
        "word2vec": "xmbench.features.word2vec:Word2Vec",
    },
}
"""Modality -> encoder name -> where its class is."""


@dataclass(frozen=True)
class Resources:
    """What an encoder may use, and whom it tells how far it is.

    Args:
        device: where to compute, ``cpu`` or ``cuda[:n]``.
        threads: threads at most.
        progress: told a message and the share that is done.
    """

    device: str = "cpu"
    threads: int = 1
    progress: Progress = lambda message, fraction: None


class Encoder(ABC):
    """Turns raw items into feature rows.

    Class attributes:
        modality: ``image`` (rows are paths of image files) or ``text`` (rows are strings).
        learns: whether :meth:`fit` looks at training rows.
        supervised: whether it looks at their labels too.
        scaling: the scaling that its features want, unless another is asked for.
    """

    modality: ClassVar[Modality]
    learns: ClassVar[bool]
    supervised: ClassVar[bool] = False
    scaling: ClassVar[str]

    @abstractmethod
    def provenance(self) -> dict[str, object]:
        """Name, version, weights and parameters: all that decides what :meth:`transform` returns."""

    def fit(  # noqa: B027 - most encoders learn nothing
        self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources
    ) -> None:
        """Learn from the raw training rows; called only if ``learns``.

        Args:
            rows: n raw items.
            labels: (n,) int or (n, c) multi-hot, if ``supervised``, else None.
            resources: what may be used.
        """

    @abstractmethod
    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """Feature rows (n, d) of raw rows; row i depends on row i alone."""


def split_features(features: str, what: str = "features") -> tuple[str, str]:
    """``IMAGE+TEXT`` -> the two names.

    Raises:
        UsageError: the text is not of that form.
    """
    image, plus, text = features.partition("+")
    if not (plus and image.strip() and text.strip()) or "+" in text:
        raise UsageError(f"{what}: expected IMAGE+TEXT, such as lite0+tfidf, got {features!r}")
    return image.strip(), text.strip()


def encoder(modality: Modality, spec: str) -> Encoder:
    """The encoder of a spec such as ``tfidf`` or ``tfidf[n_words=3000]``.

    Raises:
        UnknownName: there is none of that name for that modality, or it has no such parameter.
    """
    name, parameters = parse_spec(spec)
    known = ENCODERS[modality]
    if name not in known:
        raise UnknownName(f"{modality} encoder", name, known)
    module, _, attribute = known[name].partition(":")
    found: type[Encoder] = getattr(import_module(module), attribute)
    accepted = inspect.signature(found).parameters
    for parameter in parameters:
        if parameter not in accepted:
            raise UnknownName(f"parameter of {modality} encoder {name!r}", parameter, accepted)
    return found(**parameters)


def source(dataset: Dataset, modality: Modality, spec: str) -> str:
    """What ``Dataset.load`` is to read for a feature name: a stored feature of that name, or ``raw``."""
    if spec in dataset.stored.get(modality, {}):
        return spec
    if parse_spec(spec)[0] not in ENCODERS[modality]:
        known = {one: sorted({*dataset.stored.get(one, {}), *ENCODERS[one]}) for one in ENCODERS}
        listing = "; ".join(f"{one} features: {', '.join(names)}" for one, names in known.items())
        raise UnknownName(f"{modality} features", spec, known[modality], listing)
    return "raw"


def default_scaling(dataset: Dataset, modality: Modality, spec: str) -> str:
    """The scaling that features want when none is asked for."""
    if spec in dataset.scalings:
        return dataset.scalings[spec]
    if source(dataset, modality, spec) == "raw":
        return encoder(modality, spec).scaling
    return "zscore"


def extract(
    dataset: Dataset,
    corpus: Corpus,
    split: Split,
    modality: Modality,
    spec: str,
    *,
    cache_dir: Path,
    progress: Progress,
) -> Features:
    """The feature matrix of one modality for every row of a corpus.

    Stored features pass through. Others are encoded, in training-only fashion where the encoder learns,
    and kept below ``cache_dir`` under a hash of the raw content, the provenance and, for an encoder that
    learns, the ids of the training rows.

    Raises:
        Unsupported: the corpus has no raw rows of that modality.
    """
    rows = corpus.images if modality == "image" else corpus.texts
    if source(dataset, modality, spec) != "raw":
        description = {"name": spec, "stored": dataset.stored[modality][spec]}
        try:
            return Features(check_matrix(rows, f"{corpus.name} {modality} features {spec!r}"), description)
        except InvalidInput as error:
            raise CorruptData(str(error)) from error
    if isinstance(rows, np.ndarray):
        raise Unsupported(f"{corpus.name} has no raw {modality}s to apply {spec!r} to")
    chosen = encoder(modality, spec)
    provenance = chosen.provenance()
    if chosen.learns:
        provenance = {**provenance, "fitted_on": "training rows"}
    key: dict[str, object] = {"corpus": corpus.digest, "modality": modality, "provenance": provenance}
    if chosen.learns:
        key["training"] = [corpus.ids[row] for row in split.train]
    path = cache_dir / "features" / f"{corpus.name}-{parse_spec(spec)[0]}-{digest(key)[:ID_LENGTH]}.npy"
    matrix = _cached(path, len(rows))
    if matrix is None:
        resources = Resources(progress=progress)
        if chosen.learns:
            labels = corpus.labels[split.train] if chosen.supervised else None
            chosen.fit([rows[row] for row in split.train], labels, resources)
        matrix = check_matrix(
            chosen.transform(rows, resources), f"{corpus.name} {modality} features {spec!r}"
        )
        _keep(path, matrix)
    return Features(matrix, provenance)


def _cached(path: Path, n: int) -> NDArray[np.float32] | None:
    """The matrix kept at ``path``, or None where there is none that can be used."""
    try:
        with path.open("rb") as stream:
            matrix: NDArray[np.float32] = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, MemoryError) as error:
        log.warning("the feature cache %s is damaged (%s); extracting again", path.name, error)
        return None
    if matrix.ndim != 2 or len(matrix) != n or not matrix.shape[1] or matrix.dtype != np.float32:
        log.warning("the feature cache %s has another shape than the data; extracting again", path.name)
        return None
    if not np.isfinite(matrix).all():
        log.warning("the feature cache %s holds values that are not finite; extracting again", path.name)
        return None
    return matrix


def _keep(path: Path, matrix: NDArray[np.float32]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    try:
        atomic_write(path, buffer.getvalue())
    except OSError as error:
        log.warning("the features cannot be kept for the next time: %s", error)
