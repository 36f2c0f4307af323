"""Feature matrices on disk: made chunk by chunk, gone on with after a kill, checked, mapped into memory.

A finished matrix is ``NAME.npy`` with ``NAME.json`` beside it, which holds the CRC-32 of every chunk; each reading
compares them all (3 GB a second). One that is being made is ``NAME.npy.part``, which its maker locks, with
``NAME.npy.part.json``; the rename to ``NAME.npy`` comes last.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from xmbench._io import atomic_write, canonical_json

log = logging.getLogger("xmbench")

Matrix = NDArray[np.float32]
Encode = Callable[[int, int], Matrix]
"""(start, stop) -> the feature rows of these items, checked, (stop - start, d)."""


def obtain(
    path: Path,
    n: int,
    encode: Encode,
    *,
    size: int,
    device: str,
    learned: bool,
    waiting: Callable[[], None],
    resuming: Callable[[int], None] = lambda row: None,
) -> tuple[Matrix, int]:
    """The (n, d) matrix kept at ``path``, made first where it is not there, and how many rows were encoded.

    A matrix that was begun on the same device is gone on with; if its encoder was ``learned``, only if the encoder
    gives the last chunk again to the bit. While another process makes it, this one waits. Where nothing can be
    written, a warning says so and the rows are made in memory.

    Args:
        path: the ``.npy`` file.
        n: number of rows, at least 1.
        encode: makes rows.
        size: rows of a chunk.
        device: where rows are made.
        learned: whether the encoder was fitted just now.
        waiting: called again and again while another process makes the matrix.
        resuming: told the row from which a matrix that was begun is gone on with.
    """
    seen: object = ()
    while True:
        if (stamp := _stamp(path)) != seen:
            seen, matrix = stamp, read(path, n)
            if matrix is not None:
                return matrix, 0
        try:
            partial = Partial(path, n, size, device)
        except BlockingIOError:
            waiting()
            time.sleep(0.2)
            continue
        except OSError as error:
            _cannot_keep(error)
            return _in_memory(encode, n, size, []), n
        with partial.stream:
            if partial.overtaken():
                continue
            if _stamp(path) != seen:  # another process was faster
                partial.discard()
                continue
            return _make(partial, encode, learned, resuming)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _make(
    partial: Partial, encode: Encode, learned: bool, resuming: Callable[[int], None]
) -> tuple[Matrix, int]:
    """The matrix, and how many rows were encoded; what is whole is kept if that fails."""
    path, n, size = partial.target, partial.n, partial.size
    try:
        if learned and partial.checks:
            start = (len(partial.checks) - 1) * size
            if crc32(_packed(encode(start, min(start + size, n)))) != partial.checks[-1]:
                log.warning("%s was begun by a model that cannot be learned again; starting anew", path.name)
                partial.restart()
        before = partial.done
        if before:
            resuming(before)
        while partial.done < n:
            block = encode(partial.done, min(partial.done + size, n))
            try:
                partial.append(block)
            except OSError as error:
                _cannot_keep(error)
                blocks = [*partial.blocks(), block]
                partial.discard()
                return _in_memory(encode, n, size, blocks), n - before
        try:
            partial.finish()
        except OSError as error:
            _cannot_keep(error)
            blocks = list(partial.blocks())
            partial.discard()
            return np.concatenate(blocks), n - before
    except BaseException:
        if not partial.checks:
            partial.discard()
        raise
    return _mapped(path, n, partial.columns), n - before


def _in_memory(encode: Encode, n: int, size: int, blocks: list[Matrix]) -> Matrix:
    """The blocks there are and those that follow, one matrix."""
    done = sum(map(len, blocks))
    rest = [encode(start, min(start + size, n)) for start in range(done, n, size)]
    return np.concatenate([*blocks, *rest])


def _packed(block: Matrix) -> bytes:
    return np.ascontiguousarray(block, dtype="<f4").tobytes()


def _cannot_keep(error: OSError) -> None:
    log.warning("the features cannot be kept for the next time: %s", error)


# -- finished matrices ------------------------------------------------------------------------------


def read(path: Path, n: int) -> Matrix | None:
    """The (n, d) matrix at ``path``, mapped into memory; None where there is none that can be used."""
    try:
        with path.open("rb") as stream:
            problem, columns = _problem(stream, path, n)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = str(error)
    if problem:
        log.warning("the feature cache %s is damaged (%s); extracting again", path.name, problem)
        return None
    return _mapped(path, n, columns)


def _problem(stream: BinaryIO, path: Path, n: int) -> tuple[str, int]:
    """What is wrong with a finished file, empty if nothing is, and how many columns it has."""
    state = _state(path.with_suffix(".json"))
    if state is None or state["rows"] != n or len(state["crc32"]) != -(-n // state["size"]):
        return f"{path.with_suffix('.json').name} does not hold its checksums", 0
    columns, size = state["columns"], state["size"]
    header = _header(n, columns)
    if os.fstat(stream.fileno()).st_size != len(header) + 4 * n * columns:
        return "it has another size than it should", 0
    if stream.read(len(header)) != header:
        return "its header is not the expected one", 0
    for number, check in enumerate(state["crc32"]):
        first, last = number * size, min((number + 1) * size, n) - 1
        if crc32(stream.read(4 * (last + 1 - first) * columns)) != check:
            return f"the checksum of rows {first} to {last} differs", 0
    return "", columns


def _mapped(path: Path, n: int, columns: int) -> Matrix:
    offset = len(_header(n, columns))
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=(n, columns))


def _header(n: int, columns: int) -> bytes:
    buffer = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (n, columns)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def _state(path: Path) -> dict[str, Any] | None:
    """Rows, columns, rows of a chunk, device, and the CRC-32 of each chunk; None if that is not what it holds."""
    try:
        state = json.loads(path.read_bytes())
        numbers = [state["rows"], state["columns"], state["size"], *state["crc32"]]
        sound = isinstance(state["device"], str) and all(type(number) is int for number in numbers)
        return state if sound and min(numbers[:3]) > 0 else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


# -- matrices that are being made -------------------------------------------------------------------


class Partial:
    """A matrix that is being made, locked against other processes.

    Args:
        path: where the finished matrix will be.
        n: number of rows.
        size: rows of a chunk.
        device: where rows are made; those made elsewhere are not gone on with.

    Raises:
        BlockingIOError: another process makes it.
        OSError: files cannot be written there.
    """

    def __init__(self, path: Path, n: int, size: int, device: str) -> None:
        self.target, self.n, self.size, self.device = path, n, size, device
        self.path = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stream = self._locked()
        self.columns = 0
        self.checks: list[int] = []
        try:
            self._go_on()
        except OSError:
            self.stream.close()
            raise

    def _locked(self) -> BinaryIO:
        """The file, open and locked; where the file system has no locks, a file of this process alone."""
        stream = self.path.open("ab+", buffering=0)
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        except (ImportError, OSError):
            stream.close()
            self.path.unlink(missing_ok=True)
            self.path = self.target.with_name(f"{self.target.name}.{os.getpid()}.part")
            return self.path.open("wb", buffering=0)
        return stream

    def overtaken(self) -> bool:
        """Whether the file is no longer at its path: another process ended it before the lock was ours."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self.stream.fileno())
        return (found.st_ino, found.st_dev) != (ours.st_ino, ours.st_dev)

    @property
    def done(self) -> int:
        """Rows that are there."""
        return min(len(self.checks) * self.size, self.n)

    @property
    def state_path(self) -> Path:
        """Where the state is."""
        return self.path.with_name(f"{self.path.name}.json")

    def _go_on(self) -> None:
        """Find the chunks that are whole, and cut off the rest."""
        state = _state(self.state_path)
        ours = {"rows": self.n, "size": self.size, "device": self.device}
        if state is not None and all(state[key] == value for key, value in ours.items()):
            self.columns = state["columns"]
            self.checks = state["crc32"][: -(-self.n // self.size)]
            del self.checks[sum(1 for _ in self.blocks()) :]
        self._cut()

    def _cut(self) -> None:
        """Cut off what follows the chunks that count."""
        end = len(_header(self.n, self.columns)) + 4 * self.done * self.columns if self.checks else 0
        self.stream.truncate(end)

    def restart(self) -> None:
        """Forget all rows."""
        self.checks = []
        self._cut()

    def append(self, block: Matrix) -> None:
        """Add the next chunk; raises OSError."""
        content = memoryview(_packed(block))
        check, start = crc32(content), b""
        if not self.checks:
            self.columns = block.shape[1]
            start = _header(self.n, self.columns)
        for piece in (memoryview(start), content):
            while piece:
                piece = piece[self.stream.write(piece) :]
        state = {"rows": self.n, "columns": self.columns, "size": self.size, "device": self.device}
        atomic_write(self.state_path, canonical_json({**state, "crc32": [*self.checks, check]}))
        self.checks.append(check)

    def blocks(self) -> Iterator[Matrix]:
        """The chunks so far, as long as they are whole."""
        if not self.checks:
            return
        header = _header(self.n, self.columns)
        with self.path.open("rb") as stream:
            if stream.read(len(header)) != header:
                return
            for number, check in enumerate(list(self.checks)):
                rows = min(self.size, self.n - number * self.size)
                content = stream.read(4 * rows * self.columns)
                if len(content) != 4 * rows * self.columns or crc32(content) != check:
                    return
                yield np.frombuffer(content, dtype="<f4").reshape(rows, self.columns)

    def finish(self) -> None:
        """Give the matrix its name; raises OSError."""
        os.fsync(self.stream.fileno())
        self.state_path.replace(self.target.with_suffix(".json"))
        self.path.replace(self.target)

    def discard(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)
