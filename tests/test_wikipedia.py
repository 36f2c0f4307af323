"""Wikipedia: the real files counted independently, and every fault that a copy of them may have."""

from __future__ import annotations

import html
import io
import re
import shutil
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array
from sklearn.feature_extraction.text import TfidfVectorizer

from xmbench import Corpus
from xmbench.errors import CorruptData, DataError, MissingData, Unsupported, UsageError
from xmbench.registry import Registry

wikipedia = Registry().dataset("wikipedia")

FOLDER = "wikipedia/wikipedia_dataset"

CLASSES = {  # category: (`cat` in the text files, training pairs, test pairs)
    "art": (1, 138, 34),
    "biology": (3, 272, 88),
    "geography": (11, 244, 96),
    "history": (14, 248, 85),
    "literature": (17, 202, 65),
    "media": (19, 178, 58),
    "music": (20, 186, 51),
    "royalty": (25, 144, 41),
    "sport": (26, 214, 71),
    "warfare": (29, 347, 104),
}
SIZES = {
    "official": {"train": 1942, "validation": 231, "test": 693},
    "cmgans": {"train": 2173, "validation": 231, "test": 462},
    "acmr": {"train": 1170, "validation": 130, "test": 1566},
}

# -- the real files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def topics(data_dir) -> Corpus:
    """The corpus with the features of both modalities."""
    return wikipedia.load(data_dir, "sift", "lda")


@pytest.fixture(scope="module")
def raw(data_dir) -> Corpus:
    """The corpus with raw texts."""
    return wikipedia.load(data_dir, "sift", "raw")


@pytest.fixture(scope="module")
def listed(data_dir) -> list[tuple[str, int]]:
    """Text id and category number of each line, the training list first, read by pattern."""
    content = "".join(
        (data_dir / FOLDER / f"{part}set_txt_img_cat.list").read_text(encoding="ascii").rstrip("\n") + "\n"
        for part in ("train", "test")
    )
    return [(name, int(number)) for name, number in re.findall(r"^(\S+)\t\S+\t(\d+)$", content, flags=re.M)]


@pytest.fixture(scope="module")
def files(data_dir, listed) -> list[str]:
    """The content of each text file, in the order of the lists."""
    return [(data_dir / FOLDER / "texts" / f"{name}.xml").read_text(encoding="utf-8") for name, _ in listed]


def test_rows_are_the_lines_of_the_two_lists(topics, raw, listed):
    assert len(listed) == wikipedia.card.pairs == 2866
    for corpus in (topics, raw):
        assert corpus.ids == tuple(name for name, _ in listed)
        assert_array_equal(corpus.labels, [number - 1 for _, number in listed])
        assert corpus.official == ("train",) * 2173 + ("test",) * 693


def test_classes_have_the_known_sizes(topics):
    assert topics.class_names == tuple(CLASSES)
    for part, column in (("train", 1), ("test", 2)):
        counts = np.bincount(topics.labels[np.array(topics.official) == part])
        assert_array_equal(counts, [entry[column] for entry in CLASSES.values()])


def test_features_are_shares_over_words_and_topics(topics):
    assert topics.images.shape == (2866, 128)
    assert topics.texts.shape == (2866, 10)
    for matrix in (topics.images, topics.texts):
        assert matrix.dtype == np.float64
        assert np.isfinite(matrix).all()
        assert matrix.min() >= 0
        assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_topics_lack_one_dimension_as_the_card_says(topics):
    centred = topics.texts - topics.texts.mean(axis=0)
    assert np.linalg.matrix_rank(centred) == 9


def test_rows_of_the_matrices_keep_their_place(topics, data_dir):
    stored = loadmat(data_dir / FOLDER / "raw_features.mat")
    for matrix, letter in ((topics.images, "I"), (topics.texts, "T")):
        assert_array_equal(matrix[:2173], stored[f"{letter}_tr"])
        assert_array_equal(matrix[2173:], stored[f"{letter}_te"])


