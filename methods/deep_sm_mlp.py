"""Deep semantic matching with a hidden layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import (
    Adam,
    Dense,
    LabelLoss,
    Tensor,
    check_not_negative,
    check_share,
    forward,
    label_loss,
    probabilities,
)
from xmbench.training import Batch, Learner, Session, Trained

SMALLEST = 1e-12
"""What probabilities are not taken to be less than, for their logarithm."""


class DeepSmMlp(Trained):
    """One classifier per modality, each a network of its own; class probabilities are the common space.

    ``p = softmax(C relu(W x + b) + c)`` for each modality, trained on its rows and their labels alone and stopped by
    its own loss on the validation rows (stopped by accuracy, results vary more over seeds). Without a hidden layer
    (``hidden=none``) each is multinomial logistic regression; ``deep_sm`` has that with a convex solver.

    Args:
        hidden: width of the hidden layer; None for none.
        multi_label: loss of items with several classes: ``squared`` distance of the probabilities from y / sum(y)
            (the paper's), ``soft``: cross-entropy with it, or ``bce``: a sigmoid a class. Labels that are one number
            an item take the cross-entropy.
        output: the common space: ``probabilities`` p, ``centered`` p - 1/c, or ``log`` p.
        dropout: share of the inputs that a step drops.
        weight_decay: L2 penalty in Adam.
        learning_rate: of Adam.
        batch_size: rows a step.
        max_epochs: at the most, of each modality.
        patience: epochs without a smaller validation loss that end the training of a modality.
        random_state: seed; the modalities have streams of their own.

    Learned: ``image_layers_``, ``text_layers_``, ``history_`` with stages ``image`` and ``text`` (``label_loss``,
    ``validation_loss``), ``best_epoch_`` of the texts.

    Source: Wei, Zhao, Lu, Wei, Liu, Zhu, Yan, "Cross-modal retrieval with CNN visual features: a new baseline",
    IEEE Trans. Cybernetics 2017. Differs: features are fixed, where the paper fine-tunes its image network; Adam; the
    epoch is chosen by validation loss.
    """

    info = MethodInfo(
        title="Deep-SM (MLP)",
        paper="Wei et al., Cross-modal retrieval with CNN visual features: a new baseline, "
        "IEEE Trans. Cybernetics 47, 2017",
        year=2017,
        supervised=True,
        trained=True,
        requires=("torch",),
        departures=("one hidden layer on fixed features, no fine-tuning of an image network",),
    )
    grid: ClassVar = {
        "learning_rate": (3e-4, 1e-3),
        "weight_decay": (0.0, 1e-4, 1e-3),
        "dropout": (0.0, 0.2, 0.5),
    }

    ablations: ClassVar = {"no_hidden_layer": {"hidden": None}}

    def __init__(
        self,
        hidden: int | None = 256,
        multi_label: LabelLoss = "squared",
        output: Literal["probabilities", "centered", "log"] = "probabilities",
        dropout: float = 0.5,
        weight_decay: float = 1e-4,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.multi_label = multi_label
        self.output = output
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        if self.hidden is not None and self.hidden < 1:
            raise InvalidParameter(f"DeepSmMlp.hidden: expected at least 1 or none, got {self.hidden}")
        check_not_negative("DeepSmMlp", weight_decay=self.weight_decay)
        check_share("DeepSmMlp", dropout=self.dropout)
        kind: LabelLoss = self.multi_label if train.multi_label else "soft"
        modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
        for branch, modality in enumerate(modalities):
            width = (train.images, train.texts)[branch].shape[1]
            session = Session(self.random_state, context.device, branch)
            self._train(
                Classifier(self, modality, width, train.n_classes, kind, session),
                train,
                validation,
                context,
                session,
                smallest_batch=1,
                select_by="validation_loss",
                lower_is_better=True,
                stage=modality,
                scored=modality == "text",
            )

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._common(forward(self.image_layers_, images))

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._common(forward(self.text_layers_, texts))

    def _common(self, p: NDArray[np.float32]) -> NDArray[Any]:
        if self.output == "centered":
            return p - np.float32(1 / p.shape[1])
        return np.log(np.maximum(p, np.float32(SMALLEST))) if self.output == "log" else p


class Classifier(Learner):
    """The network of one modality and its step.

    Args:
        method: parameters.
        modality: whose rows it learns from.
        width: d of that modality.
        n_classes: number of classes.
        kind: of the loss.
        session: device and random streams.
    """

    def __init__(
        self,
        method: DeepSmMlp,
        modality: Literal["image", "text"],
        width: int,
        n_classes: int,
        kind: LabelLoss,
        session: Session,
    ) -> None:
        self.modality, self.kind, self.learning_rate = modality, kind, method.learning_rate
        noise = {"dropout": method.dropout, "noise": session.noise}
        if method.hidden is None:
            self.network = Dense((width, n_classes), ("linear",), session.start, session.device, **noise)
        else:
            widths = (width, method.hidden, n_classes)
            self.network = Dense(widths, ("relu", "linear"), session.start, session.device, **noise)
        self.optimiser = Adam(self.network.parameters, self.learning_rate, weight_decay=method.weight_decay)

    def _rows(self, batch: Batch) -> Tensor:
        return batch.images if self.modality == "image" else batch.texts

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down the label loss."""
        loss = label_loss(self.network(self._rows(batch)), batch.targets, self.kind)
        self.optimiser.step(loss)
        return {"label_loss": loss.detach()}

    def examine(self, batch: Batch) -> dict[str, float]:
        """The loss on the validation rows, without dropout."""
        logits = self.network(self._rows(batch), training=False)
        return {"validation_loss": float(label_loss(logits, batch.targets, self.kind).detach())}

    def learned(self) -> dict[str, Any]:
        """The network, with probabilities as output."""
        return {f"{self.modality}_layers_": probabilities(self.network.arrays(), self.kind)}


METHOD = DeepSmMlp
