"""Published figures: what is known of them, where they stand, and that their claims can hold, fail and stay open."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_leaderboard import REGISTRY, arrays_of, edit, make

from xmbench.differences import examine
from xmbench.errors import LeaderboardDrift
from xmbench.leaderboard import (
    SCORES,
    check_boards,
    page,
    read_board,
    tables,
    to_markdown,
    to_text,
    write_boards,
)
from xmbench.protocol import PROTOCOLS
from xmbench.published import CLAIMS, READING, TASKS, beside, comparison, labels, published_tables, ranking
from xmbench.record import Results
from xmbench.registry import label_of, parse_spec

ROOT = Path(__file__).resolve().parent.parent
TABLES = published_tables()
every = pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.dataset} {table.title}")

WIKIPEDIA = {"name": "wikipedia", "title": "Wikipedia", "split": "acmr", "features": "sift+lda"}
METHODS = {"cca[preset=unregularised]": 0.2, "cca_3v": 0.25, "lcfs": 0.3, "jrl": 0.35, "acmr": 0.4}


def records(scores=METHODS, n_splits=5, dataset=None, spread=0.01, **more):
    """Runs over seeded splits: each method about its score."""
    rng = np.random.default_rng(0)
    return [
        make(
            label,
            seed,
            seed,
            score + spread * rng.uniform(),
            dataset={**WIKIPEDIA, "fingerprint": f"{seed:016x}", **(dataset or {})},
            **more,
        )
        for label, score in scores.items()
        for seed in range(n_splits)
    ]


def only(some):
    (table,) = tables(some)
    return table


def claims_of(other):
    """(above, below) -> verdict, of the cells."""
    return {tuple(cells[0].split(" > ")): cells[-1] for cells in other.claims}


# -- the file -----------------------------------------------------------------------------------------


@every
def test_figures_are_precisions_and_averages_are_means_of_the_two_directions(table):
    for method, figures in table.figures.items():
        assert len(figures) == len(table.tasks) and all(0 < figure < 1 for figure in figures)
        for a, b, mean in (figures[i : i + 3] for i in range(0, len(figures), 3)):
            printed_wrong = (table.title, method) in {
                ("ACMR, Table 2, deep features", "ACMR"),
                ("ACMR, Table 3", "Bimodal-AE"),
            }
            assert abs((a + b) / 2 - mean) < (0.01 if printed_wrong else 0.0016), method


@every
def test_what_a_table_names_is_there(table):
    assert set(table.protocols) <= PROTOCOLS.keys() and "default" in table.protocols
    if table.dataset in REGISTRY.datasets:
        dataset = REGISTRY.dataset(table.dataset)
        assert set(table.splits) <= dataset.splits.keys()
        for features in table.same_features:
            image, text = features.split("+")
            assert image in dataset.stored["image"] and text in dataset.stored["text"]
    for words in (
        table.source,
        table.provenance,
        table.features,
        table.sizes,
        *table.protocols.values(),
        *table.remarks,
    ):
        assert words and words == words.strip() and words.isprintable()


@every
def test_labels_are_methods_with_parameters_that_they_take(table):
    for method in table.figures:
        mine = labels(method)
        assert mine and len(set(mine)) == len(mine)
        for label in mine:
            name, parameters = parse_spec(label)
            assert label_of(name, parameters) == label
            if name in REGISTRY.methods:
                REGISTRY.method(name).resolve(parameters)


def test_no_label_stands_for_two_methods():
    methods = {method for table in TABLES for method in table.figures}
    mine = [label for method in methods for label in labels(method)]
    assert len(mine) == len(set(mine))
    assert labels("CCA")[0] == "cca[preset=unregularised]" and labels("JRL")[0] == "jrl"


def test_known_figures_are_those_of_the_papers():
    (shallow,) = [table for table in TABLES if table.title == "ACMR, Table 2, shallow features"]
    assert shallow.figures["CCA"][:2] == (0.255, 0.185) and shallow.figures["JRL"][:2] == (0.344, 0.277)
    (second,) = [table for table in TABLES if table.title == "CM-GANs, Table II"]
    assert second.figures["CM-GANs"] == (0.603, 0.604, 0.604, 0.584, 0.698, 0.641)


def test_the_file_is_part_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "published.json" in project["tool"]["setuptools"]["package-data"]["xmbench"]
    assert json.loads((ROOT / "xmbench" / "published.json").read_text(encoding="utf-8"))["tables"]


# -- where they stand ---------------------------------------------------------------------------------


@every
def test_a_table_stands_beside_its_dataset_and_splits_alone(table):
    features = table.same_features[0] if table.same_features else "other+other"
    for split in table.splits:
        for protocol in table.protocols:
            assert table in beside(table.dataset, split, features, protocol)
        assert table not in beside(table.dataset, split, features, "trec")
        assert table not in beside("toys", split, features, "default")
    assert table not in beside(table.dataset, "elsewhere", features, "default")


def test_of_one_paper_the_table_of_the_same_features_stands_there():
    assert [t.title for t in beside("wikipedia", "acmr", "sift+lda", "default")] == [
        "ACMR, Table 2, shallow features"
    ]
    assert [t.title for t in beside("wikipedia", "acmr", "vgg+tfidf", "default")] == [
        "ACMR, Table 2, deep features"
    ]
    assert {t.title for t in beside("pascal", "cmgans", "lite0+tfidf", "default")} == {
        "ACMR, Table 3",
        "CM-GANs, Table II",
    }


def test_differences_are_marked_in_words():
    (table,) = beside("wikipedia", "acmr", "sift+lda", "default")
    same = " ".join(table.differences("sift+lda", "default", "ours"))
    assert "features differ" not in same
    for words in (
        "split differs",
        "1,300 training, 1,566 test",
        "protocol may differ",
        "map@50-hits-l2",
    ):
        assert words in same
    assert table.differences("sift+tfidf", "default", "ours")[0].startswith("features differ: SIFT")


# -- figures ------------------------------------------------------------------------------------------


@every
def test_every_published_method_has_a_row_by_falling_average(table):
    known = {
        label: [f"mine {task}" for task in TASKS] for label in ("cca", "cca[preset=unregularised]", "jrl")
    }
    rows = comparison(table, known)
    assert {row[0] for row in rows} == set(table.figures)
    assert {row[1] for row in rows} == known.keys() | {"–"}
    averages = [float(row[4].rpartition("/")[2]) for row in rows]
    assert averages == sorted(averages, reverse=True)
    for method, label, *cells in rows:
        mine = known.get(label, ["–"] * 6)
        figures = table.figures[method]
        assert cells == [f"{cell} / {figure:.3f}" for cell, figure in zip(mine, figures, strict=False)]


def test_ours_are_the_means_of_the_table_above():
    some = records()
    table = only(some)
    (other,) = table.published
    assert other.columns[2:] == TASKS[:3]
    for row in table.rows:
        label = row[0].partition(" (")[0]
        mine = [cells for cells in other.rows if cells[1] == label]
        assert len(mine) == (label in METHODS)
        for cells in mine:
            for title, cell in zip(other.columns[2:], cells[2:], strict=True):
                assert cell.startswith(row[table.columns.index(title)][:5] + " / ") and title in SCORES


def test_published_figures_are_neither_bold_nor_ranked():
    some = records({**METHODS, "random": 0.1})
    written = page("Wikipedia", some)
    head, _, tail = written.partition("### Published figures: ACMR, Table 2, shallow features")
    section = tail.partition("### Claims of the papers")[0]
    assert "**0.40" in head and "**" not in section and "random" not in section
    assert "| acmr" not in head.replace("| acmr ", "", 1)  # one row, ours
    assert "– / 0.306" in section and READING in section
    assert "features differ" not in section
    assert section.startswith(" (split differs, protocol may differ)\n")


def test_a_terminal_has_them_too_and_other_tables_have_none():
    assert "– / 0.306" in to_text(only(records()))
    for changed in ({"dataset": {"split": "official"}}, {"protocol": "l2"}, {"dataset": {"name": "toys"}}):
        table = only(records(**changed))
        assert table.published == () and "ublished" not in to_text(table) + to_markdown(table)


def test_all_modal_figures_stand_where_the_paper_has_them():
    dataset = {"name": "pascal", "split": "cmgans", "features": "lite0+tfidf"}
    (acmr, cmgans) = only(records(dataset=dataset)).published
    assert (acmr.columns[2:], cmgans.columns[2:]) == (TASKS[:3], TASKS)
    (row,) = [cells for cells in cmgans.rows if cells[1] == "jrl"]
    assert row[-1].endswith("/ 0.596")
    assert cmgans.marks == ("features differ", "split differs", "protocol may differ")
    assert all(any(line.lower().startswith(f"{mark}: ") for line in cmgans.footer) for mark in cmgans.marks)


# -- claims -------------------------------------------------------------------------------------------


@every
def test_every_pair_is_claimed_once_in_the_published_order(table):
    known = [label for method in table.figures for label in labels(method)]
    found = ranking(table, known)
    average = {labels(method)[0]: figures[2] for method, figures in table.figures.items()}
    pairs = {frozenset(pair) for pair in itertools.combinations(average, 2)}
    ties = {pair for pair in pairs if len({average[label] for label in pair}) == 1}
    assert len(found) == len(pairs - ties) and {frozenset(pair) for pair in found} == pairs - ties
    for (above, below), gap in found.items():
        assert gap == pytest.approx(average[above] - average[below]) and gap > 0
    assert ranking(table, []) == ranking(table, known[:1]) == {}


def test_the_first_row_of_a_method_that_is_there_stands_for_it():
    (table,) = beside("wikipedia", "acmr", "sift+lda", "default")
    assert set(ranking(table, ["cca", "jrl[preset=author]"])) == {("jrl[preset=author]", "cca")}
    both = ranking(table, ["cca", "cca[preset=unregularised]", "jrl", "jrl[preset=author]"])
    assert set(both) == {("jrl", "cca[preset=unregularised]")}


def test_claims_hold_where_ours_have_the_published_order_and_fail_where_they_have_the_other():
    (forward,) = only(records()).published
    assert len(forward.claims) == 10
    turned = dict(zip(METHODS, reversed(METHODS.values()), strict=True))
    (backward,) = only(records(turned)).published
    same = dict.fromkeys(METHODS, 0.3)
    (level,) = only(records(same)).published
    expected = {("cca_3v", "lcfs"): "fails", ("lcfs", "cca_3v"): "holds"}
    for pair, verdict in claims_of(forward).items():
        assert verdict == expected.get(pair, "holds"), pair  # cca_3v is published above lcfs, and is not here
    assert list(claims_of(forward)) == list(claims_of(backward))
    flip = {"holds": "fails", "fails": "holds"}
    assert claims_of(backward) == {pair: flip[verdict] for pair, verdict in claims_of(forward).items()}
    assert set(claims_of(level).values()) == {"not resolved"}
    assert forward.verdicts == "Of 10 claims: hold 9, fail 1, not resolved 0."


def test_claims_are_those_of_the_paired_statistics_adjusted_over_the_table():
    some = records(spread=0.1)
    (other,) = only(some).published
    expected = examine(some, [tuple(cells[0].split(" > ")) for cells in other.claims])
    assert [(cells[0], *cells[2:]) for cells in other.claims] == [claim.cells() for claim in expected]
    assert len({claim.p_value for claim in expected}) > 1


@pytest.mark.parametrize(
    "some",
    [
        records(n_splits=1),
        records({"jrl": 0.3}),
        records({"jrl": 0.3, "random": 0.1}),
        records(dataset={"test_fingerprint": "the same"}),
    ],
    ids=["one split", "one method", "one that is published", "the same test rows"],
)
def test_without_two_methods_on_several_splits_there_are_figures_but_no_claims(some):
    (other,) = only(some).published
    assert other.rows and other.claims == () and other.verdicts == ""
    assert "Claims of the papers" not in page("Wikipedia", some)


def test_a_page_says_what_a_claim_is_and_how_differences_are_read_once():
    some = [*records(), *records(protocol="l2"), *records(protocol="inner")]
    written = page("Wikipedia", some)
    assert written.count("### Claims of the papers: ACMR, Table 2, shallow features") == 2
    assert written.count(CLAIMS) == 2 and written.count("## How differences are read") == 1
    assert "How differences are read" not in page("Wikipedia", records({"jrl": 0.3}))


def test_runs_that_failed_stand_in_no_published_table():
    broken = [msgspec.structs.replace(record, status="failed", metrics={}, cost=None) for record in records()]
    assert only(broken).published == ()


# -- pages --------------------------------------------------------------------------------------------


def test_markup_in_records_reaches_neither_page_nor_terminal():
    evil = "<b>|`x`|</b>\x1b[31m\u202e\n# owned"
    some = records({"jrl": 0.3, "lcfs": 0.2}, dataset={"features": evil})
    written = page("Wikipedia", some)
    section = written.partition("### Published figures")[2]
    assert "owned" in section
    for unwanted in ("<b>", "`x`", "\x1b", "\u202e", "\n# owned"):
        assert unwanted not in section.replace(r"\`", "")
    assert not [c for c in to_text(only(some)) if c != "\n" and not c.isprintable()]


def test_an_edit_of_a_published_figure_or_of_a_verdict_is_found(tmp_path):
    results = Results(tmp_path / "results")
    for record in records({"jrl": 0.3, "lcfs": 0.2}):
        results.put(record, arrays_of(record))
    folder = tmp_path / "boards"
    write_boards(folder, results, REGISTRY)
    assert check_boards(folder, REGISTRY) == ["wikipedia"]
    for before, after in (("/ 0.344", "/ 0.244"), ("Of 1 claims: hold 1", "Of 1 claims: hold 0")):
        edit(folder / "wikipedia.md", before, after)
        with pytest.raises(LeaderboardDrift, match=re.escape(after)):
            check_boards(folder, REGISTRY)
        write_boards(folder, Results(tmp_path / "nothing"), REGISTRY)


@pytest.mark.parametrize("name", ["pascal", "wikipedia"])
def test_committed_records_stand_beside_the_papers(name):
    found = [other for table in tables(read_board(ROOT / "leaderboards", name)) for other in table.published]
    assert {other.title for other in found} >= {
        "pascal": {"ACMR, Table 3", "CM-GANs, Table II"},
        "wikipedia": {"ACMR, Table 2, shallow features"},
    }[name]
    assert any(other.claims for other in found)
    for other in (other for other in found if other.claims):
        assert other.verdicts.startswith(f"Of {len(other.claims)} claims")


def test_claims_against_a_row_at_chance_are_marked():
    """Where a row that stands for a method is no better than chance, its losing says nothing of the paper."""
    name = "cca[preset=unregularised]"
    for score, marked in ((0.126, True), (0.15, False)):
        written = page("Wikipedia", records({**METHODS, name: score}, spread=0.001))
        assert ("At the chance level here: cca\\[preset=unregularised\\];" in written) == marked
    assert "At the chance level" not in page("Wikipedia", records({"jrl": 0.3, "lcfs": 0.2, "random": 0.125}))