@pytest.mark.parametrize("part", ["train", "test"])
def test_topics_belong_to_the_texts_of_their_line(topics, raw, part):
    """Inside a class, texts with alike words have alike topics; that ends when rows are shifted by one."""
    rows = np.flatnonzero(np.array(raw.official) == part)[:700]
    words = TfidfVectorizer(stop_words="english", max_features=2000).fit_transform(
        [raw.texts[row] for row in rows]
    )
    by_words = (words @ words.T).toarray()
    inside = np.equal.outer(raw.labels[rows], raw.labels[rows]) & ~np.eye(len(rows), dtype=bool)

    def agreement(chosen: np.ndarray) -> float:
        unit = topics.texts[chosen] / np.linalg.norm(topics.texts[chosen], axis=1, keepdims=True)
        return float(np.corrcoef((unit @ unit.T)[inside], by_words[inside])[0, 1])

    shifted = np.concatenate([np.roll(rows[raw.labels[rows] == label], 1) for label in range(10)])
    by_class = np.argsort(raw.labels[rows], kind="stable")
    moved = np.empty_like(rows)
    moved[by_class] = shifted
    assert agreement(rows) > 0.25
    assert abs(agreement(moved)) < 0.1


def test_every_text_is_read_though_888_are_not_well_formed(raw, files):
    malformed = 0
    for text, content in zip(raw.texts, files, strict=True):
        assert text
        assert not re.search(r"</?(text|document|imageset|image)\b", text)
        try:
            expected = ElementTree.fromstring(content).findtext("text").strip()
        except ElementTree.ParseError:
            malformed += 1
            start, end = content.index("<text>") + len("<text>"), content.index("</text>")
            expected = html.unescape(content[start:end].strip())
        assert text == expected
    assert malformed == 888
    assert len(files) - malformed == 1978


def test_texts_have_the_known_lengths(raw):
    lengths = [len(text.split()) for text in raw.texts]
    assert (min(lengths), max(lengths)) == (227, 2576)
    assert abs(np.median(lengths) - 476) < 1


def test_the_category_in_a_text_file_agrees_with_the_list(raw, files):
    seen = defaultdict(set)
    for row, content in enumerate(files):
        ((name, category),) = re.findall(r'^<document id="(\S+)" name=".*" cat="(\d+)">$', content, re.M)
        assert name == raw.ids[row]
        seen[raw.class_names[raw.labels[row]]].add(int(category))
    assert seen == {name: {entry[0]} for name, entry in CLASSES.items()}


def test_groups_are_articles(raw, files):
    titles = defaultdict(set)
    for group, content in zip(raw.groups, files, strict=True):
        titles[group].add(re.search(r'name="(.*)" cat=', content)[1])
    assert len(titles) == 1168
    assert all(len(names) == 1 for names in titles.values())
    assert len(set.union(*titles.values())) == 1168
    assert raw.notes == ("1,168 articles", "2,866 texts read")


def test_the_official_split_has_articles_on_both_sides_as_the_card_says(topics):
    sides = defaultdict(set)
    for group, part in zip(topics.groups, topics.official, strict=True):
        sides[group].add(part)
    assert any(len(parts) == 2 for parts in sides.values())
    assert "1,168 articles, and the official split has sections of one article on both sides" in " ".join(
        wikipedia.card.defects
    )


def test_raw_texts_are_part_of_the_digest(topics, raw, data_dir):
    assert raw.digest != topics.digest
    assert wikipedia.load(data_dir, "sift", "lda").digest == topics.digest


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_splits(topics, name):
    assert set(SIZES) == set(wikipedia.splits) - {"grouped"}
    for seed in (0, 1):
        split = wikipedia.split(topics, name, seed)
        assert split.sizes == SIZES[name]
        assert_array_equal(np.sort(np.concatenate([split.train, split.validation, split.test])), range(2866))


@pytest.mark.parametrize("name", SIZES)
def test_split_seeds_draw_other_validation_rows_and_can_be_repeated(topics, name):
    drawn = [wikipedia.split(topics, name, seed).validation.tolist() for seed in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3]
    assert len(set(map(tuple, drawn))) == 3


def test_a_split_does_not_depend_on_what_was_read(topics, raw):
    for name in SIZES:
        one, other = (wikipedia.split(corpus, name, 3) for corpus in (topics, raw))
        for part in SIZES[name]:
            assert_array_equal(getattr(one, part), getattr(other, part))


