"""The command line: exit codes, what goes to which stream, and messages that help.

One real run in a process of its own serves most of the tests; after it, the same commands only re-use its
records and are called in this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import xmbench
from xmbench import cli
from xmbench.evaluation import TASKS
from xmbench.protocol import PROTOCOLS
from xmbench.record import Results, decode

PLUGIN = '''
from xmbench import Method, MethodInfo


class Plugin(Method):
    """For tests."""

    info = MethodInfo(title="Plugin", paper="none: for tests", year=2000, supervised=False)

    def __init__(self, size: int = 3):
        self.size = size

    def _fit(self, train, validation, context):
        {fit}

    def _encode_image(self, images):
        return images[:, : self.size]

    def _encode_text(self, texts):
        return texts[:, : self.size]


METHOD = Plugin
'''


def write_plugin(folder: Path, name: str, fit: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(PLUGIN.replace("{fit}", fit))
    return str(path)


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class Workshop:
    """A folder to work in, with the results of one run in it, and its environment."""

    folder: Path
    environment: dict[str, str]
    first: Answer
    plugin: str

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """A command in a process of its own."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**self.environment, **options.pop("extra", {})}
        command = options.pop("command", [sys.executable, "-m", "xmbench"])
        return subprocess.Popen([*command, *arguments], cwd=self.folder, env=environment, **options)

    def run(self, *arguments: str, **options) -> Answer:
        """A command in a process of its own, to its end."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=120)
        return Answer(process.returncode, out.decode(), err.decode())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workshop")
    dropped = ("XMBENCH_", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"XMBENCH_CACHE_DIR": str(folder / "cache"), "XMBENCH_DATA_DIR": str(folder / "no data")}
    plugin = write_plugin(folder, "boom", "raise RuntimeError('it went off <b>|</b>')")
    made = Workshop(folder, environment, Answer(-1, "", ""), plugin)
    made.first = made.run(*ALL, "--plugin", plugin)
    return made


ALL = ("run", "-m", "cfa,random,boom", "--seeds", "0-1", "--device", "cpu")
FINE = ("run", "-m", "cfa,random", "--seeds", "0-1", "--device", "cpu")


@pytest.fixture
def call(workshop, monkeypatch, capsys):
    """A command in this process, in the folder of the workshop."""
    for name in [name for name in os.environ if name.startswith("XMBENCH_")]:
        monkeypatch.delenv(name)
    for name in ("XMBENCH_CACHE_DIR", "XMBENCH_DATA_DIR"):
        monkeypatch.setenv(name, workshop.environment[name])
    monkeypatch.chdir(workshop.folder)

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return Answer(caught.value.code, out, err)

    return run


def planned(call, *arguments: str) -> list[dict]:
    """The rows of a dry run."""
    answer = call("run", "--dry-run", "--json", "--device", "cpu", *arguments)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


# -- a run ------------------------------------------------------------------------------------------


def test_a_run_with_a_failure_prints_its_table_and_returns_1(workshop):
    first = workshop.first
    assert first.code == 1, first.err
    lines = first.out.splitlines()
    assert lines[0].startswith("Emoji, split grouped")
    rows = {line.split()[0]: line for line in lines if line.startswith(("cfa", "random", "boom "))}
    assert re.search(r"0\.\d{3} ± 0\.\d{3}.* 2$", rows["cfa"])
    assert rows["boom"].rstrip().endswith("0 of 2")
    reasons = [line for line in lines if "it went off" in line]
    assert len(reasons) == 2 and all("RuntimeError" in line for line in reasons)


def test_progress_goes_to_standard_error_and_tables_to_standard_output(workshop):
    out, err = workshop.first.out, workshop.first.err
    assert "reading emoji" in err and "reading emoji" not in out
    ended = re.findall(
        r"^\[(\d) of 6\] (\w+) on emoji, split seed (\d), seed (\d): (done|failed)", err, re.MULTILINE
    )
    assert [int(number) for number, *_ in ended] == [1, 2, 3, 4, 5, 6]
    assert {(name, seed, how) for _, name, _, seed, how in ended} == {
        *((name, seed, "done") for name in ("cfa", "random") for seed in "01"),
        *(("boom", seed, "failed") for seed in "01"),
    }
    assert "chance level" in out and "chance level" not in err
    assert not re.search(r"^\[\d", out, re.MULTILINE)


def test_a_failed_run_s_traceback_is_offered_once(workshop, call):
    assert workshop.first.err.count("xmbench: -v shows the traceback") == 1
    assert "-v shows" not in workshop.first.out
    assert "-v shows" not in call(*ALL, "--plugin", workshop.plugin).err  # no fit, no traceback


def test_neither_stream_has_codes_for_a_terminal_or_a_traceback(workshop):
    for text in (workshop.first.out, workshop.first.err):
        assert "\x1b" not in text and "\r" not in text
        assert "Traceback" not in text


def test_the_same_command_again_fits_nothing_and_prints_the_same(workshop, call):
    before = {path: path.stat().st_mtime_ns for path in (workshop.folder / "results").rglob("*")}
    again = call(*ALL, "--plugin", workshop.plugin)
    assert (again.code, again.out) == (1, workshop.first.out)
    assert again.err.count(": re-used\n") == 4
    assert again.err.count("re-used: failed before (--retry-failed tries again)") == 2
    assert {path: path.stat().st_mtime_ns for path in (workshop.folder / "results").rglob("*")} == before


def test_a_run_without_failures_returns_0(call):
    assert call(*FINE).code == 0


def test_json_is_the_records_and_nothing_else(workshop, call):
    answer = call(*ALL, "--plugin", workshop.plugin, "--json")
    assert answer.code == 1
    found = [decode(json.dumps(row), "row") for row in json.loads(answer.out)]
    kept = {record.score_id: record for record in Results(workshop.folder / "results")}
    assert len(found) == 6 and {record.score_id: record for record in found} == kept
    assert [record.method.name for record in found] == ["cfa", "random", "boom"] * 2
    assert "re-used" in answer.err


def test_quiet_leaves_standard_error_empty(call, workshop):
    answer = call(*FINE, "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert "chance level" in answer.out
    spoken = call(*ALL, "--plugin", workshop.plugin, "-q").err.splitlines()
    assert len(spoken) == 2 and all("boom" in line and "failed" in line for line in spoken)


def test_retry_failed_runs_the_failures_alone_and_verbose_shows_their_tracebacks(workshop):
    answer = workshop.run(*ALL, "--plugin", workshop.plugin, "--retry-failed", "-v")
    assert answer.code == 1
    assert answer.err.count(": re-used\n") == 4
    assert answer.err.count("Traceback (most recent call last)") == 2
    assert answer.err.count("RuntimeError: it went off") >= 2 and "-v shows" not in answer.err
    assert "Traceback" not in answer.out


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(workshop, call):
    before = {path for path in workshop.folder.rglob("*") if path.is_file()}
    rows = planned(call, "-m", "cfa,boom", "--plugin", workshop.plugin)
    assert [row["state"] for row in rows] == ["kept (ok)", "kept (failed)"]
    elsewhere = planned(call, "-m", "cfa,random", "--results", "elsewhere")
    assert [row["state"] for row in elsewhere] == ["to run", "to run"]
    assert {path for path in workshop.folder.rglob("*") if path.is_file()} == before
    assert not (workshop.folder / "elsewhere").exists()


def test_a_dry_run_in_words_names_each_run(call):
    answer = call("run", "--dry-run", "-m", "random,cfa", "--device", "cpu")
    kept = {row["method"]: row["score_id"] for row in planned(call, "-m", "random,cfa")}
    lines = answer.out.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("random", "cfa"), strict=True):
        assert line.startswith(name) and kept[name] in line and line.endswith("kept (ok)")


def test_a_damaged_record_returns_4_and_says_what_to_do(workshop, call, tmp_path):
    shutil.copytree(workshop.folder / "results", tmp_path / "results")
    (row,) = planned(call, "-m", "random")
    Results(tmp_path / "results").record_path(row["score_id"]).write_text("{")
    answer = call("run", "-m", "random", "--device", "cpu", "--results", tmp_path / "results")
    assert answer.code == 4
    assert "--fresh" in answer.err and row["score_id"] in answer.err
    assert "Traceback" not in answer.err


def test_an_interrupted_run_returns_130_and_leaves_no_process(workshop, tmp_path):
    marker = tmp_path / "pid"
    fit = f"import os, time, pathlib; pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(99)"
    plugin = write_plugin(tmp_path, "sleeper", fit)
    code = (  # whoever started pytest may have told its children to ignore the signal
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from xmbench.cli import main; main()"
    )
    arguments = ("run", "-m", "sleeper", "--plugin", plugin, "--device", "cpu", "--results", tmp_path / "r")
    process = workshop.start(*map(str, arguments), command=[sys.executable, "-c", code])
    try:
        await_that(lambda: marker.exists() and marker.read_text())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == b""
    assert b"interrupted" in err and b"Traceback" not in err
    await_that(lambda: not alive(int(marker.read_text())))
    assert not [path for path in (tmp_path / "r").rglob("*") if path.is_file()]


def test_a_run_that_is_told_to_end_leaves_no_process_and_no_temporary_data(workshop, tmp_path):
    marker, scratch = tmp_path / "pid", tmp_path / "scratch"
    scratch.mkdir()
    fit = f"import os, time, pathlib; pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(99)"
    plugin = write_plugin(tmp_path, "sleeper", fit)
    arguments = ("run", "-m", "sleeper", "--plugin", plugin, "--device", "cpu", "--results", tmp_path / "r")
    process = workshop.start(*map(str, arguments), extra={"TMPDIR": str(scratch)})
    try:
        await_that(lambda: marker.exists() and marker.read_text())
        assert list(scratch.glob("xmbench-*/*/train-images.npy"))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert out == b"" and b"Traceback" not in err
    await_that(lambda: not alive(int(marker.read_text())))
    await_that(lambda: not list(scratch.iterdir()))


def await_that(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_terminal_sees_runs_get_on_and_no_color_is_obeyed(workshop, tmp_path):
    fit = "import time; context.progress('epoch \\x1b[31m 7', 0.5); time.sleep(0.7)"
    plugin = write_plugin(tmp_path, "steady", fit)
    master, slave = os.openpty()
    arguments = ("run", "-m", "steady", "--plugin", plugin, "--device", "cpu", "--results", tmp_path / "r")
    terminal = {"NO_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120"}
    process = workshop.start(*map(str, arguments), stderr=slave, extra=terminal)
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:  # Linux: the other side is closed
        pass
    finally:
        os.close(master)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"steady on emoji" in seen and b"epoch [31m 7" in seen and b"done in" in seen
    codes = {number for found in re.findall(rb"\x1b\[([\d;]*)m", seen) for number in found.split(b";")}
    assert codes <= {b"", b"0", b"1", b"2", b"3", b"4"}  # plain, bold, dim, italic, underlined
    assert b"\x1b" not in out and b"chance level" in out


# -- options of a run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [(0, 0)]),
        (["--seeds", "0-1"], [(0, 0), (1, 1)]),
        (["--seeds", "1,0"], [(1, 1), (0, 0)]),
        (["--seeds", " 0 , 1 "], [(0, 0), (1, 1)]),
        (["--seeds", "0,0-1,1-1"], [(0, 0), (1, 1)]),
        (["--seeds", "0-3", "--split-seed", "1"], [(0, 1), (1, 1), (2, 1), (3, 1)]),
        (["--seeds", "0-1", "--seed", "7"], [(7, 0), (7, 1)]),
        (["--seed", "3", "--split-seed", "1"], [(3, 1)]),
        (["--seeds", "0-5", "--seed", "3", "--split-seed", "1"], [(3, 1)]),
    ],
)
def test_seeds(call, options, expected):
    rows = planned(call, "-m", "random", *options)
    assert [(row["seed"], row["split_seed"]) for row in rows] == expected
    assert [row["params"]["random_state"] for row in rows] == [seed for seed, _ in expected]


@pytest.mark.parametrize(
    "seeds", ["", "a", "-1", "3-1", "0-", "0--1", "0-1-2", "1.5", "0,,1", "0 1", "²", "1e3"]
)
def test_wrong_seeds(call, seeds):
    answer = call("run", "-m", "random", f"--seeds={seeds}")
    assert (answer.code, answer.out) == (2, "")
    assert "--seeds" in answer.err and "0-4" in answer.err and repr(seeds) in answer.err


@pytest.mark.parametrize(
    ("options", "label", "params"),
    [
        (["-m", "cca"], "cca", {"n_components": None, "ridge": 10.0}),
        (["-m", "cca", "--set", "cca.ridge=0.5"], "cca[ridge=0.5]", {"n_components": None, "ridge": 0.5}),
        (["-m", "cca", "--set", "cca.ridge=1"], "cca[ridge=1]", {"n_components": None, "ridge": 1}),
        (
            ["-m", "cca", "--set", "cca.ridge=1e-2", "--set", "cca.n_components=4"],
            "cca[n_components=4,ridge=0.01]",
            {"n_components": 4, "ridge": 0.01},
        ),
        (
            ["-m", "cca[n_components=4]", "--set", "cca.n_components=none"],
            "cca[n_components=4]",
            {"n_components": 4, "ridge": 10.0},
        ),
        (["-m", "cca", "--set", "cca.ridge=1", "--set", "cca.ridge=2"], "cca[ridge=2]", {"ridge": 2}),
        (["-m", "cca[ridge=1]", "--set", " cca . ridge = 2 "], "cca[ridge=1]", {"ridge": 1}),
        (
            ["-m", "cca[n_components=4]", "--set", " cca . ridge = 2 "],
            "cca[n_components=4,ridge=2]",
            {"ridge": 2},
        ),
        (["-m", "cca", "--set", "cca.preset=unregularised"], "cca[preset=unregularised]", {"ridge": 0.0}),
        (["-m", "cca[preset=unregularised,ridge=3]"], "cca[preset=unregularised,ridge=3]", {"ridge": 3}),
    ],
)
def test_parameters_by_set_and_in_brackets(call, options, label, params):
    (row,) = planned(call, *options)
    assert row["method"] == label
    assert row["params"].items() >= params.items()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("cca.ridge", "METHOD.PARAMETER=VALUE"),
        ("ridge=1", "METHOD.PARAMETER=VALUE"),
        (".ridge=1", "METHOD.PARAMETER=VALUE"),
        ("cca.=1", "METHOD.PARAMETER=VALUE"),
        ("", "METHOD.PARAMETER=VALUE"),
        ("cfa.n_components=3", "not among the methods"),
        ("cca.ridge=", "expected float, got ''"),
        ("cca.ridge=much", "expected float, got 'much'"),
        ("cca.ridge=true", "expected float, got True"),
        ("cca.ridge=1=2", "expected float, got '1=2'"),
        ("cca.ridge=NaN", "expected float"),
        ("cca.ridge=1e999", "expected float"),
        ("cca.n_components=2.5", "expected int or none, got 2.5"),
        ("cca.preset=unregularized", "did you mean unregularised?"),
    ],
)
def test_wrong_settings(call, setting, words):
    answer = call("run", "-m", "cca", "--set", setting)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err and "Traceback" not in answer.err


DID_YOU_MEAN = [
    (["rnu"], "unknown command 'rnu'; did you mean run?"),
    (["data", "lits"], "unknown command 'lits'; did you mean list?"),
    (["run", "-m", "cffa"], "unknown method 'cffa'; did you mean cfa"),
    (["run", "-m", "cca[rigde=1]"], "'rigde'; did you mean ridge?"),
    (["run", "-m", "cca", "--set", "cca.rigde=1"], "'rigde'; did you mean ridge?"),
    (["run", "-m", "cca[preset=unregularized]"], "'unregularized'; did you mean unregularised?"),
    (["run", "-m", "random", "-d", "emojii"], "unknown dataset 'emojii'; did you mean emoji?"),
    (["run", "-m", "random", "--split", "groupd"], "unknown split 'groupd'; did you mean grouped?"),
    (["run", "-m", "random", "--protocol", "defualt"], "unknown protocol 'defualt'; did you mean default?"),
    (["run", "-m", "random", "--scaling", "zscroe+none"], "unknown scaling 'zscroe'; did you mean zscore?"),
    (["run", "-m", "random", "--features", "lite1+tfidf"], "'lite1'; did you mean lite0?"),
    (["run", "-m", "random", "--features", "lite0+tfdif"], "'tfdif'; did you mean tfidf?"),
    (["info", "cffa"], "did you mean cfa"),
    (["info", "emojj"], "did you mean emoji?"),
    (["data", "info", "emojj"], "did you mean emoji?"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), DID_YOU_MEAN, ids=[" ".join(case[0]) for case in DID_YOU_MEAN]
)
def test_did_you_mean(call, arguments, words):
    answer = call(*arguments)
    assert (answer.code, answer.out) == (2, "")
    (message,) = [line for line in answer.err.splitlines() if not line.startswith("reading")]
    assert message.startswith("xmbench: ") and words in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--metods", "cca"], "--methods"),
        (["leaderboard", "--chek"], "--check"),
        (["run", "--jobs", "0"], "--jobs"),
        (["run", "--jobs", "many"], "--jobs"),
        (["run", "--threads", "0"], "--threads"),
        (["run", "--seed", "-1"], "--seed"),
        (["run", "--timeout", "0"], "--timeout"),
        (["run", "--timeout", "nan", "-m", "random"], "--timeout"),
        (["run", "--timeout", "inf", "-m", "random"], "--timeout"),
        (["run", "--features", "lite0", "-m", "random"], "IMAGE+TEXT"),
        (["run", "--scaling", "none", "-m", "random"], "IMAGE+TEXT"),
        (["run", "-m", ","], "no method given"),
        (["run", "-m", "cca[ridge"], "cca[ridge"),
        (["list", "things"], "methods"),
        (["run", "--tune", "best"], "grid"),
        (["run", "--tune", "grid", "--budget", "0"], "--budget"),
        (["run", "--budget", "3", "-m", "random"], "--tune grid or --tune random"),
        (
            ["run", "--tune", "grid", "--budget", "3", "-m", "random,cfa"],
            "cfa: the grid over n_components takes 12",
        ),
        (["info"], "NAME"),
        (["evaluate"], "IMAGES"),
        (["run", "surplus"], "surplus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_returns_2(call, arguments, words):
    answer = call(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err and "Traceback" not in answer.err


def test_missing_data_returns_3_and_says_where_it_is_expected(call, workshop):
    answer = call("run", "-m", "random", "-d", "pascal", "--device", "cpu")
    assert (answer.code, answer.out) == (3, "")
    for words in (workshop.environment["XMBENCH_DATA_DIR"], "--data-dir", "XMBENCH_DATA_DIR", "<category>"):
        assert words in answer.err


def test_a_folder_that_cannot_be_written_is_one_message(call, tmp_path):
    (tmp_path / "file").write_text("")
    answer = call("leaderboard", "--output", tmp_path / "file")
    assert answer.code == 1
    assert answer.err.startswith("xmbench: ") and "file" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_failure_with_an_unprintable_reason_is_one_row(workshop, tmp_path):
    plugin = write_plugin(tmp_path, "odd", "raise ValueError('caf\\udce9 \\x1b[31m')")
    arguments = ("run", "-m", "random,odd", "--plugin", plugin, "--device", "cpu")
    answer = workshop.run(*arguments, "--results", str(tmp_path / "r"))
    assert answer.code == 1
    assert "chance level" in answer.out and "ValueError: caf" in answer.out
    for text in (answer.out, answer.err):
        assert "\x1b" not in text and "Traceback" not in text
    assert {record.status for record in Results(tmp_path / "r")} == {"ok", "failed"}


# -- tracebacks, streams ----------------------------------------------------------------------------


def test_a_traceback_comes_with_debug_alone_and_the_exit_code_stays(workshop):
    plain = workshop.run("data", "info", "nothing")
    debug = workshop.run("--debug", "data", "info", "nothing")
    assert "Traceback" not in plain.err
    assert "Traceback (most recent call last)" in debug.err and "UnknownName" in debug.err
    assert plain.code == debug.code == 2


def test_a_reader_that_goes_away_is_no_error_to_shout_about(workshop):
    for arguments in (("list", "--json"), ("--help",)):
        process = workshop.start(*arguments)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=60) in (0, 1)
        assert err == b""


def test_a_stream_without_arrows_and_dashes_gets_the_numbers(workshop, tmp_path):
    rows, labels = items()
    np.save(tmp_path / "rows.npy", rows[0])
    np.save(tmp_path / "labels.npy", labels)
    arguments = (
        "evaluate",
        tmp_path / "rows.npy",
        tmp_path / "rows.npy",
        "--labels",
        tmp_path / "labels.npy",
    )
    process = workshop.start(*map(str, arguments), extra={"PYTHONIOENCODING": "latin-1"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"image->text" in out


def test_help_and_version(call):
    for arguments in (["--help"], ["-h"], ["run", "-h"], ["data", "info", "--help"], ["evaluate", "-h"]):
        answer = call(*arguments)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("Usage: ")
    assert call("--version").out == f"xmbench {xmbench.__version__}\n"
    for arguments in ([], ["data"]):
        answer = call(*arguments)
        assert answer.code == 2 and "Usage: " in answer.out + answer.err


def test_every_command_and_option_has_help(call):
    def walk(command, path):
        assert command.help, path
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (*path, parameter.name)
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))

    walk(cli.cli, ("xmbench",))


# -- plugins, list, info ----------------------------------------------------------------------------

FUSE = (
    "import pathlib\npathlib.Path({!r}).write_text('imported')\nimport no_such_module_at_all\nMETHOD = None\n"
)


@pytest.fixture
def plugins(tmp_path):
    """Options for a sound plugin and three broken ones, and a file that appears when one is imported."""
    sound = write_plugin(tmp_path, "sound", "pass")
    marker = tmp_path / "marker"
    broken = {
        "fuse": FUSE.format(str(marker)),
        "garbled": "def (:\n",
        "stranger": "class METHOD:\n    pass\nMETHOD = METHOD\n",
    }
    options = ["--plugin", sound]
    for name, source in broken.items():
        (tmp_path / f"{name}.py").write_text(source)
        options += ["--plugin", str(tmp_path / f"{name}.py")]
    return options, marker


def test_list_names_everything_and_imports_nothing(call, plugins):
    options, marker = plugins
    answer = call("list", *options)
    assert answer.code == 0
    for name in ("cca", "cfa", "random", "emoji", "pascal", "sound", "fuse", "garbled", "stranger"):
        assert re.search(rf"^  {name} ", answer.out, re.MULTILINE)
    assert re.search(r"garbled +broken: SyntaxError.*line 1", answer.out)
    assert not marker.exists()


def test_list_check_imports_and_returns_1_if_a_plugin_is_broken(call, plugins):
    options, marker = plugins
    answer = call("list", "--check", *options)
    assert answer.code == 1
    assert marker.read_text() == "imported"
    lines = {line.split()[0]: line for line in answer.out.splitlines() if line.startswith("  ")}
    assert "broken" in lines["fuse"] and "no_such_module_at_all" in lines["fuse"]
    assert "broken" in lines["garbled"] and "SyntaxError" in lines["garbled"]
    assert "broken" in lines["stranger"] and "subclass" in lines["stranger"]
    assert "broken" not in lines["sound"] and "Plugin" in lines["sound"]
    assert "Traceback" not in answer.err


def test_list_check_of_sound_plugins_returns_0(call, plugins):
    answer = call("list", "--check", *plugins[0][:2])
    assert answer.code == 0
    assert "broken" not in answer.out
    assert re.search(r"cca +CCA", answer.out)


def test_list_of_one_kind_and_as_json(call, plugins):
    assert "emoji" not in call("list", "methods").out
    assert "cca" not in call("list", "datasets").out
    rows = json.loads(call("list", "--json", *plugins[0]).out)
    found = {row["name"]: row for row in rows}
    assert found["emoji"]["kind"] == "datasets" and found["sound"]["kind"] == "methods"
    assert found["sound"]["origin"] == "file sound.py" and found["sound"]["problem"] is None
    assert "SyntaxError" in found["garbled"]["problem"]


def test_methods_are_listed_as_a_markdown_table(call):
    answer = call("list", "methods", "--markdown")
    assert answer.code == 0 and "| `cm_gans` | CM-GANs | 2019 | yes |" in answer.out
    for arguments in (("--markdown",), ("datasets", "--markdown"), ("methods", "--markdown", "--json")):
        answer = call("list", *arguments)
        assert answer.code == 2 and "--markdown goes with methods alone" in answer.err


def test_a_broken_plugin_is_a_failed_row_and_costs_the_others_nothing(call, plugins):
    answer = call("run", "-m", "cfa,fuse,garbled", *plugins[0], "--device", "cpu")
    assert answer.code == 1
    assert re.search(r"^cfa +0\.\d{3} .* 1$", answer.out, re.MULTILINE)
    assert re.search(r"^fuse .* 0 of 1$", answer.out, re.MULTILINE)
    assert "no_such_module_at_all" in answer.out and "SyntaxError" in answer.out
    rows = planned(call, "-m", "cfa,fuse", *plugins[0])
    assert rows[0]["state"] == "kept (ok)" and rows[1]["state"].startswith("cannot run: ")


@pytest.mark.parametrize(
    ("name", "source", "code", "words"),
    [
        ("missing.py", None, 3, "does not exist"),
        ("empty.py", "", 2, "METHOD = YourClass"),
        ("Bad-Name.py", "METHOD = 1", 2, "must match"),
    ],
)
def test_a_file_that_is_no_plugin(call, tmp_path, name, source, code, words):
    if source is not None:
        (tmp_path / name).write_text(source)
    for command in (["list"], ["run", "-m", "random"], ["info", "cca"]):
        answer = call(*command, "--plugin", tmp_path / name)
        assert (answer.code, answer.out) == (code, "")
        assert name in answer.err and words in answer.err


@pytest.mark.parametrize("command", [["run", "-m", "cca"], ["run", "-m", "random"], ["info", "cca"]])
def test_a_plugin_of_a_taken_name_is_refused_and_not_passed_over(call, tmp_path, command):
    file = write_plugin(tmp_path, "cca", "pass")
    answer = call(*command, "--plugin", file)
    assert (answer.code, answer.out) == (2, "")
    problem = "the name 'cca' is taken by built-in; rename the file"
    assert answer.err == f"xmbench: method 'cca' (file cca.py): {problem}\n"
    listed = call("list", "--plugin", file)
    assert listed.code == 0 and re.search(rf"^  cca#2 +broken: {problem}$", listed.out, re.MULTILINE)


def test_info_of_a_method(call, plugins):
    answer = call("info", "cca")
    assert (answer.code, answer.err) == (0, "")
    for words in ("Hotelling", "ridge = 10.0", "cca[preset=unregularised]", "max tr(", "departs:"):
        assert words in answer.out
    found = json.loads(call("info", "cca", "--json").out)
    assert found["parameters"] == {"n_components": None, "ridge": 10.0}
    assert call("info", "sound", *plugins[0]).out.startswith("sound: Plugin (file sound.py)")
    broken = call("info", "fuse", *plugins[0])
    assert (broken.code, broken.out) == (1, "") and "no_such_module_at_all" in broken.err


def test_info_of_a_dataset(call):
    answer = call("info", "emoji")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == call("data", "info", "emoji").out
    found = json.loads(call("data", "info", "emoji", "--json").out)
    assert found["read"]["pairs"] == found["pairs"]
    assert json.loads(call("info", "emoji", "--json").out) == found
    absent = call("data", "info", "pascal")
    assert absent.code == 0 and "the files are not there" in absent.out


def test_data_list_says_what_is_here(call, tmp_path):
    lines = {line.split()[0]: line for line in call("data", "list").out.splitlines()}
    assert lines["emoji"].endswith("embedded")
    assert lines["pascal"].endswith("xmbench data info pascal")
    for path in ("dataset", "sentence"):
        (tmp_path / "pascal_sentence" / path).mkdir(parents=True)
    here = call("data", "list", "--data-dir", tmp_path).out
    assert re.search(r"^pascal .* here$", here, re.MULTILINE)


# -- evaluate ---------------------------------------------------------------------------------------


def items() -> tuple[np.ndarray, np.ndarray]:
    """Two embeddings of twenty items, and their labels."""
    return np.random.default_rng(0).standard_normal((2, 20, 4)), np.arange(20) % 4


def save(folder: Path, suffix: str, labels: np.ndarray) -> list[str]:
    (images, texts), _ = items()
    paths = []
    for name, array in (("images", images), ("texts", texts), ("labels", labels)):
        path = folder / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        elif suffix == ".npz":
            np.savez(path, array)
        else:
            np.savetxt(path, array, delimiter={".csv": ",", ".txt": " "}[suffix])
        paths.append(str(path))
    return [*paths[:2], "--labels", paths[2]]


@pytest.mark.parametrize("hot", [False, True], ids=["single", "multi-hot"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".txt"])
def test_evaluate_equals_the_function(call, tmp_path, suffix, hot):
    (images, texts), labels = items()
    if hot:
        labels = np.eye(4, dtype=int)[labels] | np.eye(4, dtype=int)[(labels * 3) % 4]
    expected = xmbench.evaluate(images, texts, labels)
    answer = call("evaluate", *save(tmp_path, suffix, labels), "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["protocol"] == expected.protocol.to_dict()
    assert list(found["tasks"]) == list(TASKS)
    for name, task in expected.tasks.items():
        row = found["tasks"][name]
        assert row["mean_average_precision"] == pytest.approx(task.mean_average_precision, abs=1e-12)
        assert row["chance"] == pytest.approx(task.chance, abs=1e-12)
        assert row["precision"] == pytest.approx({"1": task.precision[0], "10": task.precision[9]}, abs=1e-12)
        assert row["per_class"] == pytest.approx({str(k): v for k, v in task.per_class.items()}, abs=1e-12)
    words = call("evaluate", *save(tmp_path, suffix, labels))
    assert words.code == 0
    for task in expected.tasks.values():
        assert f"{task.mean_average_precision:.4f}" in words.out


def test_evaluate_takes_a_protocol_and_an_engine(call, tmp_path):
    (images, texts), labels = items()
    arguments = save(tmp_path, ".npy", labels)
    found = json.loads(call("evaluate", *arguments, "--json", "--protocol", "l2", "--engine", "numpy").out)
    assert found["protocol"]["similarity"] == "l2" and found["engine"] == "numpy float64"
    l2 = xmbench.Protocol(**found["protocol"])
    expected = xmbench.evaluate(images, texts, labels, l2).tasks["image->text"].mean_average_precision
    assert found["tasks"]["image->text"]["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    flagged = json.loads(call("evaluate", *arguments, "--json", "--protocol", "test-zscore").out)
    assert found["flags"] == [] and flagged["flags"] == list(PROTOCOLS["test-zscore"].flags)
    answer = call("evaluate", *arguments, "--protocol", "l3")
    assert answer.code == 2 and "did you mean l2?" in answer.err


def test_labels_may_be_large_numbers_at_no_cost(call, tmp_path):
    arguments = save(tmp_path, ".npy", (items()[1] + 1) * 300_000)
    tracemalloc.start()
    try:
        answer = call("evaluate", *arguments, "--json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.code == 0
    names = set(json.loads(answer.out)["tasks"]["image->text"]["per_class"])
    assert names == {"300000", "600000", "900000", "1200000"}
    assert peak < 20e6  # a name for each number up to the largest takes three times that


def broken_arrays() -> dict[str, tuple[str, np.ndarray, int, str]]:
    (images, texts), labels = items()
    not_finite = images.copy()
    not_finite[7, 2] = np.nan
    boxed = np.array([None] * 20, dtype=object)
    return {
        "NaN": ("images", not_finite, 2, "row 7"),
        "fewer rows": ("texts", texts[:-1], 2, "19"),
        "other width": ("texts", texts[:, :3], 2, "width"),
        "one dimension": ("images", images[:, 0], 2, "image embeddings"),
        "three dimensions": ("images", images[None], 2, "image embeddings"),
        "no rows": ("images", images[:0], 2, "image embeddings"),
        "words": ("images", np.array(["a"] * 20), 2, "image embeddings"),
        "objects": ("images", boxed, 2, "images.npy"),
        "objects as labels": ("labels", boxed, 2, "labels.npy"),
        "fewer labels": ("labels", labels[:5], 2, "5"),
        "fractions as labels": ("labels", labels + 0.5, 2, "labels"),
        "NaN as label": ("labels", np.where(labels == 3, np.nan, labels), 2, "labels"),
        "infinity as label": ("labels", np.where(labels == 3, np.inf, labels), 2, "labels"),
        "negative labels": ("labels", labels - 1, 2, "-1"),
        "no multi-hot matrix": ("labels", np.eye(5, dtype=int)[labels] * 2, 2, "multi-hot"),
    }


@pytest.mark.parametrize("case", broken_arrays())
def test_evaluate_refuses_wrong_arrays(call, tmp_path, case):
    arguments = save(tmp_path, ".npy", items()[1])
    name, array, code, words = broken_arrays()[case]
    np.save(tmp_path / f"{name}.npy", array, allow_pickle=array.dtype == object)
    answer = call("evaluate", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err and answer.err.startswith("xmbench: ")
    assert len(answer.err.splitlines()) == 1


def test_evaluate_without_its_files(call, tmp_path):
    arguments = save(tmp_path, ".npy", items()[1])
    (tmp_path / "texts.npy").unlink()
    answer = call("evaluate", *arguments)
    assert (answer.code, answer.out) == (3, "")
    assert "texts.npy does not exist" in answer.err
    assert call("evaluate", *arguments[:2]).code == 2  # no labels
    assert call("evaluate", tmp_path, *arguments[1:]).code == 2  # a folder


# -- leaderboard ------------------------------------------------------------------------------------


@pytest.fixture
def board(call, tmp_path):
    """The leaderboard of the workshop's run."""
    answer = call("leaderboard", "--output", tmp_path / "boards")
    assert (answer.code, answer.out) == (0, f"wrote {tmp_path / 'boards' / 'emoji.md'}\n")
    return tmp_path / "boards"


