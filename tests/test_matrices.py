"""The reading of a user's own arrays: each format gives back what was written, damage is refused by name."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.io import savemat
from scipy.sparse import csc_matrix

from xmbench import cli, matrices
from xmbench.errors import InvalidInput, MissingData, MissingDependency
from xmbench.evaluation import evaluate
from xmbench.matrices import read_matrix, variables

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=150)

ROWS = np.array([[0.5, -1.25], [3.0, 1e-3], [0.0, 2.0]])


def needs(module: str, extra: str):
    """The module, or a skip that says which extra brings it; in continuous integration, a failure."""
    if os.environ.get("CI") == "true":
        return import_module(module)
    return pytest.importorskip(module, reason=f"needs the extra `{extra}`")


def write(path: Path, array: np.ndarray) -> Path:
    """``array`` in the format that the suffix names; ``.v73.mat`` is MATLAB 7.3."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, anything=array)
    elif path.suffix == ".parquet":
        write_parquet(path, {f"x{j}": column for j, column in enumerate(np.atleast_2d(array.T))})
    elif path.name.endswith(".v73.mat"):
        write_mat73(path, {"anything": array})
    elif path.suffix == ".mat":
        savemat(path, {"anything": array}, oned_as="column")
    elif path.suffix == ".h5":
        with needs("h5py", "mat73").File(path, "w") as file:
            file.create_dataset("group/anything", data=array)
    else:
        delimiter = {".csv": ",", ".tsv": "\t", ".txt": " "}[path.suffix]
        np.savetxt(path, array, delimiter=delimiter, fmt="%d" if array.dtype.kind in "ib" else "%.18e")
    return path


def write_parquet(path: Path, columns: dict, **options) -> Path:
    pa = needs("pyarrow", "parquet")
    needs("pyarrow.parquet", "parquet").write_table(pa.table(columns), path, **options)
    return path


MATLAB_CLASS = {"float64": "double", "float32": "single", "bool": "logical"}


def write_mat73(path: Path, variables: dict[str, np.ndarray], **attributes) -> Path:
    """As MATLAB writes version 7.3: a block of 512 bytes, then HDF5 with every matrix transposed."""
    with needs("h5py", "mat73").File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            matrix = np.atleast_2d(array.T).T
            data = file.create_dataset(
                name, data=matrix.T.astype("uint8" if array.dtype == bool else array.dtype)
            )
            kind = MATLAB_CLASS.get(array.dtype.name, array.dtype.name)
            for key, value in {"MATLAB_class": np.bytes_(kind), **attributes}.items():
                data.attrs[key] = value
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(128))
    return path


SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".txt", ".parquet", ".mat", ".v73.mat", ".h5")
BINARY = (".npy", ".npz", ".parquet", ".mat", ".v73.mat", ".h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_matrix_comes_back_from_each_format(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert_array_equal(read_matrix(path), ROWS)
    one_column = write(tmp_path / f"column{suffix}", ROWS[:, :1])
    assert_array_equal(read_matrix(one_column), ROWS[:, :1])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "labels", [np.array([0, 2, 1]), np.eye(4, dtype=int)[[0, 3, 3]]], ids=["single", "hot"]
)
def test_labels_come_back_as_whole_numbers(tmp_path, suffix, labels):
    found = read_matrix(write(tmp_path / f"labels{suffix}", labels), labels=True)
    assert found.dtype.kind == "i"
    assert_array_equal(found, labels)


def test_labels_in_a_row_or_a_column_are_one_list(tmp_path):
    (tmp_path / "row.csv").write_text("0,2,1\n")
    (tmp_path / "column.csv").write_text("0\n2\n1\n")
    np.save(tmp_path / "column.npy", [[0.0], [2.0], [1.0]])
    for name in ("row.csv", "column.csv", "column.npy"):
        found = read_matrix(tmp_path / name, labels=True)
        assert found.dtype == np.int64
        assert_array_equal(found, [0, 2, 1])


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
def test_labels_that_are_no_whole_numbers_are_not_rounded(tmp_path, wrong):
    path = write(tmp_path / "labels.npy", np.array([0.0, 1.0, wrong]))
    assert_array_equal(read_matrix(path, labels=True), [0.0, 1.0, wrong])


def test_a_missing_file_is_missing_data(tmp_path):
    with pytest.raises(MissingData, match=r"nothing\.npy"):
        read_matrix(tmp_path / "nothing.npy")


