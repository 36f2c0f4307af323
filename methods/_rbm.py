"""Restricted Boltzmann machines that learn by contrastive divergence, for methods that are built of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter
from xmbench.method import FitContext
from xmbench.nn import Activation, LayerArrays, Tensor, as_array, check_not_negative, check_positive
from xmbench.training import Batch, Learner, Session

from ._stages import Stacks, Staged

Units = Literal["binary", "gaussian", "softmax"]
"""What the visible units of a machine are; see :class:`Rbm`."""

DOWN: dict[str, Activation] = {"binary": "sigmoid", "gaussian": "linear", "softmax": "softmax"}
"""Units -> what makes their mean of their inputs."""

GAUSSIAN_RATE = 0.1
"""Gaussian units take this part of the learning rate, as their values have no bound (Hinton, 2010, section 13.2)."""

GAUSSIAN_WIDTH = 128
"""With more Gaussian units than these, the rate falls as one over their number: their gradients add up."""

MOMENTUM = (0.5, 0.9)
"""Momentum in the first epoch and from the middle of the training on; linear between them."""


class Rbm:
    """Visible units v (n, d) and binary hidden units h (n, k), with weights W between them, biases b and c.

    ::

        binary     -E(v, h) = v W h + b v + c h                    P(v_i = 1 | h) = sigma(b + W h)_i
        gaussian   -E(v, h) = v W h - |v - b|^2 / 2 + c h          v | h ~ N(b + W h, 1)
        softmax    -E(v, h) = v W h + b v + N c h, N = sum_i v_i   v | h ~ multinomial(N, softmax(b + W h))

    ``softmax`` is the replicated softmax: rows are counts of N words, and the hidden biases grow with N. Real numbers
    that are not negative do as counts. Nothing here takes gradients through torch: the learning rule is
    :meth:`gradient`.

    Weights start as N(0, 1 / d), those of softmax units as N(0, 1e-10); biases at 0.

    Args:
        d: visible units.
        k: hidden units.
        units: what the visible units are.
        generator: torch.Generator on the CPU, for the start.
        device: where the machine lives.

    Source: Hinton, "A practical guide to training restricted Boltzmann machines", 2010; softmax: Salakhutdinov and
    Hinton, "Replicated softmax", NIPS 2009; initial weights: the authors' code of the multimodal DBN.
    """

    def __init__(self, d: int, k: int, units: Units, generator: Any, device: Any = "cpu") -> None:
        import torch

        self.units = units
        scale = 1e-5 if units == "softmax" else d**-0.5
        self.weights = (scale * torch.randn(d, k, generator=generator)).to(device)
        self.visible_bias = torch.zeros(d, device=device)
        self.hidden_bias = torch.zeros(k, device=device)

    @property
    def parameters(self) -> list[Tensor]:
        """Weights (d, k), visible bias (d,) and hidden bias (k,), in the order of :meth:`statistics`."""
        return [self.weights, self.visible_bias, self.hidden_bias]

    def inputs(self, rows: Tensor) -> Tensor:
        """What the hidden units receive: (n, d) -> (n, k)."""
        if self.units == "softmax":
            return rows @ (self.weights + self.hidden_bias)
        return self.hidden_bias.addmm(rows, self.weights)

    def hidden(self, rows: Tensor) -> Tensor:
        """P(h = 1 | v) of rows v (n, d) -> (n, k)."""
        return self.inputs(rows).sigmoid()

    def visible(self, hidden: Tensor, counts: Tensor | None = None) -> Tensor:
        """Mean of v given hidden states or probabilities (n, k) -> (n, d).

        Args:
            hidden: rows of the hidden units.
            counts: (n, 1) numbers of words of softmax units; 1 if not given.
        """
        found = self.visible_bias.addmm(hidden, self.weights.T)
        if self.units == "gaussian":
            return found
        if self.units == "binary":
            return found.sigmoid()
        return found.softmax(dim=1) * (1 if counts is None else counts)

    def reconstruction(self, rows: Tensor) -> Tensor:
        """Mean of v given the hidden probabilities of rows (n, d) -> (n, d)."""
        return self.visible(self.hidden(rows), rows.sum(dim=1, keepdim=True))

    def free_energy(self, rows: Tensor) -> Tensor:
        """``-log sum_h exp(-E(v, h))`` of rows v (n, d) -> (n,)."""
        inputs = self.inputs(rows)
        summed = (inputs.clamp(min=0) + (-inputs.abs()).exp().log1p()).sum(dim=1)
        if self.units == "gaussian":
            return ((rows - self.visible_bias) ** 2).sum(dim=1) / 2 - summed
        return -rows @ self.visible_bias - summed

    def statistics(self, rows: Tensor, hidden: Tensor) -> list[Tensor]:
        """Mean over rows of the slopes of -E by W (d, k), b (d,) and c (k,).

        Of Gaussian units, that by b without its constant -b, which the difference of two statistics has not.
        """
        n = len(rows)
        weights, visible = rows.T @ hidden / n, rows.mean(dim=0)
        if self.units == "softmax":
            return [weights, visible, (rows.sum(dim=1, keepdim=True) * hidden).mean(dim=0)]
        return [weights, visible, hidden.mean(dim=0)]

    def gradient(self, rows: Tensor, noise: Any) -> tuple[list[Tensor], Tensor, Tensor]:
        """One step of contrastive divergence (CD-1) for rows (n, d).

        The hidden states are drawn once, upon the data; the reconstruction is the mean of the visible units given
        them, and all statistics are of hidden probabilities (Hinton, 2010, section 3).

        Args:
            rows: a batch.
            noise: torch.Generator on the device, for the hidden states.

        Returns:
            The gradient to go up, in the order of :attr:`parameters`; the reconstruction (n, d); the hidden
            probabilities of the data (n, k).
        """
        import torch

        hidden = self.hidden(rows)
        states = (torch.empty_like(hidden).uniform_(generator=noise) < hidden).to(hidden.dtype)
        found = self.visible(states, rows.sum(dim=1, keepdim=True))
        data, model = self.statistics(rows, hidden), self.statistics(found, self.hidden(found))
        return [first - second for first, second in zip(data, model, strict=True)], found, hidden

    @property
    def rate(self) -> float:
        """The part of the learning rate that these visible units take."""
        if self.units != "gaussian":
            return 1.0
        return GAUSSIAN_RATE * min(1.0, GAUSSIAN_WIDTH / len(self.visible_bias))

    def layer(self, rows: slice = slice(None)) -> LayerArrays:
        """The way up: a layer of logistic units; on the CPU the arrays share the tensors' memory but with softmax.

        Args:
            rows: the visible units that are given, of all: of a joint machine those of one modality. The others
                count as 0.
        """
        weights, bias = as_array(self.weights), as_array(self.hidden_bias)
        if self.units == "softmax":
            weights, bias = weights + bias, 0 * bias
        return LayerArrays(weights=weights[rows], bias=bias, activation="sigmoid")

    def down(self, rows: slice = slice(None)) -> LayerArrays:
        """The way down: the layer that gives the mean of these visible units of hidden ones."""
        weights, bias = as_array(self.weights)[rows], as_array(self.visible_bias)[rows]
        return LayerArrays(weights=weights.T, bias=bias, activation=DOWN[self.units])


class RbmLearner(Learner):
    """Machines that learn by CD-1: two, of images and of texts, or one of both side by side.

    With gradient g of :meth:`Rbm.gradient`, momentum m and rate r: ``step = m step + r (g - weight_decay W)``.
    A sparsity target p adds ``sparsity_weight (p - q)`` to the slope of each hidden unit's input, q being its mean
    probability in the batch (Hinton, 2010, section 11).

    History: ``image_loss`` and ``text_loss``, means over rows and units of the squared error of the reconstruction
    (of one machine: of its units of each modality); ``weight_norm``, the largest root mean square of a machine's
    weights after the step.

    Args:
        machines: (images, texts) or (both,); the widths of the latter add up.
        session: device and random streams.
        learning_rate: of binary units; see :attr:`Rbm.rate`.
        weight_decay: of weights.
        sparsity: mean probability that hidden units should have; None for no such target.
        sparsity_weight: how much it weighs.
    """

    def __init__(
        self,
        machines: Sequence[Rbm],
        session: Session,
        *,
        learning_rate: float = 0.1,
        weight_decay: float = 1e-4,
        sparsity: float | None = None,
        sparsity_weight: float = 0.1,
    ) -> None:
        import torch

        self.machines, self.session, self.learning_rate = list(machines), session, learning_rate
        self.weight_decay, self.sparsity, self.sparsity_weight = weight_decay, sparsity, sparsity_weight
        self.momentum = MOMENTUM[0]
        self.velocities = [[torch.zeros_like(t) for t in machine.parameters] for machine in self.machines]

    def begin_epoch(self, epoch: int, max_epochs: int) -> None:
        """The momentum of this epoch."""
        low, high = MOMENTUM
        self.momentum = low + (high - low) * min(1.0, 2 * (epoch - 1) / max_epochs)

    def rows(self, batch: Batch) -> list[Tensor]:
        """What each machine reads of a batch."""
        import torch

        both = [batch.images, batch.texts]
        return both if len(self.machines) == 2 else [torch.cat(both, dim=1)]

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step of CD-1 for each machine."""
        import torch

        with torch.no_grad():
            inputs, found, norms = self.rows(batch), [], []
            for machine, velocity, rows in zip(self.machines, self.velocities, inputs, strict=True):
                gradient, reconstructed, hidden = machine.gradient(rows, self.session.noise)
                if self.sparsity is not None:
                    missing = self.sparsity_weight * (self.sparsity - hidden.mean(dim=0))
                    gradient[0] += rows.mean(dim=0)[:, None] * missing
                    gradient[2] += missing
                gradient[0] -= self.weight_decay * machine.weights
                for tensor, speed, slope in zip(machine.parameters, velocity, gradient, strict=True):
                    tensor += speed.mul_(self.momentum).add_(slope, alpha=self.learning_rate * machine.rate)
                found.append(reconstructed)
                norms.append((machine.weights**2).mean().sqrt())
            return self.errors(batch, found) | {"weight_norm": max(norms)}

    def errors(self, batch: Batch, found: Sequence[Tensor]) -> dict[str, Tensor | float]:
        """Mean squared errors of what the machines make of a batch, by modality."""
        d = batch.images.shape[1]
        images, texts = found if len(found) == 2 else (found[0][:, :d], found[0][:, d:])
        return {
            "image_loss": ((images - batch.images) ** 2).mean(),
            "text_loss": ((texts - batch.texts) ** 2).mean(),
        }

    def examine(self, batch: Batch) -> Mapping[str, float]:
        """The same errors on the validation pairs, of reconstructions without noise."""
        found = [
            machine.reconstruction(rows)
            for machine, rows in zip(self.machines, self.rows(batch), strict=True)
        ]
        return {f"validation_{name}": float(value) for name, value in self.errors(batch, found).items()}

    def learned(self) -> dict[str, Any]:
        """Nothing that a method keeps as it is; the next stage reads the machines."""
        return {}


