"""Many runs: failures become rows, finished runs are re-used, and a kill in the middle loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmbench.data import Split
from xmbench.errors import InvalidInput, UnknownName, UsageError
from xmbench.plan import Places, Plan, Request, Reuse
from xmbench.protocol import protocol
from xmbench.record import Results
from xmbench.registry import Registry, label_of

EMOJI = str(Registry().datasets["emoji"].path)

HEAD = """
import os, signal, subprocess, sys, time
import numpy as np
from xmbench import Method, MethodInfo

class Odd(Method):
    info = MethodInfo(title="Odd", paper="none", year=2026, supervised=False)

    def _fit(self, train, validation, context):
        {body}

    def _encode_image(self, x):
        return x[:, :8]

    def _encode_text(self, x):
        return x[:, :8]

METHOD = Odd
"""

BODIES = {
    "raises": "raise ValueError('wrong with /home/somebody/file.txt')",
    "hangs": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "noisy": "print('noise')",
}


@pytest.fixture
def plugins(tmp_path):
    """Plugin files that misbehave, by name."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, body in BODIES.items():
        (folder / f"{name}.py").write_text(HEAD.format(body=body))
    (folder / "broken.py").write_text("METHOD = 1 / 0\n")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def places(tmp_path):
    return Places(data=tmp_path / "nowhere", cache=tmp_path / "cache", results=tmp_path / "results")


def plan(places, methods, plugins=(), **fields):
    return Plan(
        Request(methods=methods, dataset="emoji", **fields),
        Registry(plugins),
        places,
        lambda message, fraction: None,
    )


def command(*arguments, cwd, **more):
    """xmbench in a process of its own."""
    env = {**os.environ, "XMBENCH_CACHE_DIR": str(cwd / "cache"), **more}
    words = [sys.executable, "-m", "xmbench", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=cwd, env=env, preexec_fn=_hear_interrupts, **pipes)


