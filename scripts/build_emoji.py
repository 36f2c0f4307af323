"""Rebuild ``datasets/emoji.npz`` from the two packages that it is made of.

    npm pack emoji-datasource-google@16.0.0 cldr-annotations-full@48.2.0
    python scripts/build_emoji.py emoji-datasource-google-16.0.0.tgz cldr-annotations-full-48.2.0.tgz

With ``--check`` it writes nothing, and compares what it made with the shipped file: ids, texts, labels, groups,
splits and the hashes of the pixels (``emoji_pixels.sha256`` beside this script) must be equal, and each row of
features have a cosine of at least .9999 with the shipped one.

Needs ``xmbench[features]``. Both packages are checked against their sha256. Nothing is extracted but the
members that are named below, and of these only the drawings touch the disk, in a temporary folder under
names made here. The file depends on its input alone, but for the last bits of the features, which differ
between processors.

**Pairs.** One pair is the 64-pixel drawing of an emoji and its English name and keywords. Left out are:

- flags (a class that any text encoder solves by the word "flag"), symbols (signs and letters, not
  drawings of things) and components (skin-tone patches, hair);
- spellings with a female or male sign, where the neutral emoji stays (skin tones are no entries at all);
- emoji without a name of their own, all of them compositions whose name is built from parts (families by
  members, hair styles, walking to the right).

**Text.** The name, then the keywords, separated by semicolons, without repetitions. Words that name one of
the classes (``CLASS_WORDS``) are cut from all texts, whatever their class, so that neither their presence
nor their absence tells the class.

**Groups.** Two emoji share a group if one of three rules links them, or a chain of such links does:

1. they have the same class and the same name, apart from words that tell versions of one thing
   (``VERSION_WORDS``: man or woman, colour, direction, face or whole animal);
2. their names match the same pattern of ``FAMILIES``: series of almost the same drawing (clock faces, moon
   phases, hearts) or of almost the same words (a wheelchair with and without a person), also across
   classes, found by looking at the drawings and texts side by side;
3. the cosine of their lite0 features is at least ``SIMILAR``.

At .95 the third rule finds recoloured, mirrored and hand-swapped drawings that the names miss, and the
round yellow faces that differ in a mouth alone (16 of them chain into one group); the largest group stays
the clock faces, with 24. At .93 a chain of 36 yellow faces would form, that has a kiss and a frown in it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from xmbench._io import atomic_write, canonical_json, file_digest, npz_bytes, read_npz
from xmbench.data import Corpus
from xmbench.datasets import emoji as shipped
from xmbench.errors import CorruptData, XmbenchError
from xmbench.features import Resources
from xmbench.features.lite0 import Lite0

DRAWINGS = {
    "package": "emoji-datasource-google",
    "version": "16.0.0",
    "address": "https://www.npmjs.com/package/emoji-datasource-google/v/16.0.0",
    "sha256": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
}
WORDS = {
    "package": "cldr-annotations-full",
    "version": "48.2.0",
    "address": "https://www.npmjs.com/package/cldr-annotations-full/v/48.2.0",
    "sha256": "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
}
EMOJI_MEMBER = "package/emoji.json"
DRAWING_MEMBER = "package/img/google/64/"
ANNOTATIONS_MEMBER = "package/annotations/en/annotations.json"
MEMBER_LIMIT = 8 * 2**20
"""No member that is read is larger than this many bytes."""

GENDER_SIGNS = {"2640", "2642"}
EMOJI_STYLE = "\ufe0f"
"""Variation selector that asks for the coloured drawing; the annotations mostly leave it out."""

CLASS_WORDS = {
    "Smileys & Emotion": ("smiley", "smileys", "emotion", "emotions", "emotional", "face", "faces", "faced"),
    "People & Body": ("people", "person", "persons", "personal", "body", "bodies"),
    "Animals & Nature": ("animal", "animals", "nature", "natural"),
    "Food & Drink": ("food", "foods", "drink", "drinks", "drinking"),
    "Travel & Places": ("travel", "travels", "traveling", "place", "places"),
    "Activities": ("activity", "activities", "active"),
    "Objects": ("object", "objects"),
}
"""Class -> the words of its own name and their inflections; other words stay, however telling."""

VERSION_WORDS = {
    *("man", "men", "woman", "women", "person", "people", "boy", "girl", "child", "adult", "and"),
    *("red", "pink", "orange", "yellow", "green", "blue", "purple", "brown", "black", "grey", "white"),
    *("left", "right", "leftwards", "rightwards", "up", "down", "facing", "oncoming", "face"),
}

FAMILIES = (
    # faces, hearts, bubbles
    r"^(red|pink|orange|yellow|green|blue|light blue|purple|brown|black|grey|white) heart$|^heart suit$",
    r"monkey",
    r"^(speech balloon|(left speech|right anger) bubble|eye in speech bubble|thought balloon)$",
    # people
    r"^raised (back of )?hand$",
    r"index pointing (left|right|up|down)$",
    r"^person(: beard)?$",
    r"^ear( with hearing aid)?$",
    r"^old(er)? (person|man|woman)$",
    r"^(prince|princess|person with crown)$",
    r" Claus$",
    r"^breast-feeding$|feeding baby$",
    r"^busts? in silhouette$",
    r"^(kiss|couple with heart)$",
    r"biking$",
    r"^(bathtub|person taking bath)$",
    r"^(person in )?bed$",
    r"white cane$",
    r"motorized wheelchair$",
    r"manual wheelchair$",
    # animals, plants, food
    r"camel$",
    r"baby chick$",
    r"whale$",
    r"\bnest\b",
    r"^(shamrock|four leaf clover)$",
    r"mushroom$",
    r"beer mugs?$",
    r"^fork and knife",
    # places and vehicles
    r"^globe showing",
    r"^(snow-capped )?mountain$",
    r"^house( with garden)?$",
    r"^(love )?hotel$",
    r"^(bank|classical building)$",
    r"^(cityscape|night with stars|sunset)",
    r"^(foggy|bridge at night)$",
    r"^(high-speed|bullet) train$",
    r"^(station|tram|tram car)$",
    r"^(railway car|mountain railway)$",
    r"^(mountain cableway|aerial tramway)$",
    r"traffic light$",
    r"^(ferry|passenger ship)$",
    r"^airplane (departure|arrival)$",
    # time and sky
    r"^hourglass",
    r"o’clock$|-thirty$",
    r"(new|crescent|quarter|gibbous|full) moon",
    r"^(glowing )?star$",
    r"^(sun behind|cloud with)",
    r"^(closed )?umbrella( with rain drops)?$",
    r"^(umbrella on ground|beach with umbrella)$",
    r"^snowman",
    # activities
    r"(sports|place) medal$",
    r"football$",
    r"^(baseball|softball)$",
    # objects
    r"^(sun)?glasses$",
    r"\bspeaker\b",
    r"^bell( with slash)?$",
    r"^musical notes?$",
    r"^mobile phone",
    r"battery$",
    r"^(computer disk|optical disk|dvd)$",
    r"^camera( with flash)?$",
    r"^((closed|green|blue|orange) book|notebook with decorative cover)$",
    r"^page ",
    r"banknote$",
    r"^chart (in|de)creasing",
    r"^(envelope|e-mail|incoming envelope|envelope with arrow|love letter)$",
    r"^(in|out)box tray$",
    r"mailbox with",
    r"file folder$",
    r"^(tear-off )?calendar$",
    r"paperclips?$",
    r"locked",
    r"^(link|broken chain)$",
    r"^(fountain )?pen$",
)
"""Patterns of names; emoji whose names match the same one are nearly the same drawing or text."""

SIMILAR = 0.95
"""Cosine of lite0 features from which two drawings count as near-duplicates."""

SEEDS = 10
"""Split seeds that ``--check`` compares."""

STRINGS = ("texts", "class_names", "ids", "groups")
"""The arrays that are lists of strings."""

SAME = 0.9999
"""Cosine of a row of features with the shipped row from which the two count as the same."""

PIXELS = Path(__file__).with_name("emoji_pixels.sha256")
"""Lines ``HASH  ID``: sha256 of each drawing's pixels."""


