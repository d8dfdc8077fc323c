"""An ARM64 Python with LiteRT, run by qemu-aarch64: no chroot, no binfmt, no ARM hardware.

    python tests/kernels/arm64/userland.py FOLDER               makes it, some 250 MB, from the Debian and PyPI mirrors
    python tests/kernels/arm64/userland.py FOLDER script.py …   runs a script in it

Debian's packages are unpacked, none of their scripts run; the wheels are unpacked beside them. Speed under emulation
means nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-aarch64": "qemu-user"}  # program: Debian package
SUITE = "bookworm"
PACKAGES = (
    "libc6,libstdc++6,libgcc-s1,python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib,"
    "zlib1g,libexpat1,libssl3,libffi8,libbz2-1.0,liblzma5,libuuid1"
)
WHEELS = ("numpy==2.4.6", "ai-edge-litert==2.3.0", "flatbuffers", "ml_dtypes", "typing_extensions", "tqdm")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
CPU = "max,sme=off"  # plain "max" gave silently wrong int8 results in qemu 7.2

# qemu-user 7.2 shows a program the host's /proc/cpuinfo; LiteRT's cpuinfo library then crashes, and does where it
# counts other processors than /sys, still the host's. What lies under the library prefix wins: as many Cortex-A78 as
# there are.
PROCESSOR = """processor\t: {}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd41
CPU revision\t: 0

"""


def missing() -> list[str]:
    """Debian packages that this machine lacks."""
    return [package for program, package in TOOLS.items() if not shutil.which(program)]


def make(folder: Path) -> None:
    """Fills `folder`; a folder that is complete is left alone. CalledProcessError when a mirror cannot be reached."""
    done = folder / "complete"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["-q", "--variant=extract", "--architectures=arm64", f"--include={PACKAGES}"]
    _run(["mmdebstrap", *options, SUITE, str(folder / "root")])
    wheel_options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    target = ["--target", str(folder / "site")]
    _run([sys.executable, "-m", "pip", "install", "-q", *wheel_options, *platforms, *target, *WHEELS])
    done.touch()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments in the userland; it sees the host's files."""
    processors = (PROCESSOR.format(number) for number in range(os.cpu_count() or 1))
    (folder / "root/proc").mkdir(exist_ok=True)
    (folder / "root/proc/cpuinfo").write_text("".join(processors))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    environment |= {
        "QEMU_LD_PREFIX": str(folder / "root"),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["qemu-aarch64", "-cpu", CPU, str(folder / "root/usr/bin/python3.11"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    make(place)
    if len(sys.argv) > 2:
        ran = run(place, *sys.argv[2:])
        sys.stdout.write(ran.stdout)
        sys.stderr.write(ran.stderr)
        sys.exit(ran.returncode)
