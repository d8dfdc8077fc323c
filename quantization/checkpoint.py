"""Checkpoints: a folder of ``model.safetensors`` and ``checkpoint.json``, and ``resume.safetensors`` to go on training.

``model.safetensors`` holds the averaged (EMA) weights, the ones to use. Nothing is pickled. Every file carries the
step it was written at, so that a folder torn by a crash is noticed.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edge_hands.errors import DataError

MODEL, RESUME, META = "model.safetensors", "resume.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Meta:
    """What ``checkpoint.json`` says. ``overrides`` are those of ``models.create``; ``stage`` is "float" or "qat";
    ``scheme`` is what was chosen for a quantised model (``quantizer.Scheme``), empty where nothing was."""

    model: str
    overrides: dict = field(default_factory=dict)
    step: int = 0
    samples: int = 0
    stage: str = "float"
    metrics: dict = field(default_factory=dict)
    resume: dict = field(default_factory=dict)
    scheme: dict = field(default_factory=dict)
    command: str = field(default_factory=lambda: shlex.join(sys.argv))
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _without_folders(command: str) -> str:
    """A command with the names of its files and folders only: where they lay on one machine is nobody's business."""
    return shlex.join(Path(word).name if "/" in word else word for word in shlex.split(command))


def save(directory: str | Path, model: nn.Module, meta: Meta, resume: dict[str, Tensor] | None = None) -> None:
    """Write a checkpoint; every file is replaced whole, the description last."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / MODEL, model.state_dict(), meta.step)
    if resume is not None:
        _write(directory / RESUME, resume, meta.step)
    partial = directory / f"{META}.partial"
    content = asdict(meta) | {"command": _without_folders(meta.command)}
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, directory / META)


def load_meta(directory: str | Path) -> Meta:
    """Description of a checkpoint. Raises DataError when it is missing or malformed."""
    path = Path(directory) / META
    try:
        return Meta(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise DataError(
            f"{directory} is no checkpoint: it has no {META}; give a folder written by `edge-hands train`"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a checkpoint's description ({error})") from error


def load_model(directory: str | Path) -> tuple[nn.Module, Meta]:
    """The model with its averaged weights, in eval mode, and its description. Raises DataError."""
    from edge_hands import models

    meta = load_meta(directory)
    model = models.create(meta.model, **meta.overrides)
    restore(model, load_tensors(directory, MODEL, meta.step), Path(directory) / MODEL)
    return model.eval(), meta


def restore(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load weights strictly; DataError says how they differ from the model."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{source} does not fit the model: {error}") from error


def load_tensors(directory: str | Path, name: str, step: int) -> dict[str, Tensor]:
    """Tensors of one file, which must have been written at ``step``. Raises DataError."""
    path = Path(directory) / name
    if not path.is_file():
        raise DataError(f"{path} is missing; a checkpoint needs it")
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("step")
            if written != str(step):
                raise DataError(f"{path} is of step {written}, {META} of step {step}: the folder was torn; use another")
            return {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise DataError(f"{path} is damaged ({error})") from error


def _write(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    partial = path.with_suffix(".partial")
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, partial, metadata={"step": str(step)})
    os.replace(partial, path)
