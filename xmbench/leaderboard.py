"""Tables from records: nothing is fitted here, and nothing but records is read."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from xmbench._io import atomic_write, npz_bytes, read_npz
from xmbench._io import clean as clean  # where others look for it
from xmbench.ablation import COLUMNS as ABLATED
from xmbench.ablation import Ablations, Row, ablations
from xmbench.data import PARTS
from xmbench.differences import (
    COLUMNS,
    EXPLANATION,
    Claim,
    comparable,
    examine,
    neighbours,
    same_test,
    summary,
)
from xmbench.errors import (
    InvalidRecord,
    LeaderboardDrift,
    MissingData,
    UnknownName,
    Unsupported,
    XmbenchError,
)
from xmbench.evaluation import TASKS, evaluator_digest
from xmbench.packing import pack, unpack
from xmbench.protocol import Protocol
from xmbench.published import CLAIMS, READING, Published, beside, comparison, ranking
from xmbench.record import REPORTED_SCOPES, Record, Results, check_ids, decode, encode, numerics_digest
from xmbench.registry import NAME, Registry, label_of
from xmbench.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd

BIMODAL, ALLMODAL = TASKS[:2], TASKS[2:]
SCORES = {
    "image→text": "image->text",
    "text→image": "text->image",
    "average": "bimodal",
    "image→all": "image->all",
    "text→all": "text->all",
    "average (all)": "allmodal",
    **{f"P@{k}": f"p{k}" for k in REPORTED_SCOPES},
}
"""Column title -> column of :func:`frame`."""

AT_CHANCE = 0.01
"""A row whose average is less than this above the chance level is at it."""

BOLD = (
    "Bold is the highest value of a column, which need not differ from the next; rows marked transductive, which "
    "learned from features of the test rows, are left out of that."
)

_PARAMETERS = "Parameters"

HEADING = "# Leaderboard: "
"""How a page of ours begins."""


@dataclass(frozen=True)
class Beside:
    """A published table beside one of ours, as plain cells.

    Args:
        title: paper and table.
        columns: titles.
        rows: cells, unescaped: the paper's method, our row, ours / published.
        footer: where the figures are from, and in which ways they are not comparable.
        marks: in which ways they are not, in few words.
        claims: cells of the claims that the published order makes, held against our scores.
        verdicts: how many of them hold.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...]
    marks: tuple[str, ...] = ()
    claims: tuple[tuple[str, ...], ...] = ()
    verdicts: str = ""


@dataclass(frozen=True)
class Table:
    """One leaderboard table, as plain cells.

    Args:
        heading: what the table is about.
        columns: titles.
        rows: cells, unescaped; ``bold`` marks the best of a column.
        bold: (row, column) of the cells to stress.
        footer: sentences below the table.
        differences: cells of the claims that each row is above the next one, where there are several splits.
        published: tables of papers on the same dataset and split.
        ablations: models without one of their pieces, which have no row above.
    """

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]]
    footer: tuple[str, ...]
    differences: tuple[tuple[str, ...], ...] = ()
    published: tuple[Beside, ...] = ()
    ablations: tuple[Ablations, ...] = ()


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One line per finished run: label, seeds, fit seconds, and one column per score (NaN where undefined)."""
    import pandas as pd

    lines = []
    for record in records:
        if record.status != "ok":
            continue
        line: dict[str, Any] = {
            "label": record.method.label,
            "seed": record.seed,
            "split_seed": record.dataset.split_seed,
            "fit": record.cost.fit_seconds if record.cost else np.nan,
        }
        for task in TASKS:
            row = record.metrics[task]
            line[task] = np.nan if row.mean_average_precision is None else row.mean_average_precision
            line[f"chance/{task}"] = np.nan if row.chance is None else row.chance
        line["bimodal"] = np.mean([line[task] for task in BIMODAL])
        line["allmodal"] = np.mean([line[task] for task in ALLMODAL])
        for k in REPORTED_SCOPES:
            line[f"p{k}"] = np.mean([record.metrics[task].precision.get(str(k), np.nan) for task in BIMODAL])
        lines.append(line)
    return pd.DataFrame(lines)


def group_key(record: Record) -> tuple[str, ...]:
    """Records with equal keys may stand in one table."""
    data = record.dataset
    tuned = f"{record.tuning.mode} {record.tuning.budget}" if record.tuning else ""
    return (data.name, data.split, data.inputs, data.scaling, str(record.protocol["name"]), tuned)


def tables(records: Iterable[Record], stale: Callable[[Record], bool] = lambda record: False) -> list[Table]:
    """Tables of records, one for each of :func:`groups`."""
    return [_table(group, stale) for group in groups(records)]


def groups(records: Iterable[Record]) -> list[list[Record]]:
    """Records that may stand together: of one dataset, split, features, scaling, protocol and way of tuning."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        found.setdefault(group_key(record), []).append(record)
    return [found[key] for key in sorted(found, key=_group_order)]


