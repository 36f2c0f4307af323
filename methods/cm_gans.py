"""Cross-modal generative adversarial networks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import (
    LEAK,
    Adam,
    Dense,
    LabelLoss,
    LayerArrays,
    Tensor,
    as_array,
    check_not_negative,
    check_positive,
    frozen,
    label_loss,
)
from xmbench.training import Batch, Learner, Session, Trained

WIDTH = 512
"""Width of hidden layers and of the common space where none is given; half of the paper's."""


class CmGans(Trained):
    """Two autoencoders with a common layer, against discriminators within and between the modalities.

    h_v and h_t are the features of an image and of its text. An encoder of two layers gives the common
    representation s, a decoder of two layers the reconstruction r (section III-B); hidden layers are dense, normalised
    over the batch, with an activation. Means over the batch; ^ marks an item of another class:

    - Discriminators (Eqs. 4 to 8, all descend together): within a modality, one dense unit each,
      ``L_DI = -log D_I(h_v) - log(1 - D_I(r_v))``, ``L_DT`` likewise (``image_intra_loss``, ``text_intra_loss``);
      between them, a hidden layer on a representation beside features,
      ``L_DCi = -log D_Ci(s_v, h_v) - [log(1 - D_Ci(s_t, h_v)) + log(1 - D_Ci(s^_v, h^_v))] / 2``, ``L_DCt`` likewise
      (``image_inter_loss``, ``text_inter_loss``).
    - Generators (Eqs. 9 and 10): image ``-log D_Ct(s_v, h_t) - log D_I(r_v) + CE(s_v)``, text ``-log D_Ci(s_t, h_v)
      - log D_T(r_t) + CE(s_t)`` (``generator_inter_loss``, ``generator_intra_loss``, ``label_loss``). The paper
      prints log D and descends it; the sign here is the one that deceives D. CE is that of one linear softmax
      for both modalities, the semantic constraint; the second encoder layer is one for both, the weight sharing.

    Algorithm 1 takes one step of the discriminators to ``generator_steps`` (K) steps of the generators.

    **The mismatched pair as printed carries no signal.** (s^_v, h^_v) is another image's own representation beside
    its own features, and so has the distribution of the real (s_v, h_v). Where D_Ci sees such a pair, its best answer
    is 1 / (1 + 1/2) = 2/3; the term bounds D and says nothing of what belongs to what. L_DCi at its best is .955
    where the modalities' representations can be told apart, and 2 log 2 = 1.386 where they cannot: which of the two
    the history shows is the state of the game. ``mismatch=anchor`` puts s^_v beside h_v, a pair that does not belong.

    **The game within a modality has no anchor.** D_I is linear and the decoder unbounded: r moves along D_I's weights,
    away from h (``reconstruction_error``, the squared difference a dimension, of both modalities together, grows).
    ``preset=stable`` adds that error to the generators' loss, ``reconstruction_weight`` times.

    Args:
        weight_sharing: one second encoder layer for both modalities.
        semantic_constraint: predict the label from s; without it, labels enter through mismatched pairs alone.
        intra: decoders, and the discriminators within the modalities.
        adversary: without it there are no discriminators; with ``reconstruction_weight`` this is CM-GANs-CAE.
        mismatch: ``own``: features of the mismatched item itself, as printed; ``anchor``: those of the item.
        reconstruction_weight: of the squared error of the reconstruction, a mean over dimensions; 0 in the paper.
        generator_steps: K.
        resample: whether each generator step draws a new batch, as in Algorithm 1, or all K take that of the
            discriminators, as in the authors' code.
        norm_per_modality: whether what normalises a common layer is each modality's own. Without it, gain, bias and
            running statistics are common; training still normalises each modality by its own batch, so that rows are
            encoded with other statistics than they were learned with. The equal means and variances of the default
            are part of what draws the modalities together.
        activation: of hidden layers: ``leaky_relu`` (slope .2), as in the authors' code, or ``relu``.
        multi_label: loss of the labels, of which an item may have several, as in ``acmr``.
        hidden: width of the first encoder layer and of the decoder; the discriminators between the modalities have
            half of it. None: 512, or 4 times the wider modality's features (64 at least) where that is less.
        n_components: width of s; None: as ``hidden``.
        learning_rate: of Adam, whose first decay is .5.
        batch_size: 64 in the authors' code.
        max_epochs: at the most; an epoch has K generator steps a batch.
        patience: epochs without a better validation score that end the training.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_`` (encoders, the normalisation folded into their weights), ``history_``,
    ``best_epoch_``. The history has all terms above, accuracies of the discriminators, and ``code_difference``, the
    mean of |s_v - s_t|.

    A mismatched item: of another class, drawn uniformly, a member, drawn uniformly, the same for both modalities.
    Where items have several classes, an item of the batch that shares none; a row without any has no such term.

    A discriminator step leaves the generators' weights as they are, but their running means and variances see its
    batches too; those of the discriminators are never used and not kept.

    Source: Peng, Qi, Yuan, "CM-GANs: cross-modal generative adversarial networks for common representation learning",
    ACM TOMM 2019 (arXiv 1710.05106), section III. Differs: features are given and not fine-tuned; both generators
    step together, not one after the other; batches are shuffled passes, where the authors' code draws two classes
    and an item of each; widths, learning rate and stopping rule (the authors' code: 1024, 1e-3, 2000 epochs);
    leaky units, as in that code, where the paper has ReLU.
    ``preset=paper`` has these widths and that rate, and still stops by validation rows.
    """

    info = MethodInfo(
        title="CM-GANs",
        paper="Peng et al., CM-GANs: Cross-modal generative adversarial networks for common representation "
        "learning, ACM TOMM 2019",
        year=2019,
        supervised=True,
        trained=True,
        requires=("torch",),
    )
    grid: ClassVar = {
        "learning_rate": (1e-4, 3e-4, 1e-3),
        "reconstruction_weight": (0.0, 1.0),
        "hidden": (256, 512),
    }
    presets: ClassVar = {
        "paper": {"hidden": 1024, "n_components": 1024, "learning_rate": 1e-3},
        "stable": {"reconstruction_weight": 1.0},
    }
    ablations: ClassVar = {
        "no_ws_sc": {"weight_sharing": False, "semantic_constraint": False},
        "ws_only": {"semantic_constraint": False},
        "sc_only": {"weight_sharing": False},
        "only_inter": {"intra": False, "reconstruction_weight": 0.0},
        "cae": {"adversary": False, "reconstruction_weight": 1.0},
    }

    def __init__(
        self,
        weight_sharing: bool = True,
        semantic_constraint: bool = True,
        intra: bool = True,
        adversary: bool = True,
        mismatch: Literal["own", "anchor"] = "own",
        reconstruction_weight: float = 0.0,
        generator_steps: int = 5,
        resample: bool = True,
        norm_per_modality: bool = True,
        activation: Literal["leaky_relu", "relu"] = "leaky_relu",
        multi_label: LabelLoss = "soft",
        hidden: int | None = None,
        n_components: int | None = None,
        learning_rate: float = 3e-4,
        batch_size: int = 64,
        max_epochs: int = 40,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.weight_sharing = weight_sharing
        self.semantic_constraint = semantic_constraint
        self.intra = intra
        self.adversary = adversary
        self.mismatch = mismatch
        self.reconstruction_weight = reconstruction_weight
        self.generator_steps = generator_steps
        self.resample = resample
        self.norm_per_modality = norm_per_modality
        self.activation = activation
        self.multi_label = multi_label
        self.hidden = hidden
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as the paper has it, with these parameters."""
        found = ["features are given, not fine-tuned"]
        if not self.hidden == 1024 == (self.n_components or self.hidden):
            found.append("narrower layers")
        if self.adversary and self.reconstruction_weight:
            found.append(
                f"a reconstruction error is added: reconstruction_weight: {self.reconstruction_weight:g}"
            )
        if self.adversary and self.mismatch == "anchor":
            found.append("mismatched representations stand beside the item's own features")
        return (*found, "both generators step together", "the epoch is chosen on validation rows")

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training()
        check_positive("CmGans", generator_steps=self.generator_steps)
        check_not_negative("CmGans", reconstruction_weight=self.reconstruction_weight)
        for name, width in (("hidden", self.hidden), ("n_components", self.n_components)):
            if width is not None and width < 2:
                raise InvalidParameter(f"CmGans.{name}: expected at least 2, got {width}")
        if self.reconstruction_weight and not self.intra:
            raise InvalidParameter("CmGans.reconstruction_weight: there are no decoders with intra=False")
        if not (self.adversary or self.semantic_constraint or self.reconstruction_weight):
            raise InvalidParameter(
                "CmGans: nothing to learn from; let adversary or semantic_constraint be True, or "
                "reconstruction_weight more than 0"
            )
        if len(train) < 2:
            raise Unsupported("CM-GANs normalises over batches and needs at least 2 training pairs, got 1")
        session = Session(self.random_state, context.device)
        self._train(CmGansLearner(self, train, session), train, validation, context, session)


class BatchNorm:
    """Batch normalisation, always by the batch at hand (Ioffe and Szegedy, ICML 2015, algorithm 1).

    Args:
        k: width.
        generator: torch.Generator on the CPU, for gains; they start as N(1, .02), as in the authors' code.
        device: where it lives.
        watching: keep running means and variances, for rows that are encoded later.
    """

    EPSILON = 1e-5

    def __init__(self, k: int, generator: Any, device: Any, *, watching: bool = True) -> None:
        import torch

        self.gain = torch.empty(k).normal_(1, 0.02, generator=generator).to(device).requires_grad_()
        self.bias = torch.zeros(k, device=device, requires_grad=True)
        self.mean = torch.zeros(k, device=device) if watching else None
        self.variance = torch.ones(k, device=device) if watching else None

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, k) -> (n, k), n at least 2."""
        import torch

        return torch.batch_norm(
            rows, self.gain, self.bias, self.mean, self.variance, True, 0.1, self.EPSILON, False
        )


class Block:
    """A dense layer, batch normalisation, an activation: rows (n, d) become (n, k)."""

    def __init__(self, d: int, k: int, activation: str, generator: Any, device: Any) -> None:
        self.linear = Dense((d, k), ("linear",), generator, device)
        self.norm, self.activation = BatchNorm(k, generator, device), activation

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, k)."""
        return activated(self.norm(self.linear(rows)), self.activation)

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, bias, gain and bias of the normalisation."""
        return [*self.linear.parameters, self.norm.gain, self.norm.bias]

    def folded(self) -> LayerArrays:
        """One dense layer that does the same to rows to be encoded, by running means and variances."""
        (layer,) = self.linear.arrays()
        mean, variance, gain, bias = (
            as_array(one) for one in (self.norm.mean, self.norm.variance, self.norm.gain, self.norm.bias)
        )
        scale = (gain / np.sqrt(variance + BatchNorm.EPSILON)).astype(np.float32)
        return LayerArrays(
            weights=layer["weights"] * scale,
            bias=(layer["bias"] - mean) * scale + bias,
            activation=self.activation,
        )


