"""Methods, datasets and scores in words, for ``info``, ``data info`` and ``evaluate``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.data import PARTS, Corpus, Dataset
from xmbench.differences import COLUMNS, EXPLANATION, Claim
from xmbench.errors import MissingData
from xmbench.evaluation import RECALL_LEVELS, TASKS, Scores, TaskScores
from xmbench.leaderboard import clean, escape
from xmbench.record import REPORTED_SCOPES, Record
from xmbench.registry import Plugin, Registry


def describe_method(name: str, plugin: Plugin) -> dict[str, Any]:
    """What there is to know of a method, as JSON values."""
    found = plugin.load()
    about = found.info
    return {
        "name": name,
        "title": about.title,
        "paper": about.paper,
        "year": about.year,
        "supervised": about.supervised,
        "multi_label": about.multi_label,
        "control": about.control,
        "origin": plugin.origin,
        "departures": list(found().departures),
        "parameters": found.defaults(),
        "grid": {key: list(values) for key, values in found.grid.items()},
        "presets": {key: dict(values) for key, values in found.presets.items()},
        "ablations": {key: dict(values) for key, values in found.ablations.items()},
        "documentation": inspect.getdoc(found) or "",
    }


def method_text(found: dict[str, Any]) -> str:
    """:func:`describe_method` for a terminal."""
    lines = [
        f"{found['name']}: {found['title']} ({found['origin']})",
        "",
        found["documentation"],
        "",
        f"paper:       {found['paper']}",
        f"labels:      {'used in fit' if found['supervised'] else 'not used'}; "
        f"several per item: {'yes' if found['multi_label'] else 'no'}",
    ]
    lines += [f"departs:     {text}" for text in found["departures"]]
    lines += [f"parameter:   {key} = {_plain(value)}" for key, value in found["parameters"].items()]
    lines += [
        f"grid:        {key} in {', '.join(map(_plain, values))}" for key, values in found["grid"].items()
    ]
    for kind in ("preset", "ablation"):
        for key, values in found[f"{kind}s"].items():
            settings = ", ".join(f"{name}={_plain(value)}" for name, value in values.items())
            lines.append(f"{kind + ':':<12} {found['name']}[{kind}={key}] stands for {settings}")
    return "\n".join(lines)


def _plain(value: object) -> str:
    return "none" if value is None else str(value)


def methods_table(registry: Registry) -> str:
    """The methods as a Markdown table, by year, controls last; departures are those of the default parameters."""
    found = [describe_method(name, plugin) for name, plugin in registry.methods.items()]
    rows = [
        ["name", "method", "year", "learns from labels", "departs from its source", "presets", "source"],
        ["---"] * 7,
    ]
    for one in sorted(found, key=lambda one: (one["control"], one["year"], one["name"])):
        row = [
            f"`{one['name']}`",
            escape(one["title"]),
            "" if one["control"] else str(one["year"]),
            "yes" if one["supervised"] else "no",
            escape("; ".join(one["departures"])),
            ", ".join(f"`{preset}`" for preset in one["presets"]),
            "" if one["control"] else escape(one["paper"]),
        ]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def describe_encoder(name: str, plugin: Plugin) -> dict[str, Any]:
    """What there is to know of an encoder, as JSON values."""
    found = plugin.load()
    provenance: object
    try:
        provenance = dict(found().provenance())
    except Exception as error:  # weights that are not there, a parameter without default, a plugin's fault
        provenance = f"not known without parameters: {error}"
    return {
        "name": name,
        "modality": found.modality,
        "origin": plugin.origin,
        "learns": found.learns,
        "supervised": found.supervised,
        "scaling": found.scaling,
        "licence": found.licence,
        "requires": list(found.requires),
        "missing": found.missing(),
        "extra": found.extra,
        "parameters": {
            key: None if value is inspect.Parameter.empty else value
            for key, value in found.defaults().items()
        },
        "provenance": provenance,
        "documentation": inspect.getdoc(found) or "",
    }


def encoder_text(found: dict[str, Any]) -> str:
    """:func:`describe_encoder` for a terminal."""
    learns = "from training rows and their labels" if found["supervised"] else "from training rows"
    facts = [
        ("learns", learns if found["learns"] else "nothing"),
        ("scaling", f"{found['scaling']} by default"),
    ]
    if found["licence"]:
        facts.append(("licence", found["licence"]))
    if found["requires"]:
        extra = f" (pip install 'xmbench[{found['extra']}]')" if found["extra"] else ""
        state = f"not installed: {', '.join(found['missing'])}" if found["missing"] else "installed"
        facts.append(("needs", f"{', '.join(found['requires'])}{extra}; {state}"))
    facts += [("parameter", f"{key} = {_plain(value)}") for key, value in found["parameters"].items()]
    made = found["provenance"]
    if isinstance(made, dict):
        made = ", ".join(f"{key} {_plain(value)}" for key, value in made.items())
    facts.append(("provenance", made))
    words = [
        " " * (len(line) - len(line.lstrip(" "))) + clean(line) for line in found["documentation"].split("\n")
    ]
    heading = f"{found['name']}: encoder of {found['modality']}s ({clean(found['origin'])})"
    return "\n".join([heading, "", *words, "", *(f"{key + ':':<12} {clean(text)}" for key, text in facts)])


def features_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What :func:`xmbench.plan.extract_features` found or made, for a terminal."""
    lines = []
    for row in rows:
        shape = f"{row['rows']:,} x {row['columns']:,}"
        split = "" if row["split_seed"] is None else f", split {row['split']} seed {row['split_seed']}"
        if row["path"] is None:
            state = "stored with the dataset; nothing to extract"
        elif not row["encoded"]:
            state = f"there already, read and checked in {row['seconds']:.1f} s"
            if row["waited"] is not None:
                state = f"made by another process, waited for {row['waited']:.1f} s"
        else:
            speed = f"{row['encoded'] / max(row['seconds'], 1e-9):,.0f} a second"
            before = row["rows"] - row["encoded"]
            state = f"{row['encoded']:,} rows extracted in {row['seconds']:.1f} s ({speed})"
            state += f", {before:,} were there" if before else ""
        if row["learned_from"]:
            state += f"; fitted on {row['learned_from']:,} training rows in {row['fit_seconds']:.1f} s"
        lines.append(clean(f"{row['what']} {row['features']}{split}: {shape}, {state}"))
        if row["path"] is not None:
            lines.append("  " + clean(str(row["path"])))
    return "\n".join(lines)


