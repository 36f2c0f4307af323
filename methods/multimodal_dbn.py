"""The multimodal deep belief network."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import Unsupported
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import check_not_negative, check_positive, forward
from xmbench.training import VALIDATION_MAP, Session

from ._bimodal import mean_rows
from ._rbm import Rbm, RbmLearner, check_machines, pretrained
from ._stages import Stacks, Staged, width

WIDTH = 256
"""Width of all layers where none is given, and 4 d is not less."""


class MultimodalDbn(Staged):
    """Two stacks of restricted Boltzmann machines, joined by one on top of both.

    Each machine learns by contrastive divergence (CD-1), the lower ones first, and then stays as it is. Those of the
    first level read features (Gaussian visible units of variance 1; texts may be counts), those of the second the
    hidden probabilities of the first, and the joint one both stacks' probabilities v and t side by side::

        -E(v, t, h) = v W_v h + t W_t h + b_v v + b_t t + c h

    An item has one modality alone. The other one's top layer is inferred by mean field, with the given one held::

        h = sigma(v W_v + c),  then mean_field_steps times  t = sigma(b_t + W_t h),  h = sigma(v W_v + t W_t + c)

    and h is the code; for a text with v and t exchanged.

    Args:
        hidden: width of all layers of the stacks; None: 256, or max(64, 4 d) where that is less, d being the features
            of the modality.
        n_components: width of the joint layer; None: 256, or max(64, 4 (d_image + d_text)) where that is less.
        text_units: of the texts' first machine: ``gaussian``, or ``softmax`` for counts of words (the replicated
            softmax), which wants a scaling of texts that leaves no negative values.
        mean_field_steps: rounds of inference; 0: the missing modality is 0.
        center: take the mean code of the training rows off, without which logistic codes all point the same way.
        pretrain_epochs: of each level of the stacks.
        weight_decay: of the weights.
        select_by: ``last`` keeps the last epoch of the joint machine, ``map`` the one with the highest retrieval score
            on the validation pairs (which takes their labels).
        sparsity: mean probability that hidden units should have (.1 to .2 in the authors' code); None for no target.
            With softmax units, whose hidden biases act once a word, these move as for texts of one word.
        learning_rate: of contrastive divergence, with momentum from .5 to .9; machines with Gaussian units take a
            tenth of it, and less the wider they are.
        batch_size: pairs a step.
        max_epochs: of the joint machine, at the most.
        patience: epochs without a better one that end its training; with ``map`` alone.
        random_state: seed.

    Learned: ``image_layers_`` and ``text_layers_``, the stacks; ``joint_weights_``, the list of W_v (k_v, k)
    and W_t (k_t, k), ``visible_biases_``, that of b_v and b_t, ``joint_bias_`` (k,), ``image_mean_`` (k,),
    ``text_mean_``, ``history_``, ``best_epoch_``.

    Source: Srivastava and Salakhutdinov, "Learning representations for multimodal data with deep belief nets", ICML
    2012 workshop; rules of training: Hinton, "A practical guide to training restricted Boltzmann machines", 2010.
    Differs: texts are real numbers, so that their visible units are Gaussian; layers are narrower (the authors'
    code has 2048 and 1024 units for images, 1024 and 1024 for texts, and 2048 in common) and learn in epochs at one
    rate, with one weight decay (the code: 1e-3 or 1e-4, by machine) and no sparsity target; the missing modality is
    inferred by mean field, which draws nothing, where the paper samples; codes are centred.
    """

    info = MethodInfo(
        title="Multimodal DBN",
        paper="Srivastava and Salakhutdinov, Learning representations for multimodal data with deep belief nets, "
        "ICML workshop 2012",
        year=2012,
        supervised=False,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "n_components": (64, 256),
        "learning_rate": (0.03, 0.1),
        "mean_field_steps": (1, 10),
        "hidden": (128, 256),
    }

    presets: ClassVar = {"counts": {"text_units": "softmax"}}
    ablations: ClassVar = {"no_inference": {"mean_field_steps": 0}, "not_centered": {"center": False}}

    def __init__(
        self,
        hidden: int | None = None,
        n_components: int | None = None,
        text_units: Literal["gaussian", "softmax"] = "gaussian",
        mean_field_steps: int = 10,
        center: bool = True,
        pretrain_epochs: int = 30,
        weight_decay: float = 1e-4,
        select_by: Literal["last", "map"] = "last",
        sparsity: float | None = None,
        learning_rate: float = 0.1,
        batch_size: int = 32,
        max_epochs: int = 30,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.n_components = n_components
        self.text_units = text_units
        self.mean_field_steps = mean_field_steps
        self.center = center
        self.pretrain_epochs = pretrain_epochs
        self.weight_decay = weight_decay
        self.select_by = select_by
        self.sparsity = sparsity
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    joint_weights_: list[NDArray[np.float32]]
    visible_biases_: list[NDArray[np.float32]]
    joint_bias_: NDArray[np.float32]
    image_mean_: NDArray[np.float32]
    text_mean_: NDArray[np.float32]

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = ["narrower layers, one learning rate"]
        if self.text_units == "gaussian":
            found.append("texts are real numbers with Gaussian units, not counts of words")
        if self.mean_field_steps:
            found.append("the missing modality is inferred by mean field, not sampled")
        if self.center:
            found.append("codes are centred")
        return tuple(found)

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training(smallest_batch=1)
        check_not_negative("MultimodalDbn", mean_field_steps=self.mean_field_steps)
        check_positive("MultimodalDbn", pretrain_epochs=self.pretrain_epochs)
        check_machines("MultimodalDbn", weight_decay=self.weight_decay, sparsity=self.sparsity)
        for parameter in ("hidden", "n_components"):
            if getattr(self, parameter) is not None:
                check_positive("MultimodalDbn", **{parameter: getattr(self, parameter)})
        given = [train] if validation is None else [train, validation]
        if self.text_units == "softmax" and min(pairs.texts.min() for pairs in given) < 0:
            raise Unsupported(
                "Multimodal DBN with text_units=softmax reads texts as counts of words, and these have negative "
                "values; take a scaling of texts that leaves none, or text_units=gaussian"
            )
        session = Session(self.random_state, context.device)
        d = (train.images.shape[1], train.texts.shape[1])
        sizes = (width(self.hidden, WIDTH, d[0]), width(self.hidden, WIDTH, d[1]))
        stacks = pretrained(
            self,
            train,
            context,
            session,
            (sizes, sizes),
            text_units=self.text_units,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            sparsity=self.sparsity,
        )
        k = width(self.n_components, WIDTH, sum(d))
        self._train(
            JointLearner(self, self._transformed(train, stacks), stacks, k, session),
            self._transformed(train, stacks),
            None if validation is None else self._transformed(validation, stacks),
            context,
            session,
            smallest_batch=1,
            select_by=VALIDATION_MAP if self.select_by == "map" else None,
            stage="joint",
        )

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._infer(forward(self.image_layers_, images), 0) - self.image_mean_

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._infer(forward(self.text_layers_, texts), 1) - self.text_mean_

    def _infer(self, codes: NDArray[np.float32], given: int) -> NDArray[np.float32]:
        return inferred(
            codes, given, self.joint_weights_, self.visible_biases_, self.joint_bias_, self.mean_field_steps
        )


def inferred(
    codes: NDArray[np.float32],
    given: int,
    weights: list[NDArray[np.float32]],
    biases: list[NDArray[np.float32]],
    bias: NDArray[np.float32],
    steps: int,
) -> NDArray[np.float32]:
    """Joint hidden probabilities (n, k) of one modality's codes (n, k_v or k_t), by mean field.

    Args:
        codes: what the stack gives of the modality at hand; they stay as they are.
        given: 0 for images, 1 for texts.
        weights: of the joint machine, of images and of texts.
        biases: of its visible units, of images and of texts.
        bias: of its hidden units.
        steps: how often the missing modality is inferred from the hidden units, and these from both; 0: it is 0.
    """
    missing = 1 - given
    # the part that stays, as the bias of a layer that reads the missing modality
    held = forward([{"weights": weights[given], "bias": bias, "activation": "linear"}], codes)
    up = {"weights": weights[missing], "bias": held, "activation": "sigmoid"}
    down = {"weights": weights[missing].T, "bias": biases[missing], "activation": "sigmoid"}
    hidden = forward([up], np.zeros((len(codes), len(weights[missing])), np.float32))
    for _ in range(steps):
        hidden = forward([down, up], hidden)
    return hidden


class JointLearner(RbmLearner):
    """The machine on top of both stacks, with what the method learns of it.

    Args:
        method: parameters.
        train: training pairs, as the stacks give them.
        stacks: layers of images and of texts.
        k: width of the joint layer.
        session: device and random streams.
    """

    def __init__(self, method: MultimodalDbn, train: Pairs, stacks: Stacks, k: int, session: Session) -> None:
        self.method, self.train, self.stacks = method, train, stacks
        self.split = train.images.shape[1]
        machine = Rbm(self.split + train.texts.shape[1], k, "binary", session.start, session.device)
        super().__init__(
            [machine],
            session,
            learning_rate=method.learning_rate,
            weight_decay=method.weight_decay,
            sparsity=method.sparsity,
        )

    def learned(self) -> dict[str, Any]:
        """The stacks, the joint machine by modality, and the mean codes."""
        (machine,) = self.machines
        blocks = (slice(None, self.split), slice(self.split, None))
        weights = [machine.layer(block)["weights"] for block in blocks]
        biases = [machine.down(block)["bias"] for block in blocks]
        found: dict[str, Any] = {
            "joint_weights_": weights,
            "visible_biases_": biases,
            "joint_bias_": machine.layer()["bias"],
        }
        for given, (name, codes) in enumerate((("image", self.train.images), ("text", self.train.texts))):
            rows = inferred(codes, given, weights, biases, found["joint_bias_"], self.method.mean_field_steps)
            found[f"{name}_layers_"] = self.stacks[given]
            found[f"{name}_mean_"] = mean_rows(rows, self.method.center)
        return found


METHOD = MultimodalDbn
