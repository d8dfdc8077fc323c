"""What this machine's CPU can do, as far as decisions outside the kernels depend on it."""

from __future__ import annotations

import platform
from pathlib import Path

_INFO = Path("/proc/cpuinfo")
#: Flags of /proc/cpuinfo: AVX-512 VNNI or AVX-VNNI; ARMv8.2's dot products.
_X86, _ARM = "vnni", "asimddp"


def int8_dot_products() -> bool:
    """Whether the CPU adds four products of int8 to an int32 in one instruction; False where the system does not tell.

    Without it int8 layers take as long as float32 ones, or a little longer.
    """
    machine = platform.machine().lower()
    if machine == "arm64" and platform.system() == "Darwin":
        return True  # every Apple M
    try:
        flags = _INFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return (_X86 if machine in ("x86_64", "amd64") else _ARM) in flags
