"""MSCOCO: photographs of everyday scenes with about five captions each; several of 80 classes an image."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean, digest, file_digest
from xmbench.data import Corpus, Dataset, DatasetCard, Download, Region, Split, draw
from xmbench.errors import CorruptData, MissingData, Unsupported

YEARS = ("2014", "2017")
PARTS = ("train", "val")
KINDS = ("captions", "instances")
FIVE_THOUSAND = 5000
HASHED = 2 * 10**9
"""Bytes of all image files up to which their content enters the digest."""


SITE = "http://images.cocodataset.org/"
FILES = {
    "annotations/annotations_trainval2014.zip": (
        252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    "zips/train2014.zip": (
        13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    "zips/val2014.zip": (6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
    "annotations/annotations_trainval2017.zip": (
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "zips/train2017.zip": (
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "zips/val2017.zip": (815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
}
"""Archive -> bytes, sha256, as TensorFlow Datasets lists them (url_checksums/coco.txt)."""


def _downloads(year: str) -> tuple[Download, ...]:
    """The archives of a release; annotations unpack to five times their size."""
    return tuple(
        Download(
            SITE + name,
            sha256,
            size,
            "mscoco",
            unpack=True,
            unpacked=(8 if "annotations" in name else 2) * size,
        )
        for name, (size, sha256) in FILES.items()
        if year in name
    )


def _rows(corpus: Corpus, part: str) -> NDArray[np.int64]:
    return np.flatnonzero(np.array(corpus.official) == part)


def _official(corpus: Corpus, seed: int) -> Split:
    """The release's val part for testing; of its train part 10 %, drawn by rarest class, for validation."""
    validation, train = draw(corpus, _rows(corpus, "train"), seed, [0.1])
    return Split("official", seed, train, validation, _rows(corpus, "val"))


def _acmr(corpus: Corpus, seed: int) -> Split:
    """Of the train part alone: 20 % test, 10 % validation, 70 % train, drawn by rarest class. On train2014 this is
    ACMR's cut (66,226, validation included, and 16,557) less the images without a label."""
    test, validation, train = draw(corpus, _rows(corpus, "train"), seed, [0.2, 0.1])
    return Split("acmr", seed, train, validation, test)


