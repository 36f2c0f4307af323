"""What a user sees while runs go on."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from xmbench.executor import Event
from xmbench.progress import Lines, Live


def spec_of(label: str) -> SimpleNamespace:
    """What the reporter reads of a run."""
    data = SimpleNamespace(name="pascal", split_seed=0)
    return SimpleNamespace(method=SimpleNamespace(label=label), dataset=data, seed=0, score_id=label)


def ended(status: str = "ok") -> Event:
    return Event(
        kind="ended", key=0, status=status, seconds=1.5, message="" if status == "ok" else "it broke"
    )


def test_lines_count_the_runs_and_say_of_how_many(capsys):
    lines = Lines(quiet=False, verbose=False)
    lines.on_event(spec_of("cca"), ended())
    lines.total = 7
    lines.on_event(spec_of("cfa"), ended("failed"))
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "[1] cca on pascal, split seed 0, seed 0: done in 1.5 s"
    assert shown[1] == "[2 of 7] cfa on pascal, split seed 0, seed 0: failed in 1.5 s: it broke"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_live_table_has_a_line_a_run_on_any_terminal(width):
    live = Live(verbose=False)
    live.console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    live.total = 4
    live.on_event(spec_of("random"), ended())
    live.console.file = io.StringIO()
    spec = spec_of("cm_gans[ablation=no_ws_sc]")
    live.on_event(spec, Event(kind="started", key=0))
    news = "trial 3 of 12, epoch 7 of 40, validation_map 0.512 (best 0.523 in epoch 5)"
    live.on_event(spec, Event(kind="progress", key=0, message=news, fraction=0.175))
    live.console.print(live._table())
    lines = live.console.file.getvalue().rstrip("\n").split("\n")
    assert len(lines) == 2 and all(len(line) <= width for line in lines)
    assert lines[0].startswith("seed 0, cm_g") and "0 s" in lines[0] and "trial 3 of" in lines[0]
    assert lines[1].startswith("1 of 4 done") and " s" in lines[1]
    assert all("━" in line for line in lines)
