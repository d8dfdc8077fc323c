"""Exporters in processes of their own: in other Pythons, where the version pins of two conflict, or beside this one.

    edge-hands export --model CHECKPOINT --device quest-3 --out DIR --python executorch=/path/to/python

That Python has edge_hands, of this version, and what the exporter and its runtime need; it makes the forms and runs
them on the gate's samples, and this one, which may have none of it, judges them. The two share a folder and speak JSON:
``python -m edge_hands.export_targets.isolated`` reads one request, the arguments of ``Forms`` and ``Forms.get``, from
a line of its standard input and writes one object a line: {"step": text} as often as it likes, then either
{"result": ...} or {"error": name of the class, "message": text}. Arrays lie in the folder, in ``arrays.npz``. The
process of a ``FloatTwin`` says that it is "converted", and answers {"ms": milliseconds} for each further line, seconds.
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
from contextlib import closing
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


class FloatTwin:
    """The network of a checkpoint unquantised, with fresh weights, in LiteRT: only its speed is of interest.

    ``python`` converts it beside what goes on here, from now on. Raises ExportError, as every method.
    """

    def __init__(self, python: str, source: Path) -> None:
        self._child, self._converted = _Child(python, {"source": str(source), "twin": True}), False

    def wait(self) -> None:
        """Until it is converted: what is timed here before that shares the machine with it."""
        if not self._converted:
            self._child.until(_CONVERTED)
            self._converted = True

    def latency_ms(self, seconds: float = 1.0) -> float:
        """Of a call on one thread: the least of those that the next so many seconds have room for."""
        self.wait()
        self._child.say(str(seconds))
        return float(self._child.value("ms"))

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._child.close()


class _Child:
    """A process of ``python`` at work on a request."""

    def __init__(self, python: str, request: dict[str, Any]) -> None:
        self._python, self._stderr = python, tempfile.TemporaryFile("w+", errors="replace")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr, "text": True}
        try:
            self._process = subprocess.Popen([python, "-I", "-m", _MODULE], **pipes)
        except OSError as error:
            self._stderr.close()
            raise ExportError(f"{python} cannot be started ({error.strerror}): give the path of a Python") from error
        self._last: dict[str, Any] = {}
        self.say(json.dumps(request | {"version": __version__}))

    def say(self, line: str) -> None:
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:  # it is gone, and its error says why
            pass

    def until(self, text: str) -> None:
        """Until a step of it is ``text``, or it has answered or ended."""
        while self._last.get("step") != text and not self._last.keys() & {"result", "error"} and self._read():
            pass

    def value(self, key: str, step: Step = lambda text: None) -> Any:
        """What it says by this name; its steps are passed on."""
        while not self._last.keys() & {key, "error"} and self._read():
            if "step" in self._last:
                step(self._last["step"])
        if key in self._last:
            return self._last.pop(key)
        if "error" in self._last:
            kind = {kind.__name__: kind for kind in EdgeHandsError.__subclasses__()}.get(self._last["error"])
            raise (kind or ExportError)(f"{self._last['message']} (in {self._python})")
        code = self._process.wait()
        self._stderr.seek(0)
        raise ExportError(f"{self._python} gave no answer: {_why(code, self._stderr.read())}")

    def _read(self) -> bool:
        """Whether it said another thing, which is ``_last`` then."""
        if not (line := self._process.stdout.readline()):
            return False
        try:
            self._last = dict(json.loads(line))
        except (ValueError, TypeError):
            raise ExportError(f"{self._python} gave no answer: it wrote {line.strip()[:200]!r}") from None
        return True

    def close(self) -> None:
        self._process.kill()  # it has ended, unless this process is being interrupted or needs it no more
        self._process.communicate()
        self._stderr.close()


def _ask(python: str, request: dict[str, Any], step: Step) -> Any:
    """The result of a request; its steps are passed on."""
    with closing(_Child(python, request)) as child:
        return child.value("result", step)


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


def _answer(request: dict[str, Any], say: Callable[..., None]) -> Any:
    """The child's work."""
    if request["version"] != __version__:
        raise ExportError(f"edge_hands {__version__} is installed, {request['version']} asks: install the same version")
    if "twin" in request:
        return _time_twin(Path(request["source"]), say)
    from edge_hands.export_targets.forms import Forms

    step: Step = lambda text: say(step=text)  # noqa: E731
    folder = Path(request["folder"])
    made = Forms(Path(request["source"]), folder, request["data"], request["count"], step)
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


#: The step that says that a twin can be timed.
_CONVERTED = "converted"


def _time_twin(source: Path, say: Callable[..., None]) -> None:
    """The work of a ``FloatTwin``, until nobody asks any more."""
    from edge_hands import models
    from edge_hands.bundle import write_manifest
    from edge_hands.export_targets import litert
    from edge_hands.export_targets.manifest import make_manifest
    from edge_hands.quantization import checkpoint
    from edge_hands.quantization.fold import fold_batch_norms
    from edge_hands.session import Session

    meta = checkpoint.load_meta(source)
    twin = models.create(meta.model, **meta.overrides)
    with tempfile.TemporaryDirectory() as folder:
        variant = litert.export(fold_batch_norms(twin), source, Path(folder), quantized=False)
        write_manifest(Path(folder), make_manifest(twin, meta, "gate", [variant], {}, Path(folder)))
        say(step=_CONVERTED)
        # As the int8 forms are timed: what a session does beside running the model is a fifth of a small one's time.
        with Session.open(folder, runtime="litert", threads=1) as session:
            image = np.full(session.manifest.input_shape, 0.5, np.float32)
            for seconds in sys.stdin:
                say(ms=gate.latency(lambda image: session.run({"image": image}), image, float(seconds)))


def main() -> int:
    """Answers one request; only answers go to the standard output, whatever libraries print there."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)

        def say(**content: Any) -> None:
            out.write(json.dumps(content) + "\n")

        try:
            say(result=_answer(json.loads(sys.stdin.readline()), say))
        except EdgeHandsError as error:
            say(error=type(error).__name__, message=str(error))
        except ImportError as error:
            say(error="ExportError", message=f"the exporter is not installed: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
