"""Input scaling: a short list of named steps, fitted on training rows and recorded with every number.

Scaling moves results more than most methods do (term weights want ``l2_center_scale``; topic
proportions and visual-word histograms want ``zscore``), so it is a step of its own with a name, and no
method scales in secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xmbench.errors import InvalidInput, NotFittedError, UnknownName

SCALINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "center": ("center",),
    "zscore": ("center", "column_scale"),
    "l2": ("l2",),
    "l2_center": ("l2", "center"),
    "l2_center_scale": ("l2", "center", "global_scale"),
}
"""Name -> steps. ``center`` subtracts the training mean of each column; ``column_scale`` divides each
column by its training standard deviation (ddof 0; 1 for a constant column); ``global_scale`` divides the
whole matrix by one number, the root mean square of the training matrix at that point; ``l2`` divides each
row by its Euclidean norm (a zero row stays zero)."""

BLOCK = 2**22
"""Numbers in one block of rows (32 MB in float64)."""


@dataclass(frozen=True)
class _Rows:
    """Some rows of a matrix, read a block at a time; ``chosen`` None stands for all."""

    matrix: NDArray[Any]
    chosen: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.matrix) if self.chosen is None else len(self.chosen), self.matrix.shape[1]

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """A fresh float64 copy of rows ``start`` to ``stop``."""
        rows = self.matrix[start:stop] if self.chosen is None else self.matrix[self.chosen[start:stop]]
        return np.array(rows, dtype=np.float64, order="C")

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """All rows; at least one block, which may be empty."""
        n, d = self.shape
        size = max(1, BLOCK // max(d, 1))
        for start in range(0, max(n, 1), size):
            yield self.read(start, min(n, start + size))


@dataclass
class Scaling:
    """One named scaling of one modality.

    Statistics and results are computed in float64 in blocks of rows, to the same bits as all at once.

    Args:
        name: a key of :data:`SCALINGS`.

    Raises:
        UnknownName: no scaling has that name.
    """

    name: str
    _values: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.name not in SCALINGS:
            raise UnknownName("scaling", self.name, SCALINGS)

    def fit(self, matrix: NDArray[Any], rows: NDArray[np.int64] | None = None) -> Self:
        """Learn the statistics of the training rows: those numbered ``rows`` of ``matrix`` (n, d), or all."""
        self._values.clear()
        source, done = _Rows(np.asarray(matrix), rows), list[str]()
        for step in SCALINGS[self.name]:
            if step != "l2":
                self._values[step] = _statistic(step, source, lambda block: self._run(block, done))
            done.append(step)
        return self

    def blocks(
        self, matrix: NDArray[Any], rows: NDArray[np.int64] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Scale the rows numbered ``rows`` of ``matrix`` (m, d), or all, with the training statistics.

        Yields:
            Blocks of scaled rows, in order; row i depends on row i alone.
        """
        source = _Rows(np.asarray(matrix), rows)
        for step in SCALINGS[self.name]:
            if step == "l2":
                continue
            if step not in self._values:
                raise NotFittedError(
                    f"scaling {self.name!r} has seen no training rows; call fit_transform first"
                )
            width = self._values[step].shape
            if width and width[0] != source.shape[1]:
                raise InvalidInput(
                    f"scaling {self.name!r}: expected {width[0]} columns as in training, got {source.shape[1]}"
                )
        for block in source.blocks():
            yield self._run(block, SCALINGS[self.name]).astype(np.float32)

    def fit_transform(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Learn the statistics of the training rows ``matrix`` (n, d) and return them scaled."""
        return self.fit(matrix).transform(matrix)

    def transform(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Scale rows (m, d) with the training statistics; row i of the result depends on row i alone."""
        return gather(np.shape(matrix), self.blocks(matrix))

    def _run(self, block: NDArray[np.float64], steps: Iterable[str]) -> NDArray[np.float64]:
        """Take ``steps`` with a block, in place."""
        for step in steps:
            if step == "l2":
                norms = np.linalg.norm(block, axis=1, keepdims=True)
                block /= np.where(norms > 0, norms, 1.0)
            elif step == "center":
                block -= self._values[step]
            else:
                block /= self._values[step]
        return block


def gather(shape: tuple[int, ...], blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Blocks of rows below each other: one float32 matrix of ``shape``."""
    whole, start = np.empty(shape, np.float32), 0
    for block in blocks:
        whole[start : start + len(block)] = block
        start += len(block)
    return whole


Step = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _statistic(step: str, source: _Rows, before: Step) -> NDArray[np.float64]:
    """The statistic of ``step`` over the rows of ``source`` as the steps ``before`` leave them."""
    n, d = source.shape
    if step == "center":
        return _column_sums(before(block) for block in source.blocks()) / n
    if step == "column_scale":
        # Rounding leaves a constant column with a tiny deviation; measured against its column's size.
        size = np.zeros(d)

        def measured() -> Iterator[NDArray[np.float64]]:
            for block in map(before, source.blocks()):
                np.maximum(size, np.abs(block).max(axis=0, initial=0.0), out=size)
                yield block

        mean = _column_sums(measured()) / n
        squares = _column_sums(np.square(before(block) - mean) for block in source.blocks())
        deviation = np.sqrt(squares / n)
        return np.asarray(np.where(deviation > 1e-12 * np.maximum(size, 1.0), deviation, 1.0))

    def squares_of(start: int, stop: int) -> NDArray[np.float64]:
        first = start // d
        rows = before(source.read(first, -(-stop // d)))
        return np.square(rows.reshape(-1)[start - first * d : stop - first * d])

    root = float(np.sqrt(_sum(squares_of, 0, n * d) / (n * d)))
    return np.asarray(root if root > 0 else 1.0)


def _column_sums(blocks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sums of the columns, one row added after the other, as numpy adds the rows of one matrix."""
    total: NDArray[np.float64] | None = None
    for block in blocks:
        total = np.add.reduce(block if total is None else np.concatenate([total[None], block]))
    assert total is not None
    return total


def _sum(numbers: Callable[[int, int], NDArray[np.float64]], start: int, stop: int) -> float:
    """The sum of ``numbers(start, stop)``, in the halves in which numpy adds one long array."""
    n = stop - start
    if n <= BLOCK:
        return float(np.add.reduce(numbers(start, stop)))
    middle = start + n // 2 - n // 2 % 8
    return _sum(numbers, start, middle) + _sum(numbers, middle, stop)
