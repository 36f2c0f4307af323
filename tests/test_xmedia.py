"""XMedia and XMediaNet: miniatures under every name that files in use have, and every fault of such a file."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.io import savemat
from scipy.sparse import csc_array

from xmbench import Corpus
from xmbench.describe import card_text, describe_dataset
from xmbench.errors import CorruptData, MissingData, MissingDependency, Unsupported
from xmbench.registry import Registry

needs_h5py = pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("h5py") is None,  # there, its absence is a failure
    reason="needs the extra `mat73`",
)

xmedia, xmedianet = (Registry().dataset(name) for name in ("xmedia", "xmedianet"))

TRAIN, TEST = 80, 40
"""Rows of the parts: four and two of each of XMedia's 20 classes."""


def labels_of(n_classes: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(rows) % n_classes) + 1


def arrays(**changes: object) -> dict[str, object]:
    """What XMediaFeatures.mat holds, other media and all, with fewer rows and columns."""
    rng = np.random.default_rng(0)
    made: dict[str, object] = {}
    for part, rows, seed in (("tr", TRAIN, 1), ("te", TEST, 2)):
        labels = labels_of(20, rows, seed)
        for name, width in (
            ("I_{}_CNN", 7),
            ("I_{}", 6),
            ("T_{}_BOW", 5),
            ("T_{}", 4),
            ("V_{}_CNN", 3),
            ("A_{}", 2),
        ):
            made[name.format(part)] = rng.random((rows, width))
        made |= {f"{part}ImgCat": labels[:, None], f"{part}TxtCat": labels[:, None]}
        made[f"{part}AudCat"] = labels_of(20, 20)[:, None]
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def save73(path: Path, made: dict[str, object]) -> None:
    """As MATLAB's -v7.3 does: HDF5 behind a header of 512 bytes, matrices transposed, types as attributes."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in made.items():
            data = file.create_dataset(name, data=np.asarray(value, dtype=np.float64).T)
            data.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def save_plain(path: Path, made: dict[str, object]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in made.items():
            file[name] = value


@pytest.fixture
def data_root(tmp_path) -> Path:
    (tmp_path / "xmedia").mkdir()
    (tmp_path / "xmedianet").mkdir()
    return tmp_path


def write(root: Path, **changes: object) -> dict[str, object]:
    made = arrays(**changes)
    savemat(root / "xmedia" / "XMediaFeatures.mat", made, do_compression=True)
    return made


def load(root: Path, image: str = "cnn", text: str = "bow") -> Corpus:
    return xmedia.load(root, image, text)


# -- XMediaFeatures.mat --------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "suffix"), [("cnn", "_CNN"), ("bovw", "")])
@pytest.mark.parametrize(("text", "ending"), [("bow", "_BOW"), ("lda", "")])
def test_each_feature_is_read_from_its_own_arrays(data_root, image, suffix, text, ending):
    made = write(data_root)
    corpus = load(data_root, image, text)
    assert_array_equal(corpus.images, np.vstack([made[f"I_tr{suffix}"], made[f"I_te{suffix}"]]))
    assert_array_equal(corpus.texts, np.vstack([made[f"T_tr{ending}"], made[f"T_te{ending}"]]))
    assert_array_equal(corpus.labels + 1, np.vstack([made["trImgCat"], made["teImgCat"]]).ravel())
    assert corpus.official == ("train",) * TRAIN + ("test",) * TEST
    assert (corpus.ids[0], corpus.ids[TRAIN]) == ("train-00001", "test-00001")
    assert corpus.class_names[::19] == ("class 1", "class 20")
    assert len(corpus.class_names) == 20


@needs_h5py
def test_versions_5_and_7_3_hold_the_same(data_root):
    write(data_root)
    before = load(data_root)
    save73(data_root / "xmedia" / "XMediaFeatures.mat", arrays())
    after = load(data_root)
    assert_array_equal(after.images, before.images)
    assert_array_equal(after.texts, before.texts)
    assert_array_equal(after.labels, before.labels)
    assert after.digest != before.digest


@pytest.mark.parametrize("name", xmedia.files)
def test_every_name_of_the_file_is_found(data_root, name):
    savemat(data_root / "xmedia" / name, arrays())
    assert len(load(data_root)) == TRAIN + TEST


def test_the_split_halves_the_test_rows_by_class(data_root):
    write(data_root)
    corpus = load(data_root)
    one, same, other = (xmedia.split(corpus, "official", seed) for seed in (0, 0, 1))
    assert_array_equal(one.train, range(TRAIN))
    for part in ("validation", "test"):
        assert_array_equal(np.bincount(corpus.labels[getattr(one, part)]), np.ones(20))
        assert_array_equal(getattr(one, part), getattr(same, part))
    assert one.test.tolist() != other.test.tolist()


def test_a_validation_part_of_the_file_is_taken_as_it_is(data_root):
    rng = np.random.default_rng(3)
    validation = {
        "I_va_CNN": rng.random((20, 7)),
        "T_va_BOW": rng.random((20, 5)),
        "vaImgCat": labels_of(20, 20),
    }
    write(data_root, trTxtCat=None, teTxtCat=None, **validation)
    corpus = load(data_root)
    split = xmedia.split(corpus, "official", 0)
    assert split.sizes == {"train": TRAIN, "validation": 20, "test": TEST}
    assert split.seed is None
    assert_array_equal(corpus.images[split.validation], validation["I_va_CNN"])


@pytest.mark.parametrize("form", ["row", "column", "one-hot", "from 0", "floats"])
def test_labels_in_any_usual_form_are_the_same_labels(data_root, form):
    write(data_root)
    expected = load(data_root).labels
    changes = {}
    for part in ("tr", "te"):
        labels = arrays()[f"{part}ImgCat"]
        changed = {
            "row": labels.T,
            "column": labels,
            "one-hot": np.eye(20)[labels.ravel() - 1],
            "from 0": labels - 1,
            "floats": labels.astype(float),
        }[form]
        changes |= {f"{part}ImgCat": changed, f"{part}TxtCat": changed}
    write(data_root, **changes)
    assert_array_equal(load(data_root).labels, expected)


def test_class_names_come_from_a_list_beside_the_file(data_root):
    write(data_root)
    path = data_root / "xmedia" / "categories.list"
    path.write_text("".join(f"kind {i}\n" for i in range(20)), encoding="utf-8")
    assert load(data_root).class_names[3] == "kind 3"
    for wrong in ("kind 1\n" * 20, "one\ntwo\n", ""):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(CorruptData, match=r"categories\.list must hold 20 different names"):
            load(data_root)


def test_other_class_names_are_other_data(data_root):
    write(data_root)
    digests = {load(data_root).digest}
    for order in (1, -1):
        names = [f"kind {number}" for number in range(20)][::order]
        (data_root / "xmedia" / "categories.list").write_text("\n".join(names))
        digests.add(load(data_root).digest)
    assert len(digests) == 3


# -- its faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"I_tr_CNN": None, "I_te_CNN": None},
            r"image features: expected I_tr_CNN and I_te_CNN or .*; it holds: A_te",
        ),
        ({"I_te_CNN": None}, "lacks I_te_CNN; it holds:"),
        (
            {"trImgCat": None, "teImgCat": None, "trTxtCat": None, "teTxtCat": None},
            "labels: expected trImgCat",
        ),
        ({"train_imgs_deep": np.ones((4, 4))}, "may be I_tr_CNN or train_imgs_deep; leave one"),
        ({"I_tr_CNN": np.ones((TRAIN + 1, 7))}, "expected equal numbers of rows, got {'I_tr_CNN': 81"),
        ({"I_tr_CNN": np.ones((7, TRAIN))}, "expected equal numbers of rows"),
        ({"T_te_BOW": np.ones((TEST, 6))}, "expected equal numbers of columns, got {'T_tr_BOW': 5"),
        (
            {"teImgCat": labels_of(20, TEST)[::-1]},
            "teImgCat and teTxtCat differ, so row i of the images and row i",
        ),
        (
            {"trImgCat": np.full(TRAIN, 21), "trTxtCat": np.full(TRAIN, 21)},
            r"must lie in 0\.\.19 or 1\.\.20, it holds 1\.\.21",
        ),
        ({"trImgCat": np.full(TRAIN, -1), "trTxtCat": np.full(TRAIN, -1)}, "it holds -1"),
        ({"trImgCat": np.full(TRAIN, 0.5)}, "trImgCat: labels must be whole numbers"),
        ({"trImgCat": np.full(TRAIN, np.nan)}, "trImgCat: labels must be whole numbers"),
        ({"trImgCat": np.ones((TRAIN, 2))}, "expected one label a row"),
        ({"trImgCat": "words"}, "trImgCat"),
        ({"I_tr_CNN": "words"}, "I_tr_CNN"),
        ({"I_tr_CNN": np.ones((TRAIN, 2, 2))}, "I_tr_CNN"),
        ({"I_tr_CNN": csc_array(np.ones((TRAIN, 7)))}, "I_tr_CNN"),
        ({"I_tr_CNN": np.ones((TRAIN, 7)) * 1j}, "I_tr_CNN"),
        ({"I_tr_CNN": {"field": 1.0}}, "I_tr_CNN"),
    ],
)
def test_arrays_that_do_not_fit_are_named(data_root, changes, message):
    write(data_root, **changes)
    with pytest.raises(CorruptData, match=rf"^xmedia: XMediaFeatures\.mat.*{message}"):
        load(data_root)


def spoil(path: Path, fault: str) -> None:
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "garbage": np.random.default_rng(0).bytes(5000),
        "page": b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n" * 20,
        "header only": whole[:128],
        "truncated": whole[: len(whole) * 3 // 4],
        "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124)
        + b"\x00\x02IM"
        + b"\x89HDF\r\n\x1a\n".ljust(400, b"\0"),
    }
    path.write_bytes(content[fault])


@pytest.mark.parametrize("fault", ["empty", "garbage", "page", "header only", "truncated", "version 7.3"])
def test_a_file_that_is_no_matlab_file_is_corrupt(data_root, fault):
    write(data_root)
    spoil(data_root / "xmedia" / "XMediaFeatures.mat", fault)
    with pytest.raises(CorruptData, match=r"^xmedia: XMediaFeatures\.mat"):
        load(data_root)


def test_a_damaged_file_never_gives_another_error(data_root):
    write(data_root)
    path = data_root / "xmedia" / "XMediaFeatures.mat"
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        content[generator.integers(130, len(content))] ^= int(generator.integers(1, 256))
        path.write_bytes(content)
        try:
            assert len(load(data_root)) == TRAIN + TEST
        except CorruptData as error:
            assert "XMediaFeatures.mat" in str(error)


def test_control_characters_in_names_do_not_reach_the_terminal(data_root):
    import scipy.io

    scipy.io.savemat(data_root / "xmedia" / "XMediaFeatures.mat", {"ab": np.eye(2)})
    path = data_root / "xmedia" / "XMediaFeatures.mat"
    path.write_bytes(path.read_bytes().replace(b"ab", b"a\x1b"))
    with pytest.raises(CorruptData) as raised:
        load(data_root)
    assert "\x1b" not in str(raised.value)


def test_two_feature_files_are_refused(data_root):
    write(data_root)
    savemat(data_root / "xmedia" / "Features.mat", arrays())
    with pytest.raises(CorruptData, match=r"holds XMediaFeatures\.mat and Features\.mat; keep one"):
        load(data_root)


@pytest.mark.parametrize("dataset", [xmedia, xmedianet])
def test_missing_data_come_with_the_expected_layout(dataset, tmp_path):
    with pytest.raises(MissingData) as raised:
        dataset.load(tmp_path, *dataset.features.split("+"))
    for line in dataset.card.layout:
        assert line in str(raised.value)
    assert "key names unchecked against the real file" in " ".join(dataset.card.defects)


@pytest.mark.parametrize(
    ("image", "text"), [("raw", "bow"), ("cnn", "raw"), ("cnn", "doc2vec"), ("lda", "cnn")]
)
def test_features_of_two_sources_are_not_paired(data_root, image, text):
    write(data_root)
    with pytest.raises(Unsupported, match=r"xmedia pairs stored features \(cnn\+bow or cnn\+lda"):
        load(data_root, image, text)


# -- XMediaNet's files ---------------------------------------------------------------------------------


def wide(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, 6)), rng.random((rows, 4)), labels_of(200, rows, seed)


def five_views(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    parts = {"train": wide(400, 0), "valid": wide(200, 1), "test": wide(200, 2)}
    made: dict[str, np.ndarray] = {}
    for part, (images, texts, labels) in parts.items():
        views, kinds = np.empty((1, 5), dtype=object), np.empty((1, 5), dtype=object)
        for i, view in enumerate((images, texts, np.eye(3), np.eye(2), np.eye(4))):
            views[0, i], kinds[0, i] = view, labels[None]
        made |= {part: views, f"{part}_labels": kinds}
    savemat(path, made)
    return parts


def test_cell_arrays_of_five_media_give_the_first_two(data_root):
    parts = five_views(data_root / "xmedianet" / "XMediaNet5View_Doc2Vec.mat")
    corpus = xmedianet.load(data_root, "cnn", "doc2vec")
    assert_array_equal(corpus.images, np.vstack([part[0] for part in parts.values()]))
    assert_array_equal(corpus.texts, np.vstack([part[1] for part in parts.values()]))
    split = xmedianet.split(corpus, "cmgans", 0)
    assert split.sizes == {"train": 400, "validation": 200, "test": 200}
    assert_array_equal(corpus.labels[split.validation] + 1, parts["valid"][2])


@needs_h5py
@pytest.mark.parametrize("texts", ["text", "texts", "texts_doc"])
def test_plain_hdf5_is_read_as_it_lies(data_root, texts):
    made: dict[str, object] = {}
    for part, rows, seed in (("train", 400, 0), ("test", 400, 1)):
        images, words, labels = wide(rows, seed)
        made |= {f"{part}_imgs_deep": images, f"{part}_{texts}": words}
        made |= {f"{part}_imgs_labels": labels - 1, f"{part}_texts_labels": labels[:, None] - 1}
    save_plain(data_root / "xmedianet" / "xmedianet_deep_doc2vec_data.h5py", made)
    corpus = xmedianet.load(data_root, "cnn", "doc2vec")
    assert_array_equal(corpus.images, np.vstack([made["train_imgs_deep"], made["test_imgs_deep"]]))
    assert_array_equal(corpus.texts, np.vstack([made[f"train_{texts}"], made[f"test_{texts}"]]))
    split = xmedianet.split(corpus, "cmgans", 0)
    assert split.sizes == {"train": 400, "validation": 200, "test": 200}
    assert_array_equal(np.bincount(corpus.labels[split.test]), np.ones(200))


@needs_h5py
@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + b"\0" * 600, b"no HDF5 at all" * 9])
def test_an_hdf5_file_that_is_none_is_corrupt(data_root, content):
    (data_root / "xmedianet" / "xmedianet_deep_doc2vec_data.h5py").write_bytes(content)
    with pytest.raises(CorruptData, match=r"^xmedianet: xmedianet_deep_doc2vec_data\.h5py cannot be read"):
        xmedianet.load(data_root, "cnn", "doc2vec")


@needs_h5py
def test_an_hdf5_file_that_leads_to_other_files_is_refused(data_root):
    import h5py

    images, words, labels = wide(400, 0)
    made = {"train_text": words, "train_imgs_labels": labels, "test_imgs_deep": images}
    made |= {"test_text": words, "test_imgs_labels": labels}
    path = data_root / "xmedianet" / "xmedianet_deep_doc2vec_data.h5py"
    other = data_root / "other.h5"
    save_plain(other, {"secret": images})
    save_plain(path, made)
    with h5py.File(path, "a") as file:
        file["train_imgs_deep"] = h5py.ExternalLink(str(other), "secret")
    with pytest.raises(CorruptData, match="lacks train_imgs_deep"):
        xmedianet.load(data_root, "cnn", "doc2vec")
    raw = data_root / "raw.bin"
    raw.write_bytes(images.tobytes())
    with h5py.File(path, "a") as file:
        del file["train_imgs_deep"]
        file.create_dataset(
            "train_imgs_deep", images.shape, "f8", external=[(str(raw), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(CorruptData, match="train_imgs_deep cannot be read: it lies in other files"):
        xmedianet.load(data_root, "cnn", "doc2vec")


@needs_h5py
def test_without_h5py_the_extra_is_named(data_root, monkeypatch):
    images, words, labels = wide(400, 0)
    for dataset, name in ((xmedianet, "xmedianet_deep_doc2vec_data.h5py"), (xmedia, "XMediaFeatures.mat")):
        path = data_root / dataset.name / name
        (save_plain if name.endswith("h5py") else save73)(
            path, {"x": images, "y": words, "z": labels[:, None]}
        )
        with monkeypatch.context() as context:
            for module in ("xmbench.matrices", dataset.load.__module__.replace("_xmedia", "_parts")):
                context.setattr(f"{module}.find_spec", lambda name: None)
            with pytest.raises(MissingDependency, match=r"needs h5py; pip install 'xmbench\[mat73\]'"):
                dataset.load(data_root, *dataset.features.split("+"))


# -- folders -------------------------------------------------------------------------------------------


@pytest.fixture
def folders(data_root) -> Path:
    """Ten pairs in each of 20 classes; names repeat from class to class; images are not opened."""
    for number in range(20):
        for item in range(10):
            image = data_root / "xmedia" / "image" / f"kind{number:02}" / f"{item}.jpg"
            text = data_root / "xmedia" / "text" / f"kind{number:02}" / f"{item}.txt"
            for path, content in ((image, b"\xff\xd8"), (text, f"text {item} of {number}\n".encode())):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return data_root


def test_folders_are_paired_by_name(folders):
    corpus = load(folders, "raw", "raw")
    assert len(corpus) == 200
    assert corpus.class_names[7] == "kind07"
    for row in (0, 77, 199):
        assert corpus.ids[row] == f"{corpus.images[row].parent.name}/{corpus.images[row].stem}"
        assert corpus.texts[row] == f"text {row % 10} of {row // 10}"
        assert corpus.labels[row] == row // 10
    split = xmedia.split(corpus, "official", 0)
    assert split.sizes == {"train": 160, "validation": 20, "test": 20}
    assert_array_equal(np.bincount(corpus.labels[split.test]), np.ones(20))


def test_folders_have_no_stored_features_and_the_card_says_so(folders):
    with pytest.raises(MissingData, match=r"cnn and bow come from a feature file.*--features lite0\+tfidf"):
        load(folders)
    found = describe_dataset("xmedia", xmedia, folders)
    assert found["present"] and "read" not in found
    assert "cnn and bow come from a feature file" in card_text(found)


def test_a_feature_file_has_no_raw_images(data_root):
    write(data_root)
    with pytest.raises(MissingData, match="raw images and texts need the folders image and text"):
        load(data_root, "raw", "raw")


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda root: (root / "text/kind03/4.txt").unlink(), "1 items lack .*, first: kind03/4"),
        (lambda root: (root / "text/kind03/4.txt").write_text(" \n"), r"kind03/4\.txt holds no text"),
        (lambda root: (root / "text/kind03/4.txt").write_bytes(b"\xff\xfe"), r"kind03/4\.txt is not UTF-8"),
        (
            lambda root: (root / "image/kind03/4.png").write_bytes(b""),
            r"4\.jpg and 4\.png of kind03/4 are one item",
        ),
        (
            lambda root: [
                (root / folder / "kind03").rename(root / "away" / folder) for folder in ("image", "text")
            ],
            "19 class folders, expected 20",
        ),
    ],
    ids=["no text", "empty text", "not UTF-8", "twice", "a class less"],
)
def test_folders_that_do_not_fit_are_corrupt(folders, spoiled, message):
    root = folders / "xmedia"
    (root / "away").mkdir()
    spoiled(root)
    with pytest.raises(CorruptData, match=message):
        load(folders, "raw", "raw")


def test_the_files_that_public_loaders_read_are_listed():
    """A change of the accepted names is a change of the card."""
    for dataset in (xmedia, xmedianet):
        written = " ".join(dataset.card.layout)
        for name in dataset.files:
            stem = re.sub(r"\.\w+$", "", name)
            assert stem in written


# -- the check and the audit ---------------------------------------------------------------------------


def test_a_feature_file_alone_can_be_audited_and_checked(data_root):
    from xmbench.audit import audit
    from xmbench.data_check import check_dataset

    write(data_root)
    found = audit("xmedia", xmedia, data_root, None, 0, lambda message, fraction: None)
    assert found.images.compared == found.texts.compared == "feature rows"
    assert {columns.name for columns in found.columns} == {"image cnn", "image bovw", "text bow", "text lda"}
    assert not check_dataset("xmedia", xmedia, data_root)[1].found
