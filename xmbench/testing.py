"""A kit for authors of methods: easy data, and one call that checks the contract of :class:`xmbench.Method`.

A plugin's own test is two lines::

    def test_contract():
        check_method(MyMethod)
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import digest, read_npz
from xmbench.data import Corpus, Features, PairedData, Pairs, Ragged, Split, prepare
from xmbench.errors import (
    ConformanceError,
    InvalidInput,
    InvalidParameter,
    NotFittedError,
    UnknownName,
    Unsupported,
    XmbenchError,
)
from xmbench.evaluation import evaluate
from xmbench.method import FitContext, Method, MethodInfo
from xmbench.reuse import Pieces
from xmbench.run import history_arrays

__all__ = ["check_method", "synthetic_data", "synthetic_pairs"]

LEARNED = (bool, int, float, str, type(None))
"""What a learned attribute may be, beside numpy arrays and lists and dictionaries of all these."""


def synthetic_pairs(
    n: int = 120,
    *,
    d_image: int = 12,
    d_text: int = 9,
    n_classes: int = 5,
    multi_label: bool = False,
    noise: float = 0.2,
    parts: bool = False,
    seed: int = 0,
) -> Pairs:
    """Easy pairs: both modalities are noisy linear images of the item's class and of a shared variation.

    Rows go through the classes in turn, so that any ``n_classes`` consecutive rows hold each class once.
    With ``multi_label`` every third item also has the next class.

    Args:
        n: number of pairs.
        d_image: width of the image features.
        d_text: width of the text features.
        n_classes: number of classes c.
        multi_label: labels as (n, c) multi-hot bool rather than (n,) int.
        noise: standard deviation of what the modalities do not share; class centres are at distance 1.4.
        parts: add 0 to 3 noisy copies of each image and of each text as its parts.
        seed: of the generator that draws everything.
    """
    rng = np.random.default_rng(seed)
    image_map, text_map = rng.standard_normal((n_classes, d_image)), rng.standard_normal((n_classes, d_text))
    classes = np.arange(n) % n_classes
    labels: NDArray[Any] = classes
    centres = np.eye(n_classes)[classes]
    if multi_label:
        centres[::3] += np.eye(n_classes)[(classes[::3] + 1) % n_classes]
        labels = centres > 0
        centres /= centres.sum(axis=1, keepdims=True)
    shared = centres + 0.2 * rng.standard_normal(centres.shape)
    pairs = Pairs(
        images=(shared @ image_map + noise * rng.standard_normal((n, d_image))).astype(np.float32),
        texts=(shared @ text_map + noise * rng.standard_normal((n, d_text))).astype(np.float32),
        labels=labels,
        ids=tuple(f"item-{i}" for i in range(n)),
        n_classes=n_classes,
    )
    if not parts:
        return pairs
    ragged = [_synthetic_parts(rows, noise, rng) for rows in (pairs.images, pairs.texts)]
    return replace(pairs, image_parts=ragged[0], text_parts=ragged[1])


def _synthetic_parts(rows: NDArray[np.float32], noise: float, rng: np.random.Generator) -> Ragged:
    counts = np.append(rng.integers(0, 4, len(rows) - 1), 3)  # never none in all
    copies = np.repeat(rows, counts, axis=0)
    values = copies + noise * rng.standard_normal(copies.shape)
    return Ragged(values.astype(np.float32), np.concatenate([[0], np.cumsum(counts)]))


def synthetic_data(
    n_train: int = 120,
    n_validation: int = 30,
    n_test: int = 30,
    *,
    d_image: int = 12,
    d_text: int = 9,
    n_classes: int = 5,
    multi_label: bool = False,
    noise: float = 0.2,
    parts: bool = False,
    seed: int = 0,
) -> PairedData:
    """:func:`synthetic_pairs` cut into training, validation and test rows, as a run gets them.

    Args as there; ``n_validation`` may be 0.
    """
    total = n_train + n_validation + n_test
    shape = {"d_image": d_image, "d_text": d_text, "n_classes": n_classes}
    pairs = synthetic_pairs(total, **shape, multi_label=multi_label, noise=noise, parts=parts, seed=seed)
    corpus = Corpus(
        name="synthetic",
        images=pairs.images,
        texts=pairs.texts,
        labels=pairs.labels,
        class_names=tuple(f"class-{label}" for label in range(n_classes)),
        ids=pairs.ids,
        groups=pairs.ids,
        digest=digest([total, shape, multi_label, noise, seed]),
    )
    train, validation, test = np.split(np.arange(total), [n_train, n_train + n_validation])
    split = Split("synthetic", None, train=train, validation=validation, test=test)
    provenance = {"name": "synthetic"}
    return prepare(
        corpus,
        split,
        Features(pairs.images, provenance),
        Features(pairs.texts, provenance),
        image_parts=pairs.image_parts,
        text_parts=pairs.text_parts,
        parts_provenance=provenance if parts else None,
    )


def check_method(cls: type[Method]) -> None:
    """Check a method class against everything that :class:`xmbench.Method` promises in its name.

    Raises:
        ConformanceError: at the first breach, in one sentence.
    """
    _check_class(cls)
    with _doing(cls, "a step that must not fail"):
        _check_info(cls)
        _check_constructor(cls)
        _check_parameters(cls)
        _check_variants(cls)
        for parts in _with_parts(cls):
            data = synthetic_data(parts=parts)
            method = _check_fit(cls, data)
            _check_encode(method, data)
            _check_errors(method, data)
            _check_repeatable(method, data)
            _check_storage(method, data)
            _check_labels(method, data)
            _check_parts(method, data)
            _check_multi_label(cls, parts)
            _check_pieces(cls, data)
            _check_refit(method, parts)


# -- what is read off the class ---------------------------------------------------------------------


def _check_class(cls: type[Method]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ConformanceError(f"{cls!r} is not a subclass of xmbench.Method")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    _demand(not missing, cls, f"{', '.join(missing)} must be implemented")


def _check_info(cls: type[Method]) -> None:
    info = getattr(cls, "info", None)
    if not isinstance(info, MethodInfo):
        raise ConformanceError(f"{cls.__name__}: info must be a MethodInfo, got {info!r}")
    for name in ("title", "paper"):
        value = getattr(info, name)
        _demand(
            isinstance(value, str) and bool(value.strip()), cls, f"info.{name} must be a text, got {value!r}"
        )
    year: object = info.year
    plausible = isinstance(year, int) and not isinstance(year, bool) and 1900 <= year <= 2100
    _demand(plausible, cls, f"info.year must be a year of four digits, got {year!r}")
    for name in ("supervised", "multi_label", "control", "trained", "parts"):
        value = getattr(info, name)
        _demand(isinstance(value, bool), cls, f"info.{name} must be True or False, got {value!r}")
    for name in ("departures", "requires"):
        value = getattr(info, name)
        texts = isinstance(value, tuple) and all(isinstance(item, str) and item.strip() for item in value)
        _demand(texts, cls, f"info.{name} must be a tuple of texts, got {value!r}")


class _Falsy:
    """Stands for any argument; false, so that ``argument or default`` does not go unseen."""

    def __bool__(self) -> bool:
        return False


def _check_constructor(cls: type[Method]) -> None:
    with _doing(cls, "reading the constructor's signature"):
        parameters = list(inspect.signature(cls.__init__, eval_str=True).parameters.values())[1:]
    if cls.__init__ is object.__init__:
        parameters = []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in parameters:
        _demand(
            parameter.kind in named, cls, f"the constructor takes {parameter}, which has no name of its own"
        )
        _demand(parameter.default is not parameter.empty, cls, f"parameter {parameter.name!r} has no default")
        annotated = parameter.annotation is not parameter.empty
        _demand(annotated, cls, f"parameter {parameter.name!r} has no annotation")
    names = {parameter.name for parameter in parameters}
    given: dict[str, Any] = {name: _Falsy() for name in names}
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, cls.defaults()), (given, given)]
    for arguments, expected in calls:
        with _doing(cls, "the constructor, which must only store its arguments,"):
            state = vars(cls(**arguments))
        for name in names:
            kept = name in state and state[name] is expected[name]
            _demand(
                kept, cls, f"the constructor does not keep {name!r} unchanged as an attribute of that name"
            )
        extra = sorted(set(state) - names)
        _demand(not extra, cls, f"the constructor sets {extra}, which are not among its parameters")
    with _doing(cls, "resolving the defaults"):
        cls.resolve(cls.defaults())


def _check_parameters(cls: type[Method]) -> None:
    for what, parameters in [("the defaults", {}), *_variants(cls)]:
        with _doing(cls, f"resolving {what}"):
            method = cls.resolve(parameters)
        values = method.get_params()
        _demand(set(values) == set(cls.defaults()), cls, "get_params does not return all parameters")
        with _doing(cls, f"storing {what} as JSON"):
            stored = json.loads(json.dumps(values, allow_nan=False))
        _demand(
            stored == values, cls, f"with {what}, the parameters {values} come back from JSON as {stored}"
        )
        copied = method.clone()
        fresh = type(copied) is cls and copied is not method and copied.get_params() == values
        _demand(fresh, cls, f"with {what}, clone does not return a new method with the same parameters")
        other = cls()
        _demand(other.set_params(**values) is other, cls, "set_params does not return the method itself")
        _demand(other.get_params() == values, cls, f"set_params does not set {values}")
        called = _read_call(repr(method))
        same = called is not None and called[0] == cls.__name__ and cls.defaults() | called[1] == values
        _demand(same, cls, f"repr does not show the call that makes the method, got {method!r}")

    def set_unknown(method: Method) -> None:
        method.set_params(no_such_parameter=1)

    _expect(UnknownName, cls, "set_params with an unknown name", set_unknown, cls())


def _variants(cls: type[Method]) -> Iterator[tuple[str, dict[str, object]]]:
    """Every preset, every ablation, every value of the grid: what it is, and how it is asked for."""
    for kind, sets in (("preset", cls.presets), ("ablation", cls.ablations)):
        for name in sets:
            yield f"{kind}={name}", {kind: name}
    for name, values in cls.grid.items():
        for value in values:
            yield f"{name}={value!r} of the grid", {name: value}


def _check_variants(cls: type[Method]) -> None:
    for kind, sets in (("preset", cls.presets), ("ablation", cls.ablations)):
        for name, parameters in sets.items():
            method = cls.resolve({kind: name})
            _demand(bool(parameters), cls, f"{kind}={name} sets nothing")
            kept = all(method.get_params()[key] == value for key, value in parameters.items())
            _demand(kept, cls, f"{kind}={name} does not set the parameters that it lists")
    for name, values in cls.grid.items():
        _demand(len(values) > 0, cls, f"the grid has no values for {name!r}")
        twice = any(value in values[:i] for i, value in enumerate(values))
        _demand(not twice, cls, f"the grid has a value twice for {name!r}")


def _read_call(text: str) -> tuple[str, dict[str, object]] | None:
    """Name and keyword arguments of ``Name(key=literal, ...)``; None for any other text."""
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return call.func.id, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        return None
    return None


# -- what is seen in a fit --------------------------------------------------------------------------


def _with_parts(cls: type[Method]) -> tuple[bool, ...]:
    """Whether to check without parts, with them, or one after the other: a method may need them and say so."""
    if not cls.info.parts:
        return (False,)
    try:
        _fit(cls(), synthetic_data())
    except ConformanceError as error:
        if isinstance(error.__cause__, Unsupported):
            return (True,)
        raise
    return (False, True)


def _check_fit(cls: type[Method], data: PairedData) -> Method:
    method = cls()
    for module in cls.info.requires:
        import_module(module)  # a generator that an import brings along is no draw
    parameters, rows, generators = (
        copy.deepcopy(method.get_params()),
        _copied([data.train, data.validation]),
        _generators(),
    )
    fitted = _fit(method, data)
    _demand(fitted is method, cls, f"fit must return the method itself, got {fitted!r}")
    _demand(_same(_rows([data.train, data.validation]), rows), cls, "fit changes the pairs it was given")
    _demand(method.get_params() == parameters, cls, f"fit changes the parameters from {parameters}")
    _demand(_same(_generators(), generators), cls, "fit draws from a global random generator or seeds one")
    for name, value in vars(method).items():
        learned = name in parameters or name.endswith("_")
        _demand(learned, cls, f"fit sets {name!r}; learned attributes must end in an underscore")
        kept = name in parameters or _storable(value)
        _demand(kept, cls, f"{name!r} is a {type(value).__name__}, which cannot be saved as arrays and JSON")
    history_arrays(method)
    return method


def _check_encode(method: Method, data: PairedData) -> None:
    cls, widths = type(method), []
    for name, rows, parts, encode in _sides(method, data.test):
        given, state, generators = copy.deepcopy((rows, parts)), copy.deepcopy(vars(method)), _generators()
        at = partial(_encoded, encode, rows, parts)
        with _doing(cls, name):
            embedding = encode(rows, parts)
        sound = isinstance(embedding, np.ndarray) and embedding.ndim == 2 and len(embedding) == len(rows)
        shape = getattr(embedding, "shape", type(embedding).__name__)
        _demand(sound, cls, f"{name} must give an array of {len(rows)} rows and k columns, got {shape}")
        widths.append(embedding.shape[1])
        _demand(widths[-1] > 0, cls, f"{name} gives rows without a column")
        real = embedding.dtype.kind in "fiu" and bool(np.isfinite(embedding).all())
        _demand(real, cls, f"{name} must give real, finite numbers, got dtype {embedding.dtype}")
        kept = _same([rows, parts and parts.values], [given[0], given[1] and given[1].values])
        _demand(kept, cls, f"{name} changes the rows it was given")
        _demand(_same(vars(method), state), cls, f"{name} changes the fitted state")
        _demand(
            _same(_generators(), generators), cls, f"{name} draws from a global random generator or seeds one"
        )
        _demand(
            _same(encode(rows, parts), embedding), cls, f"{name} gives another result when it is called again"
        )
        for m in (1, 7):
            alone = _close(at(np.arange(m)), embedding[:m])
            _demand(alone, cls, f"{name}: the first {m} rows come out differently without the others")
        turned = _close(at(np.arange(len(rows))[::-1]), embedding[::-1])
        _demand(turned, cls, f"{name}: rows come out differently in another order")
    message = f"images and texts must be encoded in equally many dimensions, got {widths[0]} and {widths[1]}"
    _demand(widths[0] == widths[1], cls, message)


def _check_errors(method: Method, data: PairedData) -> None:
    cls = type(method)
    for name, rows, parts, encode in _sides(method.clone(), data.test):
        with_parts = partial(encode, parts=parts)
        _expect(NotFittedError, cls, f"{name} of an unfitted method", with_parts, rows)
    for name, rows, parts, encode in _sides(method, data.test):
        wide, broken = np.hstack([rows, rows[:, :1]]), rows.copy()
        broken[3, 1] = np.nan
        with_parts = partial(encode, parts=parts)
        _expect(InvalidInput, cls, f"{name} with a column too many", with_parts, wide)
        _expect(InvalidInput, cls, f"{name} with NaN", with_parts, broken)


def _check_parts(method: Method, data: PairedData) -> None:
    """Of a method that uses parts: other parts, other embeddings."""
    if method.info.parts and data.train.image_parts is not None:
        other = _fit(method.clone(), replace(data, train=_turned(data.train)))
        same = _same(_embeddings(other, _turned(data.test)), _embeddings(method, data.test))
        _demand(not same, type(method), "info.parts is True, yet the parts make no difference")


def _turned(pairs: Pairs) -> Pairs:
    """The same pairs with the rows of their parts in the opposite order: other parts for most items."""
    images, texts = (
        parts and Ragged(parts.values[::-1], parts.offsets) for parts in (pairs.image_parts, pairs.text_parts)
    )
    return replace(pairs, image_parts=images, text_parts=texts)


def _check_repeatable(method: Method, data: PairedData) -> None:
    again = _fit(method.clone(), data)
    same = _same(_embeddings(again, data.test), _embeddings(method, data.test))
    _demand(same, type(method), "a second fit with the same parameters and data gives other embeddings")


def _check_storage(method: Method, data: PairedData) -> None:
    cls = type(method)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "method.npz"
        with _doing(cls, "save"):
            method.save(path)
        with _doing(cls, "reading what save wrote, without pickle,"):
            read_npz(path)
        with _doing(cls, "load"):
            loaded = cls.load(path)
    alike = type(loaded) is cls and loaded.get_params() == method.get_params()
    _demand(alike, cls, "load does not return a method of the same class and parameters")
    same = _same(_embeddings(loaded, data.test), _embeddings(method, data.test))
    _demand(same, cls, "a saved and loaded method gives other embeddings")


def _check_labels(method: Method, data: PairedData) -> None:
    cls = type(method)
    order = np.random.default_rng(0).permutation(len(data.train))
    shuffled = replace(data, train=replace(data.train, labels=data.train.labels[order]))
    other = _fit(method.clone(), shuffled)
    same = _same(_embeddings(other, data.test), _embeddings(method, data.test))
    if cls.info.supervised:
        _demand(not same, cls, "info.supervised is True, yet the labels make no difference")
    else:
        _demand(same, cls, "info.supervised is False, yet other labels give other embeddings")


def _check_multi_label(cls: type[Method], parts: bool) -> None:
    data = synthetic_data(multi_label=True, parts=parts)
    if cls.info.multi_label:
        method = _fit(cls(), data)
        finite = all(np.isfinite(rows).all() for rows in _embeddings(method, data.test))
        _demand(finite, cls, "embeddings learned from items with several classes are not finite")
    else:
        what = "fit on items with several classes, which info.multi_label excludes,"
        _expect(Unsupported, cls, what, cls().fit, data.train)


def _check_refit(method: Method, parts: bool) -> None:
    cls = type(method)
    data = synthetic_data(100, 0, 20, d_image=10, d_text=11, n_classes=4, parts=parts, seed=1)
    fresh, used = _fit(cls(), data), _fit(method, data)
    _demand(set(vars(used)) == set(vars(fresh)), cls, "a second fit keeps attributes of the first")
    same = _same(_embeddings(used, data.test), _embeddings(fresh, data.test))
    _demand(same, cls, "a second fit is influenced by the first")


def _check_pieces(cls: type[Method], data: PairedData) -> None:
    """With the pieces that earlier fits left, every value of the grid gives what it gives alone."""
    pieces = Pieces(data.train)
    before = _embeddings(_fit(cls(), data, pieces), data.test)
    if not pieces.made:
        return
    for what, parameters in [("the defaults", {}), *_variants(cls)]:
        method = cls.resolve(parameters)
        try:
            fresh = _fit(method.clone(), data)
        except ConformanceError as error:
            if isinstance(error.__cause__, InvalidParameter):
                continue  # more dimensions than so little data has
            raise
        found = _embeddings(_fit(method, data, pieces), data.test)
        alike = all(map(_near, found, _embeddings(fresh, data.test)))
        _demand(
            alike,
            cls,
            f"with {what}, a fit with the pieces of earlier ones gives other embeddings than alone",
        )
    same = _same(_embeddings(_fit(cls(), data, pieces), data.test), before)
    _demand(same, cls, "a fit changes the pieces that an earlier one left")


# -- small parts ------------------------------------------------------------------------------------


def _demand(condition: bool, cls: type[Method], message: str) -> None:
    if not condition:
        raise ConformanceError(f"{cls.__name__}: {message}")


@contextmanager
def _doing(cls: type[Method], what: str) -> Iterator[None]:
    """Name what was being done when the method's code raises, whatever it raises."""
    try:
        yield
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(f"{cls.__name__}: {what} raised {type(error).__name__}: {error}") from error


