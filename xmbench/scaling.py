"""Input scaling: a short list of named steps, fitted on training rows and recorded with every number.

Scaling moves results more than most methods do (term weights want ``l2_center_scale``; topic
proportions and visual-word histograms want ``zscore``), so it is a step of its own with a name, and no
method scales in secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Scaling:
    """One named scaling of one modality.

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

    def fit_transform(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Learn the statistics of the training rows ``matrix`` (n, d) and return them scaled."""
        self._values.clear()
        return self._run(matrix, fit=True)

    def transform(self, matrix: NDArray[Any]) -> NDArray[np.float32]:
        """Scale rows (m, d) with the training statistics; row i of the result depends on row i alone."""
        return self._run(matrix, fit=False)

    def _run(self, matrix: NDArray[Any], *, fit: bool) -> NDArray[np.float32]:
        rows = np.asarray(matrix, dtype=np.float64)
        for step in SCALINGS[self.name]:
            if step == "l2":
                norms = np.linalg.norm(rows, axis=1, keepdims=True)
                rows = rows / np.where(norms > 0, norms, 1.0)
                continue
            if fit:
                self._values[step] = _statistic(step, rows)
            elif step not in self._values:
                raise NotFittedError(
                    f"scaling {self.name!r} has seen no training rows; call fit_transform first"
                )
            elif self._values[step].ndim and len(self._values[step]) != rows.shape[1]:
                width = len(self._values[step])
                raise InvalidInput(
                    f"scaling {self.name!r}: expected {width} columns as in training, got {rows.shape[1]}"
                )
            rows = rows - self._values[step] if step == "center" else rows / self._values[step]
        return rows.astype(np.float32)


def _statistic(step: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if step == "center":
        return np.asarray(rows.mean(axis=0))
    if step == "column_scale":
        # Rounding leaves a constant column with a tiny deviation; measured against its column's size.
        deviation, size = rows.std(axis=0), np.abs(rows).max(axis=0, initial=0.0)
        return np.asarray(np.where(deviation > 1e-12 * np.maximum(size, 1.0), deviation, 1.0))
    size = float(np.sqrt(np.mean(rows**2)))
    return np.asarray(size if size > 0 else 1.0)
