"""The contract of methods: every built-in one keeps it, and the kit notices each way of breaking it."""

# ruff: noqa: RUF012

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xmbench
from xmbench import FitContext, Method, MethodInfo, Pairs
from xmbench.errors import (
    ConformanceError,
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    NotFittedError,
    UnknownName,
    Unsupported,
)
from xmbench.registry import Registry
from xmbench.reuse import Pieces
from xmbench.testing import check_method, synthetic_data, synthetic_pairs

BUILT_IN = sorted(name for name, plugin in Registry().methods.items() if plugin.origin == "built-in")
CLASSES = {name: Registry().method(name) for name in BUILT_IN}


# -- the built-in methods ---------------------------------------------------------------------------


def test_the_walk_finds_the_first_methods():
    assert {"cca", "cfa", "deep_sm", "random"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_methods_keep_the_contract(name):
    check_method(CLASSES[name])


def learn_and_score(cls: type[Method], data: xmbench.PairedData) -> float:
    method = cls().fit(data.train, data.validation)
    test = data.test
    scores = xmbench.evaluate(method.encode_image(test.images), method.encode_text(test.texts), test.labels)
    return scores.main


def easy(seed: int) -> xmbench.PairedData:
    return synthetic_data(200, 40, 100, n_classes=10, d_image=16, d_text=14, seed=seed)


def disordered(pairs: Pairs, seed: int) -> Pairs:
    """The same images, texts and labels, with nothing left of what belongs to what."""
    rng = np.random.default_rng(seed)
    n = len(pairs)
    images, texts = pairs.images[rng.permutation(n)], pairs.texts[rng.permutation(n)]
    return replace(pairs, images=images, texts=texts, labels=pairs.labels[rng.permutation(n)])


CHANCE = 0.138  # mean average precision of a random order, for 100 items in 10 classes of equal size
SEEDS = (0, 1, 2)


def test_the_stated_chance_level_is_that_of_the_evaluator():
    test = easy(0).test
    rows = np.random.default_rng(0).standard_normal((len(test), 4))
    chance = xmbench.evaluate(rows, rows, test.labels).tasks["image->text"].chance
    assert chance == pytest.approx(CHANCE, abs=5e-4)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if not CLASSES[name].info.control])
def test_methods_learn_from_pairs_and_from_nothing_else(name):
    """Far above chance on easy pairs; near it when training pairs and labels are shuffled.

    Not at it: even unrelated projections keep the test classes together, and a class that comes as one
    block at a random place of the ranking has a mean average precision of about 0.2.
    """
    learned = [learn_and_score(CLASSES[name], easy(seed)) for seed in SEEDS]
    assert min(learned) > CHANCE + 0.4
    shuffled = []
    for seed in SEEDS:
        data = easy(seed)
        data = replace(data, train=disordered(data.train, seed), validation=disordered(data.validation, seed))
        shuffled.append(learn_and_score(CLASSES[name], data))
    assert np.mean(shuffled) < CHANCE + 0.12


@pytest.mark.parametrize("name", [name for name in BUILT_IN if CLASSES[name].info.control])
def test_controls_do_no_better_than_the_methods(name):
    controls = np.mean([learn_and_score(CLASSES[name], easy(seed)) for seed in SEEDS])
    methods = [cls for cls in CLASSES.values() if not cls.info.control]
    assert controls < max(np.mean([learn_and_score(cls, easy(seed)) for seed in SEEDS]) for cls in methods)


# -- the kit: one sound method, and one broken method for each rule ---------------------------------


class Sound(Method):
    """Singular directions of X'T, each coordinate turned a little by a seeded generator."""

    info = MethodInfo(title="Sound", paper="none: for tests", year=2000, supervised=False)
    grid = {"n_components": (2, 3)}
    presets = {"small": {"n_components": 2}}
    ablations = {"still": {"jitter": 0.0}}

    def __init__(self, n_components: int = 3, jitter: float = 1e-3, random_state: int = 0) -> None:
        self.n_components = n_components
        self.jitter = jitter
        self.random_state = random_state

    def _fit(self, train, validation, context):
        rng = np.random.default_rng(self.random_state)
        left, _, right = np.linalg.svd(train.images.T @ train.texts)
        k = self.n_components
        noise = self.jitter * rng.standard_normal(k)
        self.image_weights_ = left[:, :k] + noise
        self.text_weights_ = right[:k].T + noise
        self.steps_ = [{"loss": 1.0}]

    def _encode_image(self, images):
        return images @ self.image_weights_

    def _encode_text(self, texts):
        return texts @ self.text_weights_


