"""What the repository says of itself is so: README, licences, constraints, CI, committed leaderboards."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from xmbench.describe import methods_table
from xmbench.leaderboard import boards, check_boards, read_board
from xmbench.record import json_schema
from xmbench.registry import PAPER, Registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(name):
    """The lines of the code block that follows a marker in the README."""
    match = re.search(rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", README, flags=re.DOTALL)
    return match[1].splitlines() if match else []


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_readme_has_each_command_in_one_line(name):
    assert len(commands(name)) == 1


def test_ci_runs_the_readme_s_test_command_and_says_where_the_data_is():
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script and "command: test" in script and "export XMBENCH_DATA_DIR" in script


def test_tox_passes_ci_and_data_through_and_checks_the_leaderboards():
    text = (ROOT / "tox.ini").read_text()
    assert re.search(r"pass_env =\s+CI\s+XMBENCH_\*", text)
    assert "xmbench leaderboard --check\n" in text and "--check --rerun emoji --seed 0" in text
    assert text.count("description = ") == text.count("[testenv")


def test_hooks_are_local():
    assert set(re.findall(r"repo: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())) == {"local"}


@pytest.mark.parametrize("kind", ["methods", "datasets"])
def test_every_file_is_registered_and_stands_in_the_readme(kind):
    files = {path.stem for path in (ROOT / kind).glob("*.py") if not path.stem.startswith("_")}
    assert files
    known = getattr(Registry(), kind)
    assert files <= known.keys()
    for name in files:
        assert re.search(rf"^\| `{name}`", README, flags=re.MULTILINE), name


def test_the_readme_promises_no_method_that_is_not_there():
    section = README.partition("## Methods")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE)) == set(Registry().methods)
    assert len(PAPER) == 12


def test_the_readme_s_table_of_methods_is_what_the_registry_says():
    found = re.search(
        r"<!-- methods: xmbench list methods --markdown -->\n\n(.*?)\n\n<!-- methods end -->", README, re.S
    )
    assert found and found[1] == methods_table(Registry())


def test_the_readme_s_plugin_keeps_the_contract(tmp_path):
    from xmbench.testing import check_method

    source = re.search(r"```python\n(# mine.py\n.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(source[1])
    check_method(Registry([tmp_path / "mine.py"]).method("mine"))


def test_the_plugins_of_contributing_run(tmp_path):
    from xmbench.plan import Places, Plan, Request

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, flags=re.DOTALL))
    assert blocks.keys() == {"blots.py", "letters.py"}
    for name, source in blocks.items():
        (tmp_path / name).write_text(source)
    places = Places(data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results")
    registry = Registry([tmp_path / name for name in blocks])
    for features in (None, "numbers+letters"):
        request = Request(methods=("random", "deep_sm"), dataset="blots", features=features)
        records = Plan(request, registry, places, lambda *news: None).run()
        assert [(record.status, record.reason) for record in records] == [("ok", None)] * 2


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    extras = project["optional-dependencies"]
    wanted = [
        re.split(r"[<>=~ ]", item)[0]
        for item in project["dependencies"]
        + [
            item
            for name in ("features", "glove", "mat73", "minilm", "parquet", "plots", "test")
            for item in extras[name]
        ]
    ]
    assert set(wanted) <= pinned.keys()
    assert pinned["torch"] == "2.13.0"


def test_licences_are_named_and_their_texts_are_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT AND Apache-2.0 AND Unicode-3.0"
    assert "Permission is hereby granted" in (ROOT / "LICENSE").read_text()
    assert "Apache License" in (ROOT / "LICENSES" / "Apache-2.0.txt").read_text()
    assert "UNICODE LICENSE V3" in (ROOT / "LICENSES" / "Unicode-3.0.txt").read_text()


def test_the_record_s_schema_is_exported():
    assert json.loads((ROOT / "leaderboards" / "record.schema.json").read_text()) == json_schema()


def test_the_committed_leaderboards_agree_with_their_records():
    folder = ROOT / "leaderboards"
    assert check_boards(folder, Registry()) == boards(folder) == ["emoji", "pascal", "wikipedia"]


@pytest.mark.parametrize("name", ["emoji", "pascal", "wikipedia"])
def test_the_committed_records_are_whole_fresh_and_small(name):
    folder = ROOT / "leaderboards"
    records = read_board(folder, name)
    assert {record.seed for record in records} >= {0, 1, 2, 3, 4}
    assert {record.method.name for record in records} >= {"cca", "cfa", "deep_sm", "random"}
    assert all(record.status == "ok" for record in records)
    assert (folder / f"{name}.npz").stat().st_size < 6_000_000
    assert "stale" not in (folder / f"{name}.md").read_text()


def test_no_file_of_ours_holds_a_machine_s_path():
    for folder in ("xmbench", "methods", "datasets", "scripts", "tests", "leaderboards"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".jsonl", ".json") and path.name != Path(__file__).name:
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"(?<![\w.])/(?:work|root)/|\.\.[/]shared", text), path


def test_every_module_parses_as_the_oldest_python_that_is_promised():
    for folder in ("xmbench", "methods", "datasets"):
        for path in (ROOT / folder).glob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
