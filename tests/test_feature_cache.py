"""Matrices on disk: what a kill, a second process, a full disk or a flipped bit leave is right or made again."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from xmbench.features import _cache
from xmbench.features._cache import Partial, obtain, read

N, SIZE, WIDTH = 23, 5, 3


def rows(start: int, stop: int) -> np.ndarray:
    """Feature rows that tell which they are."""
    return np.arange(start * WIDTH, stop * WIDTH, dtype=np.float32).reshape(-1, WIDTH) / 7


ALL = rows(0, N)


class Encoder:
    """Remembers which rows were asked for."""

    def __init__(self, factor: float = 1.0, stop_at: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.factor, self.stop_at = np.float32(factor), stop_at

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if self.stop_at is not None and start >= self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        return rows(start, stop) * self.factor


def made(
    path: Path, encode=rows, *, n: int = N, size: int = SIZE, device: str = "cpu", learned: bool = False
):
    def waiting() -> None:
        raise AssertionError("nobody else is at work")

    return obtain(path, n, encode, size=size, device=device, learned=learned, waiting=waiting)


def stopped(path: Path, at: int, **options) -> None:
    """Leave behind what an interrupt before row ``at`` leaves."""
    with pytest.raises(KeyboardInterrupt):
        made(path, Encoder(stop_at=at), **options)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- whole matrices ---------------------------------------------------------------------------------


def test_a_matrix_is_made_once_and_mapped_read_only(tmp_path):
    path, encode = tmp_path / "deep" / "m.npy", Encoder()
    first, encoded = made(path, encode)
    assert encoded == N and encode.asked == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    second, encoded = made(path, encode)
    assert encoded == 0 and len(encode.asked) == 5
    for matrix in (first, second, np.load(path, allow_pickle=False), read(path, N)):
        assert_array_equal(matrix, ALL)
        assert matrix.dtype == np.float32
    assert isinstance(second, np.memmap) and not second.flags.writeable
    assert names(path.parent) == {"m.npy", "m.json"}


@pytest.mark.parametrize("seed", range(20))
def test_matrices_of_any_shape_come_back(tmp_path, seed):
    generator = np.random.default_rng(seed)
    n, width, size = (int(value) for value in generator.integers(1, 40, 3))
    whole = generator.standard_normal((n, width)).astype(np.float32)
    for _ in range(2):
        matrix, _ = made(tmp_path / "m.npy", lambda start, stop: whole[start:stop], n=n, size=size)
        assert_array_equal(matrix, whole)


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_bit_is_noticed(tmp_path, caplog, seed):
    """Even one that leaves size and times of the file as they were."""
    path, generator = tmp_path / "m.npy", np.random.default_rng(seed)
    made(path)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[generator.integers(0, len(content))] ^= 1 << int(generator.integers(0, 8))
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        matrix, encoded = made(path)
    assert encoded == N and "m.npy is damaged" in caplog.text
    assert_array_equal(matrix, ALL)
    assert made(path)[1] == 0


STATES = {
    "missing": None,
    "empty": b"",
    "no JSON": b"\x80\x04",
    "a list": b"[]",
    "a number": b"3",
    "other rows": {"rows": N - 1},
    "no columns": {"columns": 0},
    "many columns": {"columns": 10**18},
    "columns in words": {"columns": "3"},
    "a fraction": {"columns": 3.0},
    "chunks of none": {"size": 0},
    "huge chunks": {"size": 10**18, "crc32": [1]},
    "truth": {"size": True},
    "a checksum too few": {"crc32": [1] * 4},
    "a checksum too many": {"crc32": [1] * 6},
    "other checksums": {"crc32": [1] * 5},
    "no list of checksums": {"crc32": 5},
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("name", STATES)
def test_checksums_that_do_not_fit_make_the_matrix_anew(tmp_path, caplog, name):
    path = tmp_path / "m.npy"
    made(path)
    beside, wrong = path.with_suffix(".json"), STATES[name]
    if wrong is None:
        beside.unlink()
    else:
        state = json.loads(beside.read_bytes())
        beside.write_bytes(wrong if isinstance(wrong, bytes) else json.dumps({**state, **wrong}).encode())
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        matrix, encoded = made(path)
    assert encoded == N and len(caplog.records) == 1
    assert_array_equal(matrix, ALL)
    assert made(path)[1] == 0


def test_a_matrix_that_is_mapped_stays_as_it_is_when_it_is_made_anew(tmp_path):
    path = tmp_path / "m.npy"
    first, _ = made(path)
    path.with_suffix(".json").unlink()
    second, _ = made(path, Encoder(2.0))
    assert_array_equal(first, ALL)
    assert_array_equal(second, ALL * np.float32(2))


# -- matrices that were begun -----------------------------------------------------------------------


@pytest.mark.parametrize("at", [5, 10, 15, 20])
def test_an_interrupted_matrix_is_gone_on_with(tmp_path, at):
    path, encode = tmp_path / "m.npy", Encoder()
    stopped(path, at)
    assert names(tmp_path) == {"m.npy.part", "m.npy.part.json"}
    assert read(path, N) is None
    matrix, encoded = made(path, encode)
    assert encoded == N - at and encode.asked[0][0] == at
    assert_array_equal(matrix, ALL)
    assert names(tmp_path) == {"m.npy", "m.json"}


def test_before_the_first_chunk_nothing_is_left(tmp_path):
    stopped(tmp_path / "m.npy", 0)
    assert not names(tmp_path)


@pytest.mark.parametrize("seed", range(30))
def test_what_was_torn_or_damaged_is_made_again(tmp_path, seed):
    """A part that lost its end, got some more, or has another byte somewhere."""
    generator, path = np.random.default_rng(seed), tmp_path / "m.npy"
    stopped(path, 15)
    part = tmp_path / "m.npy.part"
    content = bytearray(part.read_bytes())
    place = int(generator.integers(0, len(content)))
    if seed % 3 == 0:
        del content[place:]
    elif seed % 3 == 1:
        content += generator.bytes(place)
    else:
        content[place] ^= 255
    part.write_bytes(content)
    encode = Encoder()
    matrix, encoded = made(path, encode)
    assert_array_equal(matrix, ALL)
    header = 128
    whole = 15 if seed % 3 == 1 else max(0, place - header) // (SIZE * WIDTH * 4) * SIZE
    assert encoded == N - (0 if place < header and seed % 3 != 1 else whole)
    assert_array_equal(np.load(path), ALL)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", None])
def test_without_its_state_a_part_is_begun_anew(tmp_path, content):
    path = tmp_path / "m.npy"
    stopped(path, 15)
    state = tmp_path / "m.npy.part.json"
    state.unlink() if content is None else state.write_bytes(content)
    matrix, encoded = made(path)
    assert encoded == N
    assert_array_equal(matrix, ALL)


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"size": 4}, {"n": N - 1}])
def test_rows_of_another_device_or_cut_are_not_gone_on_with(tmp_path, other):
    path = tmp_path / "m.npy"
    stopped(path, 15, **other)
    matrix, encoded = made(path)
    assert encoded == N
    assert_array_equal(matrix, ALL)


def test_a_model_that_is_learned_again_the_same_goes_on(tmp_path):
    path, encode = tmp_path / "m.npy", Encoder()
    stopped(path, 15, learned=True)
    matrix, encoded = made(path, encode, learned=True)
    assert encode.asked[:2] == [(10, 15), (15, 20)] and encoded == N - 15
    assert_array_equal(matrix, ALL)


def test_rows_of_two_models_are_never_mixed(tmp_path, caplog):
    path = tmp_path / "m.npy"
    stopped(path, 15, learned=True)
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        matrix, encoded = made(path, Encoder(1.0001), learned=True)
    assert encoded == N and "starting anew" in caplog.text
    assert_array_equal(matrix, ALL * np.float32(1.0001))
    assert_array_equal(np.load(path), matrix)


# -- several processes ------------------------------------------------------------------------------

CODE = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from xmbench.features._cache import obtain
path, log, pause, kill_at, limit = Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:6])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
def encode(start, stop):
    if kill_at >= 0 and start >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    with log.open("a") as stream:
        stream.write(f"{start} {stop}\\n")
    time.sleep(pause)
    return np.arange(start * 3, stop * 3, dtype=np.float32).reshape(-1, 3) / 7
matrix, encoded = obtain(path, 23, encode, size=5, device="cpu", learned=False, waiting=lambda: None)
assert np.array_equal(matrix, np.arange(69, dtype=np.float32).reshape(-1, 3) / 7)
print(encoded)
"""


