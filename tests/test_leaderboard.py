"""Leaderboards: arithmetic of the tables, harmless rendering, and pages that agree with their records."""

from __future__ import annotations

import os
import random
import re
import statistics
import unicodedata
from collections.abc import Iterable
from dataclasses import replace as dataclass_replace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from xmbench._io import npz_bytes, read_npz
from xmbench.errors import InvalidRecord, LeaderboardDrift, MissingData, XmbenchError
from xmbench.evaluation import TASKS, evaluator_digest
from xmbench.leaderboard import (
    BOLD,
    SCORES,
    Table,
    boards,
    check_boards,
    clean,
    compare,
    escape,
    frame,
    page,
    read_board,
    staleness,
    tables,
    to_markdown,
    to_text,
    write_boards,
)
from xmbench.protocol import DEFAULT, PROTOCOLS, Protocol
from xmbench.record import (
    Cost,
    DatasetRow,
    MethodRow,
    Record,
    Results,
    TaskRow,
    encode,
    fit_id,
    numerics_digest,
)
from xmbench.record import score_id as score_id_of
from xmbench.registry import Registry
from xmbench.tuning import Trial, Tuning

REGISTRY = Registry()
SOURCES = {name: plugin.source_digest()[:16] for name, plugin in REGISTRY.methods.items()}
EVALUATOR, NUMERICS = evaluator_digest()[:16], numerics_digest()

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def make(
    label: str = "cca",
    seed: int = 0,
    split_seed: int | None = 0,
    scores: float | dict[str, float | None] = 0.5,
    *,
    precision: dict[str, float] | None = None,
    chance: float = 0.125,
    fit_seconds: float = 1.0,
    method: dict | None = None,
    dataset: dict | None = None,
    protocol: str = "default",
    score_id: str | None = None,
    **changes,
) -> Record:
    """A record; ``scores`` is the mean average precision of all tasks, or of each."""
    name = label.partition("[")[0]
    if not isinstance(scores, dict):
        scores = dict.fromkeys(TASKS, scores)
    metrics = {
        task: TaskRow(
            mean_average_precision=scores[task],
            chance=chance,
            precision={"1": 0.5, "10": 0.25} if precision is None else precision,
            per_class={"birds": 0.5},
            n_queries=8,
            n_unanswerable=0,
            gallery=8,
        )
        for task in TASKS
    }
    method_values = {
        "name": name,
        "label": label,
        "title": name.upper(),
        "params": {},
        "source": SOURCES.get(name, "unknown"),
        "supervised": False,
        "transductive": False,
        "control": False,
        "trained": False,
        "departures": [],
    }
    dataset_values = {
        "name": "toys",
        "title": "Toys",
        "features": "pixels+words",
        "scaling": "none+none",
        "provenance": {"image": {"name": "pixels"}, "text": {"name": "words", "n_words": 9}},
        "split": "random",
        "split_seed": split_seed,
        "sizes": {"train": 80, "validation": 10, "test": 8},
        "n_classes": 2,
        "fingerprint": "0123456789abcdef",
    }
    values = {
        "status": "ok",
        "method": MethodRow(**{**method_values, **(method or {})}),
        "dataset": DatasetRow(**{**dataset_values, **(dataset or {})}),
        "protocol": PROTOCOLS[protocol].to_dict(),
        "seed": seed,
        "metrics": metrics,
        "evaluate_seconds": 0.5,
        "cost": Cost(
            fit_seconds=fit_seconds,
            encode_seconds=0.25,
            peak_memory_bytes=1000,
            n_parameters=12,
            device="cpu",
            threads=1,
            versions={"python": "3.11.0", "numpy": "2.0.0"},
        ),
        "engine": "numpy",
        "numerics": NUMERICS,
        "evaluator": EVALUATOR,
        **changes,
    }
    record = Record(fit_id="", score_id="", **values)
    used = Protocol(**record.protocol)
    tuning = record.tuning
    tuned = tuning and (tuning.mode, tuning.budget, [trial.params for trial in tuning.trials])
    fit = fit_id(record.method, record.dataset, record.seed, record.numerics, used.selection, tuned)
    derived = score_id_of(fit, record.method.label, used, record.evaluator)
    return msgspec.structs.replace(record, fit_id=fit, score_id=score_id or derived)


def tuned(*params: dict, mode: str = "random", budget: int = 4, chosen: int | None = 0) -> Tuning:
    """A ledger over ``params``, of which the one at ``chosen`` won; None for a run that failed."""
    ledger = params or ({"ridge": 10.0}, {"ridge": 0.1})
    scores = [None if chosen is None else 0.5 if i == chosen else 0.25 for i in range(len(ledger))]
    return Tuning(mode, budget, list(map(Trial, ledger, scores, [0.125] * len(ledger))), chosen)


def failed(label: str = "cca", seed: int = 0, reason: str = "RunError: it diverged", **rest) -> Record:
    return make(label, seed, **rest, status="failed", reason=reason, metrics={}, cost=None, engine=None)


def only(records: Iterable[Record], stale=lambda record: False) -> Table:
    """The one table of ``records``."""
    (table,) = tables(records, stale)
    return table


def column(table: Table, title: str) -> dict[str, str]:
    """Method (without its marks) -> cell."""
    j = table.columns.index(title)
    return {row[0].partition(" (")[0]: row[j] for row in table.rows}


def bold_rows(table: Table, title: str) -> set[str]:
    j = table.columns.index(title)
    return {table.rows[i][0].partition(" (")[0] for i, other in table.bold if other == j}


# -- arithmetic -------------------------------------------------------------------------------------


def test_cells_are_mean_and_sample_deviation_by_hand():
    table = only([make(seed=0, scores=0.1), make(seed=1, scores=0.2), make(seed=2, scores=0.4)])
    # mean 7/30; deviations -4/30, -1/30, 5/30; sample variance 42/900/2
    assert column(table, "image→text")["cca"] == "0.233 ± 0.153"
    assert column(table, "runs")["cca"] == "3"


def test_every_column_agrees_with_the_statistics_module():
    rng = random.Random(0)
    records, values = [], {}
    for label in ("cca", "cfa", "random"):
        for seed in range(4):
            scores = {task: rng.random() for task in TASKS}
            precision = {str(k): rng.random() for k in (1, 10, 50, 100)}
            records.append(make(label, seed, seed, scores, precision=precision, fit_seconds=10 + seed))
            line = {
                "image→text": scores["image->text"],
                "text→image": scores["text->image"],
                "average": (scores["image->text"] + scores["text->image"]) / 2,
                "image→all": scores["image->all"],
                "text→all": scores["text->all"],
                "average (all)": (scores["image->all"] + scores["text->all"]) / 2,
                **{f"P@{k}": value for k, value in precision.items()},
            }
            for title, value in line.items():
                values.setdefault((label, title), []).append(value)
    table = only(records)
    assert table.columns == ("method", *SCORES, "fit s", "runs")
    for (label, title), found in values.items():
        expected = f"{statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}"
        assert column(table, title)[label] == expected
    assert column(table, "fit s")["cca"] == f"{statistics.mean([10, 11, 12, 13]):.0f}"