@dataclass(frozen=True)
class Emoji:
    """One pair before its features: code points, class, name, keywords, drawing."""

    id: str
    category: str
    name: str
    keywords: tuple[str, ...]
    drawing: bytes


def main() -> None:
    """Read the two packages named on the command line and write the dataset."""
    parser = argparse.ArgumentParser(description="Rebuild datasets/emoji.npz from two npm packages.")
    parser.add_argument("drawings", type=Path, help="emoji-datasource-google-16.0.0.tgz")
    parser.add_argument("words", type=Path, help="cldr-annotations-full-48.2.0.tgz")
    parser.add_argument("--check", action="store_true", help="compare with the shipped file; write nothing")
    parser.add_argument(
        "--output",
        type=Path,
        default=shipped.FILE,
        help="file to write (datasets/emoji.npz); the hashes of the pixels are written beside this script",
    )
    arguments = parser.parse_args()
    try:
        emoji = read(arguments.drawings, arguments.words)
        arrays = build(emoji)
        hashes = {item.id: pixel_hash(item.drawing) for item in emoji}
        if arguments.check:
            problems = differences(arrays, hashes)
            sys.exit("build_emoji: " + "\n".join(problems) if problems else None)
        write(arguments.output, arrays, hashes)
    except (XmbenchError, OSError, ValueError) as error:
        sys.exit(f"build_emoji: {error}")


