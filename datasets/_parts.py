"""Feature files that hold a dataset in parts, as researchers hand them on: .mat (v5 and 7.3) and plain HDF5.

The names of arrays differ from file to file. The tables below list those that public loaders of these files
read; none was checked against a real file, since none can be had. ``NAME{2}`` is the second element of a cell
array. Facts from: loaders of ``XMediaFeatures.mat`` (names ``I_tr_CNN``, ``T_tr_BOW``, ``trImgCat``, ...; labels
from 1), of ``*_deep_doc2vec*.h5py`` (``train_imgs_deep``, ``train_texts``, ``train_imgs_labels``, ...) and of
``XMediaNet5View_Doc2Vec.mat`` (cell arrays ``train``, ``valid``, ``test`` of one matrix for each medium, image
first, text second), found in public repositories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean
from xmbench.data import PARTS
from xmbench.errors import CorruptData, InvalidInput, MissingDependency
from xmbench.matrices import read_matrix, variables

Names = tuple[str, str, str]
"""Names of one thing in the training, validation and test part; a file need not have the second."""

PLAIN_HDF5 = (".h5", ".hdf5", ".h5py")

CNN: tuple[Names, ...] = (
    ("I_tr_CNN", "I_va_CNN", "I_te_CNN"),
    ("train_imgs_deep", "valid_imgs_deep", "test_imgs_deep"),
    ("train{1}", "valid{1}", "test{1}"),
)
BOVW: tuple[Names, ...] = (("I_tr", "I_va", "I_te"),)
BOW: tuple[Names, ...] = (("T_tr_BOW", "T_va_BOW", "T_te_BOW"),)
LDA: tuple[Names, ...] = (("T_tr", "T_va", "T_te"),)
DOC2VEC: tuple[Names, ...] = (
    ("train_texts_doc", "valid_texts_doc", "test_texts_doc"),
    ("train_texts", "valid_texts", "test_texts"),
    ("train_text", "valid_text", "test_text"),
    ("train{2}", "valid{2}", "test{2}"),
)
IMAGE_LABELS: tuple[Names, ...] = (
    ("trImgCat", "vaImgCat", "teImgCat"),
    ("train_imgs_labels", "valid_imgs_labels", "test_imgs_labels"),
    ("train_labels{1}", "valid_labels{1}", "test_labels{1}"),
)
TEXT_LABELS: tuple[Names, ...] = (
    ("trTxtCat", "vaTxtCat", "teTxtCat"),
    ("train_texts_labels", "valid_texts_labels", "test_texts_labels"),
    ("train_labels{2}", "valid_labels{2}", "test_labels{2}"),
)


@dataclass(frozen=True)
class Parts:
    """A dataset as a feature file holds it, the parts below each other.

    Args:
        images: (n, d) features; ``texts`` likewise.
        labels: (n,) int64 from 0.
        official: "train", "validation" or "test" for each row.
        ids: "train-00001" and so on: the file names no items.
    """

    images: NDArray[Any]
    texts: NDArray[Any]
    labels: NDArray[np.int64]
    official: tuple[str, ...]
    ids: tuple[str, ...]


def only_file(root: Path, names: Sequence[str], dataset: str) -> Path | None:
    """The one of the files ``names`` that lies in ``root``, or None.

    Raises:
        CorruptData: there are several, and which one is meant cannot be told.
    """
    found = [name for name in names if (root / name).is_file()]
    if len(found) > 1:
        raise CorruptData(f"{dataset}: {root} holds {' and '.join(found)}; keep one of them there")
    return root / found[0] if found else None


def read_parts(
    path: Path, dataset: str, images: Sequence[Names], texts: Sequence[Names], n_classes: int
) -> Parts:
    """Read features and labels, whatever the file calls them.

    Args:
        path: the feature file.
        dataset: its name, for errors.
        images: names that the image features may have; ``texts`` likewise.
        n_classes: labels must lie in 0..n_classes-1 or in 1..n_classes.

    Raises:
        CorruptData: the file is damaged; it has none of the names, or names of two kinds; rows or labels of the
            parts do not fit together.
        MissingDependency: the extra ``mat73``, for MATLAB 7.3 and HDF5 files, is not installed.
    """
    what = f"{dataset}: {path.name}"
    file = _File(path, what)
    known = file.known
    wanted = {
        "image features": _find(known, images, f"{what}: image features"),
        "text features": _find(known, texts, f"{what}: text features"),
        "labels": _find(known, IMAGE_LABELS, f"{what}: labels"),
    }
    if any(_has(known, names) for names in TEXT_LABELS):
        wanted["text labels"] = _find(known, TEXT_LABELS, f"{what}: labels of texts")
    parts = [i for i in range(3) if any(names[i] in known for names in wanted.values())]
    for names in wanted.values():
        if lacking := [names[i] for i in parts if names[i] not in known]:
            raise CorruptData(f"{what} lacks {', '.join(lacking)}; it holds: {_shown(known)}")
    read: dict[str, list[NDArray[Any]]] = {
        kind: [file.read(names[i]) for i in parts] for kind, names in wanted.items()
    }
    for kind in ("labels", "text labels"):
        if kind in read:
            read[kind] = [
                _numbers(array, f"{what}: {wanted[kind][i]}")
                for i, array in zip(parts, read[kind], strict=True)
            ]
    for at, i in enumerate(parts):
        sizes = {names[i]: len(read[kind][at]) for kind, names in wanted.items()}
        if len(set(sizes.values())) > 1:
            raise CorruptData(f"{what}: expected equal numbers of rows, got {sizes}")
        if "text labels" in read and not np.array_equal(read["labels"][at], read["text labels"][at]):
            raise CorruptData(
                f"{what}: {wanted['labels'][i]} and {wanted['text labels'][i]} differ, so row i of the images "
                "and row i of the texts are no pair"
            )
    for kind in ("image features", "text features"):
        widths = {wanted[kind][i]: array.shape[1] for i, array in zip(parts, read[kind], strict=True)}
        if len(set(widths.values())) > 1:
            raise CorruptData(f"{what}: expected equal numbers of columns, got {widths}")
    labels = np.concatenate(read["labels"])
    first = 0 if labels.size and labels.min() == 0 else 1
    if not labels.size or labels.min() < 0 or labels.max() >= n_classes + first:
        held = f"{labels.min()}..{labels.max()}" if labels.size else "none"
        raise CorruptData(f"{what}: labels must lie in 0..{n_classes - 1} or 1..{n_classes}, it holds {held}")
    sizes = {PARTS[i]: len(array) for i, array in zip(parts, read["labels"], strict=True)}
    return Parts(
        images=np.concatenate(read["image features"]),
        texts=np.concatenate(read["text features"]),
        labels=labels - first,
        official=tuple(part for part, size in sizes.items() for _ in range(size)),
        ids=tuple(f"{part}-{row:05}" for part, size in sizes.items() for row in range(1, size + 1)),
    )


def class_names(root: Path, n_classes: int, dataset: str) -> tuple[str, ...]:
    """The lines of ``categories.list`` in ``root``; without that file, numbers as feature files have them.

    Raises:
        CorruptData: it is not UTF-8, has another number of lines, or one twice.
    """
    path = root / "categories.list"
    if not path.is_file():
        return tuple(f"class {number}" for number in range(1, n_classes + 1))
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise CorruptData(f"{dataset}: categories.list is not UTF-8 ({error})") from error
    if len(names) != n_classes or len(set(names)) != n_classes:
        raise CorruptData(f"{dataset}: categories.list must hold {n_classes} different names, a line each")
    return names


def read_files(root: Path, path: Path) -> list[Path]:
    """The files that were read: the feature file and, where it is there, the list of class names."""
    names = root / "categories.list"
    return [path, names] if names.is_file() else [path]


def _has(known: Mapping[str, object], names: Names) -> bool:
    return names[0] in known or names[2] in known


def _find(known: Mapping[str, object], aliases: Sequence[Names], what: str) -> Names:
    found = [names for names in aliases if _has(known, names)]
    if len(found) > 1:
        several = " or ".join(names[0] for names in found)
        raise CorruptData(f"{what} may be {several}; leave one of them in the file")
    if not found:
        expected = " or ".join(f"{names[0]} and {names[2]}" for names in aliases)
        raise CorruptData(f"{what}: expected {expected}; it holds: {_shown(known)}")
    return found[0]


def _shown(known: Mapping[str, object]) -> str:
    return ", ".join(clean(name) for name in sorted(known)) or "nothing"


# -- the files themselves ------------------------------------------------------------------------------


class _File:
    """A feature file: the kinds of its arrays by name, each read when asked for.

    Of a cell array the first two elements, image and text, are kept from one reading, and the others dropped.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.cells: dict[str, NDArray[Any]] = {}
        try:
            self.known = self._names()
        except MissingDependency:
            raise
        except Exception as error:  # damaged files raise almost anything in scipy and h5py
            raise CorruptData(f"{what} cannot be read: {clean(str(error))}") from error

    def read(self, name: str) -> NDArray[Any]:
        """The array ``name`` with two dimensions; a list of numbers is a column."""
        try:
            array = self._read(name)
        except InvalidInput as error:
            raise CorruptData(f"{self.what}: {error}") from error
        except MissingDependency:
            raise
        except Exception as error:
            raise CorruptData(f"{self.what}: {name} cannot be read: {clean(str(error))}") from error
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
            raise CorruptData(
                f"{self.what}: {name} is {array.dtype} {array.shape}, no matrix of real numbers"
            )
        return array if array.ndim == 2 else array.reshape(-1, 1)

    def _names(self) -> dict[str, str]:
        if self.path.suffix in PLAIN_HDF5:
            with self._hdf5() as file:
                import h5py

                links = {name: file.get(name, getlink=True) for name in file}
                own = [name for name, link in links.items() if isinstance(link, h5py.HardLink)]
                return {name: "HDF5" for name in own if isinstance(file[name], h5py.Dataset)}
        found = variables(self.path)
        for name in [name for name, kind in found.items() if kind == "cell"]:
            self._open_cell(name)
        return {**found, **dict.fromkeys(self.cells, "cell")}

    def _read(self, name: str) -> NDArray[Any]:
        if name in self.cells:
            return np.asarray(self.cells[name])
        if self.path.suffix in PLAIN_HDF5:
            with self._hdf5() as file:
                if file[name].external or file[name].is_virtual:
                    raise ValueError("it lies in other files; copy it into this one")
                return np.asarray(file[name][()])
        return read_matrix(self.path.with_name(f"{self.path.name}:{name}"))

    def _open_cell(self, name: str) -> None:
        from scipy.io import loadmat

        try:
            found = loadmat(str(self.path), appendmat=False, variable_names=[name])[name]
        except NotImplementedError:  # MATLAB 7.3 keeps cells as references; such a file's are not read
            return
        for number, element in enumerate(found.ravel()[:2], start=1):
            self.cells[f"{name}{{{number}}}"] = element

    def _hdf5(self) -> Any:
        if find_spec("h5py") is None:
            raise MissingDependency(f"reading {self.path.name} needs h5py; pip install 'xmbench[mat73]'")
        import h5py

        return h5py.File(self.path, "r")


def _numbers(array: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Labels as whole numbers, from one row or column of them or from a matrix with a single 1 in each row."""
    whole = np.asarray(array, dtype=np.float64)
    if not np.isfinite(whole).all() or (whole != np.round(whole)).any():
        raise CorruptData(f"{what}: labels must be whole numbers")
    if 1 in whole.shape:
        return whole.ravel().astype(np.int64)
    if not np.isin(whole, (0, 1)).all() or (whole.sum(axis=1) != 1).any():
        raise CorruptData(
            f"{what}: expected one label a row, or a matrix with a single 1 in each row, got shape {whole.shape}"
        )
    return np.asarray(whole.argmax(axis=1), dtype=np.int64)
