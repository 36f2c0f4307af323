"""Encoders: from raw images and texts to matrices, by name, cached by content.

An encoder is a small class in a file that ends in ``ENCODER = Class``; its name, version, weights and parameters are
the provenance that goes into a dataset's fingerprint. One that learns (TF-IDF) learns from training rows, and its
cache key knows them. The same encoder turns parts of items into rows: sentences, regions, crops of a grid.
"""

from __future__ import annotations

import inspect
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH, canonical_json, digest
from xmbench.data import Corpus, Dataset, Features, Ragged, Region, Split, check_matrix
from xmbench.errors import (
    CorruptData,
    InvalidInput,
    MissingDependency,
    PluginError,
    UnknownName,
    Unsupported,
    UsageError,
)
from xmbench.features._cache import obtain
from xmbench.registry import Plugin, Registry, blaming, parse_spec

Modality = Literal["image", "text"]
Progress = Callable[[str, "float | None"], None]

CHUNK = {"image": 64, "text": 1024}
"""Rows that are encoded and kept at a time, and lost when an extraction is killed; image batches of 32 fit in."""

LARGEST_GRID = 16


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
        modality: ``image`` (rows are paths of image files, or regions of them) or ``text`` (rows are strings).
        learns: whether :meth:`fit` looks at training rows.
        supervised: whether it looks at their labels too.
        scaling: the scaling that its features want, unless another is asked for.
        licence: terms of its weights, in words; empty where it has none.
        requires: modules that xmbench does not bring by itself.
        extra: the extra of xmbench that brings them.
    """

    modality: ClassVar[Modality]
    learns: ClassVar[bool]
    supervised: ClassVar[bool] = False
    scaling: ClassVar[str]
    licence: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None

    @classmethod
    def missing(cls) -> list[str]:
        """The modules among ``requires`` that are not installed."""
        return [name for name in cls.requires if find_spec(name) is None]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Parameter -> default value, from the signature of ``__init__``."""
        return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

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
        """Feature rows (n, d) of raw rows; row i depends on row i alone, up to rounding."""


def split_features(features: str, what: str = "features") -> tuple[str, str]:
    """``IMAGE+TEXT`` -> the two names.

    Raises:
        UsageError: the text is not of that form.
    """
    names = [name.strip() for name in re.split(r"\+(?![^\[]*\])", features)]
    if len(names) != 2 or not all(names):
        example = {"features": "lite0+tfidf", "scaling": "zscore+none", "parts": "grid2+sentences"}[what]
        raise UsageError(f"{what}: expected IMAGE+TEXT, such as {example}, got {features!r}")
    return names[0], names[1]


def shown(spec: str) -> str:
    """A feature's spec as records and tables have it: of a file, the name alone; its hash is in the provenance."""
    name, parameters = parse_spec(spec)
    if not any(isinstance(value, str) and Path(value).name != value for value in parameters.values()):
        return spec
    values = (
        f"{key}={Path(value).name if isinstance(value, str) else value}" for key, value in parameters.items()
    )
    return f"{name}[{','.join(values)}]"


def encoder(modality: Modality, spec: str, registry: Registry | None = None) -> Encoder:
    """The encoder of a spec such as ``tfidf`` or ``tfidf[n_words=3000]``.

    Raises:
        UnknownName: there is none of that name for that modality, or it has no such parameter.
        PluginError: it cannot be imported or made.
    """
    name, parameters = parse_spec(spec)
    registry = registry or Registry()
    known = known_encoders(modality, registry)
    if name not in known:
        raise UnknownName(f"{modality} encoder", name, known)
    found = registry.encoder(name)
    accepted = found.defaults()
    for parameter in parameters:
        if parameter not in accepted:
            raise UnknownName(f"parameter of {modality} encoder {name!r}", parameter, accepted)
    with blaming("encoder", spec, "its constructor"):
        return found(**parameters)


def known_encoders(modality: Modality, registry: Registry) -> list[str]:
    """Names of the encoders of a modality; only those that do not say theirs otherwise are imported."""
    return [name for name, plugin in registry.encoders.items() if _modality(plugin) == modality]


def _modality(plugin: Plugin) -> str | None:
    try:
        return plugin.modality or plugin.load().modality
    except PluginError:
        return None