def test_the_deviation_of_an_average_is_that_of_the_averages():
    """One direction gains what the other loses: both move, their average does not."""
    up = {**dict.fromkeys(TASKS, 0.5), "image->text": 0.2, "text->image": 0.4}
    down = {**dict.fromkeys(TASKS, 0.5), "image->text": 0.4, "text->image": 0.2}
    table = only([make(seed=0, scores=up), make(seed=1, scores=down)])
    assert column(table, "image→text")["cca"] == "0.300 ± 0.141"
    assert column(table, "average")["cca"] == "0.300 ± 0.000"


def test_precision_is_the_mean_of_both_directions_and_absent_scopes_are_blank():
    record = make()
    metrics = dict(record.metrics)
    metrics["image->text"] = msgspec.structs.replace(metrics["image->text"], precision={"1": 0.2, "10": 0.4})
    metrics["text->image"] = msgspec.structs.replace(metrics["text->image"], precision={"1": 0.6, "10": 0.0})
    table = only([msgspec.structs.replace(record, metrics=metrics)])
    found = [column(table, f"P@{k}")["cca"] for k in (1, 10, 50, 100)]
    assert found == ["0.400", "0.200", "–", "–"]


def test_a_single_run_has_no_deviation():
    table = only([make(scores=0.25)])
    assert column(table, "average")["cca"] == "0.250"
    assert "standard deviation" not in table.footer[0]
    assert "± sample standard deviation" in only([make(seed=0), make(seed=1)]).footer[0]


def test_an_undefined_score_is_a_dash_and_never_the_best():
    scores = {**dict.fromkeys(TASKS, 0.5), "image->text": None}
    table = only([make("cca", scores=scores), make("cfa", scores=0.1)])
    assert column(table, "image→text")["cca"] == "–"
    assert column(table, "average")["cca"] == "–"
    assert bold_rows(table, "image→text") == {"cfa"}
    assert bold_rows(table, "text→image") == {"cca"}


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00028, "0.00028"), (0.171, "0.17"), (9.4, "9.4"), (75, "75")]
)
def test_fit_seconds_have_two_digits(seconds, shown):
    assert column(only([make(fit_seconds=seconds)]), "fit s")["cca"] == shown


def test_rows_go_down_by_the_average_then_by_name():
    records = [
        make("cca", scores=0.3),
        make("random", scores=0.1),
        make("deep_sm", scores=0.3),
        failed("acmr"),
        make("cfa", scores=0.9),
    ]
    assert [row[0] for row in only(records).rows] == [
        "cfa",
        "cca",
        "deep_sm",
        "random",
        "acmr",
        "chance level",
    ]


def test_the_frame_holds_finished_runs_alone():
    found = frame([make(seed=3, scores=0.25), failed(seed=4)])
    assert list(found["seed"]) == [3]
    assert found["bimodal"].tolist() == [0.25]
    assert len(frame([failed()])) == 0


def test_the_chance_row_is_the_mean_over_runs():
    table = only([make(seed=0, chance=0.1), make(seed=1, chance=0.2)])
    label, *cells = table.rows[-1]
    assert label == "chance level"
    assert cells == ["0.150"] * 6 + [""] * 6


# -- what is stressed, marked and noted -------------------------------------------------------------


def test_the_best_of_each_column_is_bold():
    one = {**dict.fromkeys(TASKS, 0.5), "image->text": 0.9}
    two = {**dict.fromkeys(TASKS, 0.5), "text->image": 0.8}
    table = only([make("cca", scores=one), make("cfa", scores=two)])
    assert bold_rows(table, "image→text") == {"cca"}
    assert bold_rows(table, "text→image") == {"cfa"}
    assert bold_rows(table, "average") == {"cca"}


def test_rows_that_print_the_same_are_all_bold():
    records = [
        make("cca", scores=0.50012),
        make("cfa", scores=0.49981),
        make("random", scores=0.4994),
    ]
    assert bold_rows(only(records), "image→all") == {"cca", "cfa"}


def test_neither_chance_nor_seconds_nor_runs_are_bold():
    table = only([make("cca", scores=0.01, chance=0.9, precision={})])
    last = len(table.rows) - 1
    assert {i for i, _ in table.bold} == {0} and last == 1
    assert bold_rows(table, "fit s") == bold_rows(table, "runs") == set()


def test_stale_and_transductive_rows_are_marked_and_never_bold():
    transductive = make("cfa", scores=0.8, method={"transductive": True})
    table = only(
        [make("cca", scores=0.9), transductive, make("random", scores=0.1)], lambda r: r.method.name == "cca"
    )
    labels = {row[0] for row in table.rows}
    assert {"cca (stale)", "cfa (transductive)", "random"} <= labels
    assert {i for i, _ in table.bold} == {2}
    assert bold_rows(table, "average") == {"random"}


def test_one_stale_run_makes_a_row_stale():
    table = only([make(seed=0), make(seed=1)], lambda record: record.seed == 1)
    assert table.rows[0][0] == "cca (stale)"
    assert not table.bold


def test_departures_are_numbered_notes_below_the_table():
    records = [
        make("cca", scores=0.1, method={"departures": ["a ridge is added", "nothing else"]}),
        make("cfa", scores=0.9, method={"departures": ["centred"]}),
        make("random", scores=0.5),
    ]
    table = only(records)
    assert [row[0] for row in table.rows[:3]] == ["cfa (note 1)", "random", "cca (notes 2-3)"]
    notes = [line for line in table.footer if line.startswith("Note")]
    assert notes == ["Note 1: cfa: centred.", "Note 2: cca: a ridge is added.", "Note 3: cca: nothing else."]


def test_rows_with_the_same_departure_share_its_note():
    records = [
        make("cca", scores=0.9, method={"departures": ["one", "two"]}),
        make("cfa", scores=0.5, method={"departures": ["three"]}),
        make("jrl", scores=0.1, method={"departures": ["three", "one"]}),
    ]
    table = only(records)
    assert [row[0] for row in table.rows[:3]] == ["cca (notes 1-2)", "cfa (note 3)", "jrl (notes 1, 3)"]
    notes = [line for line in table.footer if line.startswith("Note")]
    assert notes == ["Note 1: cca, jrl: one.", "Note 2: cca: two.", "Note 3: cfa, jrl: three."]


