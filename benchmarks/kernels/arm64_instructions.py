"""Instructions of the NEON row per token · channel · state, counted under qemu-aarch64: a table, the same in every run.

    python benchmarks/kernels/arm64_instructions.py [--mnemonics]

No ARM hardware is needed: a plugin of qemu's code generator (arm64/count.c) counts what is executed. They are counts,
not times: how many of them a core takes at once is another matter. Needs CMake, Ninja, gcc, g++-aarch64-linux-gnu and
qemu-user (Debian's names).
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BUILD = REPOSITORY / "build/tests/aarch64-linux-gnu"
OPS = ("selective", "deformable")
KINDS = ("float", "int8", "geometric")

#: Mnemonics by what a core does with them; the rest is scalar integer arithmetic, addresses and branches.
GROUPS = {
    "fma": ("fmla", "fmls", "fmadd", "fmsub"),
    "float": ("fmul", "fadd", "fsub", "fdiv", "fabs", "fneg", "frintm", "fmax", "fmin", "fmaxnm", "fminnm"),
    "select": ("fcmgt", "fcmlt", "fcmge", "fcmeq", "bsl", "bit", "bif", "and", "shl"),
    "move": ("mov", "dup", "movi"),
    "load": ("ldr", "ldp", "ldur", "ld1", "ld1r", "ld2", "ldrsb", "ldrb", "ldrsw"),
    "store": ("str", "stp", "stur", "st1", "st2", "strb"),
}


@dataclass(frozen=True)
class Size:
    """One block of a network: L = side², D channels, N states, G groups of offsets."""

    side: int
    channels: int
    states: int
    groups: int

    @property
    def updates(self) -> int:
        """Tokens · channels · states."""
        return self.side**2 * self.channels * self.states


SIZES = (Size(8, 128, 8, 4), Size(16, 160, 8, 1), Size(16, 160, 16, 1))


def build() -> tuple[Path, Path]:
    """The plugin and the ARM64 program that it watches."""
    toolchain = REPOSITORY / "kernels/cmake/aarch64-linux-gnu.cmake"
    options = (f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DEDGE_HANDS_PYTHON=OFF", "-DEDGE_HANDS_TESTS=ON")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["cmake", "-G", "Ninja", "-S", str(REPOSITORY), "-B", str(BUILD), *options], **quiet)
    subprocess.run(["ninja", "-C", str(BUILD), "edge_hands_kernels"], **quiet)
    plugin, program = BUILD / "count.so", BUILD / "calls"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(HERE / "arm64/count.c"), "-o", str(plugin)], check=True)
    native = REPOSITORY / "tests/kernels/native"
    sources = [str(HERE / "arm64/calls.cpp"), str(native / "problem.cpp"), str(BUILD / "libedge_hands_kernels.a")]
    includes = [f"-I{native}", f"-I{REPOSITORY / 'kernels/include'}"]
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-O1", "-static", *includes, *sources, "-o", str(program)]
    subprocess.run(command, check=True)
    return plugin, program


def count(plugin: Path, program: Path, op: str, kind: str, size: Size) -> Counter[str]:
    """Instructions of one call, by mnemonic."""
    counts = []
    for calls in (1, 2):
        out = BUILD / "counts.txt"
        numbers = [str(n) for n in (size.side, size.channels, size.states, size.groups, calls)]
        command = ["qemu-aarch64", "-cpu", "cortex-a76", "-plugin", str(plugin), str(program), op, kind, *numbers]
        subprocess.run(command, check=True, env=os.environ | {"COUNT_OUT": str(out)})
        lines = (line.split() for line in out.read_text().splitlines())
        counts.append(Counter({mnemonic: int(n) for mnemonic, n in lines}))
    return counts[1] - counts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnemonics", action="store_true", help="also the ten most frequent instructions of each")
    arguments = parser.parse_args()
    plugin, program = build()
    print(f"{'op':<11}{'kind':<11}{'L':>5}{'D':>5}{'N':>4}{'all':>8}" + "".join(f"{g:>8}" for g in (*GROUPS, "rest")))
    for size in SIZES:
        for op in OPS:
            for kind in KINDS:
                counted = count(plugin, program, op, kind, size)
                total = sum(counted.values()) / size.updates
                parts = [sum(counted[m] for m in mnemonics) / size.updates for mnemonics in GROUPS.values()]
                parts.append(total - sum(parts))
                row = f"{op:<11}{kind:<11}{size.side**2:>5}{size.channels:>5}{size.states:>4}{total:>8.3f}"
                print(row + "".join(f"{part:>8.3f}" for part in parts), flush=True)
                if arguments.mnemonics:
                    print("   ", ", ".join(f"{m} {n / size.updates:.3f}" for m, n in counted.most_common(10)))


if __name__ == "__main__":
    main()
