"""What commands import: light ones answer without numerical libraries, runs without those they do not use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xmbench.plan import Places, Plan, Request
from xmbench.record import Results
from xmbench.registry import Registry

HEAVY = {"numpy", "scipy", "sklearn", "pandas", "torch", "rich", "msgspec", "gensim", "matplotlib"}

COMMAND = """
import sys
from xmbench.cli import main
try:
    main()
except SystemExit as end:
    print("\\nloaded", end.code, *sorted(name for name in sys.modules if "." not in name))
"""


def loaded(*arguments: str, folder, **environment: str) -> tuple[str, set[str]]:
    """Output of a command in a fresh interpreter, and the modules that it has loaded at its end."""
    finished = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    out, _, last = finished.stdout.rpartition("\nloaded ")
    code, *names = last.split()
    assert code == "0", finished.stderr
    return out, set(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "Usage"),
        (["run", "--help"], "--methods"),
        (["--version"], "xmbench "),
        (["list"], "deep_sm"),
        (["list", "--json"], '"wikipedia"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_light_commands_import_no_heavy_library(tmp_path, arguments, words):
    out, names = loaded(*arguments, folder=tmp_path)
    assert words in out
    assert "click" in names  # the list of modules is not empty for another reason
    assert not HEAVY & names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "cca"], "Hotelling"),
        (["info", "acmr"], "embedding_steps"),
        (["data", "info", "emoji"], "1,249 pairs"),
    ],
)
def test_descriptions_import_neither_torch_nor_scikit_learn(tmp_path, arguments, words):
    out, names = loaded(*arguments, folder=tmp_path)
    assert words in out and "numpy" in names
    assert not {"torch", "sklearn", "pandas", "gensim"} & names


def test_a_run_of_closed_forms_imports_neither_torch_nor_scikit_learn(tmp_path):
    """With the features in the cache, neither the command's own process nor those of its runs need them."""
    places = Places(data=tmp_path / "no data", cache=tmp_path / "cache", results=tmp_path / "results")
    Plan(Request(methods=["random"], dataset="emoji"), Registry(), places, lambda *_: None).data(0)
    out, names = loaded(
        *("run", "-m", "cca,cfa,random", "--device", "cpu"),
        folder=tmp_path,
        XMBENCH_CACHE_DIR=str(places.cache),
        XMBENCH_DATA_DIR=str(places.data),
    )
    assert "chance level" in out and "numpy" in names
    assert not {"torch", "sklearn", "gensim"} & names
    records = list(Results(places.results))
    assert {record.method.name for record in records} == {"cca", "cfa", "random"}
    for record in records:
        assert "numpy" in record.cost.versions
        assert set(record.cost.versions) <= {"python", "xmbench", "numpy", "scipy"}
