"""Tuning: what is tried, what wins, what is written down of it, and that test rows have no say."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmbench import FitContext, Method, MethodInfo
from xmbench.data import Split, prepare
from xmbench.errors import DeadlineExceeded, InvalidInput, InvalidRecord, Unsupported, UsageError
from xmbench.evaluation import evaluate, evaluator_digest
from xmbench.plan import Places, Plan, Request, Reuse
from xmbench.protocol import DEFAULT, protocol
from xmbench.record import (
    DatasetRow,
    MethodRow,
    Results,
    check_ids,
    decode,
    encode,
    json_schema,
    numerics_digest,
)
from xmbench.registry import Registry
from xmbench.rescore import rescore_all
from xmbench.run import RunSpec, read_embeddings, run_one, write_bundle
from xmbench.testing import synthetic_data
from xmbench.tuning import BUDGET, Trial, Tuning, candidates, tune, winner

fixed_draws = settings(derandomize=True, database=None, deadline=None, max_examples=100)

values = st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True)
grids = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)
PARAMS = {"a": 0, "b": 1, "c": 2, "d": 30, "e": "kept"}


def as_set(found):
    return {tuple(sorted(candidate.items(), key=str)) for candidate in found}


def product(grid, params=PARAMS):
    """Every combination of the grid."""
    return [
        {**params, **dict(zip(grid, chosen, strict=True))} for chosen in itertools.product(*grid.values())
    ]


# -- candidates -------------------------------------------------------------------------------------


@fixed_draws
@given(grids)
def test_a_grid_is_the_whole_product(grid):
    expected = as_set(product(grid))
    found = candidates(PARAMS, grid, (), "grid", len(expected), 0)
    assert len(found) == len(expected) and as_set(found) == expected


@fixed_draws
@given(grids)
def test_a_grid_that_the_budget_does_not_hold_is_refused(grid):
    trials = len(as_set(product(grid)))
    if trials == 1:
        return
    with pytest.raises(
        UsageError, match=rf"takes {trials} trials, the budget allows {trials - 1}.*--tune random"
    ):
        candidates(PARAMS, grid, (), "grid", trials - 1, 0)


@fixed_draws
@given(grids, st.integers(1, 40), st.integers(0, 5))
def test_a_draw_fills_its_budget_without_repeating_itself(grid, budget, seed):
    everything = as_set(product(grid))
    found = candidates(PARAMS, grid, (), "random", budget, seed)
    assert as_set(found) <= everything
    assert len(found) == len(as_set(found)) == min(budget, len(everything))
    assert found == candidates(PARAMS, grid, (), "random", budget, seed)


def test_another_seed_draws_others_and_every_combination_has_its_turn():
    grid = {"a": range(10), "b": range(10)}
    draws = [candidates(PARAMS, grid, (), "random", 12, seed) for seed in range(60)]
    assert len({json.dumps(draw) for draw in draws}) == 60
    assert as_set(itertools.chain(*draws)) == as_set(product(grid))


def test_defaults_have_no_place_of_their_own():
    """Rows of other splits chose them: they are tried if the grid has them and the draw takes them."""
    assert all(
        candidate["a"] != PARAMS["a"] for candidate in candidates(PARAMS, {"a": (5, 10)}, (), "grid", 9, 0)
    )
    draws = [candidates(PARAMS, {"a": (0, 5, 10, 20)}, (), "random", 2, seed) for seed in range(40)]
    tried = [PARAMS in draw for draw in draws]
    assert any(tried) and not all(tried)
    assert not all(draw[0] == PARAMS for draw in draws if PARAMS in draw)


def test_grids_larger_than_memory_can_be_drawn_from():
    grid = {name: range(1000) for name in "abcd"}
    assert len(as_set(candidates(PARAMS, grid, (), "random", 12, 0))) == 12


@fixed_draws
@given(grids, st.sets(st.sampled_from("abcd")), st.sampled_from(["grid", "random"]))
def test_what_is_set_by_hand_stays(grid, fixed, mode):
    for candidate in candidates(PARAMS, grid, tuple(fixed), mode, 10_000, 0):
        assert all(candidate[name] == PARAMS[name] for name in fixed)
    rest = {name: values for name, values in grid.items() if name not in fixed}
    assert as_set(candidates(PARAMS, grid, tuple(fixed), mode, 10_000, 0)) == as_set(product(rest))


def test_numbers_of_numpy_become_plain_ones():
    found = candidates({"a": 1.0}, {"a": np.logspace(-1, 1, 3)}, (), "grid", 3, 0)
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
    assert all(type(candidate["a"]) is float for candidate in found)


# -- the choice -------------------------------------------------------------------------------------


class Scripted(Method):
    """Does what a script says: its score is looked up by ``k``, and an exception there is raised."""

    info = MethodInfo(title="Scripted", paper="none: for tests", year=2026, supervised=False)

    def __init__(self, k: int = 0) -> None:
        self.k = k

    def _fit(self, train, validation, context):
        self.pieces = context.pieces
        context.pieces.get("made by", lambda: self.k)
        self.fitted_ = 1.0

    def _encode_image(self, x):
        return x

    def _encode_text(self, x):
        return x


DATA = synthetic_data(30, 20, 10)


def tuned(script, **context):
    """tune() over k = 0, 1, ..., with the scores (or errors) of a script; also the methods it scored."""
    seen = []

    def score(method):
        seen.append(method)
        found = script[method.k]
        if isinstance(found, BaseException):
            raise found
        return found

    wanted = [{"k": k} for k in range(len(script))]
    given = FitContext(validation_score=score, **context)
    return (*tune(Scripted.resolve, wanted, DATA.train, DATA.validation, given), seen)


scores = st.lists(st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1)


@fixed_draws
@given(scores)
def test_the_highest_score_wins_and_the_first_of_equal_ones(script):
    finite = [score for score in script if score is not None and score == score]
    broken = [ValueError("no") if score is None else score for score in script]
    if not finite:
        with pytest.raises((ValueError, Unsupported)):
            tuned(broken)
        return
    method, trials, chosen, _ = tuned(broken)
    assert chosen == script.index(max(finite)) == winner(trials) == method.k
    assert [trial.params for trial in trials] == [{"k": k} for k in range(len(script))]
    for trial, score in zip(trials, script, strict=True):
        missing = score is None or math.isnan(score)
        assert trial.score == (None if missing else score)
        assert (trial.reason is not None) == missing and trial.seconds >= 0


@pytest.mark.parametrize(
    "error", [ValueError("a"), RuntimeError("b"), InvalidInput("c"), KeyError("d"), MemoryError()]
)
def test_a_candidate_that_fails_costs_one_trial_and_says_why(error):
    method, trials, chosen, _ = tuned([0.1, error, 0.3])
    assert (method.k, chosen, len(trials)) == (2, 2, 3)
    assert str(error) in trials[1].reason and trials[1].score is None
    assert isinstance(error, InvalidInput) or type(error).__name__ in trials[1].reason


def test_a_reason_is_cut_to_a_sensible_length():
    assert len(tuned([0.1, ValueError("x" * 5000)])[1][1].reason) < 400


def test_if_all_fail_the_first_error_is_raised():
    with pytest.raises(InvalidInput, match="first"):
        tuned([InvalidInput("first"), ValueError("second")])
    with pytest.raises(Unsupported, match="no validation row"):
        tuned([math.nan, math.nan])


def test_parameters_that_cannot_be_had_cost_a_trial_too():
    wanted = [{"k": 0}, {"k": "many"}, {"j": 1}]
    context = FitContext(validation_score=lambda method: 0.5)
    _, trials, chosen = tune(Scripted.resolve, wanted, DATA.train, DATA.validation, context)
    assert chosen == 0 and "expected int" in trials[1].reason and "'j'" in trials[2].reason


def test_the_deadline_ends_it_between_trials_and_inside_one():
    with pytest.raises(DeadlineExceeded):
        tuned([0.1, 0.2], deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        tuned([0.1, DeadlineExceeded("over"), 0.3])


def test_all_candidates_have_the_same_pieces_of_the_training_pairs():
    method, _, _, seen = tuned([0.1, 0.9, ValueError("no"), 0.2])
    assert len({id(each) for each in seen}) == 4  # a fresh instance for each
    assert {id(each.pieces) for each in seen} == {id(method.pieces)}
    assert method.pieces.owner is DATA.train and method.pieces.made == {"made by": 0}
    other, *_ = tuned([0.1])
    assert other.pieces is not method.pieces
    method.encode_image(DATA.test.images)


def test_progress_names_the_trial():
    told = []
    tuned([0.1, 0.2], progress=lambda message, fraction: told.append(message))
    assert told == ["trial 1 of 2: fitting", "trial 2 of 2: fitting"]


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([0.1, 0.2], 0),
        ([0.1, 0.2], 2),
        ([0.1, 0.2], -1),
        ([0.2, 0.2], 1),
        ([0.1], None),
        ([None], 0),
        ([], 0),
    ],
)
def test_a_choice_that_the_scores_do_not_make_is_refused(trials, chosen):
    ledger = [Trial({}, score, 0.0) for score in trials]
    with pytest.raises(ValueError, match="highest validation score"):
        Tuning("grid", 9, ledger, chosen)


# -- what is written down ---------------------------------------------------------------------------

PLUGIN = """
from xmbench import Method, MethodInfo

