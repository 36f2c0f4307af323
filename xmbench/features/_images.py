"""Images as the encoders want them: upright, in RGB, on white, and decoded ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Region
from xmbench.errors import CorruptData, MissingData, MissingDependency

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""What is read; of Pillow's other formats some start programs (EPS) and none is a photograph's."""

Row = Path | Region
T = TypeVar("T")


def need(encoder: str, extra: str, *packages: str) -> None:
    """Check that packages can be imported.

    Raises:
        MissingDependency: one cannot; the message names the extra that brings it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"image features {encoder} need {', '.join(missing)}; install them with: pip install 'xmbench[{extra}]'"
        )


def read(row: Row) -> Any:
    """The image of a row: turned as its metadata says, cut to the row's region, on white, in RGB.

    A region's edges are rounded to whole pixels; it keeps one pixel at the least. Nothing is scaled, and JPEG
    files are decoded at full size, since a reduced decoding has other values.

    Returns:
        A ``PIL.Image`` of mode RGB.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is no whole image of 8 bits a channel in one of ``FORMATS``, or claims so many pixels
            that Pillow takes it for a decompression bomb.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = row.path if isinstance(row, Region) else Path(row)
    name = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.mode in ("F", "I") or opened.mode.startswith("I;"):
                raise ValueError(f"pixels of mode {opened.mode} have more than 8 bits; convert it first")
            image = ImageOps.exif_transpose(opened)
            if isinstance(row, Region):
                image = image.crop(_pixels(row, *image.size))
            return _on_white(image)
    except FileNotFoundError as error:
        raise MissingData(f"the image {name} does not exist") from error
    except UnidentifiedImageError as error:
        raise CorruptData(f"{name} is not a readable image: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # every decoder, and the reader of the metadata, has errors of its own
        raise CorruptData(f"{name} is not a readable image: {error}") from error


def square(image: Any) -> Any:
    """The central square; cut before any scaling, so that a long thin image needs no long memory."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def ahead(
    rows: Sequence[Row], function: Callable[[Row], T], threads: int, depth: int
) -> Generator[T, None, None]:
    """``function`` of every row, in order, computed by threads that run up to ``depth`` rows ahead.

    Pillow and OpenCV release the interpreter while they work, so that the caller's own work goes on meanwhile.
    An error is raised when its row's turn comes; whatever is not begun by then is dropped.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="xmbench-images") as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(function, row))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batches(
    rows: Sequence[Row], function: Callable[[Row], NDArray[Any]], threads: int, size: int
) -> Generator[NDArray[Any], None, None]:
    """``function`` of every row, stacked by ``size``; two batches more are prepared meanwhile."""
    batch: list[NDArray[Any]] = []
    with closing(ahead(rows, function, threads, 2 * size)) as stream:
        for made in stream:
            batch.append(made)
            if len(batch) == size:
                yield np.stack(batch)
                batch = []
    if batch:
        yield np.stack(batch)


def _pixels(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """The region in whole pixels of an upright image."""
    left, right = _edges(region.box[0], region.box[2], width)
    top, bottom = _edges(region.box[1], region.box[3], height)
    return left, top, right, bottom


def _edges(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(round(low * length), length - 1)
    return start, max(round(high * length), start + 1)


def _on_white(image: Any) -> Any:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