def _expect(
    kind: type[XmbenchError], cls: type[Method], what: str, call: Callable[[Any], object], argument: object
) -> None:
    try:
        call(argument)
    except kind:
        return
    except Exception as error:
        message = f"{cls.__name__}: {what} must raise {kind.__name__}, raised {type(error).__name__}: {error}"
        raise ConformanceError(message) from error
    raise ConformanceError(f"{cls.__name__}: {what} must raise {kind.__name__}, raised nothing")


def _fit(method: Method, data: PairedData, pieces: Pieces | None = None) -> Method:
    """``fit`` as a run calls it: a validation score if there is validation data, test features on request."""
    context = FitContext(pieces=Pieces() if pieces is None else pieces)
    if data.validation is not None:
        pairs = data.validation

        def validation_score(partly: Method) -> float:
            images, texts = _embeddings(partly, pairs)
            return evaluate(images, texts, pairs.labels).main

        context.validation_score = validation_score
    if method.transductive:
        context.unlabelled_images, context.unlabelled_texts = data.test.images, data.test.texts
    with _doing(type(method), "fit on easy data"):
        return method.fit(data.train, data.validation, context=context)


Encode = Callable[..., NDArray[Any]]


def _sides(method: Method, pairs: Pairs) -> list[tuple[str, NDArray[np.float32], Ragged | None, Encode]]:
    return [
        ("encode_image", pairs.images, pairs.image_parts, partial(_encode, method.encode_image)),
        ("encode_text", pairs.texts, pairs.text_parts, partial(_encode, method.encode_text)),
    ]