def start(path: Path, log: Path, pause: float = 0.0, kill_at: int = -1, limit: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(CODE), path, log, pause, kill_at, limit]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.strip(), err


def test_a_killed_process_leaves_what_it_had(tmp_path):
    path, log = tmp_path / "cache" / "m.npy", tmp_path / "log"
    assert ended(start(path, log, kill_at=10))[0] == -signal.SIGKILL
    encode = Encoder()
    matrix, encoded = made(path, encode)
    assert encoded == N - 10 and encode.asked[0][0] == 10
    assert_array_equal(matrix, ALL)


def test_where_a_matrix_is_gone_on_with_is_told_once(tmp_path):
    told: list[int] = []
    options = {"size": 5, "device": "cpu", "learned": False, "waiting": lambda: None, "resuming": told.append}
    stopped(tmp_path / "m.npy", 10)
    for _ in range(2):  # the second finds it whole
        obtain(tmp_path / "m.npy", N, Encoder(), **options)
    obtain(tmp_path / "other.npy", N, Encoder(), **options)
    assert told == [10]


def test_processes_that_want_the_same_matrix_make_it_once(tmp_path):
    path, log = tmp_path / "cache" / "m.npy", tmp_path / "log"
    results = [ended(process) for process in [start(path, log, pause=0.3) for _ in range(3)]]
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert sorted(int(out) for _, out, _ in results) == [0, 0, N]
    assert sorted(log.read_text().splitlines()) == sorted(
        f"{begin} {min(begin + 5, N)}" for begin in range(0, N, 5)
    )
    assert names(path.parent) == {"m.npy", "m.json"}