def test_departures_that_differ_after_a_colon_are_one_note():
    departures = [["others: a", "plain"], ["others: a, b", "plain"], ["plain", "more: a"]]
    table = only([make("cca", s, s, method={"departures": words}) for s, words in enumerate(departures)])
    notes = [line for line in table.footer if line.startswith("Note")]
    assert notes == ["Note 1: cca: others: a / a, b.", "Note 2: cca: plain.", "Note 3: cca: more: a."]


def test_parameters_of_the_same_fits_are_written_once_on_a_page():
    some = [make(protocol=name, tuning=tuned()) for name in ("default", "l2", "inner")]
    other = make("cfa", protocol="trec", tuning=tuned({"ridge": 3.0}))
    written = page("Toys", [*some, other])
    (heading,) = [table.heading for table in tables(some) if "protocol default" in table.heading]
    assert written.count("cca: ridge 10.0") == written.count("cfa: ridge 3.0") == 1
    assert written.count(f"Parameters as in the table {escape(heading)}.") == 2
    assert all("cca: ridge 10.0" in " ".join(table.footer) for table in tables(some))


def test_failed_runs_are_rows_with_a_reason():
    table = only([make("cca"), failed("cfa", 3, "RunError: it diverged")])
    assert column(table, "runs")["cfa"] == "0 of 1"
    assert {cell for title in SCORES for cell in [column(table, title)["cfa"]]} == {"–"}
    assert column(table, "fit s")["cfa"] == "–"
    (line,) = [line for line in table.footer if "it diverged" in line]
    assert "cfa" in line and "seed 3" in line and "failed" in line


def test_a_partly_failed_row_says_how_many_runs_it_is_of():
    table = only([make(seed=0, scores=0.25), failed(seed=1, split_seed=1)])
    assert column(table, "runs")["cca"] == "1 of 2"
    assert column(table, "average")["cca"] == "0.250"


def test_a_table_of_failures_alone_has_no_chance_row():
    table = only([failed("cca"), failed("cfa")])
    assert [row[0] for row in table.rows] == ["cca", "cfa"]
    assert not table.bold
    assert "No run has finished." in table.footer[0]


# -- footers ----------------------------------------------------------------------------------------

AXES = [
    ([(0, 0), (1, 1), (2, 2)], "Runs differ in split and method seed together: seeds 0-2."),
    ([(7, 0), (7, 1), (7, 3)], "Runs differ in the split alone: split seeds 0-1, 3, method seed 7."),
    ([(0, 4), (1, 4)], "Runs differ in the method's seed alone: seeds 0-1, split seed 4."),
    ([(0, None), (2, None)], "Runs differ in the method's seed alone: seeds 0, 2, a fixed split."),
    ([(3, 5)], "One run a row: seed 3, split seed 5."),
    ([(3, None)], "One run a row: seed 3, a fixed split."),
]


@pytest.mark.parametrize(("seeds", "sentence"), AXES)
def test_the_footer_names_what_varied(seeds, sentence):
    table = only([make(seed=seed, split_seed=split) for seed, split in seeds])
    assert sentence in table.footer[0]


def test_the_footer_says_how_the_numbers_came_about():
    sizes = {"train": 79, "validation": 11, "test": 8}
    second = make(seed=1, split_seed=1, dataset={"fingerprint": "fedcba9876543210", "sizes": sizes})
    footer = " ".join(only([make(), second]).footer)
    for words in (
        DEFAULT.describe(),
        "79 to 80 train, 10 to 11 validation, 8 test",
        "pixels+words",
        "n_words 9",
        "scaling none+none",
        "0123456789abcdef (split seed 0), fedcba9876543210 (split seed 1)",
        "numpy 2.0.0",
        "python 3.11.0",
        "cpu, 1 thread;",
    ):
        assert words in footer


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_flagged_protocol_warns_and_no_other_does(protocol):
    warnings = [line for line in only([make(protocol=protocol)]).footer if line.startswith("Warning")]
    flags = PROTOCOLS[protocol].flags
    assert len(warnings) == bool(flags)
    assert all(flag in line for line in warnings for flag in flags)


def test_some_protocol_is_flagged():
    assert any(protocol.flags for protocol in PROTOCOLS.values())


# -- which records stand together -------------------------------------------------------------------


def different_groups() -> list[Record]:
    return [
        make(),
        make(dataset={"split": "grouped"}),
        make(dataset={"features": "pixels+letters"}),
        make(dataset={"scaling": "l2+l2"}),
        make(protocol="l2"),
        make(dataset={"name": "other", "title": "Other"}),
        make(tuning=tuned()),
        make(tuning=tuned(budget=5)),
        make(tuning=tuned(mode="grid")),
    ]


def test_what_cannot_be_compared_stands_in_tables_of_its_own():
    found = tables(different_groups())
    assert len(found) == len(different_groups())
    assert all(len(table.rows) == 2 for table in found)


def test_tables_can_be_told_apart_by_their_headings():
    headings = [table.heading for table in tables(different_groups())]
    assert len(set(headings)) == len(headings)


def test_the_default_protocol_comes_first():
    records = [make(protocol="all-modal-with-query"), make(protocol="l2"), make(dataset={"split": "zzz"})]
    headings = [table.heading for table in tables(records)]
    assert "protocol default" in headings[0]


def test_a_failed_run_stands_in_the_table_that_it_was_tuned_for():
    records = [make(tuning=tuned()), failed("cfa", tuning=tuned(chosen=None)), make("cfa")]
    by_heading = {table.heading: [row[0] for row in table.rows] for table in tables(records)}
    (heading,) = [
        heading for heading in by_heading if "tuned on validation rows (random, 4 trials)" in heading
    ]
    assert len(by_heading) == 2 and sum("cfa" in cell for cell in by_heading[heading]) == 1


def test_the_footer_of_a_tuned_table_says_rule_budget_and_what_was_chosen():
    ledger = ({"ridge": 10.0, "n_components": None, "random_state": 3}, {"ridge": 0.1, "n_components": None})
    records = [make(seed=s, split_seed=s, tuning=tuned(*ledger, chosen=int(s == 2))) for s in range(3)]
    (line,) = [line for line in only(records).footer if line.startswith("Parameters")]
    for words in (
        "inside each seed's own split",
        "mean of image→text and text→image MAP under the default protocol",
        "the first of equal ones",
        "had 4 trials (fewer: cca 2), a seeded draw of its grid",
        "cca: n_components None, ridge 10.0 (2) / 0.1 (1)",
    ):
        assert words in line
    assert "random_state" not in line
    whole = only([make(tuning=tuned(mode="grid"))]).footer
    assert any("all of its grid" in line for line in whole)
    assert not any("trials" in line for line in only([make()]).footer)


