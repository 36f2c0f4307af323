"""Cross-entropy alone: a label classifier of one hidden layer, as the reference of all supervised methods."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from xmbench.data import Pairs
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import (
    Adam,
    Dense,
    LabelLoss,
    Tensor,
    check_not_negative,
    check_positive,
    check_share,
    label_loss,
    probabilities,
)
from xmbench.training import Batch, Learner, Session, Trained


class CeMlp(Trained):
    """Both modalities are classified by one network's last layer; nothing else ties them together.

    ``h = relu(W_m x + b_m)`` for each modality m, ``p = softmax(C h + c)`` with C shared; the loss is the
    cross-entropy of images plus that of texts. There is no cross-modal term: pairs are not used. What a method
    with such a term adds is its distance from this row.

    Args:
        hidden: width of h.
        shared: whether C is one for both modalities.
        output: the common space: class ``probabilities``, or the ``embedding`` h.
        multi_label: loss of the labels, of which an item may have several: ``soft``: cross-entropy with y / sum(y),
            ``squared``: squared distance from it, or ``bce``: a sigmoid a class.
        dropout: share of the inputs that a step drops.
        weight_decay: L2 penalty in Adam.
        learning_rate: of Adam.
        batch_size: pairs a step.
        max_epochs: at the most.
        patience: epochs without a better validation score that end the training.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``history_`` (``image_label_loss``, ``text_label_loss``),
    ``best_epoch_``.

    Source: none; a control, semantic matching (Rasiwasia et al., ACM Multimedia 2010) with a hidden layer.
    """

    info = MethodInfo(
        title="CE-MLP (control)",
        paper="none: a control",
        year=2026,
        supervised=True,
        control=True,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "learning_rate": (3e-4, 1e-3),
        "weight_decay": (0.0, 1e-4, 1e-3),
        "dropout": (0.0, 0.2, 0.5),
        "output": ("probabilities", "embedding"),
    }

    ablations: ClassVar = {"not_shared": {"shared": False}}

    def __init__(
        self,
        hidden: int = 1024,
        shared: bool = True,
        output: Literal["probabilities", "embedding"] = "probabilities",
        multi_label: LabelLoss = "soft",
        dropout: float = 0.2,
        weight_decay: float = 1e-4,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.shared = shared
        self.output = output
        self.multi_label = multi_label
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        check_positive("CeMlp", hidden=self.hidden)
        check_not_negative("CeMlp", weight_decay=self.weight_decay)
        check_share("CeMlp", dropout=self.dropout)
        session = Session(self.random_state, context.device)
        widths = train.images.shape[1], train.texts.shape[1], train.n_classes
        learner = CeMlpLearner(self, widths, session)
        self._train(learner, train, validation, context, session, smallest_batch=1)


class CeMlpLearner(Learner):
    """Both networks and their step.

    Args:
        method: parameters.
        widths: d_image, d_text and the number of classes.
        session: device and random streams.
    """

    def __init__(self, method: CeMlp, widths: tuple[int, int, int], session: Session) -> None:
        self.method, self.learning_rate = method, method.learning_rate
        d_image, d_text, n_classes = widths
        h, start, device = method.hidden, session.start, session.device
        noise = {"dropout": method.dropout, "noise": session.noise}
        self.image = Dense((d_image, h), ("relu",), start, device, **noise)
        self.text = Dense((d_text, h), ("relu",), start, device, **noise)
        self.image_classifier = Dense((h, n_classes), ("linear",), start, device)
        self.text_classifier = self.image_classifier
        if not method.shared:
            self.text_classifier = Dense((h, n_classes), ("linear",), start, device)
        networks = dict.fromkeys((self.image, self.text, self.image_classifier, self.text_classifier))
        parameters = [tensor for network in networks for tensor in network.parameters]
        self.optimiser = Adam(parameters, self.learning_rate, weight_decay=method.weight_decay)

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down the sum of both cross-entropies."""
        kind = self.method.multi_label
        image = label_loss(self.image_classifier(self.image(batch.images)), batch.targets, kind)
        text = label_loss(self.text_classifier(self.text(batch.texts)), batch.targets, kind)
        self.optimiser.step(image + text)
        return {"image_label_loss": image.detach(), "text_label_loss": text.detach()}

    def learned(self) -> dict[str, Any]:
        """The networks, up to the layer that is the common space."""
        image, text = self.image.arrays(), self.text.arrays()
        if self.method.output == "probabilities":
            kind = self.method.multi_label
            image = probabilities([*image, *self.image_classifier.arrays()], kind)
            text = probabilities([*text, *self.text_classifier.arrays()], kind)
        return {"image_layers_": image, "text_layers_": text}


METHOD = CeMlp
