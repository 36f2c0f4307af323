"""The command line: it parses, calls and prints. Numerical libraries load inside the commands that need them."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xmbench import __version__
from xmbench.errors import MissingData, UnknownName, UsageError, XmbenchError
from xmbench.registry import Plugin, Registry, parse_value

if TYPE_CHECKING:
    from xmbench.plan import Places
    from xmbench.record import Record

_Command = TypeVar("_Command", bound=Callable[..., Any])

PLUGIN = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="Also register the METHOD, DATASET or ENCODER of this file, or data of your own (see: data check).",
)
DATA_DIR = click.option(
    "--data-dir",
    envvar="XMBENCH_DATA_DIR",
    metavar="DIR",
    help="Where datasets lie.  [env: XMBENCH_DATA_DIR; default: the user's data directory]",
)
RESULTS = click.option(
    "--results", default="results", show_default=True, metavar="DIR", help="Folder of records and embeddings."
)
PARTS = click.option(
    "--parts",
    default="none",
    show_default=True,
    metavar="IMAGE+TEXT",
    help="Parts of items beside them: regions, grid2, grid3, ... or none, and sentences or none.",
)
TASK = click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="image-text, text-image, image-all or text-all; may be given again.",
)


def _run_options(seeds: str) -> Callable[[_Command], _Command]:
    """What commands that run methods have in common.

    Args:
        seeds: the default of ``--seeds``.
    """
    options = [
        click.option(
            "--dataset",
            "-d",
            default="emoji",
            show_default=True,
            help="See: xmbench list datasets; or data of your own: a TOML file or a folder.",
        ),
        click.option(
            "--features",
            metavar="IMAGE+TEXT",
            help="Features, such as lite0+tfidf.  [default: the dataset's]",
        ),
        click.option(
            "--scaling",
            metavar="IMAGE+TEXT",
            help="Input scaling, such as zscore+none.  [default: the features']",
        ),
        PARTS,
        click.option("--split", help="Name of the split.  [default: the dataset's first]"),
        click.option(
            "--seeds",
            default=seeds,
            show_default=True,
            help="Split seed and method seed together: 0-4 or 0,3,7.",
        ),
        click.option("--seed", type=click.IntRange(0), help="Hold the method's seed at this value."),
        click.option("--split-seed", type=click.IntRange(0), help="Hold the split seed at this value."),
        click.option(
            "--protocol", "protocol_name", default="default", show_default=True, help="How to score."
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="METHOD.PARAMETER=VALUE",
            help="Set a parameter where brackets do not.",
        ),
        click.option(
            "--tune",
            type=click.Choice(["grid", "random"]),
            help="Choose what is not set by hand on the validation rows: from the whole grid, or a draw of it.",
        ),
        click.option(
            "--budget", type=click.IntRange(1), help="With --tune: trials of each method.  [default: 12]"
        ),
        click.option(
            "--transductive", is_flag=True, help="Let methods that ask for it learn from test features."
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
        click.option(
            "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each run."
        ),
        click.option(
            "--jobs", "-j", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time."
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="End a run after this.",
        ),
        click.option("--fresh", is_flag=True, help="Re-use nothing."),
        click.option("--retry-failed", is_flag=True, help="Run again what failed before."),
        click.option(
            "--discard-embeddings", is_flag=True, help="Do not keep test embeddings for other protocols."
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be run, and stop."),
        click.option("--json", "as_json", is_flag=True, help="Print records as JSON instead of tables."),
        click.option("--quiet", "-q", is_flag=True, help="Print the result alone."),
        click.option("--verbose", "-v", is_flag=True, help="Print tracebacks of failed runs."),
        RESULTS,
        DATA_DIR,
        PLUGIN,
    ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):  # the last that is applied comes first in the help
            command = option(command)
        return command

    return decorate


class Group(click.Group):
    """Commands with did-you-mean, our exit codes, and no traceback unless --debug asks for it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with close matches for an unknown command."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise UnknownName("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xmbench", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Run cross-modal retrieval methods under one honest, named protocol.

    The shortest complete example needs no data and no network: xmbench run --methods all
    """


@cli.command()
@click.option(
    "--methods",
    "-m",
    default="all",
    show_default=True,
    help="all, paper (those of the CM-GANs and ACMR papers), or names with commas: cca,cca[ridge=0.1].",
)
@_run_options(seeds="0")
def run(methods: str, **options: Any) -> None:
    """Run methods on a dataset and print the leaderboard of these runs.

    Finished runs are re-used: the same command again is done in a moment, and one that was interrupted goes
    on where it was. Exit code 1 if a run failed.
    """
    registry = _registry(options["plugins"])
    _carry_out(registry, registry.expand(methods), options, _tables_text)


@cli.command()
@click.argument("method")
@_run_options(seeds="0-4")
def ablate(method: str, **options: Any) -> None:
    """Run METHOD and each of its ablations, and print what the full model loses with each of its pieces.

    What is in brackets or --set holds for all of them: acmr[preset=paper]. Runs are those of "xmbench run -m
    METHOD[ablation=NAME]" and are re-used as there. Differences to the full model are paired by split. Exit code 1
    if a run failed. Which ablations there are, and what they set: xmbench info METHOD.
    """
    from xmbench.plan import with_ablations

    registry = _registry(options["plugins"])
    methods = with_ablations(method, _settings(options["settings"]), registry)
    _carry_out(registry, methods, options, _ablations_text)


@cli.command("list")
@click.argument("kind", type=click.Choice(["methods", "datasets", "encoders"]), required=False)
@click.option("--check", is_flag=True, help="Import each plugin and say what is wrong with the broken ones.")
@click.option("--markdown", is_flag=True, help="Print what methods say of themselves as a Markdown table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@PLUGIN
def list_(kind: str | None, check: bool, markdown: bool, as_json: bool, plugins: tuple[str, ...]) -> None:
    """Name the methods, datasets and encoders there are; nothing is imported without --check or --markdown.

    With --check, exit code 1 if a plugin is broken.
    """
    registry = Registry(plugins)
    if markdown:
        if kind != "methods" or check or as_json:
            raise UsageError("--markdown goes with methods alone: xmbench list methods --markdown")
        from xmbench.describe import methods_table

        click.echo(methods_table(registry))
        return
    rows = []
    kinds = {"methods": registry.methods, "datasets": registry.datasets, "encoders": registry.encoders}
    for title, found in kinds.items():
        if kind in (None, title):
            rows += [_plugin_row(title, name, plugin, check) for name, plugin in sorted(found.items())]
    if as_json:
        _print_json(rows)
    else:
        width = max((len(row["name"]) for row in rows), default=0)
        for title in dict.fromkeys(row["kind"] for row in rows):
            click.echo(f"{title}:")
            for row in rows:
                if row["kind"] == title:
                    broken = f"  broken: {row['problem']}" if row["problem"] else ""
                    about = row.get("about") or row["origin"]
                    about = f"{row['modality']}, {about}" if row.get("modality") else about
                    click.echo(f"  {row['name']:<{width}}  {broken.strip() or about}")
    if check and any(row["problem"] for row in rows):
        raise SystemExit(1)


@cli.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@DATA_DIR
@PLUGIN
def info(name: str, as_json: bool, data_dir: str | None, plugins: tuple[str, ...]) -> None:
    """Say what a method is: paper, parameters, presets, what departs from the paper.

    For the name of a dataset, print its card; for that of an encoder, what it is, needs and has as parameters.
    """
    registry = _registry(plugins)
    if name not in registry.methods and name in registry.datasets:
        _print_card(registry, name, data_dir, as_json)
        return
    if name not in registry.methods and name in registry.encoders:
        from xmbench.describe import describe_encoder, encoder_text

        about = describe_encoder(name, registry.plugin("encoder", name))
        _print_json(about) if as_json else click.echo(encoder_text(about))
        return
    if name not in registry.methods:
        known = [*registry.methods, *registry.datasets, *registry.encoders]
        raise UnknownName("method, dataset or encoder", name, known)
    from xmbench.describe import describe_method, method_text

    found = describe_method(name, registry.plugin("method", name))
    if as_json:
        _print_json(found)
    else:
        click.echo(method_text(found))


@cli.command()
@click.argument("dataset")
@click.option("--image", metavar="NAME", help="Image features: an encoder.  [default: the dataset's]")
@click.option("--text", metavar="NAME", help="Text features: an encoder.  [default: the dataset's]")
@PARTS
@click.option("--split", help="Name of the split.  [default: the dataset's first]")
@click.option("--seeds", default="0", show_default=True, help="Split seeds: 0-4 or 0,3,7.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the encoders."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print the result alone.")
@DATA_DIR
@PLUGIN
def features(dataset: str, image: str | None, text: str | None, as_json: bool, **options: Any) -> None:
    """Extract the features of DATASET and keep them for runs; what is there already is left as it is.

    An interrupted extraction goes on where it stopped. Encoders that learn do so from the training rows of each
    split. Names of encoders: xmbench list encoders.
    """
    from xmbench.describe import features_text
    from xmbench.plan import Plan, Request, extract_features

    registry = _registry(options["plugins"])
    request = Request(
        methods=(),
        dataset=dataset,
        features=_features(registry, dataset, image, text),
        parts=options["parts"],
        split=options["split"],
        seeds=_seeds(options["seeds"], None, None),
        device=_device(options["device"]),
        threads=options["threads"],
    )
    with _reporter(options["quiet"], False) as reporter:
        plan = Plan(request, registry, _places(options["data_dir"], "results"), reporter.progress)
        rows = extract_features(plan)
    _print_json(rows) if as_json else click.echo(features_text(rows))


@cli.group(cls=Group)
def data() -> None:
    """Datasets: which there are, what they are, where their files are expected."""


@data.command("list")
@PLUGIN
@DATA_DIR
def data_list(plugins: tuple[str, ...], data_dir: str | None) -> None:
    """Name the datasets and say whether their files are there."""
    from xmbench.describe import dataset_present

    registry = Registry(plugins)
    for name in sorted(registry.datasets):
        try:
            dataset = registry.dataset(name)
            state = (
                "embedded"
                if dataset.card.embedded
                else "here"
                if dataset_present(dataset, _data(data_dir))
                else ("files missing; see: xmbench data info " + name)
            )
            click.echo(f"{name:<16} {dataset.card.title:<20} {state}")
        except Exception as error:  # a plugin may raise anything
            click.echo(f"{name:<16} broken: {error}")


@data.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@PLUGIN
@DATA_DIR
def data_info(name: str, as_json: bool, plugins: tuple[str, ...], data_dir: str | None) -> None:
    """Print the card of a dataset: source, licence, citation, sizes, classes, features, expected files."""
    _print_card(_registry(plugins), name, data_dir, as_json)


@data.command("check")
@click.argument("name", metavar="NAME|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print the result alone.")
@PLUGIN
@DATA_DIR
def data_check(name: str, as_json: bool, quiet: bool, plugins: tuple[str, ...], data_dir: str | None) -> None:
    """Read all of a dataset, print its card and every problem, of which there should be none.

    PATH is data of your own: a TOML file that describes it, or a folder in a known layout. Exit code 2 if it is
    described wrongly, 3 if files are missing or damaged.
    """
    from xmbench.data_check import check_dataset, check_text

    registry = _registry(plugins)
    plugin, dataset = registry.plugin("dataset", name), registry.dataset(name)
    with _reporter(quiet, False) as reporter:
        found, problems = check_dataset(plugin.name, dataset, _data(data_dir), reporter.progress, registry)
    if as_json:
        _print_json(found)
    else:
        click.echo(check_text(found))
    if problems.found:
        raise SystemExit(problems.exit_code)


@data.command("audit")
@click.argument("name")
@click.option("--split", help="Name of the split.  [default: the dataset's first]")
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@PLUGIN
@DATA_DIR
def data_audit(
    name: str,
    split: str | None,
    split_seed: int,
    as_json: bool,
    plugins: tuple[str, ...],
    data_dir: str | None,
) -> None:
    """Look for what makes a split lie: copies and groups on both sides, texts that name their class.

    Also constant columns, classes without rows, the chance level of each task, and the hash of each part's ids.
    """
    import msgspec

    from xmbench.audit import audit, audit_text

    registry = _registry(plugins)
    plugin, dataset = registry.plugin("dataset", name), registry.dataset(name)
    with _reporter(quiet=False, verbose=False) as reporter:
        found = audit(plugin.name, dataset, _data(data_dir), split, split_seed, reporter.progress)
    if as_json:
        _print_json({**msgspec.to_builtins(found), "findings": found.findings()})
    else:
        click.echo(audit_text(found))


@data.command("fetch")
@click.argument("name")
@click.argument("edition", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask: the terms are accepted.")
@click.option(
    "--mirror",
    envvar="XMBENCH_MIRROR",
    metavar="URL|DIR",
    help="Take the files, under their own names, from there.  [env: XMBENCH_MIRROR]",
)
@PLUGIN
@DATA_DIR
def data_fetch(
    name: str,
    edition: str | None,
    yes: bool,
    mirror: str | None,
    plugins: tuple[str, ...],
    data_dir: str | None,
) -> None:
    """Download a dataset from its public source, check it, and put it where it is expected.

    Prints its terms first. A download that was interrupted is gone on with. Nothing is downloaded while
    XMBENCH_OFFLINE is set.
    """
    from xmbench.describe import dataset_present
    from xmbench.fetch import editions, fetch, terms

    dataset, places = _registry(plugins).dataset(name), _places(data_dir, "results")
    if not dataset.card.embedded and dataset_present(dataset, places.data):
        click.echo(f"{name} is there: {dataset.folder(places.data)}")
        return
    downloads = editions(name, dataset, edition)
    click.echo(terms(dataset, downloads, mirror))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was downloaded; if these terms are accepted, say --yes")
        if not click.confirm("Download and use it under these terms?"):
            raise UsageError("nothing was downloaded")
    with _reporter(quiet=False, verbose=False) as reporter:
        made = fetch(
            name, dataset, downloads, places.data, places.cache, mirror=mirror, progress=reporter.progress
        )
    for path in made:
        click.echo(path)


@cli.command()
@click.option("--dataset", "-d", help="One dataset only.")
@click.option(
    "--output", default="leaderboards", show_default=True, metavar="DIR", help="Where leaderboards lie."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 4 if a page differs from its records.")
@click.option("--rerun", metavar="DATASET", help="With --check: refit every method of this leaderboard.")
@click.option("--seed", type=click.IntRange(0), help="With --rerun: the seed to refit.")
@click.option(
    "--chosen",
    is_flag=True,
    help="With --rerun: refit methods trained in epochs with what tuning chose for them, not all trials.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a record, and stop.")
@click.option("--quiet", "-q", is_flag=True, help="Print the result alone.")
@RESULTS
@DATA_DIR
@PLUGIN
def leaderboard(**options: Any) -> None:
    """Write leaderboards/DATASET.md from records, or check what is there.

    Finished records of the results folder are merged into the leaderboard's own: the newer one of the same
    method, data, seed and protocol stays.
    """
    from xmbench import leaderboard as board
    from xmbench.record import Results, json_schema

    if options["schema"]:
        _print_json(json_schema())
        return
    asked = options["rerun"] or options["seed"] is not None or options["chosen"]
    if asked and not (options["check"] and options["rerun"]):
        raise UsageError("--rerun DATASET goes with --check, and --seed and --chosen with --rerun")
    registry, folder = _registry(options["plugins"]), Path(options["output"])
    if not options["check"]:
        for path in board.write_boards(
            folder, Results(Path(options["results"])), registry, options["dataset"]
        ):
            click.echo(f"wrote {path}")
        return
    for name in board.check_boards(folder, registry, options["dataset"]):
        click.echo(f"{name}: page, records and per-query values agree")
    if options["rerun"]:
        _rerun(options, registry, folder)


def _rerun(options: dict[str, Any], registry: Registry, folder: Path) -> None:
    import tempfile

    from xmbench import leaderboard as board
    from xmbench.errors import LeaderboardDrift
    from xmbench.plan import Plan, Request
    from xmbench.protocol import Protocol
    from xmbench.training import Trained

    committed = board.read_board(folder, options["rerun"])
    wanted = [record for record in committed if options["seed"] in (None, record.seed)]
    if not wanted:
        raise UsageError(f"the leaderboard of {options['rerun']} has no record with seed {options['seed']}")
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in wanted:
        alone = options["chosen"] and issubclass(registry.method(record.method.name), Trained)
        key = (*board.group_key(record), record.seed, record.dataset.split_seed, alone)
        groups.setdefault(key, []).append(record)
    anew: list[Record] = []
    with (
        tempfile.TemporaryDirectory(prefix="xmbench-") as scratch,
        _reporter(options["quiet"], True) as reporter,
    ):
        for (*_, alone), records in groups.items():
            first = records[0]
            specs = [board.chosen_spec(record) if alone else record.method.label for record in records]
            request = Request(
                methods=specs,
                dataset=first.dataset.name,
                features=first.dataset.features,
                scaling=first.dataset.scaling,
                parts=first.dataset.parts,
                split=first.dataset.split,
                seeds=[(first.seed, first.dataset.split_seed or 0)],
                protocol=Protocol(**first.protocol),
                transductive=any(record.method.transductive for record in records),
                tuning=(first.tuning.mode, first.tuning.budget) if first.tuning and not alone else None,
            )
            plan = Plan(request, registry, _places(options["data_dir"], scratch), reporter.progress)
            found = plan.run(
                on_event=reporter.on_event
            )  # the folder is new: only other protocols re-use fits
            anew += board.as_committed(records, specs, found) if alone else found
    moved = board.compare(wanted, anew)
    if moved:
        raise LeaderboardDrift("scores moved since the leaderboard was made:\n" + "\n".join(moved))
    click.echo(f"{options['rerun']}: {len(wanted)} records were refitted and agree")


@cli.command()
@click.option(
    "--compare", "records", multiple=True, metavar="RECORD", help="Score this run under every protocol."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@RESULTS
def protocols(records: tuple[str, ...], as_json: bool, results: str) -> None:
    """List the protocols: what each computes, and who used it.

    With --compare, print finished runs under all of them side by side, from their kept embeddings. RECORD is
    the score id of a run (or its beginning), or the path of its record.
    """
    from xmbench.protocol import PROTOCOLS

    if records:
        from xmbench.record import Results
        from xmbench.rescore import compare, comparison_text, find

        folder = Results(Path(results))
        rows = [row for record in records for row in compare(find(folder, record), folder)]
        _print_json(rows) if as_json else click.echo(comparison_text(rows))
        return
    if as_json:
        _print_json(
            [{**protocol.to_dict(), "flags": list(protocol.flags)} for protocol in PROTOCOLS.values()]
        )
        return
    width = max(map(len, PROTOCOLS))
    for name, protocol in PROTOCOLS.items():
        click.echo(f"{name:<{width}}  {protocol.summary}")
        for flag in protocol.flags:
            click.echo(f"{'':<{width}}  flagged: {flag}")


@cli.command("results")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.argument("results", default="results")
def results_(results: str, as_json: bool) -> None:
    """List the runs in RESULTS: the score id of each, by which other commands know it, and what it is a run of."""
    from xmbench.describe import records_text
    from xmbench.record import Results

    found = Results(Path(results)).newest()
    if not found:
        raise MissingData(f"no record in {results}; make some with: xmbench run")
    if as_json:
        import msgspec

        _print_json([msgspec.to_builtins(record) for record in found])
    else:
        click.echo(records_text(found))


@cli.command()
@click.option("--dataset", "-d", required=True, help="Of which dataset.")
@click.option(
    "--claim",
    "chains",
    multiple=True,
    metavar="CHAIN",
    help="What to hold against the scores: 'cca<kcca<jrl'.  [default: each row above the next]",
)
@click.option("--board", metavar="DIR", help="Take the records of a leaderboard folder instead of --results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@RESULTS
def compare(dataset: str, chains: tuple[str, ...], board: str | None, as_json: bool, results: str) -> None:
    """Compare methods over splits: paired differences, 95 % intervals, and a verdict for each claim.

    A claim holds, fails, or is not resolved. It takes runs over several splits (--seeds 0-4).
    """
    from xmbench.describe import claims_text
    from xmbench.differences import parse_claims
    from xmbench.leaderboard import claims_of_tables, read_board
    from xmbench.record import Results

    claims = parse_claims(chains)
    found = read_board(Path(board), dataset) if board else Results(Path(results)).newest()
    chosen = [record for record in found if record.dataset.name == dataset and record.status == "ok"]
    if not chosen:
        there = ", ".join(sorted({record.dataset.name for record in found if record.status == "ok"}))
        raise MissingData(
            f"no finished run on {dataset} in {board or results}; "
            + (f"there are runs on: {there}" if there else "make some with: xmbench run")
        )
    tested = claims_of_tables(chosen, claims)
    if as_json:
        import msgspec

        _print_json(msgspec.to_builtins(tested))
    else:
        click.echo(claims_text(tested))


@cli.command()
@click.option("--protocol", "names", multiple=True, required=True, help="How to score; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="Print records as JSON instead of tables.")
@click.argument("results", default="results")
def rescore(results: str, names: tuple[str, ...], as_json: bool) -> None:
    """Score every finished run of RESULTS under other protocols, from kept embeddings; nothing is fitted."""
    from xmbench.protocol import protocol
    from xmbench.record import Results
    from xmbench.rescore import rescore_all

    anew = rescore_all(Results(Path(results)), [protocol(name) for name in names])
    _print_records(anew, as_json, _tables_text)


@cli.command()
@click.argument(
    "kind", type=click.Choice(["precision-scope", "pr", "per-class", "losses", "sensitivity", "tsne"])
)
@click.argument("records", nargs=-1, metavar="[RECORD]...")
@TASK
@click.option(
    "--method",
    "-m",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="Without RECORD: runs of this method, such as cca or cca[ridge=0.1]; may be given again.",
)
@click.option("--dataset", "-d", help="Without RECORD: runs on this dataset.")
@click.option("--split", help="Without RECORD: runs on this split.")
@click.option("--features", metavar="IMAGE+TEXT", help="Without RECORD: runs on these features.")
@click.option("--scaling", metavar="IMAGE+TEXT", help="Without RECORD: runs with this scaling.")
@click.option("--protocol", help="Without RECORD: runs under this protocol.  [default: default]")
@click.option("--tuned/--not-tuned", default=None, help="Without RECORD: tuned runs alone, or the others.")
@click.option("--max-scope", type=click.IntRange(2), metavar="K", help="Of precision-scope: the largest K.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="A .png, .svg or .pdf file.  [default: the kind's name and .png]",
)
@RESULTS
def plot(
    kind: str,
    records: tuple[str, ...],
    tasks: tuple[str, ...],
    max_scope: int | None,
    output: str | None,
    results: str,
    **which: Any,
) -> None:
    """Draw finished runs. Needs the extra "plots".

    RECORD is the score id of a run (or its beginning), or the path of its record; none stands for all finished
    runs under the protocol, the newest of each method, data and seed.

    precision-scope, pr (precision-recall) and per-class draw scores: runs of one method become one curve, their
    mean, and each task is a panel.  [tasks by default: image-text and text-image]

    losses draws what one method tells of its epochs, sensitivity the best validation score over the parameters in
    which runs of one method differ, tsne the kept test embeddings of one run.
    """
    from xmbench import diagnostics
    from xmbench import plot as figures
    from xmbench.drawing import check_output, write
    from xmbench.record import Results
    from xmbench.rescore import named_tasks

    path = Path(output or f"{kind}.png")
    check_output(path)
    folder = Results(Path(results))
    if kind in diagnostics.KINDS:
        if tasks or max_scope is not None:
            raise UsageError(
                f"--task and --max-scope go with {', '.join(figures.KINDS)}, not with {kind}; leave them out"
            )
        drawn = diagnostics.figure(kind, diagnostics.choose(kind, folder, records, **which), folder)
    else:
        runs = figures.choose(folder, records, **which)
        drawn = figures.figure(
            kind, runs, named_tasks(tasks or ("image-text", "text-image")), max_scope=max_scope
        )
    write(drawn, path)
    click.echo(f"wrote {path}")


@cli.command()
@click.argument("record")
@click.option("--query", "ids", multiple=True, metavar="ID", help="Show this test item; may be given again.")
@click.option("--queries", type=click.IntRange(1), metavar="N", help="Show N drawn at random.  [default: 5]")
@click.option(
    "--random-state", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draw."
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Results of each query.")
@TASK
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write a page with thumbnails instead."
)
@RESULTS
@DATA_DIR
@PLUGIN
def examples(record: str, **options: Any) -> None:
    """Show what queries of a finished run retrieve, right and wrong marked.

    RECORD is the score id of the run (or its beginning), or the path of its record.  [tasks by default:
    image-text and text-image]
    """
    from xmbench.examples import collect, show
    from xmbench.record import Results
    from xmbench.rescore import find_kept, named_tasks

    found, embeddings = find_kept(Results(Path(options["results"])), record)
    report = collect(
        found,
        embeddings,
        _registry(options["plugins"]),
        _data(options["data_dir"]),
        tasks=named_tasks(options["tasks"] or ("image-text", "text-image")),
        ids=options["ids"],
        n_queries=options["queries"],
        random_state=options["random_state"],
        top=options["top"],
    )
    if options["html"] is None:
        show(report, sys.stdout)
        return
    from xmbench.gallery import write_page

    for line in [*report.warnings, *report.notes]:
        click.echo(f"xmbench: {line}", err=True)
    write_page(Path(options["html"]), report)
    click.echo(f"wrote {options['html']}")


@cli.command("export-trec")
@click.argument("record")
@click.option("--output", required=True, metavar="DIR", help="Folder for the files.")
@click.option("--top", default="1000", show_default=True, metavar="K", help="Length of the lists, or all.")
@click.option("--protocol", "protocol_name", help="How items are compared.  [default: the record's]")
@TASK
@RESULTS
def export_trec(
    record: str, output: str, top: str, protocol_name: str | None, tasks: tuple[str, ...], results: str
) -> None:
    """Write the ranked lists of a finished run for trec_eval: TASK.run and TASK.qrels.

    RECORD is the score id of the run (or its beginning), or the path of its record.  [tasks by default: all]
    """
    from xmbench.evaluation import TASKS
    from xmbench.protocol import Protocol, protocol
    from xmbench.record import Results
    from xmbench.rescore import find_kept, named_tasks
    from xmbench.trec import depth, export

    length = depth(top)
    found, embeddings = find_kept(Results(Path(results)), record)
    rules = protocol(protocol_name) if protocol_name else Protocol(**found.protocol)
    for path in export(
        embeddings.images,
        embeddings.texts,
        embeddings.labels,
        rules,
        Path(output),
        tasks=named_tasks(tasks or TASKS),
        label=found.method.label,
        top=length,
    ):
        click.echo(f"wrote {path}")
    for flag in rules.flags:
        click.echo(f"xmbench: Warning: {flag}", err=True)


@cli.command()
@click.argument("images", type=click.Path(dir_okay=False))
@click.argument("texts", type=click.Path(dir_okay=False))
@click.option(
    "--labels", required=True, type=click.Path(dir_okay=False), help="Integers, or a multi-hot matrix."
)
@click.option("--protocol", "protocol_name", default="default", show_default=True, help="How to score.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "numpy", "numba", "torch"]),
    default="auto",
    show_default=True,
    help="What computes the scores.",
)
@click.option("--device", default="cpu", show_default=True, help="For the torch engine: cpu, cuda, mps, ...")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "float64"]),
    default="auto",
    show_default=True,
    help="Of the scores; auto takes the embeddings' own. Only float64 keeps every tie a tie.",
)
@click.option("--threads", type=click.IntRange(1), help="On the CPU.  [default: as many as the BLAS uses]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    images: str, texts: str, labels: str, protocol_name: str, as_json: bool, **resources: Any
) -> None:
    """Score embeddings of your own: row i of IMAGES, TEXTS and the labels is one item.

    Files are .npy (mapped into memory, so it may be large), .npz, .csv, .tsv or .txt (numbers alone), .parquet
    (numeric columns, or one column of lists; extra "parquet"), .mat (version 7.3: extra "mat73"), .h5 or .hdf5
    (extra "mat73"). One of several arrays, variables or columns is named as FILE.npz:NAME, FILE.mat:NAME,
    FILE.h5:NAME or FILE.parquet:NAME.
    """
    from xmbench.describe import recall_levels, scores_text
    from xmbench.evaluation import evaluate as score
    from xmbench.matrices import read_matrix
    from xmbench.protocol import protocol
    from xmbench.record import task_rows

    arrays = [read_matrix(Path(path)) for path in (images, texts)]
    classes = read_matrix(Path(labels), labels=True)
    found = score(arrays[0], arrays[1], classes, protocol(protocol_name), **resources)
    if as_json:
        import msgspec

        names = {label: str(label) for task in found.tasks.values() for label in task.per_class}
        rows = {task: msgspec.to_builtins(row) for task, row in task_rows(found, names).items()}
        for task, row in rows.items():
            row["interpolated_precision"] = recall_levels(found.tasks[task])
        flags = list(found.protocol.flags)
        _print_json(
            {"protocol": found.protocol.to_dict(), "flags": flags, "engine": found.engine, "tasks": rows}
        )
    else:
        click.echo(scores_text(found))


# -- runs --------------------------------------------------------------------------------------------


def _carry_out(
    registry: Registry, methods: Sequence[str], options: dict[str, Any], text: Callable[[list[Record]], str]
) -> None:
    """Do the runs that the options of :func:`_run_options` ask for, print them, and exit with 1 if one failed."""
    from xmbench.plan import Plan, Request, Reuse
    from xmbench.protocol import protocol
    from xmbench.tuning import BUDGET

    if options["timeout"] is not None and not isfinite(options["timeout"]):
        raise UsageError(f"--timeout: expected a number of seconds, got {options['timeout']}")
    if options["budget"] and not options["tune"]:
        raise UsageError("--budget goes with --tune grid or --tune random")
    request = Request(
        methods=methods,
        dataset=options["dataset"],
        features=options["features"],
        scaling=options["scaling"],
        parts=options["parts"],
        split=options["split"],
        seeds=_seeds(options["seeds"], options["seed"], options["split_seed"]),
        protocol=protocol(options["protocol_name"]),
        settings=_settings(options["settings"]),
        transductive=options["transductive"],
        device=_device(options["device"]),
        threads=options["threads"],
        tuning=(options["tune"], options["budget"] or BUDGET) if options["tune"] else None,
    )
    with _reporter(options["quiet"], options["verbose"]) as reporter:
        plan = Plan(request, registry, _places(options["data_dir"], options["results"]), reporter.progress)
        if options["dry_run"]:
            from xmbench.record import Results

            _print_plan(plan, Results(plan.places.results), options["as_json"])
            return
        reuse = Reuse(
            fresh=options["fresh"],
            retry_failed=options["retry_failed"],
            keep_embeddings=not options["discard_embeddings"],
        )
        reporter.total = plan.n_runs
        records = plan.run(
            n_jobs=options["jobs"], timeout=options["timeout"], reuse=reuse, on_event=reporter.on_event
        )
    _print_records(records, options["as_json"], text)
    if any(record.status != "ok" for record in records):
        raise SystemExit(1)


# -- options into values -----------------------------------------------------------------------------


def _registry(plugins: tuple[str, ...]) -> Registry:
    """All plugins; a file is refused whose name stands for another one."""
    registry = Registry(plugins)
    registry.check_files()
    return registry


def _features(registry: Registry, dataset: str, image: str | None, text: str | None) -> str:
    """``IMAGE+TEXT`` from one option each, the dataset's default for one that is not given."""
    given = registry.dataset(dataset).features.partition("+")
    return f"{image or given[0]}+{text or given[2]}"