def test_the_footer_says_how_many_trials_could_not_be_fitted():
    trials = [
        Trial({}, 0.5, 0.1),
        Trial({"n_components": 50}, None, 0.1, "rank 9"),
        Trial({"n_components": 5}, 0.6, 0.1),
    ]
    records = [
        make("cfa", tuning=Tuning("random", 4, trials, 2)),
        make("cfa", 1, 1, tuning=tuned()),
        make("random", tuning=tuned({})),
        failed("kcca", tuning=tuned(chosen=None)),
    ]
    (line,) = [line for line in only(records).footer if line.startswith("Parameters")]
    assert "Trials of a run that could not be fitted, at most: cfa 1. Fit" in line
    assert "could not be fitted" not in next(
        words for words in only(records[1:3]).footer if words.startswith("Parameters")
    )


def test_departures_of_what_was_chosen_are_all_noted():
    """One seed chose a ridge, the other none."""
    records = [
        make(seed=s, split_seed=s, tuning=tuned(), method={"departures": ["a ridge is added"] * s})
        for s in (0, 1)
    ]
    assert any("cca: a ridge is added." in line for line in only(records).footer)


def test_tables_do_not_depend_on_the_order_of_records():
    rng = random.Random(0)
    records = [
        *(make(label, s, s, rng.random()) for label in ("cca", "cfa", "deep_sm") for s in range(3)),
        failed("kcca", 0, "one"),
        failed("kcca", 1, "two", split_seed=1),
        failed("cca", 3, "three", split_seed=3),
        make("cca", 4, 4, method={"departures": ["was other"]}),
        make("cfa", 4, 4, dataset={"fingerprint": "fedcba9876543210"}),
        *different_groups(),
    ]
    expected = page("Toys", records)
    for _ in range(5):
        rng.shuffle(records)
        assert page("Toys", records) == expected


# -- rendering --------------------------------------------------------------------------------------

NASTY = [
    "a|b",
    r"a\|b",
    r"back\slash\\",
    r"\<b>",
    r"\&amp;",
    "`code`",
    "**bold** and *it* and _it_ and __bold__",
    "~~gone~~",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "&lt;b&gt; &#60; &nbsp;",
    "[text](https://example.org)",
    "![image](https://example.org/x.png)",
    "[ref]: https://example.org",
    "<https://example.org>",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "1) item",
    "---",
    "> quote",
    "line\nbreak\r\nand\u2028more\u2029\x85here",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066a\u2069 \u200b\u200f\ufeff",
    "\x00\x07\x08\t\x7f",
    "=====",
    "   ",
    "",
]

alphabet = st.one_of(st.sampled_from("|\\`*_~<>[]()#&;!-+=.:1 \n\r\t\x1b\u202e\u2028ab"), st.characters())
text = st.one_of(st.sampled_from(NASTY), st.text(alphabet, max_size=20))
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def shown(inline) -> str:
    """What a reader sees of an inline token; nothing but text and stress is allowed in it."""
    assert {child.type for child in inline.children} <= {"text", "strong_open", "strong_close"}
    return "".join(child.content for child in inline.children)


@given(text)
@example(r"\<")
@fixed
def test_escaped_text_is_shown_as_it_is(given_text):
    inline = MARKDOWN.parseInline(escape(given_text))[0]
    assert shown(inline) == clean(given_text)
    assert not [child for child in inline.children if child.type != "text"]


@given(text)
@fixed
def test_escaped_text_has_no_html_and_no_control_characters(given_text):
    found = escape(given_text)
    assert "<" not in found
    assert not re.search(r"&(?!lt;|amp;)", found)
    assert not [c for c in found if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@given(text)
@fixed
def test_clean_text_is_one_line_and_cleaning_it_again_changes_nothing(given_text):
    found = clean(given_text)
    assert len(found.splitlines()) <= 1
    assert clean(found) == found
    assert all(c.isprintable() or unicodedata.category(c)[0] == "Z" for c in found)


def test_plain_words_are_left_as_they_are():
    for words in ("cca (note 1)", "0.233 ± 0.153", "–", "image→text", "a ridge is added (Vinod 1976); so"):
        assert escape(words) == clean(words) == words


@st.composite
def any_table(draw):
    columns = tuple(draw(st.lists(text.filter(clean), min_size=2, max_size=4)))
    row = st.tuples(*[text] * len(columns))
    rows = tuple(draw(st.lists(row, min_size=1, max_size=3)))
    cells = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if clean(cell)]
    bold = draw(st.frozensets(st.sampled_from(cells))) if cells else frozenset()
    footer = tuple(draw(st.lists(text.filter(clean), min_size=1, max_size=3)))
    return Table(draw(text.filter(clean)), columns, rows, bold, footer)


@given(any_table())
@example(
    Table(
        "- t", ("a|b", "c"), tuple((cell, cell) for cell in NASTY), frozenset(), tuple(filter(clean, NASTY))
    )
)
@fixed
def test_markdown_shows_the_table_and_nothing_else(table):
    tokens = MARKDOWN.parse(to_markdown(table))
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == kinds.count("heading_open") == kinds.count("bullet_list_open") == 1
    footer = [*table.footer, BOLD] if table.bold else [*table.footer]
    assert kinds.count("list_item_open") == len(footer)
    assert kinds.count("tr_open") == 1 + len(table.rows)
    assert not {"html_block", "hr", "fence", "code_block", "blockquote_open"} & set(kinds)
    inline = [token for token in tokens if token.type == "inline"]
    cells = [*table.columns, *(cell for row in table.rows for cell in row)]
    expected = [table.heading, *cells, *footer]
    assert [shown(token) for token in inline] == [clean(words) for words in expected]
    first = 1 + len(table.columns)
    width = len(table.columns)
    stressed = {
        divmod(k, width)
        for k, token in enumerate(inline[first : first + width * len(table.rows)])
        if any(child.type == "strong_open" for child in token.children)
    }
    assert stressed == table.bold


