"""Cross-media multiple deep networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import LabelLoss, LayerArrays, check_not_negative, check_positive, check_share, forward
from xmbench.training import VALIDATION_MAP, Session

from ._bimodal import BimodalLearner, mean_rows
from ._rbm import Rbm, RbmLearner, pretrained
from ._stages import Denoising, LabelFineTuning, Stacks, Staged, stacked, standardised, width

WIDTH = 256
"""Width of the layers of stage 1 where none is given; a quarter of the paper's."""


class Cmdn(Staged):
    """A representation of each modality from within it and from both, refined by labels; then codes of both in common.

    Stage 1, separate representations, for each modality:

    - intra: two autoencoders, one on top of the other (stages ``intra 1``, ``intra 2``), give a;
    - inter: a network of both modalities, read with one of them missing, gives b (``inter``);
    - their combination: an autoencoder over a and b side by side (``combination``);
    - labels: a classifier with three hidden layers (``labels``), whose last one, h, is kept.

    Stage 2, the common representation: ``bae_levels`` bimodal autoencoders, each with half the width of the one below
    (``bimodal 1``, ...). A code of one modality is ``z_v = sigma(W_v h_v + b)``, the same layer as that of both,
    ``sigma(W_v h_v + W_t h_t + b)``; it learns from each pair three times, as image alone, as text alone, and as both,
    to give both back, and to tell the label.

    Args:
        backend: of stage 1. ``ae``: denoising autoencoders (a fifth of the inputs hidden), and for b a bimodal
            autoencoder of the features; ``rbm``: as the paper, b from a multimodal deep belief network (Gaussian
            visible units; stages ``rbm 1``, ``rbm 2``, ``joint``) and the combination by a restricted Boltzmann
            machine; ``none``: neither, the features are h's input.
        stage1: ``both``, ``intra`` (a alone) or ``inter`` (b alone).
        labels: ``both``: in stage 1 and 2; ``finetune_only``: not in stage 2; ``none``.
        label_weight: of the label loss in stage 2.
        bae_levels: how many bimodal autoencoders; 0: h is the representation, both with the narrower modality's width.
        hidden: width of all layers of stage 1; None: 256, or max(64, 4 d) where that is less, d being the features of
            the modality, or those of the wider one for b.
        center: take the mean code of the training rows off, without which logistic codes all point the same way.
        multi_label: loss of the labels, of which an item may have several, as in ``acmr``.
        dropout: share of the classifier's inputs that a step drops.
        weight_decay: L2 penalty of the classifier.
        pretrain_epochs: of each autoencoder or machine of stage 1.
        pretrain_rate: learning rate of its autoencoders; machines have .1.
        learning_rate: of the classifier and of stage 2, by Adam.
        batch_size: pairs a step.
        max_epochs: of the classifier, and of each bimodal autoencoder, at the most.
        patience: epochs without a better one that end either.
        random_state: seed.

    Learned: ``image_branches_``, ``text_branches_`` (lists of layers, one list for a and one for b, side by side),
    ``image_layers_``, ``text_layers_`` (what is on top of them), ``image_mean_``, ``text_mean_``, ``history_``,
    ``best_epoch_``.

    The classifier's epoch is that of the least loss on the validation pairs, that of a bimodal autoencoder the one of
    their highest retrieval score (without labels: the last one).

    Source: Peng, Huang, Qi, "Cross-media shared representation by hierarchical learning with multiple deep networks",
    IJCAI 2016, sections 3 and 4. Differs: Adam and few epochs for SGD and 10^5 steps; layers of a quarter of the
    width; the autoencoders of ``ae``; reconstructions of standardised codes; the epoch is chosen on validation pairs.
    In the authors' code it is unclear whether labels act in stage 2: their branch there names a layer that does not
    exist. The last hidden layers of two classifiers that share nothing, ``bae_levels=0``, are no common space.
    """

    info = MethodInfo(
        title="CMDN",
        paper="Peng et al., Cross-media shared representation by hierarchical learning with multiple deep networks, "
        "IJCAI 2016",
        year=2016,
        supervised=True,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "bae_levels": (1, 2, 3),
        "hidden": (128, 256),
        "learning_rate": (1e-3, 3e-3),
    }
    presets: ClassVar = {"rbm": {"backend": "rbm"}}
    ablations: ClassVar = {
        "intra_only": {"stage1": "intra"},
        "inter_only": {"stage1": "inter"},
        "no_bimodal": {"bae_levels": 0},
        "labels_in_stage_1": {"labels": "finetune_only"},
        "no_pretraining": {"backend": "none"},
    }

    def __init__(
        self,
        backend: Literal["ae", "rbm", "none"] = "ae",
        stage1: Literal["both", "intra", "inter"] = "both",
        labels: Literal["both", "finetune_only", "none"] = "both",
        label_weight: float = 1.0,
        bae_levels: int = 3,
        hidden: int | None = None,
        center: bool = True,
        multi_label: LabelLoss = "soft",
        dropout: float = 0.3,
        weight_decay: float = 1e-4,
        pretrain_epochs: int = 10,
        pretrain_rate: float = 1e-3,
        learning_rate: float = 3e-3,
        batch_size: int = 32,
        max_epochs: int = 30,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.backend = backend
        self.stage1 = stage1
        self.labels = labels
        self.label_weight = label_weight
        self.bae_levels = bae_levels
        self.hidden = hidden
        self.center = center
        self.multi_label = multi_label
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.pretrain_epochs = pretrain_epochs
        self.pretrain_rate = pretrain_rate
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    image_branches_: list[list[LayerArrays]]
    text_branches_: list[list[LayerArrays]]
    image_mean_: NDArray[np.float32]
    text_mean_: NDArray[np.float32]

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = {
            "ae": ["autoencoders in place of Boltzmann machines"],
            "rbm": ["texts are real numbers with Gaussian units, not counts of words"],
            "none": ["no pretraining"],
        }[self.backend]
        if self.hidden is None or self.hidden < 2048:
            found.append("narrower layers")
        if self.center:
            found.append("codes are centred")
        return (*found, "Adam; the epoch is chosen on validation pairs")

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        check_positive("Cmdn", pretrain_epochs=self.pretrain_epochs, pretrain_rate=self.pretrain_rate)
        check_not_negative("Cmdn", label_weight=self.label_weight, weight_decay=self.weight_decay)
        check_not_negative("Cmdn", bae_levels=self.bae_levels)
        if self.hidden is not None:
            check_positive("Cmdn", hidden=self.hidden)
        check_share("Cmdn", dropout=self.dropout)
        d = train.images.shape[1], train.texts.shape[1]
        k = width(self.hidden, WIDTH, d[0]), width(self.hidden, WIDTH, d[1])
        if max(k) < 2**self.bae_levels:
            raise InvalidParameter(
                f"Cmdn.bae_levels: each halves the width, expected at least {2**self.bae_levels} for "
                f"{self.bae_levels} levels, got {max(k)}; a larger hidden helps"
            )
        if not self.bae_levels:  # nothing else would bring both to one width
            if self.backend == self.labels == "none":
                raise InvalidParameter("Cmdn: nothing to learn; backend, labels and bae_levels are all off")
            k = min(k), min(k)
        session = Session(self.random_state, context.device)
        self.image_branches_, self.text_branches_ = self._branches(train, k, context, session)
        train = self._side_by_side(train)
        validation = None if validation is None else self._side_by_side(validation)
        layers = standardised(train)
        if self.backend != "none":
            layers = self._combined(train, layers, k, context, session)
            layers = stacked(layers, standardised(self._transformed(train, layers)))
        if self.labels != "none":
            inputs = self._transformed(train, layers)
            held = None if validation is None else self._transformed(validation, layers)
            learner = LabelFineTuning(
                (inputs.images.shape[1], inputs.texts.shape[1]),
                ([k[0]] * 3, [k[1]] * 3),
                train.n_classes,
                self.multi_label,
                self.dropout,
                self.weight_decay,
                self.learning_rate,
                session,
            )
            layers = stacked(layers, self._fine_tune(learner, inputs, held, context, session))
        codes = self._transformed(train, layers)
        self.image_layers_, self.text_layers_ = layers
        self.image_mean_, self.text_mean_ = (
            mean_rows(rows, self.center) for rows in (codes.images, codes.texts)
        )
        for level in range(1, self.bae_levels + 1):
            self._bimodal(level, max(k) // 2**level, train, validation, context, session)

    # -- stage 1 --------------------------------------------------------------------------------

    def _branches(
        self, train: Pairs, k: tuple[int, int], context: FitContext, session: Session
    ) -> tuple[list[list[LayerArrays]], list[list[LayerArrays]]]:
        """The layers that give a and those that give b, of images and of texts."""
        if self.backend == "none":
            return [[]], [[]]
        found: list[Stacks] = []
        if self.stage1 != "inter":
            stacks: Stacks = ([], [])
            for level in (1, 2):
                inputs = self._transformed(train, stacks)
                stacks = stacked(stacks, self._denoising(inputs, k, f"intra {level}", context, session))
            found.append(stacks)
        if self.stage1 != "intra":
            inter = self._inter_ae if self.backend == "ae" else self._inter_rbm
            found.append(inter(train, k, context, session))
        return [stacks[0] for stacks in found], [stacks[1] for stacks in found]

    def _denoising(
        self, train: Pairs, k: tuple[int, int], stage: str, context: FitContext, session: Session
    ) -> Stacks:
        """The encoders of an autoencoder of each modality."""
        d = train.images.shape[1], train.texts.shape[1]
        learner = Denoising(d, k, "relu", self.pretrain_rate, session)
        self._stage(learner, train, context, session, stage)
        return learner.layers()

    def _inter_ae(self, train: Pairs, k: tuple[int, int], context: FitContext, session: Session) -> Stacks:
        """One bimodal autoencoder of the features."""
        learner = BimodalLearner(train, max(k), session, learning_rate=self.pretrain_rate, center=False)
        self._stage(learner, train, context, session, "inter")
        return self.image_layers_, self.text_layers_

    def _inter_rbm(self, train: Pairs, k: tuple[int, int], context: FitContext, session: Session) -> Stacks:
        """A multimodal deep belief network, the other modality counting as 0."""
        stacks = pretrained(self, train, context, session, (k, k), learning_rate=0.1)
        machine = Rbm(sum(k), max(k), "binary", session.start, session.device)
        learner = RbmLearner([machine], session)
        self._stage(learner, self._transformed(train, stacks), context, session, "joint")
        split = slice(None, k[0]), slice(k[0], None)
        return stacked(stacks, ([machine.layer(split[0])], [machine.layer(split[1])]))

    def _combined(
        self, train: Pairs, layers: Stacks, k: tuple[int, int], context: FitContext, session: Session
    ) -> Stacks:
        """``layers`` with the combination of a and b on top."""
        inputs = self._transformed(train, layers)
        if self.backend == "ae":
            return stacked(layers, self._denoising(inputs, k, "combination", context, session))
        machines = [
            Rbm(rows.shape[1], width, "gaussian", session.start, session.device)
            for rows, width in zip((inputs.images, inputs.texts), k, strict=True)
        ]
        self._stage(RbmLearner(machines, session), inputs, context, session, "combination")
        return stacked(layers, ([machines[0].layer()], [machines[1].layer()]))

    # -- stage 2 --------------------------------------------------------------------------------

    def _bimodal(
        self,
        level: int,
        k: int,
        train: Pairs,
        validation: Pairs | None,
        context: FitContext,
        session: Session,
    ) -> None:
        """One more bimodal autoencoder on top of the layers that there are."""
        below = self.image_layers_, self.text_layers_
        inputs = self._transformed(train, below)
        learner = BimodalLearner(
            inputs,
            k,
            session,
            below=below,
            learning_rate=self.learning_rate,
            standardise=True,
            center=self.center,
            label_weight=self.label_weight if self.labels == "both" else 0.0,
            label_kind=self.multi_label,
        )
        self._train(
            learner,
            inputs,
            None if validation is None else self._transformed(validation, below),
            context,
            session,
            smallest_batch=1,
            select_by=None if self.labels == "none" else VALIDATION_MAP,
            stage=f"bimodal {level}",
        )

    # -- encoding -------------------------------------------------------------------------------

    def _side_by_side(self, pairs: Pairs) -> Pairs:
        """The pairs with a and b as their features."""
        images, texts = (
            np.hstack([self._through(layers, rows) for layers in branches])
            for branches, rows in ((self.image_branches_, pairs.images), (self.text_branches_, pairs.texts))
        )
        return replace(pairs, images=images, texts=texts)

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.image_layers_, beside(self.image_branches_, images)) - self.image_mean_

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.text_layers_, beside(self.text_branches_, texts)) - self.text_mean_


def beside(branches: list[list[LayerArrays]], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each list of layers makes of rows (n, d), side by side."""
    return np.hstack([forward(layers, rows) for layers in branches])


METHOD = Cmdn
