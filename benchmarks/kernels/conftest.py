"""Prints the table of the scans' times after the benchmarks, and writes it to benchmarks/results/."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).parents[1] / "results"
#: What a state update takes of the core's vector units: 13 operations on AVX-512 (fma, sub, fms, 5 fma, scale as two,
#: mul, 2 fma); other rows need two more. Only counted against the peak.
_OPERATIONS = {"avx512": 13}


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that is the same in every run."""
    return np.random.default_rng(20251120)


def pytest_terminal_summary(terminalreporter, config) -> None:
    """One line per op and case: the fastest time of each way, and how many times the last native row's it is."""
    session = getattr(config, "_benchmarksession", None)
    infos = [b.extra_info for b in (session.benchmarks if session else []) if "ns_per_update" in b.extra_info]
    if not infos:
        return
    from edge_hands.kernels import rows

    from .baselines import peak_flops

    table: dict[tuple[str, str], dict[str, float]] = {}
    for info in infos:
        table.setdefault((info["case"], info["op"]), {})[info["way"]] = info["ns_per_update"]
    best_row, peak = rows()[-1], peak_flops()
    lines = []
    for (case, op), times in table.items():
        best = times.get(best_row)
        if not best:
            continue
        cells = [f"{way} {time:.3f} ({time / best:.1f}x)" for way, time in times.items()]
        if op == "selective" and best_row in _OPERATIONS:
            # Two float operations a lane make the peak; an operation that is no fused multiply-add takes as much.
            cells.append(f"{2 * _OPERATIONS[best_row] / (best * 1e-9) / peak:.0%} of the peak")
        if op == "deformable":
            # Four corners of nine points, four bytes each, for every token and channel: updates over states.
            states = next(c.states for c in _cases() if c.name == case)
            cells.append(f"{4 * 9 * 4 / (best * states):.0f} GB/s gathered")
        lines.append(f"{case:<15} {op:<26} " + "  ".join(cells))
    title = f"ns per token · channel · state, one thread, and times {best_row}'s"
    terminalreporter.section(title)
    for line in lines:
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"peak of a core: {peak / 1e9:.0f} GFLOPS of fused multiply-adds")
    if lines:  # a run of other benchmarks leaves the stored table as it is
        _write(title, lines, peak)


def _cases():
    from edge_hands.kernels.cases import FURTHER_CASES, NETWORK_CASES

    return NETWORK_CASES + FURTHER_CASES


def _write(title: str, lines: list[str], peak: float) -> None:
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    head = (
        f"# Scans: {title}\n\n"
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {cpu}, {platform.system()}, one thread, -O3 -ffp-contract=off, "
        f"`make bench-kernels`; peak {peak / 1e9:.0f} GFLOPS.\n"
        "Fastest of the rounds; a shared machine, so compare ratios within a line only.\n\n```\n"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"kernels-{platform.machine()}.md").write_text(head + "\n".join(lines) + "\n```\n", encoding="utf-8")


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
