"""Ablations: what is run for them, what is refused, and the section of a table that they stand in."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmbench import cli
from xmbench._io import npz_bytes
from xmbench.differences import EXPLANATION, examine, parse_claims
from xmbench.errors import InvalidParameter, LeaderboardDrift, UnknownName, UsageError
from xmbench.evaluation import TASKS
from xmbench.leaderboard import (
    ablations_to_text,
    check_boards,
    claims_of_tables,
    page,
    tables,
    to_markdown,
    to_text,
)
from xmbench.packing import pack
from xmbench.plan import Request, choose, with_ablations
from xmbench.protocol import DEFAULT
from xmbench.record import Cost, DatasetRow, MethodRow, Record, TaskRow, encode, fit_id, score_id
from xmbench.registry import Registry, label_of
from xmbench.tuning import Trial, Tuning

fixed = settings(derandomize=True, database=None, deadline=None, max_examples=30)

PIECES = '''
from xmbench import Method, MethodInfo


class Pieces(Method):
    """The first columns of both matrices."""

    info = MethodInfo(title="Pieces", paper="none: for tests", year=2000, supervised=False)
    grid = {"size": (2, 3, 4)}
    presets = {"large": {"size": 8, "fails": True}}
    ablations = {"narrow": {"size": 1}, "sound": {"fails": False}}

    def __init__(self, size: int = 3, fails: bool = False, shift: float = 0.0):
        self.size = size
        self.fails = fails
        self.shift = shift

    def _fit(self, train, validation, context):
        if self.fails:
            raise RuntimeError("it went off")

    def _encode_image(self, images):
        return images[:, : self.size] + self.shift

    def _encode_text(self, texts):
        return texts[:, : self.size] + self.shift


METHOD = Pieces
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "pieces.py"
    path.write_text(PIECES)
    return str(path)


@pytest.fixture(scope="module")
def registry(plugin):
    return Registry([plugin])


# -- labels -----------------------------------------------------------------------------------------


def row(label, params=None, **changes):
    values = {
        "name": label.partition("[")[0],
        "label": label,
        "title": label.partition("[")[0].upper(),
        "params": params or {},
        "source": "0",
        "supervised": False,
        "transductive": False,
        "control": False,
        "trained": False,
        "departures": [],
    }
    return MethodRow(**{**values, **changes})


words = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)


@given(
    words,
    st.dictionaries(
        words.filter("ablation".__ne__), st.one_of(st.floats(0, 9), st.booleans(), words), max_size=3
    ),
    words,
)
@fixed
def test_an_ablation_belongs_to_the_model_with_the_rest_of_its_brackets(name, params, ablation):
    full = label_of(name, params)
    assert (row(full).ablation, row(full).full) == (None, full)
    mine = row(label_of(name, {**params, "ablation": ablation}))
    assert (mine.ablation, mine.full) == (ablation, full)


@pytest.mark.parametrize(
    "label", ["cca", "cca[ridge=0.1]", "cca[preset=ablation]", "cca[no_ablation=a]", "[ablation=a]", "x[", ""]
)
def test_other_labels_are_of_full_models(label):
    assert (row(label).ablation, row(label).full) == (None, label)


def test_a_parameter_of_that_name_makes_no_ablation():
    mine = row("odd[ablation=left]", {"ablation": "left"})
    assert (mine.ablation, mine.full) == (None, "odd[ablation=left]")


# -- what is run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("pieces", ["pieces", "pieces[ablation=narrow]", "pieces[ablation=sound]"]),
        (
            "pieces[preset=large,shift=0.5]",
            [
                "pieces[preset=large,shift=0.5]",
                "pieces[ablation=narrow,preset=large,shift=0.5]",
                "pieces[ablation=sound,preset=large,shift=0.5]",
            ],
        ),
    ],
)
def test_the_full_model_comes_first_and_brackets_hold_for_all(registry, spec, expected):
    assert with_ablations(spec, {}, registry) == expected


def test_ablations_are_those_that_the_class_declares(registry):
    for name in ("jfssl", "lcfs", "lgcfl"):
        declared = [f"{name}[ablation={ablation}]" for ablation in registry.method(name).ablations]
        assert with_ablations(name, {}, registry) == [name, *declared] and declared


def test_a_method_without_ablations_is_refused_with_those_that_have_some(registry):
    with pytest.raises(
        UsageError,
        match=r"^cca declares no ablations; these methods do: .*lgcfl, multimodal_dbn, pieces, supcon$",
    ):
        with_ablations("cca", {}, registry)


def test_a_broken_plugin_is_passed_over_where_others_are_named(tmp_path, plugin):
    (tmp_path / "broken.py").write_text("METHOD = 1 / 0\n")
    with pytest.raises(UsageError, match=r"these methods do: .*pieces") as caught:
        with_ablations("cca", {}, Registry([plugin, tmp_path / "broken.py"]))
    assert "broken" not in str(caught.value)


def test_a_parameter_called_ablation_goes_before_declared_ones(tmp_path):
    source = PIECES.replace("shift: float = 0.0", "ablation: float = 0.0").replace("shift", "ablation")
    (tmp_path / "own.py").write_text(source)
    registry = Registry([tmp_path / "own.py"])
    with pytest.raises(UsageError, match="own declares no ablations"):
        with_ablations("own", {}, registry)
    (choice,) = choose(Request(methods=["own[ablation=2]"], dataset="emoji"), registry)
    assert (
        choice.problem is None and choice.row(0).params["ablation"] == 2.0 and choice.row(0).ablation is None
    )


@pytest.mark.parametrize(
    ("spec", "given"), [("pieces[ablation=narrow]", {}), ("pieces", {"pieces": {"ablation": "narrow"}})]
)
def test_the_full_model_is_to_be_named_and_not_an_ablation(registry, spec, given):
    with pytest.raises(UsageError, match=r"name the full model.*\(narrow, sound\)"):
        with_ablations(spec, given, registry)


def test_an_unknown_method_is_told_by_close_names(registry):
    with pytest.raises(UnknownName, match="did you mean pieces"):
        with_ablations("peices", {}, registry)


@pytest.mark.parametrize(
    ("methods", "given"),
    [
        (["pieces[ablation=narrow,size=4]"], {}),
        (["pieces[ablation=narrow,size=1]"], {}),  # the value it sets: the label would still say it twice
        (["pieces[ablation=narrow]"], {"pieces": {"size": 4}}),
        (["pieces", "pieces[ablation=narrow]"], {"pieces": {"size": 4}}),
    ],
)
def test_what_an_ablation_sets_is_not_set_otherwise(registry, methods, given):
    with pytest.raises(
        UsageError, match=r"pieces\[ablation=narrow,size=\d\]: the ablation itself sets size,"
    ):
        choose(Request(methods=methods, dataset="emoji", settings=given), registry)


def test_an_ablation_still_wins_over_a_preset_and_other_parameters_are_free(registry):
    methods = ["pieces[ablation=narrow,preset=large]", "pieces[ablation=narrow,shift=2]"]
    found = [choice.row(0).params for choice in choose(Request(methods=methods, dataset="emoji"), registry)]
    assert found == [
        {"size": 1, "fails": True, "shift": 0.0},
        {"size": 1, "fails": False, "shift": 2.0},
    ]


def test_an_unknown_ablation_and_a_wrong_value_are_refused(registry):
    with pytest.raises(UnknownName, match="unknown ablation of Pieces 'narow'; did you mean narrow"):
        choose(Request(methods=["pieces[ablation=narow]"], dataset="emoji"), registry)
    with pytest.raises(InvalidParameter, match=r"Pieces\.shift"):
        choose(Request(methods=["pieces[ablation=narrow,shift=a]"], dataset="emoji"), registry)


def test_tuning_leaves_what_an_ablation_sets(registry):
    request = Request(methods=["pieces", "pieces[ablation=narrow]"], dataset="emoji", tuning=("grid", 3))
    full, narrow = choose(request, registry)
    assert [trial["size"] for trial in full.tried(full.row(0).params, request.tuning, 0)] == [2, 3, 4]
    assert [trial["size"] for trial in narrow.tried(narrow.row(0).params, request.tuning, 0)] == [1]


# -- the section of a table -------------------------------------------------------------------------

DATA = {
    "name": "toys",
    "title": "Toys",
    "features": "a+b",
    "scaling": "none+none",
    "provenance": {},
    "split": "random",
    "sizes": {"train": 80, "validation": 10, "test": 20},
    "n_classes": 2,
}


def make(label, seed=0, score=0.5, *, params=None, method=None, dataset=None, status="ok", tuning=None):
    """A record with ``score`` as MAP of every task, on the split of its seed."""
    task = TaskRow(
        mean_average_precision=score,
        chance=0.1,
        precision={},
        per_class={},
        n_queries=20,
        n_unanswerable=0,
        gallery=20,
    )
    data = DatasetRow(**{**DATA, "split_seed": seed, "fingerprint": f"print {seed}", **(dataset or {})})
    made = row(label, params, **(method or {}))
    tuned = tuning and (tuning.mode, tuning.budget, [trial.params for trial in tuning.trials])
    fit = fit_id(made, data, seed, "n", DEFAULT.selection, tuned)
    return Record(
        fit_id=fit,
        score_id=score_id(fit, label, DEFAULT, "e"),
        status=status,
        reason=None if status == "ok" else "it went off",
        method=made,
        dataset=data,
        protocol=DEFAULT.to_dict(),
        seed=seed,
        metrics=dict.fromkeys(TASKS, task) if status == "ok" else {},
        cost=Cost(0.5, 0.5, None, 1, "cpu", 1, {}) if status == "ok" else None,
        tuning=tuning,
        numerics="n",
        evaluator="e",
    )


def runs(label, scores, **more):
    return [make(label, seed, score, **more) for seed, score in enumerate(scores)]


FULL = runs("acmr", [0.5, 0.52, 0.54], params={"use_imd": True, "rate": 0.1, "random_state": 3})
WITHOUT = runs(
    "acmr[ablation=no_imd]", [0.4, 0.43, 0.44], params={"use_imd": False, "rate": 0.1, "random_state": 4}
)
SAME = runs("acmr[ablation=no_pairs]", [0.51, 0.51, 0.54], params={"use_imd": True, "rate": 0.0})
OTHERS = [*runs("cca", [0.3, 0.31, 0.32], params={"ridge": 1.0}), *runs("cfa", [0.2, 0.25, 0.2])]


def only(records, stale=lambda record: False):
    (table,) = tables(records, stale)
    return table


def sections(records, **more):
    return only(records, **more).ablations


def by_column(section):
    """First cell -> column title -> cell."""
    return {line[0]: dict(zip(section.columns, line, strict=True)) for line in section.rows}


def test_the_full_model_leads_and_its_ablations_follow_by_falling_average():
    (section,) = sections([*WITHOUT, *SAME, *FULL, *OTHERS])
    assert section.title == "ACMR"
    assert [line[0] for line in section.rows] == [
        "acmr (full model)",
        "acmr[ablation=no_pairs]",
        "acmr[ablation=no_imd]",
    ]
    cells = by_column(section)
    assert cells["acmr (full model)"]["average"] == "0.520 ± 0.020"
    assert cells["acmr[ablation=no_imd]"]["image→text"] == "0.423 ± 0.021"
    assert {line["runs"] for line in cells.values()} == {"3"}


def test_what_an_ablation_sets_stands_beside_it_without_the_seed():
    cells = by_column(sections([*FULL, *WITHOUT, *SAME])[0])
    assert [line["sets"] for line in cells.values()] == ["", "rate=0.0", "use_imd=False"]
    nothing = runs("acmr[ablation=idle]", [0.5, 0.5, 0.5], params=FULL[0].method.params)
    assert by_column(sections([*FULL, *nothing])[0])["acmr[ablation=idle]"]["sets"] == "nothing"


def test_differences_are_those_of_the_statistics_module():
    (section,) = sections([*FULL, *WITHOUT, *SAME, *OTHERS])
    cells = by_column(section)
    labels = ["acmr[ablation=no_pairs]", "acmr[ablation=no_imd]"]
    claims = examine([*FULL, *WITHOUT, *SAME], [("acmr", label) for label in labels])
    titles = ("full − ablation", "95 % interval", "splits", "p (Holm)", "full above ablation")
    for label, claim in zip(labels, claims, strict=True):
        assert tuple(cells[label][title] for title in titles) == claim.cells()[1:]
    assert [cells["acmr (full model)"][title] for title in titles] == [""] * 5
    assert cells["acmr[ablation=no_imd]"]["full − ablation"] == "+0.097"  # .10, .09, .10
    assert cells["acmr[ablation=no_imd]"]["full above ablation"] == "holds"
    assert section.compared and any("above 0 the full model is better" in line for line in section.footer)


@given(
    st.permutations([*FULL, *WITHOUT, *SAME, *OTHERS]),
    st.sets(st.sampled_from(["acmr[ablation=no_imd]", "acmr[ablation=no_pairs]"])),
)
@fixed
def test_the_rest_of_a_table_is_as_without_ablations(records, dropped):
    models = only([*FULL, *OTHERS])
    some = [record for record in records if record.method.label not in dropped]
    assert replace(only(some), ablations=()) == models
    assert not models.ablations and bool(only(some).ablations) == (len(dropped) < 2)
    assert only(some) == only(some[::-1])


def test_each_full_model_has_its_own_ablations():
    small = runs("acmr[preset=small]", [0.3, 0.3, 0.3])
    smaller = runs("acmr[ablation=no_imd,preset=small]", [0.2, 0.2, 0.25])
    other = runs("zed[ablation=x]", [0.1, 0.1, 0.1])
    found = sections([*other, *FULL, *WITHOUT, *small, *smaller])
    assert [section.title for section in found] == [
        "ACMR",
        "ACMR, acmr[preset=small]",
        "ZED",
    ]
    assert [[line[0] for line in section.rows] for section in found] == [
        ["acmr (full model)", "acmr[ablation=no_imd]"],
        ["acmr[preset=small] (full model)", "acmr[ablation=no_imd,preset=small]"],
        ["zed[ablation=x]"],
    ]


def test_a_full_model_that_is_missing_is_said_to_be():
    table = only([*WITHOUT, *OTHERS])
    (section,) = table.ablations
    assert [line[:2] for line in section.rows] == [("acmr[ablation=no_imd]", "–")]
    assert set(section.rows[0][6:]) == {"–"} and not section.compared
    assert any(line.startswith("The full model acmr is missing here") for line in section.footer)
    assert not any("Sets" in line for line in section.footer)
    alone = only(WITHOUT)
    assert [line[0] for line in alone.rows] == ["chance level"] and not alone.bold
    assert "acmr[ablation=no_imd]" in to_text(alone) and "use_imd False" in to_text(alone)


def test_failed_runs_are_counted_and_told_once():
    lost = [make("acmr", seed, params=FULL[0].method.params, status="failed") for seed in range(3)]
    table = only([*lost, *WITHOUT[:2], make("acmr[ablation=no_imd]", 2, status="timeout")])
    (section,) = table.ablations
    cells = by_column(section)
    assert cells["acmr (full model)"]["runs"] == "0 of 3" and cells["acmr (full model)"]["average"] == "–"
    assert cells["acmr[ablation=no_imd]"]["runs"] == "2 of 3"
    assert any("acmr has no finished run here" in line for line in section.footer)
    text = to_text(table)
    assert text.count("acmr[ablation=no_imd], seed 2: timeout: it went off") == 1
    assert text.count("acmr, seed 0: failed: it went off") == 1


def test_one_split_gives_no_difference_and_says_what_it_takes():
    (section,) = sections([FULL[0], WITHOUT[0]])
    assert set(section.rows[1][6:]) == {"–"} and not section.compared
    assert any("at least 2 splits" in line and "--seeds 0-4" in line for line in section.footer)
    (section,) = sections([*FULL, *WITHOUT, SAME[0]])  # one ablation has too few, the other is told
    assert section.compared
    assert any("No difference to acmr[ablation=no_pairs]: " in line for line in section.footer)


def test_splits_that_tell_nothing_give_no_difference():
    same_test = [
        msgspec.structs.replace(
            record, dataset=msgspec.structs.replace(record.dataset, test_fingerprint="the same")
        )
        for record in [*FULL, *WITHOUT]
    ]
    (section,) = sections(same_test)
    assert not section.compared and any("same test rows" in line for line in section.footer)
    one_list = [
        msgspec.structs.replace(record, dataset=msgspec.structs.replace(record.dataset, split_seed=None))
        for record in [*FULL, *WITHOUT]
    ]
    assert not sections(one_list)[0].compared


def test_marks_and_departures_that_the_full_model_lacks_are_told():
    full = runs("acmr", [0.5, 0.5], method={"departures": ["no batches"]})
    bare = runs("acmr[ablation=x]", [0.4, 0.3], method={"departures": ["no batches", "one optimiser"]})
    (section,) = sections([*full, *bare], stale=lambda record: record.method.ablation == "x")
    assert [line[0] for line in section.rows] == ["acmr (full model)", "acmr[ablation=x] (stale)"]
    told = [line for line in section.footer if "Departs" in line]
    assert told == ["Departs from the paper: acmr[ablation=x]: one optimiser."]


def test_tuned_rows_stand_apart_and_say_what_was_held():
    def ledger(*values):
        return Tuning("random", 4, [Trial({"rate": v, "use_imd": True}, 0.5, 0.1) for v in values], 0)

    full = runs("acmr", [0.5, 0.6], params={"rate": 0.1, "use_imd": True}, tuning=ledger(0.5, 0.7))
    held = runs("acmr[ablation=x]", [0.4, 0.4], params={"rate": 0.0, "use_imd": True}, tuning=ledger(0.0))
    untuned, tuned = tables([*full, *held, *FULL, *WITHOUT])
    (section,) = (tuned if "tuned" in tuned.heading else untuned).ablations
    assert section.rows[1][:2] == ("acmr[ablation=x]", "rate=0.0")
    assert any("same budget (random, 4 trials" in line and "was held" in line for line in section.footer)
    assert not any("budget" in line for line in sections([*FULL, *WITHOUT])[0].footer)


# -- pages and terminals ----------------------------------------------------------------------------


def test_a_page_has_the_section_after_its_table_and_is_otherwise_the_same():
    models, both = [*FULL, *OTHERS], [*FULL, *OTHERS, *WITHOUT]
    block = "### Ablations: ACMR\n\n"
    text = page("Toys", both)
    before, after = text.split(block)  # once
    section, rest = after.split("\n\n### Neighbouring rows", 1)
    assert before + "### Neighbouring rows" + rest == page("Toys", models)
    assert "acmr\\[ablation=no\\_imd\\] | use\\_imd=False" in section
    assert "| chance level" in before


def test_differences_of_ablations_alone_are_explained_too():
    assert "How differences are read" in page("Toys", [*FULL, *WITHOUT])
    assert "How differences are read" not in page("Toys", [FULL[0], WITHOUT[0]])


def test_what_records_hold_is_shown_as_text():
    bad = "<b>|</b>\x1b[31m"
    records = [
        *FULL,
        *runs("acmr[ablation=x]", [0.1, 0.2, 0.3], params={"a": bad}, method={"departures": [bad]}),
    ]
    assert "<b>" not in to_markdown(only(records))
    for text in (to_text(only(records)), ablations_to_text(only(records))):
        assert "\x1b" not in text and "a=<b>|</b>" in text


def test_a_terminal_shows_the_section_alone_where_it_was_asked_for():
    table = only([*FULL, *WITHOUT, *OTHERS])
    alone = ablations_to_text(table)
    assert alone.startswith(table.heading) and "Ablations: ACMR" in alone
    assert "\nchance level" not in alone and "P@10  " not in alone
    assert "\nchance level" in to_text(table) and "acmr (full model)" in to_text(table)


def test_committed_pages_are_held_to_the_section(tmp_path):
    records = sorted([*FULL, *WITHOUT], key=lambda record: (json.dumps(record.identity), record.score_id))
    (tmp_path / "toys.jsonl").write_bytes(b"".join(encode(record) + b"\n" for record in records))
    arrays = {
        f"{r.score_id}/{task}": [r.metrics[task].mean_average_precision] * 20
        for r in records
        for task in TASKS
    }
    packed = {name: pack(np.array(values)) for name, values in arrays.items()}
    (tmp_path / "toys.npz").write_bytes(npz_bytes(packed))
    stale = page("Toys", records, lambda record: True)
    (tmp_path / "toys.md").write_text(stale)
    assert check_boards(tmp_path, Registry()) == ["toys"]
    (tmp_path / "toys.md").write_text(stale.replace("use\\_imd=False", "nothing"))
    with pytest.raises(LeaderboardDrift, match="use"):
        check_boards(tmp_path, Registry())


def test_compare_takes_ablations_by_name_alone():
    records = [*FULL, *WITHOUT, *OTHERS]
    (claims,) = claims_of_tables(records).values()
    assert [(claim.above, claim.below) for claim in claims] == [("acmr", "cca"), ("cca", "cfa")]
    asked = parse_claims(["acmr[ablation=no_imd,preset=a]<acmr", "acmr>acmr[ablation=no_imd]"])
    assert asked == [("acmr", "acmr[ablation=no_imd,preset=a]"), ("acmr", "acmr[ablation=no_imd]")]
    (claims,) = claims_of_tables(records, asked[1:]).values()
    assert [claim.verdict for claim in claims] == ["holds"]


# -- the command ------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path_factory, tmp_path, monkeypatch, capsys, plugin):
    """A command in this process, with features in a cache that all tests share."""
    for name in [name for name in os.environ if name.startswith("XMBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XMBENCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XMBENCH_DATA_DIR", str(tmp_path / "no data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments), "--plugin", plugin])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


TOY = ("-d", "synthetic[n=120]", "--device", "cpu")


def test_the_command_runs_what_is_not_there_and_prints_the_section(call):
    assert call("run", "-m", "pieces", *TOY, "--seeds", "0-1")[0] == 0
    code, out, err = call("ablate", "pieces", *TOY, "--seeds", "0-1")
    assert code == 0, err
    assert err.count("re-used") == 2 and err.count(": done") == 4
    lines = [line.split("  ")[0] for line in out.splitlines() if line.startswith("pieces")]
    assert lines[0] == "pieces (full model)"
    assert set(lines[1:]) == {"pieces[ablation=narrow]", "pieces[ablation=sound]"}
    assert "size=1" in out and "Full − ablation" in out and "\nchance level" not in out
    again = call("ablate", "pieces", *TOY, "--seeds", "0-1")
    assert again[:2] == (0, out) and again[2].count("re-used") == 6
    code, out, err = call("ablate", "pieces", *TOY, "--seeds", "0-1", "--json", "-q")
    assert (code, err) == (0, "")
    assert [record["method"]["label"] for record in json.loads(out)] == 2 * [
        "pieces",
        "pieces[ablation=narrow]",
        "pieces[ablation=sound]",
    ]
    code, out, _ = call("run", "-m", "pieces[ablation=narrow],pieces", *TOY, "--seeds", "0-1")
    assert code == 0 and "chance level" in out and "pieces (full model)" in out


def test_a_failed_run_is_shown_and_returns_1(call):
    code, out, _ = call("ablate", "pieces[preset=large]", *TOY, "--seeds", "0")
    assert code == 1
    assert "RuntimeError: it went off" in out and "0 of 1" in out
    assert "pieces[ablation=sound,preset=large]" in out and "fails=False" in out


def test_five_splits_are_the_default(call):
    code, out, err = call("ablate", "pieces", *TOY, "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert {(plan["seed"], plan["split_seed"]) for plan in planned} == {(seed, seed) for seed in range(5)}
    assert len(planned) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cca",), "cca declares no ablations; these methods do: "),
        (("peices",), "did you mean pieces?"),
        (("pieces[ablation=narrow]",), "name the full model"),
        (("pieces[size=2]",), "the ablation itself sets size"),
        (("pieces", "--set", "pieces.size=2"), "the ablation itself sets size"),
        (("pieces", "--set", "cca.ridge=2"), "'cca' is not among the methods of this run"),
        (("pieces", "--budget", "2"), "--budget goes with --tune"),
        (("pieces", "--tune", "grid", "--budget", "2"), "the grid over size takes 3 trials"),
        (("pieces", "--timeout", "nan"), "--timeout"),
        (("pieces", "--seeds", "4-0"), "--seeds"),
        ((), "Missing argument 'METHOD'"),
    ],
)
def test_what_the_command_cannot_do_it_refuses(call, arguments, message):
    code, out, err = call("ablate", *arguments, *TOY)
    assert (code, out) == (2, "") and message in err, err


def test_run_and_ablate_have_the_same_options():
    def options(command):
        return {
            parameter.name: (parameter.opts, parameter.help, str(parameter.type), parameter.default)
            for parameter in command.params
            if parameter.name not in ("methods", "method", "seeds")
        }

    assert options(cli.run) == options(cli.ablate)
    assert len(options(cli.run)) > 20


def test_a_leaderboard_with_ablations_is_written_checked_and_refitted(call, tmp_path):
    assert call("ablate", "pieces", "--seeds", "0-1", "--device", "cpu")[0] == 0
    assert call("leaderboard", "--output", "board")[0] == 0
    text = (tmp_path / "board" / "emoji.md").read_text(encoding="utf-8")
    assert "### Ablations: Pieces\n" in text and EXPLANATION.split(" (")[0] in text
    code, out, err = call("leaderboard", "--output", "board", "--check", "--rerun", "emoji", "--seed", "0")
    assert code == 0 and "3 records were refitted and agree" in out, err
