"""Bundles for every runtime and form that there is, exported from the stored quantised test models when first asked."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from edge_hands import bundle as bundles
from edge_hands import runtimes

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "data" / "bundles"
MODELS = ("test_dfmamba", "test_detector")


def exporters() -> dict[str, ModuleType]:
    """The exporters that can be imported here: none without torch."""
    try:
        from edge_hands.export_targets.forms import EXPORTERS
    except ImportError:
        return {}
    return EXPORTERS


def forms() -> list[tuple[str, str]]:
    """(runtime, form) of every runtime in the registry: what its exporter writes, else what is stored."""
    found = []
    for name in runtimes.NAMES:
        exporter = exporters().get(name)
        if exporter is not None and hasattr(exporter, "SCANS"):
            found += [(name, scan) for scan in exporter.SCANS]
        else:
            stored = [variant.scan for variant in _stored(MODELS[0]).variants if variant.runtime == name]
            found.append((name, stored[0] if stored else "portable"))
    return found


def _stored(model: str) -> bundles.Manifest:
    return bundles.load(STORED / model).manifest


@pytest.fixture(scope="session")
def bundle_of(request: pytest.FixtureRequest) -> Callable[[str, str, str], Path]:
    """``bundle_of(model, runtime, scan)`` -> the folder of a bundle with that one form; skips what cannot run here.

    Nobody may write to it: an export takes up to half a minute, and is kept in pytest's cache for the next session,
    until code that exports changes.
    """
    models: dict[str, object] = {}
    kept = request.config.cache.mkdir("edge_hands-bundles")

    def get(model: str, runtime: str, scan: str) -> Path:
        available = runtimes.get(runtime).availability()
        if not available:
            pytest.skip(available.reason)
        manifest = _stored(model)
        if any((variant.runtime, variant.scan) == (runtime, scan) for variant in manifest.variants):
            return STORED / model
        exporter = exporters().get(runtime)
        if exporter is None:
            pytest.skip(f"no bundle for {runtime} is stored, and without torch none can be exported")
        folder = kept / f"{model}-{runtime}-{scan}-{_made_of(model, exporter.TOOLS)}"
        if not folder.is_dir():
            if model not in models:
                models[model] = _quantised(model)
            with tempfile.TemporaryDirectory(dir=kept) as scratch:
                made, source = Path(scratch, "bundle"), Path(scratch, "checkpoint")
                made.mkdir(), source.mkdir()
                _checkpoint(model, source)
                form = {"scan": scan} if scan in getattr(exporter, "SCANS", ()) else {}
                variant = exporter.export(models[model], source, made, **form)
                files = bundles.describe_variant(made, variant)
                bundles.write_manifest(made, manifest.model_copy(update={"variants": (variant,), "files": files}))
                with suppress(OSError):  # another test run was faster
                    made.rename(folder)
        return folder

    return get


@cache
def _made_of(model: str, tools: tuple[str, ...]) -> str:
    """A hash of all that decides what an exporter writes: its packages, the model, our code."""
    digest = hashlib.sha256(" ".join(f"{tool}=={version(tool)}" for tool in tools).encode())
    code = [path for folder in ("export_targets", "edge_hands/models") for path in (ROOT / folder).rglob("*.py")]
    code += [path for folder in ("quantization", "kernels") for path in (ROOT / folder).glob("*.py")]
    for path in (STORED / model / "model.safetensors", *sorted(code)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _quantised(model: str) -> object:
    from safetensors.torch import load_file

    from edge_hands.quantization import qat

    return qat.rebuild(load_file(STORED / model / "model.safetensors"), {"model": model})


def _checkpoint(model: str, folder: Path) -> None:
    """The stored tensors as the checkpoint that exporters take."""
    from edge_hands.quantization import checkpoint

    (folder / checkpoint.MODEL).write_bytes((STORED / model / "model.safetensors").read_bytes())
    meta = checkpoint.Meta(model, stage="qat", command="stored", date="2026-11-20T00:00:00+00:00")
    (folder / checkpoint.META).write_text(json.dumps(asdict(meta)))
