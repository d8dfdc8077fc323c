"""The scans for ExecuTorch: a small library, compiled on demand against the installed executorch wheel.

A kernel library fits one release of ExecuTorch only, so none can travel in our own wheel. ``build`` compiles
``registration.cpp`` with the wheel's headers and links it to the static library of the scans that comes with this
package (each row compiled with its own flags), once for a release: the result stays in ``$XDG_CACHE_HOME/edge_hands``
(``~/.cache/edge_hands``). ``load`` registers its kernels in this process. Importing this module imports neither.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from edge_hands.errors import RuntimeUnavailable

__all__ = ["OPERATORS", "Kernels", "build", "load", "ready"]

#: What ``load`` registers.
OPERATORS = tuple(
    f"edge_hands::{scan}{form}.out" for scan in ("selective_scan", "deformable_scan") for form in ("", "_int8")
)

_HERE = Path(__file__).parent
_SOURCE, _HEADERS = _HERE / "registration.cpp", _HERE.parent / "include"
_LIBRARY = "libedge_hands_executorch.so"
_COMPILERS = ("c++", "g++", "clang++")
#: -ffast-math must not come in: it would change how the whole process treats denormal numbers.
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")
#: executorch's own CMake package asks for these.
_DEFINITIONS = ("-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED")
#: 16 KB pages, as Android and some ARM64 Linux want.
_LINK = ("-Wl,--no-undefined", "-Wl,-z,max-page-size=16384")

_lock = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """The loaded library."""

    path: Path
    _library: ctypes.CDLL

    def set_threads(self, threads: int) -> None:
        """Threads that a scan of this process may take, at least 1; small scans take one."""
        self._library.edge_hands_threads(threads)

    def error(self) -> str:
        """What was wrong with this thread's last scan, naming the argument; "" if nothing was."""
        return self._library.edge_hands_error().decode()


@dataclass(frozen=True)
class _Recipe:
    """What ``build`` makes of what: the library's place in the cache, and the compiler, None if it is there already."""

    library: Path
    compiler: tuple[str, ...] | None
    package: Path
    release: str
    archive: Path


def ready() -> bool:
    """Whether ``build`` has nothing to compile. Raises RuntimeUnavailable, as ``build`` does, for what is missing."""
    return _recipe().compiler is None


def build() -> Path:
    """The kernel library for the installed executorch, from the cache or compiled now (some seconds).

    Raises RuntimeUnavailable that says what is missing: executorch, a C++ compiler, or files of this package.
    """
    recipe = _recipe()
    if recipe.compiler is not None:
        _compile(recipe)
    return recipe.library


def _recipe() -> _Recipe:
    if sys.platform != "linux":
        raise RuntimeUnavailable(
            f"the ExecuTorch kernels can be built on Linux only, not on {sys.platform}; the portable form needs none"
        )
    package, release = _executorch()
    archive, headers = _archive(), sorted(_HEADERS.rglob("*.h"))
    if not headers or not _SOURCE.is_file():
        raise RuntimeUnavailable(f"{_SOURCE if headers else _HEADERS} is missing: install edge-hands again")
    digest = hashlib.sha256("\0".join((release, *_FLAGS, *_DEFINITIONS, *_LINK)).encode())
    for path in (_SOURCE, archive, *headers):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    library = _cache_folder() / f"executorch-{_plain(release)}-{digest.hexdigest()[:16]}" / _LIBRARY
    if library.is_file():
        return _Recipe(library, None, package, release, archive)
    compiler = _compiler()
    if compiler is None:
        raise RuntimeUnavailable(
            "the ExecuTorch kernels are compiled on first use, and no C++ compiler was found: install one "
            "(apt-get install g++) or name it in CXX; the portable form of a bundle needs none"
        )
    return _Recipe(library, compiler, package, release, archive)


def _compile(recipe: _Recipe) -> None:
    package, compiler, library = recipe.package, recipe.compiler, recipe.library
    includes = (package / "include", package / "include/executorch/runtime/core/portable_type/c10")
    library.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent.parent, prefix="building-") as scratch:
        made = Path(scratch) / _LIBRARY
        command = [
            *(*compiler, *_FLAGS, *_DEFINITIONS, f"-I{_HEADERS}"),
            *(word for include in includes for word in ("-isystem", str(include))),
            *(str(_SOURCE), str(recipe.archive), "-o", str(made)),
            *(f"-L{package / 'lib'}", "-l:libexecutorch.so", *_LINK),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            wrong = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
            raise RuntimeUnavailable(
                f"{compiler[0]} cannot compile the kernels for executorch {recipe.release}: {wrong.strip()}; "
                "the portable form of a bundle needs none"
            )
        os.replace(made, library)


def load() -> Kernels:
    """Register the kernels in this process, once however often it is called. Imports torch and executorch.

    Raises RuntimeUnavailable when they cannot be built, or when others have taken their names.
    """
    with _lock:
        return _load()


@cache
def _load() -> Kernels:
    path = build()
    from executorch.runtime import Runtime  # first of all: the library finds libexecutorch in the process

    registry = Runtime.get().operator_registry
    if taken := sorted(set(OPERATORS) & registry.operator_names):
        # A second registration would abort the process.
        raise RuntimeUnavailable(f"{taken[0]} is already registered in this process by another library than {path}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeUnavailable(f"{path} cannot be loaded: {error}; delete it and try again") from error
    if missing := sorted(set(OPERATORS) - registry.operator_names):
        raise RuntimeUnavailable(f"{path} did not register {missing[0]}; delete it and try again")
    library.edge_hands_error.restype = ctypes.c_char_p
    library.edge_hands_threads.argtypes = (ctypes.c_int,)
    return Kernels(path, library)


def _executorch() -> tuple[Path, str]:
    """Folder and version of the installed executorch, without importing it."""
    try:
        found, release = find_spec("executorch"), version("executorch")
    except (PackageNotFoundError, ValueError):
        found = None
    if found is None:
        raise RuntimeUnavailable("executorch is not installed: pip install 'edge-hands[executorch]'")
    package = Path(next(iter(found.submodule_search_locations)))
    if not (package / "lib" / "libexecutorch.so").is_file():
        raise RuntimeUnavailable(f"executorch {release} has no shared runtime: pip install 'edge-hands[executorch]'")
    return package, release


def _archive() -> Path:
    """The static library of the scans, installed beside the Python module of the same code."""
    native = find_spec("edge_hands.kernels._native")
    archive = Path(native.origin).parent / "libedge_hands_kernels.a" if native and native.origin else None
    if archive is None or not archive.is_file():
        raise RuntimeUnavailable(f"{archive or 'libedge_hands_kernels.a'} is missing: install edge-hands again")
    return archive


def _compiler() -> tuple[str, ...] | None:
    """The command of CXX if it is set and there, else the first compiler in PATH."""
    if asked := shlex.split(os.environ.get("CXX", "")):
        return tuple(asked) if shutil.which(asked[0]) else None
    return next(((name,) for name in _COMPILERS if shutil.which(name)), None)


def _cache_folder() -> Path:
    """Our own folder in the user's cache. Code is loaded from it, so nobody else may write to it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edge_hands"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError as error:
        raise RuntimeUnavailable(
            f"{folder} cannot be made: {error.strerror}; name another in XDG_CACHE_HOME"
        ) from error
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeUnavailable(f"{folder} can be written by others: make it yours alone (chmod 700 {folder})")
    return folder


def _plain(release: str) -> str:
    """A version as part of a file name."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in release)
