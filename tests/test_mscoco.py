"""MSCOCO: the real piece of it counted independently, miniatures of both releases, and every fault of one."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import Corpus
from xmbench.describe import card_text, describe_dataset
from xmbench.errors import CorruptData, MissingData, Unsupported
from xmbench.registry import Registry

mscoco = Registry().dataset("mscoco")

# -- the real files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(data_dir) -> Corpus:
    return mscoco.load(data_dir, "raw", "raw")


@pytest.fixture(scope="module")
def annotations(data_dir) -> dict[str, dict]:
    folder = data_dir / "mscoco_mini" / "annotations"
    names = [f"{kind}_{part}2017" for kind in ("captions", "instances") for part in ("train", "val")]
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def test_all_159_images_and_795_captions_are_read(corpus):
    assert corpus.official.count("train") == 80
    assert corpus.official.count("val") == 79
    assert len(set(corpus.ids)) == 159
    assert [len(parts) for parts in corpus.text_parts] == [5] * 159
    assert corpus.notes[0] == "release 2017: 159 images are listed, 80 in train2017, 79 in val2017"
    assert (
        corpus.notes[1]
        == "left out: 0 of train2017 and 0 of val2017 without a label, 0 others without a caption"
    )
    assert corpus.notes[2].startswith("795 captions; 0 images")


def test_labels_are_the_categories_of_the_instances(corpus, annotations):
    names = {entry["id"]: entry["name"] for entry in annotations["instances_val2017"]["categories"]}
    assert max(names) == 90
    assert list(corpus.class_names) == [names[number] for number in sorted(names)]
    assert corpus.labels.shape == (159, 80)
    expected = defaultdict(set)
    for part in ("train", "val"):
        for entry in annotations[f"instances_{part}2017"]["annotations"]:
            expected[f"{entry['image_id']:012}"].add(names[entry["category_id"]])
    for name, row in zip(corpus.ids, corpus.labels, strict=True):
        assert {corpus.class_names[i] for i in np.flatnonzero(row)} == expected[name]
    in_train = np.array(corpus.official) == "train"
    assert_allclose(corpus.labels.sum(axis=1)[in_train].mean(), 3.77, atol=0.01)
    assert_allclose(corpus.labels.sum(axis=1)[~in_train].mean(), 3.59, atol=0.01)
    assert corpus.labels[in_train].any(axis=0).all()
    assert corpus.labels[~in_train].any(axis=0).sum() == 78


def test_image_and_captions_of_a_row_belong_to_one_id(corpus, annotations):
    captions = defaultdict(list)
    for part in ("train", "val"):
        for entry in annotations[f"captions_{part}2017"]["annotations"]:
            captions[f"{entry['image_id']:012}"].append((entry["id"], " ".join(entry["caption"].split())))
    for row, name in enumerate(corpus.ids):
        assert corpus.images[row].name == f"{name}.jpg"
        assert corpus.images[row].parent.name == f"{corpus.official[row]}2017"
        assert corpus.images[row].read_bytes().startswith(b"\xff\xd8\xff")
        assert corpus.text_parts[row] == [text for _, text in sorted(captions[name])]
        assert corpus.texts[row] == " ".join(corpus.text_parts[row])


def test_regions_are_the_boxes_of_things_that_are_no_crowd(corpus, annotations):
    boxes, crowds = defaultdict(list), 0
    for part in ("train", "val"):
        sizes = {
            entry["id"]: (entry["width"], entry["height"])
            for entry in annotations[f"instances_{part}2017"]["images"]
        }
        for entry in annotations[f"instances_{part}2017"]["annotations"]:
            crowds += entry["iscrowd"]
            if not entry["iscrowd"]:
                (x, y, w, h), (width, height) = entry["bbox"], sizes[entry["image_id"]]
                box = np.array([x / width, y / height, (x + w) / width, (y + h) / height])
                boxes[f"{entry['image_id']:012}"].append(box.clip(0, 1))
    for row, name in enumerate(corpus.ids):
        regions = corpus.image_parts[row]
        assert all(region.path == corpus.images[row] for region in regions)
        found = np.array([region.box for region in regions]).reshape(-1, 4)
        assert_allclose(found, np.array(boxes[name]).reshape(-1, 4))
    assert f"{sum(map(len, boxes.values())):,} regions, beside {crowds} crowds" in corpus.notes[3]


def test_splits_of_the_real_piece(corpus):
    train, val = (
        set(np.flatnonzero(np.array(corpus.official) == part).tolist()) for part in ("train", "val")
    )
    for seed in range(3):
        official = mscoco.split(corpus, "official", seed)
        assert official.sizes == {"train": 72, "validation": 8, "test": 79}
        assert set(official.test.tolist()) == val
        acmr = mscoco.split(corpus, "acmr", seed)
        assert acmr.sizes == {"train": 56, "validation": 8, "test": 16}
        assert set(np.concatenate([acmr.train, acmr.validation, acmr.test]).tolist()) == train
        five = mscoco.split(corpus, "five_thousand", seed)
        assert five.sizes == {"train": 72, "validation": 8, "test": 79}


# -- miniatures in the true layout ---------------------------------------------------------------------

GAPS = (1, 3, 7, 90)


def name_of(part: str, year: str, number: int) -> str:
    return f"COCO_{part}{year}_{number:012}.jpg" if year == "2014" else f"{number:012}.jpg"


def release(root: Path, year: str = "2014", n_train: int = 60, n_val: int = 40) -> None:
    """Random annotations in COCO's form for images that hold a few bytes: every tenth has no instance."""
    rng = np.random.default_rng(int(year))
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    number, caption_id, instance_id = 9, 1, 1
    for part, count in (("train", n_train), ("val", n_val)):
        folder = root / f"{part}{year}"
        folder.mkdir()
        images, captions, instances = [], [], []
        for item in range(count):
            number += int(rng.integers(1, 9))
            images.append(
                {"id": number, "file_name": name_of(part, year, number), "width": 100, "height": 50}
            )
            (folder / name_of(part, year, number)).write_bytes(b"\xff\xd8" + bytes([item]))
            for _ in range(5):
                text = f"A scene of {number} in words {caption_id}. \n"
                captions.append({"image_id": number, "id": caption_id, "caption": text})
                caption_id += 1
            for category in rng.choice(GAPS, size=0 if item % 10 == 9 else rng.integers(1, 4), replace=False):
                x, y = rng.uniform(0, 50), rng.uniform(0, 25)
                instances.append(
                    {
                        "id": instance_id,
                        "image_id": number,
                        "category_id": int(category),
                        "iscrowd": int(rng.random() < 0.1),
                        "bbox": [x, y, rng.uniform(1, 50), rng.uniform(1, 25)],
                        "segmentation": [[0.0, 1.0, 2.0, 3.0]],
                        "area": 1.0,
                    }
                )
                instance_id += 1
        shuffled = [captions[i] for i in rng.permutation(len(captions))]
        categories = [{"id": k, "name": f"kind {k}", "supercategory": "kinds"} for k in reversed(GAPS)]
        head = {"info": {}, "licenses": [], "images": images}
        write(root / "annotations" / f"captions_{part}{year}.json", {**head, "annotations": shuffled})
        write(
            root / "annotations" / f"instances_{part}{year}.json",
            {**head, "annotations": instances, "categories": categories},
        )


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def load(root: Path) -> Corpus:
    return mscoco.load(root, "raw", "raw")


