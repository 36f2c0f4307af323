"""The embedded emoji dataset: the shipped file, its adapter and the script that makes it."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xmbench._io import file_digest, npz_bytes, read_npz
from xmbench.data import Features, prepare
from xmbench.datasets import emoji as module
from xmbench.errors import CorruptData, MissingData, Unsupported
from xmbench.features import Resources
from xmbench.features.tfidf import TfIdf

NOWHERE = Path("no-such-data-directory")
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "build_emoji.py"
LICENSES = ROOT / "LICENSES"


@pytest.fixture(scope="module")
def dataset():
    return module.DATASET()


@pytest.fixture(scope="module")
def corpus(dataset):
    return dataset.load(NOWHERE, "lite0", "raw")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_emoji", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "build_emoji", script)  # a dataclass looks its module up there
        spec.loader.exec_module(script)
        yield script


def cosine(features):
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


# -- the shipped file ---------------------------------------------------------------------------


def test_card_and_data_agree(dataset, corpus):
    assert len(corpus) == dataset.card.pairs
    assert dataset.card.embedded
    assert str(dataset.card.pairs) in module.__doc__.replace(",", "")
    counts = np.bincount(corpus.labels, minlength=7)
    uneven = next(defect for defect in dataset.card.defects if "uneven" in defect)
    numbers = [int(number) for number in re.findall(r"\d+", uneven)]
    assert numbers == [counts.min(), counts.max()]
    assert corpus.class_names[counts.argmin()] in uneven
    assert corpus.class_names[counts.argmax()] in uneven


def test_arrays_are_plain_and_small():
    with np.load(module.FILE, allow_pickle=False) as archive:
        kinds = {name: archive[name].dtype for name in archive.files}
    assert kinds == {
        "lite0": np.float16,
        "labels": np.int8,
        **dict.fromkeys(("texts", "class_names", "ids", "groups", "sources"), np.uint8),
    }
    assert module.FILE.stat().st_size < 3_000_000


def test_file_holds_no_time_stamps():
    with zipfile.ZipFile(module.FILE) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_sources_are_named_alike_in_file_card_notice_and_script(build, dataset):
    sources = json.loads(read_npz(module.FILE)["sources"].tobytes())
    assert (sources["drawings"], sources["words"]) == (build.DRAWINGS, build.WORDS)
    notice = (LICENSES / "NOTICE-emoji.txt").read_text(encoding="utf-8")
    for source in (build.DRAWINGS, build.WORDS):
        for text in (dataset.card.source, notice):
            assert f"{source['package']} {source['version']}" in text
            assert source["address"] in text
    for licence in ("Apache-2.0", "Unicode-3.0"):
        assert licence in dataset.card.licence
        assert f"{licence}.txt" in notice
        assert (LICENSES / f"{licence}.txt").stat().st_size > 1000


def test_rows_are_sane(corpus):
    assert corpus.images.shape == (len(corpus), 1280)
    assert np.isfinite(corpus.images).all()
    assert (np.linalg.norm(corpus.images.astype(float), axis=1) > 1).all()
    assert len(corpus.class_names) == 7
    assert set(corpus.labels.tolist()) == set(range(7))
    assert all(re.fullmatch(r"[0-9a-f]{4,5}(-[0-9a-f]{4,5})*", identity) for identity in corpus.ids)
    assert all(text.strip() == text and text for text in corpus.texts)
    assert all(corpus.groups)


def test_known_pairs_have_the_class_and_words_of_their_characters(corpus):
    expected = {
        "😀": ("Smileys & Emotion", "grinning"),
        "👍": ("People & Body", "thumbs up"),
        "🐘": ("Animals & Nature", "elephant"),
        "🍕": ("Food & Drink", "pizza"),
        "🚀": ("Travel & Places", "rocket"),
        "🏆": ("Activities", "trophy"),
        "🔨": ("Objects", "hammer"),
    }
    for character, (category, word) in expected.items():
        row = corpus.ids.index(f"{ord(character):x}")
        assert corpus.class_names[corpus.labels[row]] == category
        assert corpus.texts[row].startswith(word)


def test_no_variant_by_gender_or_skin_tone_is_left(corpus):
    codes = {code for identity in corpus.ids for code in identity.split("-")}
    assert not codes & {"2640", "2642", "1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def test_no_class_word_is_left_in_a_text(corpus):
    own = {word for name in corpus.class_names for word in re.findall(r"\w+", name.lower())}
    own |= {word.removesuffix("s") for word in own} | {
        "face",
        "faces",
        "people",
        "person",
        "bodies",
        "activity",
    }
    left = {(word, text) for text in corpus.texts for word in re.findall(r"\w+", text.lower()) if word in own}
    assert not left


# -- groups and the split -----------------------------------------------------------------------


def test_near_identical_drawings_share_a_group(build, corpus):
    alike = cosine(corpus.images) >= build.SIMILAR
    groups = np.array(corpus.groups)
    assert alike.sum() > len(corpus)  # some pairs beside each drawing with itself
    assert (groups[:, None] == groups)[alike].all()


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("man and woman", ("🧑‍⚕", "👨‍⚕", "👩‍⚕")),
        ("clock faces", ("🕛", "🕧", "🕐", "🕡", "🕚")),
        ("moons", ("🌑", "🌓", "🌕", "🌘")),
        ("hearts", ("🧡", "💛", "💚", "💙", "🤍", "♥")),
        ("hands", ("🫱", "🫲")),
        ("books", ("📕", "📗", "📘", "📙")),
        ("families", ("👪", "🧑‍🧑‍🧒", "🧑‍🧒")),
    ],
)
def test_series_share_a_group(corpus, name, series):
    bare = {
        identity.replace("-fe0f", ""): group
        for identity, group in zip(corpus.ids, corpus.groups, strict=True)
    }
    groups = {bare["-".join(f"{ord(letter):x}" for letter in characters)] for characters in series}
    assert len(groups) == 1, name


def test_groups_do_not_chain_together(corpus):
    sizes = np.unique(corpus.groups, return_counts=True)[1]
    assert sizes.max() < 0.05 * len(corpus)
    assert np.mean(sizes == 1) > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_split_keeps_groups_whole_and_shares_fair(dataset, corpus, seed):
    split = dataset.split(corpus, "grouped", seed)
    parts = [split.train, split.validation, split.test]
    assert sum(map(len, parts)) == len(corpus)
    groups = [{corpus.groups[row] for row in rows} for rows in parts]
    assert sum(map(len, groups)) == len(set(corpus.groups))
    for rows, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert len(rows) == pytest.approx(share * len(corpus), abs=0.03 * len(corpus))
        assert set(corpus.labels[rows].tolist()) == set(range(7))


def test_split_depends_on_its_seed_alone(dataset, corpus):
    first, again, other = (dataset.split(corpus, "grouped", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.test) != set(other.test)


# -- the two modalities belong together ---------------------------------------------------------


def ridge_scores(rows, targets, queries):
    """Least squares with a penalty from features to one-hot classes."""
    gram = rows @ rows.T + 0.3 * len(rows) * np.eye(len(rows))
    return queries @ rows.T @ np.linalg.solve(gram, targets)


def test_image_and_text_of_a_row_name_the_same_class(dataset, corpus):
    split = dataset.split(corpus, "grouped", 0)
    encoder = TfIdf()
    encoder.fit([corpus.texts[row] for row in split.train], None, Resources())
    texts = encoder.transform(corpus.texts, Resources())
    scaling = ("l2_center_scale", "l2_center_scale")
    data = prepare(corpus, split, Features(corpus.images, {}), Features(texts, {}), scaling)
    targets = data.train.one_hot()
    by_image = ridge_scores(data.train.images, targets, data.test.images)
    by_text = ridge_scores(data.train.texts, targets, data.test.texts)
    labels = data.test.labels
    assert np.mean(by_image.argmax(axis=1) == labels) > 0.5
    assert np.mean(by_text.argmax(axis=1) == labels) > 0.5


def test_texts_shifted_against_the_images_fit_worse(corpus):
    encoder = TfIdf()
    encoder.fit(corpus.texts, None, Resources())
    texts = encoder.transform(corpus.texts, Resources())
    images = cosine(corpus.images)
    groups = np.array(corpus.groups)
    comparable = (corpus.labels[:, None] == corpus.labels) & (groups[:, None] != groups)

    def agreement(shift):
        """Mean likeness of drawings, inside a class, whose texts (moved by ``shift`` rows) are alike."""
        moved = np.roll(texts, shift, axis=0)
        return images[comparable & (moved @ moved.T > 0.4)].mean()

    assert agreement(0) > max(agreement(shift) for shift in (-40, -5, -1, 1, 5, 40)) + 0.01


# -- the adapter --------------------------------------------------------------------------------


def test_load_looks_at_no_data_directory(dataset, corpus, tmp_path):
    again = dataset.load(tmp_path, "lite0", "raw")
    assert again.digest == corpus.digest == file_digest(module.FILE)
    assert again.texts == corpus.texts


@pytest.mark.parametrize(("image", "text", "word"), [("raw", "raw", "image"), ("lite0", "lda", "text")])
def test_other_features_are_refused_in_words(dataset, image, text, word):
    with pytest.raises(Unsupported, match=f"{word}.*(raw|lda)"):
        dataset.load(NOWHERE, image, text)


def test_stored_features_cover_the_default(dataset):
    image, _, text = dataset.features.partition("+")
    assert image in dataset.stored["image"]
    assert text not in dataset.stored.get("text", {})
    assert set(dataset.scalings) == {image}


def test_damaged_and_missing_files_are_named(dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "FILE", tmp_path / "emoji.npz")
    with pytest.raises(MissingData, match=r"emoji\.npz"):
        dataset.load(NOWHERE, "lite0", "raw")
    module.FILE.write_bytes(b"not a zip file")
    with pytest.raises(CorruptData, match=r"emoji\.npz"):
        dataset.load(NOWHERE, "lite0", "raw")
    module.FILE.write_bytes(npz_bytes({"lite0": np.zeros((2, 3), np.float16)}))
    with pytest.raises(CorruptData, match="texts"):
        dataset.load(NOWHERE, "lite0", "raw")


# -- the script that makes the file -------------------------------------------------------------


def test_groups_follow_the_three_rules(build, monkeypatch):
    monkeypatch.setattr(build, "FAMILIES", (r"clock$",))
    people, things = "People & Body", "Objects"
    named = [
        (people, "pilot"),
        (people, "woman pilot"),  # rule 1: a version of the pilot
        (things, "blue pilot"),  # not: another class
        (things, "alarm clock"),
        (people, "body clock"),  # rule 2: the family crosses classes
        (things, "bell"),
        (things, "gong"),  # rule 3: looks like the bell
        (things, "drum"),  # looks like the gong, less like the bell
        (things, "harp"),
    ]
    degrees = np.array([0, 45, 200, 270, 90, 135, 150, 165, 315])  # 15 apart: cosine .966, 20: .940, 30: .866
    features = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]).astype(np.float16)
    items = [build.Emoji(str(row), category, name, (), b"") for row, (category, name) in enumerate(named)]
    groups = build.group(items, features)
    assert groups[0] == groups[1] == "pilot"
    assert groups[3] == groups[4] == "alarm clock"
    assert groups[5] == groups[6] == groups[7] == "bell"
    assert (groups[2], groups[8]) == ("blue pilot", "harp")


def test_a_family_that_matches_nothing_is_reported(build, monkeypatch):
    monkeypatch.setattr(build, "FAMILIES", (r"no such name",))
    items = [build.Emoji("1", "Objects", "bell", (), b"")]
    with pytest.raises(CorruptData, match="no such name"):
        build.group(items, np.ones((1, 2), np.float16))


@pytest.mark.parametrize(
    ("phrase", "rest"),
    [
        ("grinning face", "grinning"),
        ("person: blond hair", "blond hair"),
        ("red-faced", "red"),
        ("Animal", ""),
        ("surface", "surface"),
        ("1st place medal", "1st medal"),
    ],
)
def test_class_words_are_cut_whole(build, phrase, rest):
    assert build.without_class_words(phrase) == rest


def test_text_is_name_then_new_keywords(build):
    item = build.Emoji("1f438", "Animals & Nature", "frog face", ("animal", "Frog", "face", "pond"), b"")
    assert build.text(item) == "frog; pond"


def test_packages_are_checked_before_they_are_read(build, tmp_path):
    archive = tmp_path / "package.tgz"
    content = b"{}"
    with tarfile.open(archive, "w:gz") as stream:
        for name in ("package/wanted.json", "package/other.json", "../wanted.json"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            stream.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("package/wanted.link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        stream.addfile(link)
    package = {"package": "some-package", "version": "1", "sha256": "0" * 64}
    with pytest.raises(CorruptData, match="some-package 1"):
        build.members(archive, package, ("package/wanted",))
    package["sha256"] = file_digest(archive)
    assert build.members(archive, package, ("package/wanted",)) == {"package/wanted.json": content}
    assert [path.name for path in tmp_path.iterdir()] == ["package.tgz"]


# -- a rebuilt file against the shipped one -----------------------------------------------------


def test_each_drawing_has_a_hash_and_equal_ones_share_a_group(build, corpus):
    hashes = build.read_hashes()
    assert tuple(hashes) == corpus.ids
    assert all(re.fullmatch("[0-9a-f]{64}", own) for own in hashes.values())
    groups: dict[str, set[str]] = {}
    for own, group in zip(hashes.values(), corpus.groups, strict=True):
        groups.setdefault(own, set()).add(group)
    assert all(len(found) == 1 for found in groups.values())
    assert len(groups) > 0.99 * len(hashes)


def test_a_hash_is_of_pixels_and_not_of_their_file(build):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)

    def saved(pixels, **options):
        stream = io.BytesIO()
        image.fromarray(pixels).save(stream, "PNG", **options)
        return stream.getvalue()

    first = build.pixel_hash(saved(pixels))
    assert saved(pixels, compress_level=0) != saved(pixels)
    assert build.pixel_hash(saved(pixels, compress_level=0)) == first
    other = pixels.copy()
    other[3, 5, 3] ^= 1
    assert build.pixel_hash(saved(other)) != first
    assert build.pixel_hash(saved(pixels.reshape(6, 4, 4))) != first


def test_a_file_does_not_differ_from_itself(build, capsys):
    assert build.differences(read_npz(module.FILE), build.read_hashes()) == []
    assert "1,249 drawings" in capsys.readouterr().out


def test_features_may_differ_in_their_last_bits_alone(build, corpus):
    made, generator = read_npz(module.FILE), np.random.default_rng(0)
    noise = generator.standard_normal(made["lite0"].shape)
    size = (
        np.linalg.norm(made["lite0"].astype(float), axis=1, keepdims=True)
        / np.linalg.norm(noise, axis=1)[:, None]
    )
    near = made["lite0"].astype(float) + 0.005 * size * noise
    assert build.differences({**made, "lite0": near.astype(np.float16)}, build.read_hashes()) == []
    far = made["lite0"].copy()
    far[77] = (made["lite0"].astype(float) + 0.05 * size * noise)[77]
    (problem,) = build.differences({**made, "lite0": far}, build.read_hashes())
    assert problem.startswith(f"features of {corpus.ids[77]}: cosine 0.99")


@pytest.mark.parametrize("name", ["texts", "labels", "class_names", "ids", "groups", "sources"])
def test_any_other_difference_is_one(build, name):
    made = read_npz(module.FILE)
    changed = made[name].copy()
    changed[3] += 1
    assert build.differences({**made, name: changed}, build.read_hashes()) == [
        f"{name} differ from the shipped ones"
    ]


def test_another_pixel_is_a_difference(build):
    hashes = build.read_hashes()
    hashes["1f600"] = "0" * 64
    (problem,) = build.differences(read_npz(module.FILE), hashes)
    assert "pixels differ" in problem


def test_a_split_that_differs_is_told(build, monkeypatch):
    monkeypatch.setattr(build, "same", lambda one, other: one.dtype != np.int64)
    problems = build.differences(read_npz(module.FILE), build.read_hashes())
    assert problems == [f"the split grouped of seed {seed} differs" for seed in range(build.SEEDS)]


def test_features_of_another_shape_are_told(build):
    made = read_npz(module.FILE)
    assert build.differences({**made, "lite0": made["lite0"][:, :7]}, build.read_hashes()) == [
        "features have the shape (1249, 7), expected (1249, 1280)"
    ]