def _five_thousand(corpus: Corpus, seed: int) -> Split:
    """5,000 images of the val part for testing (all of a smaller one), 5,000 of the others (at most a tenth of
    them) for validation, the rest for training: the usual sizes 113,287 / 5,000 / 5,000, drawn by rarest class."""
    held = _rows(corpus, "val")
    test, rest = draw(corpus, held, seed, [min(FIVE_THOUSAND, len(held))])
    pool = np.sort(np.concatenate([_rows(corpus, "train"), rest]))
    validation, train = draw(corpus, pool, seed, [min(FIVE_THOUSAND, len(pool) // 10)])
    return Split("five_thousand", seed, train, validation, test)


class MsCoco(Dataset):
    """Reads the annotation files of a release and finds the images; a text is an image's captions joined.

    Captions are taken in the order of their ids. An image is in a class that any of its instances is of, crowds
    included; its regions are the boxes of its instances, crowds left out (a crowd's box surrounds many things).
    Image files enter the digest by their content; where they are more than 2 GB together, as the whole release is, by
    name and size alone, since reading 19 GB at every start would take minutes.

    Source of the format: https://cocodataset.org/#format-data (captions, object detection).
    """

    card = DatasetCard(
        title="MSCOCO",
        source="https://cocodataset.org/#download (train, val and annotations of 2014 or 2017)",
        licence="annotations CC BY 4.0; each photograph has its Flickr licence, named in the json",
        citation="Lin, Maire, Belongie, Hays, Perona, Ramanan, Dollár, Zitnick, Microsoft COCO: common objects in "
        "context, ECCV 2014; captions: Chen, Fang, Lin, Vedantam, Gupta, Dollár, Zitnick, arXiv:1504.00325, 2015",
        layout=(
            "mscoco/annotations/{captions,instances}_{train,val}2014.json   (or 2017; of both, 2014 is read)",
            "mscoco/{train,val}2014/COCO_{train,val}2014_<12 digits>.jpg   (2017: <12 digits>.jpg; or in images/)",
        ),
        pairs=123287,
        image_text="photographs, each with about five captions that people wrote, joined to one text",
        defects=(
            "several classes an image: two items match where they share one, so that person alone makes chance high",
            "images without an instance (about 1 %: 702 of the 82,783 of train2014) or without a caption have no "
            "answer or no text; they are left out and counted below",
            "ACMR's split is published as sizes only, and its 66,226 + 16,557 are all of train2014, images without a "
            "label included; `acmr` draws its shares from those with a label",
            "category ids have gaps (80 ids up to 90): class i is the i-th id",
            "some boxes have no area; they make no region and are counted below",
        ),
    )
    downloads: ClassVar = {year: _downloads(year) for year in YEARS}
    folders: ClassVar = ("mscoco", "coco", "MSCOCO", "COCO", "mscoco_mini")
    required: ClassVar = tuple(f"annotations/{kind}_{part}2014.json" for kind in KINDS for part in PARTS)
    features = "lite0+tfidf"
    splits: ClassVar = {"official": _official, "acmr": _acmr, "five_thousand": _five_thousand}

    def folder(self, data_dir: Path) -> Path:
        """The folder with all annotation files of a release; see :meth:`xmbench.data.Dataset.folder`."""
        for candidate in (data_dir / folder for folder in self.folders):
            if _year(candidate):
                return candidate
        return super().folder(data_dir)

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read both parts of a release; see :meth:`xmbench.data.Dataset.load`."""
        if (image, text) != ("raw", "raw"):
            raise Unsupported(
                f"mscoco stores no features, only images and captions; got {image!r} and {text!r}"
            )
        root = self.folder(data_dir)
        year = _year(root)
        releases = {part: _Annotations(root, f"{part}{year}") for part in PARTS}
        categories = releases["train"].categories
        if releases["val"].categories != categories:
            raise CorruptData("mscoco: the instances of train and val list different categories")
        found = [(part, item) for part, release in releases.items() for item in release.items]
        twice = [number for number, count in Counter(item.number for _, item in found).items() if count > 1]
        if twice:
            raise CorruptData(f"mscoco: image id {min(twice)} stands in train{year} and in val{year}")
        unlabelled = {part: sum(not item.categories for at, item in found if at == part) for part in PARTS}
        kept = [(part, item) for part, item in found if item.categories and item.captions]
        if not kept:
            raise CorruptData("mscoco: no image has both a label and a caption")
        column = {category: i for i, category in enumerate(sorted(categories))}
        labels = np.zeros((len(kept), len(column)), dtype=bool)
        for row, (_, item) in enumerate(kept):
            labels[row, [column[category] for category in item.categories]] = True
        images, sizes = _images(root, year, kept)
        hashed = sum(sizes) <= HASHED
        return Corpus(
            name="mscoco",
            images=images,
            texts=[" ".join(item.sentences) for _, item in kept],
            labels=labels,
            class_names=tuple(categories[category] for category in column),
            ids=tuple(f"{item.number:012}" for _, item in kept),
            groups=tuple(f"{item.number:012}" for _, item in kept),
            digest=digest(
                [
                    [[kind, file_digest(_file(root, kind, part, year))] for kind in KINDS for part in PARTS],
                    [
                        [path.relative_to(root).as_posix(), file_digest(path) if hashed else size]
                        for path, size in zip(images, sizes, strict=True)
                    ],
                ]
            ),
            official=tuple(part for part, _ in kept),
            text_parts=[item.sentences for _, item in kept],
            image_parts=[item.regions(path) for (_, item), path in zip(kept, images, strict=True)],
            notes=(
                *_notes(year, found, unlabelled, kept),
                *(() if hashed else ("image files are told apart by name and size alone",)),
            ),
        )


@dataclass
class _Item:
    """What the annotation files say of one image."""

    number: int
    file_name: str
    width: float
    height: float
    captions: dict[int, str] = field(default_factory=dict)
    categories: set[int] = field(default_factory=set)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    flat: int = 0
    crowds: int = 0

    @property
    def sentences(self) -> list[str]:
        """The captions in the order of their ids."""
        return [self.captions[number] for number in sorted(self.captions)]

    def add(self, x: float, y: float, width: float, height: float) -> None:
        """Keep a box, cut at the border of the image, as shares of its sides; count one without area."""
        left, top = max(x / self.width, 0.0), max(y / self.height, 0.0)
        right, bottom = min((x + width) / self.width, 1.0), min((y + height) / self.height, 1.0)
        if left < right and top < bottom:
            self.boxes.append((left, top, right, bottom))
        else:
            self.flat += 1

    def regions(self, path: Path) -> list[Region]:
        """The boxes as regions of the image file."""
        return [Region(path, box) for box in self.boxes]


class _Annotations:
    """One part of a release: its images with captions and instances, and the categories by id."""

    def __init__(self, root: Path, part: str) -> None:
        captions, instances = (_json(_file(root, kind, part[:-4], part[-4:])) for kind in KINDS)
        try:
            self._read(part, captions, instances)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise CorruptData(
                f"mscoco: the annotations of {part} are not in COCO's form: {reason}"
            ) from error

    def _read(self, part: str, captions: dict[str, Any], instances: dict[str, Any]) -> None:
        self.categories = {int(entry["id"]): str(entry["name"]) for entry in instances["categories"]}
        if len(self.categories) < len(instances["categories"]) or not self.categories:
            raise CorruptData(f"mscoco: instances_{part}.json lists no category, or one id twice")
        names = set(self.categories.values())
        if len(names) < len(self.categories):
            raise CorruptData(f"mscoco: instances_{part}.json gives two categories one name")
        if any("\ud800" <= letter <= "\udfff" for name in names for letter in name):
            raise CorruptData(f"mscoco: instances_{part}.json has a category name with half a character")
        found: dict[int, _Item] = {}
        for entry in instances["images"]:
            item = _Item(
                int(entry["id"]), str(entry["file_name"]), float(entry["width"]), float(entry["height"])
            )
            if item.number in found:
                raise CorruptData(f"mscoco: instances_{part}.json lists image id {item.number} twice")
            if Path(item.file_name).name != item.file_name or not (
                0 < item.width < float("inf") and 0 < item.height < float("inf")
            ):
                raise CorruptData(f"mscoco: image id {item.number} of {part} has no usable file name or size")
            found[item.number] = item
        others = found.keys() ^ {int(entry["id"]) for entry in captions["images"]}
        if others:
            raise CorruptData(
                f"mscoco: captions_{part}.json and instances_{part}.json list different images, {len(others)} of "
                f"them in one alone, first: {min(others)}"
            )
        for entry in captions["annotations"]:
            item = _owner(found, entry, f"captions_{part}.json")
            sentence = " ".join(str(entry["caption"]).split())
            if int(entry["id"]) in item.captions:
                raise CorruptData(f"mscoco: captions_{part}.json has caption id {entry['id']} twice")
            if sentence:
                item.captions[int(entry["id"])] = sentence
        seen: set[int] = set()
        for entry in instances["annotations"]:
            item = _owner(found, entry, f"instances_{part}.json")
            category = int(entry["category_id"])
            if category not in self.categories:
                raise CorruptData(f"mscoco: instances_{part}.json uses the unknown category id {category}")
            if int(entry["id"]) in seen:
                raise CorruptData(f"mscoco: instances_{part}.json has annotation id {entry['id']} twice")
            seen.add(int(entry["id"]))
            item.categories.add(category)
            if entry["iscrowd"]:
                item.crowds += 1
            else:
                x, y, width, height = map(float, entry["bbox"])
                if not np.isfinite([x, y, width, height]).all():
                    raise CorruptData(f"mscoco: annotation id {entry['id']} of {part} has no finite box")
                item.add(x, y, width, height)
        self.items = list(found.values())


def _owner(found: dict[int, _Item], entry: dict[str, Any], name: str) -> _Item:
    number = int(entry["image_id"])
    if number not in found:
        raise CorruptData(f"mscoco: {name} annotates image id {number}, which it does not list")
    return found[number]


def _file(root: Path, kind: str, part: str, year: str) -> Path:
    return root / "annotations" / f"{kind}_{part}{year}.json"


def _year(root: Path) -> str:
    """The first release of which all annotation files are there, or nothing."""
    for year in YEARS:
        if all(_file(root, kind, part, year).is_file() for kind in KINDS for part in PARTS):
            return year
    return ""


def _without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop the polygons while reading: they are nine tenths of the memory, and nobody asks for them."""
    entry.pop("segmentation", None)
    return entry


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_outlines)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"mscoco: {path.name} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CorruptData(f"mscoco: {path.name} is not in COCO's form: no object at its top")
    return content


def _images(root: Path, year: str, kept: list[tuple[str, _Item]]) -> tuple[list[Path], list[int]]:
    """The image files and their sizes in bytes, each folder listed once.

    Raises:
        MissingData: a folder or a file is missing.
    """
    folders = {}
    for part in PARTS:
        places = [root / f"{part}{year}", root / "images" / f"{part}{year}"]
        there = [place for place in places if place.is_dir()]
        if not there:
            raise MissingData(f"mscoco: the images of {part}{year} are missing; expected in {places[0]}")
        folders[part] = there[0]
    listed = {part: {entry.name: entry for entry in os.scandir(folder)} for part, folder in folders.items()}
    missing = [(part, item.file_name) for part, item in kept if item.file_name not in listed[part]]
    if missing:
        part, name = missing[0]
        raise MissingData(
            f"mscoco: {len(missing):,} of {len(kept):,} images are missing, first: {clean(str(folders[part] / name))}"
        )
    sizes = [listed[part][item.file_name].stat().st_size for part, item in kept]
    return [folders[part] / item.file_name for part, item in kept], sizes


def _notes(
    year: str, found: list[tuple[str, _Item]], unlabelled: dict[str, int], kept: list[tuple[str, _Item]]
) -> tuple[str, ...]:
    sizes = ", ".join(f"{sum(at == part for at, _ in found):,} in {part}{year}" for part in PARTS)
    without = " and ".join(f"{count:,} of {part}{year}" for part, count in unlabelled.items())
    items = [item for _, item in kept]
    return (
        f"release {year}: {len(found):,} images are listed, {sizes}",
        f"left out: {without} without a label, "
        f"{sum(not item.captions for _, item in found if item.categories):,} others without a caption",
        f"{sum(len(item.captions) for item in items):,} captions; "
        f"{sum(len(item.captions) != 5 for item in items):,} images have another number of them than five",
        f"{sum(len(item.categories) for item in items) / len(items):.2f} classes an image; "
        f"{sum(len(item.boxes) for item in items):,} regions, beside {sum(item.crowds for item in items):,} crowds "
        f"and {sum(item.flat for item in items):,} boxes without area",
    )


DATASET = MsCoco