@pytest.fixture
def miniature(tmp_path) -> Path:
    release(tmp_path / "mscoco")
    return tmp_path


def edit(miniature: Path, name: str, change) -> None:
    path = miniature / "mscoco" / "annotations" / name
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write(path, content)


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize("place", ["mscoco", "coco"])
def test_both_releases_are_read(tmp_path, year, place):
    release(tmp_path / place, year)
    corpus = load(tmp_path)
    assert corpus.notes[0] == f"release {year}: 100 images are listed, 60 in train{year}, 40 in val{year}"
    assert len(corpus) == 90
    assert corpus.class_names == ("kind 1", "kind 3", "kind 7", "kind 90")
    for path, name in zip(corpus.images, corpus.ids, strict=True):
        assert path.is_file()
        assert path.stem.endswith(name)


def test_images_may_lie_one_folder_deeper(miniature):
    before = load(miniature)
    (miniature / "mscoco" / "images").mkdir()
    for part in ("train2014", "val2014"):
        (miniature / "mscoco" / part).rename(miniature / "mscoco" / "images" / part)
    assert load(miniature).ids == before.ids


def test_of_two_releases_2014_is_read(miniature):
    release(miniature / "mscoco", "2017")
    assert load(miniature).notes[0].startswith("release 2014")


def test_images_without_a_label_or_a_caption_are_left_out_and_counted(miniature):
    edit(
        miniature,
        "captions_val2014.json",
        lambda content: content.update(
            annotations=[
                entry
                for entry in content["annotations"]
                if entry["image_id"] not in (content["images"][0]["id"], content["images"][9]["id"])
            ]
        ),
    )
    corpus = load(miniature)
    assert len(corpus) == 89
    assert (
        corpus.notes[1]
        == "left out: 6 of train2014 and 4 of val2014 without a label, 1 others without a caption"
    )
    assert corpus.labels.any(axis=1).all()


def test_captions_come_in_the_order_of_their_ids_without_line_ends(miniature):
    corpus = load(miniature)
    for parts in corpus.text_parts:
        numbers = [int(part.split()[-1].rstrip(".")) for part in parts]
        assert numbers == sorted(numbers)
        assert all(part == part.strip() for part in parts)