class Pathway:
    """A discriminator between the modalities: logits (n,) for representations (n, k) beside features (n, d).

    One dense layer reads both side by side; its weights are kept in two pieces, so that what it makes of features is
    found once for several representations.
    """

    def __init__(self, k: int, d: int, width: int, activation: str, generator: Any, device: Any) -> None:
        both = Dense((k + d, width), ("linear",), generator, device)
        weights, self.bias = both.layers[0]
        self.of_codes, self.of_features = (
            weights.detach()[part].clone().requires_grad_() for part in (slice(k), slice(k, None))
        )
        self.norm = BatchNorm(width, generator, device, watching=False)
        self.last = Dense((width, 1), ("linear",), generator, device)
        self.activation = activation

    def read(self, features: Tensor) -> Tensor:
        """What the hidden layer makes of features (n, d), to be given to a call."""
        return self.bias.addmm(features, self.of_features)

    def __call__(self, codes: Tensor, read: Tensor) -> Tensor:
        """Logits (n,) of representations (n, k) beside features that have been read."""
        return self.last(activated(self.norm(read.addmm(codes, self.of_codes)), self.activation))[:, 0]

    @property
    def parameters(self) -> list[Tensor]:
        """All weights, biases and gains."""
        return [
            self.of_codes,
            self.of_features,
            self.bias,
            self.norm.gain,
            self.norm.bias,
            *self.last.parameters,
        ]


