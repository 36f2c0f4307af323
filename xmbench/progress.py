"""What a user sees while runs go on: a live table on a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xmbench.executor import Event
from xmbench.leaderboard import clean
from xmbench.run import RunSpec


def _name(spec: RunSpec) -> str:
    data = spec.dataset
    split = "" if data.split_seed is None else f", split seed {data.split_seed}"
    return clean(f"{spec.method.label} on {data.name}{split}, seed {spec.seed}")


def _short(spec: RunSpec) -> str:
    """The run by what tells it from the others of its plan, whose dataset is the same."""
    split_seed = spec.dataset.split_seed
    split = "" if split_seed in (None, spec.seed) else f", split seed {split_seed}"
    return clean(f"seed {spec.seed}{split}, {spec.method.label}")


def _end(event: Event) -> str:
    if event.message == "re-used":
        return (
            "re-used"
            if event.status == "ok"
            else f"re-used: {event.status} before (--retry-failed tries again)"
        )
    took = f" in {event.seconds:.1f} s" if event.seconds else ""
    return f"done{took}" if event.status == "ok" else f"{event.status}{took}: {clean(event.message)}"


class Lines:
    """One line for each thing that happens.

    Args:
        quiet: print failures alone.
        verbose: print tracebacks of failures.
    """

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self.quiet, self.verbose = quiet, verbose
        self.ended, self.began = 0, time.monotonic()
        self.total: int | None = None  # runs there are to be, where that is known
        self._hinted = False
        self._last: tuple[str, float] = ("", 0.0)

    def progress(self, message: str, fraction: float | None = None) -> None:
        """News of what is done before the runs; at most a line in ten seconds for each step."""
        now = time.monotonic()
        if self.quiet or (self._last[0] == message and now - self._last[1] < 10 and fraction != 1.0):
            return
        self._last = (message, now)
        self._print(message + (f" {fraction:.0%}" if fraction is not None else ""))

    def on_event(self, spec: RunSpec, event: Event) -> None:
        """News of a run."""
        if event.kind != "ended":
            return
        self.ended += 1
        if not self.quiet or event.status != "ok":
            self._print(f"[{self.count}] {_name(spec)}: {_end(event)}")
        if event.details and self.verbose:
            self._print(event.details.rstrip())
        elif event.details and not self._hinted:
            self._hinted = True
            self._print(
                "xmbench: -v shows the traceback; failed runs are kept, --retry-failed tries them again"
            )

    @property
    def count(self) -> str:
        """How many runs have ended, and of how many."""
        return f"{self.ended}" if self.total is None else f"{self.ended} of {self.total}"

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Live(Lines):
    """A table of the runs that are under way, below the lines of those that have ended."""

    def __init__(self, *, verbose: bool) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        super().__init__(quiet=False, verbose=verbose)
        self.console = Console(stderr=True, highlight=False)
        self.running: dict[str, tuple[str, float, str, float | None]] = {}
        self.step: tuple[str, float | None] | None = None
        self.live = RichLive(
            get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True
        )

    def progress(self, message: str, fraction: float | None = None) -> None:
        """News of what is done before the runs."""
        self.step = None if fraction == 1.0 else (message, fraction)

    def on_event(self, spec: RunSpec, event: Event) -> None:
        """News of a run."""
        self.step = None
        if event.kind == "started":
            self.running[spec.score_id] = (_short(spec), time.monotonic(), "starting", None)
        elif event.kind == "progress" and spec.score_id in self.running:
            name, start, *_ = self.running[spec.score_id]
            self.running[spec.score_id] = (name, start, clean(event.message), event.fraction)
        elif event.kind == "ended":
            self.running.pop(spec.score_id, None)
        super().on_event(spec, event)

    def _table(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        rows = [
            (name, f"{now - start:.0f} s", doing, done) for name, start, doing, done in self.running.values()
        ]
        if self.total is not None:
            rows.append((f"{self.count} done", f"{now - self.began:.0f} s", "", self.ended / self.total))
        if self.step:
            rows.append(("", "", *self.step))
        width = 30 if self.console.width >= 120 else 10
        table = Table.grid(padding=(0, 2), expand=True)
        for ratio in (2, None, 3, None):  # names and news share what seconds and bars leave
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
        for name, seconds, doing, done in rows:
            bar = ProgressBar(total=1.0, completed=done, width=width) if done is not None else Text("")
            table.add_row(Text(name), Text(seconds), Text(doing), bar)
        return table

    def _print(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(text))


@contextmanager
def reporter(*, quiet: bool, verbose: bool) -> Iterator[Lines]:
    """Lines or a live table, whichever suits where standard error goes; warnings of the log are lines too."""
    logging.basicConfig(format="xmbench: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if quiet or not sys.stderr.isatty():
        yield Lines(quiet=quiet, verbose=verbose)
        return
    shown = Live(verbose=verbose)
    with shown.live:
        yield shown
