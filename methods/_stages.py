"""What methods have in common that learn in stages, each on what the layers of the one before give.

A stage ends as a :data:`Stacks`: dense layers of images and of texts that take the inputs of the stage to its codes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.method import FitContext
from xmbench.nn import Activation, Adam, Dense, LabelLoss, LayerArrays, Tensor, forward, label_loss, masked
from xmbench.training import Batch, Learner, Session, Trained

Stacks = tuple[list[LayerArrays], list[LayerArrays]]
"""Layers of images, and layers of texts."""

MASKED = 0.2
"""Share of the inputs that denoising pretraining hides."""

SMALLEST_SPREAD = 1e-5
"""Standard deviations below this share of the mean are rounding errors of float32, and are not scaled up."""

STAGE_LOSS = "validation_loss"
"""Column of the history by which label fine-tuning chooses its epoch."""

Rows = Callable[[Batch], tuple[Tensor, Tensor]]
"""What an autoencoder of images and that of texts read of a batch; they may have different numbers of rows."""


class Staged(Trained):
    """A method whose stages are lists of layers; see :class:`xmbench.training.Trained`."""

    pretrain_epochs: int

    def _transformed(self, pairs: Pairs, layers: Stacks) -> Pairs:
        """The pairs with their features as these layers give them; raises as :meth:`_through`."""
        images, texts = self._through(layers[0], pairs.images), self._through(layers[1], pairs.texts)
        return replace(pairs, images=images, texts=texts)

    def _through(self, layers: list[LayerArrays], rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the layers of a stage make of rows.

        Raises:
            RunError: that is not finite, as the stage that was trained last diverged.
        """
        found = forward(layers, rows)
        if not np.isfinite(found).all():
            raise self._diverged(self.history_[-1], ["what rows are encoded to"])
        return found

    def _stage(
        self, learner: Learner, train: Pairs, context: FitContext, session: Session, stage: str
    ) -> None:
        """Train what looks at no validation pairs, for ``pretrain_epochs``."""
        self._train(
            learner,
            train,
            None,
            context,
            session,
            max_epochs=self.pretrain_epochs,
            smallest_batch=1,
            select_by=None,
            stage=stage,
            scored=False,
        )

    def _fine_tune(
        self,
        learner: LabelFineTuning,
        train: Pairs,
        validation: Pairs | None,
        context: FitContext,
        session: Session,
        stage: str = "labels",
    ) -> Stacks:
        """The hidden layers of label fine-tuning, of the epoch with the least loss on the validation pairs."""
        self._train(
            learner,
            train,
            validation,
            context,
            session,
            smallest_batch=1,
            select_by=STAGE_LOSS,
            lower_is_better=True,
            stage=stage,
            scored=False,
        )
        return self.image_layers_, self.text_layers_


def stacked(lower: Stacks, upper: Stacks) -> Stacks:
    """The layers of two stages, one after the other."""
    return [*lower[0], *upper[0]], [*lower[1], *upper[1]]


def standardised(train: Pairs) -> Stacks:
    """One linear layer a modality that gives training features mean 0 and standard deviation 1, by dimension.

    The statistics are those of ``train``, and part of the model. Dimensions that are constant are centred alone.
    """
    return [standardising(train.images)], [standardising(train.texts)]


def standardising(rows: NDArray[np.float32]) -> LayerArrays:
    """The layer of :func:`standardised` for rows (n, d)."""
    mean, scale = moments(rows)
    weights: NDArray[np.float32] = np.diag(1 / scale)
    return LayerArrays(weights=weights, bias=-mean / scale, activation="linear")


