"""Pascal Sentence: 1,000 photographs in 20 classes, each with about five sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from xmbench._io import digest, files_digest
from xmbench.data import Corpus, Dataset, DatasetCard, Download, Split, draw
from xmbench.errors import CorruptData, Unsupported


def _cmgans(corpus: Corpus, seed: int) -> Split:
    """800 training, 100 validation and 100 test pairs, drawn by class (the sizes of CM-GANs)."""
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1])
    return Split("cmgans", seed, train, validation, test)


def _acmr(corpus: Corpus, seed: int) -> Split:
    """800 training pairs, of which 100 are held for validation, and 200 test pairs (the sizes of ACMR)."""
    test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.2, 0.1])
    return Split("acmr", seed, train, validation, test)


def _ordered(corpus: Corpus, seed: int) -> Split:
    """Fixed: of each class in the order of file names, the first 80 % train, 10 % validation, 10 % test."""
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in range(len(corpus.class_names)):
        rows = sorted(map(int, np.flatnonzero(corpus.labels == label)), key=lambda row: corpus.ids[row])
        tenth = round(len(rows) / 10)
        parts["train"] += rows[: len(rows) - 2 * tenth]
        parts["validation"] += rows[len(rows) - 2 * tenth : len(rows) - tenth]
        parts["test"] += rows[len(rows) - tenth :]
    return Split("ordered", None, **{part: np.array(rows, dtype=np.int64) for part, rows in parts.items()})


class Pascal(Dataset):
    """Reads ``dataset/<category>/*.jpg`` and ``sentence/<category>/*.txt``; a text is its sentences joined."""

    card = DatasetCard(
        title="Pascal Sentence",
        source="https://vision.cs.uiuc.edu/pascal-sentences/ (images: PASCAL VOC 2008)",
        licence="none stated; the photographs are their Flickr authors', for research under the VOC terms",
        citation="Rashtchian, Young, Hodosh, Hockenmaier, Collecting image annotations using Amazon's "
        "Mechanical Turk, NAACL HLT 2010 workshop",
        layout=(
            "pascal_sentence/dataset/<category>/<id>.jpg",
            "pascal_sentence/sentence/<category>/<id>.txt   (one sentence a line)",
        ),
        pairs=1000,
        image_text="photographs, each with the sentences that five people wrote about it",
        defects=(
            "four images do not have five sentences: three have 4, one has 6",
            "no split is published: `cmgans` and `acmr` have the papers' sizes and are seeded draws by class; "
            "the split moves MAP by about .03, the largest noise there is",
        ),
    )
    folders: ClassVar = ("pascal_sentence", ".")
    downloads: ClassVar = {
        "voc2012": (
            Download(
                "https://raw.githubusercontent.com/michelecafagna26/Pascal_Sentence_Dataset-downloader/"
                "ab773ace9287c1b04c3e5f821ac5cca6cc82274d/pascal_sentences.json",
                "d36111c19cba691b40558c6c60d416d90b3076433717bdd7112d76318b4b5076",
                325_478,
                "pascal_sentence/pascal_sentences.json",
            ),
            Download(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                1_999_639_040,
                "pascal_sentence",
                unpack=True,
                unpacked=500_000_000,
            ),
        )
    }
    """The sentences, and the VOC 2012 archive, which has the photographs of 2008 among its own."""
    required: ClassVar = ("dataset", "sentence")
    features = "lite0+tfidf"
    splits: ClassVar = {"cmgans": _cmgans, "acmr": _acmr, "ordered": _ordered}

    _entries: Mapping[str, Any] | None = None

    def _listed(self, data_dir: Path) -> Mapping[str, Any]:
        """File name -> category and captions, from the downloaded list."""
        if self._entries is None:
            path = data_dir / "pascal_sentence" / "pascal_sentences.json"
            self._entries = json.loads(path.read_text(encoding="utf-8"))
        return self._entries or {}

    def member(self, data_dir: Path, name: str) -> str | None:
        """The photographs that have sentences go into the folders of their classes; the others are left out."""
        entry = self._listed(data_dir).get(PurePosixPath(name).name) if "/JPEGImages/" in name else None
        return entry and f"dataset/{entry['category']}/{PurePosixPath(name).name}"

    def assemble(self, data_dir: Path) -> None:
        """Write the sentences of each photograph into a file of its own."""
        root = data_dir / "pascal_sentence"
        for name, entry in self._listed(data_dir).items():
            if not (root / "dataset" / entry["category"] / name).is_file():
                raise CorruptData(f"pascal: the archive of photographs lacks {name}")
            path = root / "sentence" / entry["category"] / f"{PurePosixPath(name).stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in entry["captions"]), encoding="utf-8")

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read every category; see :meth:`xmbench.data.Dataset.load`."""
        if (image, text) != ("raw", "raw"):
            raise Unsupported(
                f"pascal stores no features, only images and sentences; got {image!r} and {text!r}"
            )
        root = self.folder(data_dir)
        images = {
            path.parent.name + "/" + path.stem: path for path in sorted((root / "dataset").glob("*/*.jpg"))
        }
        texts = {
            path.parent.name + "/" + path.stem: path for path in sorted((root / "sentence").glob("*/*.txt"))
        }
        if images.keys() != texts.keys():
            lonely = sorted(images.keys() ^ texts.keys())
            raise CorruptData(
                f"pascal: {len(lonely)} items lack their image or their text, first: {lonely[0]}"
            )
        if not images:
            raise CorruptData(f"pascal: no .jpg lies in the category folders of {root / 'dataset'}")
        keys = sorted(images)
        names = tuple(sorted({key.partition("/")[0] for key in keys}))
        sentences = [_sentences(texts[key]) for key in keys]
        ids = tuple(key.partition("/")[2] for key in keys)
        return Corpus(
            name="pascal",
            images=[images[key] for key in keys],
            texts=[" ".join(lines) for lines in sentences],
            labels=np.array([names.index(key.partition("/")[0]) for key in keys]),
            class_names=names,
            ids=ids,
            groups=ids,
            digest=digest(
                [files_digest(root, images.values()), files_digest(root, texts.values())],
            ),
            text_parts=sentences,
            notes=_notes(sentences),
        )


def _sentences(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise CorruptData(f"pascal: {path.parent.name}/{path.name} is not UTF-8 text ({error})") from error
    if not lines:
        raise CorruptData(f"pascal: {path.parent.name}/{path.name} holds no sentence")
    return lines


def _notes(sentences: list[list[str]]) -> tuple[str, ...]:
    odd = sum(len(lines) != 5 for lines in sentences)
    return (f"{sum(map(len, sentences)):,} sentences; {odd} images have another number of them than five",)


DATASET = Pascal