def test_crowds_make_a_label_and_no_region(miniature):
    def all_crowds(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    before = load(miniature)
    for part in ("train", "val"):
        edit(miniature, f"instances_{part}2014.json", all_crowds)
    after = load(miniature)
    assert_array_equal(after.labels, before.labels)
    assert not any(after.image_parts)


def test_boxes_are_cut_at_the_border_and_flat_ones_counted(miniature):
    first = json.loads((miniature / "mscoco/annotations/instances_val2014.json").read_text())["annotations"][
        0
    ]

    def change(content):
        entry = content["annotations"][0]
        for number, box in enumerate([[-1, -1, 51, 26], [90, 40, 20, 20], [5, 5, 0, 9], [200, 5, 9, 9]]):
            content["annotations"].append({**entry, "id": 10**6 + number, "bbox": box, "iscrowd": 0})

    before = load(miniature)
    edit(miniature, "instances_val2014.json", change)
    after = load(miniature)
    row = after.ids.index(f"{first['image_id']:012}")
    found = [region.box for region in after.image_parts[row]][len(before.image_parts[row]) :]
    assert found == [(0.0, 0.0, 0.5, 0.5), (0.9, 0.8, 1.0, 1.0)]
    assert "2 boxes without area" in after.notes[3]


def test_the_cut_of_train2014_has_acmrs_shares(miniature):
    corpus = load(miniature)
    split = mscoco.split(corpus, "acmr", 0)
    assert split.sizes == {"train": 38, "validation": 5, "test": 11}
    assert all(corpus.official[row] == "train" for part in (split.train, split.test) for row in part)


def test_five_thousand_takes_that_many_where_there_are(miniature, monkeypatch):
    monkeypatch.setattr("xmbench.datasets.mscoco.FIVE_THOUSAND", 7)
    corpus = load(miniature)
    split = mscoco.split(corpus, "five_thousand", 0)
    assert split.sizes == {"train": 76, "validation": 7, "test": 7}
    assert all(corpus.official[row] == "val" for row in split.test)
    assert {corpus.official[row] for row in split.train} == {"train", "val"}


def test_the_order_of_the_files_changes_no_split(miniature):
    def turn(content):
        content["images"].reverse()
        content["annotations"].reverse()

    before = load(miniature)
    for kind in ("captions", "instances"):
        edit(miniature, f"{kind}_train2014.json", turn)
    after = load(miniature)
    assert after.ids != before.ids
    for name in mscoco.splits:
        one, two = (mscoco.split(corpus, name, 3) for corpus in (before, after))
        for part in ("train", "validation", "test"):
            ids = [
                {corpus.ids[row] for row in getattr(split, part)}
                for corpus, split in ((before, one), (after, two))
            ]
            assert ids[0] == ids[1]


# -- faults --------------------------------------------------------------------------------------------


def test_the_digest_depends_on_content_and_not_on_the_place(miniature, tmp_path):
    before = load(miniature).digest
    shutil.copytree(miniature / "mscoco", tmp_path / "elsewhere" / "coco")
    assert load(tmp_path / "elsewhere").digest == before
    image = load(miniature).images[0]
    content = image.read_bytes()
    image.write_bytes(content + b"more")
    assert load(miniature).digest != before
    image.write_bytes(bytes([content[0] ^ 1]) + content[1:])  # of the same size
    assert load(miniature).digest != before
    image.write_bytes(content)
    assert load(miniature).digest == before


def test_many_images_are_told_apart_by_name_and_size_and_the_card_says_so(miniature, monkeypatch):
    monkeypatch.setattr(sys.modules[type(mscoco).__module__], "HASHED", 10)
    before = load(miniature)
    assert before.notes[-1] == "image files are told apart by name and size alone"
    image = before.images[0]
    content = image.read_bytes()
    image.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert load(miniature).digest == before.digest
    image.write_bytes(content + b"more")
    assert load(miniature).digest != before.digest


@pytest.mark.parametrize("name", mscoco.required)
def test_a_missing_annotation_file_is_reported_with_the_expected_layout(miniature, name):
    (miniature / "mscoco" / name).unlink()
    with pytest.raises(MissingData) as raised:
        load(miniature)
    for line in mscoco.card.layout:
        assert line in str(raised.value)


def test_missing_images_are_counted_and_the_first_is_named(miniature):
    corpus = load(miniature)
    for row in (3, 5):
        corpus.images[row].unlink()
    with pytest.raises(MissingData, match=rf"2 of 90 images are missing, first: .*{corpus.images[3].name}"):
        load(miniature)


def test_an_image_without_a_label_need_not_be_there(miniature):
    ids = {int(name) for name in load(miniature).ids}
    for path in (miniature / "mscoco" / "train2014").iterdir():
        if int(path.stem.rpartition("_")[2]) not in ids:
            path.unlink()
    assert len(load(miniature)) == 90


def test_names_from_the_annotations_cannot_steer_the_terminal(miniature):
    for part in ("train", "val"):
        edit(miniature, f"instances_{part}2014.json", first("categories", name="kind \x1b[2J90"))
    assert "\x1b" not in card_text(describe_dataset("mscoco", mscoco, miniature))
    edit(miniature, "instances_val2014.json", first("images", file_name="a\x1b[2J.jpg"))
    with pytest.raises(MissingData, match="1 of 90 images are missing") as raised:
        load(miniature)
    assert "\x1b" not in str(raised.value)


def test_a_missing_folder_of_images_is_named(miniature):
    shutil.rmtree(miniature / "mscoco" / "val2014")
    with pytest.raises(MissingData, match=r"the images of val2014 are missing; expected in .*val2014"):
        load(miniature)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe{}", b"<html>", b"{}", b'{"images": 3}', b"[" * 100000]
)
@pytest.mark.parametrize("name", ["captions_val2014.json", "instances_train2014.json"])
def test_a_file_that_is_no_annotation_file_is_corrupt(miniature, name, content):
    (miniature / "mscoco" / "annotations" / name).write_bytes(content)
    with pytest.raises(CorruptData, match=r"^mscoco: "):
        load(miniature)


def first(key: str, **changes: object):
    def change(content):
        content[key][0].update(changes)

    return change


def again(key: str):
    def change(content):
        content[key].append(content[key][0])

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "captions_val",
            first("annotations", image_id=10**7),
            "annotates image id 10000000, which it does not list",
        ),
        (
            "instances_val",
            first("annotations", image_id=10**7),
            "annotates image id 10000000, which it does not list",
        ),
        ("instances_val", first("annotations", category_id=2), "unknown category id 2"),
        ("instances_val", first("annotations", iscrowd=0, bbox=[0, 0, 1]), "not in COCO's form"),
        ("instances_val", first("annotations", iscrowd=0, bbox=[0, 0, 1, float("nan")]), "no finite box"),
        ("instances_val", first("annotations", iscrowd=0, bbox=None), "not in COCO's form"),
        ("instances_val", first("annotations", id="x"), "not in COCO's form"),
        ("instances_val", first("categories", name="\ud800"), "half a character"),
        (
            "instances_val",
            lambda content: [one.update(name="a") for one in content["categories"]],
            "one name",
        ),
        ("instances_val", first("annotations", id=float("inf")), "not in COCO's form"),
        ("instances_val", first("images", width=10**400), "not in COCO's form"),
        ("instances_val", again("annotations"), "annotation id .* twice"),
        ("captions_val", again("annotations"), "caption id .* twice"),
        ("instances_val", again("images"), "lists image id .* twice"),
        ("instances_val", again("categories"), "lists no category, or one id twice"),
        ("instances_val", lambda content: content.update(categories=[]), "lists no category"),
        ("instances_val", first("categories", name="other"), "list different categories"),
        (
            "instances_val",
            lambda content: content["images"].pop(),
            "list different images, 1 of them in one alone",
        ),
        (
            "captions_val",
            lambda content: content["images"].pop(),
            "list different images, 1 of them in one alone",
        ),
        ("instances_val", first("images", width=0), "no usable file name or size"),
        ("instances_val", first("images", file_name="../../etc/passwd"), "no usable file name or size"),
        ("instances_val", lambda content: content.pop("categories"), "not in COCO's form: no 'categories'"),
        (
            "instances_val",
            lambda content: content["images"][0].pop("width"),
            "not in COCO's form: no 'width'",
        ),
    ],
)
def test_annotations_that_do_not_fit_are_refused(miniature, name, change, message):
    edit(miniature, f"{name}2014.json", change)
    with pytest.raises(CorruptData, match=f"^mscoco: .*{message}"):
        load(miniature)


def test_an_image_in_both_parts_is_refused(miniature):
    folder = miniature / "mscoco" / "annotations"
    for kind in ("captions", "instances"):
        shutil.copy(folder / f"{kind}_train2014.json", folder / f"{kind}_val2014.json")
    with pytest.raises(CorruptData, match="stands in train2014 and in val2014"):
        load(miniature)


def test_annotations_without_any_label_are_refused(miniature):
    for part in ("train", "val"):
        edit(miniature, f"instances_{part}2014.json", lambda content: content.update(annotations=[]))
    with pytest.raises(CorruptData, match="no image has both a label and a caption"):
        load(miniature)


@pytest.mark.parametrize(("image", "text"), [("lite0", "raw"), ("raw", "tfidf"), ("", "")])
def test_only_raw_images_and_captions_are_read(miniature, image, text):
    with pytest.raises(Unsupported, match="mscoco stores no features"):
        mscoco.load(miniature, image, text)
