"""NUS-WIDE-10k: a miniature in NUS-WIDE's layout, what is taken of it, prepared files, and every fault."""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.io import savemat

from xmbench import Corpus
from xmbench.datasets.nus_wide_10k import CONCEPTS, LOW_LEVEL, PREPARED, NusWide10k
from xmbench.errors import CorruptData, MissingData, Unsupported

needs_h5py = pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("h5py") is None,  # there, its absence is a failure
    reason="needs the extra `mat73`",
)

PER_CONCEPT = 20


class Small(NusWide10k):
    """The adapter for a miniature: 20 images of each concept instead of 1,000."""

    per_concept = PER_CONCEPT


nus = Small()


class Original:
    """What a miniature was made from: 300 images of one concept, 60 of two or none, 5 listed again."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sets = [{label} for label in range(10) for _ in range(30)]
        sets += [set(rng.choice(10, 2, replace=False).tolist()) for _ in range(30)] + [set()] * 30
        sets = [sets[i] for i in rng.permutation(len(sets))]
        folders = [f"{name}" for name in ("actor", "zebra", "a day in town") for _ in range(120)]
        self.names = [f"{folder}\\{i:04}_{10**8 + i}" for i, folder in enumerate(folders)]
        again = rng.choice(300, 5, replace=False)
        self.names += [f"again\\{i:04}_{10**8 + i}" for i in again]
        self.sets = sets + [sets[i] for i in again]
        n = len(self.names)
        self.tags = [
            [f"tag{k}" for k in rng.choice(50, size=rng.integers(0, 6), replace=False)] for _ in range(n - 5)
        ]
        self.tags += [self.tags[i] for i in again]
        self.tags1k = (rng.random((n, 1000)) < 0.002).astype(int)
        self.low = {name: rng.random((n, width)).round(4) for name, (width, _, _) in LOW_LEVEL.items()}
        self.low["bow"] = rng.integers(0, 9, (n, 500))
        self.train = rng.random(n) < 0.6

    def ids(self) -> list[str]:
        return [name.replace("\\", "/") for name in self.names]

    def write(self, root: Path) -> None:
        for folder in ("ImageList", "Groundtruth/AllLabels", "NUS_WID_Tags", "Low_Level_Features"):
            (root / folder).mkdir(parents=True)
        for name, chosen in (
            ("Imagelist", np.full(len(self.names), True)),
            ("TrainImagelist", self.train),
            ("TestImagelist", ~self.train),
        ):
            lines = [f"{self.names[i]}.jpg\r\n" for i in np.flatnonzero(chosen)]
            (root / "ImageList" / f"{name}.txt").write_text("".join(lines), encoding="utf-8", newline="")
        for label, concept in enumerate((*CONCEPTS, "airport")):
            content = "".join(f"{int(label in held)}\n" for held in self.sets)
            (root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt").write_text(content)
        lines = [
            f"{name.rpartition('_')[2]}      {' '.join(tags)} \n"
            for name, tags in zip(self.names, self.tags, strict=True)
        ]
        (root / "NUS_WID_Tags" / "All_Tags.txt").write_text("".join(lines), encoding="utf-8")
        table(root / "NUS_WID_Tags" / "AllTags1k.txt", self.tags1k, "\t")
        for name, (_, file, _) in LOW_LEVEL.items():
            table(root / "Low_Level_Features" / file, self.low[name], " ")

    def images(self, root: Path) -> None:
        for name in self.ids():
            path = root / "Flickr" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\xff\xd8" + name.encode())


def table(path: Path, values: np.ndarray, separator: str) -> None:
    """As in NUS-WIDE: each number is followed by a separator, the last one too."""
    path.write_text(
        "".join("".join(f"{value}{separator}" for value in row) + "\n" for row in values.tolist())
    )


original = Original()


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("nus") / "nus_wide"
    original.write(root)
    original.images(root)
    return root


@pytest.fixture
def miniature(untouched, tmp_path) -> Path:
    shutil.copytree(untouched, tmp_path / "nus_wide")
    return tmp_path / "nus_wide"


def load(root: Path, image: str = "bow", text: str = "tags1k") -> Corpus:
    return nus.load(root.parent, image, text)


# -- what is taken -------------------------------------------------------------------------------------


def test_images_with_one_concept_are_taken_by_hash(untouched):
    corpus = load(untouched)
    first: dict[str, set[int]] = {}
    for name, held in zip(original.ids(), original.sets, strict=True):
        if name.rpartition("_")[2] not in {other.rpartition("_")[2] for other in first}:
            first[name] = held
    for label in range(10):
        pool = [name for name, held in first.items() if held == {label}]
        assert len(pool) == 30
        pool.sort(key=lambda name: hashlib.sha256(f"0/{name}".encode()).digest())
        taken = {name for name, held in zip(corpus.ids, corpus.labels, strict=True) if held == label}
        assert taken == set(pool[:PER_CONCEPT])
    assert corpus.class_names == CONCEPTS
    assert corpus.notes[:2] == (
        "200 of the 365 images of Imagelist.txt, 20 a concept",
        "left out: 30 images with none of the ten concepts, "
        f"{sum(len(held) > 1 for held in original.sets)} with several, "
        f"{sum(len(held) == 1 for held in original.sets[360:])} listed before, and 100 by draw",
    )


def rows_of(corpus: Corpus) -> list[int]:
    ids = original.ids()
    return [ids.index(name) for name in corpus.ids]


@pytest.mark.parametrize("name", LOW_LEVEL)
def test_low_level_features_are_those_of_the_image(untouched, name):
    corpus = load(untouched, name)
    assert_array_equal(corpus.images, original.low[name][rows_of(corpus)].astype(np.float32))
    assert corpus.images.shape == (200, LOW_LEVEL[name][0])


def test_five_low_level_features_stand_side_by_side(untouched):
    assert_array_equal(
        load(untouched, "low_level").images,
        np.hstack([load(untouched, name).images for name in ("ch", "corr", "edh", "wt", "cm55")]),
    )


def test_tags_are_those_of_the_image(untouched):
    corpus = load(untouched)
    assert_array_equal(corpus.texts, original.tags1k[rows_of(corpus)])
    zero = int((~corpus.texts.any(axis=1)).sum())
    assert corpus.notes[-1] == f"{zero} images with none of the 1,000 tags: their row of tags1k is zero"
    words = load(untouched, "bow", "raw")
    assert words.texts == [" ".join(original.tags[row]) for row in rows_of(corpus)]
    assert words.notes[-1] == f"{words.texts.count('')} images without a tag: their text is empty"


def test_raw_images_are_the_files_of_the_list(untouched):
    corpus = load(untouched, "raw", "raw")
    assert [path.read_bytes()[2:].decode() for path in corpus.images] == list(corpus.ids)


def test_the_same_images_are_taken_whatever_features_are_asked_for(untouched):
    corpora = [load(untouched, *names) for names in (("bow", "tags1k"), ("raw", "raw"), ("ch", "raw"))]
    assert len({corpus.ids for corpus in corpora}) == 1
    assert len({corpus.digest for corpus in corpora}) == 3


def test_files_of_the_two_official_parts_give_the_same_rows(miniature):
    before, histogram = load(miniature), load(miniature, "ch")
    for whole, pair, values, separator in (
        ("NUS_WID_Tags/AllTags1k.txt", "NUS_WID_Tags/{}_Tags1k.dat", original.tags1k, "\t"),
        ("Low_Level_Features/BoW_int.dat", "Low_Level_Features/BoW_{}_int.dat", original.low["bow"], " "),
        (
            "Low_Level_Features/Normalized_CH.dat",
            "Low_Level_Features/{}_Normalized_CH.dat",
            original.low["ch"],
            " ",
        ),
    ):
        (miniature / whole).unlink()
        table(miniature / pair.format("Train"), values[original.train], separator)
        table(miniature / pair.format("Test"), values[~original.train], separator)
    after = load(miniature)
    assert after.ids == before.ids
    assert_array_equal(after.images, before.images)
    assert_array_equal(after.texts, before.texts)
    assert_array_equal(load(miniature, "ch").images, histogram.images)
    (miniature / "NUS_WID_Tags/Test_Tags1k.dat").unlink()
    with pytest.raises(MissingData, match=r"neither NUS_WID_Tags/AllTags1k\.txt nor .*Test_Tags1k\.dat"):
        load(miniature)


def save(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, array)
    else:
        savemat(path, {"anything": array})


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_matrices_may_be_array_files(miniature, suffix):
    before = load(miniature)
    for stem, values in (
        ("NUS_WID_Tags/AllTags1k", original.tags1k),
        ("Low_Level_Features/BoW_int", original.low["bow"]),
    ):
        save(miniature / f"{stem}{suffix}", values)
        with pytest.raises(CorruptData, match="keep one of them"):
            load(miniature)
        (miniature / f"{stem}{'.txt' if 'Tags' in stem else '.dat'}").unlink()
    after = load(miniature)
    assert_array_equal(after.images, before.images)
    assert_array_equal(after.texts, before.texts)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_features_of_ones_own_network_are_read(miniature, suffix):
    with pytest.raises(MissingData, match=r"none of fc7\.npy, fc7\.npz, fc7\.mat is in"):
        load(miniature, "fc7")
    own = np.random.default_rng(0).random((len(original.names), 9))
    path = miniature / f"Low_Level_Features/fc7{suffix}"
    save(path, own)
    corpus = load(miniature, "fc7")
    assert_array_equal(corpus.images, own[rows_of(corpus)].astype(np.float32))
    save(path, own[:-1])
    with pytest.raises(CorruptData, match=rf"fc7\{suffix} has shape \(364, 9\), expected \(365, any\)"):
        load(miniature, "fc7")
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(CorruptData, match=rf"^nus_wide_10k: fc7\{suffix}"):
        load(miniature, "fc7")


def test_the_list_may_have_its_other_spelling(miniature):
    before = load(miniature)
    (miniature / "ImageList/Imagelist.txt").rename(miniature / "ImageList/ImageList.txt")
    assert load(miniature).ids == before.ids


def test_the_draw_does_not_depend_on_the_order_of_the_list(tmp_path):
    turned = Original()
    order = [*range(359, -1, -1), *range(360, 365)]
    for name in ("names", "sets", "tags"):
        setattr(turned, name, [getattr(turned, name)[i] for i in order])
    turned.write(tmp_path / "nus_wide")
    original.write(tmp_path / "other" / "nus_wide")
    one, two = (load(root / "nus_wide", "bow", "raw") for root in (tmp_path, tmp_path / "other"))
    assert set(one.ids) == set(two.ids)
    for name in nus.splits:
        splits = [nus.split(corpus, name, 1) for corpus in (one, two)]
        assert {one.ids[row] for row in splits[0].test} == {two.ids[row] for row in splits[1].test}


def test_the_sizes_of_the_splits(untouched):
    corpus = load(untouched)
    for name, sizes in {"cmgans": (160, 20, 20), "acmr": (140, 20, 20)}.items():
        for seed in range(3):
            split = nus.split(corpus, name, seed)
            assert tuple(split.sizes.values()) == sizes
            for part, size in split.sizes.items():
                assert_array_equal(np.bincount(corpus.labels[getattr(split, part)]), np.full(10, size // 10))


# -- faults --------------------------------------------------------------------------------------------


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")


def test_too_few_images_of_a_concept_are_an_error(untouched):
    with pytest.raises(
        CorruptData, match="30 images have animal alone among the ten concepts, 1,000 are needed"
    ):
        NusWide10k().load(untouched.parent, "bow", "tags1k")


@pytest.mark.parametrize("name", ["ImageList", "Groundtruth/AllLabels"])
def test_missing_folders_are_reported_with_the_expected_layout(miniature, name):
    shutil.rmtree(miniature / name)
    with pytest.raises(MissingData) as raised:
        load(miniature)
    for line in nus.card.layout:
        assert line in str(raised.value)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("ImageList/Imagelist.txt", ("bow", "tags1k")),
        ("Groundtruth/AllLabels/Labels_toy.txt", ("bow", "tags1k")),
        ("NUS_WID_Tags/All_Tags.txt", ("bow", "raw")),
        ("NUS_WID_Tags/AllTags1k.txt", ("bow", "tags1k")),
        ("Low_Level_Features/BoW_int.dat", ("bow", "raw")),
        ("Low_Level_Features/Normalized_CM55.dat", ("low_level", "raw")),
    ],
)
def test_a_missing_file_is_named_if_it_is_needed(miniature, name, features):
    (miniature / name).unlink()
    with pytest.raises(MissingData, match=Path(name).name.replace(".", r"\.")):
        load(miniature, *features)


def test_missing_images_are_counted(miniature):
    corpus = load(miniature, "raw", "raw")
    for row in (3, 5):
        corpus.images[row].unlink()
    with pytest.raises(
        MissingData, match=rf"2 of 200 chosen images are missing, first: .*{corpus.images[3].name}"
    ):
        load(miniature, "raw", "raw")
    shutil.rmtree(miniature / "Flickr")
    with pytest.raises(MissingData, match=r"raw images are expected in .*Flickr; without them"):
        load(miniature, "raw", "raw")


LABELS = "Groundtruth/AllLabels/Labels_sky.txt"


@pytest.mark.parametrize("value", ["2", "-1", "1.0", "yes", "é", "\x1b[31m"])
def test_a_label_out_of_range_is_named_by_line(miniature, value):
    path = miniature / LABELS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], value, *lines[7:]]), encoding="utf-8")
    with pytest.raises(CorruptData, match=r"Labels_sky\.txt, line 7: expected 0 or 1") as raised:
        load(miniature)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("more", [-1, 1])
def test_label_files_of_another_length_are_corrupt(miniature, more):
    path = miniature / LABELS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "0"] if more > 0 else lines[:-1]))
    with pytest.raises(CorruptData, match=rf"Labels_sky\.txt holds {365 + more} labels, .* lists 365 images"):
        load(miniature)


@pytest.mark.parametrize(
    "line",
    ["", "0001_100000001.jpg", "a\\b\\1_2.jpg", "..\\1_2.jpg", "/etc/1_2.jpg", "a\\1.jpg", "a\\1_2.png"],
)
def test_a_malformed_line_of_the_list_is_named(miniature, line):
    change(miniature / "ImageList/Imagelist.txt", f"{original.names[2]}.jpg", line)
    with pytest.raises(CorruptData, match=r"Imagelist\.txt, line 3: expected a path such as actor"):
        load(miniature)


def test_a_path_listed_twice_is_corrupt(miniature):
    change(miniature / "ImageList/Imagelist.txt", original.names[2], original.names[3])
    with pytest.raises(CorruptData, match=r"Imagelist\.txt lists .* twice"):
        load(miniature)


@pytest.mark.parametrize("file", ["NUS_WID_Tags/AllTags1k.txt", "Low_Level_Features/BoW_int.dat"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a line less", "has 364 lines, the list of its images 365"),
        ("a line more", "has 366 lines, the list of its images 365"),
        ("a number less", r"has \d+ numbers, expected \d+"),
        ("a word", "could not convert string to float"),
        ("empty", "has 0 lines"),
    ],
)
def test_matrices_that_do_not_fit_are_named(miniature, file, fault, message):
    path = miniature / file
    lines = path.read_text().splitlines()
    broken = {
        "a line less": lines[:-1],
        "a line more": [*lines, lines[0]],
        "a number less": [line.rsplit(maxsplit=1)[0] for line in lines],
        "a word": [line.replace("0", "x", 1) for line in lines],
        "empty": [],
    }
    path.write_text("\n".join(broken[fault]))
    with pytest.raises(CorruptData, match=rf"^nus_wide_10k: {path.name.replace('.', '[.]')}.*{message}"):
        load(miniature)


def test_a_tag_matrix_holds_0_and_1(miniature):
    table(miniature / "NUS_WID_Tags/AllTags1k.txt", original.tags1k * 2, "\t")
    with pytest.raises(CorruptData, match=r"AllTags1k\.txt holds other numbers than 0 and 1"):
        load(miniature)


def test_tags_are_found_by_photograph_number_in_any_order(miniature):
    before = load(miniature, "bow", "raw").texts
    path = miniature / "NUS_WID_Tags/All_Tags.txt"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines[::-1]))
    assert load(miniature, "bow", "raw").texts == before


def test_an_image_without_a_line_of_tags_is_named(miniature):
    number = load(miniature).ids[0].rpartition("_")[2]
    path = miniature / "NUS_WID_Tags/All_Tags.txt"
    path.write_text(path.read_text().replace(number, "7"))
    with pytest.raises(CorruptData, match=rf"no line for 1 chosen images, first: photograph {number}"):
        load(miniature, "bow", "raw")
    path.write_bytes(path.read_bytes().replace(b"tag", b"t\xffg"))
    with pytest.raises(CorruptData, match=r"All_Tags\.txt, line \d+ is not UTF-8"):
        load(miniature, "bow", "raw")


@pytest.mark.parametrize(
    ("image", "text"), [("lite0", "raw"), ("bow", "tfidf"), ("cnn", "raw"), ("bow", "doc2vec")]
)
def test_features_that_do_not_go_together_are_refused(untouched, image, text):
    with pytest.raises(Unsupported, match="nus_wide_10k pairs raw images"):
        load(untouched, image, text)


# -- prepared files ------------------------------------------------------------------------------------


def prepared(root: Path, name: str) -> dict[str, np.ndarray]:
    import h5py

    rng = np.random.default_rng(0)
    made = {}
    for part, rows in (("train", 80), ("valid", 10), ("test", 10)):
        made[f"{part}_imgs_deep"] = rng.random((rows, 8))
        made[f"{part}_texts"] = rng.random((rows, 3))
        made[f"{part}_imgs_labels"] = rng.permutation(np.arange(rows) % 10)
    root.mkdir(exist_ok=True)
    with h5py.File(root / name, "w") as file:
        for key, value in made.items():
            file[key] = value
    return made


@needs_h5py
@pytest.mark.parametrize("name", [name for name in PREPARED if name.endswith(".h5py")])
def test_a_prepared_file_brings_features_labels_and_split(tmp_path, name):
    made = prepared(tmp_path / "nus_wide", name)
    corpus = load(tmp_path / "nus_wide", "cnn", "doc2vec")
    split = nus.split(corpus, "cmgans", 5)
    assert split.seed is None
    for part, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        rows = getattr(split, part)
        assert_array_equal(corpus.images[rows], made[f"{key}_imgs_deep"])
        assert_array_equal(corpus.texts[rows], made[f"{key}_texts"])
        assert_array_equal(corpus.labels[rows], made[f"{key}_imgs_labels"])
    with pytest.raises(MissingData, match="where only a prepared file lies"):
        load(tmp_path / "nus_wide")


def test_the_true_layout_has_no_prepared_features(untouched):
    with pytest.raises(MissingData, match="cnn and doc2vec come from a prepared file, and none is in"):
        load(untouched, "cnn", "doc2vec")


@needs_h5py
def test_two_prepared_files_are_refused(tmp_path):
    for name in PREPARED[:2]:
        prepared(tmp_path / "nus_wide", name)
    with pytest.raises(CorruptData, match="keep one of them"):
        load(tmp_path / "nus_wide", "cnn", "doc2vec")


# -- the check and the audit ---------------------------------------------------------------------------


def test_without_photographs_and_with_some_features_it_can_be_audited_and_checked(miniature):
    from xmbench.audit import audit
    from xmbench.data_check import check_dataset, check_text

    shutil.rmtree(miniature / "Flickr")
    (miniature / "Low_Level_Features" / "Normalized_CH.dat").unlink()
    found = audit("nus_wide_10k", nus, miniature.parent, None, 0, lambda message, fraction: None)
    assert found.images.compared == "feature rows" and found.texts.compared.startswith("words")
    names = {columns.name for columns in found.columns}
    assert "image bow" in names and "text tags1k" in names and not names & {"image ch", "image fc7"}
    card, problems = check_dataset("nus_wide_10k", nus, miniature.parent)
    assert not problems.found
    assert any("Flickr" in note for note in card["notes"])
    assert any("texts are empty" in note for note in card["notes"])
    assert "note:      not here: nus_wide_10k" in check_text(card)
    (miniature / "Low_Level_Features" / "BoW_int.dat").unlink()
    assert check_dataset("nus_wide_10k", nus, miniature.parent)[1].exit_code == 3  # the default
