"""Cross-modal correlation learning: whole items and their parts, then two tasks on one layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs, Ragged
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import (
    SMALLEST_SQUARE,
    Adam,
    Dense,
    LabelLoss,
    LayerArrays,
    Tensor,
    as_array,
    check_not_negative,
    check_positive,
    check_share,
    forward,
    label_loss,
    matching,
)
from xmbench.training import Batch, Learner, Session

from ._stages import (
    Denoising,
    LabelFineTuning,
    Stacks,
    Staged,
    mean_square,
    stacked,
    standardised,
    standardising,
    whole,
    width,
)

WIDTH = 512
"""Width of hidden layers and of the common space where features are not narrow; 1024 in the paper."""


class Grain(TypedDict):
    """What one grain of a modality learned in stage 1.

    ``parts`` are the layers that read each part (of the coarse grain: each item), ``items`` those that read the mean
    of what an item's parts became.
    """

    parts: list[LayerArrays]
    items: list[LayerArrays]


class Ccl(Staged):
    """Whole items and their parts are learned apart, fused, and brought together by two tasks on one layer.

    Stage 1 learns a representation of each modality. There are two grains: ``coarse``, each image and text as a whole,
    and ``fine``, its parts (regions, sentences).

    - ``coarse 1``, ``coarse 2``, ``fine 1``, ``fine 2``: for each grain and modality two denoising autoencoders on top
      of each other, with logistic codes. The fine codes of an item are the mean over its parts.
    - ``coarse correspondence``, ``fine correspondence``: for each grain a Corr-AE on the pairs, ``(1 - a) (||x -
      D_v(c_v)||^2 + ||t - D_t(c_t)||^2) + a ||c_v - c_t||^2``, c logistic, each square a mean over dimensions.
    - ``fusion``: for each modality one denoising autoencoder of both grains' codes beside each other.
    - ``labels``: for each modality a classifier with ReLU layers; its last hidden layer is the representation.

    Stage 2 (``tasks``) has for each modality a logistic layer u, a linear layer e, and two heads on e: inter, ``s =
    sigmoid(e)``, and intra, class logits ``V e + c``. For a batch of N pairs, S_ij = 1 where image i and text j share
    a class, else 0, ``d_ij = ||s_v,i - s_t,j||`` and m the margin::

        L       = w_inter L_inter + CE_v + CE_t                                             ``loss``
        L_inter = 1 / (2 N) sum_ij [S_ij d_ij^2 + (1 - S_ij) max(0, m - d_ij)^2]            ``inter_loss``

    CE are the label losses (``image_label_loss``, ``text_label_loss``). The common space is s.

    An item without parts is its own only part, and so are all items of a modality that comes without parts. Pairs
    without any have no fine grain; ``grains=both`` then is ``grains=coarse``, ``fine_grained_`` is False, and
    the departures say so.

    Args:
        grains: ``both``, or one of them alone.
        stage1: ``corr_ae``: as above; ``ae``: no Corr-AE; ``none``: features (of the fine grain their mean) go as
            they are to the label fine-tuning.
        inter: whether L_inter is in L; without it, nothing ties one modality's codes to the other's.
        intra: whether the label losses are.
        correlation: weight a of the Corr-AE.
        w_inter: weight of L_inter; 1, or 2 as the gradients of the authors' code have it.
        margin: m.
        label_layers: hidden layers of the label fine-tuning.
        hidden: width of the layers of stage 1; None: 512, or max(64, 4 d) where that is less, d being the width of the
            modality's features.
        n_components: width of the Corr-AE's codes, u, e and s; None: as ``hidden``, d being the smaller of both.
        dropout: share of the inputs that a step of the label fine-tuning drops.
        weight_decay: L2 penalty in Adam, of label fine-tuning and stage 2.
        multi_label: loss of the labels, of which an item may have several: ``soft``: cross-entropy with y / sum(y),
            ``squared``: squared distance from it, or ``bce``: a sigmoid a class.
        center: take the mean s of the training rows off, without which logistic codes all point the same way.
        pretrain_epochs: of each autoencoder and each Corr-AE.
        pretrain_rate: learning rate of these; None: .512 / the width of the wider modality's layers, and .01 at the
            most, since a step of Adam moves a unit by its rate times the number of its inputs.
        learning_rate: of Adam in label fine-tuning and stage 2.
        batch_size: pairs a step, in all stages; 80 as in the authors' stage 2.
        max_epochs: of label fine-tuning and of stage 2, at the most.
        patience: epochs without a lower validation loss that end label fine-tuning, and without a better validation
            score that end stage 2.
        random_state: seed.

    Learned: ``image_grains_``, ``text_grains_`` (grain -> :class:`Grain`), ``image_layers_``, ``text_layers_`` (from
    the grains' codes to s), ``image_mean_`` (k,), ``text_mean_``, ``fine_grained_``, ``history_``, ``best_epoch_``.

    Source: Peng, Qi, Huang, Yuan, "CCL: Cross-modal correlation learning with multigrained fusion by hierarchical
    network", IEEE Trans. Multimedia 2018. Differs: denoising autoencoders with linear decoders stand for the paper's
    restricted Boltzmann machines; codes of every stage, and not of the last one alone, are scaled to mean 0 and
    standard deviation 1 (training statistics); Adam with its own rates; dropout, no weight decay; 512 units, not 1024;
    the epoch is chosen on validation pairs; s is centred with the training rows, where the authors' evaluation scales
    it with statistics of the test rows. The square root in d has 1e-12 added, so that its slope is finite at 0.
    ``preset=paper`` has the paper's widths and weights, and no dropout.
    """

    info = MethodInfo(
        title="CCL",
        paper="Peng et al., CCL: Cross-modal correlation learning with multigrained fusion by hierarchical network, "
        "IEEE Trans. Multimedia 20, 2018",
        year=2018,
        supervised=True,
        trained=True,
        requires=("torch",),
        parts=True,
    )
    grid: ClassVar = {
        "learning_rate": (3e-4, 1e-3),
        "w_inter": (1.0, 2.0),
        "correlation": (0.3, 0.7),
        "hidden": (256, 512),
    }
    presets: ClassVar = {"paper": {"hidden": 1024, "n_components": 1024, "w_inter": 2.0, "dropout": 0.0}}
    ablations: ClassVar = {
        "coarse_only": {"grains": "coarse"},
        "fine_only": {"grains": "fine"},
        "inter_only": {"intra": False},
        "intra_only": {"inter": False},
        "no_correspondence": {"stage1": "ae"},
        "no_stage_1": {"stage1": "none"},
        "not_centered": {"center": False},
    }

    def __init__(
        self,
        grains: Literal["both", "coarse", "fine"] = "both",
        stage1: Literal["corr_ae", "ae", "none"] = "corr_ae",
        inter: bool = True,
        intra: bool = True,
        correlation: float = 0.7,
        w_inter: float = 1.0,
        margin: float = 1.0,
        label_layers: int = 3,
        hidden: int | None = None,
        n_components: int | None = None,
        dropout: float = 0.3,
        weight_decay: float = 0.0,
        multi_label: LabelLoss = "soft",
        center: bool = True,
        pretrain_epochs: int = 15,
        pretrain_rate: float | None = None,
        learning_rate: float = 1e-3,
        batch_size: int = 80,
        max_epochs: int = 60,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.grains = grains
        self.stage1 = stage1
        self.inter = inter
        self.intra = intra
        self.correlation = correlation
        self.w_inter = w_inter
        self.margin = margin
        self.label_layers = label_layers
        self.hidden = hidden
        self.n_components = n_components
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.multi_label = multi_label
        self.center = center
        self.pretrain_epochs = pretrain_epochs
        self.pretrain_rate = pretrain_rate
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    fine_grained_: bool
    image_grains_: dict[str, Grain]
    text_grains_: dict[str, Grain]
    image_mean_: NDArray[np.float64]
    text_mean_: NDArray[np.float64]

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters and, once fitted, these data."""
        found = []
        if self.grains == "both" and not getattr(self, "fine_grained_", True):
            found.append("global only: no parts were given, so there is no fine-grained branch")
        if getattr(self, "fine_grained_", False):
            found += [
                f"{name} have no parts: whole items stand for them"
                for name, d in zip(("images", "texts"), self.n_part_features_in_, strict=True)
                if d is None
            ]
        if self.stage1 != "none":
            found.append(
                "no Boltzmann machines: denoising autoencoders; codes of every stage are standardised"
            )
        if self.dropout:
            found.append(f"label fine-tuning drops a share of its inputs: {self.dropout:g}")
        if self.hidden != 1024 or self.n_components != 1024:
            found.append("layers are not 1024 wide")
        if self.center:
            found.append("codes are centred")
        return (*found, "Adam; the epoch is chosen on validation pairs")

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_parameters()
        grains = self._grains(train)
        session = Session(self.random_state, context.device)
        self.fine_grained_ = "fine" in grains
        self.image_grains_, self.text_grains_ = {}, {}
        for name in grains:
            self.image_grains_[name], self.text_grains_[name] = self._grain(name, train, context, session)
        coded = self._coded(train)
        held = None if validation is None else self._coded(validation)
        below = self._fusion(coded, context, session)
        below = stacked(below, self._labels(coded, held, below, context, session))
        inputs = self._transformed(coded, below)
        # validation pairs as they are: they are scored, and encoding starts with their features
        learner = CclLearner(self, inputs, below, self._k, session)
        self._train(learner, inputs, validation, context, session, smallest_batch=1, stage="tasks")

    def _check_parameters(self) -> None:
        self._check_training(smallest_batch=1)
        check_positive("Ccl", margin=self.margin, label_layers=self.label_layers)
        check_positive("Ccl", pretrain_epochs=self.pretrain_epochs)
        check_not_negative("Ccl", w_inter=self.w_inter, weight_decay=self.weight_decay)
        check_share("Ccl", correlation=self.correlation, dropout=self.dropout)
        for name in ("hidden", "n_components", "pretrain_rate"):
            if (value := getattr(self, name)) is not None:
                check_positive("Ccl", **{name: value})
        if not (self.inter or self.intra):
            raise InvalidParameter(
                "Ccl.inter: expected True where intra is False, for else nothing is learned"
            )

    def _grains(self, train: Pairs) -> tuple[str, ...]:
        """Which grains there are to learn.

        Raises:
            Unsupported: the fine grain alone of pairs without parts; parts of another width than whole items.
        """
        given = [("images", train.images, train.image_parts), ("texts", train.texts, train.text_parts)]
        for name, rows, parts in given:
            if parts is not None and parts.values.shape[1] != rows.shape[1]:
                raise Unsupported(
                    f"CCL lets a whole item stand for parts that it lacks, so that both must be equally wide; {name} "
                    f"have {rows.shape[1]} columns, their parts {parts.values.shape[1]}"
                )
        if all(parts is None for _, _, parts in given):
            if self.grains == "fine":
                raise Unsupported(
                    "CCL with grains=fine learns from parts, and these pairs have none: ask for some with --parts, "
                    "or take grains=both or grains=coarse"
                )
            return ("coarse",)
        return ("coarse", "fine") if self.grains == "both" else (self.grains,)

    @property
    def _k(self) -> int:
        return width(self.n_components, WIDTH, min(self.n_features_in_))

    @property
    def _hidden(self) -> tuple[int, int]:
        image, text = (width(self.hidden, WIDTH, d) for d in self.n_features_in_)
        return image, text

    @property
    def _rate(self) -> float:
        return self.pretrain_rate or min(1e-2, 0.512 / max(self._hidden))

    def _grain(self, name: str, train: Pairs, context: FitContext, session: Session) -> tuple[Grain, Grain]:
        """Stage 1 of a grain up to its codes."""
        parts: Stacks = ([], [])
        items: Stacks = ([], [])
        rows = [
            parts_of(train.images, train.image_parts, name),
            parts_of(train.texts, train.text_parts, name),
        ]
        for level in (1, 2) if self.stage1 != "none" else ():
            d = rows[0].values.shape[1], rows[1].values.shape[1]
            gather = PartRows((rows[0], rows[1]), session.device)
            learner = Denoising(d, self._hidden, "sigmoid", self._rate, session, gather)
            self._stage(learner, train, context, session, f"{name} {level}")
            for i, layers in enumerate(learner.layers()):
                codes = self._through(layers, rows[i].values)
                scaling = standardising(codes)
                rows[i] = replace(rows[i], values=forward([scaling], codes))
                parts[i].extend([*layers, scaling])
        means = replace(train, images=averaged(rows[0]), texts=averaged(rows[1]))
        if self.stage1 == "corr_ae":
            correspondence = Correspondence(self, self._k, session)
            self._stage(correspondence, means, context, session, f"{name} correspondence")
            items = correspondence.layers()
        if self.stage1 != "none":
            items = stacked(items, standardised(self._transformed(means, items)))
        image, text = (Grain(parts=parts[i], items=items[i]) for i in (0, 1))
        return image, text

    def _coded(self, pairs: Pairs) -> Pairs:
        """The pairs with the codes of all grains as features."""
        image_parts = self._checked_parts(pairs.image_parts, len(pairs), 0, "image")
        text_parts = self._checked_parts(pairs.text_parts, len(pairs), 1, "text")
        images = coded(self.image_grains_, pairs.images, image_parts)
        return replace(pairs, images=images, texts=coded(self.text_grains_, pairs.texts, text_parts))

    def _fusion(self, train: Pairs, context: FitContext, session: Session) -> Stacks:
        """The layers that fuse the grains' codes, and scale what they give."""
        if self.stage1 == "none":
            return [], []
        d = train.images.shape[1], train.texts.shape[1]
        learner = Denoising(d, self._hidden, "sigmoid", self._rate, session)
        self._stage(learner, train, context, session, "fusion")
        layers = learner.layers()
        return stacked(layers, standardised(self._transformed(train, layers)))

    def _labels(
        self, train: Pairs, validation: Pairs | None, below: Stacks, context: FitContext, session: Session
    ) -> Stacks:
        """The hidden layers of label fine-tuning above those of ``below``, and the scale of what they give."""
        inputs = self._transformed(train, below)
        held = None if validation is None else self._transformed(validation, below)
        image, text = self._hidden
        learner = LabelFineTuning(
            (inputs.images.shape[1], inputs.texts.shape[1]),
            ((image,) * self.label_layers, (text,) * self.label_layers),
            train.n_classes,
            self.multi_label,
            self.dropout,
            self.weight_decay,
            self.learning_rate,
            session,
        )
        layers = self._fine_tune(learner, inputs, held, context, session)
        return stacked(layers, standardised(self._transformed(inputs, layers)))

    def _encode_image(self, images: NDArray[np.float32], parts: Ragged | None = None) -> NDArray[Any]:
        codes = coded(self.image_grains_, images, parts)
        return np.asarray(forward(self.image_layers_, codes) - self.image_mean_)

    def _encode_text(self, texts: NDArray[np.float32], parts: Ragged | None = None) -> NDArray[Any]:
        codes = coded(self.text_grains_, texts, parts)
        return np.asarray(forward(self.text_layers_, codes) - self.text_mean_)


def parts_of(rows: NDArray[np.float32], parts: Ragged | None, grain: str) -> Ragged:
    """What a grain reads of items (n, d): each item as it is, or its parts, of which it then has at least one."""
    counts = np.zeros(len(rows), dtype=np.int64)
    if parts is not None and grain == "fine":
        counts = np.diff(parts.offsets)
    filled = np.maximum(counts, 1)
    own = np.repeat(counts > 0, filled)
    values = np.empty((len(own), rows.shape[1]), dtype=np.float32)
    values[~own] = rows[counts == 0]
    if own.any():
        assert parts is not None
        values[own] = parts.values
    return Ragged(values, np.concatenate([[0], np.cumsum(filled)]))


def averaged(parts: Ragged) -> NDArray[np.float32]:
    """The mean (n, d) of each item's parts; every item has some."""
    totals = np.add.reduceat(parts.values, parts.offsets[:-1], axis=0)
    return np.asarray(totals / np.diff(parts.offsets)[:, None], dtype=np.float32)


def coded(
    grains: Mapping[str, Grain], rows: NDArray[np.float32], parts: Ragged | None
) -> NDArray[np.float32]:
    """The codes of all grains of a modality beside each other, for items (n, d) and their parts."""
    found = []
    for name, grain in grains.items():
        read = parts_of(rows, parts, name)
        means = averaged(replace(read, values=forward(grain["parts"], read.values)))
        found.append(forward(grain["items"], means))
    return np.hstack(found)


class PartRows:
    """The parts of a batch's items, all below each other, for :class:`Denoising`.

    Args:
        parts: of all images and of all texts.
        device: where the tensors go.
    """

    def __init__(self, parts: tuple[Ragged, Ragged], device: Any) -> None:
        self.parts, self.device = parts, device

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Parts (p, d_image) of the images and (q, d_text) of the texts."""
        import torch

        rows = as_array(batch.rows)
        image, text = (torch.from_numpy(parts.take(rows).values).to(self.device) for parts in self.parts)
        return image, text


class Correspondence(Learner):
    """The Corr-AE of a grain and its step.

    Args:
        method: parameters.
        k: width of the codes.
        session: device and random streams.
    """

    def __init__(self, method: Ccl, k: int, session: Session) -> None:
        self.weight, self.learning_rate = method.correlation, method._rate
        start, device = session.start, session.device
        self.encoders = [Dense((d, k), ("sigmoid",), start, device) for d in method._hidden]
        self.decoders = [Dense((k, d), ("linear",), start, device) for d in method._hidden]
        networks = [*self.encoders, *self.decoders]
        self.optimiser = Adam([one for network in networks for one in network.parameters], self.learning_rate)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Both reconstruction errors, the distance of the codes, and ``loss``, their weighted sum."""
        v, t = (encoder(rows) for encoder, rows in zip(self.encoders, whole(batch), strict=True))
        image = mean_square(batch.images, self.decoders[0](v))
        text, code = mean_square(batch.texts, self.decoders[1](t)), mean_square(v, t)
        loss = (1 - self.weight) * (image + text) + self.weight * code
        return {"loss": loss, "image_loss": image, "text_loss": text, "code_loss": code}

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down the weighted sum."""
        losses = self.losses(batch)
        self.optimiser.step(losses["loss"])
        return {name: loss.detach() for name, loss in losses.items()}

    def learned(self) -> dict[str, Any]:
        """Nothing that the method keeps as it is; the next stage takes the layers."""
        return {}

    def layers(self) -> Stacks:
        """The encoders as they are now."""
        image, text = (copy.deepcopy(encoder.arrays()) for encoder in self.encoders)
        return image, text


class CclLearner(Learner):
    """The networks of stage 2 and their step.

    Args:
        method: parameters.
        train: training pairs with the representations of stage 1 as features; for widths and mean codes.
        below: the layers from the grains' codes to these representations.
        k: width of u and e.
        session: device and random streams.
    """

    def __init__(self, method: Ccl, train: Pairs, below: Stacks, k: int, session: Session) -> None:
        self.method, self.learning_rate, self.train, self.below = method, method.learning_rate, train, below
        start, device = session.start, session.device
        widths = train.images.shape[1], train.texts.shape[1]
        self.trunks = [Dense((d, k, k), ("sigmoid", "linear"), start, device) for d in widths]
        self.intra = [Dense((k, train.n_classes), ("linear",), start, device) for _ in widths]
        parameters = [one for network in (*self.trunks, *self.intra) for one in network.parameters]
        self.optimiser = Adam(parameters, self.learning_rate, weight_decay=method.weight_decay)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L and its terms, without those that are switched off."""
        method, found = self.method, {}
        v, t = (trunk(rows) for trunk, rows in zip(self.trunks, whole(batch), strict=True))
        total: Any = 0.0
        if method.inter:
            relevant = matching(batch.targets, batch.targets)
            found["inter_loss"] = contrastive_loss(v.sigmoid(), t.sigmoid(), relevant, method.margin)
            total = method.w_inter * found["inter_loss"]
        if method.intra:
            for name, head, e in zip(("image", "text"), self.intra, (v, t), strict=True):
                found[f"{name}_label_loss"] = label_loss(head(e), batch.targets, method.multi_label)
                total = total + found[f"{name}_label_loss"]
        return {"loss": total, **found}

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down L."""
        losses = self.losses(batch)
        self.optimiser.step(losses["loss"])
        return {name: loss.detach() for name, loss in losses.items()}

    def learned(self) -> dict[str, Any]:
        """The layers to s, and the mean s of the training pairs if codes are to be centred."""
        found: dict[str, Any] = {}
        for i, (name, rows) in enumerate((("image", self.train.images), ("text", self.train.texts))):
            u, e = self.trunks[i].arrays()
            s = [u, LayerArrays(weights=e["weights"], bias=e["bias"], activation="sigmoid")]
            found[f"{name}_layers_"] = [*self.below[i], *s]
            mean = forward(s, rows).mean(axis=0, dtype=np.float64)
            found[f"{name}_mean_"] = mean if self.method.center else np.zeros_like(mean)
        return found


def contrastive_loss(images: Tensor, texts: Tensor, relevant: Tensor, margin: float) -> Tensor:
    """L_inter for codes (n, k) of images and of texts and ``relevant`` (n, n) of 0 and 1, image by text."""
    squares = (images**2).sum(dim=1)[:, None] + (texts**2).sum(dim=1) - 2 * images @ texts.T
    squares = squares.clamp(min=0)
    hinge = (margin - (squares + SMALLEST_SQUARE).sqrt()).clamp(min=0)
    return (relevant * squares + (1 - relevant) * hinge**2).sum() / (2 * len(images))


METHOD = Ccl
