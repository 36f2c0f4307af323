"""An autoencoder of two modalities with one shared code, of which either may be missing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.nn import Adam, Dense, LabelLoss, LayerArrays, Tensor, as_array, forward, label_loss
from xmbench.training import Batch, Learner, Session

from ._stages import Stacks, moments


class Joint:
    """One logistic layer of two inputs: ``z = sigma(x W_v + t W_t + b)``, either of which may be missing.

    The code of one modality is not another layer: ``z_v = sigma(x W_v + b)`` has the same tensors, and the same
    bytes as ``z`` with texts of 0.

    Args:
        widths: of the images and of the texts.
        k: width of the code.
        generator: torch.Generator on the CPU, for the start: uniform between -1/sqrt(d) and 1/sqrt(d) with
            d = d_v + d_t; the bias at 0.
        device: where the layer lives.
    """

    def __init__(self, widths: tuple[int, int], k: int, generator: Any, device: Any = "cpu") -> None:
        import torch

        bound = sum(widths) ** -0.5
        self.weights = [
            torch.empty(d, k).uniform_(-bound, bound, generator=generator).to(device).requires_grad_()
            for d in widths
        ]
        self.bias = torch.zeros(k, device=device, requires_grad=True)

    def __call__(self, images: Tensor | None, texts: Tensor | None) -> Tensor:
        """(n, d_v) and (n, d_t), or None for one of them -> (n, k)."""
        inputs = self.bias
        for rows, weights in zip((images, texts), self.weights, strict=True):
            if rows is not None:
                inputs = inputs.addmm(rows, weights)
        return inputs.sigmoid()

    @property
    def parameters(self) -> list[Tensor]:
        """Weights of images, weights of texts, bias."""
        return [*self.weights, self.bias]

    def arrays(self) -> tuple[LayerArrays, LayerArrays]:
        """The layer as images alone and as texts alone see it; on the CPU all share the tensors' memory."""
        first, second = (
            LayerArrays(weights=as_array(weights), bias=as_array(self.bias), activation="sigmoid")
            for weights in self.weights
        )
        return first, second


