"""Files that are whole or absent, archives that are bytes and nothing else, and digests."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from xmbench._io import (
    ID_LENGTH,
    atomic_write,
    canonical_json,
    digest,
    file_digest,
    files_digest,
    npz_bytes,
    read_npz,
    scratch_folder,
    short_id,
)

# -- writing ----------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, b"one")
    assert path.read_bytes() == b"one"
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise error("disk full")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(error):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


KILLED = """
import os, pathlib, sys
from xmbench._io import atomic_write
os.fsync = lambda descriptor: os._exit(9)  # as a kill would, with the new bytes half-way
atomic_write(pathlib.Path(sys.argv[1]), b"new")
"""


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"
    atomic_write(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    both_have_written = threading.Barrier(2, timeout=10)
    fsync = os.fsync

    def meet(descriptor):
        fsync(descriptor)
        both_have_written.wait()

    monkeypatch.setattr(os, "fsync", meet)
    errors: list[Exception] = []

    def write(data: bytes) -> None:
        try:
            atomic_write(path, data)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


# -- archives ---------------------------------------------------------------------------------------

ARRAYS = {
    "floats": np.random.default_rng(0).standard_normal((20, 5)),
    "labels": np.arange(7, dtype=np.int16),
    "flags": np.array([True, False]),
    "names": np.array(["a", "längeres"]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "big_endian": np.arange(3, dtype=">i4"),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def test_arrays_come_back_as_they_were(tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz_bytes(ARRAYS))
    found = read_npz(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert_array_equal(found[name], array, strict=True)


def test_numpy_reads_the_archive_too(tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz_bytes(ARRAYS))
    with np.load(path, allow_pickle=False) as archive:
        assert_array_equal(archive["floats"], ARRAYS["floats"])


def test_equal_arrays_give_equal_bytes_whatever_their_order_and_the_time(tmp_path):
    data = npz_bytes(ARRAYS)
    assert npz_bytes(dict(reversed(ARRAYS.items()))) == data
    path = tmp_path / "arrays.npz"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(f"{name}.npy" for name in ARRAYS)
    assert npz_bytes(read_npz(path)) == data
    assert npz_bytes({**ARRAYS, "scalar": np.array(3.25)}) != data


@pytest.mark.parametrize(
    "array", [np.array([None, 1]), np.array([{}], dtype=object), np.zeros(2, dtype=[("a", object)])]
)
def test_objects_are_refused_when_writing(array):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npz_bytes({"objects": array})


def test_objects_are_refused_when_reading(tmp_path):
    np.savez(tmp_path / "objects.npz", objects=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(tmp_path / "objects.npz")


WHOLE = npz_bytes(ARRAYS)


def a_zip_of(tmp_path, name: str, data: bytes) -> bytes:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr(name, data)
    return (tmp_path / "other.zip").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"PK\x03\x04",
        WHOLE[1:],
        WHOLE[:-1],
        WHOLE + b"\0" * 70000,
        pickle.dumps({"a": 1}),
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x05\x00{'a':",
    ],
    ids=[
        "empty",
        "zeros",
        "html",
        "magic",
        "headless",
        "tailless",
        "padded",
        "pickle",
        "npy",
        "npy header",
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, data):
    path = tmp_path / "arrays.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"arrays\.npz|pickle"):
        read_npz(path)


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npy is not a readable \.npz file"):
        read_npz(tmp_path / "array.npy")


@pytest.mark.parametrize("name", ["readme.txt", "header"])
def test_an_archive_of_something_else_is_refused(tmp_path, name):
    path = tmp_path / "arrays.npz"
    path.write_bytes(a_zip_of(tmp_path, name, b"text"))
    with pytest.raises(ValueError, match=r"arrays\.npz"):
        read_npz(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "arrays.npz"
    for length in range(0, len(WHOLE), 41):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(ValueError, match=r"npz|pickle"):
            read_npz(path)


def test_flipped_bytes_are_refused_or_harmless(tmp_path):
    """Whatever zip, zlib and numpy make of the damage, the caller sees arrays or a ValueError."""
    path = tmp_path / "arrays.npz"
    refused = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        data = bytearray(WHOLE)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            found = read_npz(path)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
            for name in found.keys() & ARRAYS.keys():
                assert_array_equal(found[name], ARRAYS[name])
    assert refused > 100


def test_a_missing_file_is_missing_and_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "arrays.npz")


# -- digests ----------------------------------------------------------------------------------------


def test_json_is_sorted_compact_and_ascii():
    assert canonical_json({"b": [1, 2.5, None, True], "a": {"d": "ü", "c": ()}}) == (
        rb'{"a":{"c":[],"d":"\u00fc"},"b":[1,2.5,null,true]}'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused(value):
    for nested in (value, [value], {"a": {"b": value}}):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json(nested)
        with pytest.raises(ValueError, match="JSON"):
            short_id(nested)


def test_digests_are_those_of_the_json():
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert short_id({"a": 1}) == digest({"a": 1})[:ID_LENGTH]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_the_digest_of_files_knows_names_and_bytes_and_no_order(tmp_path):
    paths = [tmp_path / "a" / "one.txt", tmp_path / "two.txt"]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode())
    before = files_digest(tmp_path, paths)
    assert file_digest(paths[1]) == hashlib.sha256(b"two.txt").hexdigest()
    assert files_digest(tmp_path, paths[::-1]) == before
    assert files_digest(tmp_path, paths[1:]) != before
    renamed = paths[0].rename(tmp_path / "a" / "three.txt")
    assert files_digest(tmp_path, [renamed, paths[1]]) != before
    renamed.rename(paths[0])
    assert files_digest(tmp_path, paths) == before
    paths[1].write_bytes(b"other")
    assert files_digest(tmp_path, paths) != before


LEFT_BEHIND = """
import os, signal, sys
from xmbench._io import scratch_folder
with scratch_folder() as folder:
    (folder / "data").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_scratch_folders_of_killed_processes_go_and_others_stay(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    strange = [tmp_path / "xmbench-of-somebody", tmp_path / "other-folder"]
    for folder in strange:
        folder.mkdir()
    (strange[1] / "owner").touch()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", LEFT_BEHIND]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        left = tmp_path / process.stdout.readline().strip()
        with scratch_folder() as mine:
            assert left.is_dir() and mine.is_dir()  # its owner is alive
        assert not mine.exists()
        process.communicate("\n")
    assert (left / "data").exists()
    with scratch_folder(), scratch_folder():
        assert not left.exists()
        assert len(list(tmp_path.glob("xmbench-*/owner"))) == 2
    assert sorted(tmp_path.iterdir()) == sorted(strange)


def test_a_scratch_folder_goes_when_its_block_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), scratch_folder() as folder:
        (folder / "data").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
