"""What a user says of data of their own: a TOML file, or a folder whose layout speaks for itself.

References are ``FILE`` or ``FILE:NAME`` (see :mod:`xmbench.columns`), relative to the description's folder.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from xmbench._io import clean
from xmbench.columns import few, table_columns
from xmbench.errors import CorruptData, InvalidInput, MissingData, UsageError
from xmbench.registry import NAME
from xmbench.scaling import SCALINGS

WHAT = "images with texts"
VALIDATION, TEST = 0.1, 0.2
"""Shares of the parts of a split that is drawn, where the description names none."""
FOLDER = "folder"
"""What ``labels`` says where the class of an item is the name of its sub-folder."""


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Features as the user brings them: a matrix with a row for each item."""

    file: str
    about: str = "brought by the user"
    scaling: str = "zscore"


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images or texts: raw ones, features, or both."""

    raw: str | None = None
    """A folder of files, or a column: paths of images, or texts."""
    ids: str | None = None
    """Names of the items of this side's columns and features, where they are not those of the dataset."""
    features: dict[str, str | Feature] = {}


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Classes of the items."""

    file: str
    separator: str | None = None
    """What stands between the classes of one item, where it may have several."""
    classes: list[str] | None = None
    """Their names in the order of the numbers; other classes are refused."""
    first: int = 0
    """The number of the first class, where labels are numbers and classes are named."""


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A split: a column of words, a rule, or a column whose training rows give the validation rows."""

    file: str | None = None
    validation: float | None = None
    test: float | None = None
    grouped: bool | None = None


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dataset in words and references."""

    name: str
    labels: str | Labels
    images: Side
    texts: Side
    ids: str | None = None
    groups: str | None = None
    split: str | Partition = msgspec.field(default_factory=Partition)
    features: str | None = None
    title: str = ""
    what: str = WHAT
    source: str = "the user's own"
    licence: str = "not stated"
    citation: str = "none given"
    defects: list[str] = []

    def stored(self, modality: str) -> dict[str, Feature]:
        """Features of a modality by name."""
        side = self.images if modality == "image" else self.texts
        return {
            name: Feature(value) if isinstance(value, str) else value for name, value in side.features.items()
        }

    @property
    def classes(self) -> Labels:
        """Where labels are, and how they are written."""
        return Labels(self.labels) if isinstance(self.labels, str) else self.labels

    @property
    def partition(self) -> Partition:
        """How the data is split."""
        return Partition(self.split) if isinstance(self.split, str) else self.split

    def identity(self) -> dict[str, Any]:
        """What is said of the data itself, and not where it lies.

        Of a file it counts only whether one is named. Features, the words of the card and the split are left out.
        """
        labels = msgspec.to_builtins(self.classes)
        labels["file"] = labels["file"] == FOLDER
        return {
            "name": self.name,
            "labels": labels,
            "ids": self.ids is not None,
            "groups": self.groups is not None,
            "images": [self.images.raw is not None, self.images.ids is not None],
            "texts": [self.texts.raw is not None, self.texts.ids is not None],
        }


# -- from a file ------------------------------------------------------------------------------------

_TABLES: dict[str, type[msgspec.Struct]] = {
    "images": Side,
    "texts": Side,
    "labels": Labels,
    "split": Partition,
}


def read_description(path: Path) -> Description:
    """The description in a TOML file.

    Raises:
        MissingData: there is no such file.
        UsageError: it is no TOML, or has an unknown key, a missing one or a wrong value; each key is named.
    """
    shown = clean(path.name)
    if not path.is_file():
        raise MissingData(f"{clean(str(path))} does not exist")
    try:
        said = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown} is no TOML: {clean(str(error))}") from error
    except RecursionError as error:
        raise UsageError(f"{shown} is no TOML that can be read: it is nested too deeply") from error
    unknown = list(_unknown(said))
    if unknown:
        raise UsageError(f"{shown}: {'; '.join(unknown)}")
    try:
        found: Description = msgspec.convert(said, Description)
    except msgspec.ValidationError as error:
        raise UsageError(f"{shown}: {_in_words(str(error))}") from error
    wrong = list(_wrong(found))
    if wrong:
        raise UsageError(f"{shown}: {'; '.join(wrong)}")
    return found


def _unknown(said: Mapping[str, Any]) -> Iterator[str]:
    """Each key that means nothing, and what it may have been meant to be."""
    tables: list[tuple[str, Any, type[msgspec.Struct]]] = [("", said, Description)]
    tables += [(f"{key}.", said.get(key), kind) for key, kind in _TABLES.items()]
    for side in ("images", "texts"):
        features = said[side].get("features") if isinstance(said.get(side), dict) else None
        entries = features.items() if isinstance(features, dict) else ()
        tables += [(f"{side}.features.{name}.", value, Feature) for name, value in entries]
    for where, table, kind in tables:
        known = kind.__struct_fields__
        for key in table if isinstance(table, dict) else ():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {where}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"
                yield f"unknown key {clean(where + key)!r} ({hint})"


def _in_words(message: str) -> str:
    """What msgspec says, with the key as it stands in the file."""
    text, _, place = message.partition(" - at ")
    text = text.replace("Object missing required field", "missing the key").replace("Expected", "expected")
    key = place.strip("`").removeprefix("$").removeprefix(".").replace("[...]", "")
    return clean(f"{key}: {text}" if key else text)


def _wrong(found: Description) -> Iterator[str]:
    """Values that cannot be meant."""
    if not NAME.fullmatch(found.name):
        yield f"name: {clean(found.name)!r} must match {NAME.pattern}, as it names the leaderboard's page"
    for modality, side in (("image", found.images), ("text", found.texts)):
        if side.raw is None and not side.features:
            yield f"{modality}s: give raw (a folder or a column), or features, or both"
        for name, feature in found.stored(modality).items():
            if not NAME.fullmatch(name) or name == "raw":
                yield f"{modality}s.features: {clean(name)!r} must match {NAME.pattern} and not be 'raw'"
            if feature.scaling not in SCALINGS:
                yield f"{modality}s.features.{clean(name)}.scaling: expected one of {', '.join(SCALINGS)}"
    images, texts = found.stored("image"), found.stored("text")
    for name in images.keys() & texts.keys():
        if images[name].scaling != texts[name].scaling:
            yield f"texts.features.{clean(name)}: images have features of this name with another scaling; rename one"
    labels, split = found.classes, found.partition
    if labels.separator == "":
        yield "labels.separator: expected a character, got none"
    if labels.classes is not None and len(set(labels.classes)) < max(2, len(labels.classes)):
        yield "labels.classes: expected two classes at least, each once"
    for key, share in (("validation", split.validation), ("test", split.test)):
        if share is not None and not (0 <= share < float("inf") and (share < 1 or share == int(share))):
            yield f"split.{key}: expected a share below 1 or a whole number of items, got {share}"
    shares = [
        (VALIDATION if split.file is None else 0) if split.validation is None else split.validation,
        (TEST if split.file is None else 0) if split.test is None else split.test,
    ]
    if all(0 <= share < 1 for share in shares) and sum(shares) >= 1:
        yield f"split: the shares validation {shares[0]:g} and test {shares[1]:g} leave nothing to train on; lower one"
    if split.test == 0:
        yield "split.test: expected more than 0"
    if split.file is not None and split.test is not None:
        yield "split: give file or test, not both"


# -- from a folder ----------------------------------------------------------------------------------

COLUMNS = {
    "image": ("image", "file", "filename", "file_name", "path", "id"),
    "caption": ("caption", "text", "sentence", "description"),
    "label": ("label", "class", "category"),
    "group": ("group",),
    "split": ("split",),
}
"""Names that the columns of a ``captions.csv`` may have."""

LAYOUTS = """it is read if it holds one of
  dataset/CLASS/ID.jpg and sentence/CLASS/ID.txt   (as Pascal Sentence)
  images/CLASS/ID.jpg and texts/CLASS/ID.txt
  images/ and captions.csv   (columns image and caption; the class is a column label, or the folder images/CLASS/)
  annotations/*.json and folders of images   (as MS-COCO)
or describe it in a TOML file"""


def is_coco(folder: Path) -> bool:
    """Whether a folder is laid out as MS-COCO is."""
    return any((folder / "annotations").glob("*.json"))


def recognise(folder: Path) -> Description:
    """The description of a folder in one of the layouts of ``LAYOUTS``; of MS-COCO's only the name is used.

    Raises:
        UsageError: it is in none of them, or in two, or its name cannot name a dataset.
        CorruptData: ``captions.csv`` lacks a column.
    """
    name = folder.resolve().name
    layouts: dict[str, dict[str, Any]] = {}
    for images, texts in (("dataset", "sentence"), ("images", "texts")):
        if (folder / images).is_dir() and (folder / texts).is_dir():
            layouts[f"{images}/ and {texts}/"] = {"texts": Side(raw=texts), "labels": FOLDER}
    if (folder / "captions.csv").is_file() and (folder / "images").is_dir():
        layouts["images/ and captions.csv"] = _captions(folder / "captions.csv")
    if is_coco(folder):
        layouts["annotations/*.json"] = {"texts": Side(raw="annotations"), "labels": FOLDER}
    if len(layouts) != 1:
        state = f"holds {' as well as '.join(layouts)}" if layouts else "is in no known layout"
        raise UsageError(f"the folder {clean(name)} {state}; {LAYOUTS}")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"the folder's name {clean(name)!r} must match {NAME.pattern}, as it names the leaderboard's page; rename "
            "the folder, or describe it in a TOML file"
        )
    ((layout, parts),) = layouts.items()
    images = layout.partition("/")[0]
    return Description(name=name, title=name, images=Side(raw=images), what=f"{WHAT}, from {layout}", **parts)


def _captions(table: Path) -> dict[str, Any]:
    """Where a ``captions.csv`` has what."""
    try:
        header = table_columns(table)
    except InvalidInput as error:
        raise CorruptData(str(error)) from error
    found = {kind: next((name for name in names if name in header), None) for kind, names in COLUMNS.items()}
    for kind in ("image", "caption"):
        if found[kind] is None:
            raise CorruptData(
                f"{table.name} has no column of {kind}s: expected one of {', '.join(COLUMNS[kind])} in its first "
                f"line, which is: {few(header, 20)}"
            )
    place = {kind: f"{table.name}:{name}" if name else None for kind, name in found.items()}
    return {
        "texts": Side(raw=place["caption"]),
        "ids": place["image"],
        "labels": place["label"] or FOLDER,
        "groups": place["group"],
        **({"split": place["split"]} if place["split"] else {}),
    }