def counts(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    return np.bincount(corpus.labels[rows], minlength=len(corpus.class_names))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_official_split_tests_on_the_official_rows(topics, listed, data_dir, seed):
    split = wikipedia.split(topics, "official", seed)
    lines = (data_dir / FOLDER / "testset_txt_img_cat.list").read_text(encoding="ascii").splitlines()
    assert [topics.ids[row] for row in split.test] == [line.split("\t")[0] for line in lines]
    shares = 231 * np.array([entry[1] for entry in CLASSES.values()]) / 2173
    assert np.abs(counts(topics, split.validation) - shares).max() < 1


@pytest.mark.parametrize("seed", [0, 5])
def test_cmgans_divides_the_official_test_rows(topics, seed):
    split = wikipedia.split(topics, "cmgans", seed)
    assert_array_equal(split.train, range(2173))
    shares = 231 * np.array([entry[2] for entry in CLASSES.values()]) / 693
    assert np.abs(counts(topics, split.validation) - shares).max() < 1


@pytest.mark.parametrize("seed", [0, 5])
def test_acmr_takes_130_pairs_of_each_class(topics, seed):
    split = wikipedia.split(topics, "acmr", seed)
    assert_array_equal(counts(topics, split.train), np.full(10, 117))
    assert_array_equal(counts(topics, split.validation), np.full(10, 13))
    assert_array_equal(counts(topics, split.test), [sum(entry[1:]) - 130 for entry in CLASSES.values()])


# -- a miniature in the true layout, and its faults -----------------------------------------------------

TRAIN, TEST = 6, 4


def matrices(**changes: object) -> dict[str, object]:
    generator = np.random.default_rng(0)
    sizes = {"I_tr": (TRAIN, 5), "I_te": (TEST, 5), "T_tr": (TRAIN, 3), "T_te": (TEST, 3)}
    made = {name: generator.dirichlet(np.ones(width), rows) for name, (rows, width) in sizes.items()}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def document(name: str, body: str) -> str:
    return (
        f'<document id="{name}" name="Some_article" cat="3">\n<text>\n{body}\n</text>\n'
        '<imageset>\n<image id="i" name="A & B" sectnum="3#1">../img/i.jpg</image>\n</imageset>\n</document>'
    )


@pytest.fixture
def miniature(tmp_path) -> Path:
    """A data directory with six training and four test pairs of two classes and five articles."""
    root = tmp_path / "data" / FOLDER
    (root / "texts").mkdir(parents=True)
    savemat(root / "raw_features.mat", matrices(), do_compression=True)
    (root / "categories.list").write_text("art\nbiology\n", encoding="utf-8")
    for part, rows in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        names = [f"article{row % 5}-{row}.{row}1" for row in rows]
        lines = [f"{name}\timage{row}\t{row % 2 + 1}\n" for name, row in zip(names, rows, strict=True)]
        (root / f"{part}set_txt_img_cat.list").write_text("".join(lines), encoding="utf-8")
        for name in names:
            content = document(name, f"The text called {name}.")
            (root / "texts" / f"{name}.xml").write_text(content, encoding="utf-8")
    return tmp_path / "data"


def load(data_dir: Path, text: str = "raw") -> Corpus:
    return wikipedia.load(data_dir, "sift", text)


def file(miniature: Path, name: str) -> Path:
    return miniature / FOLDER / name


def test_a_miniature_is_read(miniature):
    corpus = load(miniature)
    assert corpus.images.shape == (TRAIN + TEST, 5)
    assert corpus.class_names == ("art", "biology")
    assert corpus.labels.tolist() == [0, 1] * 5
    assert corpus.official == ("train",) * TRAIN + ("test",) * TEST
    assert load(miniature, "lda").texts.shape == (TRAIN + TEST, 3)


def test_ids_keep_their_dots_and_groups_lose_the_section(miniature):
    corpus = load(miniature)
    assert corpus.ids[7] == "article2-7.71"
    assert corpus.texts[7] == "The text called article2-7.71."
    assert corpus.groups[7] == corpus.groups[2] == "article2"
    assert corpus.notes == ("5 articles", "10 texts read")


def test_only_the_last_hyphen_of_an_id_ends_the_article(miniature):
    for name in ("trainset_txt_img_cat.list", "texts/article0-0.01.xml"):
        path = file(miniature, name)
        path.write_text(path.read_text(encoding="utf-8").replace("article0-0.01", "an-article-0.01"), "utf-8")
    file(miniature, "texts/article0-0.01.xml").rename(file(miniature, "texts/an-article-0.01.xml"))
    corpus = load(miniature)
    assert (corpus.ids[0], corpus.groups[0]) == ("an-article-0.01", "an-article")


def test_mark_up_that_is_not_well_formed_is_read(miniature):
    body = 'R&B, <ref name=a>AT&amp;T</i> &nbsp;5 &lt; 6 &eacute; &undefined; "x" <!-- & -->\nlast line'
    path = file(miniature, "texts/article3-3.31.xml")
    path.write_text(document("article3-3.31", body), encoding="utf-8")
    with pytest.raises(ElementTree.ParseError):
        ElementTree.parse(path)
    expected = 'R&B, <ref name=a>AT&T</i> \xa05 < 6 é &undefined; "x" <!-- & -->\nlast line'
    assert load(miniature).texts[3] == expected


def test_windows_line_ends_and_blank_lines_in_lists_are_no_matter(miniature):
    before = load(miniature)
    for name in ("trainset_txt_img_cat.list", "testset_txt_img_cat.list", "categories.list"):
        path = file(miniature, name)
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    after = load(miniature)
    assert (after.ids, after.class_names) == (before.ids, before.class_names)
    assert_array_equal(after.labels, before.labels)


def test_texts_are_read_only_where_they_are_asked_for(miniature):
    shutil.rmtree(file(miniature, "texts"))
    assert len(load(miniature, "lda")) == TRAIN + TEST
    with pytest.raises(DataError, match=r"texts/article0-0\.01\.xml is missing"):
        load(miniature)


def test_the_shorter_path_is_found_too(miniature):
    file(miniature, ".").rename(miniature / "wikipedia_dataset")
    assert len(load(miniature)) == TRAIN + TEST


def test_the_digest_depends_on_content_and_not_on_the_place(miniature, tmp_path):
    before = load(miniature).digest
    shutil.copytree(miniature, tmp_path / "elsewhere" / "deeper")
    assert load(tmp_path / "elsewhere" / "deeper").digest == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("trainset_txt_img_cat.list", b"image0", b"image1"),
        ("testset_txt_img_cat.list", b"image9", b"image8"),
        ("categories.list", b"art", b"Art"),
        ("raw_features.mat", b"MATLAB 5.0", b"MATLAB 5,0"),  # a remark, which no reader looks at
        ("texts/article4-4.41.xml", b"The text", b"the text"),
    ],
)
def test_the_digest_changes_with_one_byte_of_one_file(miniature, name, old, new):
    before = load(miniature).digest
    path = file(miniature, name)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert load(miniature).digest != before


