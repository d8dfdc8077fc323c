"""Bundles for every runtime and form that there is, exported from the stored quantised test models when first asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from edge_hands import bundle as bundles
from edge_hands import runtimes

STORED = Path(__file__).parents[1] / "data" / "bundles"
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
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Path]:
    """``bundle_of(model, runtime, scan)`` -> the folder of a bundle with that one form; skips what cannot run here."""
    models: dict[str, object] = {}
    folders: dict[tuple[str, str, str], Path] = {}

    def get(model: str, runtime: str, scan: str) -> Path:
        available = runtimes.get(runtime).availability()
        if not available:
            pytest.skip(available.reason)
        manifest = _stored(model)
        if any((variant.runtime, variant.scan) == (runtime, scan) for variant in manifest.variants):
            return STORED / model
        if (model, runtime, scan) not in folders:
            exporter = exporters().get(runtime)
            if exporter is None:
                pytest.skip(f"no bundle for {runtime} is stored, and without torch none can be exported")
            if model not in models:
                models[model] = _quantised(model)
            folder = tmp_path_factory.mktemp(f"{model}-{runtime}-{scan}")
            source = tmp_path_factory.mktemp(f"{model}-checkpoint")
            _checkpoint(model, source)
            form = {"scan": scan} if scan in getattr(exporter, "SCANS", ()) else {}
            variant = exporter.export(models[model], source, folder, **form)
            files = bundles.describe_variant(folder, variant)
            bundles.write_manifest(folder, manifest.model_copy(update={"variants": (variant,), "files": files}))
            folders[model, runtime, scan] = folder
        return folders[model, runtime, scan]

    return get


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