def test_a_process_that_waits_goes_on_where_the_killed_one_stopped(tmp_path):
    path, log = tmp_path / "cache" / "m.npy", tmp_path / "log"
    first = start(path, log, pause=0.4, kill_at=15)
    while not log.exists():
        assert first.poll() is None
        time.sleep(0.02)
    second = start(path, log)
    assert ended(first)[0] == -signal.SIGKILL
    code, out, err = ended(second)
    assert (code, out) == (0, str(N - 15)), err
    assert len(log.read_text().splitlines()) == 5


# -- places that cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize("limit", [60, 100, 150, 200, 300, 390])
def test_where_there_is_no_room_left_the_rows_are_made_in_memory(tmp_path, limit):
    """A limit on the size of files stands for the end of the disk."""
    path, log = tmp_path / "cache" / "m.npy", tmp_path / "log"
    code, out, err = ended(start(path, log, limit=limit))
    assert (code, out) == (0, str(N)), err
    assert "cannot be kept" in err
    assert len(log.read_text().splitlines()) == 5  # no chunk is made twice
    assert not names(path.parent)


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        matrix, encoded = made(tmp_path / "file" / "m.npy")
    assert encoded == N and "cannot be kept" in caplog.text
    assert_array_equal(matrix, ALL)


def test_where_files_cannot_be_locked_each_process_has_its_own(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    matrix, encoded = made(tmp_path / "m.npy")
    assert encoded == N and made(tmp_path / "m.npy")[1] == 0
    assert_array_equal(matrix, ALL)
    assert names(tmp_path) == {"m.npy", "m.json"}


def test_a_matrix_that_appears_while_this_process_begins_is_taken(tmp_path, monkeypatch):
    path = tmp_path / "m.npy"

    def slow(*arguments: object) -> Partial:
        monkeypatch.undo()
        made(path)  # the other process
        return Partial(*arguments)

    monkeypatch.setattr(_cache, "Partial", slow)
    encode = Encoder()
    matrix, encoded = made(path, encode)
    assert encoded == 0 and not encode.asked
    assert_array_equal(matrix, ALL)
    assert names(tmp_path) == {"m.npy", "m.json"}