def claims_of_tables(
    records: Iterable[Record], claims: Sequence[tuple[str, str]] = ()
) -> dict[str, list[Claim] | str]:
    """Heading of each table -> claims (above, below) held against it, or why its runs cannot tell.

    Args:
        records: finished runs.
        claims: without any, each row above the next.

    Raises:
        UnknownName: a method of the claims is in no table, or in none with the others.
        MissingData: no table has two splits that the methods share.
        InvalidRecord: two runs of one split were given different data.
    """
    found: dict[str, list[Claim] | str] = {}
    problems: list[XmbenchError] = []
    for group in groups(records):
        check_same_data(group)
        heading = _table(group, lambda record: False).heading
        try:
            found[heading] = examine(group, claims) if claims else neighbours(group)
        except UnknownName as error:  # its words name labels of records
            problems.append(UnknownName(error.kind, error.name, map(clean, error.known)))
            found[heading] = str(problems[-1])
        except (MissingData, Unsupported) as error:
            problems.append(error)
            found[heading] = str(error)
    if problems and len(problems) == len(found):
        raise problems[0]
    return found


def _order(record: Record) -> tuple[str, str]:
    return json.dumps(record.identity), record.score_id


def _group_order(key: tuple[str, ...]) -> tuple[object, ...]:
    return (key[0], key[4] != "default", not key[5], *key[1:])


def _table(records: list[Record], stale: Callable[[Record], bool]) -> Table:
    records = sorted(records, key=_order)
    models = [record for record in records if record.method.ablation is None]
    first = records[0]
    runs = frame(models or records)
    by_label: dict[str, list[Record]] = {}
    for record in records:
        by_label.setdefault(record.method.label, []).append(record)
    means, spreads = {}, {}
    if len(finished := frame(records)):
        grouped = finished.groupby("label")
        numbers = [column for column in finished.columns if column not in ("label", "seed", "split_seed")]
        means = grouped[numbers].mean().to_dict("index")
        spreads = grouped[numbers].std(ddof=1).to_dict("index")
    ordered = sorted(by_label, key=lambda label: (-_or_last(means.get(label, {}).get("bimodal")), label))
    shown = {
        label: _row(by_label[label], means.get(label, {}), spreads.get(label, {}), stale) for label in ordered
    }
    labels = [label for label in ordered if by_label[label][0].method.ablation is None]
    notes: dict[str, list[str]] = {}  # words -> the rows that they are of
    rows, competing = [], []
    for label in labels:
        marks = list(shown[label].marks)
        competing.append(not {"stale", "transductive"} & set(marks))
        for words in shown[label].departures:
            notes.setdefault(words, []).append(label)
        if departures := shown[label].departures:
            places = sorted(list(notes).index(words) + 1 for words in departures)
            marks.append(f"note{'s' * (len(places) > 1)} {_ranges(places)}")
        rows.append((label + (f" ({', '.join(marks)})" if marks else ""), *shown[label].cells))
    bold = set()
    for j, column in enumerate(SCORES.values(), start=1):
        values = {
            i: means[label][column] for i, label in enumerate(labels) if label in means and competing[i]
        }
        values = {i: round(value, 3) for i, value in values.items() if value == value}
        if len(set(values.values())) > 1 or len(values) == 1:
            bold |= {(i, j) for i, value in values.items() if value == max(values.values())}
    if len(runs):
        chance = [_score(float(runs[f"chance/{task}"].mean()), None) for task in TASKS]
        cells = ["chance level", *chance[:2], "", *chance[2:], ""]
        for i, pair in ((3, BIMODAL), (6, ALLMODAL)):
            cells[i] = _score(float(runs[[f"chance/{task}" for task in pair]].mean().mean()), None)
        rows.append((*cells, *[""] * (len(SCORES) + 3 - len(cells))))
    failures = [
        f"{record.method.label}, seed {record.seed}: {record.status}: {record.reason}"
        for record in models
        if record.status != "ok"
    ]
    data, protocol = first.dataset, Protocol(**first.protocol)
    return Table(
        heading=f"{data.title}, split {data.split}, features {data.inputs}, scaling {data.scaling}, "
        f"protocol {first.protocol['name']}"
        + (" (see the warning)" if protocol.flags else "")
        + (_tuned(first.tuning) if first.tuning else ""),
        columns=("method", *SCORES, "fit s", "runs"),
        rows=tuple(rows),
        bold=frozenset(bold),
        footer=(
            *_footer(records, finished, models or records),
            *(f"Note {i}: {', '.join(noted)}: {words}." for i, (words, noted) in enumerate(notes.items(), 1)),
            *failures,
        ),
        differences=tuple(claim.cells() for claim in neighbours(records)),
        published=_published(models, {label: means[label] for label in labels if label in means}),
        ablations=ablations(records, {label: _scores_of(row) for label, row in shown.items()}),
    )