def _seeds(seeds: str, seed: int | None, split_seed: int | None) -> list[tuple[int, int]]:
    """(method seed, split seed) of each repetition."""
    values: list[int] = []
    for item in seeds.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"--seeds: expected numbers and ranges such as 0-4 or 0,3,7, got {seeds!r}")
        values += range(first, last + 1)
    pairs = [
        (value if seed is None else seed, value if split_seed is None else split_seed) for value in values
    ]
    return list(dict.fromkeys(pairs))


def _settings(settings: tuple[str, ...]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for text in settings:
        target, equals, value = text.partition("=")
        method, dot, parameter = target.partition(".")
        if not (equals and dot and method and parameter):
            raise UsageError(f"--set: expected METHOD.PARAMETER=VALUE, got {text!r}")
        found.setdefault(method.strip(), {})[parameter.strip()] = parse_value(value)
    return found


def _device(device: str) -> str:
    """The device to use; ``auto`` looks for a CUDA driver before it pays for importing torch."""
    if device != "auto":
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            raise UsageError(f"--device: expected auto, cpu, cuda, cuda:1, ... or mps, got {device!r}")
        if device.startswith("cuda"):
            import torch

            if not torch.cuda.is_available():
                raise UsageError(f"--device {device}: torch {torch.__version__} finds no CUDA device here")
        return device
    if (
        not any(Path(path).exists() for path in ("/dev/nvidiactl", "/proc/driver/nvidia"))
        and sys.platform == "linux"
    ):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _data(data_dir: str | None) -> Path:
    from platformdirs import user_data_path

    return Path(data_dir) if data_dir else user_data_path("xmbench", appauthor=False)


def _places(data_dir: str | None, results: str) -> Places:
    from platformdirs import user_cache_path

    from xmbench.plan import Places

    cache = os.environ.get("XMBENCH_CACHE_DIR")
    return Places(
        data=_data(data_dir),
        cache=Path(cache) if cache else user_cache_path("xmbench", appauthor=False),
        results=Path(results),
    )


# -- values into text ---------------------------------------------------------------------------------


def _reporter(quiet: bool, verbose: bool) -> AbstractContextManager[Any]:
    from xmbench.progress import reporter

    return reporter(quiet=quiet, verbose=verbose)


def _plugin_row(kind: str, name: str, plugin: Plugin, check: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": name, "origin": plugin.origin, "problem": plugin.problem}
    if kind == "encoders":
        row["modality"] = plugin.modality
    if check and not plugin.problem:
        try:
            found = plugin.load()
            if kind == "encoders":
                row["modality"], missing = found.modality, found.missing()
                row["about"] = f"needs {', '.join(missing)}" if missing else plugin.origin
            else:
                row["about"] = found.resolve({}).info.title if kind == "methods" else found().card.title
        except XmbenchError as error:
            row["problem"] = str(error)
        except Exception as error:  # a constructor may raise anything
            row["problem"] = f"cannot be made: {type(error).__name__}: {error}"
    return row


def _print_card(registry: Registry, name: str, data_dir: str | None, as_json: bool) -> None:
    from xmbench.describe import card_text, describe_dataset

    plugin = registry.plugin("dataset", name)
    found = describe_dataset(plugin.name, registry.dataset(name), _data(data_dir), registry)
    if as_json:
        _print_json(found)
    else:
        click.echo(card_text(found))


def _print_plan(plan: Any, results: Any, as_json: bool) -> None:
    rows = []
    for spec, _, problem in plan.specs():
        old = results.get(spec.score_id)
        state = f"cannot run: {problem}" if problem else "to run" if old is None else f"kept ({old.status})"
        rows.append(
            {
                "method": spec.method.label,
                "params": spec.method.params,
                "dataset": spec.dataset.name,
                "split": spec.dataset.split,
                "split_seed": spec.dataset.split_seed,
                "seed": spec.seed,
                "fit_id": spec.fit_id,
                "score_id": spec.score_id,
                "state": state,
            }
        )
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        where = f"{row['dataset']}/{row['split']} split seed {row['split_seed']}, seed {row['seed']}"
        click.echo(f"{row['method']}  {where}  {row['score_id']}  {row['state']}")


def _print_records(records: list[Record], as_json: bool, text: Callable[[list[Record]], str]) -> None:
    if as_json:
        import msgspec

        _print_json([msgspec.to_builtins(record) for record in records])
    else:
        click.echo(text(records))


def _tables_text(records: list[Record]) -> str:
    from xmbench.leaderboard import tables, to_text

    return "\n\n".join(map(to_text, tables(records)))


def _ablations_text(records: list[Record]) -> str:
    from xmbench.leaderboard import ablations_to_text, tables

    return "\n\n".join(map(ablations_to_text, tables(records)))


def _print_json(value: object) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _terminated(number: int, frame: object) -> None:
    """End in order: runs are stopped and scratch folders removed on the way out."""
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point: our errors become one message on standard error and their exit code."""
    debug = "--debug" in sys.argv[1:2]
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow that the terminal lacks must not end the run
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except XmbenchError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"xmbench: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("xmbench: interrupted; the same command goes on where this one stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"xmbench: {error}", err=True)
        sys.exit(1)
