"""Downloads, from a server on this machine that behaves, and from one that does not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from xmbench.cli import cli
from xmbench.data import Download
from xmbench.errors import CorruptData, MissingData, UnknownName, UsageError
from xmbench.fetch import editions, fetch, retrieve, terms, unpack
from xmbench.registry import Registry

CONTENT = bytes(range(256)) * 400
BIG = 10**9


class Server:
    """Files under names, and a way of misbehaving for each name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.manner: dict[str, str] = {}
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                manner, content = outer.manner.get(name, ""), outer.files.get(name)
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                if content is None or manner == "404":
                    self.send_error(404)
                    return
                start = int(asked[6:-1]) if asked and manner != "no ranges" else 0
                status = 206 if start else 200
                kind = "application/octet-stream"
                if manner.startswith("page"):
                    content, status, start = b"<!DOCTYPE html><html>log in</html>", 200, 0
                    kind = "text/html; charset=utf-8" if manner == "page" else kind
                length: int | None = len(content) - start
                body = content[start:]
                if manner == "truncated":
                    body = body[: len(body) // 2]
                if manner == "truncated, no length":
                    body, length = body[: len(body) // 2], None
                if manner == "other piece" and status == 206:
                    start += 1
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def put(self, name: str, content: bytes, to: str = "toy/file.bin", **more) -> Download:
        self.files[name] = content
        digest = hashlib.sha256(content).hexdigest()
        return Download(f"{self.url}/data/{name}", digest, len(content), to, **more)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("XMBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    made = Server()
    yield made
    made.close()


class Toy(Registry().plugin("dataset", "emoji").load()):  # any dataset: loading is not what is tested here
    folders = ("toy",)
    required = ("file.bin",)


def silent(message: str, fraction: float | None) -> None:
    """No progress."""


def get(download, tmp_path, mirror=None):
    return retrieve(download, tmp_path / "in", mirror, lambda share: None)


def left(folder: Path) -> list[str]:
    """Files that are there, whatever they are."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fetch_toy(downloads, tmp_path, dataset=None, **more):
    places = tmp_path / "data", tmp_path / "cache"
    return fetch("toy", dataset or Toy(), downloads, *places, progress=silent, **more)


# -- one file -----------------------------------------------------------------------------------------------


def test_a_file_comes_whole_and_a_second_call_does_not_ask_the_server(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    shares: list[float] = []
    path = retrieve(download, tmp_path, None, shares.append)
    assert path.read_bytes() == CONTENT
    assert shares == sorted(shares) and shares[-1] == 1
    assert retrieve(download, tmp_path, None, shares.append) == path
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("manner", "error", "words"),
    [
        ("404", MissingData, "404"),
        ("page", CorruptData, "web page"),
        ("page without saying so", CorruptData, "web page"),
    ],
)
def test_what_is_not_the_file_leaves_nothing_behind(server, tmp_path, manner, error, words):
    download = server.put("a.bin", CONTENT)
    server.manner["a.bin"] = manner
    with pytest.raises(error, match=words):
        get(download, tmp_path)
    assert not left(tmp_path)


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", b"x" + CONTENT[1:], CONTENT + b"x", CONTENT * 2])
def test_other_content_leaves_nothing_behind(server, tmp_path, wrong):
    download = server.put("a.bin", CONTENT)
    server.files["a.bin"] = wrong
    with pytest.raises(CorruptData, match=r"sha256|more than"):
        get(download, tmp_path)
    assert not left(tmp_path)
    server.files["a.bin"] = CONTENT
    assert get(download, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("manner", ["truncated", "truncated, no length"])
def test_a_download_that_ended_early_is_gone_on_with(server, tmp_path, manner):
    download = server.put("a.bin", CONTENT)
    server.manner["a.bin"] = manner
    with pytest.raises(MissingData, match="run again"):
        get(download, tmp_path)
    (part,) = left(tmp_path)
    n = (tmp_path / part).stat().st_size
    assert part.endswith(".part") and len(CONTENT) // 4 < n <= len(CONTENT) // 2
    server.manner["a.bin"] = ""
    assert get(download, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={n}-"
    assert not [name for name in left(tmp_path) if name.endswith(".part")]


def test_a_server_without_ranges_is_asked_anew(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    server.manner["a.bin"] = "truncated"
    with pytest.raises(MissingData):
        get(download, tmp_path)
    server.manner["a.bin"] = "no ranges"
    assert get(download, tmp_path).read_bytes() == CONTENT


def test_a_piece_that_was_not_asked_for_is_refused(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    server.manner["a.bin"] = "truncated"
    with pytest.raises(MissingData):
        get(download, tmp_path)
    server.manner["a.bin"] = "other piece"
    with pytest.raises(MissingData, match="another piece"):
        get(download, tmp_path)
    assert not left(tmp_path)


def test_a_file_that_changed_half_way_is_thrown_away(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    server.files["a.bin"] = b"x" * len(CONTENT)
    server.manner["a.bin"] = "truncated"
    with pytest.raises(MissingData):
        get(download, tmp_path)
    server.files["a.bin"], server.manner["a.bin"] = CONTENT, ""
    with pytest.raises(CorruptData, match="sha256"):
        get(download, tmp_path)
    assert not left(tmp_path)


def test_a_damaged_file_of_an_earlier_call_is_fetched_again(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    path = get(download, tmp_path)
    path.write_bytes(CONTENT[:100])
    assert get(download, tmp_path).read_bytes() == CONTENT


def test_no_server(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    server.close()
    with pytest.raises(MissingData, match="cannot be fetched"):
        get(download, tmp_path)
    assert not left(tmp_path)


def test_offline_nothing_is_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")
    download = server.put("a.bin", CONTENT)
    with pytest.raises(MissingData, match="XMBENCH_OFFLINE"):
        get(download, tmp_path)
    assert not server.ranges


# -- mirrors --------------------------------------------------------------------------------------------------


def test_a_mirror_has_the_file_under_its_name(server, tmp_path):
    server.put("a.bin", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    elsewhere = Download("http://192.0.2.1/far/a.bin", digest, len(CONTENT), "toy/file.bin")
    assert get(elsewhere, tmp_path, f"{server.url}/copy/").read_bytes() == CONTENT


def test_a_folder_is_a_mirror_even_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.bin").write_bytes(CONTENT)
    download = Download(
        "http://192.0.2.1/a.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "toy/file.bin"
    )
    fetch_toy([download], tmp_path, mirror=str(tmp_path / "copy"))
    assert (tmp_path / "data/toy/file.bin").read_bytes() == CONTENT
    (tmp_path / "copy" / "a.bin").write_bytes(CONTENT[1:])
    with pytest.raises(CorruptData, match="not the expected file"):
        get(download, tmp_path, str(tmp_path / "copy"))
    with pytest.raises(MissingData, match="no file"):
        get(download, tmp_path, str(tmp_path))


# -- archives -------------------------------------------------------------------------------------------------


def zipped(tmp_path, members, name="a.zip"):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def tarred(tmp_path, members, name="a.tar"):
    path = tmp_path / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("make", [zipped, tarred])
def test_members_are_unpacked(tmp_path, make):
    path = make(tmp_path, [("a/b.txt", b"one"), ("c.txt", b"two"), ("skip.txt", b"three")])
    n = unpack(path, tmp_path / "out", 100, lambda name: None if name == "skip.txt" else name)
    assert n == 2
    assert left(tmp_path / "out") == ["a/b.txt", "c.txt"]
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"one"


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:\\\\out.txt", "a\\\\..\\\\out.txt", "c:/x"]
)
def test_names_that_lead_out_are_refused_before_anything_is_written(tmp_path, make, name):
    path = make(tmp_path, [("good.txt", b"one"), (name, b"two")])
    with pytest.raises(CorruptData, match="leads out"):
        unpack(path, tmp_path / "out", 100, lambda member: member)
    assert left(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = tarred(tmp_path, [("good.txt", b"one"), (special("link", kind, "/etc/passwd"), b"")])
    with pytest.raises(CorruptData, match="link or a device"):
        unpack(path, tmp_path / "out", 100, lambda member: member)
    assert left(tmp_path) == [path.name]


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    path = zipped(tmp_path, [("good.txt", b"one"), (info, b"/etc/passwd")])
    with pytest.raises(CorruptData, match="link or a device"):
        unpack(path, tmp_path / "out", 100, lambda member: member)
    assert left(tmp_path) == [path.name]


def test_a_link_that_stands_in_the_folder_is_not_followed_out(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptData, match="leads out"):
        unpack(zipped(tmp_path, [("a/b.txt", b"one")]), tmp_path / "out", 100, lambda member: member)
    assert not left(tmp_path / "elsewhere")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_more_than_the_limit_is_refused(tmp_path, make):
    path = make(tmp_path, [("a.txt", b"0" * 80), ("b.txt", b"0" * 80)])
    with pytest.raises(CorruptData, match="more than"):
        unpack(path, tmp_path / "out", 100, lambda member: member)
    assert left(tmp_path) == [path.name]


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tarred(tmp_path, [("a.txt", b"one"), ("./a.txt", b"two")])
    with pytest.raises(CorruptData, match="two members"):
        unpack(path, tmp_path / "out", 100, lambda member: member)


@pytest.mark.parametrize(("make", "name"), [(zipped, "a.zip"), (tarred, "a.tar"), (tarred, "a.tar.gz")])
def test_damaged_archives_give_our_error(tmp_path, make, name):
    noise = os.urandom(5000)  # a plain tar knows no checksum and no length: that is what the sha256 is for
    path = make(tmp_path, [("a.txt", noise), ("b.txt", noise)], name)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 997):
        path.write_bytes(whole[:cut])
        with suppress(CorruptData) if name == "a.tar" else pytest.raises(CorruptData):
            unpack(path, tmp_path / "out", BIG, lambda member: member)
    for at in range(40, len(whole), 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(CorruptData):
            unpack(path, tmp_path / "out", BIG, lambda member: member)


# -- a dataset ------------------------------------------------------------------------------------------------


def test_a_dataset_appears_whole(server, tmp_path):
    archive = zipped(tmp_path, [("more/x.txt", b"x")]).read_bytes()
    downloads = [server.put("a.bin", CONTENT), server.put("a.zip", archive, "toy", unpack=True)]
    made = fetch_toy(downloads, tmp_path)
    assert made == [tmp_path / "data" / "toy"]
    assert left(tmp_path / "data") == ["toy/file.bin", "toy/more/x.txt"]
    assert not left(tmp_path / "cache")


@pytest.mark.parametrize("manner", ["404", "page", "truncated"])
def test_a_dataset_of_which_one_file_fails_does_not_appear(server, tmp_path, manner):
    downloads = [server.put("a.bin", CONTENT), server.put("b.bin", CONTENT[::-1], "toy/other.bin")]
    server.manner["b.bin"] = manner
    with pytest.raises((MissingData, CorruptData)):
        fetch_toy(downloads, tmp_path)
    assert not list((tmp_path / "data").iterdir())
    server.manner["b.bin"] = ""
    fetch_toy(downloads, tmp_path)
    assert left(tmp_path / "data") == ["toy/file.bin", "toy/other.bin"]


def test_downloads_that_do_not_make_the_dataset_do_not_appear(server, tmp_path):
    with pytest.raises(MissingData, match="not found"):
        fetch_toy([server.put("a.bin", CONTENT, "toy/another.bin")], tmp_path)
    assert not left(tmp_path / "data")


def test_what_stands_there_is_not_overwritten(server, tmp_path):
    download = server.put("a.bin", CONTENT)
    (tmp_path / "data/toy").mkdir(parents=True)
    (tmp_path / "data/toy/file.bin").write_bytes(b"mine")
    with pytest.raises(UsageError, match="there already"):
        fetch_toy([download], tmp_path)
    assert (tmp_path / "data/toy/file.bin").read_bytes() == b"mine"
    assert left(tmp_path / "data") == ["toy/file.bin"]


def test_a_folder_of_a_killed_fetch_is_no_data_and_goes_with_the_next(server, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = tmp_path / "data" / f".fetch-toy-{dead.pid}" / "toy"
    old.mkdir(parents=True)
    (old / "file.bin").write_bytes(b"half")
    with pytest.raises(MissingData):
        Toy().folder(tmp_path / "data")
    fetch_toy([server.put("a.bin", CONTENT)], tmp_path)
    assert left(tmp_path / "data") == ["toy/file.bin"]


def test_no_room(server, tmp_path):
    huge = Download(f"{server.url}/a.bin", "0" * 64, 10**15, "toy/file.bin")
    with pytest.raises(MissingData, match="GB are free"):
        fetch_toy([huge], tmp_path)
    assert not server.ranges


def test_pascal_is_put_together_from_its_list_and_the_archive_of_photographs(server, tmp_path):
    listed = {
        "2008_000001.jpg": {"category": "cat", "captions": ["A cat.", "A café cat."]},
        "2008_000002.jpg": {"category": "dog", "captions": ["A dog."]},
    }
    members = [(f"VOCdevkit/VOC2012/JPEGImages/{name}", name.encode()) for name in listed]
    members += [
        ("VOCdevkit/VOC2012/JPEGImages/2009_1.jpg", b"x"),
        ("VOCdevkit/VOC2012/Annotations/2008_000001.xml", b""),
    ]
    text = json.dumps(listed).encode()
    pascal = Registry().dataset("pascal")

    def downloads(members):
        archive = tarred(tmp_path, members).read_bytes()
        return [
            server.put("p.json", text, "pascal_sentence/pascal_sentences.json"),
            server.put("v.tar", archive, "pascal_sentence", unpack=True),
        ]

    with pytest.raises(CorruptData, match="lacks 2008_000002"):
        fetch("pascal", pascal, downloads(members[:1]), tmp_path / "d", tmp_path / "c", progress=silent)
    assert not left(tmp_path / "d")
    fetch("pascal", pascal, downloads(members), tmp_path / "d", tmp_path / "c", progress=silent)
    corpus = pascal.load(tmp_path / "d", "raw", "raw")
    assert corpus.class_names == ("cat", "dog")
    assert corpus.text_parts[0] == ["A cat.", "A café cat."]
    assert [path.read_bytes() for path in corpus.images] == [name.encode() for name in listed]


def test_what_is_fetched_is_the_real_data(data_dir, tmp_path):
    """The sizes and hashes that the adapters name are those of the files that the boards were made from."""
    wikipedia = Registry().dataset("wikipedia")
    for download in wikipedia.downloads["features"]:
        path = data_dir / download.to
        assert path.stat().st_size == download.size
        assert hashlib.sha256(path.read_bytes()).hexdigest() == download.sha256
    mirror = data_dir / "wikipedia" / "wikipedia_dataset"
    fetch(
        "wikipedia",
        wikipedia,
        wikipedia.downloads["features"],
        tmp_path / "d",
        tmp_path / "c",
        mirror=str(mirror),
        progress=silent,
    )
    ours, theirs = (wikipedia.load(root, "sift", "lda") for root in (tmp_path / "d", data_dir))
    assert (ours.digest, ours.ids) == (theirs.digest, theirs.ids)
    sentences = Registry().dataset("pascal").downloads["voc2012"][0]
    assert hashlib.sha256((data_dir / sentences.to).read_bytes()).hexdigest() == sentences.sha256


# -- the command ----------------------------------------------------------------------------------------------


def test_every_download_is_of_a_public_address_and_stays_below_the_data_directory():
    registry = Registry()
    for name in registry.datasets:
        for downloads in registry.dataset(name).downloads.values():
            for download in downloads:
                assert download.url.startswith(("https://", "http://"))
                assert len(bytes.fromhex(download.sha256)) == 32 and download.size > 0
                assert ".." not in Path(download.to).parts and not Path(download.to).is_absolute()


def test_editions():
    registry = Registry()
    with pytest.raises(MissingData, match="inside xmbench"):
        editions("emoji", registry.dataset("emoji"), None)
    with pytest.raises(UnknownName, match="voc2012"):
        editions("pascal", registry.dataset("pascal"), "voc2021")


@pytest.fixture
def shell(server, tmp_path, monkeypatch):
    wikipedia = Registry().plugin("dataset", "wikipedia").load()
    download = server.put("a.bin", CONTENT, "wikipedia_dataset/a.bin")
    monkeypatch.setattr(wikipedia, "downloads", {"features": [download]})
    monkeypatch.setattr(wikipedia, "required", ("a.bin",))
    monkeypatch.setenv("XMBENCH_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments, name="wikipedia"):
        where = ["--data-dir", str(tmp_path / "data")]
        result = CliRunner().invoke(cli, ["data", "fetch", name, *arguments, *where])
        return getattr(result.exception, "exit_code", result.exit_code), result.stdout

    return call


def test_the_command_shows_the_terms_and_wants_them_accepted(shell, server, tmp_path):
    code, shown = shell()
    assert code == 2 and not server.ranges
    card = Registry().dataset("wikipedia").card
    for words in (card.licence, card.citation, server.url):
        assert words in shown
    assert not left(tmp_path)
    code, shown = shell("--yes")
    assert code == 0 and card.licence in shown
    assert (tmp_path / "data/wikipedia_dataset/a.bin").read_bytes() == CONTENT
    code, shown = shell("--yes")
    assert code == 0 and "is there" in shown and len(server.ranges) == 1


def test_the_terms_name_the_mirror():
    wikipedia = Registry().dataset("wikipedia")
    assert "http://x.example" in terms(wikipedia, wikipedia.downloads["features"], "http://x.example")


def test_the_command_says_what_is_wrong(shell, server, tmp_path, monkeypatch):
    server.manner["a.bin"] = "page"
    assert shell("--yes")[0] == 3 and not left(tmp_path)
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")
    assert shell("--yes")[0] == 3
    assert shell("--yes", name="nothing")[0] == 2


def test_offline_a_damaged_file_of_an_earlier_call_is_not_fetched_again(server, tmp_path, monkeypatch):
    download = server.put("file.bin", CONTENT)
    path = get(download, tmp_path)
    path.write_bytes(CONTENT[:-1])
    asked = len(server.ranges)
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")
    with pytest.raises(MissingData, match="XMBENCH_OFFLINE"):
        get(download, tmp_path)
    assert len(server.ranges) == asked


def test_a_folder_of_a_killed_fetch_with_the_same_process_number_goes(server, tmp_path):
    (tmp_path / "data" / f".fetch-toy-{os.getpid()}" / "toy").mkdir(parents=True)
    fetch_toy([server.put("file.bin", CONTENT)], tmp_path)
    assert left(tmp_path / "data") == ["toy/file.bin"]


def test_a_member_without_a_name_is_refused(tmp_path):
    with pytest.raises(CorruptData, match="leads out"):
        unpack(tarred(tmp_path, [(".", b"x")]), tmp_path / "to", 100, lambda name: name)


def test_a_member_that_is_file_and_folder_is_refused(tmp_path):
    with pytest.raises(CorruptData, match="file and a folder"):
        unpack(zipped(tmp_path, [("a", b"x"), ("a/b", b"y")]), tmp_path / "to", 100, lambda name: name)
