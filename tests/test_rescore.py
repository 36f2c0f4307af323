"""Kept embeddings under other protocols: the numbers of a run under that protocol, and no fit."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest
from click.testing import CliRunner

from xmbench import cli
from xmbench.errors import InvalidRecord, MissingData, UsageError
from xmbench.plan import Places, Plan, Request, Reuse
from xmbench.protocol import DEFAULT, PROTOCOLS, protocol
from xmbench.record import Results
from xmbench.registry import Registry
from xmbench.rescore import compare, comparison_text, find, rescore_all

COUNTED = """
from xmbench import Method, MethodInfo

class Counted(Method):
    info = MethodInfo(title="Counted", paper="none", year=2026, supervised=False)

    def _fit(self, train, validation, context):
        with open({log!r}, "a") as stream:
            stream.write("fit\\n")
        if {fails}:
            raise ValueError("no")
        self.history_ = [{{"epoch": 1, "loss": 0.5}}]

    def _encode_image(self, x):
        return x[:, :20]

    def _encode_text(self, x):
        return x[:, :20]

METHOD = Counted
"""


def run(folder, results, **fields):
    """Records of the counting method and a failing one on emoji."""
    for name, fails in (("counted", False), ("failing", True)):
        (folder / f"{name}.py").write_text(COUNTED.format(log=str(folder / "log"), fails=fails))
    registry = Registry([folder / "counted.py", folder / "failing.py"])
    places = Places(data=folder, cache=folder / "cache", results=results)
    request = Request(methods=["counted", "failing"], dataset="emoji", **fields)
    return Plan(request, registry, places, lambda message, fraction: None).run()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one finished and one failed run, and its records."""
    folder = tmp_path_factory.mktemp("rescore")
    return folder, run(folder, folder / "results")


@pytest.fixture
def results(made, tmp_path):
    """A copy of the results, to be changed."""
    import shutil

    shutil.copytree(made[0] / "results", tmp_path / "results")
    return Results(tmp_path / "results")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rescoring_equals_running_under_the_protocol_and_fits_nothing(made, results, name):
    folder, _ = made
    (found,) = rescore_all(results, [protocol(name)])
    fits = (folder / "log").read_text().count("fit")
    expected = run(folder, folder / "results", protocol=protocol(name))[0]
    assert (folder / "log").read_text().count(
        "fit"
    ) <= fits + 1  # the failing method is tried, the other is not
    assert found.metrics == expected.metrics and found.score_id == expected.score_id
    assert found.fit_id == expected.fit_id and found.protocol == expected.protocol
    kept, other = results.arrays(found.score_id), Results(folder / "results").arrays(expected.score_id)
    assert "history/loss" in kept
    assert kept.keys() == other.keys() and all((kept[key] == other[key]).all() for key in kept)


def test_rescoring_again_changes_nothing(results):
    first = rescore_all(results, [protocol("l2"), protocol("map@50-r")])
    files = {path: path.read_bytes() for path in results.folder.rglob("*.*")}
    assert rescore_all(results, [protocol("l2"), protocol("map@50-r")]) == first
    assert files == {path: path.read_bytes() for path in results.folder.rglob("*.*")}


def test_a_record_that_contradicts_its_embeddings_is_found(results):
    (record,) = rescore_all(results, [DEFAULT])
    task = msgspec.structs.replace(record.metrics["image->text"], mean_average_precision=0.99)
    results.put(msgspec.structs.replace(record, metrics={**record.metrics, "image->text": task}))
    with pytest.raises(InvalidRecord, match=record.score_id):
        rescore_all(results, [DEFAULT])


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_without_embeddings_it_says_what_to_do(results, damage):
    (path,) = (results.folder / "embeddings").glob("*.npz")
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MissingData, match=r"counted, seed 0.*--fresh"):
        rescore_all(results, [protocol("l2")])


def test_without_finished_runs_it_says_so(tmp_path):
    with pytest.raises(MissingData, match="no finished run"):
        rescore_all(Results(tmp_path), [DEFAULT])