def build(emoji: Sequence[Emoji]) -> dict[str, NDArray[Any]]:
    """The arrays of the dataset; what a reviewer wants to know of them is printed."""
    classes = tuple(CLASS_WORDS)
    labels = np.array([classes.index(item.category) for item in emoji], dtype=np.int8)
    texts = [text(item) for item in emoji]
    for item, line in zip(emoji, texts, strict=True):
        if not line:
            raise CorruptData(f"{item.id} ({item.name}) has no text left once the class words are cut")
    features = encode(emoji)
    groups = group(emoji, features)
    sources = {"drawings": DRAWINGS, "words": WORDS, "lite0": Lite0().provenance(), "similar": SIMILAR}
    report(emoji, texts, groups)
    return {
        "lite0": features,
        "texts": lines(texts),
        "labels": labels,
        "class_names": lines(classes),
        "ids": lines([item.id for item in emoji]),
        "groups": lines(groups),
        "sources": np.frombuffer(canonical_json(sources), dtype=np.uint8),
    }


def write(output: Path, arrays: Mapping[str, NDArray[Any]], hashes: Mapping[str, str]) -> None:
    """Write the dataset file and the hashes of the pixels."""
    atomic_write(output, npz_bytes(arrays))
    atomic_write(PIXELS, "".join(f"{own}  {identity}\n" for identity, own in hashes.items()).encode())
    print(f"{output.name}: {output.stat().st_size:,} bytes, sha256 {file_digest(output)}")


