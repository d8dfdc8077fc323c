"""The kernels' ARM64 build under qemu-aarch64: right on three CPUs, and to the bit what x86-64 computes.

Every row but the scalar one writes its fused multiply-adds in one place for all machines, so that NEON and AVX2 must
agree to the bit. The one exception is a sum over channels, of which only the backward scan has some (cases "…/sums"):
it is taken in the order of a row's vectors.
"""

import platform
import re
import shutil
import subprocess

import pytest

CPUS = ("cortex-a53", "cortex-a76", "max,sme=off")  # ARMv8.0; ARMv8.2 with dot products; all that qemu has


@pytest.fixture(scope="module")
def program(arm64_build):
    return str(arm64_build("aarch64-linux-gnu"))


@pytest.fixture(scope="module")
def x86(build, hashes):
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the comparison needs an x86-64 machine")
    return hashes([str(build("native"))])


@pytest.mark.parametrize("cpu", CPUS)
def test_neon_is_exact_and_to_the_bit_what_x86_computes(program, x86, hashes, cpu):
    arm64 = hashes(["qemu-aarch64", "-cpu", cpu, program])
    assert list(arm64) == ["scalar", "neon"]
    assert differing(arm64["scalar"], x86["scalar"]) == []
    for row in ("avx2", "avx512"):
        if row in x86:
            assert [case for case in differing(arm64["neon"], x86[row]) if not case.endswith("/sums")] == [], row


def differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The cases whose output bits differ."""
    assert found.keys() == expected.keys()
    return [case for case in found if found[case] != expected[case]]


def load_alignments(library: str) -> list[int]:
    """Alignments of a shared library's LOAD segments, bytes."""
    headers = subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[-1], 16) for line in headers.splitlines() if re.match(r"\s+LOAD\s", line)]


def test_the_delegate_has_16_kb_pages_and_asks_for_no_library_but_libc(arm64_build):
    """Android 15's page size; no C++ library, since an app brings its own."""
    if not shutil.which("readelf"):
        pytest.skip("needs readelf (Debian: binutils)")
    library = str(arm64_build("aarch64-linux-gnu", target="libedge_hands_tflite.so"))
    alignments = load_alignments(library)
    assert alignments and all(a >= 16384 and a % 16384 == 0 for a in alignments), alignments
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", dynamic))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}, needed