def _row(
    records: Sequence[Record],
    mean: Mapping[Any, Any],
    spread: Mapping[Any, Any],
    stale: Callable[[Record], bool],
) -> Row:
    """All cells of a row but its name."""
    finished = [record for record in records if record.status == "ok"]
    marks = []
    if finished and any(stale(record) for record in finished):
        marks.append("stale")
    if any(record.method.transductive for record in records):
        marks.append("transductive")
    return Row(
        cells=(
            *(_score(mean.get(column), spread.get(column)) for column in SCORES.values()),
            _seconds(mean.get("fit")),
            str(len(finished)) if len(finished) == len(records) else f"{len(finished)} of {len(records)}",
        ),
        marks=tuple(marks),
        departures=tuple(_merged(words for record in records for words in record.method.departures)),
    )


def _scores_of(row: Row) -> Row:
    """The cells of a row that a table of ablations has."""
    named = dict(zip((*SCORES, "fit s", "runs"), row.cells, strict=True))
    return replace(row, cells=tuple(named[title] for title in ABLATED))


def _merged(departures: Iterable[str]) -> list[str]:
    """Each departure once; those that differ after their last colon, as between runs of a row, in one sentence."""
    found: dict[str, list[str]] = {}
    for words in dict.fromkeys(departures):
        head, colon, tail = words.rpartition(": ")
        found.setdefault(head + colon or words, []).append(tail if colon else "")
    return [head + " / ".join(tails) for head, tails in found.items()]


def _published(records: list[Record], means: dict[Any, dict[Any, Any]]) -> tuple[Beside, ...]:
    """Tables of papers for a table of ours, with the mean scores of its rows."""
    if not means:
        return ()
    data, protocol = records[0].dataset, str(records[0].protocol["name"])
    found = beside(data.name, data.split, data.features, protocol)
    if not found or not all(record.dataset.complete for record in records):
        return ()
    scores = list(SCORES.values())[:6]
    cells = {label: [_score(row[column], None) for column in scores] for label, row in means.items()}
    seeded = "seeded draws" if data.split_seed is not None else "one fixed list"
    ours = f"{seeded}, {_sizes(records)}"
    known, kept = comparable(records)
    levels = [
        record.metrics[task].chance or 0.0 for record in records for task in TASKS[:2] if record.metrics
    ]
    chance = sum(levels) / len(levels)
    lost = {label for label, row in means.items() if row[scores[2]] < chance + AT_CHANCE}
    return tuple(
        _beside(table, cells, table.differences(data.features, protocol, ours), known, kept, lost)
        for table in found
    )


def _beside(
    table: Published,
    cells: dict[str, list[str]],
    differences: Sequence[str],
    known: Sequence[str],
    kept: Sequence[Record],
    lost: Collection[str],
) -> Beside:
    claimed = ranking(table, known)
    claims = examine(kept, list(claimed))
    weak = sorted({label for pair in claimed for label in pair} & set(lost))
    warning = (
        f" At the chance level here: {', '.join(weak)}; a claim against it says little of the paper's order."
        if weak
        else ""
    )
    return Beside(
        title=table.title,
        columns=("method", "our row", *table.tasks),
        rows=tuple(comparison(table, cells)),
        footer=(
            f"Source: {table.source}, {table.table}; {table.provenance}.",
            *(f"{words[0].upper()}{words[1:]}." for words in (*differences, *table.remarks)),
        ),
        marks=tuple(
            mark for mark, _, _ in (words.partition(":") for words in differences) if "differ" in mark
        ),
        claims=tuple(
            (first, f"{gap:+.3f}", *rest)
            for (first, *rest), gap in zip((claim.cells() for claim in claims), claimed.values(), strict=True)
        ),
        verdicts=summary(claims) + warning if claims else "",
    )