def test_the_sound_method_passes():
    check_method(Sound)


BROKEN: list[tuple[type, str]] = []


def breaks(message: str):
    """Register a class that must fail the kit with a message that matches ``message``."""

    def register(cls):
        BROKEN.append((cls, message))
        return cls

    return register


@breaks("not a subclass of xmbench.Method")
class NoMethod:
    info = Sound.info


@breaks("_encode_image, _encode_text must be implemented")
class Abstract(Method):
    info = Sound.info

    def _fit(self, train, validation, context):
        pass


@breaks("info must be a MethodInfo, got None")
class NoInfo(Method):
    _fit, _encode_image, _encode_text = Sound._fit, Sound._encode_image, Sound._encode_text


@breaks("info must be a MethodInfo, got 'Sound'")
class TextAsInfo(Sound):
    info = "Sound"


@breaks("info.title must be a text")
class NoTitle(Sound):
    info = replace(Sound.info, title=" ")


@breaks("info.paper must be a text")
class NoPaper(Sound):
    info = replace(Sound.info, paper=None)


@breaks("info.year must be a year of four digits, got 36")
class ShortYear(Sound):
    info = replace(Sound.info, year=36)


@breaks("info.supervised must be True or False, got 'no'")
class TextAsFlag(Sound):
    info = replace(Sound.info, supervised="no")


@breaks("info.departures must be a tuple of texts, got 'a ridge'")
class TextAsTuple(Sound):
    info = replace(Sound.info, departures="a ridge")


@breaks(r"takes \*\*options")
class Options(Sound):
    def __init__(self, **options: int) -> None:
        self.n_components = options.get("n_components", 3)


@breaks("takes k: int = 3, which has no name")
class PositionalOnly(Sound):
    def __init__(self, k: int = 3, /) -> None:
        self.k = k


@breaks("'n_components' has no default")
class NoDefault(Sound):
    def __init__(self, n_components: int) -> None:
        self.n_components = n_components


@breaks("'n_components' has no annotation")
class NoAnnotation(Sound):
    def __init__(self, n_components=3) -> None:
        self.n_components = n_components


@breaks("constructor does not keep 'n_components' unchanged")
class Renames(Sound):
    def __init__(self, n_components: int = 3) -> None:
        self.k = n_components


@breaks("constructor does not keep 'n_components' unchanged")
class Replaces(Sound):
    def __init__(self, n_components: int = 3) -> None:
        self.n_components = n_components or 3


@breaks("constructor does not keep 'n_components' unchanged")
class ReplacesTheDefault(Sound):
    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = 3 if n_components is None else n_components


@breaks("constructor, which must only store its arguments, raised TypeError")
class Converts(Sound):
    def __init__(self, n_components: int = 3) -> None:
        self.n_components = int(n_components)


@breaks(r"constructor sets \['rng'\]")
class Prepares(Sound):
    def __init__(self, n_components: int = 3) -> None:
        self.n_components = n_components
        self.rng = None


@breaks("resolving the defaults raised InvalidParameter")
class WrongDefault(Sound):
    def __init__(self, n_components: int = "three") -> None:
        self.n_components = n_components


@breaks("come back from JSON as")
class TupleParameter(Sound):
    presets, grid, ablations = {}, {}, {}

    def __init__(self, widths: tuple[int, ...] = (8, 3)) -> None:
        self.widths = widths


@breaks("get_params does not return all parameters")
class Forgets(Sound):
    def get_params(self, deep=True):
        return {"n_components": self.n_components}


@breaks("clone does not return a new method")
class Itself(Sound):
    def clone(self):
        return self


@breaks("clone does not return a new method")
class ClonesTheDefaults(Sound):
    def clone(self):
        return type(self)()


@breaks("set_params does not return the method itself")
class SetsSilently(Sound):
    def set_params(self, **parameters):
        super().set_params(**parameters)


@breaks("set_params does not set")
class SetsNothing(Sound):
    def set_params(self, **parameters):
        return self


