"""The network itself in PyTorch, rebuilt from safetensors: the reference that other runtimes are compared with.

``variant.config`` is ``{"model": name, "overrides": {...}, "stage": "float" | "qat", "scheme": {...}}``: a float model
runs as it was trained, a "qat" one as the converted fake-quantised graph whose scales every other target carries.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import DataError
from edge_hands.runtimes.base import Availability, Found, Runtime, RuntimeOptions, check_tensors, unreadable


class TorchEager(Runtime):
    """A network of edge_hands.models called eagerly."""

    name = "torch"

    def __init__(self, model: Any, variant: Variant, threads: int) -> None:
        self._model, self._variant, self._threads = model, variant, threads

    @classmethod
    def availability(cls) -> Availability:
        if any(find_spec(package) is None for package in ("torch", "safetensors")):
            return Availability(reason="torch and safetensors are not installed: pip install 'edge-hands[train]'")
        try:
            return Availability(version=version("torch"))
        except PackageNotFoundError:
            return Availability(version="unknown")

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> TorchEager:
        try:
            model = _rebuild(bundle.contents[variant.path], variant.config)
            inputs, outputs = _tensors(model)
        except (DataError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise unreadable(bundle, variant, "torch", error) from error
        except Exception as error:  # safetensors' own error derives from Exception directly
            if type(error).__name__ != "SafetensorError":
                raise
            raise unreadable(bundle, variant, "torch", error) from error
        check_tensors(bundle, variant, inputs, outputs)
        return cls(model, variant, options.threads)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                image = torch.from_numpy(inputs["image"])
                found = self._model(image)
        finally:
            torch.set_num_threads(before)
        return {name: np.array(found[theirs].numpy()) for name, theirs in self._variant.output_names.items()}

    def close(self) -> None:
        self._model = None


def _rebuild(data: bytes, config: dict[str, Any]) -> Any:
    from safetensors.torch import load

    state, stage = load(data), config.get("stage", "float")
    if stage == "qat":
        from edge_hands.quantization.qat import rebuild

        return rebuild(state, config)
    if stage != "float":
        raise ValueError(f"stage {stage!r} is neither float nor qat")
    from edge_hands.models import create

    model = create(config["model"], **config.get("overrides", {}))
    model.load_state_dict(state)
    return model.eval()


def _tensors(model: Any) -> tuple[Found, Found]:
    """What the model takes and gives: it says so in a call."""
    import torch

    size = (1, model.config.image_size, model.config.image_size, 3)
    with torch.inference_mode():
        given = model(torch.zeros(size))
    outputs = {name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in given.items()}
    return {"image": ("float32", size)}, outputs
