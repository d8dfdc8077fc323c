"""The native test program (tests/kernels/native) on this machine: as built for release, and under the sanitizers.

It runs every row of this CPU over odd sizes, alignments and values between guard pages, against a reference in double
precision.
"""

import subprocess

import pytest

from edge_hands.kernels import rows


def test_every_row_is_exact_and_stays_in_bounds(build, hashes):
    found = hashes([str(build("native"))])
    assert list(found) == list(rows())
    assert len({frozenset(cases) for cases in found.values()}) == 1, "the rows ran different cases"
    assert len(found["scalar"]) > 150


SANITIZERS = {
    # The program's own tests of threads are a part of every case; one size with a rest is enough to race on.
    "address,undefined": "",
    "thread": "tile_and_rest",
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_sanitizers_have_nothing_to_say(build, hashes, sanitizer, tmp_path):
    probe = subprocess.run(
        ["c++", f"-fsanitize={sanitizer}", "-x", "c++", "-", "-o", str(tmp_path / "probe")],
        input="int main() {}",
        capture_output=True,
        text=True,
    )
    if probe.returncode or subprocess.run([tmp_path / "probe"], capture_output=True).returncode:
        pytest.skip(f"this compiler or machine has no -fsanitize={sanitizer}: {probe.stderr.strip()[-200:]}")
    flags = f"-O1 -g1 -fsanitize={sanitizer} -fno-sanitize-recover=all"
    program = build(sanitizer.replace(",", "-"), "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS_DEBUG={flags}")
    assert hashes([str(program), SANITIZERS[sanitizer]])