def _sizes(records: list[Record]) -> str:
    return ", ".join(f"{_span([record.dataset.sizes[part] for record in records])} {part}" for part in PARTS)


def _footer(records: list[Record], runs: pd.DataFrame, models: list[Record]) -> list[str]:
    """What all records of a table share, and the parameters of its rows, the ``models``."""
    first = records[0]
    protocol = Protocol(**first.protocol)
    data = first.dataset
    made = {key: value for key, value in data.provenance.items() if key != "parts"}
    if isinstance(parts := data.provenance.get("parts"), dict):
        made |= {f"{key} parts": value for key, value in parts.items()}
    provenance = "; ".join(f"{key}: {_words(value)}" for key, value in sorted(made.items()))
    prints = dict.fromkeys(
        (record.dataset.split_seed, record.dataset.fingerprint) for record in sorted(records, key=_seed_order)
    )
    named = ", ".join(mark if seed is None else f"{mark} (split seed {seed})" for seed, mark in prints)
    repeated = len(runs) and runs.groupby("label").size().max() > 1
    lines = ["Synthetic data: for tests of scale and robustness, no benchmark."] if data.synthetic else []
    lines += [
        ("Means ± sample standard deviation" if repeated else "Values")
        + f" of mean average precision, of the precision among the first K (P@K, mean over image→text and text→image) "
        f"and of seconds. {_axis(runs, same_test(records))}",
        f"Protocol {protocol.describe()}.",
        f"Split {data.split}: {_sizes(records)}.",
        f"Features {data.features} ({provenance}); scaling {data.scaling}, fitted on training rows.",
        f"Data fingerprint: {named}.",
        _parameters(models),
    ]
    known = _findings([record.dataset.findings for record in records])
    if known:
        lines.append(f"Found in the data (more: xmbench data audit {data.name}): {'; '.join(known)}.")
    if protocol.flags:
        lines.append(f"Warning: this protocol has {', '.join(protocol.flags)}.")
    costs = [record.cost for record in records if record.cost]
    if costs:
        used = sorted({f"{name} {version}" for cost in costs for name, version in cost.versions.items()})
        where = sorted({f"{cost.device}, {cost.threads} thread{'s' * (cost.threads > 1)}" for cost in costs})
        lines.append(
            f"Computed with {', '.join(used)} on {' / '.join(where)}; fit seconds depend on the machine."
        )
    return lines


def _findings(lists: Iterable[Sequence[str]]) -> list[str]:
    """Findings of all splits; those that differ in their counts alone are one, with the span of each count."""
    alike: dict[str, list[list[int]]] = {}
    for text in dict.fromkeys(text for found in lists for text in found):
        counts = [int(digits.replace(",", "")) for digits in re.findall(r"\d[\d,]*", text)]
        alike.setdefault(re.sub(r"\d[\d,]*", "\0", text), []).append(counts)
    return [
        "".join(
            piece + span
            for piece, span in zip_longest(
                form.split("\0"), map(_span, zip(*counts, strict=True)), fillvalue=""
            )
        )
        for form, counts in alike.items()
    ]


def _tuned(tuning: Tuning) -> str:
    return f", tuned on validation rows ({tuning.mode}, {tuning.budget} trials)"