@breaks("set_params with an unknown name must raise UnknownName, raised nothing")
class SetsAnything(Sound):
    def set_params(self, **parameters):
        vars(self).update(parameters)
        return self


@breaks("repr does not show the call")
class Anonymous(Sound):
    def __repr__(self):
        return "<a method>"


@breaks("repr does not show the call")
class ShowsTheDefaults(Sound):
    def __repr__(self):
        return f"{type(self).__name__}()"


@breaks("resolving preset=large raised UnknownName")
class PresetOfNothing(Sound):
    presets = {"large": {"width": 100}}


@breaks("resolving ablation=none raised InvalidParameter")
class AblationOfWrongType(Sound):
    ablations = {"none": {"jitter": "off"}}


@breaks("preset=empty sets nothing")
class EmptyPreset(Sound):
    presets = {"empty": {}}


@breaks("preset=small does not set the parameters that it lists")
class IgnoresVariants(Sound):
    @classmethod
    def resolve(cls, parameters):
        return cls()


@breaks(r"resolving ridge=0\.1 of the grid raised UnknownName")
class GridOfNothing(Sound):
    grid = {"ridge": (0.1,)}


@breaks("resolving n_components=2.5 of the grid raised InvalidParameter")
class GridOfWrongType(Sound):
    grid = {"n_components": (2, 2.5)}


@breaks("the grid has no values for 'n_components'")
class EmptyGrid(Sound):
    grid = {"n_components": ()}


@breaks("fit must return the method itself, got None")
class ReturnsNothing(Sound):
    def fit(self, train, validation=None, *, context=None):
        super().fit(train, validation, context=context)


@breaks("fit on easy data raised ZeroDivisionError: division by zero")
class Raises(Sound):
    def _fit(self, train, validation, context):
        self.weights_ = 1 / 0


@breaks("fit changes the pairs it was given")
class CentresInPlace(Sound):
    def _fit(self, train, validation, context):
        train.images[:] -= train.images.mean(axis=0)
        super()._fit(train, validation, context)


