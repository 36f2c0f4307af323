"""Finished runs and their kept test embeddings, found and scored anew: nothing is fitted, no dataset is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmbench.errors import InvalidRecord, MissingData, UnknownName, UsageError
from xmbench.evaluation import TASKS, evaluator_digest
from xmbench.leaderboard import clean
from xmbench.protocol import PROTOCOLS, Protocol
from xmbench.record import Record, Results, check_ids, decode, score_arrays
from xmbench.run import Embeddings, read_embeddings, rescore


def find(results: Results, name: str) -> Record:
    """The finished run that ``name`` stands for: a path of a record, or the beginning of one score id.

    Raises:
        MissingData: there is none.
        UsageError: several score ids begin so, or the run did not finish.
        InvalidRecord: the record cannot be read.
    """
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise MissingData(f"{name} does not exist")
        found = [decode(path.read_bytes(), path.name)]
    else:
        found = [record for record in results if name and record.score_id.startswith(name)]
    if not found:
        raise MissingData(f"no record in {results.folder} has a score id that begins with {name!r}")
    if len(found) > 1:
        raise UsageError(f"{name!r} begins the score ids of {len(found)} records; give more of it")
    if found[0].status != "ok":
        raise UsageError(f"the run {name!r} did not finish: {found[0].reason}")
    return found[0]


def find_kept(results: Results, name: str) -> tuple[Record, Embeddings]:
    """The finished run that ``name`` stands for, as in :func:`find`, and its test embeddings.

    Raises:
        MissingData: there is none, or its embeddings were not kept.
        UsageError: several score ids begin so, or the run did not finish.
        InvalidRecord: the record cannot be read, or is not the one that its ids name.
    """
    record = find(results, name)
    check_ids(record)
    return record, kept(results, record)


def named_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """The tasks called ``names``; ``image-text`` stands for ``image->text``, which a shell would redirect.

    Raises:
        UnknownName: there is no such task.
    """
    known = {task.replace("->", "-"): task for task in TASKS}
    for name in names:
        if name.replace("->", "-") not in known:
            raise UnknownName("task", name, known)
    return tuple(dict.fromkeys(known[name.replace("->", "-")] for name in names))


def kept(results: Results, record: Record) -> Embeddings:
    """The test embeddings of a run; raises MissingData if they were not kept, or not whole."""
    embeddings = read_embeddings(results.embeddings_path(record.fit_id))
    if embeddings is None:
        raise MissingData(
            f"the test embeddings of {record.method.label}, seed {record.seed}, are not in {results.folder}; "
            "run it again with --fresh (and without --discard-embeddings)"
        )
    return embeddings


def rescore_all(results: Results, protocols: Sequence[Protocol]) -> list[Record]:
    """Score each fit of ``results`` under each protocol and write the records that are not there yet.

    Raises:
        MissingData: there is no finished run, or its embeddings were not kept.
        InvalidRecord: a record cannot be read.
    """
    evaluator = evaluator_digest()[:16]
    fits = {(record.fit_id, record.method.label): record for record in results if record.status == "ok"}
    if not fits:
        raise MissingData(f"no finished run in {results.folder}")
    records = []
    for protocol in protocols:
        for record in fits.values():
            embeddings = kept(results, record)
            anew, scores = rescore(record, embeddings, protocol, evaluator)
            old = results.get(anew.score_id)
            if old is None:
                results.put(anew, {**score_arrays(scores), **embeddings.history})
            elif _moved(old, anew):
                raise InvalidRecord(f"record {old.score_id} has other scores than its embeddings; delete it")
            records.append(old or anew)
    return records


def _moved(old: Record, anew: Record) -> bool:
    """Whether a score differs by more than another processor's rounding."""
    for task, row in anew.metrics.items():
        before, now = old.metrics[task].mean_average_precision, row.mean_average_precision
        if (before is None) != (now is None) or abs((before or 0.0) - (now or 0.0)) > 1e-6:
            return True
    return False


def compare(record: Record, results: Results) -> list[dict[str, Any]]:
    """One run under every protocol: name, mean average precision of each task, their averages, flags."""
    embeddings = kept(results, record)
    rows = []
    for protocol in PROTOCOLS.values():
        _, scores = rescore(record, embeddings, protocol, evaluator_digest()[:16])
        by_task = {task: scores.tasks[task].mean_average_precision for task in TASKS}
        rows.append(
            {
                "run": f"{record.method.label} on {record.dataset.name}, seed {record.seed}",
                "protocol": protocol.name,
                **by_task,
                "average": sum(by_task[task] for task in TASKS[:2]) / 2,
                "average (all)": sum(by_task[task] for task in TASKS[2:]) / 2,
                "flags": list(protocol.flags),
            }
        )
    return rows


def comparison_text(rows: Sequence[dict[str, Any]]) -> str:
    """:func:`compare` for a terminal; a protocol with a flag has a mark, explained below."""
    from tabulate import tabulate

    columns = [*TASKS, "average", "average (all)"]
    flags = list(dict.fromkeys(flag for row in rows for flag in row["flags"]))
    cells = []
    for row in rows:
        marks = "".join(f" ({flags.index(flag) + 1})" for flag in row["flags"])
        scores = [f"{row[column]:.3f}" for column in columns]
        cells.append([clean(row["run"]), row["protocol"] + marks, *scores])
    body = tabulate(cells, headers=["run", "protocol", *columns], tablefmt="simple", disable_numparse=True)
    return "\n".join([body, "", *(f"({i}) Warning: {flag}." for i, flag in enumerate(flags, 1))])
