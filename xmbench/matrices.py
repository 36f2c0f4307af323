"""Arrays from files of the user's: numpy, text, Parquet, MATLAB and HDF5. Nothing is ever unpickled."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from xmbench._io import clean
from xmbench.errors import InvalidInput, MissingData, MissingDependency, XmbenchError

_NAMED = re.compile(r"(.+\.(?:npz|mat|parquet|h5|hdf5)):(.+)", flags=re.DOTALL)
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matrix(path: Path, *, labels: bool = False) -> NDArray[Any]:
    """An array from a .npy, .npz, .csv, .tsv, .txt, .parquet, .mat, .h5 or .hdf5 file, in the type it has there.

    Of an .npz, .mat or HDF5 file with several arrays, and of some columns in a .parquet file, ``FILE:NAME`` takes
    one. A .npy file is mapped into memory, not read, so that it may be larger than memory.

    Returns:
        (rows, dimensions) of real numbers; for labels (n,) int64 where they are whole numbers in one row or
        column.

    Raises:
        MissingData: there is no such file.
        InvalidInput: it is damaged, or holds no array of real numbers, or more than one.
        MissingDependency: the extra ``parquet``, or ``mat73`` for HDF5 and MATLAB 7.3 files, is not installed.
    """
    named = None if path.is_file() else _NAMED.fullmatch(str(path))
    path, name = (Path(named[1]), named[2]) if named else (path, None)
    if not path.is_file():
        raise MissingData(f"{path} does not exist")
    if path.suffix not in _READERS:
        raise InvalidInput(f"{path.name}: expected a file that ends in {', '.join(_READERS)}")
    try:
        array = _READERS[path.suffix](path, name)
    except XmbenchError:
        raise
    except Exception as error:  # a damaged file may raise anything in numpy, scipy, pyarrow or h5py
        reason = clean(str(error)) or type(error).__name__
        raise InvalidInput(f"{path.name} cannot be read as an array of numbers: {reason}") from error
    return _whole(array) if labels else array


def variables(path: Path) -> dict[str, str]:
    """Name -> MATLAB type of the variables of a .mat file: ``double``, ``single``, ``cell``, ...

    Raises:
        MissingData: there is no such file.
        InvalidInput: it is damaged.
        MissingDependency: the extra ``mat73``, for MATLAB 7.3 files, is not installed.
    """
    if not path.is_file():
        raise MissingData(f"{path} does not exist")
    try:
        return _hdf5_variables(path) if _is_hdf5(path) else _v5_variables(path)
    except XmbenchError:
        raise
    except Exception as error:  # as in read_matrix
        reason = clean(str(error)) or type(error).__name__
        raise InvalidInput(f"{path.name} cannot be read as a .mat file: {reason}") from error


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Labels as whole numbers, where they are, in one dimension, if they are one list."""
    whole = np.array(array)
    if whole.dtype.kind == "f" and np.isfinite(whole).all() and np.array_equal(whole, np.round(whole)):
        whole = whole.astype(np.int64)
    if whole.ndim == 2 and 1 in whole.shape:
        whole = whole.ravel()
    return whole


def _pick(path: Path, known: Collection[str], name: str | None, what: str) -> str:
    """The name that is asked for, or the only one there is."""
    shown = ", ".join(clean(one) for one in sorted(known)) or "none"
    if name is None and len(known) == 1:
        (name,) = known
    elif name is None:
        hint = f"; name one as {path.name}:NAME, of {shown}" if known else ""
        raise InvalidInput(f"{path.name} holds {len(known)} {what}s, expected one{hint}")
    if name not in known:
        raise InvalidInput(f"{path.name} holds no {what} {name!r}; it holds: {shown}")
    return name


# -- numpy ---------------------------------------------------------------------------------------------

_OBJECTS = (
    "holds Python objects, which are never read; save numbers: array.astype(float), or for names "
    "np.unique(array, return_inverse=True)[1]"
)


def _npy(path: Path, name: str | None) -> NDArray[Any]:
    magic = np.lib.format.magic(1, 0)[:-2]
    with path.open("rb") as stream:
        if not magic.startswith(stream.read(len(magic))):
            raise InvalidInput(f"{path.name} is no .npy file")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        for sign, words in (("Python objects", _OBJECTS), ("EOF", "is cut short"), ("mmap", "is cut short")):
            if sign in str(error):
                raise InvalidInput(f"{path.name} {words}") from error
        raise


