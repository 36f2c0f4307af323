"""Small networks: dense layers, their optimiser, and losses that two methods share.

Layers learn as torch tensors and are kept as numpy arrays: a fitted method encodes without torch, and torch is
imported by what trains alone. Nothing here draws from a global random generator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter

Activation = Literal["linear", "relu", "leaky_relu", "tanh", "sigmoid", "softmax"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

LEAK = 0.2
"""Slope of a leaky ReLU below 0."""

Tensor = Any
"""A torch.Tensor; torch is not imported for its sake."""

SMALLEST_SQUARE = 1e-12
"""Squared distances are not taken to be less, so that the square root has a slope."""


class LayerArrays(TypedDict):
    """A learned dense layer: rows become ``activation(rows @ weights + bias)``."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


class Dense:
    """Dense layers, one after the other: rows (n, widths[0]) become (n, widths[-1]).

    Weights and biases start uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in).

    Args:
        widths: of the input and of each layer's output.
        activations: one for each layer.
        generator: torch.Generator on the CPU, for the start; equal seeds start equally on every device.
        device: where the layers live.
        dropout: share of the inputs that a training step sets to 0.
        noise: torch.Generator on ``device``, for dropout.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activations: Sequence[Activation],
        generator: Any,
        device: Any = "cpu",
        *,
        dropout: float = 0.0,
        noise: Any = None,
    ) -> None:
        import torch

        self.activations, self.dropout, self.noise = tuple(activations), dropout, noise
        self.layers: list[tuple[Tensor, Tensor]] = []
        for d, k in itertools.pairwise(widths):
            bound = d**-0.5
            weights = torch.empty(d, k).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(k).uniform_(-bound, bound, generator=generator)
            self.layers.append((weights.to(device).requires_grad_(), bias.to(device).requires_grad_()))

    def __call__(self, rows: Tensor, *, training: bool = True) -> Tensor:
        """(n, d) -> (n, k); dropout acts in training alone."""
        if training and self.dropout:
            rows = masked(rows, self.dropout, self.noise) / (1 - self.dropout)
        for (weights, bias), activation in zip(self.layers, self.activations, strict=True):
            rows = _activate(bias.addmm(rows, weights), activation)
        return rows

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases, layer by layer."""
        return [tensor for layer in self.layers for tensor in layer]

    @property
    def weights(self) -> list[Tensor]:
        """The weight matrices (d, k)."""
        return [weights for weights, _ in self.layers]

    def arrays(self) -> list[LayerArrays]:
        """The layers as arrays; on the CPU they share the tensors' memory, and change as these do."""
        return [
            LayerArrays(weights=as_array(weights), bias=as_array(bias), activation=activation)
            for (weights, bias), activation in zip(self.layers, self.activations, strict=True)
        ]


def _activate(rows: Tensor, activation: Activation) -> Tensor:
    if activation == "linear":
        return rows
    if activation == "leaky_relu":
        return rows.clamp(min=0) + LEAK * rows.clamp(max=0)
    return rows.softmax(dim=1) if activation == "softmax" else getattr(rows, activation)()


