"""Downloads: the public files of a dataset, checked, unpacked and put in place, or not at all.

Files come in below the cache directory, under names that nothing reads as data. They are unpacked and
assembled in a hidden folder of the data directory, and renamed to where the dataset is expected when all of
it is there. A download that ends early is gone on with; one with a wrong hash is thrown away.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from xmbench._io import offline
from xmbench.data import Dataset, Download
from xmbench.errors import CorruptData, DataError, MissingData, UnknownName, UsageError

Progress = Callable[[str, "float | None"], None]
Place = Callable[[str], "str | None"]

BLOCK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
"""What a damaged archive raises; zipfile says RuntimeError of one with a password."""
PIECE = 1 << 14
"""Bytes of a download at a time: what is lost at most when a connection breaks."""
TIMEOUT = (20, 60)
"""Seconds to connect, and between two pieces."""


def editions(name: str, dataset: Dataset, edition: str | None) -> Sequence[Download]:
    """The downloads of an edition of a dataset, of the first without one.

    Raises:
        MissingData: there is no public source.
        UnknownName: there is no such edition.
    """
    if not dataset.downloads:
        raise MissingData(
            f"{name} has no public source that xmbench could fetch; get it from: {dataset.card.source}"
            if not dataset.card.embedded
            else f"{name} is shipped inside xmbench; there is nothing to fetch"
        )
    edition = edition or next(iter(dataset.downloads))
    if edition not in dataset.downloads:
        raise UnknownName(f"edition of {name}", edition, dataset.downloads)
    return dataset.downloads[edition]


def terms(dataset: Dataset, downloads: Sequence[Download], mirror: str | None) -> str:
    """What a user should know before a download: licence, citation, files and their sizes."""
    card, total = dataset.card, sum(download.size for download in downloads)
    lines = [
        f"{card.title}: {card.image_text}",
        f"licence: {card.licence}",
        f"cite: {card.citation}",
        f"{len(downloads)} files, {_bytes(total)}{f', from the mirror {mirror}' if mirror else ''}:",
        *(f"  {download.url}   {_bytes(download.size)}" for download in downloads),
    ]
    return "\n".join(lines)


def _bytes(n: int) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n:,} bytes"


def fetch(
    name: str,
    dataset: Dataset,
    downloads: Sequence[Download],
    data_dir: Path,
    cache_dir: Path,
    *,
    mirror: str | None = None,
    progress: Progress,
) -> list[Path]:
    """Download, check, unpack and assemble a dataset.

    Args:
        name: the dataset's name.
        dataset: its adapter.
        downloads: what to get, in order.
        data_dir: the data directory, made if it is not there.
        cache_dir: where files come in.
        mirror: an address or a folder that has the same files under the same names.
        progress: told what happens.

    Returns:
        What is new in the data directory.

    Raises:
        MissingData: no network, no such file, a server that ended early, or no room on the disk.
        CorruptData: the file is not the expected one, or an archive holds what it must not.
        UsageError: something stands where the dataset is to go.
    """
    incoming = cache_dir / "downloads"
    with _staging(name, data_dir) as stage:
        for download in downloads:  # what cannot be had is told before anything is downloaded
            _source(download, incoming, mirror)
        _check_room(downloads, stage, incoming)
        for number, download in enumerate(downloads, start=1):
            what = f"file {number} of {len(downloads)}, {filename(download.url)}"
            path = retrieve(download, incoming, mirror, partial(progress, f"downloading {what}"))
            target = _inside(stage, download.to)
            if download.unpack:
                limit = download.unpacked or 4 * download.size
                progress(f"unpacking {what}", None)
                unpack(path, target, limit, lambda member: dataset.member(stage, member))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        dataset.assemble(stage)
        dataset.folder(stage)
        made = _publish(stage, data_dir)
    for download in downloads:
        _incoming(download, incoming).unlink(missing_ok=True)
    return made


def filename(url: str) -> str:
    """The name of the file at an address."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def retrieve(download: Download, folder: Path, mirror: str | None, report: Callable[[float], None]) -> Path:
    """The file of a download, complete and checked, in ``folder``; what is there already is not fetched again."""
    import pooch
    import requests

    source = _source(download, folder, mirror)
    if isinstance(source, Path):
        _check_hash(source, download)
        return source
    target = _incoming(download, folder)
    pooch.get_logger().setLevel("WARNING")  # it would tell what progress tells

    def stream(url: str, output: str, _: Any) -> None:
        part = target.with_name(target.name + ".part")
        _download(url, part, download, report)
        shutil.move(part, output)

    try:
        pooch.retrieve(source, f"sha256:{download.sha256}", target.name, folder, downloader=stream)
    except requests.RequestException as error:
        raise MissingData(
            f"{source} cannot be fetched: {_words(error)}; try again, or name another --mirror"
        ) from error
    except ValueError as error:  # pooch: the hash differs; it has removed the file
        if isinstance(error, DataError):
            raise
        raise CorruptData(
            f"{source} is not the expected file: its sha256 is another than {download.sha256}; nothing was kept. "
            "The source may have changed: name a --mirror that has the former file"
        ) from error
    except OSError as error:
        raise MissingData(f"{filename(download.url)} cannot be written below {folder}: {error}") from error
    return target