def source(dataset: Dataset, modality: Modality, spec: str, registry: Registry | None = None) -> str:
    """What ``Dataset.load`` is to read for a feature name: a stored feature of that name, or ``raw``.

    Raises:
        UnknownName: neither the dataset nor any encoder has that name.
        PluginError: the encoder of that name cannot be imported.
    """
    if spec in dataset.stored.get(modality, {}):
        return spec
    name, registry = parse_spec(spec)[0], registry or Registry()
    plugin = registry.encoders.get(name)
    if plugin is None or (plugin.modality or plugin.load().modality) != modality:
        known = {
            one: sorted({*dataset.stored.get(one, {}), *known_encoders(one, registry)})
            for one in ("image", "text")
        }
        listing = "; ".join(f"{one} features: {', '.join(names)}" for one, names in known.items())
        raise UnknownName(f"{modality} features", spec, known[modality], listing)
    return "raw"


def default_scaling(dataset: Dataset, modality: Modality, spec: str, registry: Registry | None = None) -> str:
    """The scaling that features want when none is asked for."""
    if spec in dataset.scalings:
        return dataset.scalings[spec]
    if source(dataset, modality, spec, registry) == "raw":
        return encoder(modality, spec, registry).scaling
    return "zscore"


# -- parts of items -----------------------------------------------------------------------------------


def split_parts(parts: str) -> tuple[str, str]:
    """``IMAGE+TEXT`` -> how images and how texts are cut; ``none`` is short for ``none+none``.

    >>> split_parts("grid2+sentences")
    ('grid2', 'sentences')

    Raises:
        UsageError: there are no such parts.
    """
    image, text = ("none", "none") if parts.strip() == "none" else split_features(parts, "parts")
    cells = re.fullmatch(r"grid([1-9][0-9]?)", image)
    if image not in ("none", "regions") and not (cells and int(cells[1]) <= LARGEST_GRID):
        raise UsageError(
            f"parts of images are none, regions, or grid1 to grid{LARGEST_GRID} (grid2: 2 x 2 crops), got {image!r}"
        )
    if text not in ("none", "sentences"):
        raise UsageError(f"parts of texts are none or sentences, got {text!r}")
    return image, text


def grid(path: Path, n: int) -> list[Region]:
    """The n x n equal rectangles of an image, row by row."""
    edges = [i / n for i in range(n + 1)]
    return [
        Region(path, (edges[column], edges[row], edges[column + 1], edges[row + 1]))
        for row in range(n)
        for column in range(n)
    ]


def cut_items(corpus: Corpus, modality: Modality, cut: str) -> Sequence[Sequence[Any]]:
    """The raw parts of each item: regions of an image, sentences of a text.

    Raises:
        Unsupported: the corpus has no such parts, or none at all.
    """
    parts: Sequence[Sequence[Any]] | None
    if cut.startswith("grid"):
        if isinstance(corpus.images, np.ndarray):
            raise Unsupported(
                f"parts: {corpus.name} has no raw images to lay a grid on; its features are a matrix"
            )
        parts = [grid(Path(path), int(cut.removeprefix("grid"))) for path in corpus.images]
    else:
        parts = corpus.image_parts if modality == "image" else corpus.text_parts
    if parts is None:
        remedy = "take a grid, or none" if modality == "image" else "take none"
        raise Unsupported(f"parts: {corpus.name} does not hand over {cut} of its {modality}s; {remedy}")
    if not any(map(len, parts)):
        raise Unsupported(f"parts: no {modality} of {corpus.name} has {cut}; take none")
    return parts


# -- extraction ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extraction:
    """Feature rows of a corpus, and what it took to get them.

    Args:
        features: one row for each item, or for each part.
        offsets: of parts: item i owns rows ``offsets[i]:offsets[i + 1]``; (n + 1,).
        path: where they are kept; None for stored features.
        encoded: rows that were encoded just now; the others were there.
        learned_from: training rows that the encoder learned from just now.
        fit_seconds: that took so long.
        seconds: encoding, and reading what was there, took so long.
        waited: before that, another process that made them was waited for so long; None if none was.
    """

    features: Features
    offsets: NDArray[np.int64] | None = None
    path: Path | None = None
    encoded: int = 0
    learned_from: int = 0
    fit_seconds: float = 0.0
    seconds: float = 0.0
    waited: float | None = None

    @property
    def ragged(self) -> Ragged | None:
        """The rows of parts, item by item."""
        return None if self.offsets is None else Ragged(self.features.matrix, self.offsets)


