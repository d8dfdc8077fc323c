"""``edge-hands doctor``: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import os
import platform

import typer


def command() -> None:
    """Check this machine: Python, packages, kernels, runtimes and the bundled models. Exit code 1: run cannot work."""
    from importlib.metadata import PackageNotFoundError, version

    from rich.markup import escape

    from edge_hands import __version__, bundle, runtimes
    from edge_hands.cli.console import out, table
    from edge_hands.errors import EdgeHandsError

    rows = table("", "part", "state", "")
    good = True

    def row(part: str, ok: bool | None, text: str) -> None:
        mark = {True: "[green]good[/green]", False: "[red]missing[/red]", None: "[yellow]absent[/yellow]"}[ok]
        rows.add_row(part, mark, escape(text))

    row("edge_hands", True, f"{__version__}, Python {platform.python_version()}")
    row("machine", True, f"{platform.machine()}, {platform.system()} {platform.release()}, {os.cpu_count()} CPUs")
    for package in ("numpy", "opencv-python-headless"):
        try:
            row(package, True, version(package))
        except PackageNotFoundError:
            row(package, None, "not installed by pip")
    row("kernels", *_kernels())
    kinds = {name: runtimes.get(name) for name in runtimes.NAMES}
    for name, kind in kinds.items():
        state, native = kind.availability(), kind.native()
        row(f"runtime {name}", True if state else None, state.version or state.reason or "")
        if state and native != state:
            text = native.version if not native.first else f"first {native.first}"
            row("  native forms", True if native else None, text or native.reason or "")
    good &= any(kind.availability() for kind in kinds.values())
    for kind in ("landmarks", "detector"):
        try:
            loaded = bundle.load(bundle.bundled(kind))
            row(f"model {kind}", True, f"{loaded.manifest.name}, {loaded.size / 1e6:.2f} MB, verified")
        except EdgeHandsError as error:
            good = False
            row(f"model {kind}", False, str(error))
    out.print(rows)
    if not good:
        out.print("edge-hands run does not work here yet: see what is missing above.", style="red")
        raise typer.Exit(1)


def _kernels() -> tuple[bool | None, str]:
    try:
        from edge_hands import kernels

        return True, f"instruction set {kernels.isa()}"
    except (ImportError, OSError) as error:
        return None, f"not built, portable forms are used: {error}"