def test_objects_are_never_unpickled(tmp_path):
    boxed = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "boxed.npy", boxed, allow_pickle=True)
    np.savez(tmp_path / "boxed.npz", boxed=boxed)
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "pickle.npz").write_bytes(b"\x80\x04N.")
    words = {
        "boxed.npy": r"Python objects.*save numbers: array\.astype\(float\)",
        "boxed.npz": r"'boxed' holds Python objects.*save numbers",
        "pickle.npy": r"is no \.npy file",
        "pickle.npz": r"is no \.npz archive",
    }
    for name, found in words.items():
        with pytest.raises(InvalidInput, match=rf"^{re.escape(name)}.*{found}") as caught:
            read_matrix(tmp_path / name)
        assert "allow_pickle" not in str(caught.value)


def test_an_archive_of_several_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    with pytest.raises(InvalidInput, match="2 arrays"):
        read_matrix(tmp_path / "two.npz")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(InvalidInput, match="0 arrays"):
        read_matrix(tmp_path / "none.npz")


DAMAGED = {
    "empty.npy": b"",
    "empty.npz": b"",
    "empty.csv": b"",
    "blank.txt": b"\n\n",
    "words.csv": b"a,b\n1,2\n",
    "ragged.csv": b"1,2\n3\n",
    "latin.csv": b"\xe9,1\n",
    "text.npy": b"1,2\n",
    "text.npz": b"1,2\n",
    "rows.json": b"[[1, 2]]",
    "rows": b"1 2\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_holds_no_array_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InvalidInput, match=name):
        read_matrix(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_cut_short_or_under_a_wrong_suffix_is_refused(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", np.arange(200.0)).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    other = {".npy": ".npz", ".npz": ".npy"}[suffix]
    (tmp_path / f"other{other}").write_bytes(whole)
    kind = {".npy": r"\.npy file", ".npz": r"\.npz archive"}[other]
    for name, words in ((f"cut{suffix}", "is cut short"), (f"other{other}", f"is no {kind}")):
        with pytest.raises(InvalidInput, match=f"{name} {words}"):
            read_matrix(tmp_path / name)


def test_npy_cut_at_any_byte_is_cut_short(tmp_path):
    whole = write(tmp_path / "whole.npy", np.arange(8.0)).read_bytes()
    for n in range(len(whole)):
        (tmp_path / "cut.npy").write_bytes(whole[:n])
        with pytest.raises(InvalidInput, match=r"^cut\.npy is cut short$"):
            read_matrix(tmp_path / "cut.npy")


# -- text ---------------------------------------------------------------------------------------------

PLAIN = r"without header and index \(pandas: header=False, index=False\)$"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("d", [2, 3, 7])
def test_what_a_data_frame_writes_around_its_numbers_is_refused(tmp_path, suffix, d):
    import pandas as pd

    rows = np.random.default_rng(d).standard_normal((5, d))
    separator = {".csv": ",", ".tsv": "\t", ".txt": " "}[suffix]
    path = tmp_path / f"rows{suffix}"
    for columns, header, index, words in (
        (None, False, False, None),
        (None, True, False, "row 0 is a header"),
        (list("abcdefg")[:d], True, False, "row 0 is not numbers"),
        (None, True, True, "row 0 is not numbers|row 1 has"),
        (None, False, True, "column 0 is an index"),
    ):
        pd.DataFrame(rows, columns=columns).to_csv(path, sep=separator, header=header, index=index)
        if words is None:
            assert_array_equal(read_matrix(path), rows)
            continue
        with pytest.raises(InvalidInput, match=rf"^rows\{suffix}: ({words}).*{PLAIN}"):
            read_matrix(path)


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n1,0\n1,1\n",  # multi-hot, two classes
        "0,1,2\n",  # labels in a row
        "0\n1\n2\n",  # labels in a column
        "0.0,1.0,2.0\n0.5,0.5,0.5\n",
        "0.0,5,5\n1.0,5,5\n2.0,5,5\n",
        "0,1,3\n0,1,2\n",
        "1,1,2\n2,3,4\n3,3,4\n",
        "# made by hand\n\n1,2\n3,4 # the last\n",
        "\ufeff1,2\r\n3,4\r\n",
    ],
)
def test_what_only_looks_like_a_count_is_read(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    lines = [line.partition("#")[0] for line in text.lstrip("\ufeff").splitlines()]
    assert_array_equal(read_matrix(path), [[*map(float, line.split(","))] for line in lines if line.strip()])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3,x\n", "row 1, column 1 is 'x', not a number"),
        ("1,2\n\n# a\n3,4\n,6\n", "row 2, column 0 is '', not a number"),
        ("1,2\n3,4\n5\n", "row 2 has 1 columns, row 0 has 2"),
        ("1,2\n3,\x1b[31m" + "y" * 999, r"row 1, column 1 is '\[31my{1,40}', not a number"),
        ("1_0,2\n", "row 0 is not numbers"),
        ("cat\ndog\n", r"row 0 is not numbers; number names: np\.unique\(names, return_inverse=True\)\[1\]"),
        ("id,x\na,1\nb,2\n", "row 0 is not numbers; write the file without header and index"),
        ("# nothing else\n", "is empty"),
    ],
)
def test_the_place_of_what_is_no_number_is_told_from_0_on(tmp_path, text, words):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InvalidInput, match=rf"^rows\.csv:? {words}"):
        read_matrix(tmp_path / "rows.csv")


