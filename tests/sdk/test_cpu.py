"""What a CPU can do, from what the system says of it."""

import pytest

from edge_hands import cpu


@pytest.mark.parametrize(
    ("machine", "system", "flags", "expected"),
    [
        ("x86_64", "Linux", "flags : avx2 avx512f avx512_vnni", True),
        ("AMD64", "Linux", "flags : avx2 avx_vnni", True),
        ("x86_64", "Linux", "flags : fma avx2 vaes", False),
        ("aarch64", "Linux", "Features : fp asimd asimddp", True),
        ("aarch64", "Linux", "Features : fp asimd", False),
        ("arm64", "Darwin", None, True),
        ("AMD64", "Windows", None, False),
    ],
)
def test_int8_dot_products(machine, system, flags, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.platform, "system", lambda: system)
    monkeypatch.setattr(cpu, "_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags + "\n")
    assert cpu.int8_dot_products() is expected
