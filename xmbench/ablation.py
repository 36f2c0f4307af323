"""Ablations in tables: a full model, and what it loses with each of its pieces. Read from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xmbench.differences import COLUMNS as CLAIM
from xmbench.differences import SCORE, Claim, by_split, examine, same_test
from xmbench.record import Record

COLUMNS = ("image→text", "text→image", "average", "runs")
"""What a table says of each of its rows."""

_DIFFERENCE = ("full − ablation", *CLAIM[2:5], "full above ablation")


@dataclass(frozen=True)
class Row:
    """What a table says of a model.

    Args:
        cells: of ``COLUMNS``.
        marks: words beside its name.
        departures: from its paper.
    """

    cells: tuple[str, ...]
    marks: tuple[str, ...]
    departures: tuple[str, ...]


@dataclass(frozen=True)
class Ablations:
    """A full model and its ablations, as plain cells.

    Args:
        title: of the method, with the label of the full model where that has brackets.
        columns: titles.
        rows: cells, unescaped: the full model, if it is there, and its ablations.
        footer: sentences below.
        compared: whether there is a difference among the cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...]
    compared: bool


def ablations(records: Sequence[Record], rows: Mapping[str, Row]) -> tuple[Ablations, ...]:
    """The ablations among the records of one table, each full model with its own.

    Args:
        records: of one table.
        rows: label -> its row, in the order in which they stand.
    """
    order = {label: place for place, label in enumerate(rows)}
    fulls = {record.method.full for record in records if record.method.ablation is not None}
    return tuple(
        _section([record for record in records if record.method.full == full], full, rows)
        for full in sorted(fulls, key=lambda full: (order.get(full, len(order)), full))
    )


def _section(records: Sequence[Record], full: str, rows: Mapping[str, Row]) -> Ablations:
    of: dict[str, list[Record]] = {}
    for record in records:
        of.setdefault(record.method.label, []).append(record)
    labels = [label for label in rows if label in of and label != full]
    claims, untold = _differences(records, full, labels)
    lines = []
    if full in of:
        name = f"{full} ({', '.join(['full model', *rows[full].marks])})"
        lines.append((name, "", *rows[full].cells, *[""] * len(_DIFFERENCE)))
    for label in labels:
        marks = f" ({', '.join(rows[label].marks)})" if rows[label].marks else ""
        sets = _sets(of[label], of[full]) if full in of else "–"
        gap = claims[label].cells()[1:] if label in claims else ["–"] * len(_DIFFERENCE)
        lines.append((label + marks, sets, *rows[label].cells, *gap))
    method = records[0].method
    return Ablations(
        title=method.title if full == method.name else f"{method.title}, {full}",
        columns=("model", "sets", *COLUMNS, *_DIFFERENCE),
        rows=tuple(lines),
        footer=(
            *_reading(records, full in of, len(claims)),
            *untold,
            *_departures(full, {label: rows[label] for label in rows if label in of}),
            *(
                f"{record.method.label}, seed {record.seed}: {record.status}: {record.reason}"
                for record in records
                if record.method.label != full and record.status != "ok"
            ),
        ),
        compared=bool(claims),
    )


def _differences(
    records: Sequence[Record], full: str, labels: Sequence[str]
) -> tuple[dict[str, Claim], list[str]]:
    """Ablation -> the claim that the full model is above it, and why others have none."""
    states = {record.status for record in records if record.method.label == full}
    if "ok" not in states:
        return {}, [
            f"The full model {full} has no finished run here: what its ablations lose cannot be told."
            if states
            else f"The full model {full} is missing here: neither what its ablations set nor what they lose can be "
            "told. xmbench ablate runs it with them."
        ]
    if same_test(records):
        return {}, [
            "No differences: these splits have the same test rows, and differences over them say nothing of other "
            "test rows."
        ]
    scores = by_split(records)
    common = {label: len(scores.get(full, {}).keys() & scores.get(label, {}).keys()) for label in labels}
    able = [label for label in labels if common[label] > 1]
    claims = examine(records, [(full, label) for label in able])
    short = [label for label in labels if common[label] < 2]
    untold = (
        f"No difference to {', '.join(short)}: it needs at least 2 splits that both models were run on (5 or more "
        "tell something): --seeds 0-4."
    )
    return dict(zip(able, claims, strict=True)), [untold] * bool(short)


def _sets(ablation: Iterable[Record], full: Iterable[Record]) -> str:
    """The parameters of an ablation that are not those of its full model, before any tuning."""
    mine, others = _parameters(ablation), _parameters(full)
    words = [
        f"{name}={' / '.join(values)}" for name, values in sorted(mine.items()) if values != others.get(name)
    ]
    return ", ".join(words) or "nothing"


def _parameters(records: Iterable[Record]) -> dict[str, list[str]]:
    """Parameter -> its values over runs; the seed's is no parameter of a model."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.method.params.items():
            if name != "random_state":
                found.setdefault(name, set()).add(str(value))
    return {name: sorted(values) for name, values in found.items()}


def _reading(records: Sequence[Record], known: bool, n_claims: int) -> list[str]:
    """What the columns say, of a full model that is ``known``."""
    lines = ['"Sets" names the parameters of an ablation that differ from those of its full model.'] * known
    if tuning := records[0].tuning:
        lines.append(
            f"Each row was tuned by itself with the same budget ({tuning.mode}, {tuning.budget} trials, or fewer "
            "where the grid has no more), and what an ablation sets was held."
        )
    if n_claims:
        lines.append(
            f"Full − ablation is the difference of the {SCORE}, paired by split, with its corrected resampled t "
            f"interval: above 0 the full model is better. P values are adjusted for their number, {n_claims}; the "
            "verdict is of the claim that the full model is above the ablation."
        )
    return lines


def _departures(full: str, rows: Mapping[str, Row]) -> list[str]:
    """Departures from the paper that the full model does not have."""
    shared = rows[full].departures if full in rows else ()
    found: dict[str, list[str]] = {}
    for label, row in rows.items():
        for words in row.departures:
            if words not in shared:
                found.setdefault(words, []).append(label)
    return [f"Departs from the paper: {', '.join(labels)}: {words}." for words, labels in found.items()]
