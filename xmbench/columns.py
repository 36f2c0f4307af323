"""One value an item, from files of the user's: a column of a table, an array, the files of a folder."""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xmbench._io import clean
from xmbench.errors import CorruptData, InvalidInput, MissingData, UsageError, XmbenchError
from xmbench.matrices import need, read_matrix

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
TEXTS = frozenset({".txt"})

_NAMED = re.compile(r"(.+\.(?:npz|mat|parquet|h5|hdf5|csv|tsv)):(.+)", flags=re.DOTALL)
_LONGEST = 10_000_000
"""Characters of a cell at the most; a quotation mark that is never closed would swallow the file."""

Report = Callable[[XmbenchError], None]


def stop(error: XmbenchError) -> None:
    """What to do with a problem where nobody collects them."""
    raise error


def few(names: Collection[str], n: int = 3) -> str:
    """The first names of many, for a message."""
    shown = ", ".join(clean(name)[:60] or repr(name) for name in list(names)[:n])
    return shown if len(names) <= n else f"{shown}, ..."


def locate(reference: str, root: Path) -> tuple[Path, str | None]:
    """The file and the name behind ``FILE`` or ``FILE:NAME``; relative paths are below ``root``."""
    path = root / reference
    named = None if path.exists() else _NAMED.fullmatch(reference)
    return (root / named[1], named[2]) if named else (path, None)


def read_column(reference: str, root: Path) -> list[str] | NDArray[Any]:
    """Values of the items in the order of the file.

    ``FILE.csv:NAME`` (also .tsv, .parquet) is a column below a header; ``FILE.csv`` alone is numbers without one;
    a .txt file has a value a line; of other files see :func:`xmbench.matrices.read_matrix`.

    Returns:
        n strings, or an array of numbers (n,) or (n, c).

    Raises:
        MissingData: there is no such file.
        InvalidInput: it is damaged, or has two columns of that name.
        UsageError: it has no such column.
        MissingDependency: an extra is not installed.
    """
    path, name = locate(reference, root)
    if not path.is_file():
        raise MissingData(f"{clean(reference)} does not exist")
    if path.suffix == ".txt":
        return [line.strip() for line in _decoded(path).rstrip("\n").split("\n")]
    if path.suffix in (".csv", ".tsv") and name is not None:
        return _table(path, name)
    if path.suffix == ".parquet" and name is not None:
        return _parquet(path, name)
    values = read_matrix(path if name is None else Path(f"{path}:{name}"), labels=True)
    if values.dtype.kind == "U" and values.ndim == 1:
        return [str(value) for value in values]
    return values


def as_text(values: list[str] | NDArray[Any], reference: str) -> list[str]:
    """Values as one string an item: names, numbers, dates.

    Raises:
        InvalidInput: there are several values an item.
    """
    if isinstance(values, list):
        return values
    if values.ndim != 1:
        raise InvalidInput(f"{clean(reference)}: expected one value an item, got shape {values.shape}")
    return [str(value) for value in values.tolist()]


def table_columns(path: Path) -> list[str]:
    """The header of a .csv or .tsv file."""
    return next((row for _, row in _rows(path)), [])


def place(reference: str, root: Path, row: int) -> str:
    """Where a row of :func:`read_column` stands, for a message: the line of its file, or else its number."""
    path, name = locate(reference, root)
    if path.suffix == ".txt":
        return f"{clean(path.name)}, line {row + 1}"
    if path.suffix in (".csv", ".tsv") and name is not None:
        return f"{clean(path.name)}, line {_rows(path)[row + 1][0]}"
    return f"row {row}"


def _table(path: Path, name: str) -> list[str]:
    rows = [row for _, row in _rows(path)]
    header = rows[0] if rows else []
    if header and name not in header:
        raise _no_column(path, name, header)
    if header.count(name) != 1:
        shown = ", ".join(map(clean, header)) or "nothing"
        how = "several columns" if name in header else "no column"
        raise InvalidInput(f"{path.name} has {how} {clean(name)!r}; its header is: {shown}")
    column = header.index(name)
    return [row[column].strip() for row in rows[1:]]