def differences(made: Mapping[str, NDArray[Any]], hashes: Mapping[str, str]) -> list[str]:
    """How a rebuilt dataset differs from the shipped one, in words; empty if it does not.

    Args:
        made: the arrays of :func:`build`.
        hashes: id -> :func:`pixel_hash` of its drawing.
    """
    there = read_npz(shipped.FILE)
    exact = [name for name in there if name != "lite0"]
    problems = [f"{name} differ from the shipped ones" for name in exact if not same(made[name], there[name])]
    if hashes != read_hashes():
        problems.append(f"the hashes of the pixels differ from those of {PIXELS.name}")
    if made["lite0"].shape != there["lite0"].shape:
        problems.append(f"features have the shape {made['lite0'].shape}, expected {there['lite0'].shape}")
    if problems:
        return problems
    before, after = corpus(there), corpus(made)
    dataset = shipped.DATASET()
    for name in dataset.splits:
        for seed in range(SEEDS):
            one, other = dataset.split(before, name, seed), dataset.split(after, name, seed)
            if not all(same(getattr(one, part), getattr(other, part)) for part in one.sizes):
                problems.append(f"the split {name} of seed {seed} differs")
    likeness = row_cosines(made["lite0"], there["lite0"])
    if not likeness.min() >= SAME:
        row = int(likeness.argmin())
        problems.append(f"features of {before.ids[row]}: cosine {likeness[row]:.6f} with the shipped row")
    if not problems:
        print(
            f"{', '.join(exact)}, the pixels of {len(hashes):,} drawings and the splits of {SEEDS} seeds are the "
            f"shipped ones; smallest cosine of a row of features: {likeness.min():.7f}"
        )
    return problems


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays have the same type, shape and values."""
    return one.dtype == other.dtype and np.array_equal(one, other)


def corpus(arrays: Mapping[str, NDArray[Any]]) -> Corpus:
    """As much of the dataset as a split looks at."""
    strings = {name: tuple(arrays[name].tobytes().decode().split("\n")) for name in STRINGS}
    return Corpus(name="emoji", images=arrays["lite0"], labels=arrays["labels"], digest="", **strings)


def row_cosines(one: NDArray[np.float16], other: NDArray[np.float16]) -> NDArray[np.float64]:
    """(n,) cosines of the rows of one matrix with the same rows of another."""
    left, right = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.float64, (one, other))
    )
    return (left * right).sum(axis=1)


def pixel_hash(drawing: bytes) -> str:
    """sha256 of a drawing's width, height and RGBA bytes, whatever its file's compression."""
    from PIL import Image

    with Image.open(io.BytesIO(drawing), formats=["PNG"]) as opened:
        image = opened.convert("RGBA")
    return hashlib.sha256(f"{image.width}x{image.height} RGBA\n".encode() + image.tobytes()).hexdigest()


def read_hashes() -> dict[str, str]:
    """Id -> hash, from ``PIXELS``."""
    pairs = (line.split("  ") for line in PIXELS.read_text(encoding="ascii").splitlines())
    return {identity: own for own, identity in pairs}


def read(drawings: Path, words: Path) -> list[Emoji]:
    """The emoji of the dataset, in the order of the Unicode emoji chart."""
    pictures = members(drawings, DRAWINGS, (EMOJI_MEMBER, DRAWING_MEMBER))
    annotations = members(words, WORDS, (ANNOTATIONS_MEMBER,))[ANNOTATIONS_MEMBER]
    named = json.loads(annotations)["annotations"]["annotations"]
    left_out: Counter[str] = Counter()
    kept = []
    for entry in sorted(json.loads(pictures[EMOJI_MEMBER]), key=lambda entry: entry["sort_order"]):
        codes = entry["unified"].split("-")
        characters = "".join(chr(int(code, 16)) for code in codes)
        annotation = named.get(characters) or named.get(characters.replace(EMOJI_STYLE, ""))
        if entry["category"] not in CLASS_WORDS:
            left_out[f"category {entry['category']}"] += 1
        elif GENDER_SIGNS & set(codes):
            left_out["female or male sign"] += 1
        elif annotation is None:
            left_out["no name of its own"] += 1
        else:
            drawing = pictures[DRAWING_MEMBER + entry["image"]]
            identity = entry["unified"].lower()
            keywords = tuple(annotation["default"])
            kept.append(Emoji(identity, entry["category"], annotation["tts"][0], keywords, drawing))
    print(f"{len(kept)} pairs; left out: {dict(left_out)}")
    return kept


def members(path: Path, package: dict[str, str], wanted: tuple[str, ...]) -> dict[str, bytes]:
    """The bytes of the regular members whose names begin with one of ``wanted``; nothing is extracted.

    Raises:
        CorruptData: the archive is not the expected one.
    """
    if (found := file_digest(path)) != package["sha256"]:
        raise CorruptData(
            f"{path.name} is not {package['package']} {package['version']}: "
            f"expected sha256 {package['sha256']}, got {found}"
        )
    contents = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if not (member.isfile() and member.name.startswith(wanted)):
                continue
            if member.size > MEMBER_LIMIT:
                raise CorruptData(f"{path.name}: {member.name} is larger than {MEMBER_LIMIT} bytes")
            stream = archive.extractfile(member)
            if stream is None:
                raise CorruptData(f"{path.name}: {member.name} cannot be read")
            contents[member.name] = stream.read()
    return contents


def text(item: Emoji) -> str:
    """Name and keywords, without class words and repetitions, separated by semicolons."""
    unique: dict[str, str] = {}
    for phrase in (item.name, *item.keywords):
        rest = without_class_words(phrase)
        if rest:
            unique.setdefault(rest.casefold(), rest)
    return "; ".join(unique.values())


def without_class_words(phrase: str) -> str:
    """A phrase without the class words, and without the punctuation that they leave at its ends."""
    words = "|".join(word for words in CLASS_WORDS.values() for word in words)
    rest = re.sub(rf"\b({words})\b", " ", phrase, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", rest).strip(" -:,")


def encode(emoji: Sequence[Emoji]) -> NDArray[np.float16]:
    """(n, 1280) lite0 features of the drawings."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{item.id}.png" for item in emoji]
        for path, item in zip(paths, emoji, strict=True):
            path.write_bytes(item.drawing)
        features = Lite0().transform(paths, Resources())
    return features.astype(np.float16)