@pytest.mark.parametrize("name", wikipedia.required)
def test_a_missing_file_is_reported_with_the_expected_layout(miniature, name):
    file(miniature, name).unlink()
    with pytest.raises(MissingData) as raised:
        load(miniature, "lda")
    message = str(raised.value)
    assert message.startswith(f"Wikipedia: not found under the data directory {miniature}")
    for line in wikipedia.card.layout:
        assert line in message
    assert "XMBENCH_DATA_DIR" in message


@pytest.fixture
def pictured(miniature) -> Path:
    """The miniature with the folder of images that the original archive has."""
    for row in range(TRAIN + TEST):
        path = file(miniature, f"images/{('art', 'biology')[row % 2]}/image{row}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8" + bytes([row]))
    return miniature


@pytest.mark.parametrize("text", ["raw", "lda"])
def test_raw_images_are_those_of_the_lists(pictured, text):
    features = load(pictured, text)
    corpus = wikipedia.load(pictured, "raw", text)
    assert [path.read_bytes()[2] for path in corpus.images] == list(range(TRAIN + TEST))
    assert (corpus.ids, corpus.groups, corpus.official) == (features.ids, features.groups, features.official)
    assert corpus.digest != features.digest
    assert "10 images" in corpus.notes
    corpus.images[4].write_bytes(b"another image")
    assert wikipedia.load(pictured, "raw", text).digest != corpus.digest


def test_images_that_are_not_asked_for_change_nothing(pictured):
    before = load(pictured).digest
    shutil.rmtree(file(pictured, "images"))
    assert load(pictured).digest == before


def test_missing_images_are_counted_and_the_first_is_named(pictured):
    for name in ("images/art/image2.jpg", "images/biology/image5.jpg"):
        file(pictured, name).unlink()
    with pytest.raises(MissingData, match=r"2 of 10 images are missing, first: images/art/image2\.jpg"):
        wikipedia.load(pictured, "raw", "raw")


