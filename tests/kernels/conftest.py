"""Builds of the kernels without Python, kept in build/tests so that a second run compiles only what has changed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ARM64_TOOLCHAIN = REPOSITORY / "kernels/cmake/aarch64-linux-gnu.cmake"

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build() -> Build:
    """build(name, *CMake options, target=...) -> path of the built program; skips without CMake, Ninja or compiler."""
    for tool in ("cmake", "ninja", "c++"):
        if not shutil.which(tool):
            pytest.skip(f"the native build needs {tool}")

    def make(name: str, *options: str, target: str = "tests/kernels/native/kernels_test") -> Path:
        folder = REPOSITORY / "build/tests" / name
        settings = ("-DEDGE_HANDS_PYTHON=OFF", "-DEDGE_HANDS_TESTS=ON", *options)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            # A CMake that finds another one's half-written folder leaves out what that one had found.
            fcntl.flock(lock, fcntl.LOCK_EX)
            finished(["cmake", "-G", "Ninja", "-S", str(REPOSITORY), "-B", str(folder), *settings])
            finished(["ninja", "-C", str(folder), target])
        return folder / target

    return make


@pytest.fixture(scope="session")
def arm64_build(build: Build) -> Build:
    """The same with Debian's cross compiler for ARM64; skips without it or without the emulator."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if not shutil.which(tool):
            pytest.skip(f"ARM64 needs {tool} (Debian: g++-aarch64-linux-gnu and qemu-user)")
    return lambda name, *options, **more: build(name, f"-DCMAKE_TOOLCHAIN_FILE={ARM64_TOOLCHAIN}", *options, **more)


def finished(command: list[str], **options) -> str:
    """The standard output of a command that must succeed; its last words are the failure's message."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@pytest.fixture(scope="session")
def hashes() -> Callable[[list[str]], dict[str, dict[str, str]]]:
    """hashes(command) -> {row: {case: hash of its output's bits}} of a run of the test program that must succeed."""

    def run(command: list[str]) -> dict[str, dict[str, str]]:
        done = subprocess.run(command, capture_output=True, text=True)
        wrong = [line for line in done.stdout.splitlines() if "FAILED" in line] + done.stderr.splitlines()[-40:]
        assert done.returncode == 0, "\n".join(wrong)
        found: dict[str, dict[str, str]] = {}
        for line in done.stdout.splitlines():
            row, case, _, value = line.split()
            found.setdefault(row, {})[case] = value
        return found

    return run