def test_a_leaderboard_passes_its_own_check(call, board):
    assert sorted(path.name for path in board.iterdir()) == ["emoji.jsonl", "emoji.md", "emoji.npz"]
    for only in ([], ["--dataset", "emoji"]):
        answer = call("leaderboard", "--check", "--output", board, *only)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("emoji: ")


def test_the_page_shows_what_the_run_printed(workshop, board):
    cells = re.findall(r"\d\.\d{3} ± \d\.\d{3}", workshop.first.out.partition("chance")[0])
    written = (board / "emoji.md").read_text(encoding="utf-8")
    assert len(cells) == 20 and all(cell in written for cell in cells)
    assert "boom" not in written


@pytest.mark.parametrize("damage", ["page", "record", "arrays", "line"])
def test_the_check_returns_4_and_changes_nothing(call, board, damage):
    if damage == "page":
        text = (board / "emoji.md").read_text(encoding="utf-8")
        (board / "emoji.md").write_text(
            re.sub(r"(\d\.\d\d)\d ±", r"\g<1>x ±", text, count=1), encoding="utf-8"
        )
    elif damage == "record":
        text = (board / "emoji.jsonl").read_text(encoding="utf-8")
        text = re.sub(r'("mean_average_precision":0\.)\d', r"\g<1>9", text, count=1)
        (board / "emoji.jsonl").write_text(text, encoding="utf-8")
    elif damage == "arrays":
        (board / "emoji.npz").write_bytes((board / "emoji.npz").read_bytes()[:-1000])
    else:
        (board / "emoji.jsonl").write_bytes((board / "emoji.jsonl").read_bytes()[:-20])
    before = {path: path.read_bytes() for path in board.iterdir()}
    answer = call("leaderboard", "--check", "--output", board)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith("xmbench: ") and "Traceback" not in answer.err
    assert {path: path.read_bytes() for path in board.iterdir()} == before


