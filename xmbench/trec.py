"""Ranked lists as files of trec_eval, so that a table can be checked with a program that is not ours.

trec_eval ignores the rank column: it sorts by score, which it holds in float32, and puts items of equal score
in descending order of their names. So the scores written are small whole numbers, the names sort as the gallery
does, and a list is cut where trec_eval would cut it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench._io import atomic_open
from xmbench.errors import InvalidInput, InvalidParameter, UsageError
from xmbench.evaluation import rank
from xmbench.protocol import Protocol

LARGEST = 2**24
"""Whole numbers up to this one are exact in float32."""


def depth(text: str) -> int | None:
    """Length of the lists: a number of at least 1, or None for ``all``; raises UsageError."""
    if text == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--top: expected all or a number of at least 1, got {text!r}")
    return int(text)


def item_names(prefix: str, n: int) -> list[str]:
    """``i000000``, ``i000001``, ...: names of ``n`` items whose alphabetical order is that of their rows."""
    width = max(6, len(str(n - 1)))
    return [f"{prefix}{row:0{width}d}" for row in range(n)]


def check_gallery(size: int) -> None:
    """Raise InvalidInput where whole numbers up to ``size`` are too many for float32."""
    if size > LARGEST:
        raise InvalidInput(
            f"a gallery of {size:,} items cannot be written for trec_eval: its scores are of single precision, "
            f"which tells no more than {LARGEST:,} ranks apart"
        )


def export(
    images: NDArray[Any],
    texts: NDArray[Any],
    labels: NDArray[Any],
    protocol: Protocol,
    folder: Path,
    *,
    tasks: Sequence[str],
    label: str,
    top: int | None = 1000,
) -> list[Path]:
    """Write ``TASK.run`` and ``TASK.qrels`` of each task, such as ``image-text.run``.

    A run has the first ``top`` items of every query, with gallery size minus the number of items above as their
    score; the qrels have every relevant item. Queries and items are called ``i000012`` (image of row 12) and
    ``t000012`` (its text). Of the protocol, similarity, treatment of embeddings and exclusion of the query
    count; cut-off and tie rule are trec_eval's.

    Args:
        images: (n, k) embeddings.
        texts: (n, k) embeddings.
        labels: (n,) int or (n, c) multi-hot.
        protocol: how items are compared.
        folder: made if it is not there; files of the same name are replaced.
        tasks: some of ``TASKS``.
        label: what the run is called in its last column; other than letters, digits and ``._=,[]+-`` become
            ``-``.
        top: length of the lists; None for the whole gallery.

    Returns:
        The files written, each of them whole.

    Raises:
        InvalidInput: the gallery is too large for trec_eval's scores.
        InvalidParameter: ``top`` is below 1.
        UsageError: the files cannot be written.
    """
    if top is not None and top < 1:
        raise InvalidParameter(f"top must be at least 1, got {top}")
    names = {"image": item_names("i", len(labels)), "text": item_names("t", len(labels))}
    tag = re.sub(r"[^A-Za-z0-9._=,\[\]+-]+", "-", label)
    written = []
    for task in tasks:
        source, target = task.split("->")
        gallery = names["image"] + names["text"] if target == "all" else names[target]
        check_gallery(len(gallery))
        paths = [folder / f"{task.replace('->', '-')}.{ending}" for ending in ("run", "qrels")]
        try:
            with atomic_open(paths[0]) as run, atomic_open(paths[1]) as qrels:
                for block in rank(images, texts, labels, task, protocol, precision="float64"):
                    # one number that sorts by score, and equal scores by descending row
                    order = np.argsort(block.above * len(gallery) - block.items, axis=1)
                    for row, query in enumerate(block.query):
                        name = names[source][query]
                        first = order[row, :top]
                        found = [gallery[item] for item in block.items[row, first]]
                        scores = (block.items.shape[1] - block.above[row, first]).tolist()
                        lines = [
                            f"{name} Q0 {item} {place} {score} {tag}\n"
                            for place, (item, score) in enumerate(zip(found, scores, strict=True), 1)
                        ]
                        run.write("".join(lines).encode())
                        relevant = np.sort(block.items[row, block.relevant[row]])
                        qrels.write("".join(f"{name} 0 {gallery[item]} 1\n" for item in relevant).encode())
        except OSError as error:
            raise UsageError(
                f"{paths[0].name} and {paths[1].name} cannot be written to {folder}: {error.strerror or error}; "
                "name another folder with --output"
            ) from error
        written += paths
    return written