def group(emoji: Sequence[Emoji], features: NDArray[np.float16]) -> list[str]:
    """For each emoji the name of its group, which is the name of the group's first emoji."""
    versions = np.array([f"{item.category}/{version_key(item.name)}" for item in emoji])
    linked = (versions[:, None] == versions) | (cosine(features) >= SIMILAR)
    for pattern in FAMILIES:
        family = np.flatnonzero([re.search(pattern, item.name) is not None for item in emoji])
        if len(family) < 2:
            raise CorruptData(f"the family {pattern!r} has {len(family)} members, expected at least 2")
        linked[np.ix_(family, family)] = True
    _, component = connected_components(linked, directed=False)
    first = np.unique(component, return_index=True)[1]
    return [emoji[first[number]].name for number in component]


def version_key(name: str) -> str:
    """What a name says apart from ``VERSION_WORDS``; empty for the plain man, woman, child, ..."""
    return " ".join(word for word in re.findall(r"\w+", name.lower()) if word not in VERSION_WORDS)


def cosine(features: NDArray[np.float16]) -> NDArray[np.float64]:
    """(n, n) cosines of feature rows."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def lines(strings: Sequence[str]) -> NDArray[np.uint8]:
    """Strings as one array of UTF-8 bytes, a newline between them."""
    if any("\n" in string for string in strings):
        raise CorruptData("a string holds a newline and cannot be stored as a line")
    return np.frombuffer("\n".join(strings).encode(), dtype=np.uint8)


def report(emoji: Sequence[Emoji], texts: Sequence[str], groups: Sequence[str]) -> None:
    """Print sizes, the words that were cut and the groups."""
    print("pairs of each class:", dict(Counter(item.category for item in emoji)))
    lengths = [len(re.findall(r"\w+", line)) for line in texts]
    print(f"words a text: median {np.median(lengths):g}, {min(lengths)} to {max(lengths)}")
    cut: dict[str, Counter[str]] = {category: Counter() for category in CLASS_WORDS}
    for item in emoji:
        words = set(re.findall(r"\w+", " ".join((item.name, *item.keywords)).lower()))
        for category, own in CLASS_WORDS.items():
            cut[category].update(words & set(own))
    for category, counts in cut.items():
        words_cut = ", ".join(f"{word} ({number})" for word, number in counts.most_common())
        print(f"cut for {category}: {words_cut or 'nothing'}")
    sizes = Counter(groups)
    several = {name: size for name, size in sizes.most_common() if size > 1}
    print(f"{len(sizes)} groups, {len(several)} of them with several emoji ({sum(several.values())} in all)")
    for name, size in several.items():
        names = [item.name for item, own in zip(emoji, groups, strict=True) if own == name]
        print(f"  {size}: {', '.join(names)}")


if __name__ == "__main__":
    main()