def test_a_rerun_of_a_leaderboard_agrees_with_it(workshop, board):
    answer = workshop.run(
        *("leaderboard", "--check", "--rerun", "emoji", "--seed", "0", "--output", str(board))
    )
    assert answer.code == 0, answer.err
    assert "emoji: 2 records were refitted and agree" in answer.out
    assert not (workshop.folder / "leaderboards").exists()


TUNED = (
    "run",
    "-m",
    "random,moving,boom",
    "--seeds",
    "0-1",
    "--device",
    "cpu",
    "--tune",
    "random",
    "--budget",
    "3",
)


def test_a_tuned_run_its_leaderboard_and_its_rerun(workshop, call, tmp_path):
    moving = write_plugin(tmp_path, "moving", "pass")
    text = (
        Path(moving)
        .read_text()
        .replace("    def __init__", "    grid = {'size': range(1, 9)}\n\n    def __init__")
        .replace("import Method, MethodInfo", "import MethodInfo\nfrom xmbench.training import Trained")
        .replace("Plugin(Method)", "Plugin(Trained)")
        .replace("supervised=False", "supervised=False, trained=True")
        .replace("        pass", "        open(__file__ + '.fits', 'a').write('x')")
    )
    Path(moving).write_text(text)
    plugins = ("--plugin", moving, "--plugin", workshop.plugin)
    ran = call(*TUNED, *plugins, "--results", str(tmp_path / "results"))
    assert ran.code == 1 and "tuned on validation rows (random, 3 trials)" in ran.out  # boom fails ...
    assert (
        ran.out.count("protocol default, tuned") == ran.out.count(", protocol default") == 1
    )  # ... in the same table
    assert "each method had 3 trials" in ran.out and "moving: size" in ran.out
    board, results = str(tmp_path / "boards"), Results(tmp_path / "results")
    assert call("leaderboard", *plugins, "--results", str(results.folder), "--output", board).code == 0
    again = call("leaderboard", *plugins, "--check", "--rerun", "emoji", "--output", board)
    assert again.code == 0 and "emoji: 4 records were refitted and agree" in again.out, again.err
    fits = Path(f"{moving}.fits")
    assert len(fits.read_text()) == 2 * 2 * 3  # two seeds, in the run and in the re-run, three trials each
    quick = call("leaderboard", *plugins, "--check", "--rerun", "emoji", "--chosen", "--output", board)
    assert quick.code == 0 and "emoji: 4 records were refitted and agree" in quick.out, quick.err
    assert len(fits.read_text()) == 2 * 2 * 3 + 2
    for record in results.newest():
        assert (record.tuning.mode, record.tuning.budget) == ("random", 3)
        sizes = [trial.params.get("size") for trial in record.tuning.trials]
        assert len(sizes) == (3 if record.method.name == "moving" else 1)
    compared = call("compare", "-d", "emoji", "--board", board)
    assert compared.code == 0 and "moving" in compared.out and "random" in compared.out
    untuned = call("run", "-m", "random", "--dry-run", "--results", str(results.folder))
    assert "to run" in untuned.out and "kept" not in untuned.out