def dataset_present(dataset: Dataset, data_dir: Path) -> bool:
    """Whether the dataset's files are where they are expected."""
    try:
        dataset.folder(data_dir)
    except MissingData:
        return False
    return True


def describe_dataset(
    name: str, dataset: Dataset, data_dir: Path, registry: Registry | None = None
) -> dict[str, Any]:
    """A dataset's card as JSON values; what only its files can tell is there if they are."""
    found = describe_card(name, dataset, present=dataset.card.embedded or dataset_present(dataset, data_dir))
    if found["present"]:
        from xmbench.features import source, split_features

        image, text = split_features(dataset.features)
        wanted = source(dataset, "image", image, registry), source(dataset, "text", text, registry)
        try:
            found["read"] = corpus_facts(dataset, dataset.load(data_dir, *wanted))
        except MissingData as error:  # there, but not with what the default features come from
            found["unread"] = str(error)
    return found


def describe_card(name: str, dataset: Dataset, *, present: bool) -> dict[str, Any]:
    """What is known of a dataset without its files."""
    card = dataset.card
    return {
        "name": name,
        "title": card.title,
        "what": card.image_text,
        "source": card.source,
        "licence": card.licence,
        "citation": card.citation,
        "pairs": card.pairs,
        "defects": list(card.defects),
        "expected_files": list(card.layout),
        "embedded": card.embedded,
        "present": present,
        "stored_features": {modality: dict(names) for modality, names in dataset.stored.items()},
        "default_features": dataset.features,
        "splits": {key: inspect.getdoc(rule) or "" for key, rule in dataset.splits.items()},
        "parameters": _parameters(type(dataset)),
    }


