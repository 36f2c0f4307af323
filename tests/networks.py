"""What several tests of trained methods do with small networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import xmbench
from xmbench import FitContext, Method, Pairs
from xmbench.errors import DeadlineExceeded
from xmbench.nn import Dense


def in_float64(*networks: Dense) -> None:
    """Exchange the networks' parameters for equal ones in float64."""
    for network in networks:
        network.layers = [
            tuple(tensor.detach().double().requires_grad_() for tensor in layer) for layer in network.layers
        ]


def copied(layers: list) -> list:
    """Layers in float64 that do not change with the tensors they come from."""
    return [
        {
            **layer,
            "weights": layer["weights"].astype(np.float64),
            "bias": layer["bias"].astype(np.float64),
        }
        for layer in layers
    ]


def by_hand(layers: list, rows) -> np.ndarray:
    """What layers make of rows, one row and one unit at a time, in float64."""
    found = []
    for row in np.asarray(rows, dtype=np.float64):
        for layer in layers:
            W, b = layer["weights"].astype(np.float64), layer["bias"].astype(np.float64)
            units = [sum(row[i] * W[i, j] for i in range(len(row))) + b[j] for j in range(W.shape[1])]
            row = np.array([UNITS[layer["activation"]](unit) for unit in units])
        found.append(row)
    return np.array(found)


UNITS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def scored(validation: Pairs) -> FitContext:
    """A context whose validation score is the retrieval score, as that of a run."""

    def score(method: Method) -> float:
        return xmbench.evaluate(*method.encode_pairs(validation), validation.labels).main

    return FitContext(validation_score=score)


def over_after(stage: str) -> FitContext:
    """A context whose time is over as soon as the first epoch of a stage has been told of."""
    reached: list[str] = []

    class Ending(FitContext):
        def check_deadline(self) -> None:
            if reached:
                raise DeadlineExceeded("the run's time is over (--timeout)")

    def progress(news: str, fraction: float | None = None) -> None:
        if news.startswith(f"{stage}, epoch 1 "):
            reached.append(news)

    return Ending(progress=progress)


def slope(function, tensor, step: float = 1e-6) -> np.ndarray:
    """Central finite differences of a function of one float64 tensor."""
    found = np.zeros(tuple(tensor.shape))
    for place in np.ndindex(*tensor.shape):
        values = []
        for sign in (1, -1):
            moved = tensor.detach().clone()
            moved[place] += sign * step
            values.append(float(function(moved)))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found
