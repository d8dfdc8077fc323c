"""Exporters in Pythons of their own, for where the version pins of two of them conflict.

    edge-hands export --model CHECKPOINT --device quest-3 --out DIR --python executorch=/path/to/python

That Python has edge_hands, of this version, and what the exporter and its runtime need; it makes the forms and runs
them on the gate's samples, and this one, which may have none of it, judges them. The two share a folder and speak JSON:
``python -m edge_hands.export_targets.isolated`` reads one request, the arguments of ``Forms`` and ``Forms.get``, from
its standard input and writes one object a line: {"step": text} as often as it likes, then either {"result": ...} or
{"error": name of the class, "message": text}. Arrays lie in the folder, in ``arrays.npz``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_hands import __version__
from edge_hands.bundle import Variant
from edge_hands.errors import EdgeHandsError, ExportError
from edge_hands.export_targets import gate

_MODULE = "edge_hands.export_targets.isolated"
_ARRAYS = "arrays.npz"
Step = Callable[[str], None]


def forms(python: str, request: dict[str, Any], folder: Path, step: Step) -> list[dict[str, Any]]:
    """Fields of the forms that ``python`` makes in ``folder``. ``request``: arguments of ``Forms`` and ``Forms.get``.

    Raises what the exporter raised there; ExportError also when ``python`` cannot be used or dies.
    """
    found = _ask(python, request | {"folder": str(folder)}, step)
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    for place, form in enumerate(found):
        outputs, true, again = (_unpacked(stored, f"{place}/{kind}/") for kind in ("outputs", "true", "again"))
        meant = gate.Reference(true, again) if true else None
        form |= {"variant": Variant.model_validate(form["variant"]), "folder": folder, "outputs": outputs}
        form["meant"] = meant
    return found


def finding(python: str, request: dict[str, Any], folder: Path, step: Step) -> dict[str, Any]:
    """Fields of the ``bisect.Finding`` that ``python`` makes. ``request``: as for ``forms``, and ``limit_db``."""
    return _ask(python, request | {"folder": str(folder)}, step)


def float_latency_ms(python: str, request: dict[str, Any], folder: Path, step: Step) -> float:
    """``Forms.float_latency_ms``, measured by ``python``."""
    return float(_ask(python, request | {"folder": str(folder)}, step))


def _ask(python: str, request: dict[str, Any], step: Step) -> Any:
    """The result of a request; its steps are passed on."""
    command = [python, "-I", "-m", _MODULE]
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        try:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        except OSError as error:
            raise ExportError(f"{python} cannot be started ({error.strerror}): give the path of a Python") from error
        answer: dict[str, Any] = {}
        with child:
            try:
                answer = _talk(child, request | {"version": __version__}, step)
            finally:
                child.kill()  # it has ended, unless this process is being interrupted
        if "result" in answer:
            return answer["result"]
        if "error" in answer:
            kind = {kind.__name__: kind for kind in EdgeHandsError.__subclasses__()}.get(answer["error"], ExportError)
            raise kind(f"{answer['message']} (in {python})")
        stderr.seek(0)
        raise ExportError(f"{python} gave no answer: {_why(child.returncode, stderr.read())}")


def _talk(child: subprocess.Popen, request: dict[str, Any], step: Step) -> dict[str, Any]:
    """The last object that the child writes, {} if it is none."""
    answer: dict[str, Any] = {}
    try:
        child.stdin.write(json.dumps(request))
        child.stdin.close()
    except BrokenPipeError:  # it is gone, and its error says why
        pass
    for line in child.stdout:
        try:
            answer = json.loads(line)
        except ValueError:
            raise ExportError(f"{child.args[0]} gave no answer: it wrote {line.strip()[:200]!r}") from None
        if "step" in answer:
            step(answer["step"])
    child.wait()
    return answer


def _why(code: int, stderr: str) -> str:
    """What ended a child that did not say it itself."""
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    if missing := re.search(r"No module named '[\w.]+'", last):
        return f"{missing[0]}; install edge_hands {__version__} there, with what the exporter needs"
    return f"exit code {code}: {last}"


def _unpacked(stored: dict[str, np.ndarray], prefix: str) -> gate.Arrays:
    return {name.removeprefix(prefix): array for name, array in stored.items() if name.startswith(prefix)}


def _packed(form: Any, place: int) -> tuple[dict[str, Any], gate.Arrays]:
    """A form as JSON, and its arrays by the names that ``forms`` gives them."""
    groups = {"outputs": form.outputs}
    if form.meant is not None:
        groups |= {"true": form.meant.outputs, "again": form.meant.again}
    arrays = {f"{place}/{kind}/{name}": array for kind, group in groups.items() for name, array in group.items()}
    plain = {name: value for name, value in vars(form).items() if name not in ("folder", "outputs", "meant")}
    return plain | {"variant": form.variant.model_dump()}, arrays


def _answer(request: dict[str, Any], step: Step) -> Any:
    """The child's work."""
    if request["version"] != __version__:
        raise ExportError(f"edge_hands {__version__} is installed, {request['version']} asks: install the same version")
    from edge_hands.export_targets.forms import Forms

    folder = Path(request["folder"])
    made = Forms(Path(request["source"]), folder, request["data"], request["count"], step)
    if "runtime" not in request:
        return made.float_latency_ms
    if "limit_db" in request:
        from edge_hands.export_targets.bisect import bisect

        asked = (request["runtime"], request["scan"], made.images, request["limit_db"])
        return asdict(bisect(made.model, *asked, step))
    packed = [
        _packed(form, place)
        for place, form in enumerate(made.make(folder, request["runtime"], request["scan"], request["settings"]))
    ]
    np.savez(folder / _ARRAYS, **{name: array for _, arrays in packed for name, array in arrays.items()})
    return [form for form, _ in packed]


def main() -> int:
    """Answers one request; only answers go to the standard output, whatever libraries print there."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)

        def say(**content: Any) -> None:
            out.write(json.dumps(content) + "\n")

        try:
            say(result=_answer(json.load(sys.stdin), lambda text: say(step=text)))
        except EdgeHandsError as error:
            say(error=type(error).__name__, message=str(error))
        except ImportError as error:
            say(error="ExportError", message=f"the exporter is not installed: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