def _npz(path: Path, name: str | None) -> NDArray[Any]:
    with path.open("rb") as stream:
        if stream.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise InvalidInput(f"{path.name} is no .npz archive")
        if not is_zipfile(stream):
            raise InvalidInput(f"{path.name} is cut short or damaged")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            member = _pick(path, archive.files, name, "array")
            try:
                array = archive[member]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise InvalidInput(f"{path.name}: array {clean(member)!r} {_OBJECTS}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("a member of the archive is no array")
    return array


# -- text ----------------------------------------------------------------------------------------------

_PLAIN = "write the file without header and index (pandas: header=False, index=False)"
_NAMES = "number names: np.unique(names, return_inverse=True)[1]"


def _text(path: Path, name: str | None) -> NDArray[Any]:
    if next(_lines(path), None) is None:
        raise InvalidInput(f"{path.name} is empty")
    try:
        array = np.loadtxt(path, delimiter=_delimiter(path), ndmin=2, encoding="utf-8-sig")
    except ValueError:
        _check_fields(path)
        raise
    _check_counted(path, array)
    return array


def _delimiter(path: Path) -> str | None:
    return {".csv": ",", ".tsv": "\t"}.get(path.suffix)


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line that has any, as ``np.loadtxt`` cuts them."""
    with path.open(encoding="utf-8-sig") as stream:
        for line in stream:
            row = line.rstrip("\r\n").partition("#")[0]
            if row.strip():
                yield [field.strip() for field in row.split(_delimiter(path))]


def _check_fields(path: Path) -> None:
    """Say where a file first holds something else than a table of numbers."""
    width = 0
    lines = _lines(path)
    for i, fields in enumerate(lines):
        wrong = [j for j, field in enumerate(fields) if not _is_written_number(field)]
        if wrong and i == 0:
            named = not any(map(_is_written_number, next(lines, fields)))
            raise InvalidInput(f"{path.name}: row 0 is not numbers; {_NAMES if named else _PLAIN}")
        if wrong:
            shown = clean(fields[wrong[0]])[:40]
            raise InvalidInput(f"{path.name}: row {i}, column {wrong[0]} is {shown!r}, not a number")
        width = width or len(fields)
        if len(fields) != width:
            hint = f"; {_PLAIN}" if i == 1 and len(fields) == width + 1 else ""  # no name above the index
            raise InvalidInput(f"{path.name}: row {i} has {len(fields)} columns, row 0 has {width}{hint}")


def _is_written_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def _check_counted(path: Path, array: NDArray[Any]) -> None:
    """Refuse what a data frame writes around its numbers if it is not told otherwise: counts from 0.

    A multi-hot matrix of two classes may begin with 0,1. Counts with a decimal point are taken for numbers.
    """
    n, d = array.shape
    header = n > 1 and d > 1 and np.array_equal(array[0], np.arange(d)) and not np.isin(array, (0, 1)).all()
    if header and next(_lines(path)) == [str(j) for j in range(d)]:
        raise InvalidInput(f"{path.name}: row 0 is a header (0 to {d - 1}); {_PLAIN}")
    index = n > 2 and d > 2 and np.array_equal(array[:, 0], np.arange(n))
    if index and all(fields[0] == str(i) for i, fields in enumerate(_lines(path))):
        raise InvalidInput(f"{path.name}: column 0 is an index (0 to {n - 1}); {_PLAIN}")


# -- Parquet -------------------------------------------------------------------------------------------


def _parquet(path: Path, name: str | None) -> NDArray[Any]:
    """Numeric columns side by side, or one column of lists of equal length; no index of a data frame."""
    need("pyarrow", f"reading {path.name}", "parquet")
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        schema = file.schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        columns = [column for column in schema.names if column not in index or column == name]
        if len(set(columns)) < len(columns):
            raise InvalidInput(f"{path.name} has columns of the same name; rename them")
        if name is not None:
            columns = [_pick(path, columns, name, "column")]
        kinds = {column: schema.field(column).type for column in columns}
        if len(kinds) == 1 and _is_list(next(iter(kinds.values())), pa.types):
            return _lists(path, file.read(columns)[columns[0]])
        for column, kind in kinds.items():
            if not _is_number(kind, pa.types):
                raise InvalidInput(
                    f"{path.name}: column {clean(column)!r} holds {clean(str(kind))}; expected numbers in every "
                    f"column, or one column of lists of numbers; {path.name}:NAME takes one column"
                )
        if not columns:
            raise InvalidInput(f"{path.name} has no column")
        table = file.read(columns)
    for column in columns:
        _no_nulls(path, column, table[column].null_count)
    types = [kind.to_pandas_dtype() for kind in kinds.values()]
    array = np.empty((table.num_rows, len(columns)), dtype=np.result_type(*types))
    for j, column in enumerate(columns):
        array[:, j] = table[column].to_numpy()
    return array


def _is_number(kind: Any, types: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: Any, types: Any) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and _is_number(kind.value_type, types))


def _lists(path: Path, column: Any) -> NDArray[Any]:
    """(rows, length) from a column of lists."""
    from pyarrow import compute

    _no_nulls(path, None, column.null_count)
    lengths = np.concatenate([compute.list_value_length(chunk).to_numpy() for chunk in column.chunks] or [[]])
    if not len(lengths):
        raise InvalidInput(f"{path.name} holds no row")
    if lengths.min() != lengths.max():
        raise InvalidInput(
            f"{path.name}: expected lists of one length, got lengths from {lengths.min()} to {lengths.max()}"
        )
    parts = [chunk.flatten() for chunk in column.chunks]
    _no_nulls(path, None, sum(part.null_count for part in parts))
    values = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    return np.asarray(values.reshape(len(lengths), int(lengths[0])))


def _no_nulls(path: Path, column: str | None, count: int) -> None:
    if count:
        where = "" if column is None else f" in column {clean(column)!r}"
        raise InvalidInput(f"{path.name}: {count} missing values{where}; fill them or leave their rows out")


# -- MATLAB --------------------------------------------------------------------------------------------


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(520)
    return _HDF5 in (head[:8], head[512:])


def _v5_variables(path: Path) -> dict[str, str]:
    from scipy.io import whosmat

    return {name: kind for name, _, kind in whosmat(str(path), appendmat=False) if not name.startswith("__")}


def _hdf5_variables(path: Path) -> dict[str, str]:
    need("h5py", f"reading {path.name}", "mat73")
    import h5py

    with h5py.File(path, "r") as file:
        return {name: _hdf5_kind(file[name]) for name in file if not name.startswith("#")}


def _hdf5_kind(data: Any) -> str:
    import h5py

    if "MATLAB_sparse" in data.attrs:
        return "sparse"
    if isinstance(data, h5py.Group):
        return "struct"
    kind = data.attrs.get("MATLAB_class", b"no MATLAB type")
    return kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)


def _mat(path: Path, name: str | None) -> NDArray[Any]:
    if _is_hdf5(path):
        return _mat_hdf5(path, name)
    from scipy.io import loadmat, whosmat

    found = {
        variable: (shape, kind)
        for variable, shape, kind in whosmat(str(path), appendmat=False)
        if not variable.startswith("__")
    }
    variable = _pick(path, found, name, "variable")
    shape, kind = found[variable]
    _check_variable(path, variable, kind, len(shape))
    _check_numbers(path, variable)
    array = loadmat(str(path), appendmat=False, variable_names=[variable], mat_dtype=True)[variable]
    return _real(path, variable, array)


def _check_numbers(path: Path, variable: str) -> None:
    """Refuse a variable of numbers whose stored type is none, as damage may leave it: it would crash scipy.

    Layout: "MAT-File Format", The MathWorks. Every element has a tag of type and size; a matrix begins with
    its flags, dimensions, name and real part.
    """
    with path.open("rb") as stream:
        head = stream.read(128)
        if 0 in head[:4]:
            return  # version 4 has no types of this kind
        order: Literal["little", "big"] = "little" if head[126:] == b"IM" else "big"

        def number(data: bytes, place: int) -> int:
            return int.from_bytes(data[place : place + 4], order)

        while len(tag := stream.read(8)) == 8:
            end = stream.tell() + number(tag, 4)
            body = stream.read(min(number(tag, 4), _MAT_HEAD))
            if number(tag, 0) == 15:  # compressed: a tag and a matrix
                body = zlib.decompressobj().decompress(body, _MAT_HEAD)[8:]
            place, parts = 16, []  # behind the flags
            for _ in range(3):
                kind, size = number(body, place), number(body, place + 4)
                start, after = place + 8, place + 8 + (size + 7) // 8 * 8
                if kind >> 16:  # the short form: size, type and up to 4 bytes in one tag
                    kind, size, start, after = kind & 0xFFFF, kind >> 16, place + 4, place + 8
                parts.append((kind, body[start : start + size]))
                place = after
            if parts[1][1].decode("latin1") == variable:
                if number(body, 8) & 0x800:
                    raise InvalidInput(_complex(path, variable))
                if parts[2][0] not in _MAT_NUMBERS:
                    raise ValueError(f"variable {variable!r} has numbers of the unknown type {parts[2][0]}")
                return
            stream.seek(end)
    raise ValueError(f"variable {variable!r} is damaged")


def _mat_hdf5(path: Path, name: str | None) -> NDArray[Any]:
    """A variable of a MATLAB 7.3 file; HDF5 holds the transpose of what MATLAB shows."""
    need("h5py", f"reading {path.name}", "mat73")
    import h5py

    with h5py.File(path, "r") as file:
        variable = _pick(path, [key for key in file if not key.startswith("#")], name, "variable")
        data = file[variable]
        kind = _hdf5_kind(data)
        if data.attrs.get("MATLAB_empty", 0):
            raise InvalidInput(f"{path.name}: variable {clean(variable)!r} is empty")
        _check_variable(path, variable, kind, getattr(data, "ndim", 2))
        return _real(path, variable, data[()].T)


def _hdf5(path: Path, name: str | None) -> NDArray[Any]:
    """A dataset of an HDF5 file, in any of its groups; links are not followed, so no other file is opened."""
    need("h5py", f"reading {path.name}", "mat73")
    import h5py

    with path.open("rb") as stream:
        if not stream.read(8):
            raise InvalidInput(f"{path.name} is empty")
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) else None)
        key = _pick(path, found, None if name is None else name.strip("/"), "dataset")
        data = file[key]
        if data.external or data.is_virtual:
            raise InvalidInput(
                f"{path.name}: dataset {clean(key)!r} lies in other files; copy it into this one"
            )
        if data.shape is None or data.dtype.kind not in "fiub":
            raise InvalidInput(f"{path.name}: dataset {clean(key)!r} is {data.dtype}, expected real numbers")
        return np.asarray(data[()])


_MAT_HEAD = 2**16
_MAT_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_NUMBERS = (
    "double",
    "single",
    "logical",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_INSTEAD = {
    "sparse": "; make it full(...)",
    "cell": "; make it cell2mat(...)",
    "char": "; give numbers in place of strings",
}


def _check_variable(path: Path, variable: str, kind: str, n_dimensions: int) -> None:
    what = f"{path.name}: variable {clean(variable)!r}"
    if kind not in _NUMBERS:
        raise InvalidInput(
            f"{what} is {clean(kind)}, expected a full matrix of numbers{_INSTEAD.get(kind, '')}"
        )
    if n_dimensions != 2:
        raise InvalidInput(f"{what} has {n_dimensions} dimensions, expected two")


def _real(path: Path, variable: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "fiub":  # HDF5 holds complex numbers as pairs
        raise InvalidInput(_complex(path, variable))
    return array


def _complex(path: Path, variable: str) -> str:
    return f"{path.name}: variable {clean(variable)!r} holds complex numbers; expected real ones"


def need(module: str, what: str, extra: str) -> None:
    """Raise MissingDependency unless ``module`` is there, naming the extra that brings it."""
    if find_spec(module) is None:
        raise MissingDependency(f"{what} needs {module}; pip install 'xmbench[{extra}]'")


_READERS: dict[str, Callable[[Path, str | None], NDArray[Any]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _text,
    ".tsv": _text,
    ".txt": _text,
    ".parquet": _parquet,
    ".mat": _mat,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