def moments(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation (d,) of the columns of rows (n, d); 1 for that of a constant one."""
    mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale = np.where(spread > np.maximum(SMALLEST_SPREAD * np.abs(mean), 1e-12), spread, 1.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def width(given: int | None, documented: int, d: int) -> int:
    """A given width as it is; None: the documented one, or max(64, 4 d) where that is less."""
    return min(documented, max(64, 4 * d)) if given is None else given


def mean_square(wanted: Tensor, found: Tensor) -> Tensor:
    """Squared difference, mean over rows and dimensions."""
    return ((wanted - found) ** 2).mean()


def whole(batch: Batch) -> tuple[Tensor, Tensor]:
    """The images and the texts of a batch."""
    return batch.images, batch.texts


class Denoising(Learner):
    """One level of an autoencoder of each modality, given its inputs with a share of them set to 0.

    Codes are ``activation(W x + b)``, decoders linear, and the squared error is that of the whole inputs; the
    modalities share nothing but the optimiser, which is Adam.

    Args:
        d: widths of the inputs, of images and of texts.
        k: widths of their codes.
        activation: of the codes.
        learning_rate: of Adam.
        session: device and random streams.
        rows: what is read of a batch; its images and texts unless something else is given.
    """

    def __init__(
        self,
        d: tuple[int, int],
        k: tuple[int, int],
        activation: Activation,
        learning_rate: float,
        session: Session,
        rows: Rows = whole,
    ) -> None:
        self.learning_rate, self.session, self.rows = learning_rate, session, rows
        start, device = session.start, session.device
        self.encoders, self.decoders = [], []
        for i in (0, 1):
            self.encoders.append(Dense((d[i], k[i]), (activation,), start, device))
            self.decoders.append(Dense((k[i], d[i]), ("linear",), start, device))
        networks = [*self.encoders, *self.decoders]
        self.optimiser = Adam([one for network in networks for one in network.parameters], learning_rate)

    def step(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """One step down both reconstruction errors."""
        losses = []
        for i, rows in enumerate(self.rows(batch)):
            codes = self.encoders[i](masked(rows, MASKED, self.session.noise))
            losses.append(mean_square(rows, self.decoders[i](codes)))
        self.optimiser.step(losses[0] + losses[1])
        return {"image_loss": losses[0].detach(), "text_loss": losses[1].detach()}

    def learned(self) -> dict[str, Any]:
        """Nothing that the method keeps as it is; the next stage takes the layers."""
        return {}

    def layers(self) -> Stacks:
        """The encoders as they are now."""
        images, texts = (copy.deepcopy(encoder.arrays()) for encoder in self.encoders)
        return images, texts


class LabelFineTuning(Learner):
    """A classifier of each modality; its last hidden layer is the representation that the stage is for.

    ``h = relu(W_l ... relu(W_1 x))`` and class logits ``V h + c``, for each modality its own, on inputs of which a
    step drops a share. Both learn with one Adam; ``loss`` is the sum of their label losses.

    Args:
        d: widths of the inputs, of images and of texts.
        hidden: widths of the hidden layers, of images and of texts.
        n_classes: number of classes.
        kind: of the loss; see :func:`xmbench.nn.label_loss`.
        dropout: share of the inputs that a step drops.
        weight_decay: L2 penalty in Adam.
        learning_rate: of Adam.
        session: device and random streams.
    """

    def __init__(
        self,
        d: tuple[int, int],
        hidden: tuple[Sequence[int], Sequence[int]],
        n_classes: int,
        kind: LabelLoss,
        dropout: float,
        weight_decay: float,
        learning_rate: float,
        session: Session,
    ) -> None:
        self.kind, self.learning_rate = kind, learning_rate
        self.networks = []
        for i in (0, 1):
            relu: list[Activation] = ["relu"] * len(hidden[i])
            widths = (d[i], *hidden[i], n_classes)
            start, noise = session.start, session.noise
            self.networks.append(
                Dense(widths, (*relu, "linear"), start, session.device, dropout=dropout, noise=noise)
            )
        parameters = [one for network in self.networks for one in network.parameters]
        self.optimiser = Adam(parameters, learning_rate, weight_decay=weight_decay)

    def losses(self, batch: Batch, *, training: bool = True) -> tuple[Tensor, Tensor]:
        """The label losses of images and of texts; dropout acts in training alone."""
        image, text = (
            label_loss(network(rows, training=training), batch.targets, self.kind)
            for network, rows in zip(self.networks, whole(batch), strict=True)
        )
        return image, text

    def step(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """One step down the sum of both losses."""
        image, text = self.losses(batch)
        self.optimiser.step(image + text)
        return {"image_label_loss": image.detach(), "text_label_loss": text.detach()}

    def examine(self, batch: Batch) -> dict[str, float]:
        """The sum of both losses on the validation pairs."""
        image, text = self.losses(batch, training=False)
        return {STAGE_LOSS: float((image + text).detach())}

    def learned(self) -> dict[str, Any]:
        """The hidden layers; the stages above read them, and take their place."""
        image, text = (network.arrays()[:-1] for network in self.networks)
        return {"image_layers_": image, "text_layers_": text}