def _parameters(records: list[Record]) -> str:
    """Which parameters the rows have, and who chose them."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        mine = found.setdefault(record.method.label, {})
        for name, value in sorted(record.params.items()):
            if name != "random_state" and record.status == "ok":
                mine.setdefault(name, []).append(str(value))
    words = []
    for label, params in sorted(found.items()):
        cells = []
        for name, values in params.items():
            kinds = sorted(
                {value: values.count(value) for value in values}.items(), key=lambda kind: -kind[1]
            )
            few = kinds[0][0] if len(kinds) == 1 else " / ".join(f"{value} ({n})" for value, n in kinds)
            cells.append(f"{name} {few}")
        if cells:
            words.append(f"{label}: {', '.join(cells)}")
    listed = "; ".join(words) or "none"
    tuning = records[0].tuning
    if tuning is None:
        return (
            f"{_PARAMETERS}, by default or as set by hand: {listed}. The defaults of xmbench's own methods were "
            "chosen by validation scores over several seeded splits; a validation row of one such split can be a "
            "test row of another."
        )
    how = (
        "all of its grid"
        if tuning.mode == "grid"
        else "a seeded draw of its grid, or all of it where that is no more"
    )
    made: dict[str, int] = {}
    for record in records:
        if record.tuning:
            made[record.method.label] = max(made.get(record.method.label, 0), len(record.tuning.trials))
    fewer = ", ".join(f"{label} {n}" for label, n in sorted(made.items()) if n < tuning.budget)
    lost: dict[str, int] = {}
    for record in records:
        if record.tuning and record.tuning.chosen is not None:
            failed = sum(trial.score is None for trial in record.tuning.trials)
            lost[record.method.label] = max(lost.get(record.method.label, 0), failed)
    most = ", ".join(f"{label} {n}" for label, n in sorted(lost.items()) if n)
    unfit = f" Trials of a run that could not be fitted, at most: {most}." if most else ""
    return (
        f"{_PARAMETERS} that are not in brackets were chosen inside each seed's own split, by the validation rows' "
        f"mean of image→text and text→image MAP under the default protocol, the first of equal ones; each method had "
        f"{tuning.budget} trials{f' (fewer: {fewer})' if fewer else ''}, {how}.{unfit} Fit seconds are those of all "
        f"trials. Chosen (of how many runs): {listed}."
    )


def _span(values: Sequence[int]) -> str:
    """One number, or the least and the greatest."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _seed_order(record: Record) -> tuple[int, int]:
    return (-1 if record.dataset.split_seed is None else record.dataset.split_seed, record.seed)


def _words(provenance: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(provenance.items()))


def _axis(runs: pd.DataFrame, fixed_test: bool) -> str:
    """What differs between the runs of a row, in words."""
    if not len(runs):
        return "No run has finished."
    seeds, splits = sorted(set(runs["seed"])), sorted(set(runs["split_seed"].dropna()))
    overlap = (
        "They share all test rows: the deviation is that of the other rows and the seed, and tells nothing of other "
        "test rows."
        if fixed_test
        else "Such splits share rows, so the deviation is no standard error."
    )
    if len(seeds) > 1 and len(splits) > 1:
        together = len(set(zip(runs["seed"], runs["split_seed"], strict=True))) == len(seeds) == len(splits)
        how = "together" if together else "in a mixture of pairs"
        return f"Runs differ in split and method seed {how}: seeds {_ranges(seeds)}. {overlap}"
    if len(splits) > 1:
        ranges = f"split seeds {_ranges(splits)}, method seed {_ranges(seeds)}"
        return f"Runs differ in the split alone: {ranges}. {overlap}"
    fixed = f"split seed {_ranges(splits)}" if splits else "a fixed split"
    if len(seeds) > 1:
        return f"Runs differ in the method's seed alone: seeds {_ranges(seeds)}, {fixed}."
    return f"One run a row: seed {_ranges(seeds)}, {fixed}."


def _ranges(values: Sequence[Any]) -> str:
    """0, 1, 2, 5 -> "0-2, 5"."""
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _or_last(value: float | None) -> float:
    return -1.0 if value is None or value != value else value


def _score(mean: float | None, spread: float | None) -> str:
    if mean is None or mean != mean:
        return "–"
    return f"{mean:.3f}" if spread is None or spread != spread else f"{mean:.3f} ± {spread:.3f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2g}" if value < 10 else f"{value:.0f}"


# -- rendering --------------------------------------------------------------------------------------


_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def escape(text: str) -> str:
    """Text that Markdown shows as it is: one line, no markup, no HTML, no cell border."""
    text = re.sub(r"[\\`*_\[\]<>|#~&]", lambda found: _ENTITIES.get(found[0], "\\" + found[0]), clean(text))
    return re.sub(r"^(?:\d{1,9}(?=[.)](?: |$))|(?=[-+]))", r"\g<0>\\", text)  # no list item


def to_text(table: Table) -> str:
    """The table for a terminal, with its ablations, and the figures that papers have in its place."""
    lines = [clean(table.heading), "", _plain(table.columns, table.rows), "", *map(clean, table.footer)]
    for section in table.ablations:
        lines += ["", *_section(section)]
    for other in table.published:
        lines += [
            "",
            f"Published figures (ours / published): {other.title}",
            "",
            _plain(other.columns, other.rows),
            "",
        ]
        lines += map(clean, other.footer)
    return "\n".join(lines)


