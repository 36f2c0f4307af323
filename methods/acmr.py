"""Adversarial cross-modal retrieval."""

from __future__ import annotations

import math
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
    distances,
    frozen,
    label_loss,
    matching,
    reverse_gradient,
)
from xmbench.training import Batch, Learner, Session, Trained


class Acmr(Trained):
    """Embeddings that predict the label, keep triplets in order, and hide their modality from an adversary.

    With v = f_V(x) and t = f_T(t) in (-1, 1)^k, each two dense layers with tanh (section 3.2), for a batch of n:

    - Eq. 1, ``adversarial_loss``: the modality classifier D (k-50-2) minimises
      ``L_adv = -mean_i [log D(v_i)_image + log D(t_i)_text]``; 2 log 2 where it can tell nothing.
    - Eq. 2, ``label_loss``: ``L_imd = -mean_i [y_i log p(v_i) + y_i log p(t_i)]``, one linear softmax for both.
    - Eq. 3: ``l_2(v, t) = ||v - t||``, not squared.
    - Eqs. 4 and 5, ``triplet_loss``: ``L_imi,V = sum over i, j+, k- of l_2(v_i, t_j) + lambda max(0, mu - l_2(v_i,
      t_k))``, j+ with a class of item i, k- without; ``L_imi,T`` with the modalities exchanged.
    - Eq. 6: ``L_imi = L_imi,V + L_imi,T``.
    - Eq. 7: ``L_reg = sum over layers of ||W_V||_F + ||W_T||_F``, not squared.
    - Eq. 8, ``embedding_loss``: ``L_emb = alpha L_imi + beta L_imd + L_reg``.
    - Eqs. 9 and 10 (minimax): f_V, f_T and the label classifier descend L_emb - L_adv, D descends L_adv.

    Algorithm 1 takes ``embedding_steps`` (k) steps of the former, D held, to one of D. Triplets are not listed: with
    p_i and q_i the numbers of items that match item i and that do not, ``L_imi,V = sum_i q_i sum_j+ l_2(v_i, t_j) +
    lambda p_i sum_k- max(0, mu - l_2(v_i, t_k))``, which is exact and takes n^2 steps.

    Args:
        alpha: weight of L_imi.
        beta: weight of L_imd.
        triplet_weight: lambda, of the hinge; .05 in the paper.
        margin: mu; the paper has no value. Distances go up to 2 sqrt(k) = 28.
        use_imi: whether L_imi is in L_emb.
        use_imd: whether L_imd is in L_emb; without it, no class label is predicted.
        adversary: ``alternating`` as Algorithm 1, ``reversal``: all parameters step together through a layer that
            reverses the gradient, its strength ``2 / (1 + exp(-10 done / max_epochs)) - 1`` for the epochs done,
            as in the authors' code, or ``off``: D is trained to log its accuracy, and no gradient of it reaches the
            embeddings.
        adversary_weight: of L_adv in the embeddings' objective.
        modality_activation: of D's hidden layer: ``relu``, or ``linear`` as in the authors' code; the paper
            says nothing of it.
        embedding_steps: k.
        reduction: ``mean`` divides L_imi,V and L_imi,T by their numbers of triplets; ``sum`` is Eq. 4 to the letter.
        mining: ``all`` triplets, or ``hardest``: of each anchor the farthest match and the nearest mismatch.
        multi_label: loss of the labels, of which an item may have several: ``soft``: cross-entropy with y / sum(y),
            ``squared``: squared distance from it, or ``bce``: a sigmoid a class.
        hidden_image: width of f_V's hidden layer.
        hidden_text: width of f_T's.
        n_components: k of the common space.
        dropout: share of the inputs that a step drops; the paper names dropout without a rate.
        reg_weight: weight of L_reg; 1 in Eq. 8.
        learning_rate: of Adam, whose first decay is .5 as in the authors' code.
        batch_size: 64 in the paper.
        max_epochs: at the most.
        patience: epochs without a better validation score that end the training.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``history_``, ``best_epoch_``. The history has all terms above,
    ``modality_accuracy`` of D, measured before its own step (1/2: it can tell nothing; below: the embeddings have
    moved on since its last step, and it takes one modality for the other), and mean ``positive_distance`` and
    ``negative_distance``; where the latter is above the margin throughout, lambda and mu have no effect.

    A step of the embeddings takes a new batch, and D's step the embeddings from before the last one of them.

    Source: Wang, Yang, Xu, Hanjalic, Shen, "Adversarial cross-modal retrieval", ACM Multimedia 2017, section 3.
    Differs: L_imi is a mean (the sum has some 24,000 terms an anchor modality at a batch of 64 and 10 classes, drowns
    L_imd and collapses the embeddings; ``preset=paper`` takes it, with L_reg at weight 1); the epoch is chosen on
    validation rows. The paper says that alpha = 0 leaves L_imi alone: by Eq. 8 it removes it, so parts are
    switched by name. Neither a margin, nor a learning rate, nor dropout are in the paper: the defaults are ours (the
    authors' code has 1e-4, as has the preset; the preset leaves the stopping rule as it is). The authors' code is
    another model: its adversary's gradient does not reach the embeddings, its label classifier is not trained, and its
    triplets are one hinge over sums of a batch.
    """

    info = MethodInfo(
        title="ACMR",
        paper="Wang et al., Adversarial cross-modal retrieval, ACM Multimedia 2017",
        year=2017,
        supervised=True,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "alpha": (0.01, 0.1, 1.0),
        "beta": (0.1, 1.0, 10.0),
        "margin": (1.0, 5.0),
        "learning_rate": (1e-4, 3e-4),
    }
    presets: ClassVar = {"paper": {"reduction": "sum", "reg_weight": 1.0, "learning_rate": 1e-4}}
    ablations: ClassVar = {
        "imi_only": {"use_imd": False},
        "imi_only_lambda_1": {"use_imd": False, "triplet_weight": 1.0},
        "imd_only": {"use_imi": False},
        "no_adversary": {"adversary": "off"},
    }

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        triplet_weight: float = 0.05,
        margin: float = 1.0,
        use_imi: bool = True,
        use_imd: bool = True,
        adversary: Literal["alternating", "reversal", "off"] = "alternating",
        adversary_weight: float = 1.0,
        modality_activation: Literal["relu", "linear"] = "relu",
        embedding_steps: int = 5,
        reduction: Literal["mean", "sum"] = "mean",
        mining: Literal["all", "hardest"] = "all",
        multi_label: LabelLoss = "soft",
        hidden_image: int = 2000,
        hidden_text: int = 500,
        n_components: int = 200,
        dropout: float = 0.0,
        reg_weight: float = 1e-4,
        learning_rate: float = 3e-4,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.triplet_weight = triplet_weight
        self.margin = margin
        self.use_imi = use_imi
        self.use_imd = use_imd
        self.adversary = adversary
        self.adversary_weight = adversary_weight
        self.modality_activation = modality_activation
        self.embedding_steps = embedding_steps
        self.reduction = reduction
        self.mining = mining
        self.multi_label = multi_label
        self.hidden_image = hidden_image
        self.hidden_text = hidden_text
        self.n_components = n_components
        self.dropout = dropout
        self.reg_weight = reg_weight
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = []
        if self.reduction == "mean":
            found.append("the triplet loss is a mean over triplets, not their sum")
        if self.reg_weight != 1:
            found.append("the norms of the weights count little: reg_weight: " + f"{self.reg_weight:g}")
        return (*found, "the epoch is chosen on validation rows")

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training()
        check_positive(
            "Acmr", margin=self.margin, hidden_image=self.hidden_image, hidden_text=self.hidden_text
        )
        check_positive("Acmr", n_components=self.n_components, embedding_steps=self.embedding_steps)
        check_not_negative("Acmr", alpha=self.alpha, beta=self.beta, triplet_weight=self.triplet_weight)
        check_not_negative("Acmr", adversary_weight=self.adversary_weight, reg_weight=self.reg_weight)
        check_share("Acmr", dropout=self.dropout)
        session = Session(self.random_state, context.device)
        widths = train.images.shape[1], train.texts.shape[1], train.n_classes
        self._train(AcmrLearner(self, widths, session), train, validation, context, session)