class BimodalLearner(Learner):
    """A joint layer, reconstructions of both modalities from its code, and their step.

    From the code z of a batch of n pairs come x' = D_v(z) and t' = D_t(z), and, with ``label_weight``, logits C(z)::

        L = mean |x - x'|^2 / d_v + mean |t - t'|^2 / d_t + label_weight mean CE(C(z), y)

    The batch is tripled (:func:`tripled`): images alone, texts alone, both; the targets are always both modalities.

    History: ``loss`` L, ``image_loss``, ``text_loss``, ``label_loss`` where there is one, ``weight_norm``, the root
    mean square of the joint layer's weights after the step.

    Args:
        train: training pairs, as ``below`` gives them.
        k: width of the code.
        session: device and random streams.
        below: learned layers of images and of texts that lie below; they stay as they are.
        learning_rate: of Adam.
        weight_decay: L2 penalty of Adam.
        output: of the reconstructions: ``linear``, or ``sigmoid`` for inputs between 0 and 1.
        triple: whether the batch is tripled; else it is of both modalities alone.
        standardise: take the training mean of each input column off and divide by its standard deviation, so that a
            missing modality (0) is one of mean values; the learned layers read inputs as they were.
        center: learn the mean codes of the training rows, for the method to take them off.
        label_weight: weight of the label loss.
        label_kind: how several classes of an item are learned.

    Learned: ``image_layers_`` and ``text_layers_``, ``below`` and the joint layer of one modality; ``image_mean_``
    (k,), ``text_mean_``, 0 if codes are not to be centred.
    """

    def __init__(
        self,
        train: Pairs,
        k: int,
        session: Session,
        *,
        below: Stacks = ([], []),
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        output: Literal["linear", "sigmoid"] = "linear",
        triple: bool = True,
        standardise: bool = False,
        center: bool = True,
        label_weight: float = 0.0,
        label_kind: LabelLoss = "soft",
    ) -> None:
        import torch

        self.train, self.below, self.learning_rate = train, below, learning_rate
        self.triple, self.center = triple, center
        self.label_weight, self.label_kind = label_weight, label_kind
        start, device = session.start, session.device
        inputs = (train.images, train.texts)
        widths = (train.images.shape[1], train.texts.shape[1])
        self.moments = [moments(rows) if standardise else plain(rows.shape[1]) for rows in inputs]
        self._moments = [[torch.from_numpy(part).to(device) for part in pair] for pair in self.moments]
        self.joint = Joint(widths, k, start, device)
        self.heads = [Dense((k, d), (output,), start, device) for d in widths]
        self.classifier = Dense((k, train.n_classes), ("linear",), start, device) if label_weight else None
        networks = [*self.heads, *([] if self.classifier is None else [self.classifier])]
        parameters = [tensor for network in networks for tensor in network.parameters]
        self.optimiser = Adam([*self.joint.parameters, *parameters], learning_rate, weight_decay=weight_decay)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L and its terms."""
        import torch

        targets = [
            (rows - mean) / scale
            for rows, (mean, scale) in zip((batch.images, batch.texts), self._moments, strict=True)
        ]
        given, copies = (tripled(*targets), 3) if self.triple else (targets, 1)
        code = self.joint(*given)
        found = {}
        for name, head, rows in zip(("image_loss", "text_loss"), self.heads, targets, strict=True):
            found[name] = ((torch.cat([rows] * copies) - head(code)) ** 2).mean()
        loss = found["image_loss"] + found["text_loss"]
        if self.classifier is not None:
            wanted = torch.cat([batch.targets] * copies)
            found["label_loss"] = label_loss(self.classifier(code), wanted, self.label_kind)
            loss = loss + self.label_weight * found["label_loss"]
        return {"loss": loss, **found}

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down L."""
        losses = self.losses(batch)
        self.optimiser.step(losses["loss"])
        squares = sum((weights.detach() ** 2).sum() for weights in self.joint.weights)
        size = sum(weights.numel() for weights in self.joint.weights)
        norm = {"weight_norm": (squares / size) ** 0.5}
        return {name: loss.detach() for name, loss in losses.items()} | norm

    def examine(self, batch: Batch) -> dict[str, float]:
        """L on the validation pairs."""
        return {"validation_loss": float(self.losses(batch)["loss"].detach())}

    def learned(self) -> dict[str, Any]:
        """The layers of both modalities, each for itself, and their mean codes."""
        found: dict[str, Any] = {}
        for name, rows, below, layer, (mean, scale) in zip(
            ("image", "text"),
            (self.train.images, self.train.texts),
            self.below,
            self.joint.arrays(),
            self.moments,
            strict=True,
        ):
            layer = rescaled(layer, mean, scale)
            found[f"{name}_layers_"] = [*below, layer]
            found[f"{name}_mean_"] = mean_rows(forward([layer], rows), self.center)
        return found


def tripled(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (3 n, d_v) and (3 n, d_t): images alone, texts alone, both; a missing modality is 0."""
    import torch

    nothing = [torch.zeros_like(rows) for rows in (images, texts)]
    return torch.cat([images, nothing[0], images]), torch.cat([nothing[1], texts, texts])


def plain(d: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean and standard deviation of columns that stay as they are."""
    return np.zeros(d, np.float32), np.ones(d, np.float32)


def rescaled(layer: LayerArrays, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> LayerArrays:
    """The layer that makes of rows what ``layer`` makes of ``(rows - mean) / scale``."""
    with np.errstate(over="ignore", invalid="ignore"):  # training that diverged is found by its result
        weights = layer["weights"] / scale[:, None]
        bias = layer["bias"] - mean @ weights
    return LayerArrays(weights=weights, bias=bias, activation=layer["activation"])


def mean_rows(codes: NDArray[np.float32], center: bool) -> NDArray[np.float32]:
    """The mean (k,) of codes (n, k), to be taken off; 0 unless ``center``."""
    mean = codes.mean(axis=0, dtype=np.float64) if center else np.zeros(codes.shape[1])
    return mean.astype(np.float32)