def forward(layers: Sequence[Mapping[str, Any]], rows: NDArray[Any]) -> NDArray[np.float32]:
    """What learned layers make of rows (n, d), without dropout; see :meth:`Dense.arrays`.

    What overflows is infinite or NaN, without a warning: training that diverged is found by its result.
    """
    found = np.asarray(rows, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in layers:
            found = _activate_rows(found @ layer["weights"] + layer["bias"], layer["activation"])
    return found


def _activate_rows(rows: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """The activation of rows (n, k), in their place where that can be done."""
    if activation == "relu":
        return np.maximum(rows, 0, out=rows)
    if activation == "leaky_relu":
        return np.multiply(rows, LEAK, out=rows, where=rows < 0)
    if activation == "tanh":
        return np.tanh(rows, out=rows)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * rows)))
    if activation == "softmax":
        powers = np.exp(rows - rows.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return rows


def probabilities(layers: Sequence[LayerArrays], kind: LabelLoss = "soft") -> list[LayerArrays]:
    """The layers of a classifier, whose last gives logits, with probabilities as output: those of the loss."""
    *lower, last = layers
    return [*lower, {**last, "activation": "sigmoid" if kind == "bce" else "softmax"}]


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's values; on the CPU the same memory."""
    return np.asarray(tensor.detach().cpu().numpy())


def masked(rows: Tensor, share: float, generator: Any) -> Tensor:
    """Rows of which each number is set to 0 with probability ``share``."""
    import torch

    return rows * torch.empty_like(rows).bernoulli_(1 - share, generator=generator)


@contextmanager
def frozen(tensors: Iterable[Tensor]) -> Iterator[None]:
    """No gradients for these parameters; the way through them stays open."""
    held = list(tensors)
    for tensor in held:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in held:
            tensor.requires_grad_(True)


class Adam:
    """Adam with one fused pass over each parameter (Kingma and Ba, ICLR 2015, algorithm 1; epsilon 1e-8).

    ``torch.optim.Adam`` gives the same numbers, at the price of importing torch's compiler (a second); it is taken
    where a version of torch lacks the function behind it.

    Args:
        parameters: tensors that require gradients.
        learning_rate: step size; may be changed between steps.
        beta1: decay of the first moment.
        weight_decay: L2 penalty, added to the gradient as ``weight_decay * parameter``. ``weight_decays`` has it for
            each parameter, and may be changed between steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        *,
        beta1: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        import torch

        self.parameters = list(parameters)
        self.learning_rate, self.beta1, self.steps = learning_rate, beta1, 0
        self.weight_decays = [weight_decay] * len(self.parameters)
        self._fused: Any = getattr(torch, "_fused_adam_", None)
        self._moments = [[torch.zeros_like(tensor) for tensor in self.parameters] for _ in range(2)]
        self._counts = [
            torch.zeros((), dtype=torch.float32, device=tensor.device) for tensor in self.parameters
        ]
        self._peer = None
        if self._fused is None:
            groups = [{"params": [tensor]} for tensor in self.parameters]
            self._peer = torch.optim.Adam(groups, betas=(beta1, 0.999))

    def step(self, loss: Tensor) -> None:
        """Take the gradients of ``loss`` and move every parameter that has one."""
        for tensor in self.parameters:
            tensor.grad = None
        loss.backward()
        self.steps += 1
        if self._peer is not None:
            for group, decay in zip(self._peer.param_groups, self.weight_decays, strict=True):
                group |= {"lr": self.learning_rate, "weight_decay": decay}
            self._peer.step()
            return
        alike: dict[float, list[int]] = {}
        for i, decay in enumerate(self.weight_decays):
            if self.parameters[i].grad is not None:
                alike.setdefault(decay, []).append(i)
        for decay, chosen in alike.items():
            self._move(chosen, decay)

    def _move(self, chosen: Sequence[int], weight_decay: float) -> None:
        import torch

        first, second = ([moments[i] for i in chosen] for moments in self._moments)
        with torch.no_grad():
            self._fused(
                [self.parameters[i] for i in chosen],
                [self.parameters[i].grad for i in chosen],
                first,
                second,
                [],
                [self._counts[i].add_(1) for i in chosen],
                lr=self.learning_rate,
                beta1=self.beta1,
                beta2=0.999,
                weight_decay=weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


# -- losses -----------------------------------------------------------------------------------------


LabelLoss = Literal["soft", "squared", "bce"]
"""How several classes of an item are learned; see :func:`label_loss`."""


def label_loss(logits: Tensor, targets: Tensor, kind: LabelLoss = "soft") -> Tensor:
    """Mean over rows of the classification loss of logits (n, c) on targets (n, c) of 0 and 1.

    ``soft``: cross-entropy of the softmax with y / sum(y), which for one class an item is the usual one.
    ``squared``: squared distance of the softmax from y / sum(y).
    ``bce``: binary cross-entropy of each class's sigmoid, summed over classes.
    """
    shares = targets / targets.sum(dim=1, keepdim=True)
    if kind == "soft":
        return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
    if kind == "squared":
        return ((logits.softmax(dim=1) - shares) ** 2).sum(dim=1).mean()
    # log(1 + exp(x)) - x y, in a form that does not overflow
    softplus = logits.clamp(min=0) + (-logits.abs()).exp().log1p()
    return (softplus - logits * targets).sum(dim=1).mean()


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances (n, m) of rows (n, k) and (m, k), not squared."""
    squares = (first**2).sum(dim=1)[:, None] + (second**2).sum(dim=1) - 2 * first @ second.T
    return squares.clamp(min=SMALLEST_SQUARE).sqrt()


def normalised(rows: Tensor) -> Tensor:
    """Rows of unit length."""
    return rows / (rows**2).sum(dim=1, keepdim=True).clamp(min=SMALLEST_SQUARE).sqrt()


def matching(first: Tensor, second: Tensor) -> Tensor:
    """(n, m) of 0 and 1: whether rows of two 0/1 label matrices share a class."""
    return (first @ second.T > 0).to(first.dtype)


def reverse_gradient(rows: Tensor, strength: float) -> Tensor:
    """The rows as they are; on the way back, gradients are multiplied by ``-strength``.

    Source: Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, section 3.
    """
    return _reversal().apply(rows, strength)


@cache
def _reversal() -> Any:
    import torch

    class Reversal(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, rows: Tensor, strength: float) -> Tensor:
            context.strength = strength
            return rows.view_as(rows)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
            return -context.strength * gradient, None

    return Reversal


def check_positive(name: str, **values: float) -> None:
    """Raise InvalidParameter unless each value is more than 0; ``name`` is the method's class."""
    for parameter, value in values.items():
        if not value > 0:
            raise InvalidParameter(f"{name}.{parameter}: expected more than 0, got {value}")


def check_share(name: str, **values: float) -> None:
    """Raise InvalidParameter unless each value is at least 0 and below 1."""
    for parameter, value in values.items():
        if not 0 <= value < 1:
            raise InvalidParameter(f"{name}.{parameter}: expected at least 0 and less than 1, got {value}")


def check_not_negative(name: str, **values: float) -> None:
    """Raise InvalidParameter unless each value is at least 0."""
    for parameter, value in values.items():
        if not value >= 0:
            raise InvalidParameter(f"{name}.{parameter}: expected at least 0, got {value}")
