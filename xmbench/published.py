"""What papers print of the methods and datasets that are here, to stand beside our tables.

The figures are in ``published.json``: a list of tables, each with its source, how it was read, and in which ways it
is not comparable; and, for each method of the papers, the labels of ours that stand for it. Nothing here is ranked
with our scores.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

TASKS = ("image→text", "text→image", "average", "image→all", "text→all", "average (all)")
"""What the figures of a method are, in this order; the first three or all six."""

READING = (
    "A cell is ours / published, and ours the mean of the table above. Published figures are context: where the list "
    "marks a difference they are of other features, splits or protocols. They are not ranked with ours."
)

CLAIMS = (
    "Each pair of methods of the published table that have rows here, ordered by the published average, as a claim "
    "that the published order holds for ours; of several rows of a method the first stands for it. A claim can hold, "
    "fail or stay unresolved."
)


@dataclass(frozen=True)
class Published:
    """One table of a paper.

    Args:
        paper: its short name.
        source: authors and place.
        table: number of the table, and which part of it.
        dataset: our name of the dataset.
        features: the paper's, in words.
        same_features: our names of the same features, ``IMAGE+TEXT``; none where we cannot have them.
        splits: our splits that the table may stand beside.
        sizes: of the paper's split.
        provenance: how the figures were read.
        protocols: our protocols that the table may stand beside -> how they differ from the paper's.
        remarks: what was found about a gap between the paper's figures and ours.
        figures: method, as the paper calls it -> mean average precision of ``TASKS``.
    """

    paper: str
    source: str
    table: str
    dataset: str
    features: str
    same_features: tuple[str, ...]
    splits: tuple[str, ...]
    sizes: str
    provenance: str
    protocols: Mapping[str, str]
    remarks: tuple[str, ...]
    figures: Mapping[str, tuple[float, ...]]

    @property
    def title(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The columns that the paper has."""
        return TASKS[: len(next(iter(self.figures.values())))]

    def differences(self, features: str, protocol: str, ours: str) -> tuple[str, ...]:
        """In which ways our table differs from this one: a mark, a colon, and the particulars.

        Args:
            features: ours, ``IMAGE+TEXT``.
            protocol: name of ours, one of ``protocols``.
            ours: our split, in words.
        """
        found = (
            () if features in self.same_features else (f"features differ: {self.features}; ours {features}",)
        )
        return (
            *found,
            f"split differs: the paper gives sizes alone ({self.sizes}); ours: {ours}",
            self.protocols[protocol],
        )


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(files("xmbench").joinpath("published.json").read_text(encoding="utf-8"))
    return data


@cache
def published_tables() -> tuple[Published, ...]:
    """All tables that are known."""
    return tuple(
        Published(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
            | {"figures": {method: tuple(row) for method, row in table["figures"].items()}}
        )
        for table in _data()["tables"]
    )


def labels(method: str) -> tuple[str, ...]:
    """Labels of our rows that stand for a paper's method; the first that is there stands for it in claims."""
    return tuple(_data()["methods"][method])


def beside(dataset: str, split: str, features: str, protocol: str) -> list[Published]:
    """Published tables for a table of ours.

    Of several tables of one paper, those of our features if there are any, otherwise those of features that we
    do not have.
    """
    found = [
        table
        for table in published_tables()
        if table.dataset == dataset and split in table.splits and protocol in table.protocols
    ]
    same = {table.paper for table in found if features in table.same_features}
    return [
        table
        for table in found
        if features in table.same_features or not (table.paper in same or table.same_features)
    ]


def comparison(table: Published, ours: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Rows of a table: the paper's method, our label, and ours / published of each of its tasks.

    Args:
        table: of a paper; its order of rows is kept, by falling average.
        ours: label -> cells of ``TASKS``.
    """
    rows = []
    for method, figures in _ranked(table):
        for label in [label for label in labels(method) if label in ours] or [""]:
            mine = ours.get(label, ["–"] * len(TASKS))
            cells = [f"{cell} / {figure:.3f}" for cell, figure in zip(mine, figures, strict=False)]
            rows.append((method, label or "–", *cells))
    return rows


def ranking(table: Published, known: Collection[str]) -> dict[tuple[str, str], float]:
    """Claims (above, below), as labels of ours, that the published order makes -> published difference.

    Args:
        table: of a paper.
        known: labels of our rows.
    """
    found = []
    for method, figures in _ranked(table):
        mine = [label for label in labels(method) if label in known]
        if mine:
            found.append((mine[0], figures[2]))
    return {
        (above, below): round(high - low, 3)
        for (above, high), (below, low) in itertools.combinations(found, 2)
        if high > low
    }


def _ranked(table: Published) -> list[tuple[str, tuple[float, ...]]]:
    return sorted(table.figures.items(), key=lambda row: -row[1][2])