# -- any format ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", BINARY)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, np.uint16, np.int64])
def test_the_type_of_the_numbers_is_kept(tmp_path, suffix, dtype):
    rows = np.random.default_rng(0).integers(0, 100, (7, 3)).astype(dtype)
    found = read_matrix(write(tmp_path / f"rows{suffix}", rows))
    assert found.dtype == dtype
    assert_array_equal(found, rows)


@pytest.mark.parametrize("suffix", BINARY)
def test_one_row_and_one_column_stay_matrices(tmp_path, suffix):
    for shape in ((1, 4), (4, 1)):
        rows = np.arange(4.0).reshape(shape)
        assert_array_equal(read_matrix(write(tmp_path / f"rows{suffix}", rows)), rows)


@pytest.mark.parametrize("suffix", BINARY)
def test_a_file_cut_anywhere_or_under_another_suffix_is_refused(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", np.random.default_rng(0).standard_normal((50, 4))).read_bytes()
    for share in (0.0, 0.02, 0.3, 0.5, 0.9):
        (tmp_path / f"cut{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InvalidInput, match=f"cut{suffix}"):
            read_matrix(tmp_path / f"cut{suffix}")
    for other in {".npy", ".npz", ".parquet", ".mat", ".csv"} - {suffix.removeprefix(".v73")}:
        (tmp_path / f"other{other}").write_bytes(whole)
        with pytest.raises((InvalidInput, MissingDependency), match=f"other{other}"):
            read_matrix(tmp_path / f"other{other}")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The bytes of a small matrix in each binary format."""
    folder = tmp_path_factory.mktemp("wholes")
    rows = np.random.default_rng(0).standard_normal((6, 3))
    return folder, {suffix: write(folder / f"rows{suffix}", rows).read_bytes() for suffix in BINARY}


@pytest.mark.parametrize("suffix", BINARY)
def test_changed_bytes_give_a_matrix_or_a_refusal_and_nothing_else(wholes, suffix):
    folder, contents = wholes

    @fixed
    @given(st.lists(st.tuples(st.integers(0, len(contents[suffix]) - 1), st.integers(0, 255)), max_size=4))
    def check(changes):
        content = bytearray(contents[suffix])
        for place, value in changes:
            content[place] = value
        path = folder / f"changed{suffix}"
        path.write_bytes(content)
        try:
            found = read_matrix(path)
        except InvalidInput as error:
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert isinstance(found, np.ndarray)
        path.unlink()

    check()


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".v73.mat", ".parquet"])
def test_one_of_several_is_named(tmp_path, suffix):
    first, second = np.arange(4.0), np.arange(4.0, 8.0)
    path = tmp_path / f"both{suffix}"
    if suffix == ".npz":
        np.savez(path, first=first[:, None], second=second[:, None])
    elif suffix == ".parquet":
        write_parquet(path, {"first": first, "second": second})
    elif suffix == ".mat":
        savemat(path, {"first": first[:, None], "second": second[:, None]})
    else:
        write_mat73(path, {"first": first, "second": second})
    assert_array_equal(read_matrix(Path(f"{path}:first")), first[:, None])
    found = read_matrix(Path(f"{path}:second"), labels=True)
    assert found.dtype == np.int64
    assert_array_equal(found, second)
    with pytest.raises(InvalidInput, match=r"no (array|variable|column) 'third'; it holds: first, second"):
        read_matrix(Path(f"{path}:third"))
    if suffix != ".parquet":
        with pytest.raises(InvalidInput, match=r"holds 2 .*name one as both.*:NAME, of first, second"):
            read_matrix(path)
    with pytest.raises(MissingData, match=r"gone\.\w+ does not exist"):
        read_matrix(tmp_path / f"gone{path.suffix}:first")


def test_an_array_may_lie_beside_one_that_cannot_be_read(tmp_path):
    np.savez(tmp_path / "mixed.npz", **{"a/b": ROWS, "boxed": np.array([None])})
    assert_array_equal(read_matrix(tmp_path / "mixed.npz:a/b"), ROWS)
    with pytest.raises(InvalidInput, match=r"mixed\.npz"):
        read_matrix(tmp_path / "mixed.npz:boxed")


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path):
    np.savez(tmp_path / "two.npz", **{"a\x1b[31m": ROWS, "b\n": ROWS})
    with pytest.raises(InvalidInput) as caught:
        read_matrix(tmp_path / "two.npz")
    assert str(caught.value).isprintable()


def test_a_colon_in_the_name_of_a_file_is_part_of_it(tmp_path):
    (tmp_path / "a.npz:b").mkdir()
    assert_array_equal(read_matrix(write(tmp_path / "a.npz:b" / "rows.npy", ROWS)), ROWS)


# -- .npy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped_and_not_read(tmp_path, order):
    path = write(tmp_path / "rows.npy", np.asarray(ROWS, order=order))
    found = read_matrix(path)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    assert_array_equal(found, ROWS)


def test_a_gallery_larger_than_memory_can_be_opened(tmp_path):
    path = tmp_path / "huge.npy"
    shape = (2**31, 128)  # a terabyte
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + 4 * shape[0] * shape[1])  # holes take no room
    found = read_matrix(path)
    assert found.shape == shape and found.dtype == np.float32 and not found[-1].any()


def test_labels_are_in_memory_and_own_their_numbers(tmp_path):
    found = read_matrix(write(tmp_path / "labels.npy", np.arange(5)), labels=True)
    assert not isinstance(found, np.memmap) and found.flags.writeable


# -- Parquet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list_", "large_list", "fixed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_a_column_of_lists_is_a_matrix(tmp_path, kind, dtype):
    pa = needs("pyarrow", "parquet")
    rows = np.random.default_rng(0).integers(0, 50, (11, 4)).astype(dtype)
    value = pa.from_numpy_dtype(dtype)
    made = pa.list_(value, 4) if kind == "fixed" else getattr(pa, kind)(value)
    column = pa.chunked_array([pa.array(list(part), type=made) for part in (rows[:3], rows[3:])])
    path = write_parquet(tmp_path / "lists.parquet", {"vector": column}, row_group_size=4)
    found = read_matrix(path)
    assert found.dtype == dtype
    assert_array_equal(found, rows)
    both = write_parquet(tmp_path / "both.parquet", {"id": ["a"] * 11, "vector": column, "label": range(11)})
    assert_array_equal(read_matrix(Path(f"{both}:vector")), rows)
    assert_array_equal(read_matrix(Path(f"{both}:label"), labels=True), np.arange(11))
    with pytest.raises(InvalidInput, match="column 'id' holds string"):
        read_matrix(both)


def test_the_index_of_a_data_frame_is_no_dimension(tmp_path):
    needs("pyarrow", "parquet")
    import pandas as pd

    table = pd.DataFrame(ROWS, columns=["a", "b"])
    table.to_parquet(tmp_path / "range.parquet")
    table.set_index(pd.Index([7, 3, 5])).to_parquet(tmp_path / "unnamed.parquet")
    table.set_index(pd.Index(["x", "y", "z"], name="id")).to_parquet(tmp_path / "named.parquet")
    for name in ("range", "unnamed", "named"):
        assert_array_equal(read_matrix(tmp_path / f"{name}.parquet"), ROWS)


def test_columns_of_different_types_become_the_type_that_holds_both(tmp_path):
    path = write_parquet(
        tmp_path / "mixed.parquet", {"a": np.arange(3, dtype=np.int8), "b.c": np.float32([0.5, 1, 2])}
    )
    assert read_matrix(path).dtype == np.float32
    assert_array_equal(read_matrix(path), [[0, 0.5], [1, 1], [2, 2]])
    assert_array_equal(read_matrix(Path(f"{path}:b.c")), [[0.5], [1], [2]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, None, 2.0]}, "1 missing values in column 'a'"),
        ({"a": [[1.0, 2.0], None]}, "1 missing values"),
        ({"a": [[1.0, None], [None, 2.0]]}, "2 missing values"),
        ({"a": [[1.0, 2.0], [3.0]]}, "lengths from 1 to 2"),
        ({"a": ["x", "y"]}, "column 'a' holds string"),
        ({"a": [["x"], ["y"]]}, "column 'a' holds list"),
        ({"a": [[1.0], [2.0]], "b": [1, 2]}, "column 'a' holds list"),
        ({"a": [{"b": 1}]}, "column 'a' holds struct"),
        ({}, "no column"),
    ],
)
def test_parquet_that_is_no_matrix_is_refused_in_words(tmp_path, columns, message):
    path = write_parquet(tmp_path / "wrong.parquet", columns)
    with pytest.raises(InvalidInput, match=rf"wrong\.parquet.*{message}"):
        read_matrix(path)


def test_columns_of_one_name_are_refused(tmp_path):
    pa = needs("pyarrow", "parquet")
    table = pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"])
    needs("pyarrow.parquet", "parquet").write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(InvalidInput, match="same name"):
        read_matrix(tmp_path / "twice.parquet")


def test_a_folder_s_name_adds_no_column(tmp_path):
    (tmp_path / "year=2020").mkdir()
    assert_array_equal(read_matrix(write(tmp_path / "year=2020" / "rows.parquet", ROWS)), ROWS)


# -- MATLAB -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mat", ".v73.mat"])
def test_the_variables_of_a_matlab_file_are_named(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    made = {"first": ROWS, "second": ROWS.astype(np.float32)}
    if suffix == ".mat":
        savemat(path, {**made, "names": "words", "cells": np.array([ROWS, "x"], dtype=object)})
    else:
        write_mat73(path, made)
    found = variables(path)
    assert set(made) <= set(found)
    assert found["first"] == "double"
    if suffix == ".mat":
        assert (found["second"], found["names"], found["cells"]) == ("single", "char", "cell")


@pytest.mark.parametrize("content", [b"", b"MATLAB", b"<html>" * 100, bytes(600)])
def test_a_file_without_variables_is_refused(tmp_path, content):
    path = tmp_path / "data.mat"
    with pytest.raises(MissingData, match="does not exist"):
        variables(path)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"data\.mat cannot be read as a \.mat file"):
        variables(path)


@pytest.mark.parametrize("suffix", [".mat", ".v73.mat"])
@pytest.mark.parametrize("shape", [(5, 1), (1, 5)])
def test_labels_of_matlab_are_doubles_in_a_row_or_a_column(tmp_path, suffix, shape):
    path = write(tmp_path / f"labels{suffix}", np.array([3.0, 1, 2, 2, 1]).reshape(shape))
    found = read_matrix(path, labels=True)
    assert found.dtype == np.int64
    assert_array_equal(found, [3, 1, 2, 2, 1])


@pytest.mark.parametrize("suffix", [".mat", ".v73.mat"])
def test_a_logical_matrix_is_multi_hot(tmp_path, suffix):
    hot = np.eye(3, dtype=bool)[[0, 2, 1, 1]]
    assert_array_equal(read_matrix(write(tmp_path / f"hot{suffix}", hot), labels=True), hot)


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("compressed", [False, True])
def test_older_versions_and_compression(tmp_path, version, compressed):
    path = tmp_path / "rows.mat"
    savemat(path, {"rows": ROWS}, format=version, do_compression=compressed and version == "5")
    assert_array_equal(read_matrix(path), ROWS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (csc_matrix(ROWS), r"sparse.*full\("),
        (ROWS + 1j, "complex"),
        (np.array([[1, "a"]], dtype=object), r"cell.*cell2mat\("),
        ("words", "char"),
        ({"a": 1.0}, "struct"),
        (np.zeros((2, 3, 4)), "3 dimensions"),
    ],
    ids=["sparse", "complex", "cell", "char", "struct", "cube"],
)
def test_what_matlab_holds_besides_matrices_is_refused_in_words(tmp_path, value, message):
    savemat(tmp_path / "wrong.mat", {"x": value})
    with pytest.raises(InvalidInput, match=rf"wrong\.mat: variable 'x' .*{message}"):
        read_matrix(tmp_path / "wrong.mat")


@pytest.mark.parametrize("case", ["sparse", "struct", "cell", "char", "complex", "cube", "empty", "plain"])
def test_what_version_73_holds_besides_matrices_is_refused_in_words(tmp_path, case):
    h5py = needs("h5py", "mat73")
    path = tmp_path / "wrong.mat"
    words = {"cube": "3 dimensions", "plain": "no MATLAB type"}.get(case, case)
    with h5py.File(path, "w", userblock_size=512) as file:
        if case in ("sparse", "struct"):
            group = file.create_group("x")
            group["data"] = ROWS
            group.attrs["MATLAB_class"] = np.bytes_("double" if case == "sparse" else "struct")
            if case == "sparse":
                group.attrs["MATLAB_sparse"] = 3
        else:
            pair = np.zeros((2, 2), dtype=[("real", "f8"), ("imag", "f8")])
            values = {"complex": pair, "cube": np.zeros((2, 2, 2)), "empty": np.array([0, 2])}
            file["x"] = values.get(case, np.zeros((2, 2)))
            if case != "plain":
                file["x"].attrs["MATLAB_class"] = np.bytes_(case if case in ("cell", "char") else "double")
            if case == "empty":
                file["x"].attrs["MATLAB_empty"] = 1
        file.create_group("#refs#")
    with pytest.raises(InvalidInput, match=rf"wrong\.mat: variable 'x' .*{words}"):
        read_matrix(path)


# -- extras -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "module", "extra"), [(".parquet", "pyarrow", "parquet"), (".v73.mat", "h5py", "mat73")]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, suffix, module, extra):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    monkeypatch.setattr(matrices, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=rf"rows{suffix} needs {module}; .*'xmbench\[{extra}\]'"):
        read_matrix(path)
    assert_array_equal(read_matrix(write(tmp_path / "old.mat", ROWS)), ROWS)


# -- the command --------------------------------------------------------------------------------------


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.mark.parametrize("suffix", BINARY)
@pytest.mark.parametrize("hot", [False, True], ids=["single", "multi-hot"])
def test_evaluate_scores_every_format_alike(tmp_path, monkeypatch, capsys, suffix, hot):
    images, texts = np.random.default_rng(0).standard_normal((2, 20, 4))
    labels = np.arange(20) % 4
    labels = np.eye(4, dtype=int)[labels] if hot else labels
    arguments = [write(tmp_path / f"{name}{suffix}", array) for name, array in
                 (("images", images), ("texts", texts), ("labels", labels.astype(float)))]  # fmt: skip
    code, out, err = call(monkeypatch, capsys, "evaluate", *arguments[:2], "--labels", arguments[2], "--json")
    assert (code, err) == (0, "")
    expected = evaluate(images, texts, labels)
    for task, row in json.loads(out)["tasks"].items():
        assert row["mean_average_precision"] == expected.tasks[task].mean_average_precision


def test_evaluate_takes_three_variables_of_one_file(tmp_path, monkeypatch, capsys):
    images, texts = np.random.default_rng(0).standard_normal((2, 20, 4))
    labels = np.arange(20) % 4 + 1
    path = tmp_path / "all.mat"
    savemat(path, {"I_te": images, "T_te": texts, "L_te": labels[:, None].astype(float)})
    named = [f"{path}:{name}" for name in ("I_te", "T_te", "L_te")]
    code, out, err = call(monkeypatch, capsys, "evaluate", *named[:2], "--labels", named[2], "--json")
    assert (code, err) == (0, "")
    row = json.loads(out)["tasks"]["image->text"]
    assert (
        row["mean_average_precision"]
        == evaluate(images, texts, labels).tasks["image->text"].mean_average_precision
    )
    code, out, err = call(monkeypatch, capsys, "evaluate", path, named[1], "--labels", named[2])
    assert (code, out) == (2, "") and "I_te, L_te, T_te" in err and len(err.splitlines()) == 1


def test_the_help_names_every_format(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "evaluate", "--help")
    assert code == 0 and all(suffix in out for suffix in matrices._READERS)


def test_the_features_that_came_with_wikipedia_are_read(data_dir):
    """Written by MATLAB itself: 2,173 training and 693 test items, 128 SIFT words and 10 topics."""
    path = data_dir / "wikipedia/wikipedia_dataset/raw_features.mat"
    for part, n in (("tr", 2173), ("te", 693)):
        images, texts = (read_matrix(Path(f"{path}:{letter}_{part}")) for letter in "IT")
        assert images.shape == (n, 128) and texts.shape == (n, 10)
        assert np.isfinite(images).all() and np.isfinite(texts).all()
