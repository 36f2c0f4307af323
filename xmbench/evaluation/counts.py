"""Rank statistics of one tile of scores: the only step that differs between the engines.

An engine answers, for a block of queries, with *tie groups*: for each distinct score that at least one
relevant item has, four integers. Every metric is a closed form of these (``metrics.py``), so engines can
differ in speed and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidParameter, MissingDependency


@dataclass(frozen=True)
class Groups:
    """Tie groups of a block of queries, one entry a group, ordered by query and then by rank.

    Args:
        query: index of the query within the block.
        above: items with a higher score.
        tied: items with this score, >= 1.
        relevant_above: relevant items with a higher score.
        relevant_tied: relevant items with this score, >= 1.
    """

    query: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    relevant_above: NDArray[np.int64]
    relevant_tied: NDArray[np.int64]


class Engine(Protocol):
    """Scores a block of queries against a gallery and counts."""

    name: str

    def load(self, gallery: NDArray[np.float64], labels: NDArray[Any]) -> None:
        """Take the gallery, (g, d) float64, and its labels."""

    def count(
        self,
        queries: NDArray[np.float64],
        labels: NDArray[Any],
        similarity: str,
        excluded: NDArray[np.int64] | None,
    ) -> Groups:
        """Tie groups of ``queries`` (q, d); ``excluded`` names a gallery row to leave out for each query."""


def _guard(scale: Any) -> Any:
    """What to add to float64 scores and take off again to round them to multiples of ``scale`` / 2^36.

    Scores that are equal in exact arithmetic differ by the order of summation, about scale / 2^52; rounded
    they are tied, also near 0, where float32 would keep the difference. The scale is that of a query's
    scores: 1, or for l2 its squared length (a distance much longer than that has lost no digits).
    """
    return 1.5 * 2.0**16 * scale


class NumpyEngine:
    """The engine for the CPU."""

    name = "numpy"

    def load(self, gallery: NDArray[np.float64], labels: NDArray[Any]) -> None:
        """See :class:`Engine`."""
        self.gallery = gallery
        self.squares = np.einsum("ij,ij->i", gallery, gallery)
        self.labels = labels if labels.ndim == 1 else labels.astype(np.float32)

    def count(
        self,
        queries: NDArray[np.float64],
        labels: NDArray[Any],
        similarity: str,
        excluded: NDArray[np.int64] | None,
    ) -> Groups:
        """See :class:`Engine`."""
        scores = queries @ self.gallery.T
        if similarity == "l2":
            scores *= 2
            scores -= np.einsum("ij,ij->i", queries, queries)[:, None]
            scores -= self.squares
        guard = _guard(np.einsum("ij,ij->i", queries, queries)[:, None] if similarity == "l2" else 1.0)
        scores += guard
        scores -= guard
        return count_groups(scores, self._relevant(labels), excluded)

    def _relevant(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        if labels.ndim == 1:
            return np.asarray(labels[:, None] == self.labels)
        return np.asarray(labels.astype(np.float32) @ self.labels.T > 0)


def count_groups(
    scores: NDArray[Any], relevant: NDArray[np.bool_], excluded: NDArray[np.int64] | None = None
) -> Groups:
    """Tie groups of a matrix of scores.

    Args:
        scores: (q, g) float64, higher is nearer; overwritten.
        relevant: (q, g); overwritten where an item is left out.
        excluded: (q,) one gallery item to leave out for each query.
    """
    keys = np.negative(scores, out=scores)
    keys += 0.0  # -0.0 becomes 0.0
    if excluded is not None:
        rows = np.arange(len(keys))
        keys[rows, excluded] = np.inf
        relevant[rows, excluded] = False
    wanted = np.split(keys[relevant], relevant.sum(axis=1).cumsum()[:-1])
    keys.sort(axis=1)
    found = [_groups_of_row(row, np.sort(mine)) for row, mine in zip(keys, wanted, strict=True)]
    query = np.repeat(np.arange(len(keys)), [len(above) for above, *_ in found])
    return Groups(query, *(np.concatenate(column) for column in zip(*found, strict=True)))


def _groups_of_row(keys: NDArray[np.float64], mine: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """Above, tied, relevant above and relevant tied, from the sorted keys of all and of the relevant items."""
    first = np.ones(len(mine), dtype=bool)
    np.not_equal(mine[1:], mine[:-1], out=first[1:])
    relevant_above = np.flatnonzero(first)
    levels = mine[relevant_above]
    above = keys.searchsorted(levels)
    tied = keys.searchsorted(levels, side="right") - above
    return above, tied, relevant_above, np.diff(relevant_above, append=len(mine))


class TorchEngine:
    """The engine for a device that torch knows; runs on the CPU too.

    Scores are computed in float64 and rounded as in the numpy engine:
    TF32 and autocast do not touch float64 products.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InvalidParameter: torch does not know the device, or it is not there, or lacks float64.
    """

    name = "torch"

    def __init__(self, device: str) -> None:
        import torch

        try:
            self.device = torch.device(device)
            torch.zeros(1, dtype=torch.float64, device=self.device).cpu()
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InvalidParameter(f"device {device!r} cannot be used: {reason}; try --device cpu") from error

    def load(self, gallery: NDArray[np.float64], labels: NDArray[Any]) -> None:
        """See :class:`Engine`."""
        self.gallery = self._put(gallery)
        self.squares = (self.gallery**2).sum(dim=1)
        self.labels = self._put(labels if labels.ndim == 1 else labels.astype(np.float32))

    def _put(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.as_tensor(array, device=self.device)

    def count(
        self,
        queries: NDArray[np.float64],
        labels: NDArray[Any],
        similarity: str,
        excluded: NDArray[np.int64] | None,
    ) -> Groups:
        """See :class:`Engine`."""
        import torch

        block = self._put(queries)
        scores = block @ self.gallery.T
        if similarity == "l2":
            scores = 2 * scores - (block**2).sum(dim=1, keepdim=True) - self.squares
        guard = _guard((block**2).sum(dim=1, keepdim=True) if similarity == "l2" else 1.0)
        keys = guard - (scores + guard)
        if labels.ndim == 1:
            relevant = self._put(labels)[:, None] == self.labels
        else:
            relevant = self._put(labels.astype(np.float32)) @ self.labels.T > 0
        if excluded is not None:
            rows, columns = torch.arange(len(keys), device=self.device), self._put(excluded)
            keys[rows, columns] = torch.inf
            relevant[rows, columns] = False
        keys += 0.0
        keys, order = torch.sort(keys, dim=1)
        hits = relevant.gather(1, order)
        starts = torch.ones_like(hits)
        torch.ne(keys[:, 1:], keys[:, :-1], out=starts[:, 1:])
        seen = hits.cumsum(dim=1).ravel()
        start = starts.ravel().nonzero().ravel()
        end = torch.cat([start[1:], start.new_tensor([keys.numel()])])
        query, above = start // keys.shape[1], start % keys.shape[1]
        before = torch.where(above > 0, seen[(start - 1).clamp(min=0)], 0)
        relevant_tied = seen[end - 1] - before
        kept = relevant_tied > 0
        columns = (query, above, end - start, before, relevant_tied)
        return Groups(*(column[kept].cpu().numpy() for column in columns))


def choose_engine(engine: str, device: str) -> Engine:
    """The engine to use.

    Args:
        engine: ``auto``, ``numpy`` or ``torch``. ``auto`` takes numpy for the CPU and torch for any other
            device.
        device: where the torch engine computes.

    Raises:
        InvalidParameter: no such engine, or the device cannot be used.
        MissingDependency: torch is wanted and not installed.
    """
    if engine == "auto":
        engine = "numpy" if device == "cpu" else "torch"
    if engine == "numpy":
        if device != "cpu":
            raise InvalidParameter(f"the numpy engine computes on the cpu, not on {device!r}")
        return NumpyEngine()
    if engine == "torch":
        try:
            return TorchEngine(device)
        except ImportError as error:
            raise MissingDependency("the torch engine needs torch; pip install torch") from error
    raise InvalidParameter(f"unknown engine {engine!r}; known: auto, numpy, torch")
