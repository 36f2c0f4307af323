"""Files, hashes and names: whole files or none, digests that are the same everywhere, text fit for a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

ID_LENGTH = 16  # hexadecimal digits of an id: 64 bits

SCRATCH = "xmbench-"  # what the names of scratch folders begin with


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """A stream to write ``path`` with; the file is there once the block has ended well, and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` by rename, so that a reader sees the old file, the new file or none."""
    with atomic_open(path) as stream:
        stream.write(data)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that is gone after the block; those of processes that were killed go first.

    Its owner holds a lock on a file in it, which the system takes away from a process that ends in whatever way.
    Without such locks (Windows) nothing is known to be left behind, and nothing is removed.
    """
    import shutil
    import tempfile

    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    lock = None
    try:
        lock = _owned(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _owned(folder: Path) -> int | None:
    """A locked file ``owner`` in ``folder``: it gets that name when it is locked, so that nobody sees it free."""
    try:
        import fcntl
    except ImportError:
        return None
    unfinished = folder / "owner.new"
    lock = os.open(unfinished, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(folder / "owner")
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


def _remove_abandoned(parent: Path) -> None:
    """Remove scratch folders whose owner is gone: nobody holds the lock on their ``owner``."""
    import shutil

    try:
        import fcntl
    except ImportError:
        return
    for path in parent.glob(f"{SCRATCH}*/owner"):
        try:
            if path.parent.is_symlink() or path.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # gone by now, or not ours to open
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # its owner is alive
            pass
        finally:
            os.close(lock)


def npz_bytes(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A compressed ``.npz`` whose bytes depend on the arrays alone (no time stamps, no pickles)."""
    import io
    import zipfile

    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(arrays[name]), allow_pickle=False)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of an ``.npz``; object arrays are refused by numpy, as they would need unpickling.

    Raises:
        ValueError: the file is damaged or is no ``.npz``.
    """
    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser each have errors of their own
        raise ValueError(f"{path.name} is not a readable .npz file: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path.name} is not a readable .npz file: {name} is no array")
    return arrays


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: object) -> str:
    """sha256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def short_id(value: object) -> str:
    """The first ``ID_LENGTH`` digits of :func:`digest`."""
    return digest(value)[:ID_LENGTH]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_digest(root: Path, paths: Iterable[Path]) -> str:
    """sha256 over the sorted (path relative to ``root``, sha256 of its bytes) of many files."""
    return digest(sorted([path.relative_to(root).as_posix(), file_digest(path)] for path in paths))


def source_digest(paths: Iterable[Path]) -> str:
    """Digest of what Python files *do*: comments, docstrings and layout do not count."""
    import ast

    return digest([_tree(ast.parse(path.read_bytes())) for path in paths])


def imported_siblings(path: Path) -> list[Path]:
    """``path`` and the helper modules beside it that it imports with ``from ._name import ...``."""
    import ast

    found, queue = [path], [path]
    while queue:
        for node in ast.walk(ast.parse(queue.pop().read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    sibling = path.parent / f"{name.split('.')[0]}.py"
                    if sibling.is_file() and sibling not in found:
                        found.append(sibling)
                        queue.append(sibling)
    return found[:1] + sorted(found[1:])


def shared_source(paths: Iterable[Path]) -> list[object]:
    """What Python files import from the shared code of trained methods, and all that it rests on there, as trees.

    Of ``xmbench.nn`` and ``xmbench.training`` only the definitions that a file reaches by name count, so that what is
    added there for another method changes nothing.
    """
    import ast

    rooms = {name: _Definitions(Path(__file__).with_name(f"{name}.py")) for name in ("nn", "training")}
    queue: list[tuple[str, str]] = []
    for path in paths:
        for home, name in _imported_names(ast.parse(path.read_bytes())):
            if home in rooms:
                queue += [(home, one) for one in rooms[home].nodes] if name == "*" else [(home, name)]
    found: dict[tuple[str, str], object] = {}
    while queue:
        home, name = queue.pop()
        if (home, name) in found:
            continue
        room = rooms[home]
        if name in room.imported:
            queue.append(room.imported[name])
        elif name in room.nodes:
            found[home, name] = _tree(room.nodes[name])
            queue += [(home, used.id) for used in ast.walk(room.nodes[name]) if isinstance(used, ast.Name)]
    return [[home, name, tree] for (home, name), tree in sorted(found.items())]


class _Definitions:
    """The top level of a shared module: name -> its definition, or the shared module it comes from."""

    def __init__(self, path: Path) -> None:
        import ast

        body = ast.parse(path.read_bytes())
        self.imported = {
            name: (home, name) for home, name in _imported_names(body) if home in ("nn", "training")
        }
        self.nodes: dict[str, Any] = {}
        for node in body.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.nodes[node.name] = node
            elif isinstance(node, ast.Assign):
                self.nodes |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self.nodes[node.target.id] = node


def _imported_names(tree: Any) -> list[tuple[str, str]]:
    """(module, name) of what is imported from modules of xmbench, anywhere; ``*`` where the module itself is."""
    import ast

    found: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [
                (alias.name.removeprefix("xmbench."), "*")
                for alias in node.names
                if alias.name.startswith("xmbench.")
            ]
        elif isinstance(node, ast.ImportFrom) and node.module == "xmbench":
            found += [(alias.name, "*") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xmbench."):
            found += [(node.module.removeprefix("xmbench."), alias.name) for alias in node.names]
    return found


def offline() -> bool:
    """Whether ``XMBENCH_OFFLINE`` forbids the network."""
    return os.environ.get("XMBENCH_OFFLINE", "").lower() not in ("", "0", "false", "no")


def clean(text: str) -> str:
    """One line without control characters, so that no record can steer a terminal."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())


def _tree(node: object) -> object:
    """A syntax tree as JSON; empty fields are left out, since their set grows with Python's version."""
    import ast

    if isinstance(node, ast.AST):
        fields: dict[str, object] = {"": type(node).__name__}
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):  # docstrings, those below an assignment included, do nothing
                value = [item for item in value if not _is_bare_text(item)]
            if value is not None and value != []:
                fields[name] = _tree(value)
        return fields
    if isinstance(node, list):
        return [_tree(item) for item in node]
    return node if isinstance(node, str | int | bool) else {"": type(node).__name__, "repr": repr(node)}


def _is_bare_text(statement: object) -> bool:
    import ast

    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