@breaks("fit changes the parameters")
class Retunes(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.n_components = 2


@breaks("fit draws from a global random generator")
class DrawsGlobally(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.image_weights_ = self.image_weights_ + 0 * np.random.rand()  # noqa: NPY002


@breaks("fit sets 'weights'; learned attributes must end in an underscore")
class NoUnderscore(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.weights = self.image_weights_


@breaks("'encoder_' is a function, which cannot be saved")
class KeepsAFunction(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.encoder_ = lambda rows: rows


@breaks("'names_' is a ndarray, which cannot be saved")
class KeepsObjects(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.names_ = np.array([None, "a"], dtype=object)


@breaks("history_ has to be a list of dictionaries, one an epoch")
class KeepsNoLines(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.history_ = np.zeros(3)


@breaks("encode_image raised KeyError")
class CannotEncode(Sound):
    def _encode_image(self, images):
        raise KeyError("weights")


@breaks(r"encode_text must give an array of 30 rows and k columns, got \(30,\)")
class OneDimension(Sound):
    def _encode_text(self, texts):
        return texts @ self.text_weights_[:, 0]


@breaks(r"encode_image must give an array of 30 rows and k columns, got \(29, 3\)")
class LosesARow(Sound):
    def _encode_image(self, images):
        return images[1:] @ self.image_weights_


@breaks("encode_image gives rows without a column")
class NoColumns(Sound):
    def _encode_image(self, images):
        return images[:, :0]


@breaks("encode_image must give real, finite numbers")
class NotFinite(Sound):
    def _encode_image(self, images):
        return np.where(np.arange(len(images))[:, None] == 7, np.nan, super()._encode_image(images))


@breaks("encode_text must give real, finite numbers, got dtype complex")
class Complex(Sound):
    def _encode_text(self, texts):
        return texts @ self.text_weights_ + 0j


@breaks("encode_image changes the rows it was given")
class EncodesInPlace(Sound):
    def _encode_image(self, images):
        images *= 2
        return images @ self.image_weights_


@breaks("encode_image changes the fitted state")
class Counts(Sound):
    def _encode_image(self, images):
        self.steps_.append({"encoded": len(images)})
        return super()._encode_image(images)


@breaks("encode_text draws from a global random generator")
class NoisyGlobally(Sound):
    def _encode_text(self, texts):
        return super()._encode_text(texts) + 1e-9 * np.random.rand()  # noqa: NPY002


@breaks("encode_text gives another result when it is called again")
class Noisy(Sound):
    rng = np.random.default_rng(0)

    def _encode_text(self, texts):
        return super()._encode_text(texts) + 1e-6 * self.rng.random()


@breaks("encode_image: the first 1 rows come out differently without the others")
class BatchStatistics(Sound):
    def _encode_image(self, images):
        return (images - images.mean(axis=0)) @ self.image_weights_


@breaks("encode_image: the first 7 rows come out differently without the others")
class BatchStatisticsButForOne(Sound):
    def _encode_image(self, images):
        spread = images.std(axis=0) if len(images) > 1 else np.ones(images.shape[1])
        first = images[:1] if len(images) > 1 else images
        return np.vstack([first, images[1:] / np.where(spread > 0, spread, 1)]) @ self.image_weights_


@breaks("encode_text: rows come out differently in another order")
class Positions(Sound):
    def _encode_text(self, texts):
        return super()._encode_text(texts) + 0.1 * np.arange(len(texts))[:, None]


@breaks("equally many dimensions, got 3 and 2")
class UnequalWidths(Sound):
    def _encode_text(self, texts):
        return texts @ self.text_weights_[:, :2]


@breaks("encode_image of an unfitted method must raise NotFittedError, raised nothing")
class EncodesUnfitted(Sound):
    def encode_image(self, images):
        return super().encode_image(images) if hasattr(self, "image_weights_") else images


@breaks("encode_text of an unfitted method must raise NotFittedError, raised AttributeError")
class OwnDoor(Sound):
    def encode_text(self, texts):
        return texts @ self.text_weights_


@breaks("encode_text with a column too many must raise InvalidInput, raised nothing")
class CutsColumns(Sound):
    def encode_text(self, texts):
        return super().encode_text(texts[:, : getattr(self, "n_features_in_", (0, 99))[1]])


@breaks("encode_image with NaN must raise InvalidInput, raised nothing")
class FillsNaN(Sound):
    def encode_image(self, images):
        return super().encode_image(np.nan_to_num(images))


@breaks("a second fit with the same parameters and data gives other embeddings")
class Unseeded(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.image_weights_ = self.image_weights_ + 1e-9 * np.random.default_rng().standard_normal(3)


@breaks("reading what save wrote, without pickle, raised ValueError")
class Pickles(Sound):
    def save(self, path):
        Path(path).write_bytes(pickle.dumps(vars(self)))


@breaks("load does not return a method of the same class and parameters")
class LoadsTheDefaults(Sound):
    @classmethod
    def load(cls, path):
        return Sound.__new__(Sound)


@breaks("a saved and loaded method gives other embeddings")
class Rounds(Sound):
    @classmethod
    def load(cls, path):
        method = super().load(path)
        method.image_weights_ = np.float16(method.image_weights_).astype(np.float64)
        return method


@breaks("save raised TypeError")
class CannotSave(Sound):
    def save(self, path):
        raise TypeError("not JSON serializable")


@breaks("info.supervised is False, yet other labels give other embeddings")
class LooksAtLabels(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.image_weights_ = self.image_weights_ + 1e-6 * train.one_hot()[0, 0]


@breaks("info.supervised is True, yet the labels make no difference")
class IgnoresLabels(Sound):
    info = replace(Sound.info, supervised=True)


@breaks("fit on easy data raised ValueError")
class OneLabelOnly(Sound):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.counts_ = np.bincount(train.labels).shape[0]


@breaks("which info.multi_label excludes, must raise Unsupported, raised nothing")
class TakesWhatItExcludes(Sound):
    info = replace(Sound.info, multi_label=False)

    def fit(self, train, validation=None, *, context=None):
        labels = train.labels.argmax(axis=1) if train.multi_label else train.labels
        return super().fit(replace(train, labels=labels), validation, context=context)


@breaks("a second fit keeps attributes of the first")
class KeepsTheFirst(Sound):
    def fit(self, train, validation=None, *, context=None):
        first = getattr(self, "image_weights_", None)
        super().fit(train, validation, context=context)
        if first is not None:
            self.first_ = first
        return self


@breaks("a second fit is influenced by the first")
class WarmStart(Sound):
    def fit(self, train, validation=None, *, context=None):
        shift = 1e-6 if hasattr(self, "image_weights_") else 0.0
        super().fit(train, validation, context=context)
        self.image_weights_ = self.image_weights_ + shift
        return self


class Shares(Sound):
    """Hands on the decomposition of X'T, for which no parameter matters."""

    def _fit(self, train, validation, context):
        made = context.pieces.get("svd", lambda: np.linalg.svd(train.images.T @ train.texts))
        left, _, right = made
        k = self.n_components
        self.image_weights_, self.text_weights_ = left[:, :k].copy(), right[:k].T.copy()


@breaks("with preset=small, a fit with the pieces of earlier ones gives other embeddings")
class SharesWhatDependsOnAParameter(Shares):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.image_weights_ *= context.pieces.get("k", lambda: self.n_components)


@breaks("with the defaults, a fit with the pieces of earlier ones gives other embeddings")
class SharesWithRounding(Shares):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        if "fits" in context.pieces.made:
            self.image_weights_ = self.image_weights_ + 1e-6
        context.pieces.get("fits", int)


@breaks("fit on easy data raised KeyError")
class SharesWhatIsNotThere(Shares):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        self.image_weights_ *= context.pieces.made["gram"]


@breaks("with the defaults, a fit with the pieces of earlier ones gives other embeddings")
class SpoilsTheShared(Shares):
    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        for left, *_ in context.pieces.made.values():
            left *= 2.0


@breaks("a fit changes the pieces that an earlier one left")
class SpoilsTheSharedInTheEnd(Shares):
    grid, presets, ablations = {"n_components": (3, 2)}, {}, {}

    def _fit(self, train, validation, context):
        super()._fit(train, validation, context)
        for left, *_ in context.pieces.made.values():
            left *= 2.0 if self.n_components == 2 else 1.0


@breaks("the grid has a value twice for 'n_components'")
class GridWithARepeat(Sound):
    grid = {"n_components": (2, 3, 2)}


def test_a_method_may_share_pieces_of_its_fit():
    check_method(Shares)


def test_pieces_are_those_of_one_training_set():
    data, other = synthetic_data(), synthetic_data(seed=1)
    pieces = Pieces(data.train)
    context = FitContext(pieces=pieces)
    first = Shares().fit(data.train, context=context)
    kept = dict(pieces.made)
    assert list(kept) == ["svd"]
    elsewhere = Shares().fit(other.train, context=context)  # told to share what belongs to other rows
    np.testing.assert_array_equal(elsewhere.image_weights_, Shares().fit(other.train).image_weights_)
    assert pieces.made == kept and set(vars(first)) == set(vars(Shares().fit(data.train)))
    alone = FitContext()
    Shares().fit(data.train, context=alone)
    assert not alone.pieces.made  # a fit on its own keeps nothing


def test_a_piece_that_cannot_be_made_leaves_nothing():
    pieces = Pieces(object())

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        pieces.get("gram", fail)
    assert not pieces.made
    assert pieces.get("gram", lambda: 1) == pieces.get("gram", fail) == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_fit_with_the_pieces_of_earlier_ones_is_the_fit_without(name):
    data = synthetic_data()
    context = FitContext(pieces=Pieces(data.train))
    fits = [CLASSES[name]().fit(data.train, data.validation, context=context) for _ in range(2)]
    alone = CLASSES[name]().fit(data.train, data.validation)
    for method in fits:
        for encode in ("encode_image", "encode_text"):
            rows = data.test.images if encode == "encode_image" else data.test.texts
            np.testing.assert_array_equal(getattr(method, encode)(rows), getattr(alone, encode)(rows))


@pytest.mark.parametrize(("cls", "message"), [pytest.param(*case, id=case[0].__name__) for case in BROKEN])
def test_the_kit_catches(cls, message):
    with pytest.raises(ConformanceError, match=message) as caught:
        check_method(cls)
    assert "\n" not in str(caught.value)
    assert cls.__name__ in str(caught.value)


def test_the_kit_gives_transductive_methods_the_test_features():
    class Transductive(Sound):
        @property
        def transductive(self):
            return True

        def _fit(self, train, validation, context):
            super()._fit(train, validation, context)
            self.mean_ = context.unlabelled_images.mean(axis=0) + context.unlabelled_texts.mean()

    check_method(Transductive)


# -- easy data --------------------------------------------------------------------------------------


def test_synthetic_pairs_are_seeded_and_shaped_as_asked():
    one, same, other = (
        synthetic_pairs(20, d_image=7, d_text=6, n_classes=4, seed=seed) for seed in (3, 3, 4)
    )
    assert one.images.shape == (20, 7)
    assert one.texts.shape == (20, 6)
    assert one.images.dtype == one.texts.dtype == np.float32
    assert np.bincount(one.labels).tolist() == [5, 5, 5, 5]
    np.testing.assert_array_equal(one.images, same.images)
    np.testing.assert_array_equal(one.texts, same.texts)
    assert not np.allclose(one.images, other.images)


def test_synthetic_multi_label_pairs_have_items_of_one_and_of_several_classes():
    labels = synthetic_pairs(multi_label=True).labels
    assert labels.dtype == bool
    assert set(labels.sum(axis=1)) == {1, 2}


def test_synthetic_data_are_the_synthetic_pairs_in_three_parts():
    data = synthetic_data(12, 5, 8, n_classes=3, multi_label=True, seed=2)
    whole = synthetic_pairs(25, n_classes=3, multi_label=True, seed=2)
    assert data.sizes == {"train": 12, "validation": 5, "test": 8}
    parts = (data.train, data.validation, data.test)
    assert sum((part.ids for part in parts), ()) == whole.ids
    np.testing.assert_array_equal(np.concatenate([part.texts for part in parts]), whole.texts)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
    assert synthetic_data(12, 0, 8).validation is None
    assert data.fingerprint != synthetic_data(12, 5, 8, n_classes=3, multi_label=True, seed=3).fingerprint


# -- what the base class does for every method ------------------------------------------------------


@pytest.fixture
def pairs():
    return synthetic_pairs(40, n_classes=4)


def test_explicit_parameters_win_over_the_ablation_and_that_over_the_preset():
    class Named(Sound):
        presets = {"a": {"n_components": 2, "jitter": 0.5}}
        ablations = {"b": {"jitter": 0.25, "random_state": 7}}

    method = Named.resolve({"random_state": 9, "ablation": "b", "preset": "a"})
    assert method.get_params() == {"n_components": 2, "jitter": 0.25, "random_state": 9}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "smal"}, "unknown preset of Sound 'smal'; did you mean small"),
        ({"ablation": "no"}, "unknown ablation of Sound 'no'; known: still"),
        ({"n_component": 3}, "unknown parameter of Sound 'n_component'; did you mean n_components"),
    ],
)
def test_unknown_parameters_and_variants_are_named(parameters, message):
    with pytest.raises(UnknownName, match=message):
        Sound.resolve(parameters)


@pytest.mark.parametrize(
    "parameters", [{"n_components": 2.5}, {"n_components": True}, {"n_components": None}, {"jitter": "a"}]
)
def test_values_of_the_wrong_type_are_refused(parameters):
    (name,) = parameters
    with pytest.raises(InvalidParameter, match=rf"Sound\.{name}: expected (int|float), got"):
        Sound.resolve(parameters)


def test_equal_values_of_a_parameter_are_one_and_the_same_parameter():
    """``jitter=1`` and ``jitter=1.0`` must not become two records of one run."""
    assert repr(Sound.resolve({"jitter": 1})) == repr(Sound.resolve({"jitter": 1.0}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_are_finite(value):
    with pytest.raises(InvalidParameter, match="jitter"):
        Sound.resolve({"jitter": value})


def test_a_partly_fitted_method_can_be_scored_on_validation_pairs(pairs):
    """What an iterative method does to choose its epoch."""

    class EarlyStopping(Sound):
        def _fit(self, train, validation, context):
            super()._fit(train, validation, context)
            self.score_ = context.validation_score(self)

    context = FitContext(validation_score=lambda method: float(method.encode_image(pairs.images).shape[1]))
    assert EarlyStopping().fit(pairs, pairs, context=context).score_ == 3.0


def test_a_fit_that_fails_leaves_the_method_unfitted(pairs):
    class Fragile(Sound):
        def _fit(self, train, validation, context):
            super()._fit(train, validation, context)
            if len(train) < 30:
                raise Unsupported("too few rows")

    method = Fragile().fit(pairs)
    with pytest.raises(Unsupported):
        method.fit(pairs.take(np.arange(20)))
    with pytest.raises(NotFittedError):
        method.encode_image(pairs.images)


@pytest.mark.parametrize("part", ["images", "texts"])
def test_validation_pairs_of_another_width_are_refused(pairs, part):
    narrow = replace(pairs, **{part: getattr(pairs, part)[:, 1:]})
    width = getattr(pairs, part).shape[1]
    with pytest.raises(InvalidInput, match=f"validation {part}: expected {width} columns, got {width - 1}"):
        Sound().fit(pairs, narrow)


def test_validation_pairs_with_other_classes_are_refused(pairs):
    with pytest.raises(InvalidInput, match="expected 4 classes as in training, got 6"):
        Sound().fit(pairs, replace(pairs, n_classes=6))


def test_supervised_methods_refuse_a_single_class(pairs):
    class Supervised(Sound):
        info = replace(Sound.info, supervised=True)

    with pytest.raises(Unsupported, match="at least 2 in the training rows, got 1"):
        Supervised().fit(replace(pairs, labels=np.ones(40, dtype=int)))


def test_single_label_methods_refuse_items_with_several_classes():
    class SingleLabel(Sound):
        info = replace(Sound.info, multi_label=False)

    with pytest.raises(Unsupported, match="needs one class per item"):
        SingleLabel().fit(synthetic_pairs(40, multi_label=True))


def test_transductive_methods_refuse_to_run_without_being_asked_to(pairs):
    class Transductive(Sound):
        transductive = property(lambda self: True)

    with pytest.raises(Unsupported, match="transductive"):
        Transductive().fit(pairs)


def test_the_deadline_is_kept():
    FitContext().check_deadline()
    FitContext(deadline=time.monotonic() + 60).check_deadline()
    with pytest.raises(DeadlineExceeded):
        FitContext(deadline=time.monotonic()).check_deadline()


def test_the_number_of_parameters_counts_the_learned_numbers(pairs):
    assert Sound().fit(pairs).n_parameters == 12 * 3 + 9 * 3


def test_lists_of_arrays_are_stored(pairs, tmp_path):
    """The layers of a network: learned attributes may be lists and dictionaries of arrays."""

    class Layers(Sound):
        def _fit(self, train, validation, context):
            super()._fit(train, validation, context)
            self.layers_ = [{"weights": self.image_weights_, "bias": np.zeros(3)}]

        def _encode_image(self, images):
            return images @ self.layers_[0]["weights"] + self.layers_[0]["bias"]

    check_method(Layers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"<html>not found</html>",
        lambda data: data[:40] + bytes(40) + data[80:],
    ],
    ids=["empty", "truncated", "html", "zeroed"],
)
def test_a_damaged_file_is_no_saved_method(pairs, tmp_path, damage):
    path = tmp_path / "method.npz"
    Sound().fit(pairs).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidInput, match=r"method\.npz holds no saved method"):
        Sound.load(path)


def test_a_file_of_other_arrays_is_no_saved_method(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(InvalidInput, match="holds no saved method"):
        Sound.load(tmp_path / "arrays.npz")


def test_a_file_of_another_method_is_refused(pairs, tmp_path):
    Sound().fit(pairs).save(tmp_path / "sound.npz")
    with pytest.raises(InvalidInput, match="holds a Sound, not a Noisy"):
        Noisy.load(tmp_path / "sound.npz")


def test_many_rows_are_encoded_piece_by_piece(monkeypatch):
    data = synthetic_data()
    method = CLASSES["cca"]().fit(data.train)
    whole = method.encode_image(data.train.images)
    monkeypatch.setattr(xmbench.method, "ENCODED_AT_ONCE", 7 * data.train.images.shape[1])
    pieces = method.encode_image(data.train.images)
    assert pieces.shape == whole.shape and pieces.dtype == whole.dtype
    np.testing.assert_allclose(pieces, whole, rtol=1e-12, atol=1e-12)
    assert len(method.encode_image(data.train.images[:0])) == 0
