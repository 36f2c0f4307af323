"""The one interface of all methods: ``fit`` on training pairs, ``encode_image`` and ``encode_text``.

A subclass stores its parameters unchanged in ``__init__`` (scikit-learn's rules), and implements
``_fit``, ``_encode_image`` and ``_encode_text``; every check of shapes and values is made here, once.
"""

from __future__ import annotations

import inspect
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from xmbench._io import atomic_write, npz_bytes, read_npz
from xmbench.data import Pairs, Ragged, check_matrix
from xmbench.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    NotFittedError,
    UnknownName,
    Unsupported,
)
from xmbench.reuse import Pieces

ENCODED_AT_ONCE = 2**24
"""Numbers in the rows that a method encodes at once (128 MB in float64)."""


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What a table and its reader need to know about a method.

    Args:
        title: the method's name as its authors write it.
        paper: authors, year, title, venue.
        year: year of publication.
        supervised: whether ``fit`` looks at class labels.
        multi_label: whether multi-hot labels are accepted.
        transductive: whether ``fit`` always wants the features of the test rows; where that depends on a
            parameter, the method overrides :attr:`Method.transductive` instead.
        control: a reference row rather than a published method.
        departures: where it departs from its paper, one sentence each; shown beside its numbers.
        requires: modules that its runs import, loaded once for all runs of a plan.
        trained: fitted by an iterative, possibly stochastic procedure (re-runs are compared loosely).
        parts: uses parts of images and texts where the training pairs have some: ``_encode_image`` and
            ``_encode_text`` then take a second argument, ``parts: Ragged | None = None``.
    """

    title: str
    paper: str
    year: int
    supervised: bool
    multi_label: bool = True
    transductive: bool = False
    control: bool = False
    departures: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    trained: bool = False
    parts: bool = False


def _no_progress(message: str, fraction: float | None = None) -> None:
    """Say nothing."""


@dataclass(kw_only=True)
class FitContext:
    """What surrounds a fit. A method may ignore all of it.

    Args:
        validation_score: main metric of a (partly) fitted method on the validation pairs under the default
            protocol, whatever the run is scored with; higher is better; None without validation pairs.
        validation_tasks: where the caller gives them, the scores by task whose mean that metric is.
        unlabelled_images: (m, d_image) rows without labels, for transductive runs alone; else None.
        unlabelled_texts: (m, d_text) likewise.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: threads that a fit may use.
        deadline: value of ``time.monotonic()`` at which the run will be ended; None for no limit.
        progress: called with a message and, where known, the fraction done.
        pieces: what depends on the training pairs and not, or not on all, of the parameters (Gram matrices,
            decompositions); tuning gives all its fits the same collection. A fit gives the same without them.
    """

    validation_score: Callable[[Method], float] | None = None
    validation_tasks: Callable[[Method], Mapping[str, float]] | None = None
    unlabelled_images: NDArray[np.float32] | None = None
    unlabelled_texts: NDArray[np.float32] | None = None
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None
    progress: Callable[[str, float | None], None] = field(default=_no_progress)
    pieces: Pieces = field(default_factory=Pieces)

    def check_deadline(self) -> None:
        """Raise DeadlineExceeded when the run's time is over; iterative methods call it once a round."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded("the run's time is over (--timeout)")