def _hear_interrupts():
    """A background job of a shell ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_each_failure_is_one_row_and_the_others_stand(tmp_path, plugins):
    options = [word for name in BODIES for word in ("--plugin", plugins[name])]
    names = ["raises", "hangs", "killed", "cfa", "noisy", "broken"]
    process = command(
        "run",
        "-m",
        ",".join(names),
        *options,
        "--plugin",
        plugins["broken"],
        "--timeout",
        8,
        "--json",
        cwd=tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    records = {record["method"]["label"]: record for record in json.loads(out)}
    assert {name: record["status"] for name, record in records.items()} == {
        "raises": "failed",
        "hangs": "timeout",
        "killed": "killed",
        "cfa": "ok",
        "noisy": "ok",
        "broken": "failed",
    }
    assert records["raises"]["reason"] == "ValueError: wrong with file.txt"
    assert "8 s" in records["hangs"]["reason"] and "SIGKILL" in records["killed"]["reason"]
    assert "ZeroDivisionError" in records["broken"]["reason"]
    assert "noise" in err and "noise" not in out

    again = command("run", "-m", "raises,cfa", "--plugin", plugins["raises"], cwd=tmp_path)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 1 and "re-used" in err and "ValueError" in out  # the failure is kept ...
    plugins["raises"].write_text(HEAD.format(body="pass"))
    mended = command("run", "-m", "raises,cfa", "--plugin", plugins["raises"], cwd=tmp_path)
    mended.communicate(timeout=60)
    assert mended.returncode == 0  # ... until its source changes


def test_finished_runs_are_reused_and_fresh_ones_are_not(places, tmp_path):
    seen = []
    wanted = plan(places, ["random", "cfa"], seeds=[(0, 0), (1, 1)])
    first = wanted.run(
        on_event=lambda spec, event: seen.append((spec.method.label, event.kind, event.message))
    )
    assert [record.status for record in first] == ["ok"] * 4
    assert [(record.method.label, record.seed) for record in first] == [
        ("random", 0),
        ("cfa", 0),
        ("random", 1),
        ("cfa", 1),
    ]
    files = {path: path.stat().st_mtime_ns for path in places.results.rglob("*.*")}
    seen.clear()
    second = plan(places, ["random", "cfa"], seeds=[(0, 0), (1, 1)]).run(
        on_event=lambda spec, event: seen.append((event.kind, event.message))
    )
    assert second == first and seen == [("ended", "re-used")] * 4
    assert files == {path: path.stat().st_mtime_ns for path in places.results.rglob("*.*")}
    third = plan(places, ["cfa"]).run(reuse=Reuse(fresh=True))
    assert third[0].metrics == first[1].metrics and third[0] != first[1]  # the same numbers, timed anew


def test_failed_runs_are_retried_when_asked(places, tmp_path):
    flag, path = tmp_path / "flag", tmp_path / "moody.py"
    path.write_text(HEAD.format(body=f"assert os.path.exists({str(flag)!r}), 'no flag'"))
    assert plan(places, ["moody"], [path]).run()[0].reason == "AssertionError: no flag"
    flag.touch()
    assert plan(places, ["moody"], [path]).run()[0].status == "failed"
    assert plan(places, ["moody"], [path]).run(reuse=Reuse(retry_failed=True))[0].status == "ok"
    assert plan(places, ["moody"], [path]).run()[0].status == "ok"


def test_jobs_side_by_side_give_the_same_records(places, tmp_path):
    one = plan(places, ["random", "cfa", "cfa[n_components=3]"], seeds=[(0, 0), (1, 1)]).run()
    other = Places(data=places.data, cache=places.cache, results=tmp_path / "other")
    two = plan(other, ["random", "cfa", "cfa[n_components=3]"], seeds=[(0, 0), (1, 1)]).run(n_jobs=3)
    assert [(record.score_id, record.metrics) for record in one] == [
        (record.score_id, record.metrics) for record in two
    ]


def test_killed_half_way_and_repeated_gives_the_same_table(tmp_path):
    arguments = ["run", "-m", "random,cfa,cfa[n_components=3]", "--seeds", "0-2"]
    whole = tmp_path / "whole"
    whole.mkdir()
    process = command(*arguments, cwd=whole)
    expected, err = process.communicate(timeout=120)
    assert process.returncode == 0, err

    broken = tmp_path / "broken"
    broken.mkdir()
    process = command(*arguments, cwd=broken)
    while len(list((broken / "results" / "records").glob("*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {record.score_id for record in Results(broken / "results")}  # whatever is there can be read
    assert 2 <= len(done) < 9
    process = command(*arguments, cwd=broken)
    found, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err.count("re-used") == len(done)
    assert _without_seconds(found) == _without_seconds(expected)


def _without_seconds(table):
    lines = table.splitlines()
    edge = lines[2].index("fit s")
    return [line[:edge] for line in lines[:10]] + lines[10:]


def test_an_interrupt_ends_with_130_and_leaves_no_process(tmp_path, plugins):
    process = command("run", "-m", "hangs", "--plugin", plugins["hangs"], cwd=tmp_path)
    while "xmbench" in process.stderr.readline():  # "xmbench: ..." warnings, if any
        pass
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on" in err and "Traceback" not in err


def test_a_method_of_another_package_is_listed_and_runs(tmp_path):
    site = tmp_path / "site"
    info = site / "their_methods-2.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[xmbench.methods]\ntheirs = their_methods:Odd\n")
    (site / "their_methods.py").write_text(HEAD.format(body="pass"))
    listed = command("list", cwd=tmp_path, PYTHONPATH=str(site))
    assert "theirs" in listed.communicate(timeout=60)[0]
    process = command("run", "-m", "theirs,random", "--json", cwd=tmp_path, PYTHONPATH=str(site))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert {record["method"]["name"] for record in json.loads(out)} == {"theirs", "random"}


def test_a_method_that_cannot_be_made_is_one_failed_row(places, tmp_path):
    source = HEAD.format(body="pass")
    info = next(line for line in source.splitlines() if "info = " in line)
    (tmp_path / "bare.py").write_text(source.replace(info, ""))
    init = "    def __init__(self, k: int = 3):\n        raise ValueError('no k')\n\n"
    (tmp_path / "cross.py").write_text(source.replace("    def _fit", init + "    def _fit"))
    found = plan(places, ["bare", "cross", "random"], [tmp_path / "bare.py", tmp_path / "cross.py"]).run()
    assert [record.status for record in found] == ["failed", "failed", "ok"]
    assert "Odd has no info" in found[0].reason and found[1].reason == "ValueError: no k"


def test_a_parameter_without_a_type_takes_any_value(places, tmp_path):
    init = "    def __init__(self, k=3):\n        self.k = k\n\n"
    (tmp_path / "loose.py").write_text(
        HEAD.format(body="pass").replace("    def _fit", init + "    def _fit")
    )
    found = plan(places, ["loose", "loose[k=many]"], [tmp_path / "loose.py"]).run()
    assert [(record.status, record.method.params) for record in found] == [
        ("ok", {"k": 3}),
        ("ok", {"k": "many"}),
    ]


def test_a_method_may_declare_itself_transductive_for_good(places, tmp_path):
    source = HEAD.format(body="pass").replace("supervised=False", "supervised=False, transductive=True")
    (tmp_path / "always.py").write_text(source)
    assert plan(places, ["always"], [tmp_path / "always.py"]).run()[0].status == "failed"
    assert plan(places, ["always"], [tmp_path / "always.py"], transductive=True).run()[0].method.transductive


def test_transductive_methods_need_leave_and_are_marked(places, tmp_path):
    path = tmp_path / "peeks.py"
    source = HEAD.format(body="self.seen_ = context.unlabelled_images.copy()")
    path.write_text(
        source.replace(
            "    def _fit", "    @property\n    def transductive(self):\n        return True\n\n    def _fit"
        )
    )
    refused = plan(places, ["peeks", "random"], [path]).run()
    assert [record.status for record in refused] == ["failed", "ok"]
    assert "--transductive" in refused[0].reason
    allowed = plan(places, ["peeks"], [path], transductive=True).run()
    assert allowed[0].status == "ok" and allowed[0].method.transductive


def test_settings_resolve_into_parameters_and_label(places):
    wanted = plan(places, ["cca", "cca[preset=unregularised]"], settings={"cca": {"n_components": 3}})
    specs = [spec for spec, _, _ in wanted.specs()]
    assert [spec.method.label for spec in specs] == [
        "cca[n_components=3]",
        "cca[n_components=3,preset=unregularised]",
    ]
    assert specs[1].method.params == {"n_components": 3, "ridge": 0.0}
    with pytest.raises(UnknownName, match="ridge"):
        plan(places, ["cca"], settings={"cca": {"rigde": 1.0}})
    with pytest.raises(UsageError, match="cfa"):
        plan(places, ["cca"], settings={"cfa": {"n_components": 3}})


def test_a_seed_reaches_random_state_unless_it_is_set(places):
    wanted = plan(places, ["random", "random[random_state=7]"], seeds=[(3, 0)])
    assert [spec.method.params["random_state"] for spec, _, _ in wanted.specs()] == [3, 7]


@pytest.mark.parametrize(
    ("parameters", "label"),
    [({}, "m"), ({"b": True, "a": None}, "m[a=none,b=true]"), ({"x": 0.1, "y": "text"}, "m[x=0.1,y=text]")],
)
def test_labels_can_be_parsed_back(parameters, label):
    from xmbench.registry import parse_spec

    assert label_of("m", parameters) == label
    assert parse_spec(label) == ("m", parameters)


def test_no_temporary_files_are_left(places, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    Path(tmp_path / "scratch").mkdir()
    plan(places, ["random"]).run()
    assert not list((tmp_path / "scratch").iterdir())
    assert not [path for path in places.results.rglob("*") if path.name.endswith(".tmp")]


def test_bundles_go_when_their_runs_have_ended(places, tmp_path, monkeypatch):
    """However many split seeds there are, the temporary folder holds the data of those at work, and of one more."""
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    seen: list[int] = []
    wanted = plan(places, ["random", "cfa"], seeds=[(seed, seed) for seed in range(4)])
    wanted.run(on_event=lambda spec, event: seen.append(len(list(scratch.glob("*/*/train-images.npy")))))
    assert max(seen) == 1
    assert not list(scratch.glob("xmbench-*"))


def test_data_is_not_scaled_for_runs_that_are_done(places, monkeypatch):
    import xmbench.plan

    records = plan(places, ["random"]).run()
    monkeypatch.setattr(xmbench.plan, "prepare", None)
    assert plan(places, ["random"]).run() == records


def test_a_split_of_rows_that_are_not_there_is_refused_in_words(places, monkeypatch):
    wanted = plan(places, ["random"])
    wrong = Split("wrong", None, train=range(10), validation=[], test=[15, 20_000])
    monkeypatch.setattr(wanted.dataset, "split", lambda corpus, name, seed: wrong, raising=False)
    with pytest.raises(InvalidInput, match="'wrong': test has row 20000"):
        list(wanted.specs())


CHOOSY = """
from xmbench import Method, MethodInfo