def ablations_to_text(table: Table) -> str:
    """The ablations of a table alone for a terminal, and what is to be known of the runs."""
    lines = [clean(table.heading), ""]
    for section in table.ablations:
        lines += _section(section)
    return "\n".join([*lines, "", *map(clean, table.footer)])


def _section(section: Ablations) -> list[str]:
    body = _plain(section.columns, section.rows)
    return [clean(f"Ablations: {section.title}"), "", body, "", *map(clean, section.footer)]


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table for a terminal."""
    from tabulate import tabulate

    cells = [[clean(cell) for cell in row] for row in rows]
    return tabulate(cells, headers=list(map(clean, columns)), tablefmt="simple", disable_numparse=True)


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, with ablations, published figures and differences below it."""
    rows = []
    for i, row in enumerate(table.rows):
        cells = [escape(cell) for cell in row]
        rows.append([f"**{cell}**" if (i, j) in table.bold else cell for j, cell in enumerate(cells)])
    blocks = [
        f"## {escape(table.heading)}",
        _grid(table.columns, rows),
        _bullets([*table.footer, *([BOLD] if table.bold else [])]),
    ]
    for section in table.ablations:
        blocks += [
            f"### Ablations: {escape(section.title)}",
            _grid(section.columns, _escaped(section.rows)),
            _bullets(section.footer),
        ]
    for other in table.published:
        blocks += [
            f"### Published figures: {escape(other.title)}"
            + (f" ({', '.join(other.marks)})" if other.marks else ""),
            _grid(other.columns, _escaped(other.rows)),
            _bullets([*other.footer, READING]),
        ]
        if other.claims:
            blocks += [
                f"### Claims of the papers: {escape(other.title)}",
                escape(f"{CLAIMS} {other.verdicts}"),
                _grid((COLUMNS[0], "published", *COLUMNS[1:]), _escaped(other.claims)),
            ]
    if table.differences:
        blocks += ["### Neighbouring rows", _grid(COLUMNS, _escaped(table.differences))]
    return "\n\n".join(blocks) + "\n"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Escaped cells as a table."""
    from tabulate import tabulate

    return tabulate(rows, headers=list(map(escape, columns)), tablefmt="pipe", disable_numparse=True)


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def page(
    title: str, records: Sequence[Record], stale: Callable[[Record], bool] = lambda record: False
) -> str:
    """The leaderboard of one dataset."""
    head = (
        f"{HEADING}{escape(title)}\n\n"
        "Made by `xmbench leaderboard` from the records beside it; edits are lost, and `--check` finds them.\n"
    )
    found = tables(records, stale)
    compared = any(
        table.differences
        or any(other.claims for other in table.published)
        or any(section.compared for section in table.ablations)
        for table in found
    )
    tail = [f"## How differences are read\n\n{escape(EXPLANATION)}\n"] * compared
    return "\n".join([head, *map(to_markdown, _once(found)), *tail])


def _once(found: Iterable[Table]) -> Iterator[Table]:
    """Tables of which those of the same fits as an earlier one, under another protocol, point to its parameters."""
    seen: dict[str, str] = {}
    for table in found:
        first = {
            line: seen.setdefault(line, table.heading)
            for line in table.footer
            if line.startswith(_PARAMETERS)
        }
        lines = [
            line
            if first.get(line) in (None, table.heading)
            else f"{_PARAMETERS} as in the table {first[line]}."
            for line in table.footer
        ]
        yield replace(table, footer=tuple(lines))


# -- the committed folder -----------------------------------------------------------------------------


def staleness(registry: Registry) -> Callable[[Record], bool]:
    """Whether a record was made by other code than there is now.

    A record whose method is not registered here cannot be told to be stale.
    """
    digests: dict[str, str | None] = {}

    def source(name: str) -> str | None:
        if name not in digests:
            try:
                digests[name] = registry.plugin("method", name).source_digest()[:16]
            except XmbenchError:
                digests[name] = None
        return digests[name]

    evaluator, numerics = evaluator_digest()[:16], numerics_digest()

    def stale(record: Record) -> bool:
        now = source(record.method.name)
        return (record.evaluator, record.numerics) != (evaluator, numerics) or now not in (
            None,
            record.method.source,
        )

    return stale


def read_board(folder: Path, dataset: str) -> list[Record]:
    """The records committed for a dataset.

    Raises:
        MissingData: there are none.
        InvalidRecord: a line is no record, or there is no line.
    """
    path = folder / f"{dataset}.jsonl"
    if not path.is_file():
        raise MissingData(f"{path.name} is not in {folder}; make it with: xmbench leaderboard")
    lines = path.read_bytes().split(b"\n")  # not splitlines: a text may hold U+2028
    records = [
        decode(line, f"{path.name}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not records:
        raise InvalidRecord(f"{path.name} holds no record")
    if any(record.dataset.synthetic for record in records):
        raise InvalidRecord(f"{path.name} holds runs on synthetic data, which have no place in a leaderboard")
    return records


def boards(folder: Path) -> list[str]:
    """Names of the datasets that have a leaderboard in ``folder``."""
    pages = [path for path in folder.glob("*.md") if path.read_text(encoding="utf-8").startswith(HEADING)]
    return sorted({path.stem for path in [*folder.glob("*.jsonl"), *pages]})


def write_boards(folder: Path, results: Results, registry: Registry, only: str | None = None) -> list[Path]:
    """Merge the finished records of ``results`` into ``folder`` and write its pages.

    A record replaces an older one of the same method, data, seeds and protocol, unless that one was made by
    the present code and it was not. Failed ones are left out, and so are methods that are not registered here
    (name a plugin file with --plugin to have its method in). Runs on synthetic data are never ranked.

    Returns:
        The pages written.

    Raises:
        InvalidRecord: records or arrays cannot be read.
        MissingData: there is nothing to write.
    """
    stale = staleness(registry)
    incoming: dict[str, list[Record]] = {}
    synthetic: set[str] = set()
    for record in results:
        if record.dataset.synthetic:
            synthetic.add(record.dataset.name)
            continue
        if not NAME.fullmatch(record.dataset.name):
            raise InvalidRecord(f"record {record.score_id}: {record.dataset.name!r} is no name of a dataset")
        wanted = record.method.name in registry.methods and only in (None, record.dataset.name)
        if record.status == "ok" and wanted:
            incoming.setdefault(record.dataset.name, []).append(record)
    known = {name for name in boards(folder) if only in (None, name)}
    if not (incoming or known):
        what = "" if only is None else f" of {only}"
        hint = "; runs on synthetic data are kept out of leaderboards" if synthetic else ""
        raise MissingData(
            f"no finished record{what} in {results.folder}, and no leaderboard{what} in {folder}{hint}"
        )
    pages = []
    for dataset in sorted(incoming.keys() | known):
        fresh = dataset in incoming and not (folder / f"{dataset}.jsonl").is_file()
        old = [] if fresh else read_board(folder, dataset)
        kept_path = folder / f"{dataset}.npz"
        arrays = _read_arrays(kept_path) if kept_path.is_file() else {}
        merged = {record.identity: record for record in old}
        for record in sorted(incoming.get(dataset, []), key=results.written):
            if record.identity in merged and stale(record) and not stale(merged[record.identity]):
                continue
            merged[record.identity] = record
            for name, values in results.arrays(record.score_id).items():
                kind, _, task = name.partition("/")
                if kind == "average_precision":
                    arrays[f"{record.score_id}/{task}"] = values
        records = sorted(merged.values(), key=_order)
        check_same_data(records)
        ids = {record.score_id for record in records}
        arrays = {name: values for name, values in arrays.items() if name.partition("/")[0] in ids}
        atomic_write(kept_path, npz_bytes({name: _packed(name, values) for name, values in arrays.items()}))
        atomic_write(folder / f"{dataset}.jsonl", b"".join(encode(record) + b"\n" for record in records))
        path = folder / f"{dataset}.md"
        text = page(records[0].dataset.title, records, stale)
        atomic_write(path, text.encode())
        pages.append(path)
    return pages


def check_boards(folder: Path, registry: Registry, only: str | None = None) -> list[str]:
    """Compare each committed page with its records, and each record with its per-query AP.

    Returns:
        Names of the datasets that were checked.

    Raises:
        LeaderboardDrift: a page is not what its records give; the message shows the lines.
        InvalidRecord: records or arrays cannot be read, or contradict each other.
        MissingData: there is no leaderboard.
    """
    names = [name for name in boards(folder) if only in (None, name)]
    if not names:
        raise MissingData(f"no leaderboard {'' if only is None else only + ' '}in {folder}")
    for name in names:
        records = read_board(folder, name)
        for record in records:
            check_ids(record)
        check_same_data(records)
        _check_arrays(folder / f"{name}.npz", records)
        expected = page(records[0].dataset.title, records, staleness(registry))
        path = folder / f"{name}.md"
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        if found != expected:
            lines = difflib.unified_diff(
                found.splitlines(), expected.splitlines(), "committed", "from records", n=0
            )
            shown = "\n".join(clean(line) for line in list(lines)[:20])
            raise LeaderboardDrift(
                f"{path.name} is not what its records give; run xmbench leaderboard to make it anew:\n{shown}"
            )
    return names


def check_same_data(records: Iterable[Record]) -> None:
    """Raise InvalidRecord if two runs of one table and split seed were given different data."""
    seen: dict[tuple[object, ...], Record] = {}
    for record in records:
        data = record.dataset
        other = seen.setdefault((*group_key(record)[:4], data.split_seed), record)
        if other.dataset.fingerprint != data.fingerprint:
            raise InvalidRecord(
                f"{data.name}, features {data.inputs}, split {data.split}, split seed {data.split_seed}: "
                f"{record.method.label} was run on data {data.fingerprint}, {other.method.label} on "
                f"{other.dataset.fingerprint}: files, labels or encoders changed in between. Run both again on "
                "the data as they are (xmbench run does what is not done yet), into a results folder of their own"
            )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Per-query AP by score id and task."""
    try:
        return {name: unpack(values) for name, values in read_npz(path).items()}
    except (FileNotFoundError, ValueError) as error:
        raise InvalidRecord(f"{path.name} cannot be read: {error}") from error


