"""Jobs in processes of their own: what happens to one happens to no other."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from xmbench.executor import Job, execute

JOBS = """
import os, signal, subprocess, sys, time

def fine(path, deadline, progress):
    progress("half", 0.5)
    open(path, "w").write(str(os.getpid()))

def raises(path, deadline, progress):
    raise ValueError("wrong " + path)

def leaves(path, deadline, progress):
    sys.exit("enough")

def dies(path, deadline, progress):
    os.kill(os.getpid(), signal.SIGKILL)

def ends(path, deadline, progress):
    os._exit(7)

def hangs(path, deadline, progress):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    open(path, "w").write(str(child.pid))
    time.sleep(100)

def greedy(path, deadline, progress):
    raise MemoryError

def talks(path, deadline, progress):
    while True:
        progress("on and on", 0.5)

def lingers(path, deadline, progress):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    open(path, "w").write(str(child.pid))

def describes(path, deadline, progress):
    score = open("/proc/self/oom_score_adj").read().strip()
    loaded = "torch" in sys.modules
    open(path, "w").write(f"{score} {os.getpgid(0) == os.getpid()} {deadline is not None} {loaded}")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Functions that a job's process can import."""
    (tmp_path / "xmbench_test_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("xmbench_test_jobs", None)
    import xmbench_test_jobs

    yield xmbench_test_jobs
    sys.modules.pop("xmbench_test_jobs", None)


def run(jobs, names, tmp_path, **options):
    """Key -> last event, and all events."""
    queue = [Job(name, getattr(jobs, name), (str(tmp_path / name),)) for name in names]
    options = {"n_jobs": 1, "timeout": None, "preload": ["xmbench.errors"], **options}
    events = list(execute(queue, **options))
    return {event.key: event for event in events if event.kind == "ended"}, events


def gone(pid):
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_each_end_is_told_apart_and_harms_no_other(jobs, tmp_path, n_jobs):
    names = ["raises", "leaves", "dies", "ends", "greedy", "fine"]
    ended, _ = run(jobs, names, tmp_path, n_jobs=n_jobs)
    assert {name: event.status for name, event in ended.items()} == {
        "raises": "failed",
        "leaves": "failed",
        "dies": "killed",
        "ends": "killed",
        "greedy": "failed",
        "fine": "ok",
    }
    assert ended["raises"].message == f"ValueError: wrong {tmp_path / 'raises'}"
    assert "Traceback" in ended["raises"].details
    assert ended["leaves"].message == "SystemExit: enough"
    assert "SIGKILL" in ended["dies"].message and "memory" in ended["dies"].message
    assert "exit code 7" in ended["ends"].message
    assert ended["greedy"].message == "out of memory"


def test_each_job_has_a_process_of_its_own(jobs, tmp_path):
    _, events = run(jobs, ["fine"], tmp_path)
    assert int((tmp_path / "fine").read_text()) != os.getpid()
    assert [(event.kind, event.message, event.fraction) for event in events] == [
        ("started", "", None),
        ("progress", "half", 0.5),
        ("ended", "", None),
    ]


def test_timeout_ends_the_job_and_all_that_it_started(jobs, tmp_path):
    start = time.monotonic()
    ended, _ = run(jobs, ["hangs", "fine"], tmp_path, timeout=3.0)
    assert time.monotonic() - start < 50  # it would hang for 100 s
    assert ended["hangs"].status == "timeout" and "3 s" in ended["hangs"].message
    assert ended["fine"].status == "ok"
    pid = int((tmp_path / "hangs").read_text())
    for _ in range(100):
        if gone(pid):
            break
        time.sleep(0.1)
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and the fork server are Linux's")
def test_the_process_volunteers_for_the_oom_killer_and_loads_no_torch(jobs, tmp_path):
    run(jobs, ["describes"], tmp_path, timeout=60)
    assert (tmp_path / "describes").read_text() == "1000 True True False"


def test_no_jobs_no_events():
    assert list(execute([], n_jobs=2, timeout=None, preload=[])) == []


def test_jobs_are_taken_when_there_is_room(jobs, tmp_path):
    taken = []

    def queue():
        for name in ("fine", "raises", "ends"):
            taken.append(name)
            yield Job(name, getattr(jobs, name), (str(tmp_path / name),))

    for event in execute(queue(), n_jobs=1, timeout=None, preload=[]):
        if event.kind == "started":
            assert taken[-1] == event.key  # the next one is not asked for before this one has ended


def test_leaving_early_kills_what_is_under_way(jobs, tmp_path):
    events = execute(
        [Job("hangs", jobs.hangs, (str(tmp_path / "hangs"),))], n_jobs=1, timeout=None, preload=[]
    )
    assert next(events).kind == "started"
    while not (tmp_path / "hangs").exists() or not (tmp_path / "hangs").read_text():
        time.sleep(0.05)
    events.close()
    pid = int((tmp_path / "hangs").read_text())
    time.sleep(0.5)
    assert gone(pid)


def test_a_killed_parent_takes_its_jobs_along(jobs, tmp_path):
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import xmbench_test_jobs as jobs\n"
        "from xmbench.executor import Job, execute\n"
        "if __name__ == '__main__':\n"
        "    list(execute([Job('hangs', jobs.hangs, (sys.argv[2],))], n_jobs=1, timeout=None, preload=[]))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), str(pid_file)])
    try:
        for _ in range(300):
            if pid_file.exists() and pid_file.read_text():
                break
            time.sleep(0.1)
        grandchild = int(pid_file.read_text())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for _ in range(100):
        if gone(grandchild):
            break
        time.sleep(0.1)
    assert gone(grandchild)


def test_one_that_never_stops_talking_is_ended_in_time(jobs, tmp_path):
    start = time.monotonic()
    ended, _ = run(jobs, ["talks"], tmp_path, timeout=2.0)
    assert ended["talks"].status == "timeout" and time.monotonic() - start < 60


def test_what_a_finished_job_leaves_running_is_ended(jobs, tmp_path):
    ended, _ = run(jobs, ["lingers"], tmp_path)
    assert ended["lingers"].status == "ok"
    pid = int((tmp_path / "lingers").read_text())
    for _ in range(100):
        if gone(pid):
            break
        time.sleep(0.1)
    assert gone(pid)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import xmbench_test_jobs as jobs
from xmbench.executor import Job, execute
if __name__ == "__main__":
    events = execute([Job("fine", jobs.fine, (sys.argv[2],))], n_jobs=1, timeout=60, preload=["traps"])
    print([event.status for event in events][-1])
"""


def test_a_preloaded_module_that_fails_and_the_working_directory_harm_nothing(jobs, tmp_path):
    """Modules of the working directory are not those of the command, and must not become them in a run."""
    import subprocess

    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "xmbench").mkdir(parents=True)
    (elsewhere / "xmbench" / "__init__.py").write_text("raise SystemExit('the wrong xmbench')\n")
    (elsewhere / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n")
    (tmp_path / "traps.py").write_text("raise ValueError('no import of this one')\n")
    (tmp_path / "parent.py").write_text(PARENT)
    words = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path), str(tmp_path / "fine")]
    found = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, timeout=60)
    assert found.stdout == "ok\n", found.stderr