class Choosy(Method):
    info = MethodInfo(title="Choosy", paper="none", year=2026, supervised=False)

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    @property
    def transductive(self):
        return self.random_state > 0

    def _fit(self, train, validation, context):
        self.got_test_ = int(context.unlabelled_images is not None)
        assert not self.got_test_
        self.chosen_ = 8
        self.chosen_ = max((8, 64, 512), key=lambda k: setattr(self, "chosen_", k) or context.validation_score(self))

    def _encode_image(self, x):
        return x[:, :self.chosen_] + 1.0

    def _encode_text(self, x):
        return x[:, :self.chosen_] + 1.0

METHOD = Choosy
"""


def test_what_a_fit_selects_does_not_depend_on_the_protocol_it_is_scored_with(places, tmp_path):
    path = tmp_path / "choosy.py"
    path.write_text(CHOOSY)
    other = Places(data=places.data, cache=places.cache, results=tmp_path / "other")
    scores = []
    for where, order in ((places, ("default", "l2")), (other, ("l2", "default"))):
        found = {name: plan(where, ["choosy"], [path], protocol=protocol(name)).run()[0] for name in order}
        scores.append({name: (record.score_id, record.metrics) for name, record in found.items()})
    assert scores[0] == scores[1]


def test_test_rows_reach_no_fit_that_is_not_recorded_as_transductive(places, tmp_path):
    """The method changes its mind with the seed; what the table says is what happens."""
    path = tmp_path / "choosy.py"
    path.write_text(CHOOSY)
    for record in plan(places, ["choosy"], [path], seeds=[(0, 0), (1, 0)]).run():
        assert not record.method.transductive
        assert record.status == "ok" or "transductive" in record.reason


def test_another_adapter_means_other_data(places, tmp_path):
    source = Path(Registry().datasets["emoji"].path).read_text().replace("Path(__file__)", f"Path({EMOJI!r})")
    path = tmp_path / "myemoji.py"
    prints = []
    for text in (
        source,
        source + "\n# a comment\n",
        source.replace('texts=lines["texts"]', 'texts=lines["texts"][:]'),
    ):
        path.write_text(text)
        request = Request(methods=["random"], dataset="myemoji")
        for spec, _, _ in Plan(request, Registry([path]), places, lambda message, fraction: None).specs():
            prints.append((spec.dataset.name, spec.dataset.fingerprint))
    assert prints[0] == prints[1] and prints[0][0] == "myemoji"
    assert prints[1][1] != prints[2][1]