@pytest.mark.parametrize("name", ["../image3", "a/image3", "/etc/image3", "a\0b"])
def test_an_image_id_that_leads_elsewhere_is_refused(pictured, name):
    path = file(pictured, "trainset_txt_img_cat.list")
    path.write_text(path.read_text(encoding="utf-8").replace("image3", name), encoding="utf-8")
    with pytest.raises(CorruptData, match="which is no file name"):
        wikipedia.load(pictured, "raw", "lda")


@pytest.mark.parametrize("text", ["raw", "lda"])
def test_there_are_no_raw_images(miniature, text):
    with pytest.raises(Unsupported, match="wikipedia's images are not part of the archive"):
        wikipedia.load(miniature, "raw", text)


@pytest.mark.parametrize(("image", "text"), [("lite0", "lda"), ("sift", "tfidf"), ("lda", "sift"), ("", "")])
def test_features_that_it_does_not_have_are_refused(miniature, image, text):
    with pytest.raises((Unsupported, UsageError)):
        wikipedia.load(miniature, image, text)


def spoil(path: Path, fault: str) -> None:
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 0xFF
    content = {
        "empty": b"",
        "short": b"MATLAB",
        "garbage": np.random.default_rng(0).bytes(5000),
        "page": b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n" * 20,
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1075232\n" * 3,
        "header only": whole[:128],
        "truncated": whole[: len(whole) * 3 // 4],
        "a changed byte": bytes(middle),
        "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124)
        + b"\x00\x02IM"
        + b"\x89HDF\r\n\x1a\n".ljust(400, b"\0"),
    }
    path.write_bytes(content[fault])


@pytest.mark.parametrize(
    "fault",
    [
        "empty",
        "short",
        "garbage",
        "page",
        "pointer",
        "header only",
        "truncated",
        "a changed byte",
        "version 7.3",
    ],
)
def test_a_matlab_file_that_is_none_is_corrupt(miniature, fault):
    spoil(file(miniature, "raw_features.mat"), fault)
    with pytest.raises(CorruptData, match=r"wikipedia: raw_features\.mat (is not a readable|lacks)"):
        load(miniature, "lda")


def test_a_damaged_matlab_file_never_gives_another_error(miniature):
    """Compressed variables, as in the real file: a fault shows while they are unpacked."""
    path = file(miniature, "raw_features.mat")
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        content = bytearray(whole)
        content[generator.integers(130, len(content))] ^= int(generator.integers(1, 256))
        path.write_bytes(content)
        try:
            assert load(miniature, "lda").images.shape == (TRAIN + TEST, 5)
        except CorruptData as error:
            assert "raw_features.mat" in str(error)


@pytest.mark.parametrize("name", ["I_tr", "I_te", "T_tr", "T_te"])
def test_a_missing_matrix_is_named(miniature, name):
    savemat(file(miniature, "raw_features.mat"), matrices(**{name: None, "unrelated": np.eye(2)}))
    with pytest.raises(CorruptData, match=rf"raw_features\.mat lacks {name}$"):
        load(miniature, "lda")


def test_all_missing_matrices_are_named(miniature):
    savemat(file(miniature, "raw_features.mat"), {"unrelated": np.eye(2)})
    with pytest.raises(CorruptData, match=r"raw_features\.mat lacks I_tr, I_te, T_tr, T_te$"):
        load(miniature, "lda")


@pytest.mark.parametrize(
    "changes",
    [
        {"I_tr": np.ones((TRAIN + 1, 5))},
        {"I_te": np.ones((TEST - 1, 5))},
        {"T_tr": np.ones((TRAIN - 1, 3))},
        {"T_te": np.ones((TEST + 1, 3))},
        {"I_tr": np.ones((TRAIN + 1, 5)), "I_te": np.ones((TEST - 1, 5))},
        {"T_tr": np.ones((TRAIN + 1, 3)), "T_te": np.ones((TEST - 1, 3))},
    ],
    ids=["I_tr long", "I_te short", "T_tr short", "T_te long", "I shifted", "T shifted"],
)
def test_matrices_with_other_numbers_of_rows_than_the_lists_are_corrupt(miniature, changes):
    """Even where the total is right: a row that has moved from test to training pairs everything wrongly."""
    savemat(file(miniature, "raw_features.mat"), matrices(**changes))
    with pytest.raises(CorruptData, match="the lists name"):
        load(miniature, "lda")


@pytest.mark.parametrize("line", ["", "article9-9\timage99\t1\n"], ids=["a line less", "a line more"])
def test_lists_with_another_number_of_lines_than_the_matrices_are_corrupt(miniature, line):
    path = file(miniature, "testset_txt_img_cat.list")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines, line] if line else lines[1:]), encoding="utf-8")
    with pytest.raises(CorruptData, match="the lists name"):
        load(miniature, "lda")


