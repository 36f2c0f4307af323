"""The bimodal deep autoencoder."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import check_not_negative, check_positive, forward
from xmbench.training import VALIDATION_MAP, Session

from ._bimodal import BimodalLearner
from ._rbm import pretrained
from ._stages import Stacks, Staged, width

WIDTH = 256
"""Width of the codes where none is given, and 4 d is not less."""


class BimodalAe(Staged):
    """An autoencoder whose one code gives both modalities back, whichever of them it is given.

    A restricted Boltzmann machine of each modality gives unimodal codes v and t, which are standardised. On them, with
    one layer z = sigma(v W_v + t W_t + b) and linear reconstructions D of both from z::

        L = mean |v - D_v(z)|^2 / k_v + mean |t - D_t(z)|^2 / k_t        ``image_loss``, ``text_loss``

    over a batch that is tripled: both modalities, images alone (t = 0), texts alone (v = 0); what is to be given back
    is always both. The code of an item is z with the other modality 0.

    Args:
        pretrain: ``rbm``, or ``none``: z reads the features.
        hidden: width of the unimodal codes; None: 256, or max(64, 4 d) where that is less, d being the features of
            the modality.
        n_components: width of z; None: 256, or max(64, 4 (d_image + d_text)) where that is less.
        pretrain_epochs: of the machines.
        tripled: whether batches are tripled; else both modalities are always given.
        center: take the mean code of the training rows off, without which logistic codes all point the same way.
        weight_decay: L2 penalty of Adam.
        select_by: ``last`` keeps the last epoch, ``map`` the one with the highest retrieval score on the validation
            pairs (which takes their labels).
        pretrain_rate: of the machines' contrastive divergence; Gaussian units take a tenth of it, and less
            the wider they are.
        learning_rate: of Adam.
        batch_size: pairs a step.
        max_epochs: of the autoencoder, at the most.
        patience: epochs without a better one that end its training; with ``map`` alone.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``image_mean_`` (k,), ``text_mean_``, ``history_``, ``best_epoch_``.

    Source: Ngiam, Khosla, Kim, Nam, Lee, Ng, "Multimodal deep learning", ICML 2011, section 3. Differs: one machine
    for each modality and one shared layer, which start at random, where the paper pretrains deeper networks as deep
    belief networks and unrolls them; the machines stay as they are; unimodal codes are standardised, and the
    reconstructions linear; Adam; codes are centred.
    """

    info = MethodInfo(
        title="Bimodal-AE",
        paper="Ngiam et al., Multimodal deep learning, ICML 2011",
        year=2011,
        supervised=False,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "n_components": (64, 256),
        "learning_rate": (1e-3, 3e-3),
        "pretrain_epochs": (10, 30),
        "weight_decay": (1e-4, 1e-3),
    }

    ablations: ClassVar = {
        "no_pretraining": {"pretrain": "none"},
        "not_tripled": {"tripled": False},
        "not_centered": {"center": False},
    }

    def __init__(
        self,
        pretrain: Literal["rbm", "none"] = "rbm",
        hidden: int | None = None,
        n_components: int | None = None,
        pretrain_epochs: int = 30,
        tripled: bool = True,
        center: bool = True,
        weight_decay: float = 1e-3,
        select_by: Literal["last", "map"] = "last",
        pretrain_rate: float = 0.1,
        learning_rate: float = 3e-3,
        batch_size: int = 32,
        max_epochs: int = 30,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.pretrain = pretrain
        self.hidden = hidden
        self.n_components = n_components
        self.pretrain_epochs = pretrain_epochs
        self.tripled = tripled
        self.center = center
        self.weight_decay = weight_decay
        self.select_by = select_by
        self.pretrain_rate = pretrain_rate
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    image_mean_: NDArray[np.float32]
    text_mean_: NDArray[np.float32]

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = [
            "one shared layer that starts at random",
            "linear reconstructions of standardised codes; Adam",
        ]
        if self.pretrain == "none":
            found[1] = "linear reconstructions of features, without Boltzmann machines; Adam"
        if not self.tripled:
            found.append("both modalities are always given in training")
        if self.center:
            found.append("codes are centred")
        return tuple(found)

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        check_positive("BimodalAe", pretrain_epochs=self.pretrain_epochs, pretrain_rate=self.pretrain_rate)
        check_not_negative("BimodalAe", weight_decay=self.weight_decay)
        for parameter in ("hidden", "n_components"):
            if getattr(self, parameter) is not None:
                check_positive("BimodalAe", **{parameter: getattr(self, parameter)})
        session = Session(self.random_state, context.device)
        d = (train.images.shape[1], train.texts.shape[1])
        stacks: Stacks = ([], [])
        if self.pretrain == "rbm":
            sizes = (width(self.hidden, WIDTH, d[0]), width(self.hidden, WIDTH, d[1]))
            stacks = pretrained(
                self,
                train,
                context,
                session,
                (sizes,),
                learning_rate=self.pretrain_rate,
            )
        inputs = self._transformed(train, stacks)
        learner = BimodalLearner(
            inputs,
            width(self.n_components, WIDTH, sum(d)),
            session,
            below=stacks,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            triple=self.tripled,
            standardise=self.pretrain == "rbm",
            center=self.center,
        )
        self._train(
            learner,
            inputs,
            None if validation is None else self._transformed(validation, stacks),
            context,
            session,
            smallest_batch=1,
            select_by=VALIDATION_MAP if self.select_by == "map" else None,
            stage="joint" if self.pretrain == "rbm" else None,
        )

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.image_layers_, images) - self.image_mean_

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return forward(self.text_layers_, texts) - self.text_mean_


METHOD = BimodalAe