class AcmrLearner(Learner):
    """Both projectors, the label classifier, the modality classifier D, and the steps of Algorithm 1.

    Args:
        method: parameters.
        widths: d_image, d_text and the number of classes.
        session: device and random streams.
    """

    def __init__(self, method: Acmr, widths: tuple[int, int, int], session: Session) -> None:
        self.method, self.learning_rate = method, method.learning_rate
        d_image, d_text, n_classes = widths
        k, start, device = method.n_components, session.start, session.device
        noise = {"dropout": method.dropout, "noise": session.noise}
        self.f_V = Dense((d_image, method.hidden_image, k), ("tanh", "tanh"), start, device, **noise)
        self.f_T = Dense((d_text, method.hidden_text, k), ("tanh", "tanh"), start, device, **noise)
        self.label_classifier = Dense((k, n_classes), ("linear",), start, device)
        self.D = Dense((k, 50, 2), (method.modality_activation, "linear"), session.probe, device)
        self.embeds = [*self.f_V.parameters, *self.f_T.parameters, *self.label_classifier.parameters]
        together = self.D.parameters if method.adversary == "reversal" else []
        self.embedding_optimiser = Adam([*self.embeds, *together], self.learning_rate, beta1=0.5)
        self.modality_optimiser = Adam(self.D.parameters, self.learning_rate, beta1=0.5)
        self.projections = [*self.f_V.weights, *self.f_T.weights]
        self.places = [i for i, one in enumerate(self.embeds) if any(one is W for W in self.projections)]
        self.steps, self.reversal = 0, 0.0
        self.measure()

    def begin_epoch(self, epoch: int, max_epochs: int) -> None:
        """The strength of the reversal, by the share of the epochs that are done."""
        self.reversal = 2 / (1 + math.exp(-10 * (epoch - 1) / max_epochs)) - 1

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step of the embeddings and, after every ``embedding_steps`` of them, one of D."""
        self.measure()
        v, t = self.f_V(batch.images), self.f_T(batch.texts)
        losses = self.embedding_losses(v, t, batch.targets)
        objective = losses["embedding_loss"]
        if self.method.adversary == "reversal":
            strength = self.reversal * self.method.adversary_weight
            adversarial = self.modality_losses(reverse_gradient(v, strength), reverse_gradient(t, strength))
            objective = objective + adversarial["adversarial_loss"]
        elif self.method.adversary == "alternating":
            with frozen(self.D.parameters):
                adversarial = self.modality_losses(v, t)
            objective = objective - self.method.adversary_weight * adversarial["adversarial_loss"]
        else:
            adversarial = self.modality_losses(v.detach(), t.detach())
        self.embedding_optimiser.step(objective)
        self.steps += 1
        if self.method.adversary != "reversal" and self.steps % self.method.embedding_steps == 0:
            self.modality_step(v.detach(), t.detach())
        return {name: value.detach() for name, value in (losses | adversarial).items()}

    def measure(self) -> None:
        """Norms for Eq. 7, whose gradient W / ||W||_F is left to Adam as weight decay: two passes fewer."""
        self.norms = [float(W.detach().norm()) for W in self.projections]
        for i, norm in zip(self.places, self.norms, strict=True):
            self.embedding_optimiser.weight_decays[i] = self.method.reg_weight / norm if norm else 0.0

    def modality_step(self, v: Tensor, t: Tensor) -> None:
        """D descends L_adv on embeddings (n, k) that it cannot move."""
        self.modality_optimiser.step(self.modality_losses(v, t)["adversarial_loss"])

    def embedding_losses(self, v: Tensor, t: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Eqs. 2 to 8 for embeddings (n, k) and targets (n, c); for that of Eq. 7 see :meth:`measure`."""
        method = self.method
        D, relevant = distances(v, t), matching(targets, targets)
        imi = triplet_loss(D, relevant, method) + triplet_loss(D.T, relevant, method)
        imd = sum(label_loss(self.label_classifier(rows), targets, method.multi_label) for rows in (v, t))
        alpha, beta = method.alpha * method.use_imi, method.beta * method.use_imd
        embedding = alpha * imi + beta * imd + method.reg_weight * sum(self.norms)
        other = 1 - relevant
        return {
            "embedding_loss": embedding,
            "triplet_loss": imi,
            "label_loss": imd,
            "positive_distance": (relevant * D).sum() / relevant.sum(),
            "negative_distance": (other * D).sum() / other.sum().clamp(min=1),
        }

    def modality_losses(self, v: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Eq. 1, and the share of both modalities' embeddings that D tells right."""
        image, text = self.D(v).log_softmax(dim=1), self.D(t).log_softmax(dim=1)
        right = (image[:, 0] > image[:, 1]).sum() + (text[:, 1] > text[:, 0]).sum()
        return {
            "adversarial_loss": -(image[:, 0] + text[:, 1]).mean(),
            "modality_accuracy": right / (len(v) + len(t)),
        }

    def learned(self) -> dict[str, Any]:
        """The projectors."""
        return {"image_layers_": self.f_V.arrays(), "text_layers_": self.f_T.arrays()}


def triplet_loss(D: Tensor, relevant: Tensor, method: Acmr) -> Tensor:
    """Eq. 4 for distances (n, n) of anchors to items and ``relevant`` (n, n) of 0 and 1, without listing triplets.

    Anchors without a match or without a mismatch have no triplet. Eq. 5 is that of the transposed distances.
    """
    hinge = (method.margin - D).clamp(min=0)
    other = 1 - relevant
    p, q = relevant.sum(dim=1), other.sum(dim=1)
    if method.mining == "hardest":
        both = (p > 0) & (q > 0)
        pull = (relevant * D).max(dim=1).values * both
        push = (other * hinge).max(dim=1).values * both
        total, n = (pull + method.triplet_weight * push).sum(), both.sum()
    else:
        pull, push = q * (relevant * D).sum(dim=1), p * (other * hinge).sum(dim=1)
        total, n = (pull + method.triplet_weight * push).sum(), (p * q).sum()
    return total / n.clamp(min=1) if method.reduction == "mean" else total


METHOD = Acmr