def _packed(name: str, values: NDArray[Any]) -> NDArray[Any]:
    try:
        return pack(values)
    except ValueError as error:
        raise InvalidRecord(f"record {name}: {error}; run it again with --fresh") from error


def _check_arrays(path: Path, records: list[Record]) -> None:
    arrays = _read_arrays(path)
    for record in records:
        for task, row in record.metrics.items():
            values = arrays.get(f"{record.score_id}/{task}")
            if values is None:
                raise InvalidRecord(
                    f"{path.name} lacks {task} of {record.method.label}, record {record.score_id}"
                )
            mean = float(np.nanmean(values)) if np.isfinite(values).any() else None
            if (mean is None) != (row.mean_average_precision is None) or (
                mean is not None and abs(mean - (row.mean_average_precision or 0.0)) > 1e-6
            ):
                raise InvalidRecord(
                    f"{record.method.label}, record {record.score_id}: {task} is {row.mean_average_precision} "
                    f"in the record and {mean} by its per-query values"
                )


def chosen_spec(record: Record) -> str:
    """What asks for the model of a record without tuning: the method with all parameters but its seed in brackets."""
    return label_of(
        record.method.name, {name: value for name, value in record.params.items() if name != "random_state"}
    )


def as_committed(committed: Sequence[Record], specs: Sequence[str], rerun: Iterable[Record]) -> list[Record]:
    """Runs of :func:`chosen_spec` as if they were runs of the committed records' rows, for :func:`compare`."""
    anew = {record.method.label: record for record in rerun}
    return [
        msgspec.structs.replace(anew[spec], method=old.method, tuning=old.tuning)
        for old, spec in zip(committed, specs, strict=True)
    ]


def compare(committed: Sequence[Record], rerun: Sequence[Record]) -> list[str]:
    """Where a re-run's scores moved: more than 1e-6 for a closed form, more than .06 for a trained method.

    On one processor a trained method gives the same bytes again. Another one rounds otherwise, and training may then
    keep another epoch: .032 was seen, on a split of some 130 test rows, where nothing but the machine had changed.

    Returns:
        One sentence for each task that moved and each run that did not finish.
    """
    anew = {record.identity: record for record in rerun}
    moved = []
    for old in committed:
        new = anew.get(old.identity)
        if new is None or new.status != "ok":
            reason = "was not run" if new is None else f"{new.status}: {new.reason}"
            moved.append(f"{old.method.label}, seed {old.seed}: {reason}")
            continue
        tolerance = 0.06 if old.method.trained else 1e-6
        for task, row in old.metrics.items():
            found = new.metrics[task].mean_average_precision
            before = row.mean_average_precision
            if (found is None) != (before is None) or (
                found is not None and before is not None and not abs(found - before) <= tolerance
            ):
                moved.append(
                    f"{old.method.label}, seed {old.seed}: {task} moved from {before} to {found} "
                    f"(allowed: {tolerance:g})"
                )
    return moved
