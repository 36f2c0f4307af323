"""Wall time until a command answers, beside that of a bare interpreter and of its heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import xmbench

COMMAND = "import xmbench.cli; xmbench.cli.main()"


def run(code, *arguments):
    """Run ``code`` in a fresh interpreter; returns what it printed."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def timed(benchmark, code, *arguments):
    benchmark.group = "startup"
    return benchmark.pedantic(run, (code, *arguments), rounds=5, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("code", ["pass", "import numpy", "import torch"])
def test_interpreter(benchmark, code):
    assert timed(benchmark, code) == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [("--help", "Usage"), ("--version", xmbench.__version__), ("list", "cca")],
)
def test_command(benchmark, command, words):
    assert words in timed(benchmark, COMMAND, command)
