"""The audit of a split: every count against a loop, on data made to be leaky and on the real sets."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from xmbench.audit import Audit, audit, audit_text, complete, findings, straddling
from xmbench.cli import cli
from xmbench.data import Corpus, Dataset, DatasetCard, Split
from xmbench.errors import CorruptData, MissingData
from xmbench.registry import Registry

WORDS = np.array(
    [
        "river",
        "stone",
        "cloud",
        "bread",
        "music",
        "engine",
        "garden",
        "planet",
        "silver",
        "window",
        "thread",
        "bottle",
    ]
)


def silent(message: str, fraction: float | None) -> None:
    """No progress."""


def sentences(n: int, seed: int = 0, length: int = 12) -> list[str]:
    return [" ".join(row) for row in np.random.default_rng(seed).choice(WORDS, (n, length))]


class Made(Dataset):
    """A dataset of whatever a test wants."""

    card = DatasetCard("Made", "", "", "", (), 0, "")
    features = "lite0+tfidf"

    def __init__(
        self, images, texts, labels, groups=None, class_names=("apple", "pear"), stored=None
    ) -> None:
        n = len(labels)
        ids, groups = tuple(f"id{i}" for i in range(n)), tuple(groups or map(str, range(n)))
        self.corpus = Corpus("made", images, texts, np.asarray(labels), class_names, ids, groups, "d")
        self.splits = {
            "half": lambda corpus, seed: Split("half", None, np.arange(n // 2), [], np.arange(n // 2, n))
        }
        self.stored = stored or {}

    def folder(self, data_dir):
        return data_dir

    def load(self, data_dir, image, text):
        return self.corpus


def audited(dataset) -> Audit:
    return audit("made", dataset, None, None, 0, silent)


@pytest.fixture
def random():
    rng = np.random.default_rng(3)
    return rng.normal(size=(40, 5)).astype(np.float32)


LABELS = [0, 1] * 20


def test_clean_data_have_no_finding(random):
    found = audited(Made(random, sentences(40), LABELS))
    assert found.findings() == []
    assert found.sizes == {"train": 20, "validation": 0, "test": 20}
    assert found.missing_classes == {"train": [], "test": []}
    assert found.images.exact == found.images.near == found.texts.exact == found.texts.near == 0


def test_copies_of_rows_are_found_and_named(random):
    random[30] = random[3]
    random[31] = 2 * (random[4] - random[:20].mean(axis=0)) + random[:20].mean(axis=0)  # the same direction
    random[39] = random[38]
    found = audited(Made(random, sentences(40), LABELS)).images
    assert (found.exact, found.near, found.within_test, found.within_train) == (1, 2, 2, 0)
    assert found.examples == [("id30", "id3"), ("id31", "id4")]


def test_copies_of_texts_are_found_whatever_their_case_and_marks(random):
    texts = sentences(40, length=40)
    texts[30] = texts[3].upper().replace(" ", ",  ") + "!"
    texts[31] = " ".join(["other", *texts[4].split()[1:]])
    texts[32] = " ".join(["other"] * 20 + texts[5].split()[20:])
    found = audited(Made(random, texts, LABELS)).texts
    assert (found.exact, found.near) == (1, 2)
    assert found.examples == [("id30", "id3"), ("id31", "id4")]


@pytest.mark.parametrize("seed", range(4))
def test_near_texts_are_those_of_a_loop(random, seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS[:3], rng.integers(0, 6))) for _ in range(40)]
    found = audited(Made(random, texts, LABELS)).texts

    def pieces(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {(word,) for word in words}

    def alike(a, b):
        both = pieces(a) | pieces(b)
        return bool(a) and (a == b or (bool(both) and len(pieces(a) & pieces(b)) / len(both) >= 0.8 - 1e-9))

    assert found.exact == sum(bool(text) and text in texts[:20] for text in texts[20:])
    assert found.near == sum(any(alike(text, other) for other in texts[:20]) for text in texts[20:])


def test_copies_of_image_files_are_found(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for number in range(12):
        pixels = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    paths[10].write_bytes(paths[2].read_bytes())
    with Image.open(paths[3]) as image:
        image.resize((55, 65)).save(paths[11])
    found = audited(Made(paths, sentences(12), [0, 1] * 6)).images
    assert (found.exact, found.near) == (1, 2)
    assert found.examples == [("id10", "id2"), ("id11", "id3")]
    paths[5].write_bytes(b"no image")
    with pytest.raises(CorruptData, match=r"5\.png"):
        audited(Made(paths, sentences(12), [0, 1] * 6))


def test_groups_on_both_sides_are_counted(random):
    groups = [f"g{i % 7}" if i in (1, 8, 22, 29, 36, 37) else f"own{i}" for i in range(40)]
    found = audited(Made(random, sentences(40), LABELS, groups)).groups
    tested, learnt = groups[20:], groups[:20]
    assert found.straddling == len({group for group in tested if group in learnt}) == 1
    assert found.test_rows == sum(group in learnt for group in tested) == 3


def test_texts_that_name_their_class_are_counted(random):
    texts = sentences(40)
    texts[20] += " an Apple."
    texts[21] += " two pears"
    texts[22] += " pineapple"
    texts[23] += " apple"
    found = audited(Made(random, texts, LABELS)).leak
    assert found.own_class_named == 2 / 20
    assert found.other_class_named == 1 / 20


def test_names_of_several_words(random):
    texts = sentences(40)
    texts[20] += " a dining-table"
    texts[22] += " dining at a table"
    found = audited(Made(random, texts, LABELS, class_names=("diningTable", "tv"))).leak
    assert found.own_class_named == 1 / 20


def test_a_text_classifier_finds_what_texts_tell(random):
    texts = [
        f"{text} {'red' if label else 'green'}" for text, label in zip(sentences(40), LABELS, strict=True)
    ]
    assert audited(Made(random, texts, LABELS)).leak.accuracy == 1
    assert audited(Made(random, sentences(40), LABELS)).leak.accuracy < 0.9


def test_several_labels_an_item(random):
    rng = np.random.default_rng(1)
    labels = rng.random((40, 4)) < 0.4
    labels[~labels.any(axis=1), 0] = True
    labels[:, 3] = False
    labels[25, 3] = True
    found = audited(Made(random, sentences(40), labels, class_names=tuple("abcd")))
    assert found.missing_classes["train"] == ["d"]
    for number, name in enumerate("abcd"):
        assert found.classes[name]["test"] == labels[20:, number].sum()
    assert 0 <= found.leak.accuracy <= 1
    assert "no train row of d" in found.findings()


def test_columns_of_stored_features(random):
    random[:, 1] = 4
    random[:20, 2] = 0
    made = Made(random, sentences(40), LABELS, stored={"image": {"lite0": ""}})
    (columns,) = audited(made).columns
    assert (columns.columns, columns.constant, columns.not_finite) == (5, 2, 0)


def test_one_class_and_one_row(random):
    found = audited(Made(random[:4], sentences(4), [0] * 4))
    assert found.leak.accuracy == found.leak.majority == 1
    found = audited(Made(random[:2], sentences(2), [0, 1]))
    assert (found.sizes["test"] == 1 and found.chance["image->text"] == 0) or found.chance["image->text"] == 1


def test_the_hash_of_a_part_is_that_of_its_sorted_ids(random):
    found = audited(Made(random, sentences(40), LABELS)).id_hashes
    listed = "".join(f"{name}\n" for name in sorted(f"id{i}" for i in range(20, 40)))
    assert found["test"] == hashlib.sha256(listed.encode()).hexdigest()


def test_what_names_hold_is_harmless_on_a_terminal(random):
    made = Made(random, sentences(40), LABELS, class_names=("a\x1b[31m", "b"))
    assert "\x1b" not in audit_text(audited(made))


def test_the_short_findings_are_among_all(random):
    random[30] = random[3]
    texts = sentences(40)
    texts[31] = texts[4]
    groups = ["one", *map(str, range(1, 39)), "one"]
    made = Made(random, texts, LABELS, groups)
    split = made.split(made.corpus, "half", 0)
    short = findings(made.corpus, split, made.card)
    assert len(short) == 3
    starts = [words.partition(" have an")[0].partition(" stand on")[0] for words in short]
    assert all(any(text.startswith(start) for text in audited(made).findings()) for start in starts)


def test_a_piece_of_a_dataset_is_not_the_dataset(random):
    made = Made(random, sentences(40), LABELS)
    split = made.split(made.corpus, "half", 0)
    for pairs, whole in ((0, True), (40, True), (41, True), (39, True), (1000, False), (20, False)):
        made.card = replace(Made.card, pairs=pairs)
        told = [text for text in findings(made.corpus, split, made.card) if "the dataset has" in text]
        assert bool(told) == (pairs not in (0, 40)) and complete(made.corpus, made.card) == whole
        assert told == audited(made).findings()[: len(told)]
        assert all(("a piece of it" in text) == (not whole) for text in told)
    made.card = replace(Made.card, pairs=1000, synthetic=True)
    assert complete(made.corpus, made.card) and not findings(made.corpus, split, made.card)


# -- real data ------------------------------------------------------------------------------------------------


def test_wikipedia_articles_stand_on_both_sides_of_the_official_split(data_dir):
    wikipedia = Registry().dataset("wikipedia")
    corpus = wikipedia.load(data_dir, "sift", "raw")
    split = wikipedia.split(corpus, "official", 0)
    learnt = {corpus.groups[row] for row in [*split.train, *split.validation]}
    tested = [corpus.groups[row] for row in split.test]
    found = straddling(corpus, split)
    assert found.test_rows == sum(group in learnt for group in tested) > len(tested) / 2
    assert found.straddling == len(learnt & set(tested))
    assert not straddling(corpus, wikipedia.split(corpus, "grouped", 0)).test_rows
    assert any("both sides" in text for text in findings(corpus, split, wikipedia.card))


@pytest.mark.parametrize("seed", [0, 3])
def test_the_grouped_split_of_wikipedia_has_about_the_official_sizes(data_dir, seed):
    wikipedia = Registry().dataset("wikipedia")
    corpus = wikipedia.load(data_dir, "sift", "lda")
    sizes = wikipedia.split(corpus, "grouped", seed).sizes
    assert sum(sizes.values()) == 2866
    assert abs(sizes["test"] - 693) < 20 and abs(sizes["validation"] - 231) < 20


def test_the_command(data_dir, tmp_path):
    result = CliRunner().invoke(cli, ["data", "audit", "emoji"])
    assert result.exit_code == 0, result.output
    assert "groups:" in result.stdout and "chance:" in result.stdout
    result = CliRunner().invoke(cli, ["data", "audit", "emoji", "--json"])
    values = msgspec.json.decode(result.stdout)
    assert values["groups"]["test_rows"] == 0 and isinstance(values["findings"], list)
    missing = CliRunner().invoke(cli, ["data", "audit", "pascal", "--data-dir", str(tmp_path)])
    assert isinstance(missing.exception, MissingData)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_what_is_called_an_image(tmp_path, monkeypatch):
    import subprocess

    from PIL import Image

    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    paths[1].write_bytes(POSTSCRIPT)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: started.append(command))
    with pytest.raises(CorruptData, match=r"1\.png is not a readable image"):
        audited(Made(paths, sentences(4), [0, 1] * 2))
    assert not started


def test_what_goes_with_every_run_takes_less_memory_than_the_features():
    import tracemalloc

    rng = np.random.default_rng(0)
    n = 4000
    rows = rng.random((n, 1000), dtype=np.float32)
    rows[n // 2] = rows[1]
    made = Made(rows, rng.random((n, 5)), [0, 1] * (n // 2))
    split = made.splits["half"](made.corpus, 0)
    tracemalloc.start()
    try:
        found = findings(made.corpus, split, Made.card)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert any(text.startswith("1 of 2,000 test images") for text in found)
    assert peak < rows.nbytes / 4


def test_a_value_that_is_not_finite_hides_no_copies():
    rows = np.random.default_rng(0).random((60, 8)).astype(np.float32)
    rows[40], rows[41] = rows[3], rows[4] + 1e-6
    assert audited(Made(rows, sentences(60), [0, 1] * 30)).images.near == 2
    rows[7, 2] = np.nan
    assert audited(Made(rows, sentences(60), [0, 1] * 30)).images.near == 2


def test_what_is_empty_is_no_copy():
    rng = np.random.default_rng(0)
    rows, texts = rng.random((60, 8), dtype=np.float32), sentences(60)
    for item in (1, 2, 50, 51):
        rows[item], texts[item] = 0, ""
    made = Made(rows, texts, [0, 1] * 30)
    found = audited(made)
    for copies in (found.images, found.texts):
        assert (copies.exact, copies.near, copies.within_test, copies.within_train) == (0, 0, 0, 0)
    assert findings(made.corpus, made.splits["half"](made.corpus, 0), Made.card) == []