def _source(download: Download, folder: Path, mirror: str | None) -> str | Path:
    """The address of a download, or the file of a mirror that is a folder.

    Raises:
        MissingData: the mirror does not have it, or it would have to be fetched while that is forbidden.
    """
    source = f"{mirror.rstrip('/')}/{filename(download.url)}" if mirror else download.url
    if urlsplit(source).scheme not in ("http", "https"):
        if not Path(source).is_file():
            raise MissingData(
                f"the mirror has no file {source}; it is expected under the name that its source has"
                + ("" if Path(source).parent.is_dir() else ", and the folder does not exist")
            )
        return Path(source)
    if offline() and not _is_there(_incoming(download, folder), download):
        raise MissingData(
            f"XMBENCH_OFFLINE is set, so that {source} is not fetched; unset it, or name a folder that holds "
            f"{filename(download.url)} with --mirror"
        )
    return source


def _incoming(download: Download, folder: Path) -> Path:
    return folder / f"{download.sha256[:16]}-{filename(download.url)}"


def _is_there(path: Path, download: Download) -> bool:
    from xmbench._io import file_digest

    return path.is_file() and file_digest(path) == download.sha256


def _words(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _check_hash(path: Path, download: Download) -> None:
    from xmbench._io import file_digest

    if path.stat().st_size != download.size or file_digest(path) != download.sha256:
        raise CorruptData(
            f"{path} is not the expected file of {download.size:,} bytes with sha256 {download.sha256}; take it from "
            f"{download.url}"
        )


def _download(url: str, part: Path, download: Download, report: Callable[[float], None]) -> None:
    """Fetch ``url`` into ``part``, going on where an earlier attempt ended.

    Raises:
        CorruptData: what comes is a web page, or longer than the file.
        MissingData: it ended early; the part is kept for the next attempt.
    """
    import requests

    part.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    if done >= download.size:
        part.unlink()
        done = 0
    headers = {"Accept-Encoding": "identity"}  # bytes as they are, so that sizes and ranges mean the file
    if done:
        headers["Range"] = f"bytes={done}-"
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        response.raise_for_status()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {done}-"
        )
        if done and response.status_code == 206 and not resumed:
            part.unlink()
            raise MissingData(
                f"{url} sent another piece of the file than was asked for; run again to start anew"
            )
        if not resumed:
            done = 0
        ended: Exception | None = None
        with part.open("ab" if resumed else "wb") as out:
            try:
                for block in response.iter_content(PIECE):
                    if not done and (
                        kind == "text/html"
                        or block.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))
                    ):
                        part.unlink()
                        raise CorruptData(
                            f"{url} answered with a web page, not with the file; it may have moved, or want a login"
                        )
                    done += len(block)
                    if done > download.size:
                        part.unlink()
                        raise CorruptData(
                            f"{url} sends more than the {download.size:,} bytes of the expected file; nothing was kept"
                        )
                    out.write(block)
                    report(done / download.size)
            except requests.RequestException as error:  # the connection broke
                ended = error
    if done < download.size:
        raise MissingData(
            f"{url} ended after {done:,} of {download.size:,} bytes; run again to go on from there"
        ) from ended


