"""VGG-19 fc7 image features, frozen or fine-tuned on the training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench._io import ID_LENGTH, file_digest, offline
from xmbench.errors import CorruptData, InvalidParameter, MissingData, MissingDependency, Unsupported
from xmbench.features import Encoder, Resources
from xmbench.features._images import Row, batches, need, read

WEIGHTS = "vgg19-dcbb9e9d.pth"
WEIGHTS_DIGEST = "dcbb9e9d"
"""First digits of the sha256 of torchvision's ``VGG19_Weights.IMAGENET1K_V1``; they are part of its name."""
HOW = (
    f"get {WEIGHTS} (torchvision's VGG19_Weights.IMAGENET1K_V1, 548 MB) from "
    f"https://download.pytorch.org/models/{WEIGHTS} and name it: vgg19_fc7[weights=/path/to/{WEIGHTS}]"
)

SHORT_SIDE, SIZE = 256, 224
LONGEST = 4
"""An image is cut to this many times its shorter side before it is scaled, so that a thin one stays small."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, as torchvision normalises for these weights."""
CHANNELS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of the 3 x 3 convolutions before each of the five poolings."""
FC7 = 4
"""Index, in the classifier, of the ReLU behind its second layer."""
BATCH = 16

RATE, MOMENTUM, TRAINING_BATCH, HELD_OUT, PATIENCE = 1e-3, 0.9, 32, 0.1, 3


class Vgg19Fc7(Encoder):
    """The 4,096 outputs of fc7, the second fully connected layer of VGG-19, behind its ReLU.

    They are taken behind the ReLU, since the networks of the papers' time (Caffe) apply it in place: what they
    return under the name fc7 holds no negative number.

    An image, or a region of one, is turned as its metadata says, laid on white where it is transparent, scaled
    (bilinear, antialiased) to a shorter side of 256 pixels, cropped to the central 224 x 224, and normalised with
    ImageNet's mean and standard deviation of each channel.

    Fine-tuned, a new classifier of the dataset's classes takes the place of ImageNet's, and the whole network
    is trained on the training images and their labels (softmax cross-entropy; logistic loss where an image may
    have several classes) by stochastic gradient descent with momentum .9, rate .001 and batches of 32, dropout
    and no augmentation, until the loss on a tenth of the training images, which is held out, has not fallen for
    three epochs; the weights of the best epoch are kept. Rate and momentum are the usual ones of fine-tuning
    (Girshick et al., CVPR 2014, have .001); the schedule of CM-GANs is not known to this module.

    Args:
        weights: a file as ``torch.save`` writes it, with torchvision's names (``features.0.weight``, ...); by
            default torchvision's ``VGG19_Weights.IMAGENET1K_V1``, from torch's own cache or the network.
        finetune: train on the training images' labels.
        epochs: of fine-tuning, at the most.
        random_state: seed of the held-out images, the order of the others, the new layer and dropout.

    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
    ICLR 2015, configuration E; preprocessing of torchvision. Fine-tuning on the training images: Peng, Qi and
    Yuan, "CM-GANs", ACM TOMM 2019.
    """

    modality: ClassVar = "image"
    learns: ClassVar = False
    supervised: ClassVar = False
    scaling: ClassVar = "l2_center_scale"
    licence: ClassVar = "weights of torchvision: none stated, trained on ImageNet (research use)"
    requires: ClassVar = ("PIL",)
    extra: ClassVar = "features"
    _narrower: ClassVar = 1
    """What the number of channels is divided by; tests have small networks."""

    def __init__(
        self,
        weights: str | None = None,
        finetune: bool = False,
        epochs: int = 20,
        random_state: int = 0,
    ) -> None:
        if weights is not None and not (isinstance(weights, str) and weights):
            raise InvalidParameter(f"vgg19_fc7: weights must be the path of a file, got {weights!r}")
        if not isinstance(finetune, bool):
            raise InvalidParameter(f"vgg19_fc7: finetune must be true or false, got {finetune!r}")
        for name, value, least in (("epochs", epochs, 1), ("random_state", random_state, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidParameter(
                    f"vgg19_fc7: {name} must be a whole number of at least {least}, got {value!r}"
                )
        self.weights, self.finetune, self.epochs, self.random_state = weights, finetune, epochs, random_state
        if finetune:  # this instance learns; the class, as it is by default, does not
            self.learns = self.supervised = True  # type: ignore[misc]
        self._digest: str | None = None
        self._network: Any = None
        self.losses: list[float] = []
        """Mean training loss of each epoch of fine-tuning."""

    @property
    def departures(self) -> tuple[str, ...]:
        """What a table that quotes a paper's figures must say of these features."""
        return () if self.finetune else ("CM-GANs fine-tunes VGG-19 on the training images; frozen here",)

    def provenance(self) -> dict[str, object]:
        """Name, version of the preprocessing, hash of the weights, how it is fine-tuned, departures.

        Raises:
            MissingData: the file of the weights does not exist.
        """
        described: dict[str, object] = {"name": "vgg19_fc7", "version": 1, "weights": self._weights_digest()}
        if self.departures:
            described["departures"] = "; ".join(self.departures)
        if self.finetune:
            described |= {"finetune": True, "epochs": self.epochs, "random_state": self.random_state}
            described |= {"rate": RATE, "momentum": MOMENTUM, "batch": TRAINING_BATCH}
            described |= {"held_out": HELD_OUT, "patience": PATIENCE}
        return described

    def fit(self, rows: Sequence[Any], labels: NDArray[Any] | None, resources: Resources) -> None:
        """Fine-tune on training rows: with :attr:`finetune` alone.

        Args:
            rows: n image files or regions of such.
            labels: (n,) int or (n, c) multi-hot.
            resources: what may be used.

        Raises:
            Unsupported: there are too few rows to hold some out.
            MissingData, MissingDependency, CorruptData: as :meth:`transform`.
        """
        if not self.finetune:
            return
        if labels is None or len(labels) != len(rows) or len(rows) < 2:
            raise Unsupported(
                "vgg19_fc7: fine-tuning needs at least two training images, each with its labels"
            )
        import torch

        network = self._loaded()
        targets, loss = _targets(np.asarray(labels))
        order = np.random.default_rng(self.random_state).permutation(len(rows))
        cut = max(1, round(HELD_OUT * len(rows)))
        with _seeded(self.random_state, resources.device):
            last = network["classifier"][-1]
            network["classifier"][-1] = torch.nn.Linear(last.in_features, targets.shape[-1])
            network.to(resources.device)
            self._train(network, rows, targets, loss, (order[cut:], order[:cut]), resources)
        self._network = network

    def _train(
        self,
        network: Any,
        rows: Sequence[Row],
        targets: Any,
        loss: Callable[[Any, Any], Any],
        parts: tuple[NDArray[np.int64], NDArray[np.int64]],
        resources: Resources,
    ) -> None:
        """Descend until the loss on the held-out part stops falling; ``network`` has the best epoch's weights."""
        import torch

        trained, held_out = parts
        descent = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
        shuffle = np.random.default_rng((self.random_state, 1))

        def run(part: NDArray[np.int64], step: Callable[[Any], None] | None = None) -> float:
            """Mean loss over a part of the rows; ``step`` is given that of each batch."""
            total, done = 0.0, 0
            chosen = [rows[row] for row in part]
            with closing(batches(chosen, pixels, resources.threads, TRAINING_BATCH)) as stream:
                for batch in stream:
                    own = targets[part[done : done + len(batch)]].to(resources.device)
                    value = loss(_logits(network, torch.from_numpy(batch).to(resources.device)), own)
                    if step:
                        step(value)
                    total += value.item() * len(batch)
                    done += len(batch)
            return total / done

        def descend(value: Any) -> None:
            descent.zero_grad()
            value.backward()
            descent.step()

        best, since = math.inf, 0
        kept: dict[str, Any] = {}
        self.losses = []
        for epoch in range(self.epochs):
            resources.progress(f"fine-tuning vgg19_fc7, epoch {epoch + 1}", epoch / self.epochs)
            network.train()
            self.losses.append(run(shuffle.permutation(trained), descend))
            network.eval()
            with torch.no_grad():
                value = run(held_out)
            if not math.isfinite(value):
                raise Unsupported(
                    "vgg19_fc7: the loss of fine-tuning is no longer finite; are the weights sane?"
                )
            since += 1
            if value < best:
                best, since, kept = value, 0, _copy(network)
            if since == PATIENCE:
                break
        network.load_state_dict(kept)

    def transform(self, rows: Sequence[Any], resources: Resources) -> NDArray[np.float32]:
        """(n, 4096) features, none negative, of n image files or regions of such.

        Raises:
            MissingDependency: the weights are to be downloaded, and torchvision, which does that, is missing.
            MissingData: a file does not exist, or the weights cannot be downloaded.
            CorruptData: a file is no readable image, or the weights are not those of a VGG-19.
        """
        import torch

        if self._network is None:
            if self.finetune:
                raise Unsupported("vgg19_fc7: fit before transform, when it is to be fine-tuned")
            self._network = self._loaded().to(resources.device)
        features = np.empty((len(rows), 4096 // self._narrower), dtype=np.float32)
        done = 0
        with torch.inference_mode(), closing(batches(rows, pixels, resources.threads, BATCH)) as stream:
            for batch in stream:
                found = _fc7(self._network, torch.from_numpy(batch).to(resources.device))
                features[done : done + len(batch)] = found.cpu().numpy()
                done += len(batch)
                resources.progress("extracting vgg19_fc7 image features", done / len(rows))
        return features

    def _weights_digest(self) -> str:
        if self.weights is None:
            return WEIGHTS_DIGEST
        if self._digest is None:
            path = Path(self.weights).expanduser()
            if not path.is_file():
                raise MissingData(f"vgg19_fc7: there is no file {self.weights}; {HOW}")
            self._digest = file_digest(path)
        # The same file has one name, whichever way it was found.
        return WEIGHTS_DIGEST if self._digest.startswith(WEIGHTS_DIGEST) else self._digest[:ID_LENGTH]

    def _loaded(self) -> Any:
        """The network, on the CPU and ready to predict."""
        need("vgg19_fc7", "features", "PIL")
        import torch

        given = self.weights is not None
        path = Path(self.weights).expanduser() if self.weights is not None else _torchvision_file()
        found = file_digest(path) if path.is_file() else None
        if given and found != self._digest and self._digest is not None:
            raise CorruptData(f"vgg19_fc7: the weights {path.name} have changed since they were hashed")
        if found is None:
            raise MissingData(f"vgg19_fc7: there is no file {path}; {HOW}")
        if not given and not found.startswith(WEIGHTS_DIGEST):
            raise CorruptData(f"vgg19_fc7: {path} is damaged (its sha256 begins {found[:8]}); delete it")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler, the zip reader and torch have errors of their own
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptData(
                f"vgg19_fc7: {path.name} is no readable file of weights ({cause}); {HOW}"
            ) from error
        self._digest = self._digest or (found if given else None)
        return _filled(state, path.name, self._narrower)


def build_network(narrower: int = 1, classes: int = 1000) -> Any:
    """VGG-19 with torchvision's names: a ``ModuleDict`` of ``features`` and ``classifier``, without weights.

    Args:
        narrower: what the numbers of channels and of hidden units are divided by.
        classes: outputs of the last layer.
    """
    from torch import nn

    layers: list[nn.Module] = []
    before = 3
    for channels, repeats in CHANNELS:
        for _ in range(repeats):
            layers += [nn.Conv2d(before, channels // narrower, 3, padding=1), nn.ReLU(inplace=True)]
            before = channels // narrower
        layers.append(nn.MaxPool2d(2))
    hidden = 4096 // narrower
    classifier = [nn.Linear(before * 7 * 7, hidden), nn.ReLU(inplace=True), nn.Dropout()]
    classifier += [nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout()]
    classifier += [nn.Linear(hidden, classes)]
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*classifier)})


def pixels(row: Row) -> NDArray[np.float32]:
    """(3, 224, 224) input of one image."""
    from PIL import Image

    image = read(row)
    image = _centre(image, *(min(side, LONGEST * min(image.size)) for side in image.size))
    width, height = image.size
    scale = SHORT_SIDE / min(width, height)
    scaled_size = max(SHORT_SIDE, int(scale * width)), max(SHORT_SIDE, int(scale * height))
    image = _centre(image.resize(scaled_size, Image.Resampling.BILINEAR), SIZE, SIZE)
    colours = np.asarray(image, dtype=np.float32) / 255
    return np.ascontiguousarray(((colours - MEAN) / DEVIATION).astype(np.float32).transpose(2, 0, 1))


def _centre(image: Any, width: int, height: int) -> Any:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _fc7(network: Any, batch: Any) -> Any:
    return network["classifier"][: FC7 + 1](network["features"](batch).flatten(1))


def _logits(network: Any, batch: Any) -> Any:
    return network["classifier"](network["features"](batch).flatten(1))


def _torchvision_file() -> Path:
    """torchvision's file of the weights in torch's own cache; put there, if it is not."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if path.is_file():
        return path
    if offline():
        raise MissingData(f"vgg19_fc7: its weights are not here, and XMBENCH_OFFLINE is set; {HOW}")
    try:
        from torchvision.models import VGG19_Weights
    except (
        ImportError,
        RuntimeError,
        OSError,
    ) as error:  # its compiled part may not fit the torch that is here
        raise MissingDependency(
            f"vgg19_fc7: its weights come through torchvision, which cannot be imported; {HOW}"
        ) from error
    try:
        VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise MissingData(f"vgg19_fc7: its weights cannot be downloaded ({error}); {HOW}") from error
    return path


def _filled(state: object, name: str, narrower: int) -> Any:
    """The network with the weights of a file.

    Raises:
        CorruptData: names, shapes or values are not those of a VGG-19.
    """
    import torch

    problem = f"vgg19_fc7: {name} does not hold the weights of a VGG-19 under torchvision's names: "
    if not isinstance(state, Mapping):
        raise CorruptData(f"{problem}it holds a {type(state).__name__} and no mapping of names to arrays")
    with torch.device("meta"):
        network = build_network(narrower)
    expected = network.state_dict()
    missing, other = sorted(expected.keys() - state.keys()), sorted(map(str, state.keys() - expected.keys()))
    if missing or other:
        word, names = ("lacks", missing) if missing else ("has also", other)
        raise CorruptData(f"{problem}it {word} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    for key, wanted in expected.items():
        found = state[key]
        if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise CorruptData(f"{problem}{key} has the shape {shape}, expected {tuple(wanted.shape)}")
        if not found.is_floating_point() or not torch.isfinite(found).all():
            raise CorruptData(f"{problem}{key} holds values that are no finite numbers")
    network.load_state_dict({key: state[key].detach().float() for key in expected}, assign=True)
    return network.eval()


def _targets(labels: NDArray[Any]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """(n, c) float targets of rows, and the loss that compares logits with them."""
    import torch
    from torch.nn import functional

    if labels.ndim == 2:
        return torch.from_numpy(labels.astype(np.float32)), functional.binary_cross_entropy_with_logits
    classes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    return functional.one_hot(classes).float(), functional.cross_entropy


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """torch's random numbers from a seed; what others draw from it is as if nothing had been drawn here."""
    import torch

    cuda = device.startswith("cuda")
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _copy(network: Any) -> dict[str, Any]:
    return {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}


ENCODER = Vgg19Fc7
