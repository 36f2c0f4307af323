"""One table of ratios at the end of a run: each contender's cost next to ours, measured in turns."""

from __future__ import annotations


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    found = [bench for bench in session.benchmarks if "line" in bench.extra_info] if session else []
    if not found:
        return
    terminalreporter.section("CPU time on one thread, medians of rounds measured in turns")
    group = None
    for bench in found:
        if bench.group != group:
            group = bench.group
            terminalreporter.write_line(f"\n{group}")
        terminalreporter.write_line(f"  {bench.extra_info['line']}")