class Window(Method):
    info = MethodInfo(title="Window", paper="none", year=2026, supervised=False)
    grid = {{"start": (0, 2, 4, 99), "width": (2, 5)}}
    presets = {{"narrow": {{"width": 2}}}}

    def __init__(self, start: int = 0, width: int = 3, random_state: int = 0) -> None:
        self.start, self.width, self.random_state = start, width, random_state

    @property
    def departures(self):
        return (f"starts at {{self.start}}",)

    def _fit(self, train, validation, context):
        with open({log!r}, "a") as stream:
            print(*train.ids, *validation.ids, context.unlabelled_images is None, sep=";", file=stream)
        if self.start == 99:
            raise ValueError("nothing at /home/somebody/99.txt")

    def _encode_image(self, x):
        return x[:, self.start : self.start + self.width]

    def _encode_text(self, x):
        return x[:, self.start : self.start + self.width]

METHOD = Window
"""


@pytest.fixture
def case(tmp_path):
    """A tuned spec of a plugin, a maker of its bundle, and its results folder."""
    plugin = tmp_path / "window.py"
    plugin.write_text(PLUGIN.format(log=str(tmp_path / "log")))
    found = Registry([plugin]).plugin("method", "window")
    data = synthetic_data(40, 20, 20, seed=3)
    params = {"start": 0, "width": 3, "random_state": 0}
    method = MethodRow(
        name="window",
        label="window",
        title="Window",
        params=params,
        source=found.source_digest()[:16],
        supervised=False,
        transductive=False,
        control=False,
        trained=False,
        departures=["starts at 0"],
    )
    dataset = DatasetRow(
        name="synthetic",
        title="Synthetic",
        features="a+b",
        scaling="none+none",
        provenance={},
        split="synthetic",
        split_seed=0,
        sizes=dict(data.sizes),
        n_classes=5,
        fingerprint=data.fingerprint,
    )
    spec = RunSpec(
        plugin=found,
        method=method,
        dataset=dataset,
        class_names=data.class_names,
        protocol=DEFAULT,
        seed=0,
        numerics=numerics_digest(),
        evaluator=evaluator_digest()[:16],
        tuning=("grid", 12),
        tried=tuple(candidates(params, found.load().grid, (), "grid", 12, 0)),
    )
    return spec, data, tmp_path


def go(spec, data, folder, *, name="results"):
    bundle = folder / f"bundle-{len(list(folder.glob('bundle-*')))}"
    write_bundle(bundle, data)
    run_one(spec, bundle, folder / name, True, False, None, lambda message, fraction: None)
    return Results(folder / name).get(spec.score_id)


def test_the_ledger_holds_every_candidate_and_its_score(case):
    spec, data, folder = case
    record = go(spec, data, folder)
    tuning = record.tuning
    assert (tuning.mode, tuning.budget) == ("grid", 12)
    assert [trial.params for trial in tuning.trials] == list(spec.tried) and len(spec.tried) == 8
    rows = data.validation
    for trial in tuning.trials:
        begin, end = trial.params["start"], trial.params["start"] + trial.params["width"]
        if begin == 99:
            assert trial.reason == "ValueError: nothing at 99.txt" and trial.score is None
            continue
        assert trial.reason is None
        expected = evaluate(rows.images[:, begin:end], rows.texts[:, begin:end], rows.labels).main
        assert trial.score == pytest.approx(expected, abs=1e-6)
    assert record.params == tuning.trials[tuning.chosen].params and record.method.params == spec.method.params
    assert record.method.departures == [f"starts at {record.params['start']}"]
    assert record.cost.fit_seconds >= sum(trial.seconds for trial in tuning.trials)
    check_ids(record)
    assert decode(encode(record), "here") == record


def test_the_chosen_parameters_are_those_that_are_scored_on_test_rows(case):
    spec, data, folder = case
    record = go(spec, data, folder)
    begin, end = record.params["start"], record.params["start"] + record.params["width"]
    alone = evaluate(data.test.images[:, begin:end], data.test.texts[:, begin:end], data.test.labels)
    for task, scores in alone.tasks.items():
        expected = record.metrics[task].mean_average_precision
        assert scores.mean_average_precision == pytest.approx(expected, abs=1e-6)


def without_seconds(tuning):
    return [msgspec.structs.replace(trial, seconds=0.0) for trial in tuning.trials], tuning.chosen


def test_test_rows_have_no_say(case):
    """Other test labels and features: the same ledger, and no fit ever held a test row."""
    spec, data, folder = case
    first = go(spec, data, folder)
    rng = np.random.default_rng(0)
    test = replace(data.test, labels=rng.permutation(data.test.labels), images=data.test.images[::-1].copy())
    second = go(spec, replace(data, test=test), folder, name="other")
    assert without_seconds(first.tuning) == without_seconds(second.tuning)
    assert first.metrics != second.metrics
    for line in (folder / "log").read_text().splitlines():
        *ids, hidden = line.split(";")
        assert hidden == "True" and not set(ids) & set(data.test.ids)


def test_the_test_part_is_read_after_the_choice_alone(case, monkeypatch):
    from xmbench import run as run_module

    events = []
    read, choose = run_module.read_bundle, run_module.tune
    monkeypatch.setattr(
        run_module, "read_bundle", lambda path, part: (events.append(part), read(path, part))[1]
    )

    def watched(*arguments):
        result = choose(*arguments)
        events.append("chosen")
        return result

    monkeypatch.setattr(run_module, "tune", watched)
    go(*case)
    assert events == ["train", "validation", "chosen", "test"]


def test_ids_depend_on_mode_budget_and_candidates_and_only_if_there_is_tuning(case):
    spec = case[0]
    plain = replace(spec, tuning=None, tried=None)
    others = [
        replace(spec, tuning=("random", 12)),
        replace(spec, tuning=("grid", 13)),
        replace(spec, tried=spec.tried[:-1]),
        replace(spec, tried=spec.tried[:1] + spec.tried[:0:-1]),
        plain,
    ]
    assert len({other.fit_id for other in [spec, *others]}) == 6
    assert len({other.score_id for other in [spec, *others]}) == 6
    from xmbench._io import short_id

    method, row = spec.method, spec.dataset
    assert plain.fit_id == short_id(  # as it was before there was tuning: committed records keep their ids
        {
            "method": method.source,
            "numerics": spec.numerics,
            "params": method.params,
            "transductive": False,
            "data": row.fingerprint,
            "split_seed": row.split_seed,
            "seed": spec.seed,
            "selection": ["validation", DEFAULT.identity()],
        }
    )


def tampered(record, change):
    tree = json.loads(encode(record))
    change(tree["tuning"])
    return json.dumps(tree)


@pytest.mark.parametrize(
    "change",
    [
        lambda tuning: tuning["trials"][1]["params"].update(width=77),
        lambda tuning: tuning["trials"].pop(),
        lambda tuning: tuning["trials"].append({"params": {}, "score": None, "seconds": 0.0}),
        lambda tuning: tuning.update(budget=99),
        lambda tuning: tuning.update(mode="random"),
    ],
    ids=["params", "dropped", "added", "budget", "mode"],
)
def test_a_changed_ledger_contradicts_the_ids(case, change):
    record = decode(tampered(go(*case), change), "here")
    with pytest.raises(InvalidRecord, match="its parameters"):
        check_ids(record)


@pytest.mark.parametrize(
    "change",
    [
        lambda tuning: tuning.update(chosen=(tuning["chosen"] + 1) % len(tuning["trials"])),
        lambda tuning: tuning.update(chosen=99),
        lambda tuning: tuning.update(chosen=-1),
        lambda tuning: tuning.update(chosen=None),
        lambda tuning: tuning["trials"][tuning["chosen"]].update(score=0.0),
        lambda tuning: (
            [trial.update(score=None) for trial in tuning["trials"]] and tuning.update(chosen=None)
        ),
        lambda tuning: tuning.update(mode="best"),
    ],
    ids=["another", "beyond", "negative", "none", "scores", "no scores", "unknown mode"],
)
def test_a_choice_that_is_not_that_of_the_scores_is_no_record(case, change):
    with pytest.raises(InvalidRecord, match="here"):
        decode(tampered(go(*case), change), "here")


def test_a_failed_run_says_how_it_would_have_been_tuned(case):
    spec = case[0]
    record = spec.record(status="failed", reason="no")
    assert (record.tuning.mode, record.tuning.budget, record.tuning.chosen) == ("grid", 12, None)
    assert record.params == spec.method.params
    check_ids(record)
    assert decode(encode(record), "here") == record
    assert replace(spec, tuning=None, tried=None).record(status="failed").tuning is None


def test_kept_embeddings_keep_the_ledger(case):
    spec, data, folder = case
    first = go(spec, data, folder)
    fits = len((folder / "log").read_text().splitlines())
    other = go(replace(spec, protocol=protocol("l2")), data, folder)
    results = Results(folder / "results")
    rescored = rescore_all(results, [protocol("map@50-r")])
    assert len((folder / "log").read_text().splitlines()) == fits
    assert len(rescored) == 1
    for record in (other, *rescored):
        assert record.tuning == first.tuning and record.method.departures == first.method.departures
        check_ids(record)
    kept = read_embeddings(results.embeddings_path(spec.fit_id))
    assert kept.tuning == first.tuning and list(kept.departures) == first.method.departures


def test_a_run_in_which_every_candidate_fails_is_an_error(case):
    spec, data, folder = case
    with pytest.raises(ValueError, match="nothing at"):
        go(replace(spec, tried=({"start": 99},)), data, folder)


def test_the_schema_knows_the_ledger():
    names = json_schema()["$defs"]
    assert set(names["Tuning"]["properties"]) == {"mode", "budget", "trials", "chosen"}
    assert set(names["Trial"]["properties"]) == {"params", "score", "seconds", "reason"}


# -- from a request ---------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path):
    """A plan on emoji with the window plugin."""
    plugin = tmp_path / "window.py"
    plugin.write_text(PLUGIN.format(log=str(tmp_path / "log")))
    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")

    def make(methods, tuning, **fields):
        request = Request(methods=methods, dataset="emoji", tuning=tuning, **fields)
        return Plan(request, Registry([plugin]), places, lambda message, fraction: None)

    return make


def varied(spec):
    return {name for name in spec.method.params if len({json.dumps(tried[name]) for tried in spec.tried}) > 1}


def test_only_what_is_not_set_by_hand_is_tuned(planned):
    methods = ["window", "window[start=2]", "window[preset=narrow]", "window[start=2,width=5]", "random"]
    specs = {spec.method.label: spec for spec, _, _ in planned(methods, ("grid", 12)).specs()}
    assert [varied(spec) for spec in specs.values()] == [
        {"start", "width"},
        {"width"},
        {"start"},
        set(),
        set(),
    ]
    assert all(tried["width"] == 2 for tried in specs["window[preset=narrow]"].tried)
    for spec in planned(["window"], ("grid", 12), settings={"window": {"width": 2}}).specs():
        assert varied(spec[0]) == {"start"}


def test_each_seed_draws_its_own_candidates(planned):
    found = [spec for spec, _, _ in planned(["window"], ("random", 4), seeds=[(0, 0), (1, 0)]).specs()]
    assert [{tried["random_state"] for tried in spec.tried} for spec in found] == [{0}, {1}]
    assert found[0].tried != found[1].tried


def test_a_grid_beyond_the_budget_is_refused_before_anything_runs(planned):
    with pytest.raises(UsageError, match=r"^window: the grid over start, width takes 8 trials"):
        planned(["random", "window"], ("grid", 7))


@pytest.mark.parametrize("source", ["grid = None", "grid = {'start': 3}"])
def test_a_broken_grid_is_one_failed_row(planned, tmp_path, source):
    plan = planned(["random"], ("grid", 12))
    path = tmp_path / "broken.py"
    path.write_text(PLUGIN.format(log="").replace("    presets", f"    {source}\n    presets"))
    request = replace(plan.request, methods=["broken", "random"])
    anew = Plan(request, Registry([path]), plan.places, lambda message, fraction: None)
    (broken, fine), records = [choice.problem for choice in anew.choices], anew.run()
    assert "TypeError" in broken or "AttributeError" in broken
    assert fine is None and [record.status for record in records] == ["failed", "ok"]


def test_a_split_without_validation_rows_is_refused_in_words(planned, monkeypatch):
    plan = planned(["window"], ("random", 3))
    bare = Split("bare", None, train=np.arange(40), validation=np.arange(0), test=np.arange(40, 60))
    monkeypatch.setattr(plan.dataset, "split", lambda corpus, name, seed: bare, raising=False)
    (record,) = plan.run()
    assert record.status == "failed" and "split bare has no validation rows for --tune" in record.reason
    assert record.tuning is not None and not (plan.places.results / "embeddings").exists()


def test_a_tuned_run_is_reused_made_again_the_same_and_no_other_stands_for_it(planned):
    seen = []

    def run(tuning, **options):
        seen.clear()
        plan = planned(["window", "random"], tuning)
        return plan.run(on_event=lambda spec, event: seen.append(event.message), **options)

    first = run(("random", 4))
    assert [record.status for record in first] == ["ok", "ok"]
    assert run(("random", 4)) == first and seen == ["re-used"] * 2
    again = run(("random", 4), reuse=Reuse(fresh=True))
    for old, new in zip(first, again, strict=True):
        assert without_seconds(old.tuning) == without_seconds(new.tuning) and old.metrics == new.metrics
    small = run(("random", 2))
    assert "re-used" not in seen and [record.tuning.budget for record in small] == [2, 2]
    assert run(None)[0].tuning is None and "re-used" not in seen


def test_on_real_data_the_choice_of_cca_is_that_of_a_loop_by_hand(data_dir):
    """Twelve candidates, fitted and scored here one by one; test rows are not even there."""
    dataset, cls = Registry().dataset("wikipedia"), Registry().method("cca")
    corpus = dataset.load(data_dir, "sift", "lda")
    from xmbench.features import default_scaling, extract

    split = dataset.split(corpus, "official", 0)
    parts = [
        extract(dataset, corpus, split, modality, spec, cache_dir=Path("unused"), progress=lambda *news: None)
        for modality, spec in (("image", "sift"), ("text", "lda"))
    ]
    scaling = (default_scaling(dataset, "image", "sift"), default_scaling(dataset, "text", "lda"))
    data = prepare(corpus, split, *parts, scaling)
    rows = data.validation

    def score(method):
        return evaluate(method.encode_image(rows.images), method.encode_text(rows.texts), rows.labels).main

    wanted = candidates(cls().get_params(), cls.grid, (), "random", 12, 0)
    method, trials, chosen = tune(cls.resolve, wanted, data.train, rows, FitContext(validation_score=score))
    by_hand = [score(cls.resolve(params).fit(data.train, rows)) for params in wanted]
    assert [trial.score for trial in trials] == by_hand
    assert chosen == int(np.argmax(by_hand)) and method.get_params() == wanted[chosen]
    assert len(wanted) == 12


def test_each_method_with_parameters_to_choose_fills_the_budget_of_a_published_table():
    registry = Registry()
    for name in registry.methods:
        cls = registry.method(name)
        if cls.grid:
            assert len(candidates(cls().get_params(), cls.grid, (), "random", BUDGET, 0)) == BUDGET, name