class Mismatches:
    """Draws, for training rows, rows of other classes.

    Args:
        pairs: training pairs.
        generator: numpy generator.
    """

    def __init__(self, pairs: Pairs, generator: np.random.Generator) -> None:
        self.generator, self.labels = generator, pairs.labels
        if not pairs.multi_label:
            _, self.places, counts = np.unique(pairs.labels, return_inverse=True, return_counts=True)
            self.members, self.counts = np.argsort(self.places, kind="stable"), counts
            self.starts = np.cumsum(counts) - counts

    def draw(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A row for each of ``rows`` (b,), and 1, or 0 where there was none to be had; see :class:`CmGans`."""
        if self.labels.ndim == 1:
            others = self.generator.integers(0, len(self.counts) - 1, len(rows))
            others += others >= self.places[rows]
            picked = self.generator.integers(0, self.counts[others])
            return self.members[self.starts[others] + picked], np.ones(len(rows), dtype=np.float32)
        labels = self.labels[rows].astype(np.float32)
        free = labels @ labels.T == 0
        # the highest of uniform keys is a uniform choice among the free ones
        keys = np.where(free, self.generator.random(free.shape), -1.0)
        return rows[keys.argmax(axis=1)], free.any(axis=1).astype(np.float32)


class CmGansLearner(Learner):
    """Generators, discriminators, and one round of Algorithm 1 as a step.

    Lists have the part of images first, then that of texts.

    Args:
        method: parameters.
        train: training pairs, among which generator steps and mismatches are drawn.
        session: device and random streams.
    """

    def __init__(self, method: CmGans, train: Pairs, session: Session) -> None:
        self.method, self.learning_rate = method, method.learning_rate
        self.pairs = session.batch(train)
        self.mismatches = Mismatches(train, session.negatives)
        self.resampling = session.negatives.spawn(1)[0]
        d = train.images.shape[1], train.texts.shape[1]
        hidden = method.hidden or min(WIDTH, max(64, 4 * max(d)))
        k = method.n_components or hidden
        act, start, device = method.activation, session.start, session.device
        self.encoders = [
            [Block(width, hidden, act, start, device), Block(hidden, k, act, start, device)] for width in d
        ]
        if method.weight_sharing:
            self.encoders[1][1].linear = self.encoders[0][1].linear
            if not method.norm_per_modality:
                self.encoders[1][1].norm = self.encoders[0][1].norm
        self.classifier = Dense((k, train.n_classes), ("linear",), start, device)
        self.decoders: list[tuple[Block, Dense]] = [
            (Block(k, hidden, act, start, device), Dense((hidden, width), ("linear",), start, device))
            for width in d
            if method.intra and (method.adversary or method.reconstruction_weight)
        ]
        networks: list[Any] = [*self.encoders, *self.decoders]
        if method.semantic_constraint:
            networks.append([self.classifier])
        self.generators = _once(
            tensor for network in networks for one in network for tensor in one.parameters
        )
        self.generator_optimiser = Adam(self.generators, self.learning_rate, beta1=0.5)
        self.intra: list[Dense] = []  # D_I, D_T
        self.inter: list[Pathway] = []  # D_Ci, D_Ct
        if method.adversary:
            start = session.probe
            self.intra = [Dense((width, 1), ("linear",), start, device) for width in d if method.intra]
            self.inter = [Pathway(k, width, hidden // 2, act, start, device) for width in d]
            opponents: list[Any] = [*self.intra, *self.inter]
            self.discriminators = _once(tensor for one in opponents for tensor in one.parameters)
            self.discriminator_optimiser = Adam(self.discriminators, self.learning_rate, beta1=0.5)

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step of the discriminators, then ``generator_steps`` of the generators; means over the latter."""
        told: dict[str, Any] = {}
        if self.method.adversary:
            told |= self.discriminator_step(batch)
        for _ in range(self.method.generator_steps):
            if self.method.resample:
                batch = self.redrawn(len(batch))
            for name, value in self.generator_step(batch).items():
                told[name] = told.get(name, 0.0) + value / self.method.generator_steps
        return told

    def redrawn(self, n: int) -> Batch:
        """A batch of n training pairs, drawn without replacement."""
        import torch

        rows = torch.from_numpy(self.resampling.choice(len(self.pairs), n, replace=False))
        return self.taken(rows.to(self.pairs.rows.device))

    def taken(self, rows: Tensor) -> Batch:
        """The training pairs ``rows`` (b,)."""
        pairs = self.pairs
        return Batch(pairs.images[rows], pairs.texts[rows], pairs.targets[rows], rows)

    def encoded(self, features: list[Tensor]) -> list[Tensor]:
        """Representations s of both modalities."""
        return [second(first(rows)) for (first, second), rows in zip(self.encoders, features, strict=True)]

    def decoded(self, codes: list[Tensor]) -> list[Tensor]:
        """Reconstructions r of both modalities, if there are decoders."""
        return [last(first(rows)) for (first, last), rows in zip(self.decoders, codes, strict=False)]

    def discriminator_step(self, batch: Batch) -> dict[str, Tensor]:
        """All discriminators descend on what the generators, which do not learn from it, make of a batch."""
        import torch

        drawn, weights = self.mismatches.draw(as_array(batch.rows))
        device = batch.rows.device
        other = self.taken(torch.from_numpy(drawn).to(device))
        with torch.no_grad():
            codes = self.encoded([batch.images, batch.texts])
            made = self.decoded(codes) if self.intra else []
            wrong = self.encoded([other.images, other.texts])
        told = self.discriminator_losses(
            batch, codes, made, other, wrong, torch.from_numpy(weights).to(device)
        )
        losses = [value for name, value in told.items() if name.endswith("_loss")]
        self.discriminator_optimiser.step(torch.stack(losses).sum())
        return {name: value.detach() for name, value in told.items()}

    def discriminator_losses(
        self,
        batch: Batch,
        codes: list[Tensor],
        made: list[Tensor],
        other: Batch,
        wrong: list[Tensor],
        weights: Tensor,
    ) -> dict[str, Tensor]:
        """L_DI, L_DT, L_DCi and L_DCt, and the share of the pairs that each discriminator tells right.

        Args:
            batch: the pairs.
            codes: s of both modalities; ``made``: r.
            other: the mismatched pairs; ``wrong``: their s.
            weights: (b,) 1, or 0 for pairs without a mismatched one.
        """
        told: dict[str, Tensor] = {}
        features, others = (batch.images, batch.texts), (other.images, other.texts)
        for i, name in enumerate(("image", "text")):
            if self.intra:
                real, fake = self.intra[i](features[i])[:, 0], self.intra[i](made[i])[:, 0]
                told[f"{name}_intra_loss"] = _yes(real).mean() + _yes(-fake).mean()
                told[f"{name}_intra_accuracy"] = ((real > 0).sum() + (fake < 0).sum()) / (2 * len(batch))
            path = self.inter[i]
            read = path.read(features[i])
            real, crossed = path(codes[i], read), path(codes[1 - i], read)
            beside = path.read(others[i]) if self.method.mismatch == "own" else read
            mismatched = path(wrong[i], beside)
            fake = _yes(-crossed).mean() + (weights * _yes(-mismatched)).mean()
            told[f"{name}_inter_loss"] = _yes(real).mean() + fake / 2
            told[f"{name}_inter_accuracy"] = ((real > 0).sum() + (crossed < 0).sum()) / (2 * len(batch))
        return told

    def generator_step(self, batch: Batch) -> dict[str, Tensor]:
        """Both generators descend; the discriminators are held."""
        with frozen(self.discriminators if self.method.adversary else []):
            told = self.generator_losses(batch)
        weighted = {
            "generator_inter_loss": 1.0,
            "generator_intra_loss": 1.0,
            "label_loss": 1.0,
            "reconstruction_error": self.method.reconstruction_weight,
        }
        terms = [weight * told[name] for name, weight in weighted.items() if weight and name in told]
        self.generator_optimiser.step(sum(terms))
        return {name: value.detach() for name, value in told.items()}

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of both generators' losses, each a sum over the modalities."""
        features = [batch.images, batch.texts]
        codes = self.encoded(features)
        made = self.decoded(codes)
        told: dict[str, Any] = {}
        if self.inter:
            # an image's representation is shown beside its text's features, and the reverse
            logits = [path(codes[1 - i], path.read(features[i])) for i, path in enumerate(self.inter)]
            told["generator_inter_loss"] = _yes(logits[0]).mean() + _yes(logits[1]).mean()
        if self.intra:
            told["generator_intra_loss"] = sum(
                _yes(D(rows)).mean() for D, rows in zip(self.intra, made, strict=True)
            )
        if self.method.semantic_constraint:
            told["label_loss"] = sum(
                label_loss(self.classifier(rows), batch.targets, self.method.multi_label) for rows in codes
            )
        if made:
            told["reconstruction_error"] = sum(
                ((rows - wanted) ** 2).mean() for rows, wanted in zip(made, features, strict=True)
            )
        told["code_difference"] = (codes[0].detach() - codes[1].detach()).abs().mean()
        return told

    def learned(self) -> dict[str, Any]:
        """The encoders."""
        image, text = ([block.folded() for block in blocks] for blocks in self.encoders)
        return {"image_layers_": image, "text_layers_": text}


def activated(rows: Tensor, activation: str) -> Tensor:
    """Rows after ``relu`` or ``leaky_relu``, in one pass."""
    import torch

    return torch.nn.functional.leaky_relu(rows, LEAK if activation == "leaky_relu" else 0.0)


def _yes(logits: Tensor) -> Tensor:
    """-log of the probability that a discriminator's logits give to "real"; of -logits, to "made"."""
    import torch

    return torch.nn.functional.softplus(-logits)


def _once(tensors: Any) -> list[Tensor]:
    """Each tensor once, in order: a layer that two networks share is one layer to their optimiser."""
    return list({id(tensor): tensor for tensor in tensors}.values())


METHOD = CmGans