def test_the_default_budget_is_that_of_published_tables(call):
    from xmbench.tuning import BUDGET

    assert f"[default: {BUDGET}]" in " ".join(call("run", "--help").out.split())
    of = [
        planned(call, "-m", "cca", "--tune", "random", *more)[0] for more in ([], ["--budget", str(BUDGET)])
    ]
    assert of[0]["score_id"] == of[1]["score_id"]
    assert planned(call, "-m", "cca")[0]["score_id"] != of[0]["score_id"]


@pytest.mark.parametrize(
    "options",
    [
        ["--rerun", "emoji"],
        ["--seed", "0"],
        ["--check", "--seed", "0"],
        ["--rerun", "emoji", "--seed", "0"],
        ["--check", "--chosen"],
    ],
    ids=" ".join,
)
def test_options_of_a_rerun_go_with_the_check(call, options, tmp_path):
    answer = call("leaderboard", "--output", tmp_path / "boards", *options)
    assert (answer.code, answer.out) == (2, "")
    assert "--rerun" in answer.err
    assert not (tmp_path / "boards").exists()


def test_a_rerun_of_a_seed_that_is_not_there(call, board):
    answer = call("leaderboard", "--check", "--rerun", "emoji", "--seed", "9", "--output", board)
    assert answer.code == 2 and "seed 9" in answer.err
    answer = call("leaderboard", "--check", "--rerun", "emojii", "--output", board)
    assert answer.code == 3 and "emojii" in answer.err


def test_no_leaderboard_returns_3(call, tmp_path):
    answer = call("leaderboard", "--check", "--output", tmp_path / "nowhere")
    assert (answer.code, answer.out) == (3, "")
    answer = call("leaderboard", "--output", tmp_path / "nowhere", "--results", tmp_path / "nothing")
    assert (answer.code, answer.out) == (3, "")


def test_the_schema_is_json_on_standard_output(call):
    answer = call("leaderboard", "--schema")
    assert (answer.code, answer.err) == (0, "")
    schema = json.loads(answer.out)
    assert "Record" in schema["$defs"]
