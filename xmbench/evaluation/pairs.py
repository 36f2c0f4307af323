"""Paired embeddings under a protocol: who asks, who is found, and who is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import check_labels
from xmbench.errors import InvalidInput, InvalidParameter, UnknownName
from xmbench.evaluation.similarity import CACHE_BYTES, Comparison, Rows, check_rows, zscored
from xmbench.protocol import Protocol

TASKS = ("image->text", "text->image", "image->all", "text->all")
PRECISIONS = ("auto", "float32", "float64")


class Paired:
    """Images, texts and labels, of which row i is one item.

    Args:
        images: (n, d) embeddings.
        texts: (n, d) embeddings.
        labels: (n,) int or (n, c) multi-hot.
        protocol: what is done to embeddings before they are compared, and whether the query is left out.

    Raises:
        InvalidInput: shapes differ, or a value is not finite; the message names the row.
    """

    def __init__(
        self, images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any], protocol: Protocol
    ) -> None:
        self.labels = check_labels(labels, None, unlabelled=True)
        rows = {
            "image": check_rows(images, "image embeddings"),
            "text": check_rows(texts, "text embeddings"),
        }
        lengths = {
            "image embeddings": len(rows["image"]),
            "text embeddings": len(rows["text"]),
            "labels": len(self.labels),
        }
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"evaluate: expected equal numbers of rows, got {lengths}")
        widths = rows["image"].width, rows["text"].width
        if widths[0] != widths[1]:
            raise InvalidInput(
                f"evaluate: expected embeddings of equal width, got {widths[0]} and {widths[1]}"
            )
        self._asking = rows if protocol.post == "none" else {name: zscored(rows[name]) for name in rows}
        self._found = self._asking if protocol.post == "test_zscore" else rows
        self._exclude_query = protocol.exclude_query

    def task(
        self, task: str
    ) -> tuple[Rows, list[Rows], NDArray[Any], list[NDArray[Any]], NDArray[np.int64] | None]:
        """Queries, parts of the gallery, labels of both, and the gallery row to leave out for each query."""
        if task not in TASKS:
            raise UnknownName("task", task, TASKS)
        source, target = task.split("->")
        queries = self._asking[source]
        if target != "all":
            return queries, [self._found[target]], self.labels, [self.labels], None
        own = None
        if self._exclude_query:
            own = np.arange(len(queries)) + (len(queries) if source == "text" else 0)
        return queries, list(self._found.values()), self.labels, [self.labels] * 2, own


def compare(
    queries: Rows,
    gallery: Sequence[Rows],
    similarity: str,
    precision: str = "auto",
    cache_bytes: int = CACHE_BYTES,
) -> Comparison:
    """Distances in the precision asked for; ``auto`` is float32 if no embedding is of a larger type."""
    if precision not in PRECISIONS:
        raise InvalidParameter(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "auto":
        single = np.result_type(*(rows.array for rows in (queries, *gallery))) in (np.float16, np.float32)
        precision = "float32" if single else "float64"
    return Comparison(
        queries, gallery, similarity, np.float32 if precision == "float32" else np.float64, cache_bytes
    )