@given(any_table())
@fixed
def test_every_row_of_markdown_has_the_same_number_of_borders(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    borders = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
    assert borders == {len(table.columns) + 1}


@given(any_table())
@fixed
def test_nothing_in_a_table_can_steer_a_terminal(table):
    found = to_text(table)
    assert not [c for c in found if c != "\n" and unicodedata.category(c)[0] == "C"]
    assert len(found.splitlines()) == 2 + 2 + len(table.rows) + 1 + len(table.footer)
    assert found.splitlines()[0] == clean(table.heading)


def test_markup_in_records_reaches_neither_page_nor_terminal():
    evil = "<b>|`x`|</b>\x1b[31m\u202e\n# owned"
    records = [
        make(f"cca[{evil}]", method={"departures": [evil], "title": evil}),
        failed(f"cfa[{evil}]", reason=evil),
        make(dataset={"title": evil, "split": evil, "features": evil, "provenance": {evil: {evil: evil}}}),
    ]
    written = page(evil, records)
    for unwanted in ("<b>", "`x`", "\x1b", "\u202e", "\n# owned"):
        assert unwanted not in written.replace(r"\`", "")
    assert written.count("\n# ") == 0 and written.startswith("# Leaderboard: ")
    for table in tables(records):
        assert not [c for c in to_text(table) if c != "\n" and not c.isprintable()]


def test_best_cells_are_bold_in_markdown():
    written = to_markdown(only([make("cca", scores=0.75), make("cfa", scores=0.5)]))
    rows = [line for line in written.splitlines() if line.startswith("| c")]
    assert "**0.750**" in rows[0] and rows[0].startswith("| cca")
    assert "**" not in rows[1].replace("**0.500**", "").replace("**0.250**", "")  # precision is a tie


# -- staleness --------------------------------------------------------------------------------------


def test_records_of_the_present_code_are_not_stale():
    stale = staleness(REGISTRY)
    assert not stale(make("cca")) and not stale(make("random", 4))


def test_records_of_other_code_are_stale():
    stale = staleness(REGISTRY)
    assert stale(make("cca", method={"source": "0" * 16}))
    assert stale(make("cca", method={"source": SOURCES["cfa"]}))
    assert stale(make("cca", evaluator="0" * 16))
    assert stale(make("cca", numerics="0" * 16))


def test_a_method_that_is_not_registered_cannot_be_told_to_be_stale():
    stale = staleness(REGISTRY)
    assert not stale(make("elsewhere"))
    assert stale(make("elsewhere", evaluator="0" * 16))


# -- the committed folder ---------------------------------------------------------------------------


def put(folder, *records: Record) -> Results:
    """A results folder with these records and arrays to match."""
    results = Results(folder)
    for record in records:
        results.put(record, arrays_of(record))
    return results


def arrays_of(record: Record) -> dict[str, np.ndarray]:
    arrays = {}
    for task, row in record.metrics.items():
        spread = np.linspace(-0.05, 0.05, row.n_queries - 1)
        mean = np.nan if row.mean_average_precision is None else row.mean_average_precision
        arrays[f"average_precision/{task}"] = np.append(mean + spread, np.nan)  # the last has no answer
        arrays[f"precision/{task}"] = np.linspace(1, 0, row.gallery)
    return arrays


def three() -> list[Record]:
    return [make("cca", 0, 0, 0.5), make("cca", 1, 1, 0.25), make("cfa", 0, 0, 0.125)]


@pytest.fixture
def board(tmp_path):
    """A folder with the leaderboard of three records."""
    folder = tmp_path / "boards"
    write_boards(folder, put(tmp_path / "results", *three()), REGISTRY)
    return folder


def test_a_leaderboard_holds_average_precisions_alone(tmp_path):
    """Neither curves, nor what a method tells of its epochs, nor the t-SNE of a figure."""
    results = put(tmp_path / "results", *three())
    for record in results:
        more = {
            "history/epoch": np.arange(3.0),
            "tsne/images": np.zeros((2, 2)),
            "history/stage": np.array(["a"]),
        }
        results.put(record, {**results.arrays(record.score_id), **more})
    write_boards(tmp_path / "boards", results, REGISTRY)
    names = {f"{record.score_id}/{task}" for record in results for task in TASKS}
    assert set(read_npz(tmp_path / "boards" / "toys.npz")) == names


def test_what_was_written_passes_the_check(board):
    assert sorted(path.name for path in board.iterdir()) == ["toys.jsonl", "toys.md", "toys.npz"]
    assert boards(board) == ["toys"]
    assert check_boards(board, REGISTRY) == ["toys"]
    assert {record.identity: record for record in read_board(board, "toys")} == {
        record.identity: record for record in three()
    }
    assert (board / "toys.md").read_text(encoding="utf-8") == page("Toys", three())


def test_arrays_are_those_of_the_records_and_no_other(board):
    arrays = read_npz(board / "toys.npz")
    assert set(arrays) == {f"{record.score_id}/{task}" for record in three() for task in TASKS}
    for record in three():
        for task in TASKS:
            expected = arrays_of(record)[f"average_precision/{task}"].astype(np.float32)
            np.testing.assert_array_equal(arrays[f"{record.score_id}/{task}"], expected)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writing_again_changes_no_byte(board, tmp_path):
    before = contents(board)
    write_boards(board, Results(tmp_path / "results"), REGISTRY)
    assert contents(board) == before
    write_boards(board, Results(tmp_path / "nothing"), REGISTRY)
    assert contents(board) == before


def test_the_bytes_do_not_depend_on_the_order_of_arrival(board, tmp_path):
    for record in reversed(three()):
        write_boards(tmp_path / "one by one", put(tmp_path / record.score_id, record), REGISTRY)
    assert contents(tmp_path / "one by one") == contents(board)


def test_a_newer_record_replaces_the_older_one_and_leaves_the_others(board, tmp_path):
    newer = make("cca", 0, 0, 0.75, method={"params": {"ridge": 99.0}})
    assert newer.identity == three()[0].identity and newer.score_id != three()[0].score_id
    write_boards(board, put(tmp_path / "new", newer), REGISTRY)
    found = {record.identity: record for record in read_board(board, "toys")}
    assert found == {record.identity: record for record in [newer, *three()[1:]]}
    assert {name.partition("/")[0] for name in read_npz(board / "toys.npz")} == {
        record.score_id for record in found.values()
    }
    check_boards(board, REGISTRY)


@pytest.mark.parametrize("ids", [("a" * 16, "b" * 16), ("b" * 16, "a" * 16)])
def test_of_two_incoming_records_the_one_of_the_present_code_stays(tmp_path, ids):
    current = make(scores=0.75, score_id=ids[0])
    stale = make(scores=0.25, score_id=ids[1], method={"source": "0" * 16})
    write_boards(tmp_path / "boards", put(tmp_path / "results", current, stale), REGISTRY)
    assert read_board(tmp_path / "boards", "toys") == [current]


@pytest.mark.parametrize("ids", [("a" * 16, "b" * 16), ("b" * 16, "a" * 16)])
def test_of_two_incoming_records_of_the_present_code_the_later_one_stays(tmp_path, ids):
    """As after a dataset's files have changed: nothing but the time tells which one is meant."""
    older = make(scores=0.25, score_id=ids[0])
    newer = make(scores=0.75, score_id=ids[1], dataset={"fingerprint": "fedcba9876543210"})
    results = put(tmp_path / "results", older, newer)
    os.utime(results.record_path(older.score_id), (1_000_000_000, 1_000_000_000))
    write_boards(tmp_path / "boards", results, REGISTRY)
    assert read_board(tmp_path / "boards", "toys") == [newer]


def test_rows_run_on_other_data_do_not_come_into_a_table(board, tmp_path):
    before = contents(board)
    other = make("cca", 0, 0, 0.75, dataset={"fingerprint": "fedcba9876543210"})
    with pytest.raises(InvalidRecord, match=r"split seed 0: .* was run on data .*fedcba9876543210"):
        write_boards(board, put(tmp_path / "new", other), REGISTRY)
    assert contents(board) == before


def test_methods_that_are_not_registered_are_left_out(board, tmp_path):
    before = contents(board)
    write_boards(board, put(tmp_path / "new", make("mine", 0, 0, 0.9)), REGISTRY)
    assert contents(board) == before


def test_a_dataset_s_name_cannot_leave_the_folder(tmp_path):
    results = put(tmp_path / "new", make(dataset={"name": "../../toys"}))
    with pytest.raises(InvalidRecord, match="no name of a dataset"):
        write_boards(tmp_path / "a" / "b" / "boards", results, REGISTRY)
    assert not list(tmp_path.glob("**/toys*"))


def test_a_parameter_changed_in_a_record_contradicts_its_ids(board):
    record = three()[0]
    changed = msgspec.structs.replace(record.method, params={**record.method.params, "ridge": 77.0})
    before, after = encode(record).decode(), encode(msgspec.structs.replace(record, method=changed)).decode()
    edit(board / "toys.jsonl", before, after)
    with pytest.raises(InvalidRecord, match="not those that its ids were made from"):
        check_boards(board, REGISTRY)


def test_tuned_and_untuned_runs_of_one_method_stand_side_by_side(board, tmp_path):
    folder = tmp_path / "tuned"
    both = [make(tuning=tuned()), make(tuning=tuned(budget=5))]
    pages = write_boards(folder, put(tmp_path / "more", make(), *both), REGISTRY)
    assert len(read_board(folder, "toys")) == 3
    assert pages[0].read_text(encoding="utf-8").count("\n## ") == 3
    assert check_boards(folder, REGISTRY) == ["toys"]
    write_boards(folder, put(tmp_path / "again", make(tuning=tuned(), scores=0.75)), REGISTRY)
    assert sorted(
        record.metrics["image->text"].mean_average_precision for record in read_board(folder, "toys")
    ) == [
        0.5,
        0.5,
        0.75,
    ]


def test_a_changed_trial_contradicts_the_ids(tmp_path):
    folder = tmp_path / "tuned"
    write_boards(folder, put(tmp_path / "more", make(tuning=tuned())), REGISTRY)
    edit(folder / "toys.jsonl", '"ridge":0.1', '"ridge":0.2')
    with pytest.raises(InvalidRecord, match="its parameters"):
        check_boards(folder, REGISTRY)


def test_a_stale_record_does_not_replace_a_committed_one_of_the_present_code(board, tmp_path):
    stale = make("cca", 0, 0, 0.75, method={"source": "0" * 16})
    write_boards(board, put(tmp_path / "old", stale), REGISTRY)
    assert stale not in read_board(board, "toys")
    assert three()[0] in read_board(board, "toys")


def test_failed_runs_are_not_committed(tmp_path):
    results = put(tmp_path / "results", make("cca"), failed("cfa"))
    write_boards(tmp_path / "boards", results, REGISTRY)
    assert read_board(tmp_path / "boards", "toys") == [make("cca")]
    assert "diverged" not in (tmp_path / "boards" / "toys.md").read_text(encoding="utf-8")


def test_a_failure_does_not_take_a_committed_record_away(board, tmp_path):
    before = contents(board)
    write_boards(board, put(tmp_path / "new", failed("cca", 0)), REGISTRY)
    assert contents(board) == before


def test_datasets_have_files_of_their_own_and_one_can_be_written_alone(board, tmp_path):
    other = make("cca", dataset={"name": "other", "title": "Other"})
    again = make("cca", 7, 7)
    results = put(tmp_path / "more", other, again)
    before = contents(board)
    assert write_boards(board, results, REGISTRY, only="other") == [board / "other.md"]
    assert {name: content for name, content in contents(board).items() if "toys" in name} == before
    assert check_boards(board, REGISTRY) == ["other", "toys"]
    assert check_boards(board, REGISTRY, only="other") == ["other"]
    assert write_boards(board, results, REGISTRY) == [board / "other.md", board / "toys.md"]


def test_stale_rows_are_marked_on_the_page(tmp_path):
    stale = make("cca", 0, 0, 0.9, method={"source": "0" * 16})
    write_boards(tmp_path, put(tmp_path / "results", stale, make("cfa")), REGISTRY)
    written = (tmp_path / "toys.md").read_text(encoding="utf-8")
    assert "| cca (stale)" in written
    assert "**0.900**" not in written and "**0.500**" in written
    assert check_boards(tmp_path, REGISTRY) == ["toys"]


def test_a_page_whose_rows_have_become_stale_is_out_of_date(board, tmp_path):
    changed = Registry()
    file = tmp_path / "cca.py"
    file.write_text("METHOD = None\n")
    changed.methods["cca"] = dataclass_replace(changed.methods["cca"], path=file)
    with pytest.raises(LeaderboardDrift, match=r"cca \(stale\)"):
        check_boards(board, changed)


def test_separators_of_unicode_in_a_record_do_not_break_its_line(tmp_path):
    record = make("cca", method={"title": "line\u2028para\u2029next\x85end"})
    write_boards(tmp_path, put(tmp_path / "results", record), REGISTRY)
    assert read_board(tmp_path, "toys") == [record]
    assert check_boards(tmp_path, REGISTRY) == ["toys"]


# -- finding what was changed -----------------------------------------------------------------------


def edit(path, before: str, after: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(before) >= 1
    path.write_text(content.replace(before, after, 1), encoding="utf-8")


def test_a_digit_changed_on_the_page_is_found_and_shown(board):
    edit(board / "toys.md", "0.375 ± 0.177", "0.376 ± 0.177")
    with pytest.raises(LeaderboardDrift) as caught:
        check_boards(board, REGISTRY)
    assert caught.value.exit_code == 4
    assert "toys.md" in str(caught.value)
    assert "0.376 ± 0.177" in str(caught.value) and "0.375 ± 0.177" in str(caught.value)


def test_a_missing_page_is_found(board):
    (board / "toys.md").unlink()
    with pytest.raises(LeaderboardDrift, match=r"toys\.md"):
        check_boards(board, REGISTRY)


def test_a_changed_mean_in_a_record_contradicts_its_queries(board):
    edit(board / "toys.jsonl", '"mean_average_precision":0.25', '"mean_average_precision":0.26')
    with pytest.raises(InvalidRecord, match=r"cca.*0\.26 in the record") as caught:
        check_boards(board, REGISTRY)
    assert caught.value.exit_code == 4


def test_a_mean_that_is_gone_from_a_record_contradicts_its_queries(board):
    edit(board / "toys.jsonl", '"mean_average_precision":0.25', '"mean_average_precision":null')
    with pytest.raises(InvalidRecord, match="None in the record"):
        check_boards(board, REGISTRY)


def test_another_number_changed_in_a_record_is_found_on_the_page(board):
    row = encode(three()[0]).decode().partition('"image->text":')[2].partition("}")[0]
    edit(board / "toys.jsonl", f'"image->text":{row}', f'"image->text":{row.replace("0.125", "0.25")}')
    with pytest.raises(LeaderboardDrift):
        check_boards(board, REGISTRY)


def test_a_record_added_or_dropped_is_found(board):
    lines = (board / "toys.jsonl").read_bytes().splitlines(keepends=True)
    (board / "toys.jsonl").write_bytes(b"".join(lines[1:]))
    with pytest.raises(LeaderboardDrift):
        check_boards(board, REGISTRY)
    (board / "toys.jsonl").write_bytes(b"".join(lines) + encode(make("random")) + b"\n")
    with pytest.raises(InvalidRecord, match="lacks image->all of random"):
        check_boards(board, REGISTRY)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted", "overwritten", "flipped"])
def test_damaged_arrays_are_found(board, damage):
    path = board / "toys.npz"
    whole = path.read_bytes()
    middle = whole.index(b".npy") + 60
    changed = {
        "truncated": whole[: len(whole) // 2],
        "emptied": b"",
        "overwritten": b"x" * len(whole),
        "flipped": whole[:middle]
        + bytes(byte ^ 0xFF for byte in whole[middle : middle + 8])
        + whole[middle + 8 :],
    }
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(InvalidRecord, match=r"toys\.npz") as caught:
        check_boards(board, REGISTRY)
    assert caught.value.exit_code == 4


def many(label: str = "cca", seed: int = 0, n: int = 200) -> tuple[Record, dict[str, np.ndarray]]:
    """A record of ``n`` random queries, the last of them without an answer, and its arrays."""
    rng = np.random.default_rng(seed)
    values = {task: np.append(rng.uniform(0, 1, n - 1) ** 3, np.nan) for task in TASKS}
    record = make(label, seed, seed, {task: float(np.nanmean(row)) for task, row in values.items()})
    return record, {f"average_precision/{task}": row for task, row in values.items()}


def test_many_queries_are_kept_in_few_bytes_and_pass_the_check(tmp_path):
    results = Results(tmp_path / "results")
    for seed in range(3):
        results.put(*many(seed=seed))
    folder = tmp_path / "boards"
    write_boards(folder, results, REGISTRY)
    assert check_boards(folder, REGISTRY) == ["toys"]
    assert {values.nbytes for values in read_npz(folder / "toys.npz").values()} == {2 * 200}
    before = contents(folder)
    write_boards(folder, Results(tmp_path / "nothing"), REGISTRY)
    assert contents(folder) == before


def test_a_board_of_whole_numbers_is_read_and_made_smaller(tmp_path):
    """As boards were written before: float32 for every query."""
    record, arrays = many()
    folder = tmp_path / "boards"
    write_boards(folder, put(tmp_path / "results", record), REGISTRY)
    results = Results(tmp_path / "results")
    results.put(record, arrays)
    write_boards(folder, results, REGISTRY)
    small = (folder / "toys.npz").read_bytes()
    whole = {
        f"{record.score_id}/{name.partition('/')[2]}": values.astype(np.float32)
        for name, values in arrays.items()
    }
    (folder / "toys.npz").write_bytes(npz_bytes(whole))
    assert check_boards(folder, REGISTRY) == ["toys"]
    write_boards(folder, Results(tmp_path / "nothing"), REGISTRY)
    assert len((folder / "toys.npz").read_bytes()) <= len(small) + 50
    assert check_boards(folder, REGISTRY) == ["toys"]


def test_a_packed_value_moved_by_little_is_found(tmp_path):
    """One query of 200 that loses 0.001 moves the mean by more than is allowed."""
    record, arrays = many()
    results = Results(tmp_path / "results")
    results.put(record, arrays)
    write_boards(tmp_path, results, REGISTRY)
    stored = read_npz(tmp_path / "toys.npz")
    name = f"{record.score_id}/image->text"
    steps = 1e6 / 199
    low, high = stored[name].astype(int)
    codes = low + 256 * high
    place = int(np.argmax(codes * (codes < 0xFFFF)))
    codes[place] -= round(0.001 * steps)
    stored[name] = np.stack([codes & 0xFF, codes >> 8]).astype(np.uint8)
    (tmp_path / "toys.npz").write_bytes(npz_bytes(stored))
    with pytest.raises(InvalidRecord, match=r"cca.*image->text"):
        check_boards(tmp_path, REGISTRY)


@pytest.mark.parametrize("damage", [np.zeros((3, 200), np.uint8), np.full((2, 200), 200, np.uint8)])
def test_packed_values_that_cannot_be_are_found(tmp_path, damage):
    record, arrays = many()
    results = Results(tmp_path / "results")
    results.put(record, arrays)
    write_boards(tmp_path, results, REGISTRY)
    stored = read_npz(tmp_path / "toys.npz")
    stored[f"{record.score_id}/image->text"] = damage
    (tmp_path / "toys.npz").write_bytes(npz_bytes(stored))
    with pytest.raises(InvalidRecord, match=r"toys\.npz cannot be read: packed average precision"):
        check_boards(tmp_path, REGISTRY)


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.inf])
def test_average_precision_that_is_none_is_not_committed(tmp_path, wrong):
    record, arrays = many()
    arrays["average_precision/text->all"][7] = wrong
    results = Results(tmp_path / "results")
    results.put(record, arrays)
    with pytest.raises(InvalidRecord, match="not between 0 and 1"):
        write_boards(tmp_path / "boards", results, REGISTRY)
    assert not (tmp_path / "boards").exists()


@pytest.mark.parametrize("change", [0.01, -0.01, np.nan])
def test_other_values_in_the_arrays_are_found(board, change):
    arrays = read_npz(board / "toys.npz")
    name = f"{three()[2].score_id}/text->all"
    arrays[name] = arrays[name] + np.float32(change)
    (board / "toys.npz").write_bytes(npz_bytes(arrays))
    with pytest.raises(InvalidRecord, match=r"cfa.*text->all"):
        check_boards(board, REGISTRY)


def test_a_missing_array_is_found(board):
    arrays = read_npz(board / "toys.npz")
    del arrays[f"{three()[2].score_id}/text->all"]
    (board / "toys.npz").write_bytes(npz_bytes(arrays))
    with pytest.raises(InvalidRecord, match="lacks text->all of cfa"):
        check_boards(board, REGISTRY)


def test_a_damaged_line_is_named(board):
    lines = (board / "toys.jsonl").read_bytes().splitlines(keepends=True)
    (board / "toys.jsonl").write_bytes(lines[0] + lines[1][:-20] + b"\n" + lines[2])
    with pytest.raises(InvalidRecord, match=r"toys\.jsonl, line 2") as caught:
        check_boards(board, REGISTRY)
    assert caught.value.exit_code == 4


def test_damaged_committed_arrays_stop_a_merge_with_a_clear_error(board, tmp_path):
    (board / "toys.npz").write_bytes((board / "toys.npz").read_bytes()[:100])
    with pytest.raises(InvalidRecord, match=r"toys\.npz"):
        write_boards(board, put(tmp_path / "new", make("random")), REGISTRY)


def test_an_undefined_score_agrees_with_queries_without_an_answer(tmp_path):
    record = make(scores={**dict.fromkeys(TASKS, 0.5), "image->all": None})
    write_boards(tmp_path, put(tmp_path / "results", record), REGISTRY)
    assert read_board(tmp_path, "toys") == [record]
    assert check_boards(tmp_path, REGISTRY) == ["toys"]


def test_missing_arrays_of_a_result_stop_a_merge_with_a_clear_error(board, tmp_path):
    results = put(tmp_path / "new", make("random"))
    results.record_path(make("random").score_id).with_suffix(".npz").unlink()
    before = contents(board)
    with pytest.raises(InvalidRecord, match=make("random").score_id):
        write_boards(board, results, REGISTRY)
    assert contents(board) == before


def test_a_page_without_records_is_an_error_in_words(board, tmp_path):
    (board / "toys.jsonl").unlink()
    with pytest.raises(MissingData, match=r"toys\.jsonl"):
        check_boards(board, REGISTRY)
    with pytest.raises(XmbenchError, match=r"toys\.jsonl"):
        write_boards(board, Results(tmp_path / "nothing"), REGISTRY)


def test_a_page_without_records_is_made_anew_from_results(board, tmp_path):
    before = contents(board)
    (board / "toys.jsonl").unlink()
    write_boards(board, Results(tmp_path / "results"), REGISTRY)
    assert contents(board) == before


def test_an_emptied_file_of_records_is_an_error_in_words(board, tmp_path):
    (board / "toys.jsonl").write_bytes(b"")
    with pytest.raises(InvalidRecord, match=r"toys\.jsonl"):
        check_boards(board, REGISTRY)
    with pytest.raises(InvalidRecord, match=r"toys\.jsonl"):
        write_boards(board, Results(tmp_path / "nothing"), REGISTRY)


def test_no_leaderboard_is_an_error_in_words(board, tmp_path):
    with pytest.raises(MissingData, match="no leaderboard"):
        check_boards(tmp_path / "nowhere", REGISTRY)
    with pytest.raises(MissingData, match="no leaderboard tois"):
        check_boards(board, REGISTRY, only="tois")


def test_nothing_to_write_is_an_error_in_words(board, tmp_path):
    with pytest.raises(XmbenchError, match="no finished record"):
        write_boards(tmp_path / "nowhere", Results(tmp_path / "nothing"), REGISTRY)
    with pytest.raises(XmbenchError, match="tois"):
        write_boards(board, Results(tmp_path / "results"), REGISTRY, only="tois")


# -- comparing a re-run -----------------------------------------------------------------------------


def moved_by(amount: float, *, trained: bool) -> list[str]:
    scores = {**dict.fromkeys(TASKS, 0.5), "text->all": 0.5 + amount}
    method = {"trained": trained}
    return compare([make(method=method)], [make(scores=scores, method=method)])


def test_a_closed_form_may_move_by_rounding_alone():
    assert moved_by(0.0, trained=False) == []
    assert moved_by(9e-7, trained=False) == moved_by(-9e-7, trained=False) == []
    (found,) = moved_by(2e-6, trained=False)
    assert "cca, seed 0: text->all moved from 0.5" in found and "1e-06" in found
    assert moved_by(-2e-6, trained=False)


def test_a_trained_method_may_move_by_six_points():
    assert moved_by(0.059, trained=True) == moved_by(-0.059, trained=True) == []
    (found,) = moved_by(0.061, trained=True)
    assert "0.06" in found
    assert moved_by(-0.061, trained=True)


def test_a_run_that_failed_or_was_not_done_counts_as_moved():
    assert compare([make("cca", 3)], []) == ["cca, seed 3: was not run"]
    (found,) = compare([make("cca", 3)], [failed("cca", 3, "it diverged")])
    assert found == "cca, seed 3: failed: it diverged"


def test_a_score_that_came_or_went_counts_as_moved():
    undefined = {**dict.fromkeys(TASKS, 0.5), "image->all": None}
    assert len(compare([make(scores=undefined)], [make()])) == 1
    assert len(compare([make()], [make(scores=undefined)])) == 1
    assert compare([make(scores=undefined)], [make(scores=undefined)]) == []


def test_runs_are_matched_by_what_they_are_runs_of():
    committed = [make("cca", seed, seed, 0.1 * seed) for seed in range(3)]
    assert compare(committed, [*reversed(committed), make("cfa", scores=0.9)]) == []
    assert len(compare(committed, [make("cca", 1, 1, 0.1)])) == 2
