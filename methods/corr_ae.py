"""The correspondence autoencoder and its cross and full forms."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import Adam, Dense, LayerArrays, Tensor, check_positive, forward, masked
from xmbench.training import VALIDATION_MAP, Batch, Learner, Session, Trained

MASKED = 0.2
"""Share of the inputs that denoising pretraining hides."""


class CorrAe(Trained):
    """An autoencoder per modality whose codes are held together.

    With codes c_v = f(x) and c_t = g(t), each one layer of logistic units, and decoders D::

        L   = (1 - alpha) (L_I + L_T) + alpha L_C,    L_C = ||c_v - c_t||^2    ``code_loss``
        corr:   L_I = ||x - D_v(c_v)||^2,   L_T = ||t - D_t(c_t)||^2          ``image_loss``, ``text_loss``
        cross:  L_I = ||t - D_t(c_v)||^2,   L_T = ||x - D_v(c_t)||^2
        full:   L_I = ||x - D_vv(c_v)||^2 + ||t - D_vt(c_v)||^2,   L_T likewise from c_t; four decoders

    Means over the batch. Squares grow with the number of dimensions, so each is divided by its own
    (``reduction=mean``), without which alpha would mean something else for every pair of features. At alpha = 1 all
    codes become one.

    Args:
        variant: ``corr``, ``cross`` (Corr-Cross-AE) or ``full`` (Corr-Full-AE).
        alpha: between 0 and 1; None: .8 for corr and full, .2 for cross, as in the paper.
        n_components: width of the codes.
        output: of decoders: ``linear``, or ``sigmoid`` as in the authors' code, for inputs between 0 and 1 such as
            the codes of ``pretrain=dae``.
        pretrain: ``none``, or ``dae``: two denoising autoencoders on top of each other for each modality (a fifth of
            the inputs hidden, logistic codes of widths 1024, or 4 d where that is less, and ``n_components``) give
            the inputs of the correspondence stage.
        pretrain_epochs: of each denoising autoencoder.
        center: take the mean code of the training rows off, without which logistic codes all point the same way.
        reduction: ``mean`` over dimensions, or ``sum`` as written.
        select_by: the epoch that is kept: least ``loss`` L on the validation pairs (no labels), or highest retrieval
            score ``map`` on them (which takes their labels).
        learning_rate: of Adam.
        batch_size: pairs a step.
        max_epochs: of the correspondence stage, at the most.
        patience: epochs without a better one that end it.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``image_mean_`` (k,), ``text_mean_``, ``history_``, ``best_epoch_``.

    Source: Feng, Wang, Li, "Cross-modal retrieval with correspondence autoencoder", ACM Multimedia 2014. Differs:
    inputs are scaled features and decoders linear, where the paper pretrains restricted Boltzmann machines and
    reconstructs their logistic outputs; Adam; the epoch is chosen on validation pairs; codes are centred.
    ``preset=paper`` has logistic decoders of logistic codes (of denoising autoencoders) and sums of squares.
    """

    info = MethodInfo(
        title="Corr-AE",
        paper="Feng et al., Cross-modal retrieval with correspondence autoencoder, ACM Multimedia 2014",
        year=2014,
        supervised=False,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "alpha": (0.2, 0.5, 0.8, 0.9),
        "n_components": (64, 256),
        "learning_rate": (1e-3, 3e-3),
    }

    presets: ClassVar = {"paper": {"output": "sigmoid", "pretrain": "dae", "reduction": "sum"}}
    ablations: ClassVar = {"no_correspondence": {"alpha": 0.0}, "not_centered": {"center": False}}

    def __init__(
        self,
        variant: Literal["corr", "cross", "full"] = "corr",
        alpha: float | None = None,
        n_components: int = 256,
        output: Literal["linear", "sigmoid"] = "linear",
        pretrain: Literal["none", "dae"] = "none",
        pretrain_epochs: int = 30,
        center: bool = True,
        reduction: Literal["mean", "sum"] = "mean",
        select_by: Literal["loss", "map"] = "loss",
        learning_rate: float = 1e-3,
        batch_size: int = 100,
        max_epochs: int = 80,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.variant = variant
        self.alpha = alpha
        self.n_components = n_components
        self.output = output
        self.pretrain = pretrain
        self.pretrain_epochs = pretrain_epochs
        self.center = center
        self.reduction = reduction
        self.select_by = select_by
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    image_mean_: NDArray[np.float64]
    text_mean_: NDArray[np.float64]

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = ["no restricted Boltzmann machines below"]
        if self.output == "linear":
            found.append("linear decoders on scaled features")
        if self.reduction == "mean":
            found.append("squared errors are divided by their dimensions")
        if self.center:
            found.append("codes are centred")
        return (*found, "Adam; the epoch is chosen on validation pairs")

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        check_positive("CorrAe", n_components=self.n_components, pretrain_epochs=self.pretrain_epochs)
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InvalidParameter(f"CorrAe.alpha: expected between 0 and 1, got {self.alpha}")
        session = Session(self.random_state, context.device)
        below = self._pretrain(train, context, session) if self.pretrain == "dae" else ([], [])
        held = None if validation is None else _codes(below, validation)
        self._train(
            CorrAeLearner(self, _codes(below, train), below, session),
            _codes(below, train),
            held,
            context,
            session,
            smallest_batch=1,
            select_by=VALIDATION_MAP if self.select_by == "map" else "validation_loss",
            lower_is_better=self.select_by == "loss",
            stage="correspondence" if self.pretrain == "dae" else None,
        )

    def _pretrain(
        self, train: Pairs, context: FitContext, session: Session
    ) -> tuple[list[LayerArrays], list[LayerArrays]]:
        """The layers of images and of texts that two denoising autoencoders on top of each other learn."""
        below: tuple[list[LayerArrays], list[LayerArrays]] = ([], [])
        for level in (1, 2):
            inputs = _codes(below, train)
            learner = Denoising(self, inputs, level, session)
            self._train(
                learner,
                inputs,
                None,
                context,
                session,
                max_epochs=self.pretrain_epochs,
                smallest_batch=1,
                select_by=None,
                stage=f"dae {level}",
            )
            for layers, encoder in zip(below, learner.encoders, strict=True):
                layers += copy.deepcopy(encoder.arrays())
        return below

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(forward(self.image_layers_, images) - self.image_mean_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(forward(self.text_layers_, texts) - self.text_mean_)


def _codes(below: tuple[list[LayerArrays], list[LayerArrays]], pairs: Pairs) -> Pairs:
    """The pairs with their features as pretrained layers give them, if there are any."""
    if not below[0]:
        return pairs
    return replace(pairs, images=forward(below[0], pairs.images), texts=forward(below[1], pairs.texts))


class CorrAeLearner(Learner):
    """Both encoders, the decoders of the variant, and their step.

    Args:
        method: parameters.
        train: training pairs, for the mean codes.
        below: pretrained layers of images and of texts.
        session: device and random streams.
    """

    def __init__(
        self,
        method: CorrAe,
        train: Pairs,
        below: tuple[list[LayerArrays], list[LayerArrays]],
        session: Session,
    ) -> None:
        self.method, self.learning_rate, self.train, self.below = method, method.learning_rate, train, below
        self.alpha = method.alpha
        if self.alpha is None:
            self.alpha = 0.2 if method.variant == "cross" else 0.8
        d, k = (train.images.shape[1], train.texts.shape[1]), method.n_components
        start, device = session.start, session.device
        self.encoders = [Dense((width, k), ("sigmoid",), start, device) for width in d]
        ways = {"corr": ((0, 0), (1, 1)), "cross": ((0, 1), (1, 0))}
        wanted = ways.get(method.variant, (*ways["corr"], *ways["cross"]))
        self.decoders = {(of, to): Dense((k, d[to]), (method.output,), start, device) for of, to in wanted}
        networks = [*self.encoders, *self.decoders.values()]
        parameters = [tensor for network in networks for tensor in network.parameters]
        self.optimiser = Adam(parameters, self.learning_rate)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` is L; ``image_loss`` L_I and ``text_loss`` L_T are named by the codes that they read."""
        inputs, reduction = (batch.images, batch.texts), self.method.reduction
        codes = [encoder(rows) for encoder, rows in zip(self.encoders, inputs, strict=True)]
        parts: list[Any] = [0.0, 0.0]
        for (of, to), decoder in self.decoders.items():
            parts[of] = parts[of] + squared(inputs[to], decoder(codes[of]), reduction)
        code = squared(codes[0], codes[1], reduction)
        assert self.alpha is not None
        loss = (1 - self.alpha) * (parts[0] + parts[1]) + self.alpha * code
        return {"loss": loss, "image_loss": parts[0], "text_loss": parts[1], "code_loss": code}

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down L."""
        losses = self.losses(batch)
        self.optimiser.step(losses["loss"])
        return {name: loss.detach() for name, loss in losses.items()}

    def examine(self, batch: Batch) -> dict[str, float]:
        """L on the validation pairs."""
        return {"validation_loss": float(self.losses(batch)["loss"].detach())}

    def learned(self) -> dict[str, Any]:
        """The encoders, and the mean codes of the training pairs if codes are to be centred."""
        found: dict[str, Any] = {}
        for i, (name, rows) in enumerate((("image", self.train.images), ("text", self.train.texts))):
            layers = self.encoders[i].arrays()
            found[f"{name}_layers_"] = [*self.below[i], *layers]
            mean = np.zeros(self.method.n_components)
            if self.method.center:
                mean = forward(layers, rows).mean(axis=0, dtype=np.float64)
            found[f"{name}_mean_"] = mean
        return found


class Denoising(Learner):
    """An autoencoder of each modality that is given its inputs with a share of them hidden.

    Args:
        method: parameters.
        train: training pairs.
        level: 1 reads features, 2 the codes of level 1.
        session: device and random streams.
    """

    def __init__(self, method: CorrAe, train: Pairs, level: int, session: Session) -> None:
        self.learning_rate, self.session = method.learning_rate, session
        self.encoders, self.decoders = [], []
        for rows in (train.images, train.texts):
            d = rows.shape[1]
            k = min(1024, 4 * d) if level == 1 else method.n_components
            self.encoders.append(Dense((d, k), ("sigmoid",), session.start, session.device))
            self.decoders.append(Dense((k, d), ("linear",), session.start, session.device))
        networks = [*self.encoders, *self.decoders]
        parameters = [tensor for network in networks for tensor in network.parameters]
        self.optimiser = Adam(parameters, self.learning_rate)

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step down the reconstruction error of both modalities."""
        losses = []
        for rows, encoder, decoder in zip(
            (batch.images, batch.texts), self.encoders, self.decoders, strict=True
        ):
            hidden = masked(rows, MASKED, self.session.noise)
            losses.append(squared(rows, decoder(encoder(hidden)), "mean"))
        self.optimiser.step(losses[0] + losses[1])
        return {"image_loss": losses[0].detach(), "text_loss": losses[1].detach()}

    def learned(self) -> dict[str, Any]:
        """Nothing that the method keeps as it is; the next stage reads the encoders."""
        return {}


def squared(wanted: Tensor, found: Tensor, reduction: str) -> Tensor:
    """Mean over rows of the squared distance, divided by the number of dimensions unless ``reduction`` is sum."""
    total = ((wanted - found) ** 2).sum(dim=1).mean()
    return total / wanted.shape[1] if reduction == "mean" else total


METHOD = CorrAe