@pytest.mark.parametrize(
    "changes",
    [
        {"I_te": np.ones((TEST, 6))},
        {"T_tr": np.ones((TRAIN, 2))},
        {"I_tr": "words"},
        {"I_tr": np.ones((TRAIN, 5, 2))},
        {"I_tr": csc_array(np.ones((TRAIN, 5)))},
        {"T_tr": {"field": 1.0}},
    ],
    ids=["wider", "narrower", "text", "three axes", "sparse", "struct"],
)
def test_matrices_that_do_not_stack_are_corrupt(miniature, changes):
    savemat(file(miniature, "raw_features.mat"), matrices(**changes))
    with pytest.raises(CorruptData, match="raw_features"):
        load(miniature, "lda")


@pytest.mark.parametrize(
    "line",
    [
        "article0-0.01 image0 1",  # spaces for tabs
        "article0-0.01\timage0",
        "article0-0.01\timage0\t1\tmore",
        "article0-0.01\timage0\tart",
        "article0-0.01\timage0\t",
        "article0-0.01\timage0\t-1",
        "article0-0.01\timage0\t1.0",
        "article0-0.01\timage0\t²",
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(miniature, line):
    path = file(miniature, "trainset_txt_img_cat.list")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]), encoding="utf-8")
    with pytest.raises(CorruptData, match=r"trainset_txt_img_cat\.list, line 3"):
        load(miniature, "lda")


@pytest.mark.parametrize("name", ["trainset_txt_img_cat.list", "testset_txt_img_cat.list", "categories.list"])
def test_a_list_that_is_not_utf8_is_named(miniature, name):
    path = file(miniature, name)
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(CorruptData, match=re.escape(name)):
        load(miniature, "lda")


@pytest.mark.parametrize("category", [0, 3, 11])
def test_a_category_out_of_range_is_corrupt(miniature, category):
    path = file(miniature, "testset_txt_img_cat.list")
    path.write_text(path.read_text(encoding="utf-8").replace("\t1\n", f"\t{category}\n"), encoding="utf-8")
    with pytest.raises(CorruptData, match=r"categories outside 1\.\.2"):
        load(miniature, "lda")


def test_a_text_in_both_lists_is_corrupt(miniature):
    path = file(miniature, "testset_txt_img_cat.list")
    path.write_text(
        path.read_text(encoding="utf-8").replace("article1-6.61", "article0-0.01"), encoding="utf-8"
    )
    with pytest.raises(CorruptData, match="ids are not unique"):
        load(miniature, "lda")


def test_a_missing_text_is_named(miniature):
    file(miniature, "texts/article3-3.31.xml").unlink()
    with pytest.raises(DataError, match=r"texts/article3-3\.31\.xml is missing"):
        load(miniature)


@pytest.mark.parametrize(
    "content", ["", "A page.", '<document id="a" name="b" cat="1">\n<text>\nno end', "<TEXT>loud</TEXT>"]
)
def test_a_text_file_without_a_text_is_named(miniature, content):
    file(miniature, "texts/article3-3.31.xml").write_text(content, encoding="utf-8")
    with pytest.raises(CorruptData, match=r"texts/article3-3\.31\.xml has no <text>"):
        load(miniature)


def test_a_text_file_that_is_not_utf8_is_named(miniature):
    path = file(miniature, "texts/article3-3.31.xml")
    path.write_bytes(document("article3-3.31", "café").encode("latin-1"))
    with pytest.raises(CorruptData, match=r"texts/article3-3\.31\.xml is not UTF-8"):
        load(miniature)


def test_features_are_the_same_from_compressed_and_plain_files(miniature):
    before = load(miniature, "lda")
    buffer = io.BytesIO()
    savemat(buffer, matrices(), do_compression=False)
    file(miniature, "raw_features.mat").write_bytes(buffer.getvalue())
    after = load(miniature, "lda")
    assert_array_equal(after.images, before.images)
    assert_array_equal(after.texts, before.texts)