def test_a_run_is_found_by_its_id_its_beginning_or_its_path(made, results):
    finished, failed = made[1]
    for name in (finished.score_id, finished.score_id[:6], str(results.record_path(finished.score_id))):
        assert find(results, name) == finished
    with pytest.raises(UsageError, match="did not finish: ValueError: no"):
        find(results, failed.score_id)
    for name in ("zz", "", "nowhere.json"):
        with pytest.raises(MissingData):
            find(results, name)
    twin = msgspec.structs.replace(finished, score_id=finished.score_id[:10] + "zzzzzz")
    results.put(twin)
    with pytest.raises(UsageError, match="2 records"):
        find(results, finished.score_id[:10])


def test_a_comparison_has_every_protocol_and_marks_the_flagged(made, results):
    rows = compare(made[1][0], results)
    assert [row["protocol"] for row in rows] == list(PROTOCOLS)
    by_name = {row["protocol"]: row for row in rows}
    assert by_name["default"]["image->text"] == made[1][0].metrics["image->text"].mean_average_precision
    assert by_name["all-modal-with-query"]["image->all"] > by_name["default"]["image->all"]
    assert by_name["all-modal-with-query"]["image->text"] == by_name["default"]["image->text"]
    text = comparison_text(rows)
    for name, known in PROTOCOLS.items():
        (line,) = [line for line in text.splitlines() if f"  {name}  " in line or f"  {name} (" in line]
        assert (f"{name} (" in line) == bool(known.flags)
        assert all(flag in text for flag in known.flags)


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_the_commands(made, results, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "protocols")
    assert (
        code == 0
        and all(name in out for name in PROTOCOLS)
        and all(flag in out for known in PROTOCOLS.values() for flag in known.flags)
    )
    assert out.count("flagged: ") == sum(bool(known.flags) for known in PROTOCOLS.values())
    code, out, _ = call(monkeypatch, capsys, "protocols", "--json")
    assert [row["name"] for row in json.loads(out)] == list(PROTOCOLS)
    code, out, err = call(monkeypatch, capsys, "rescore", results.folder, "--protocol", "test-zscore")
    assert code == 0 and "Warning" in out and "(see the warning)" in out, err
    code, out, _ = call(
        monkeypatch,
        capsys,
        "protocols",
        "--compare",
        made[1][0].score_id,
        "--results",
        results.folder,
        "--json",
    )
    assert code == 0 and len(json.loads(out)) == len(PROTOCOLS)
    assert call(monkeypatch, capsys, "rescore", results.folder, "--protocol", "l3")[0] == 2
    assert call(monkeypatch, capsys, "rescore", results.folder)[0] == 2
    assert call(monkeypatch, capsys, "protocols", "--compare", "zz", "--results", results.folder)[0] == 3


def test_embeddings_can_be_discarded(tmp_path):
    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")
    plan = Plan(
        Request(methods=["random"], dataset="emoji"), Registry(), places, lambda message, fraction: None
    )
    assert plan.run(reuse=Reuse(keep_embeddings=False))[0].status == "ok"
    assert not (tmp_path / "results" / "embeddings").exists()


def test_results_lists_each_run_with_the_id_that_other_commands_take(tmp_path):
    folder = str(tmp_path / "results")
    call = CliRunner().invoke
    records = json.loads(
        call(cli.cli, ["run", "-m", "random,cfa", "-q", "--results", folder, "--json"]).stdout
    )
    lines = call(cli.cli, ["results", folder]).stdout.splitlines()[2:]
    expected = [[record["score_id"], record["method"]["label"], "emoji"] for record in records]
    assert sorted(line.split()[:3] for line in lines) == sorted(expected)
    for line in lines:
        assert call(cli.cli, ["protocols", "--compare", line.split()[0], "--results", folder]).exit_code == 0
    assert len(json.loads(call(cli.cli, ["results", folder, "--json"]).stdout)) == 2
    assert isinstance(call(cli.cli, ["results", str(tmp_path / "none")]).exception, MissingData)
