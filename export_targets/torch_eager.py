"""The torch form of a bundle: the prepared graph's tensors, from which the runtime rebuilds and converts the graph."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_hands.bundle import Variant
from edge_hands.quantization import checkpoint
from edge_hands.quantization.qat import QuantizedModel

FILE = "model.safetensors"
TOOLS = ("torch", "torchao", "safetensors")


def export(model: QuantizedModel, source: Path, out: Path) -> Variant:
    """Copies the checkpoint's tensors to ``out`` and returns their entry for the manifest."""
    meta = checkpoint.load_meta(source)
    shutil.copyfile(source / checkpoint.MODEL, out / FILE)
    names = {name: name for name in model.outputs.names}
    config = {"model": meta.model, "overrides": meta.overrides, "stage": meta.stage, "scheme": meta.scheme}
    return Variant(
        runtime="torch", scan="native", path=FILE, input_names={"image": "image"}, output_names=names, config=config
    )
