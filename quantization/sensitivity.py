"""Sensitivity: what each layer alone costs in accuracy when it is int8 and all others are float32.

The costs say where mixed precision would pay. They do not add up to the whole model's: errors of layers meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torchao.quantization import pt2e

from edge_hands.errors import DataError
from edge_hands.quantization import metrics, qat
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.quantizer import LAYERS, RELUS, SCANS, layer_name
from edge_hands.quantization.train import TASKS

#: What is lost, for each kind of model: (metric, sign that makes more worse). The first decides the order.
MEASURES = {
    "landmarks": (("pa_mpjpe_mm", 1), ("error_2d_percent", 1)),
    "detector": (("average_precision", -1), ("recall", -1)),
}
_METRICS = {"landmarks": metrics.landmark_metrics, "detector": metrics.detector_metrics}

#: Fake quantisers by name in a prepared graph.
Quantisers = tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What int8 costs in ``layer`` (module path in the network), or in all layers at once.

    ``lost`` is by how much each of MEASURES gets worse than in float; on few samples it may be less than 0.
    ``change_percent`` is the RMS change of the outputs against their RMS, mean of all outputs: it needs no truth and
    has no sign, and so is the steadier of the two.
    """

    layer: str
    lost: dict[str, float]
    change_percent: float


@dataclass(frozen=True)
class Sensitivity:
    """The float metrics, the cost of each layer alone, dearest first, and that of all together, on ``samples``."""

    kind: str
    samples: int
    float_metrics: dict[str, float]
    layers: tuple[Cost, ...]
    together: Cost

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def sensitivity(
    source: str | Path,
    data: str | Path,
    count: int = 200,
    batch: int = 32,
    report: Callable[[float], None] = lambda fraction: None,
) -> Sensitivity:
    """Of the quantised checkpoint ``source``, on the first ``count`` val samples in ``data``.

    ``report`` is told the part that is done, 0 to 1. Raises DataError for a checkpoint that is not quantised or shards
    of the other kind.
    """
    graph, model = qat.load_prepared(source)
    task = TASKS[model.kind]
    pool = Pool(data, "val", task.shards)
    batches = task.batches(pool, model.config.image_size, None)
    truth = batches(np.arange(min(count, len(pool))), np.random.default_rng(0))
    return measure(graph, model, truth.pop("image"), truth, batch, report)


def measure(
    graph: GraphModule,
    model: nn.Module,
    images: np.ndarray,
    truth: dict[str, np.ndarray],
    batch: int = 32,
    report: Callable[[float], None] = lambda fraction: None,
) -> Sensitivity:
    """``sensitivity`` of a calibrated prepared graph of ``model``, which is left with all its rounding on.

    Images (n, H, W, 3) uint8 and their truth, as the metrics of the model's kind take it.
    """
    kind, found = model.kind, layers(graph)
    if not len(images):
        raise DataError("nothing to measure on: --count is 0 or the val shards are empty")

    @torch.inference_mode()
    def run() -> dict[str, np.ndarray]:
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        outputs = [model.outputs(graph(torch.from_numpy(part).float().div_(255))) for part in parts]
        return {name: torch.cat([part[name] for part in outputs]).float().numpy() for name in outputs[0]}

    def cost(name: str) -> Cost:
        outputs = run()
        values = _METRICS[kind](outputs, truth)
        lost = {key: sign * (values[key] - plain[key]) for key, sign in MEASURES[kind]}
        return Cost(name, lost, _change(outputs, reference))

    qat.observe(graph, observers=False, fake_quant=False)
    reference = run()
    plain = _METRICS[kind](reference, truth)
    costs = []
    try:
        for done, (name, quantisers) in enumerate(found.items(), 1):
            _switch(graph, quantisers, on=True)
            costs.append(cost(name))
            _switch(graph, quantisers, on=False)
            report(done / (len(found) + 1))
    finally:
        qat.observe(graph, observers=False, fake_quant=True)
    together = cost("all layers")
    report(1.0)
    first = MEASURES[kind][0][0]
    costs.sort(key=lambda one: (one.lost[first], one.change_percent), reverse=True)
    kept = {key: plain[key] for key, _ in MEASURES[kind]}
    return Sensitivity(kind, len(images), kept, tuple(costs), together)


def layers(graph: GraphModule) -> dict[str, Quantisers]:
    """The int8 layers of a prepared graph, in order: module path -> the fake quantisers that make it int8.

    These are its weights', its output's, and its inputs' unless they are the output of another layer, to which they are
    counted: a range that is hopeless has one name. A scan whose output is int8 is a layer too.
    """
    nodes = [node for node in graph.graph.nodes if node.op == "call_function" and node.target in (*LAYERS, *SCANS)]
    quantised = [node for node in nodes if _is_quantiser(node.args[1] if node.target in LAYERS else node.args[0])]
    outputs = {node: _output(node) for node in quantised}
    taken = {graph.get_submodule(output.target) for output in outputs.values() if output}
    found = {}
    for node in quantised:
        own = [outputs[node], *(node.args[:2] if node.target in LAYERS else node.args[:1])]
        if _is_quantiser(node.args[0]) and graph.get_submodule(node.args[0].target) in taken:
            own.remove(node.args[0])
        found[layer_name(node)] = tuple(part.target for part in own if part is not None and _is_quantiser(part))
    return found


def _is_quantiser(node: Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith("activation_post_process")


def _output(layer: Node) -> Node | None:
    """The fake quantiser of a layer's output, behind its ReLU if that is its only reader."""
    readers = list(layer.users)
    if len(readers) == 1 and readers[0].target in RELUS:
        readers = list(readers[0].users)
    return next((reader for reader in readers if _is_quantiser(reader)), None)


def _switch(graph: GraphModule, quantisers: Quantisers, on: bool) -> None:
    for name in quantisers:
        graph.get_submodule(name).apply(pt2e.enable_fake_quant if on else pt2e.disable_fake_quant)


def _change(found: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> float:
    shares = [
        np.sqrt(np.square(found[name] - value, dtype=np.float64).sum() / max(np.square(value).sum(), 1e-12))
        for name, value in true.items()
    ]
    return float(100 * np.mean(shares))