def _parameters(made: type[Dataset]) -> dict[str, dict[str, Any]]:
    """Parameter of a dataset -> its default, and what its docstring says of it."""
    section = (inspect.getdoc(made) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    said = dict(re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE))
    return {
        name: {"default": parameter.default, "about": " ".join(said.get(name, "").split())}
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def corpus_facts(dataset: Dataset, corpus: Corpus) -> dict[str, Any]:
    """What only the files of a dataset can tell."""
    from xmbench.audit import findings, id_hash

    splits = {key: dataset.split(corpus, key, 0) for key in dataset.splits}
    return {
        "pairs": len(corpus),
        "groups": len(set(corpus.groups)),
        "classes": class_counts(corpus, np.arange(len(corpus))),
        "digest": corpus.digest[:16],
        "notes": list(corpus.notes),
        "split_sizes": {key: split.sizes for key, split in splits.items()},
        "split_hashes": {
            key: {part: id_hash(corpus, getattr(split, part)) for part in PARTS}
            for key, split in splits.items()
        },
        "split_findings": {key: findings(corpus, split, dataset.card) for key, split in splits.items()},
    }


def class_counts(corpus: Corpus, rows: NDArray[np.int64]) -> dict[str, int]:
    """Class name -> how many of the rows are of it."""
    labels = np.asarray(corpus.labels)[rows]
    counts = (
        labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(corpus.class_names))
    )
    return dict(zip(corpus.class_names, map(int, counts), strict=True))


def card_text(found: dict[str, Any]) -> str:
    """:func:`describe_dataset` for a terminal."""
    lines = [f"{found['name']}: {found['title']}", ""]
    for key in ("what", "source", "licence", "citation", "pairs"):
        if found[key]:  # how many pairs data of one's own has is known once it is read
            lines.append(f"{key + ':':<10} {found[key]}")
    lines.append(f"features:  {found['default_features']} by default")
    for modality, names in found["stored_features"].items():
        lines += [f"           {modality} {key}: {text}" for key, text in names.items()]
    for key, parameter in found["parameters"].items():
        about = f": {clean(parameter['about'])}" if parameter["about"] else ""
        lines.append(f"parameter: {key} = {_plain(parameter['default'])}{about}")
    read = found.get("read")
    for key, text in found["splits"].items():
        sizes = "" if not read else " / ".join(str(n) for n in read["split_sizes"][key].values()) + ". "
        lines.append(f"split:     {key}: {sizes}{' '.join(text.split())}")
        if read:
            hashes = read["split_hashes"][key]
            lines.append(f"           ids at seed 0: {', '.join(f'{k} {v[:16]}' for k, v in hashes.items())}")
            lines += [f"           found: {text}" for text in read["split_findings"][key]]
    lines += [f"known:     {text}" for text in found["defects"]]
    if found["expected_files"]:
        lines.append("expected below the data directory:")
        lines += [f"  {line}" for line in found["expected_files"]]
    if "unread" in found:
        lines.append("state:     the files of the default features are not there: " + clean(found["unread"]))
        return "\n".join(lines)
    if not read:
        if found["expected_files"] and not found["present"]:
            lines.append(
                "state:     the files are not there; name the directory with --data-dir or XMBENCH_DATA_DIR"
            )
        return "\n".join(lines)
    lines.append(f"read:      {read['pairs']:,} pairs in {read['groups']:,} groups, digest {read['digest']}")
    lines += [f"           {clean(note)}" for note in read["notes"]]
    lines.append(
        "classes:   " + ", ".join(f"{clean(name)} {count}" for name, count in read["classes"].items())
    )
    return "\n".join(lines)