def _encode(encode: Encode, rows: NDArray[np.float32], parts: Ragged | None) -> NDArray[Any]:
    return encode(rows) if parts is None else encode(rows, parts)


def _encoded(
    encode: Encode, rows: NDArray[np.float32], parts: Ragged | None, index: NDArray[np.int64]
) -> NDArray[Any]:
    """Embeddings of the items ``index``, by themselves."""
    return encode(rows[index], None if parts is None else parts.take(index))


def _embeddings(method: Method, pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any]]:
    with _doing(type(method), "encode"):
        return method.encode_pairs(pairs)


def _rows(parts: list[Pairs | None]) -> list[NDArray[Any]]:
    """All arrays of pairs."""
    found: list[NDArray[Any]] = []
    for pairs in filter(None, parts):
        ragged = [part.values for part in (pairs.image_parts, pairs.text_parts) if part is not None]
        found += [pairs.images, pairs.texts, pairs.labels, *ragged]
    return found


def _copied(parts: list[Pairs | None]) -> list[NDArray[Any]]:
    return [rows.copy() for rows in _rows(parts)]


def _generators() -> list[object]:
    """State of the global random generators of Python, numpy and, where it is loaded, torch."""
    states: list[object] = [random.getstate(), np.random.get_state()]  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        states.append(torch.random.get_rng_state().numpy().copy())
    return states


def _storable(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufcSU"
    if isinstance(value, list):
        return all(_storable(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _storable(item) for key, item in value.items())
    return isinstance(value, LEARNED)


def _same(first: object, second: object) -> bool:
    """Equality to the last bit, through lists and dictionaries."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        like = first.dtype == second.dtype and first.shape == second.shape
        return like and first.tobytes() == second.tobytes()
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _same(value, second[key]) for key, value in first.items()
        )
    return type(first) is type(second) and bool(first == second)


def _near(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Equality to 1e-10 of the largest element."""
    size = float(np.abs(second).max(initial=0.0))
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=1e-10 * size)


def _close(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Equality up to rounding in float32, measured against the largest element."""
    size = float(np.abs(second).max(initial=0.0))
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-5 * size)