def _no_column(path: Path, name: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {clean(close[0])}?" if close else ""
    return UsageError(f"{path.name} has no column {clean(name)!r}; its header is: {few(known, 20)}{hint}")


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The line of each row of a table, and the row; the header first, all of one length; blank lines are none."""
    before = csv.field_size_limit(_LONGEST)
    try:
        stream = io.StringIO(_decoded(path), newline="")  # a cell may hold line breaks of every kind
        reader = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        found: list[tuple[int, list[str]]] = []
        line = 1  # where the row begins; it may go on for several
        for row in reader:
            if row:
                found.append((line, row if found else [cell.strip() for cell in row]))
            line = reader.line_num + 1
            if row and len(row) != len(found[0][1]):
                raise InvalidInput(
                    f"{path.name}, line {reader.line_num}: {len(row)} cells, the header has {len(found[0][1])}; a "
                    "cell that holds a comma or a line break needs quotation marks"
                )
    except csv.Error as error:
        raise InvalidInput(f"{path.name}, line {reader.line_num}: {clean(str(error))}") from error
    finally:
        csv.field_size_limit(before)
    return found


def _decoded(path: Path, shown: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{shown or path.name} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def _parquet(path: Path, name: str) -> list[str] | NDArray[Any]:
    """A column of text as strings; one of numbers as :func:`read_matrix` has it."""
    need("pyarrow", f"reading {path.name}", "parquet")
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            if name not in kinds:
                raise _no_column(path, name, list(kinds))
            kind = kinds[name]
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                return read_matrix(Path(f"{path}:{name}"), labels=True)
            values = file.read([name])[name].to_pylist()
    except XmbenchError:
        raise
    except Exception as error:  # a damaged file may raise anything in pyarrow
        raise InvalidInput(
            f"{path.name} cannot be read: {clean(str(error)) or type(error).__name__}"
        ) from error
    missing = sum(value is None for value in values)
    if missing:
        raise InvalidInput(f"{path.name}: {missing} missing values in column {clean(name)!r}")
    return [value.strip() for value in values]


def list_files(folder: Path, suffixes: Collection[str]) -> tuple[dict[str, Path], list[str]]:
    """The files below a folder by their relative path without suffix, sorted, and the names of those left out.

    Hidden files (a name that begins with a dot) do not count.

    Raises:
        MissingData: there is no such folder.
        CorruptData: it holds no such file, two of one name that differ in the suffix, or a link to a folder.
    """
    if not folder.is_dir():
        raise MissingData(f"the folder {clean(folder.name)} does not exist")
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if path.is_symlink() and path.is_dir():
            raise CorruptData(
                f"{clean(folder.name)}: {clean(inside.as_posix())} is a link to a folder, which is not followed; put "
                "the folder in its place"
            )
        if not path.is_file():
            continue
        if path.suffix.lower() not in suffixes:
            others.append(inside.as_posix())
            continue
        key = inside.with_suffix("").as_posix()
        if key in found:
            raise CorruptData(f"{clean(folder.name)}: two files are called {clean(key)}; rename one")
        found[key] = path
    if not found:
        raise CorruptData(f"{clean(folder.name)}: no file of {', '.join(sorted(suffixes))} is in this folder")
    return dict(sorted(found.items())), others


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, without space around them.

    Raises:
        CorruptData: it cannot be read, is not UTF-8, or holds nothing.
    """
    shown = clean(f"{path.parent.name}/{path.name}")
    try:
        lines = [line.strip() for line in _decoded(path, shown).split("\n") if line.strip()]
    except InvalidInput as error:
        raise CorruptData(str(error)) from error
    except OSError as error:
        raise CorruptData(f"{shown} cannot be read: {error.strerror}") from error
    if not lines:
        raise CorruptData(f"{shown} holds no text")
    return lines


def check_names(names: Collection[str], what: str) -> None:
    """Raise CorruptData for a name that is empty or holds control characters: tables and pages show names."""
    for name in names:
        if not name.strip():
            raise CorruptData(f"{what}: a name is empty")
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise CorruptData(f"{what}: {ascii(name)[:80]} holds control characters; rename it")