class Method(ABC):
    """A cross-modal retrieval method.

    Class attributes:
        info: what the method is.
        grid: parameter -> values that tuning may try.
        presets: name -> parameters, chosen with ``name[preset=...]``.
        ablations: name -> parameters, chosen with ``name[ablation=...]``.

    Learned attributes end in an underscore and are numpy arrays, numbers, strings, None, or lists and
    dictionaries of those: they are what :meth:`save` stores.

    Two of them have a meaning to runs and figures. ``history_`` is a list of dictionaries, one an epoch in order, of
    numbers and texts: ``epoch`` (from 1; it may start anew with each ``stage``), ``validation_map``, losses whose
    names hold ``loss``, shares of right answers whose names end in ``accuracy``, and what else there is to tell.
    ``best_epoch_`` is the epoch that was kept, of the last stage if there are several. Methods that are not trained
    by epochs have neither.
    """

    info: ClassVar[MethodInfo]
    grid: ClassVar[Mapping[str, Sequence[object]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    ablations: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    @property
    def transductive(self) -> bool:
        """Whether, with these parameters, ``fit`` wants the features of the test rows."""
        return self.info.transductive

    @property
    def departures(self) -> tuple[str, ...]:
        """Where the method, with these parameters, departs from its paper; shown beside its numbers."""
        return self.info.departures

    # -- what a subclass writes -----------------------------------------------------------------

    @abstractmethod
    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        """Learn from checked training pairs; set attributes that end in ``_``."""

    @abstractmethod
    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """(m, d_image) -> (m, k); row i depends on row i alone."""

    @abstractmethod
    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        """(m, d_text) -> (m, k); row i depends on row i alone."""

    # -- what a caller uses ---------------------------------------------------------------------

    def fit(
        self, train: Pairs, validation: Pairs | None = None, *, context: FitContext | None = None
    ) -> Self:
        """Learn a common space from training pairs.

        Args:
            train: training pairs.
            validation: pairs that may choose epochs and hyper-parameters, never be trained on.
            context: device, threads, deadline, progress, validation score.

        Returns:
            The method itself, fitted.

        Raises:
            Unsupported: the method refuses this data, in words.
            InvalidInput: training and validation pairs do not fit together.
        """
        context = context or FitContext()
        if context.pieces.owner is not train:
            context = replace(context, pieces=Pieces())
        if train.multi_label and not self.info.multi_label:
            raise Unsupported(f"{self.info.title} needs one class per item; these items have several")
        if self.info.supervised and train.one_hot().any(axis=0).sum() < 2:
            raise Unsupported(
                f"{self.info.title} learns from classes and needs at least 2 in the training rows, got 1"
            )
        if validation is not None:
            check_matrix(validation.images, "validation images", width=train.images.shape[1])
            check_matrix(validation.texts, "validation texts", width=train.texts.shape[1])
            if validation.n_classes != train.n_classes:
                raise InvalidInput(
                    f"validation: expected {train.n_classes} classes as in training, got {validation.n_classes}"
                )
        if self.transductive and context.unlabelled_images is None:
            raise Unsupported(
                f"{self!r} is transductive: it learns from the features of the test rows. "
                "Ask for that with --transductive; its rows are marked in every table"
            )
        self._forget()
        self.n_features_in_ = [train.images.shape[1], train.texts.shape[1]]  # lets _fit score itself
        if self.info.parts:
            parts = (train.image_parts, train.text_parts)
            self.n_part_features_in_ = [None if part is None else part.values.shape[1] for part in parts]
        try:
            self._fit(train, validation, context)
        except BaseException:
            self._forget()
            raise
        return self

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def encode_image(self, images: NDArray[Any], parts: Ragged | None = None) -> NDArray[Any]:
        """Common-space rows (m, k) of image features (m, d_image).

        Args:
            images: feature rows.
            parts: the parts of each image; handed to methods that declare ``info.parts`` alone.

        Raises:
            NotFittedError: fit was not called.
            InvalidInput: wrong width, values that are not finite, or a method that learned from parts gets none.
        """
        return self._encode(images, parts, 0, "image", self._encode_image)

    def encode_text(self, texts: NDArray[Any], parts: Ragged | None = None) -> NDArray[Any]:
        """Common-space rows (m, k) of text features (m, d_text); as :meth:`encode_image`."""
        return self._encode(texts, parts, 1, "text", self._encode_text)

    def encode_pairs(self, pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any]]:
        """Common-space rows of the images and of the texts of ``pairs``, each from its own modality alone."""
        if not self.info.parts:
            return self.encode_image(pairs.images), self.encode_text(pairs.texts)
        images = self.encode_image(pairs.images, pairs.image_parts)
        return images, self.encode_text(pairs.texts, pairs.text_parts)

    def _encode(
        self,
        rows: NDArray[Any],
        parts: Ragged | None,
        modality: int,
        name: str,
        encode: Callable[..., NDArray[Any]],
    ) -> NDArray[Any]:
        widths = getattr(self, "n_features_in_", None)
        if widths is None:
            raise NotFittedError(f"{self!r} is not fitted; call fit first")
        checked = check_matrix(rows, f"{name}s", width=widths[modality])
        if self.info.parts:
            return np.asarray(encode(checked, self._checked_parts(parts, len(checked), modality, name)))
        size = max(1, ENCODED_AT_ONCE // checked.shape[1])
        if len(checked) <= size:
            return np.asarray(encode(checked))
        starts = range(0, len(checked), size)
        return np.concatenate([np.asarray(encode(checked[start : start + size])) for start in starts])

    def _checked_parts(self, parts: Ragged | None, n: int, modality: int, name: str) -> Ragged | None:
        width = self.n_part_features_in_[modality]
        if (parts is None) != (width is None):
            raise InvalidInput(
                f"{name} parts: {self!r} was fitted {'with' if width else 'without'} them, and has to be given "
                f"{'them' if width else 'none'}"
            )
        if parts is not None:
            check_matrix(parts.values, f"{name} parts", width=width)
            if len(parts) != n:
                raise InvalidInput(f"{name} parts: of {len(parts)} items, expected {n}")
        return parts

    @property
    def n_parameters(self) -> int:
        """How many numbers the fitted model consists of."""
        return sum(
            value.size
            for name, value in vars(self).items()
            if name.endswith("_") and isinstance(value, np.ndarray)
        )

    # -- parameters -----------------------------------------------------------------------------

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Parameter -> default value, from the signature of ``__init__``."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "self" and p.default is not p.empty}

    @classmethod
    def resolve(cls, parameters: Mapping[str, object]) -> Self:
        """An instance from parameters, among which ``preset`` and ``ablation`` stand for named sets.

        Explicit parameters win over the ablation, and that over the preset.

        Raises:
            UnknownName: no such parameter, preset or ablation.
            InvalidParameter: a value of the wrong type.
        """
        chosen: dict[str, Any] = {}
        rest = dict(parameters)
        for kind, sets in (("preset", cls.presets), ("ablation", cls.ablations)):
            if kind in rest and kind not in cls.defaults():
                name = str(rest.pop(kind))
                if name not in sets:
                    raise UnknownName(f"{kind} of {cls.__name__}", name, sets)
                chosen |= sets[name]
        chosen |= rest
        defaults = cls.defaults()
        for name, value in chosen.items():
            if name not in defaults:
                raise UnknownName(f"parameter of {cls.__name__}", name, defaults)
            chosen[name] = _checked(f"{cls.__name__}.{name}", value, cls._annotation(name))
        return cls(**chosen)

    @classmethod
    def _annotation(cls, name: str) -> object:
        return inspect.signature(cls.__init__, eval_str=True).parameters[name].annotation

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameter -> value, all of them."""
        return {name: getattr(self, name) for name in self.defaults()}

    def set_params(self, **parameters: object) -> Self:
        """Set parameters by name; raises UnknownName."""
        for name, value in parameters.items():
            if name not in self.defaults():
                raise UnknownName(f"parameter of {type(self).__name__}", name, self.defaults())
            setattr(self, name, value)
        return self

    def clone(self) -> Self:
        """An unfitted copy with the same parameters."""
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.get_params().items() if value != self.defaults()[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # -- storage --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Store parameters and learned attributes as one ``.npz`` of arrays and JSON, without pickle."""
        arrays: dict[str, NDArray[Any]] = {}
        learned = {name: value for name, value in vars(self).items() if name.endswith("_")}
        state = {name: _pack(value, name, arrays) for name, value in learned.items()}
        header = {"class": type(self).__name__, "params": self.get_params(), "state": state}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        atomic_write(Path(path), npz_bytes(arrays))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: the file is damaged or holds another method.
        """
        try:
            arrays = read_npz(Path(path))
            header = json.loads(arrays.pop("header").tobytes())
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"{Path(path).name} holds no saved method: {error}") from error
        if header["class"] != cls.__name__:
            raise InvalidInput(f"{Path(path).name} holds a {header['class']}, not a {cls.__name__}")
        method = cls(**header["params"])
        vars(method).update({name: _unpack(value, arrays) for name, value in header["state"].items()})
        return method


def _pack(value: object, name: str, arrays: dict[str, NDArray[Any]]) -> object:
    """JSON for a learned attribute; its arrays are put into ``arrays`` and referred to by name."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, list):
        return [_pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {"items": {key: _pack(item, f"{name}.{key}", arrays) for key, item in value.items()}}
    return value


def _unpack(value: object, arrays: dict[str, NDArray[Any]]) -> object:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        return {key: _unpack(item, arrays) for key, item in value["items"].items()}
    return value


def _checked(name: str, value: object, annotation: object) -> object:
    """The value, if the parameter's annotation allows it; an int for a float becomes one."""
    import types
    import typing

    if annotation is inspect.Parameter.empty:
        return value
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        allowed = typing.get_args(annotation)
    else:
        allowed = (annotation,)
    for kind in allowed:
        if kind is None or kind is type(None):
            if value is None:
                return None
        elif typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return value
            if value is None and "none" in typing.get_args(kind):
                return "none"  # as brackets have it: name[parameter=none]
        elif kind is float:
            if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
                return value if int in allowed and isinstance(value, int) else float(value)
        elif not isinstance(kind, type) or (
            isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        ):
            return value
    expected = " or ".join(
        "none" if kind in (None, type(None)) else kind.__name__ if isinstance(kind, type) else str(kind)
        for kind in allowed
    )
    raise InvalidParameter(f"{name}: expected {expected}, got {value!r}")
