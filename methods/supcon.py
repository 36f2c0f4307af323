"""Supervised contrastive learning across modalities: a modern point of reference."""

from __future__ import annotations

from typing import Any, ClassVar

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
    matching,
    normalised,
)
from xmbench.training import Batch, Learner, Session, Trained


class SupCon(Trained):
    """Each item is drawn to all items of its classes in the other modality, against all of the batch.

    With unit rows v_i and t_j of both modalities' networks and P_i the batch's items that share a class with item i::

        L = -mean_i 1/|P_i| sum over j in P_i of log softmax_j(v_i . t_j / tau)    (both directions)
            + ce_weight * (cross-entropy of a linear classifier, one for both modalities)

    Args:
        temperature: tau.
        ce_weight: weight of the cross-entropy; 0 leaves it out.
        hidden: width of the hidden layer of each network, with ReLU.
        n_components: width of the common space.
        multi_label: loss of the labels, of which an item may have several: ``soft``: cross-entropy with y / sum(y),
            ``squared``: squared distance from it, or ``bce``: a sigmoid a class.
        dropout: share of the inputs that a step drops.
        weight_decay: L2 penalty in Adam.
        learning_rate: of Adam.
        batch_size: pairs a step, which are also the negatives.
        max_epochs: at the most.
        patience: epochs without a better validation score that end the training.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``history_`` (``contrastive_loss``, ``label_loss``), ``best_epoch_``.

    Source: the loss of Khosla et al., "Supervised contrastive learning", NeurIPS 2020, Eq. 2 (mean outside the
    logarithm), with anchors in one modality and all others in the other; so is the contrastive part of Hu et al.,
    "Learning cross-modal retrieval with noisy labels", CVPR 2021. Differs: no augmentation, fixed features, and the
    cross-entropy beside it.
    """

    info = MethodInfo(
        title="SupCon (cross-modal)",
        paper="after Khosla et al., Supervised contrastive learning, NeurIPS 2020",
        year=2020,
        supervised=True,
        trained=True,
        requires=("torch",),
        departures=("the loss between modalities on fixed features, beside a cross-entropy",),
    )
    grid: ClassVar = {
        "temperature": (0.05, 0.1, 0.2, 0.5),
        "learning_rate": (3e-4, 1e-3),
        "dropout": (0.0, 0.2, 0.5),
        "ce_weight": (0.0, 1.0),
    }

    ablations: ClassVar = {"no_ce": {"ce_weight": 0.0}}

    def __init__(
        self,
        temperature: float = 0.1,
        ce_weight: float = 1.0,
        hidden: int = 1024,
        n_components: int = 256,
        multi_label: LabelLoss = "soft",
        dropout: float = 0.2,
        weight_decay: float = 1e-4,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 60,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.hidden = hidden
        self.n_components = n_components
        self.multi_label = multi_label
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training()
        check_positive("SupCon", temperature=self.temperature, hidden=self.hidden)
        check_positive("SupCon", n_components=self.n_components)
        check_not_negative("SupCon", ce_weight=self.ce_weight, weight_decay=self.weight_decay)
        check_share("SupCon", dropout=self.dropout)
        session = Session(self.random_state, context.device)
        widths = train.images.shape[1], train.texts.shape[1], train.n_classes
        self._train(SupConLearner(self, widths, session), train, validation, context, session)


class SupConLearner(Learner):
    """Both networks, the classifier and their step.

    Args:
        method: parameters.
        widths: d_image, d_text and the number of classes.
        session: device and random streams.
    """

    def __init__(self, method: SupCon, widths: tuple[int, int, int], session: Session) -> None:
        self.method, self.learning_rate = method, method.learning_rate
        d_image, d_text, n_classes = widths
        h, k, start, device = method.hidden, method.n_components, session.start, session.device
        noise = {"dropout": method.dropout, "noise": session.noise}
        self.image = Dense((d_image, h, k), ("relu", "linear"), start, device, **noise)
        self.text = Dense((d_text, h, k), ("relu", "linear"), start, device, **noise)
        self.classifier = Dense((k, n_classes), ("linear",), start, device)
        parameters = [*self.image.parameters, *self.text.parameters, *self.classifier.parameters]
        self.optimiser = Adam(parameters, self.learning_rate, weight_decay=method.weight_decay)

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down L."""
        image, text = self.image(batch.images), self.text(batch.texts)
        contrastive = contrastive_loss(image, text, batch.targets, self.method.temperature)
        kind = self.method.multi_label
        label = label_loss(self.classifier(image), batch.targets, kind)
        label = label + label_loss(self.classifier(text), batch.targets, kind)
        self.optimiser.step(contrastive + self.method.ce_weight * label)
        return {"contrastive_loss": contrastive.detach(), "label_loss": label.detach()}

    def learned(self) -> dict[str, Any]:
        """The networks, up to the common space; cosine similarity does the normalising."""
        return {"image_layers_": self.image.arrays(), "text_layers_": self.text.arrays()}


def contrastive_loss(image: Tensor, text: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """L without the cross-entropy, both directions summed, for rows (n, k) of any length and targets (n, c)."""
    logits = normalised(image) @ normalised(text).T / temperature
    positives = matching(targets, targets)
    shares = positives / positives.sum(dim=1, keepdim=True)
    there = -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
    return there - (shares * logits.T.log_softmax(dim=1)).sum(dim=1).mean()


METHOD = SupCon