class Extractor:
    """One modality of a corpus and its encoder, which is fitted only if there is something to encode, and once.

    Stored features pass through. Others are encoded, in training-only fashion where the encoder learns, in chunks
    that are kept below ``cache_dir`` under a hash of the raw content, the provenance, how items are cut and, for an
    encoder that learns, the ids of the training rows. Matrices are mapped into memory, to be read only.

    Args:
        dataset: the adapter.
        corpus: what it read.
        split: whose training rows an encoder may learn from.
        modality: which of the two.
        spec: a stored feature, or an encoder.
        cache_dir: the cache.
        resources: what the encoder may use.
        registry: where encoders are to be had.

    Raises:
        Unsupported: the corpus has no raw rows of that modality.
    """

    def __init__(
        self,
        dataset: Dataset,
        corpus: Corpus,
        split: Split,
        modality: Modality,
        spec: str,
        *,
        cache_dir: Path,
        resources: Resources,
        registry: Registry | None = None,
    ) -> None:
        registry = registry or Registry()
        self.corpus, self.split, self.modality, self.spec = corpus, split, modality, spec
        self.cache_dir, self.resources = cache_dir, resources
        self.rows: Any = corpus.images if modality == "image" else corpus.texts
        self.encoder: Encoder | None = None
        self._fit_seconds: float | None = None
        if source(dataset, modality, spec, registry) != "raw":
            self.provenance: Mapping[str, object] = {"name": spec, "stored": dataset.stored[modality][spec]}
            return
        if isinstance(self.rows, np.ndarray):
            raise Unsupported(f"{corpus.name} has no raw {modality}s to apply {spec!r} to")
        self.encoder = encoder(modality, spec, registry)
        self.provenance = _provenance(self.encoder, registry.plugin("encoder", parse_spec(spec)[0]))

    def items(self) -> Extraction:
        """One row (n, d) for each item."""
        if self.encoder is None:
            try:
                name = f"{self.corpus.name} {self.modality} features {self.spec!r}"
                return Extraction(Features(check_matrix(self.rows, name), self.provenance))
            except InvalidInput as error:
                raise CorruptData(str(error)) from error
        return self._extract(self.encoder, self.rows, {})

    def parts(self, cut: str) -> Extraction:
        """Rows (m, d) of the parts of all items, by the encoder as it is for the items themselves.

        Args:
            cut: ``sentences``, ``regions`` or ``grid1``, ``grid2``, ...

        Raises:
            Unsupported: there are no such parts.
        """
        if self.encoder is None:
            raise Unsupported(
                f"parts: {self.corpus.name} stores its {self.modality} features {self.spec!r} for whole items alone; "
                "take none, or features that are extracted"
            )
        parts = cut_items(self.corpus, self.modality, cut)
        counts = [len(part) for part in parts]
        found = self._extract(
            self.encoder, list(chain.from_iterable(parts)), {"cut": cut, "counts": digest(counts)}
        )
        features = replace(found.features, provenance={**self.provenance, "cut": cut})
        offsets = np.array([0, *accumulate(counts)], dtype=np.int64)
        return replace(found, features=features, offsets=offsets)

    def _extract(self, encoder: Encoder, rows: Sequence[Any], cut: Mapping[str, object]) -> Extraction:
        key: dict[str, object] = {
            "format": 2,  # of the files
            "corpus": self.corpus.digest,
            "modality": self.modality,
            "provenance": self.provenance,
            **cut,
        }
        if encoder.learns:
            key["training"] = [self.corpus.ids[row] for row in self.split.train]
        words = [self.corpus.name, parse_spec(self.spec)[0], *([str(cut["cut"])] if cut else [])]
        name = re.sub(r"[^\w.-]", "_", "-".join(words))
        path = self.cache_dir / "features" / f"{name}-{digest(key)[:ID_LENGTH]}.npy"
        what = f"{words[1]} {self.modality} features" + (f" of {cut['cut']}" if cut else "")
        began, fitted = time.perf_counter(), self._fit_seconds
        waited: float | None = None

        def waiting() -> None:
            nonlocal waited
            waited = time.perf_counter() - began
            self.resources.progress(f"waiting for another process: {what}", None)

        matrix, encoded = obtain(
            path,
            len(rows),
            partial(self._chunk, encoder, rows, what),
            size=CHUNK[self.modality],
            device=self.resources.device,
            learned=encoder.learns,
            waiting=waiting,
            resuming=lambda row: self.resources.progress(
                f"{what}: going on from row {row:,} of {len(rows):,}", None
            ),
        )
        seconds, fit_seconds = time.perf_counter() - began, 0.0
        if self._fit_seconds is not None and fitted is None:
            fit_seconds = self._fit_seconds
        return Extraction(
            Features(matrix, self.provenance),
            path=path,
            encoded=encoded,
            learned_from=len(self.split.train) if fit_seconds else 0,
            fit_seconds=fit_seconds,
            seconds=seconds - fit_seconds - (waited or 0.0),
            waited=waited,
        )

    def _chunk(
        self, encoder: Encoder, rows: Sequence[Any], what: str, start: int, stop: int
    ) -> NDArray[np.float32]:
        """The feature rows of ``rows[start:stop]``, checked."""
        if missing := encoder.missing():
            extra = f" with: pip install 'xmbench[{encoder.extra}]'" if encoder.extra else ""
            raise MissingDependency(
                f"{self.modality} features {self.spec} need {', '.join(missing)}; install them{extra}"
            )
        self._fit(encoder)
        tell, n = self.resources.progress, len(rows)

        def progress(message: str, fraction: float | None) -> None:
            if fraction is None or fraction < 1:  # the end of a chunk is told below
                tell(f"extracting {what}", (start + (fraction or 0.0) * (stop - start)) / n)

        progress("", 0.0)
        with blaming("encoder", self.spec, "transform"):
            found = np.asarray(
                encoder.transform(rows[start:stop], replace(self.resources, progress=progress))
            )
        name = f"{self.corpus.name} {what}"
        if len(found) != stop - start:
            raise InvalidInput(f"{name}: the encoder made {len(found)} rows of {stop - start}")
        if found.ndim == 2 and found.dtype.kind == "f" and not np.isfinite(found).all():
            row, column = np.argwhere(~np.isfinite(found))[0]
            raise InvalidInput(
                f"{name}: row {start + row}, column {column} is {found[row, column]}, not a finite float32"
            )
        tell(f"extracting {what}", stop / n)
        return check_matrix(found, name)

    def _fit(self, encoder: Encoder) -> None:
        if not encoder.learns or self._fit_seconds is not None:
            return
        began, train = time.perf_counter(), self.split.train
        labels = self.corpus.labels[train] if encoder.supervised else None
        self.resources.progress(f"fitting {self.spec} on {len(train)} training {self.modality}s", None)
        with blaming("encoder", self.spec, "fit"):
            encoder.fit([self.rows[row] for row in train], labels, self.resources)
        self._fit_seconds = time.perf_counter() - began


def _provenance(made: Encoder, plugin: Plugin) -> dict[str, object]:
    """What decides an encoder's output; of one that xmbench does not bring, its source too."""
    with blaming("encoder", plugin.name, "provenance"):
        provenance = made.provenance()
    try:
        canonical_json(provenance)
        provenance = dict(provenance)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"encoder {plugin.name!r}: its provenance is no JSON dictionary ({error})"
        ) from error
    if plugin.origin != "built-in":
        provenance = {"name": plugin.name, **provenance, "source": plugin.source_digest()[:ID_LENGTH]}
    if made.learns:
        provenance["fitted_on"] = "training rows"
    return provenance


def extract(
    dataset: Dataset,
    corpus: Corpus,
    split: Split,
    modality: Modality,
    spec: str,
    *,
    cache_dir: Path,
    progress: Progress,
    registry: Registry | None = None,
) -> Features:
    """The feature matrix of one modality for every row of a corpus; see :class:`Extractor`."""
    resources = Resources(progress=progress)
    return (
        Extractor(
            dataset,
            corpus,
            split,
            modality,
            spec,
            cache_dir=cache_dir,
            resources=resources,
            registry=registry,
        )
        .items()
        .features
    )