def records_text(records: Iterable[Record]) -> str:
    """One line for each record: its id, and what it is a record of."""
    from tabulate import tabulate

    rows: list[list[str]] = []
    for record in records:
        data, tasks = record.dataset, [record.metrics.get(task) for task in TASKS[:2]]
        scores = [task.mean_average_precision for task in tasks if task is not None]
        known = [score for score in scores if score is not None]
        seeds = f"{data.split}, split seed {data.split_seed}, seed {record.seed}"
        tuned = f"{record.tuning.mode} {record.tuning.budget}" if record.tuning else "–"
        average = f"{sum(known) / 2:.3f}" if len(known) == 2 else record.status
        cells = (record.method.label, data.name, seeds, data.inputs, str(record.protocol["name"]), tuned)
        rows.append([record.score_id, *map(clean, cells), average])
    headers = ["score id", "method", "dataset", "split and seeds", "features", "protocol", "tuned", "average"]
    rows.sort(key=lambda row: row[1:])
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def claims_text(tested: Mapping[str, Sequence[Claim] | str]) -> str:
    """Claims of each table for a terminal, or why there are none."""
    from tabulate import tabulate

    blocks = []
    for heading, claims in tested.items():
        if isinstance(claims, str):
            body = f"Not compared: {clean(claims)}."
        elif claims:
            cells = [[clean(cell) for cell in claim.cells()] for claim in claims]
            body = tabulate(cells, headers=COLUMNS, tablefmt="simple", disable_numparse=True)
        else:
            body = "Nothing to compare: that takes two methods, and two splits that all of them were run on."
        blocks.append(f"{clean(heading)}\n\n{body}")
    return "\n\n".join([*blocks, EXPLANATION])


def scores_text(scores: Scores) -> str:
    """Scores of one embedding for a terminal."""
    from tabulate import tabulate

    scopes = [k for k in REPORTED_SCOPES if any(k <= len(task.precision) for task in scores.tasks.values())]
    ranked: list[list[str]] = []
    curves: list[list[str]] = []
    for name, task in scores.tasks.items():
        means = (task.mean_average_precision, task.chance, task.r_precision, task.mean_reciprocal_rank)
        counts = (task.n_queries, task.n_unanswerable, task.n_zero_norm, task.gallery)
        ranked.append([name, *(f"{value:.4f}" for value in means), *map(str, counts)])
        for metric, curve in (("precision", task.precision), ("recall", task.recall), ("nDCG", task.ndcg)):
            cells = [f"{curve[k - 1]:.4f}" if k <= len(curve) else "–" for k in scopes]
            curves.append([name, metric, *cells])
    headers = [
        "task",
        "MAP",
        "chance",
        "R-precision",
        "MRR",
        "queries",
        "unanswerable",
        "zero rows",
        "gallery",
    ]
    first = tabulate(ranked, headers=headers, tablefmt="simple", disable_numparse=True)
    headers = ["task", "of the first K", *(f"K = {k}" for k in scopes)]
    second = tabulate(curves, headers=headers, tablefmt="simple", disable_numparse=True)
    warnings = "".join(f"\nWarning: {flag}." for flag in scores.protocol.flags)
    protocol = scores.protocol.describe(selection=False)
    return f"{first}\n\n{second}\n\nProtocol {protocol}. Engine {scores.engine}.{warnings}"


def recall_levels(task: TaskScores) -> dict[str, float | None]:
    """Recall 0.0, 0.1, ..., 1.0 -> interpolated precision; None where no query could be answered."""
    values = task.interpolated_precision[::10]
    levels = RECALL_LEVELS[::10]
    return {f"{r:.1f}": float(p) if np.isfinite(p) else None for r, p in zip(levels, values, strict=True)}
