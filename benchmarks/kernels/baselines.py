"""baselines.cpp, compiled for this machine with the flags of CMakeLists.txt, and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from edge_hands.kernels.cases import Case

_ROOT = Path(__file__).parents[2]
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_POINTER = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled baselines. Raises RuntimeError when there is no C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("the baselines need g++ or clang++")
    path = Path(tempfile.mkdtemp(prefix="edge_hands_baselines_")) / "baselines.so"
    kernels = _ROOT / "kernels"
    include = (f"-I{kernels / 'src'}", f"-I{kernels / 'include'}")
    source = str(Path(__file__).with_name("baselines.cpp"))
    subprocess.run([compiler, *_FLAGS, "-w", "-shared", "-fPIC", *include, source, "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.plain_scan.argtypes = [ctypes.c_int64] * 3 + [_POINTER] * 8
    loaded.gather_only.argtypes = [ctypes.c_int64] * 5 + [_POINTER] * 4
    loaded.peak_flops.restype = ctypes.c_double
    return loaded


def plain_scan(case: Case, x, delta, A, B, C, D) -> np.ndarray:
    """A scalar loop around expf, one image."""
    y, h = np.empty_like(x), np.zeros(A.shape, np.float32)
    library().plain_scan(case.length, case.channels, case.states, x, delta, A, B, C, D, h, y)
    return y


def gather_only(case: Case, x, offset, weight) -> np.ndarray:
    """The sampled x (B, L, D) of one image, as a kernel of its own."""
    sampled = np.empty_like(x)
    sizes = (case.height, case.width, case.channels, case.groups, case.points)
    library().gather_only(*sizes, x, offset, weight, sampled)
    return sampled


@functools.cache
def peak_flops() -> float:
    """float32 operations a second of one core, fused multiply-adds of its widest vectors; the best of five."""
    return max(library().peak_flops() for _ in range(5))
