"""Prints the table of the scans' times after the benchmarks: ns per token · channel · state, and ratios."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that is the same in every run."""
    return np.random.default_rng(20251120)


def pytest_terminal_summary(terminalreporter, config) -> None:
    """One line per op and case: the fastest time of each way, and what the last row gains over the others."""
    session = getattr(config, "_benchmarksession", None)
    infos = [b.extra_info for b in (session.benchmarks if session else []) if "ns_per_update" in b.extra_info]
    if not infos:
        return
    table: dict[tuple[str, str], dict[str, float]] = {}
    for info in infos:
        table.setdefault((info["op"], info["case"]), {})[info["way"]] = info["ns_per_update"]
    ways = list(dict.fromkeys(info["way"] for info in infos))
    terminalreporter.section("ns per token · channel · state, one thread (times the last native row)")
    native = [way for way in ways if way not in ("numpy", "torch")]
    for (op, case), times in sorted(table.items()):
        best = times.get(native[-1]) if native else None
        cells = [f"{way} {times[way]:.3f} ({times[way] / best:.1f}x)" for way in ways if best and way in times]
        terminalreporter.write_line(f"{op:<20} {case:<12} " + "  ".join(cells))
