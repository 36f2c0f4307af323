"""Claims over splits: which numbers are paired, what is refused, and what xmbench compare says."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmbench import cli
from xmbench._io import short_id
from xmbench.differences import (
    COLUMNS,
    EXPLANATION,
    Claim,
    by_split,
    comparable,
    examine,
    neighbours,
    parse_claims,
    summary,
)
from xmbench.errors import InvalidRecord, MissingData, UnknownName, UsageError
from xmbench.evaluation import TASKS
from xmbench.leaderboard import claims_of_tables, page, read_board, tables
from xmbench.protocol import PROTOCOLS
from xmbench.record import DatasetRow, MethodRow, Record, Results, TaskRow, encode
from xmbench.stats import Difference, holm, paired_difference
from xmbench.tuning import Trial, Tuning

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=100)
SIZES = {"train": 80, "validation": 10, "test": 20}


def make(
    label, split_seed, score, *, seed=0, protocol="default", dataset=None, status="ok", tuning=None, **both
):
    """A record with ``score`` as MAP of image->text and text->image, unless ``both`` names them."""
    both = {"image->text": score, "text->image": score, **both}
    tasks = {
        task: TaskRow(
            mean_average_precision=both.get(task, 0.5),
            chance=0.1,
            precision={},
            per_class={},
            n_queries=20,
            n_unanswerable=0,
            gallery=20,
        )
        for task in TASKS
    }
    row = {
        "name": "toys",
        "title": "Toys",
        "features": "a+b",
        "scaling": "none+none",
        "provenance": {},
        "split": "random",
        "split_seed": split_seed,
        "sizes": SIZES,
        "n_classes": 2,
        "fingerprint": f"print {split_seed}",
        **(dataset or {}),
    }
    method = MethodRow(
        name=label.partition("[")[0],
        label=label,
        title=label,
        params={},
        source="0",
        supervised=False,
        transductive=False,
        control=False,
        trained=False,
        departures=[],
    )
    name = f"{label} {row['split']} {split_seed} {seed} {protocol} {tuning} {score}"
    return Record(
        fit_id="f",
        score_id=short_id(name),
        status=status,
        reason=None if status == "ok" else "no",
        method=method,
        dataset=DatasetRow(**row),
        protocol=PROTOCOLS[protocol].to_dict(),
        seed=seed,
        metrics=tasks if status == "ok" else {},
        tuning=tuning,
        numerics="n",
        evaluator="e",
    )


def runs(label, scores, **more):
    """One record for each split: split seed -> score, or scores of splits 0, 1, ..."""
    found = scores if isinstance(scores, dict) else dict(enumerate(scores))
    return [make(label, split_seed, score, **more) for split_seed, score in found.items()]


def ledger(mode="random", budget=4, *, fails=False):
    return Tuning(mode, budget, [Trial({}, None if fails else 0.5, 0.1)], None if fails else 0)


# -- which numbers are paired -----------------------------------------------------------------------


def test_scores_are_means_of_both_directions_and_of_method_seeds():
    records = [
        make("cca", 0, 0, **{"image->text": 0.25, "text->image": 0.75}),
        make("cca", 0, 0, seed=1, **{"image->text": 0.5, "text->image": 0.75}),
        make("cca", 3, 0.125),
        make("cfa", 3, 0.25),
    ]
    assert by_split(records) == {"cca": {0: 0.5625, 3: 0.125}, "cfa": {3: 0.25}}


def test_fixed_splits_failures_and_undefined_scores_are_left_out():
    records = [
        make("cca", None, 0.5),
        make("cca", 0, 0.5, status="failed"),
        make("cca", 1, 0.5, **{"text->image": None}),
        make("cca", 2, 0.5),
    ]
    assert by_split(records) == {"cca": {2: 0.5}}


def test_splits_are_paired_by_seed_and_not_by_order():
    above, below = {0: 0.9, 1: 0.5, 2: 0.7}, {2: 0.6, 0: 0.8, 1: 0.3}
    (claim,) = examine([*runs("a", above), *runs("b", below)], [("a", "b")])
    expected = paired_difference([0.9, 0.5, 0.7], [0.8, 0.3, 0.6], n_train=80, n_test=20)
    assert claim.difference == expected and (claim.above, claim.below) == ("a", "b")
    (turned,) = examine([*runs("b", below), *runs("a", above)][::-1], [("a", "b")])
    assert turned == claim


def test_only_common_splits_count_and_sizes_are_theirs():
    big = {"dataset": {"sizes": {"train": 800, "test": 200}}}
    records = [
        *runs("a", {0: 0.9, 1: 0.5, 2: 0.7}),
        *runs("b", {1: 0.4, 2: 0.5, 3: 0.1}),
        *runs("a", {7: 0.1}, **big),
    ]
    (claim,) = examine(records, [("a", "b")])
    assert claim.difference == paired_difference([0.5, 0.7], [0.4, 0.5], n_train=80, n_test=20)


def test_p_values_are_adjusted_over_the_claims_and_verdicts_follow_them():
    records = [
        *runs("a", [0.91, 0.90, 0.92, 0.91]),
        *runs("b", [0.51, 0.52, 0.50, 0.51]),
        *runs("c", [0.50, 0.53, 0.49, 0.52]),
    ]
    claims = [("a", "b"), ("b", "a"), ("b", "c")]
    found = examine(records, claims)
    raw = [examine(records, [claim])[0].difference.p_value for claim in claims]
    assert [claim.p_value for claim in found] == holm(raw)
    assert [claim.verdict for claim in found] == ["holds", "fails", "not resolved"]


def test_what_cannot_be_examined_is_refused_in_words():
    records = [*runs("cca", [0.5, 0.6]), *runs("cfa", {1: 0.5, 2: 0.5}), *runs("fixed", {None: 0.5})]
    with pytest.raises(UnknownName, match=r"unknown method among these runs.*'ccaa'; did you mean cca"):
        examine(records, [("ccaa", "cfa")])
    with pytest.raises(UnknownName, match="seeded splits 'fixed'"):
        examine(records, [("cca", "fixed")])
    with pytest.raises(MissingData, match=r"cca and cfa have 1 split in common.*--seeds 0-4"):
        examine(records, [("cca", "cfa")])
    with pytest.raises(MissingData, match="have 0 splits in common"):
        examine([*records, *runs("jrl", {9: 0.5})], [("cca", "jrl")])
    for sizes in ({"test": 20}, {"train": 80}, {"train": 0, "test": 20}):
        broken = [*runs("cca", [0.5, 0.6], dataset={"sizes": sizes}), *runs("cfa", [0.5, 0.5])]
        with pytest.raises(InvalidRecord, match="how many training and test rows"):
            examine(broken[::-1], [("cca", "cfa")])


# -- neighbours -------------------------------------------------------------------------------------


def test_neighbours_go_down_by_mean_over_the_splits_that_all_share():
    records = [
        *runs("low", [0.1, 0.2, 0.1]),
        *runs("high", [0.8, 0.7, 0.9]),
        *runs("b", {0: 0.5, 1: 0.5, 9: 1.0}),  # split 9 would put it first
        *runs("a", [0.5, 0.5, 0.0]),  # split 2 would put it below "b"; equal means go by name
        *runs("fixed", {None: 0.99}),
        *runs("broken", [0.5, 0.5, 0.5], status="failed"),
    ]
    found = neighbours(records)
    assert [(claim.above, claim.below) for claim in found] == [("high", "a"), ("a", "b"), ("b", "low")]
    assert [claim.difference.n_splits for claim in found] == [2, 2, 2]
    assert found == neighbours(records[::-1])


@pytest.mark.parametrize(
    "records",
    [
        [],
        runs("a", [0.5, 0.6]),
        [*runs("a", [0.5]), *runs("b", [0.4])],
        [*runs("a", [0.5, 0.5]), *runs("b", {1: 0.5, 2: 1})],
    ],
)
def test_without_two_methods_on_two_common_splits_there_are_none(records):
    assert neighbours(records) == []


def test_a_claim_between_neighbouring_rows_never_fails_and_the_page_says_so():
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = [f"m{i}" for i in range(5)]
        records = [record for label in labels for record in runs(label, rng.uniform(0.4, 0.6, 4).tolist())]
        assert "fails" not in {claim.verdict for claim in neighbours(records)}
    for words in ("never fail", "Intervals are not adjusted"):
        assert words in EXPLANATION and words in page("Toys", records)


def test_claims_are_counted_by_verdict():
    claims = [
        Claim("a", "b", Difference(0.1, 0, 0.2, 0.5, 5), 0.5, verdict)
        for verdict in ("holds", "fails", "holds", "not resolved")
    ]
    assert summary(claims) == "Of 4 claims: hold 2, fail 1, not resolved 1."


def test_comparable_methods_are_those_of_the_neighbouring_rows():
    records = [*runs("low", [0.1, 0.2]), *runs("high", [0.8, 0.7]), *runs("once", [0.5])]
    labels, kept = comparable(records)
    assert labels == ["high", "low"] and {record.method.label for record in kept} == {"high", "low"}
    assert comparable(runs("once", [0.5])) == ([], [])


# -- chains -----------------------------------------------------------------------------------------

label = st.sampled_from(["cca", "kcca", "deep_sm", "cca[ridge=1]", "a[b=0.1,c=none]", "x", "m[preset=small]"])
space = st.sampled_from(["", " ", "  ", "\t"])


@fixed
@given(st.lists(label, min_size=2, max_size=6, unique=True), space, st.booleans())
def test_a_chain_is_a_claim_of_each_label_against_the_next(labels, gap, rising):
    text = f"{gap}{'<' if rising else '>'}{gap}".join(labels)
    pairs = list(itertools.pairwise(labels))
    assert parse_claims([f"{gap}{text}{gap}"]) == ([(b, a) for a, b in pairs] if rising else pairs)


def test_chains_add_up_and_each_claim_counts_once():
    assert parse_claims(["cca<kcca<cfa", "cfa>kcca", "jrl > cca[ridge=1]"]) == [
        ("kcca", "cca"),
        ("cfa", "kcca"),
        ("jrl", "cca[ridge=1]"),
    ]
    assert parse_claims([]) == []


@pytest.mark.parametrize(
    "text", ["", "cca", "<", "cca<", ">cca", "a<<b", "a< <b", "a<b>c", "a>b<c", "a<>b", "a=b"]
)
def test_what_is_no_chain_is_refused(text):
    with pytest.raises(UsageError, match="--claim: expected a chain"):
        parse_claims(["a<b", text])


@pytest.mark.parametrize("text", ["a<a", "a > a", "a<b<b<c"])
def test_a_method_against_itself_is_refused(text):
    with pytest.raises(UsageError, match="against itself"):
        parse_claims([text])


# -- tables -----------------------------------------------------------------------------------------


def test_cells_say_the_claim_its_interval_and_its_verdict():
    claim = Claim("a", "b", Difference(0.12345, 0.1, -0.0004, 0.01, 5), 0.0004, "holds")
    assert claim.cells() == ("a > b", "+0.123", "+0.100 to -0.000", "5", "< 0.001", "holds")
    assert len(claim.cells()) == len(COLUMNS)
    assert Claim("a", "b", claim.difference, 0.0514, "not resolved").cells()[4] == "0.051"


def test_pages_have_neighbouring_rows_where_there_are_several_splits():
    several = [*runs("cca", [0.5, 0.6, 0.7]), *runs("cfa", [0.4, 0.5, 0.7])]
    text = page("Toys", several)
    assert text.count("### Neighbouring rows") == 1 and re.search(r"cca \S+ cfa", text)
    assert "corrected resampled t" in text and "Nadeau" in EXPLANATION and "Holm" in EXPLANATION
    for claims in ([*runs("cca", [0.5]), *runs("cfa", [0.4])], runs("cca", [0.5, 0.6])):
        assert "Neighbouring" not in page("Toys", claims)


def test_markup_in_labels_reaches_neither_page_nor_terminal(tmp_path, monkeypatch, capsys):
    evil = "<b>|`x`|</b>\x1b[31m\u202e\n# owned"
    records = [*runs("cca", [0.5, 0.6]), *runs(f"cfa[{evil}]", [0.4, 0.5])]
    written = page("Toys", records)
    claims = written.partition("### Neighbouring rows")[2]
    assert "owned" in claims
    for unwanted in ("<b>", "`x`", "\x1b", "\u202e", "\n# owned"):
        assert unwanted not in claims.replace(r"\`", "")
    fill(tmp_path, records)
    for more in ([], ["--claim", "cfb<cca"]):
        code, out, err = call(monkeypatch, capsys, "compare", "-d", "toys", "--results", tmp_path, *more)
        assert code == (2 if more else 0) and "owned" in out + err
        assert not [c for c in out + err if c != "\n" and not c.isprintable()]


def test_each_table_has_a_heading_of_its_own():
    """Two budgets are two tables; the same heading for both would drop one."""
    pairs = [None, ledger(), ledger(budget=5), ledger("grid")]
    records = [
        record
        for tuning in pairs
        for name, scores in (("cca", [0.5, 0.6]), ("cfa", [0.4, 0.6]))
        for record in runs(name, scores, tuning=tuning)
    ]
    records += [*runs("cca", [0.3, 0.4], protocol="l2"), *runs("cfa", [0.4, 0.6], protocol="l2")]
    assert len(claims_of_tables(records)) == len(tables(records)) == 5
    assert [table.heading for table in tables(records)] == list(claims_of_tables(records))


def test_a_table_that_cannot_tell_says_why_and_if_none_can_it_is_an_error():
    records = [*runs("cca", [0.5, 0.6]), *runs("cfa", [0.4, 0.5]), *runs("cca", [0.5, 0.6], protocol="l2")]
    first, second = claims_of_tables(records, [("cca", "cfa")]).values()
    assert [claim.above for claim in first] == ["cca"] and "'cfa'" in second
    with pytest.raises(UnknownName, match="jrl"):
        claims_of_tables(records, [("cca", "jrl")])
    assert list(claims_of_tables(records).values())[1] == []


def test_runs_on_different_data_are_not_compared():
    other = runs("cfa", [0.4, 0.5], dataset={"fingerprint": "other"})
    with pytest.raises(InvalidRecord, match="cfa was run on data other, cca on print 0"):
        claims_of_tables([*runs("cca", [0.5, 0.6]), *other])


# -- xmbench compare --------------------------------------------------------------------------------


def fill(folder, records):
    """Write records, each later than the one before."""
    results = Results(folder)
    for number, record in enumerate(records):
        results.put(record)
        os.utime(results.record_path(record.score_id), ns=(0, 10**18 + number * 10**9))
    return results


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code, out, err


TOYS = [
    *runs("cca", [0.50, 0.61, 0.70]),
    *runs("cfa", [0.40, 0.50, 0.59]),
    *runs("jrl", [0.41, 0.48, 0.60]),
    *runs("cca", [0.1, 0.2, 0.3], dataset={"name": "other", "title": "Other"}),
]


@pytest.mark.parametrize("where", ["results", "board"])
def test_compare_prints_neighbours_or_claims_as_text_and_as_json(where, tmp_path, monkeypatch, capsys):
    toys = [record for record in TOYS if record.dataset.name == "toys"]
    if where == "results":
        fill(tmp_path, TOYS)
    else:
        (tmp_path / "toys.jsonl").write_bytes(b"".join(encode(record) + b"\n" for record in toys))
        assert read_board(tmp_path, "toys") == toys
    place = ("-d", "toys", f"--{where}", tmp_path)
    code, out, err = call(monkeypatch, capsys, "compare", *place)
    assert (code, err) == (0, "") and "Other" not in out
    for words in ("cca > cfa", "cfa > jrl", "holds", "not resolved", EXPLANATION, *COLUMNS):
        assert words in out
    code, out, _ = call(monkeypatch, capsys, "compare", *place, "--claim", "cca<jrl<cfa", "--json")
    ((heading, rows),) = json.loads(out).items()
    assert code == 0 and heading.startswith("Toys, split random")
    expected = examine(toys, parse_claims(["cca<jrl<cfa"]))
    assert rows == msgspec.to_builtins(expected)
    assert [row["verdict"] for row in rows] == ["fails", "not resolved"]
    assert set(rows[0]["difference"]) == {"mean", "low", "high", "p_value", "n_splits"}


def test_of_several_records_of_one_run_the_newest_counts(tmp_path, monkeypatch, capsys):
    """What another version of a method left in the folder is no second method seed."""
    old = [*runs("cca", [0.9, 0.9]), *runs("cfa", [0.5, 0.4])]
    results = fill(tmp_path, [*old, *runs("cca", [0.6, 0.6])])
    assert len(list(results)) == 6 and len(results.newest()) == 4
    _, out, _ = call(monkeypatch, capsys, "compare", "-d", "toys", "--results", tmp_path, "--json")
    (((row,),)) = json.loads(out).values()
    assert row["difference"]["mean"] == pytest.approx(0.15)


def test_compare_shows_every_table_and_why_one_cannot_tell(tmp_path, monkeypatch, capsys):
    tuned = [*runs("cca", [0.5, 0.6], tuning=ledger()), *runs("cfa", [0.4, 0.5], tuning=ledger())]
    fill(tmp_path, [*TOYS[:3], *tuned, *runs("jrl", {None: 0.5}, dataset={"split": "official"})])
    place = ("-d", "toys", "--results", tmp_path)
    code, out, _ = call(monkeypatch, capsys, "compare", *place)
    assert code == 0 and out.count("Nothing to compare") == 2 and out.count("cca > cfa") == 1
    assert out.count(EXPLANATION) == 1 and "tuned on validation rows (random, 4 trials)" in out
    code, out, _ = call(monkeypatch, capsys, "compare", *place, "--claim", "cfa<cca")
    assert code == 0 and out.count("Not compared: unknown method") == 2 and out.count("cca > cfa") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-d", "nothing"], 3, "no finished run on nothing"),
        (["-d", "toys", "--claim", "cca"], 2, "expected a chain"),
        (["-d", "toys", "--claim", "cca<jlr"], 2, "did you mean jrl"),
        (["-d", "toys", "--claim", "cca<late"], 3, "have 0 splits in common"),
        ([], 2, "--dataset"),
        (["-d", "toys", "--board", "no such folder"], 3, "make it with"),
    ],
    ids=str,
)
def test_what_compare_refuses(tmp_path, monkeypatch, capsys, arguments, code, words):
    fill(tmp_path, [*TOYS, *runs("late", {8: 0.5, 9: 0.5})])
    found, out, err = call(monkeypatch, capsys, "compare", *arguments, "--results", tmp_path)
    assert (found, out) == (code, "") and words in err and "Traceback" not in err