def check_machines(name: str, *, weight_decay: float, sparsity: float | None) -> None:
    """Raise InvalidParameter where what machines learn with is off; ``name`` is the method's class."""
    check_not_negative(name, weight_decay=weight_decay)
    if sparsity is not None:
        check_positive(name, sparsity=sparsity)
        if sparsity >= 1:
            raise InvalidParameter(f"{name}.sparsity: expected less than 1, got {sparsity}")


def pretrained(
    method: Staged,
    train: Pairs,
    context: FitContext,
    session: Session,
    widths: Sequence[tuple[int, int]],
    *,
    text_units: Units = "gaussian",
    learning_rate: float,
    weight_decay: float = 1e-4,
    sparsity: float | None = None,
) -> Stacks:
    """Two stacks of machines, one level after the other; each level is a stage ``rbm 1``, ... of ``method``.

    Args:
        method: whose history gets the stages; its batch size and ``pretrain_epochs`` are used.
        train: training pairs.
        context: deadline, threads, progress.
        session: device and random streams.
        widths: of the hidden units of images and of texts, for each level.
        text_units: visible units of the texts' first machine; those of the images' are Gaussian.
        learning_rate: as in :class:`RbmLearner`, like ``weight_decay`` and ``sparsity``.

    Returns:
        The logistic layers of images and of texts, the lowest first.
    """
    stacks: Stacks = ([], [])
    for level, sizes in enumerate(widths, start=1):
        inputs = method._transformed(train, stacks)
        units: tuple[Units, Units] = ("gaussian", text_units) if level == 1 else ("binary", "binary")
        machines = [
            Rbm(rows.shape[1], k, kind, session.start, session.device)
            for rows, k, kind in zip((inputs.images, inputs.texts), sizes, units, strict=True)
        ]
        learner = RbmLearner(
            machines, session, learning_rate=learning_rate, weight_decay=weight_decay, sparsity=sparsity
        )
        method._stage(learner, inputs, context, session, f"rbm {level}")
        for layers, machine in zip(stacks, machines, strict=True):
            layers.append(machine.layer())
    return stacks
