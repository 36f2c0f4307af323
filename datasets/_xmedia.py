"""What XMedia and XMediaNet share: a feature file in parts, or folders of images and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmbench._io import digest, files_digest
from xmbench.data import Corpus, Dataset, Split, draw
from xmbench.errors import CorruptData, MissingData, Unsupported

from ._parts import Names, class_names, only_file, read_files, read_parts

IMAGES = (".jpg", ".jpeg", ".png")


def rows_of(corpus: Corpus, part: str) -> Any:
    """The rows of an official part."""
    return np.flatnonzero(np.array(corpus.official) == part)


def official(corpus: Corpus, name: str, seed: int) -> Split:
    """The parts of the feature file; test rows halved by class where it has no validation rows; folders 80/10/10."""
    if corpus.official is None:
        test, validation, train = draw(corpus, np.arange(len(corpus)), seed, [0.1, 0.1])
        return Split(name, seed, train, validation, test)
    train, validation, test = (rows_of(corpus, part) for part in ("train", "validation", "test"))
    if len(validation):
        return Split(name, None, train, validation, test)
    validation, test = draw(corpus, test, seed, [0.5])
    return Split(name, seed, train, validation, test)


class FilesOrFolders(Dataset):
    """Reads one feature file, or ``image/<class>/<id>.jpg`` and ``text/<class>/<id>.txt``, paired by name.

    A subclass names itself (``name``), its feature files (``files``), what their arrays may be called
    (``aliases``) and how many classes there are.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    aliases: ClassVar[Mapping[str, Mapping[str, Sequence[Names]]]]
    n_classes: ClassVar[int]
    required: ClassVar = ("image", "text")

    def folder(self, data_dir: Path) -> Path:
        """The folder that holds a feature file or the two folders; see :meth:`xmbench.data.Dataset.folder`."""
        for candidate in (data_dir / folder for folder in self.folders):
            if any((candidate / file).is_file() for file in self.files):
                return candidate
        return super().folder(data_dir)

    def load(self, data_dir: Path, image: str, text: str) -> Corpus:
        """Read the feature file or, where both are ``raw``, the folders; see :meth:`xmbench.data.Dataset.load`."""
        root = self.folder(data_dir)
        if (image, text) == ("raw", "raw"):
            return self._folders(root)
        if image not in self.stored["image"] or text not in self.stored["text"]:
            known = " or ".join("+".join((a, b)) for a in self.stored["image"] for b in self.stored["text"])
            raise Unsupported(
                f"{self.name} pairs stored features ({known}) or raw images and texts, and nothing across; "
                f"got {image!r} and {text!r}"
            )
        path = only_file(root, self.files, self.name)
        if path is None:
            raise MissingData(
                f"{self.name}: {image} and {text} come from a feature file, and none of {', '.join(self.files)} "
                f"is in {root}; the images and texts there can be encoded: --features lite0+tfidf"
            )
        parts = read_parts(
            path, self.name, self.aliases["image"][image], self.aliases["text"][text], self.n_classes
        )
        sizes = " / ".join(f"{parts.official.count(part):,} {part}" for part in dict.fromkeys(parts.official))
        return Corpus(
            name=self.name,
            images=parts.images,
            texts=parts.texts,
            labels=parts.labels,
            class_names=class_names(root, self.n_classes, self.name),
            ids=parts.ids,
            groups=parts.ids,
            digest=files_digest(root, read_files(root, path)),
            official=parts.official,
            notes=(f"read from {path.name}: {sizes} pairs; items are numbered, for the file names none",),
        )

    def _folders(self, root: Path) -> Corpus:
        if not all((root / folder).is_dir() for folder in ("image", "text")):
            raise MissingData(f"{self.name}: raw images and texts need the folders image and text in {root}")
        images = _found(root / "image", IMAGES, self.name)
        texts = _found(root / "text", (".txt",), self.name)
        if images.keys() != texts.keys():
            lonely = sorted(images.keys() ^ texts.keys())
            raise CorruptData(
                f"{self.name}: {len(lonely)} items lack their image or their text, first: {lonely[0]}"
            )
        if not images:
            raise CorruptData(f"{self.name}: no image lies in the class folders of {root / 'image'}")
        keys = sorted(images)
        names = tuple(sorted({key.partition("/")[0] for key in keys}))
        if len(names) != self.n_classes:
            raise CorruptData(f"{self.name}: {len(names)} class folders, expected {self.n_classes}")
        return Corpus(
            name=self.name,
            images=[images[key] for key in keys],
            texts=[_text(texts[key], self.name) for key in keys],
            labels=np.array([names.index(key.partition("/")[0]) for key in keys]),
            class_names=names,
            ids=tuple(keys),
            groups=tuple(keys),
            digest=digest([files_digest(root, images.values()), files_digest(root, texts.values())]),
            notes=(f"read from folders: {len(keys):,} pairs, no split of their own",),
        )


def _found(folder: Path, suffixes: tuple[str, ...], dataset: str) -> dict[str, Path]:
    """``class/name`` -> file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*")):
        key = f"{path.parent.name}/{path.stem}"
        if path.suffix.lower() in suffixes and path.is_file():
            if key in found:
                raise CorruptData(f"{dataset}: {found[key].name} and {path.name} of {key} are one item twice")
            found[key] = path
    return found


def _text(path: Path, dataset: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise CorruptData(f"{dataset}: {path.parent.name}/{path.name} is not UTF-8 text ({error})") from error
    if not text:
        raise CorruptData(f"{dataset}: {path.parent.name}/{path.name} holds no text")
    return text