# -- unpacking --------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, limit: int, place: Place) -> int:
    """Unpack a ``.zip`` or ``.tar`` into ``folder``, nothing outside it, and no more than ``limit`` bytes.

    All names are checked before the first file is written.

    Args:
        archive: the file.
        folder: where its members go.
        limit: bytes of all members together at most.
        place: a member's name -> where it goes below ``folder``, or None to leave it out.

    Returns:
        Number of files written.

    Raises:
        CorruptData: a name leads out of the folder, a member is a link or a device, there is more than ``limit``,
            or the archive is damaged.
    """
    written, bytes_left = 0, limit
    try:
        with _members(archive) as members:
            chosen: dict[Path, Any] = {}
            declared = 0
            for name, size, member in members.files:
                checked = _member_name(archive, name)
                to = place(checked)
                if to is None:
                    continue
                target = _inside(folder, to)
                if target in chosen:
                    raise CorruptData(f"{archive.name}: two members are to become {to}")
                chosen[target] = member
                declared += size
            if declared > limit:
                raise CorruptData(
                    f"{archive.name} holds {declared:,} bytes, more than the {limit:,} expected at most"
                )
            for target, member in chosen.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                with members.open(member) as source, target.open("wb") as out:
                    while block := source.read(BLOCK):
                        bytes_left -= len(block)
                        if bytes_left < 0:
                            raise CorruptData(
                                f"{archive.name} unpacks to more than the {limit:,} bytes expected"
                            )
                        out.write(block)
                written += 1
    except _DAMAGE as error:
        raise CorruptData(f"{archive.name} is a damaged archive: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptData(f"{archive.name}: a member is a file and a folder at once: {error}") from error
    return written


class _Members:
    """The files of an archive: (name, declared size, member), and a way to read one."""

    def __init__(self, files: list[tuple[str, int, Any]], open_: Callable[[Any], IO[bytes]]) -> None:
        self.files, self.open = files, open_


@contextmanager
def _members(archive: Path) -> Iterator[_Members]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            for info in infos:
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    raise CorruptData(f"{archive.name}: {info.filename!r} is a link or a device")
            yield _Members([(info.filename, info.file_size, info) for info in infos], opened.open)
        return
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if not member.isdir()]
        for member in members:
            if not member.isreg():
                raise CorruptData(f"{archive.name}: {member.name!r} is a link or a device")

        def read(member: tarfile.TarInfo) -> IO[bytes]:
            stream = tar.extractfile(member)
            assert stream is not None  # it is a regular file
            return stream

        yield _Members([(member.name, member.size, member) for member in members], read)


def _member_name(archive: Path, name: str) -> str:
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or ":" in path.parts[0]
    ):
        raise CorruptData(f"{archive.name}: the name {name!r} leads out of the folder")
    return str(path)


def _inside(folder: Path, relative: str) -> Path:
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptData(f"{relative!r} leads out of the folder")
    return path


# -- putting in place -------------------------------------------------------------------------------------


@contextmanager
def _staging(name: str, data_dir: Path) -> Iterator[Path]:
    """An empty hidden folder in the data directory; what an ended process left behind is removed."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for old in data_dir.glob(f".fetch-{name}-*"):
        if not _alive(old.name.rpartition("-")[2]):
            shutil.rmtree(old)
    stage = data_dir / f".fetch-{name}-{os.getpid()}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage)


def _alive(pid: str) -> bool:
    """Whether the process that made a folder still runs; in a container, a new one often has the number of the old."""
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    with suppress(PermissionError):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True


def _check_room(downloads: Sequence[Download], stage: Path, incoming: Path) -> None:
    need = sum((1 + 2 * download.unpack) * download.size for download in downloads)
    incoming.mkdir(parents=True, exist_ok=True)
    free = min(shutil.disk_usage(folder).free for folder in (stage, incoming))
    if free < need:
        raise MissingData(
            f"about {need / 1e9:.1f} GB are needed (archives, what they unpack to, and as much again to be safe), "
            f"{free / 1e9:.1f} GB are free; make room, or name another --data-dir"
        )


def _publish(stage: Path, data_dir: Path) -> list[Path]:
    """Rename what was staged to its place: files into folders that are there already, folders that are not."""
    moves: list[tuple[Path, Path]] = []

    def walk(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            target = data_dir / path.relative_to(stage)
            if path.is_dir() and target.is_dir():
                walk(path)
            elif target.exists():
                raise UsageError(f"{target} is there already; move it away first")
            else:
                moves.append((path, target))

    walk(stage)
    for path, target in moves:
        path.rename(target)
    return [target for _, target in moves]
