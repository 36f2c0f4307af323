"""Runs jobs in processes of their own: what crashes, hangs or is killed costs one job.

On Linux the processes are forked from a server that has imported what the jobs need and has run nothing;
elsewhere each is started afresh. A job's process leads a process group, which is killed as a whole; it
offers itself first when memory runs out; and it ends when the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "failed", "timeout", "killed"]

_OURS = ("PYTHONPATH", "PYTHONSAFEPATH", "XMBENCH_PRELOAD")
"""What is set for the fork server and put back in the processes it forks."""


@dataclass(frozen=True)
class Job:
    """A call to be made in a process of its own.

    Args:
        key: what to call the job by.
        function: a function that can be imported, called as ``function(*arguments, deadline, progress)``.
        arguments: picklable arguments.
    """

    key: Any
    function: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Event:
    """News of a job: ``started``, ``progress`` or ``ended``.

    Args:
        kind: which of these.
        key: the job's key.
        message: what it is doing, or why it ended other than ok.
        fraction: how far it is, where known.
        status: how it ended.
        seconds: how long it took, at its end.
        details: the traceback of a failure.
    """

    kind: Literal["started", "progress", "ended"]
    key: Any
    message: str = ""
    fraction: float | None = None
    status: Status = "ok"
    seconds: float = 0.0
    details: str = ""


@dataclass
class _Running:
    job: Job
    process: Any
    connection: Connection
    start: float
    deadline: float | None
    outcome: tuple[Status, str, str] | None = None


def execute(
    jobs: Iterable[Job], *, n_jobs: int, timeout: float | None, preload: list[str]
) -> Iterator[Event]:
    """Run jobs, ``n_jobs`` at a time, and yield what happens to them.

    Args:
        jobs: taken from lazily, one when a place is free.
        n_jobs: jobs at a time, >= 1.
        timeout: seconds after which a job's process group is killed.
        preload: modules that the fork server imports once.
    """
    context = _context(preload)
    queue, running = iter(jobs), dict[int, _Running]()
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < n_jobs:
                job = next(queue, None)
                if job is None:
                    exhausted = True
                    break
                started = _start(context, job, timeout)
                running[started.process.sentinel] = started
                yield Event("started", job.key)
            if not running:
                return
            yield from _wait(running, timeout)
    finally:
        for left in running.values():
            _kill(left.process)


def _context(preload: list[str]) -> Any:
    platform: str = sys.platform
    if platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["xmbench._preload"])
        with _for_the_server(preload):
            forkserver.ensure_running()
        return context
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _for_the_server(preload: list[str]) -> Iterator[None]:
    """Let a fork server that starts now find modules where this process does, and not in its working directory."""
    before = {name: os.environ.get(name) for name in _OURS}
    os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["XMBENCH_PRELOAD"] = ",".join(preload)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _start(context: Any, job: Job, timeout: float | None) -> _Running:
    ours, theirs = context.Pipe()
    environment = {name: os.environ.get(name) for name in _OURS}
    arguments = (theirs, job.function, job.arguments, timeout, environment)
    process = context.Process(target=_child, args=arguments, daemon=False)
    process.start()
    theirs.close()
    start = time.monotonic()
    return _Running(job, process, ours, start, start + timeout if timeout is not None else None)


def _wait(running: dict[int, _Running], timeout: float | None) -> Iterator[Event]:
    """Sleep until a job has news or is out of time; deal with all that have."""
    now = time.monotonic()
    deadlines = [one.deadline - now for one in running.values() if one.deadline is not None]
    sources = [source for one in running.values() for source in (one.connection, one.process.sentinel)]
    sources = [source for source in sources if not (isinstance(source, Connection) and source.closed)]
    wait(sources, timeout=max(0.0, min(deadlines)) if deadlines else None)
    for sentinel, one in list(running.items()):
        yield from _messages(one, most=100)  # one that never stops talking must not hold up the deadlines
        alive = one.process.is_alive()
        expired = alive and one.deadline is not None and time.monotonic() >= one.deadline
        if expired:
            _kill(one.process)
            one.outcome = ("timeout", f"took longer than --timeout {timeout:g} s", "")
        if expired or not alive:
            one.process.join()
            _kill_group(one.process.pid)  # what it started ends with it
            yield from _messages(one)
            status, message, details = one.outcome or _silent_end(one.process.exitcode)
            one.connection.close()
            del running[sentinel]
            seconds = time.monotonic() - one.start
            yield Event("ended", one.job.key, message, None, status, seconds, details)


def _messages(one: _Running, most: int | None = None) -> Iterator[Event]:
    with contextlib.suppress(EOFError, OSError):
        for _ in itertools.count() if most is None else range(most):
            if one.connection.closed or not one.connection.poll():
                break
            kind, *rest = one.connection.recv()
            if kind == "progress":
                yield Event("progress", one.job.key, *rest)
            elif one.outcome is None:
                one.outcome = (kind, *rest)
        return
    one.connection.close()


def _silent_end(code: int) -> tuple[Status, str, str]:
    """How to call the end of a process that said nothing."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        hint = "; the kernel does that when memory runs out" if -code == getattr(signal, "SIGKILL", 9) else ""
        return "killed", f"its process was killed by signal {-code} ({name}){hint}", ""
    return "killed", f"its process ended with exit code {code} without finishing", ""


def _kill(process: Any) -> None:
    """End a process and all that it started."""
    if not process.is_alive():
        return
    _kill_group(process.pid)
    process.kill()
    process.join()


def _kill_group(pid: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


# -- in the job's process -------------------------------------------------------------------------


def _child(
    connection: Connection,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    timeout: float | None,
    environment: Mapping[str, str | None],
) -> None:
    _set_environment(environment)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _volunteer_for_oom()
    os.dup2(2, 1)  # standard output belongs to the parent's tables
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    deadline = time.monotonic() + timeout if timeout is not None else None
    lock = threading.Lock()

    def send(*message: object) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            connection.send(message)

    def progress(message: str, fraction: float | None = None) -> None:
        send("progress", message, fraction)

    try:
        function(*arguments, deadline, progress)
    except (
        BaseException
    ) as error:  # a method may raise anything, SystemExit included; it becomes a failed row
        sys.stdout.flush()
        send("failed", _reason(error), traceback.format_exc())
    else:
        send("ok", "", "")


def _reason(error: BaseException) -> str:
    from xmbench.errors import XmbenchError

    text = str(error)
    if isinstance(error, XmbenchError):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory{': ' + text if text else ''}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _volunteer_for_oom() -> None:
    """Ask the kernel to take this process rather than its parent when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:  # noqa: PTH123
        stream.write("1000")


def _end_with_parent(connection: Connection) -> None:
    """Nothing is ever sent this way: the pipe ends when the parent does."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
