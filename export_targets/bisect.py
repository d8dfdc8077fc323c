"""The first layer that a runtime computes otherwise than the fake-quant graph, found by cutting the graph.

What a layer is to compute is what the gate compares with: the graph in the runtime's integers (``integer``), with the
form's own order of sums.

A cut of the graph at some nodes is a model of the same interface whose outputs are these nodes' values. It is exported
and run like any model, by any runtime. One cut at all nodes comes first: later layers can hide what an earlier one does
wrong. But a runtime fuses less when it must give every value, so that this may hide the fault: then only the ends are
cut, and if one differs, each further cut lies half-way between what agrees and what differs.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import CodeGen, Node

from edge_hands import models, runtimes
from edge_hands.bundle import Bundle, Manifest, describe_variant
from edge_hands.bundle import Tensor as Described
from edge_hands.errors import ExportError
from edge_hands.export_targets import gate, isolated
from edge_hands.export_targets.devices import Device
from edge_hands.export_targets.exporter import forms_of
from edge_hands.export_targets.forms import EXPORTERS, Forms
from edge_hands.export_targets.integer import in_file
from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.quantization.qat import QuantizedModel
from edge_hands.runtimes.base import Runtime, RuntimeOptions

#: Images that values are compared on: layers are told apart by far less than the gate needs.
SAMPLES = 4
#: Limit in dB where a device sets none.
SQNR_DB = 30.0

_ops = torch.ops.quantized_decomposed
_QUANTIZE, _DEQUANTIZE = _ops.quantize_per_tensor.default, _ops.dequantize_per_tensor.default
_SCANS = tuple(getattr(torch.ops.edge_hands, name).default for name in ("selective_scan", "deformable_scan"))
_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class Layer:
    """A node of the graph: module path in the network, operator, and ``source``, "models/FILE.py:LINE"."""

    module: str
    operator: str
    source: str


@dataclass(frozen=True)
class Finding:
    """What a bisection found: the first ``layer`` that differs, None if none does.

    ``sqnr_db`` is the layer's, ``before_db`` the least of the layers that it reads (None if it reads none but the
    image), ``lowest_db`` the least seen anywhere; ``limit_db`` is what the layer had to reach, or the device's limit.
    """

    layer: Layer | None
    sqnr_db: float | None
    before_db: float | None
    lowest_db: float
    limit_db: float
    cuts: int
    layers: int

    def __str__(self) -> str:
        if self.layer is None:
            return f"no layer of {self.layers} differs: lowest SQNR {self.lowest_db:.1f} dB, limit {self.limit_db:.1f}"
        before = "the image" if self.before_db is None else f"{self.before_db:.1f} dB"
        return (
            f"the first of {self.layers} layers that differs is {self.layer.module} ({self.layer.operator}, "
            f"{self.layer.source}): SQNR {self.sqnr_db:.1f} dB, limit {self.limit_db:.1f}, before it {before}; "
            f"{self.cuts} cuts"
        )


def bisect(
    model: QuantizedModel,
    runtime: str,
    scan: str,
    images: np.ndarray,
    limit_db: float | None = SQNR_DB,
    step: Callable[[str], None] = lambda text: None,
    exported: QuantizedModel | None = None,
    sweep: bool = True,
) -> Finding:
    """Compares the form ``runtime``, ``scan`` (as in ``Forms.get``) of a model with its graph on images (n, H, W, 3).

    A layer differs when its SQNR is less than ``limit_db`` and worse than rounding alone explains (see
    ``gate.Reference``). ``exported`` is what is converted, where that is not ``model``: a changed copy of it. Without
    ``sweep`` the graph is only cut at its ends and half-way between. ``step`` is told what is being done. Raises
    ExportError when a cut cannot be converted, or for torch, which runs the graph.
    """
    if runtime == "torch":
        raise ExportError("torch runs the fake-quant graph itself: there is nothing to bisect")
    search = _Search(model, exported or model, runtime, scan, images, SQNR_DB if limit_db is None else limit_db, step)
    return search.run(sweep)


def bisect_bundles(
    source: str | Path,
    devices: Iterable[Device],
    wanted: tuple[str, ...] = (),
    data: str | Path | None = None,
    step: Callable[[str], None] = lambda text: None,
    scan: str | None = None,
    pythons: dict[str, str] | None = None,
) -> Iterator[tuple[str, Finding]]:
    """``bisect`` of every form that ``export_bundles`` writes with these arguments: ("RUNTIME, SCAN scans", finding).

    A form that several devices share is bisected once, by the least of their limits; torch's is left out. What has a
    Python of its own is converted, run and compared there.
    """
    limits: dict[tuple[str, str], float] = {}
    for device in devices:
        for form in forms_of(device, wanted, scan):
            given = SQNR_DB if device.limits.sqnr_db is None else device.limits.sqnr_db
            limits[form] = min(given, limits.get(form, given))
    with tempfile.TemporaryDirectory(prefix="edge_hands_bisect_") as folder:
        forms = Forms(Path(source), Path(folder), data, SAMPLES, step)
        for (runtime, form), limit in limits.items():
            name = runtime if form == "only" else f"{runtime}, {form} scans"
            if runtime in (pythons or {}):
                request = forms.given | {"runtime": runtime, "scan": form, "limit_db": limit}
                found = isolated.finding(pythons[runtime], request, Path(folder), step)
                yield name, Finding(**found | {"layer": found["layer"] and Layer(**found["layer"])})
            elif runtime != "torch":
                yield name, bisect(forms.model, runtime, form, forms.images, limit, step)


@dataclass
class _Search:
    """The state of one ``bisect``: ``found`` is the SQNR of the nodes that were measured."""

    model: QuantizedModel
    exported: QuantizedModel
    runtime: str
    scan: str
    images: np.ndarray
    limit_db: float
    step: Callable[[str], None]
    found: dict[str, float] = field(default_factory=dict)
    cuts: int = 0

    def run(self, sweep: bool) -> Finding:
        self.nodes = candidates(self.model)
        self.above, self.near = _dependencies(self.model.body.graph.nodes, set(self.nodes))
        self.step(f"the values of {len(self.nodes)} layers in the fake-quant graph")
        meant = in_file(cut(self.model, self.nodes), self.runtime, self.scan)
        self.reference = gate.Reference.of(_in_torch(meant), self.images)
        wrong = self._sweep() if sweep else None
        wrong = wrong or self._halve()
        lowest = min(self.found.values())
        if wrong is None:
            return Finding(None, None, None, lowest, self.limit_db, self.cuts, len(self.nodes))
        self._measure_sources(wrong)
        before = min((self.found[name] for name in self._sources(wrong)), default=None)
        layer = describe(self.model.body.graph, wrong)
        return Finding(layer, self.found[wrong], before, lowest, self._limit(wrong), self.cuts, len(self.nodes))

    def _sweep(self) -> str | None:
        """The first node that differs when one file gives all values."""
        self._measure(self.nodes)
        return next((name for name in self.nodes if self._differs(name)), None)

    def _halve(self) -> str | None:
        """The first node that differs above an end of the graph that does. A node that agrees clears those above."""
        inner = set().union(*self.above.values())
        ends = [name for name in self.nodes if name not in inner]
        self._measure(ends)
        wrong = next((name for name in ends if self._differs(name)), None)
        suspects = self.above[wrong] if wrong else set()
        while wrong:
            while suspects:
                middle = self._middle(suspects)
                self._measure([middle])
                if self._differs(middle):
                    wrong, suspects = middle, suspects & self.above[middle]
                else:
                    suspects = suspects - self.above[middle] - {middle}
            self._measure_sources(wrong)  # one that was cleared without a cut may differ, and be hidden below
            source = next((name for name in self.nodes if name in self._sources(wrong) and self._differs(name)), None)
            if source is None:
                break
            wrong, suspects = source, self.above[source] - self.found.keys()
        return wrong

    def _sources(self, name: str) -> set[str]:
        """The nodes that this one reads, with none between."""
        return self.near[name]

    def _measure_sources(self, name: str) -> None:
        self._measure([node for node in self.nodes if node in self._sources(name) and node not in self.found])

    def _middle(self, suspects: set[str]) -> str:
        """The suspect that leaves the fewest others, whichever way it turns out."""
        half = (len(suspects) - 1) / 2
        return min(sorted(suspects), key=lambda name: abs(len(self.above[name] & suspects) - half))

    def _measure(self, names: list[str]) -> None:
        """SQNR of these nodes in the runtime, all outputs of one cut."""
        if not names:
            return
        self.cuts += 1
        where = describe(self.model.body.graph, names[0]).module if len(names) == 1 else f"{len(names)} layers"
        self.step(f"bisecting {self.runtime}, {self.scan} form: cut {self.cuts}, at {where}")
        values = _in_runtime(cut(self.exported, names), self.runtime, self.scan, self.images, self.reference)
        for name in names:
            self.found[name] = gate.sqnr(values[name], self.reference.outputs[name])

    def _limit(self, name: str) -> float:
        rounding = gate.sqnr(self.reference.again[name], self.reference.outputs[name])
        return min(self.limit_db, rounding - 20 * float(np.log10(gate.ROUNDING)))

    def _differs(self, name: str) -> bool:
        return not self.found[name] >= self._limit(name)


def candidates(model: QuantizedModel) -> list[str]:
    """Names of the nodes that are compared, in order: int8 activations, results of scans, and the features."""
    graph = model.body.graph
    (features,) = next(node for node in graph.nodes if node.op == "output").args
    ends = set(features.values() if isinstance(features, dict) else features)
    names, seen = [], set()
    for node in graph.nodes:
        if node.op == "call_function" and node.target is _DEQUANTIZE:
            if node.args[0] not in seen:
                seen.add(node.args[0])
                names.append(node.name)
        elif node in ends or node.target in _SCANS:
            names.append(node.name)
    return names


class _Values(nn.Module):
    """In place of a head's decoding: values as they are. ``nodes`` are the nodes, ``names`` what files call them."""

    def __init__(self, nodes: list[str]) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.names = tuple(f"cut_{place}" for place in range(len(nodes)))  # a node's own name may be taken in a file

    def forward(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return values

    def by_node(self, values: gate.Arrays) -> gate.Arrays:
        return {node: values[name] for node, name in zip(self.nodes, self.names, strict=True)}


def cut(model: QuantizedModel, names: list[str]) -> QuantizedModel:
    """A copy of the model that ends at these nodes: its outputs cut_0, cut_1, ... are their values, float32."""
    values = _Values(names)
    body = copy.deepcopy(model.body)
    graph = body.graph
    chosen = {node.name: node for node in graph.nodes if node.name in names}
    if missing := set(names) - chosen.keys():
        raise ExportError(f"the exported graph has no node {', '.join(sorted(missing))}: it is of another model")
    needed, open_ = set(), list(chosen.values())
    while open_:
        node = open_.pop()
        if node not in needed:
            needed.add(node)
            open_ += node.all_input_nodes
    for node in reversed(list(graph.nodes)):
        if node.op == "output":
            node.args = ({label: chosen[name] for label, name in zip(values.names, names, strict=True)},)
        elif node not in needed and node.op != "placeholder":
            graph.erase_node(node)
    graph.set_codegen(CodeGen())  # the old one would pack the outputs as the whole model's
    body.delete_all_unused_submodules()
    body.recompile()
    whole = SimpleNamespace(outputs=values, name=model.name, kind=model.kind, config=model.config)
    return QuantizedModel(body, whole)


def describe(graph: torch.fx.Graph, name: str) -> Layer:
    """The layer whose value a node holds: below its dequantisation and its ReLU."""
    node = next(node for node in graph.nodes if node.name == name)
    while node.target in (_DEQUANTIZE, _QUANTIZE, *_RELUS):
        node = node.args[0]
    operator = str(node.target).removesuffix(".default")
    while not node.meta.get("nn_module_stack") and node.all_input_nodes:  # an item of a tuple, say
        node = node.all_input_nodes[0]
    stack = list((node.meta.get("nn_module_stack") or {"": ("",)}).values())
    module = stack[-1][0].removeprefix("model.") or node.name
    folder, source = Path(models.__file__).parent, "source not known"
    for file, line in _FRAME.findall(node.meta.get("stack_trace") or ""):
        if Path(file).is_relative_to(folder):
            source = f"{folder.name}/{Path(file).relative_to(folder).as_posix()}:{line}"
    return Layer(module, operator, source)


def _dependencies(nodes: Iterable[Node], names: set[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Name -> those of ``names`` that its value depends on, without itself; and those with none of them between."""
    above: dict[str, set[str]] = {}
    near: dict[str, set[str]] = {}
    known: dict[Node, str] = {}  # each reader of an activation may have a dequantisation of its own: they are one
    for node in nodes:
        above[node.name], near[node.name] = set(), set()
        if node.target is _DEQUANTIZE:
            known.setdefault(node.args[0], node.name)
        for other in node.all_input_nodes:
            name = known[other.args[0]] if other.target is _DEQUANTIZE else other.name
            above[node.name] |= above[other.name] | ({name} & names)
            near[node.name] |= {name} if name in names else near[other.name]
    return {name: above[name] for name in names}, {name: near[name] for name in names}


def _in_torch(model: QuantizedModel) -> gate.Predictor:
    @torch.inference_mode()
    def predict(image: np.ndarray) -> gate.Arrays:
        values = {name: tensor.numpy() for name, tensor in model(torch.from_numpy(image)).items()}
        return model.outputs.by_node(values)

    return predict


def _in_runtime(
    model: QuantizedModel, runtime: str, scan: str, images: np.ndarray, reference: gate.Reference
) -> gate.Arrays:
    """Values (n, ...) of a cut, converted by the runtime's exporter and run by its own class."""
    with tempfile.TemporaryDirectory(prefix="edge_hands_bisect_") as folder:
        loaded = _load(model, runtime, scan, Path(folder), reference)
        try:
            return gate.outputs_of(lambda image: model.outputs.by_node(loaded.run({"image": image})), images)
        finally:
            loaded.close()


def _load(model: QuantizedModel, runtime: str, scan: str, folder: Path, reference: gate.Reference) -> Runtime:
    choice = {"scan": scan} if scan != "only" else {}
    variant = EXPORTERS[runtime].export(model, folder, folder, **choice)
    files = describe_variant(folder, variant)
    size = model.config.image_size
    shapes = [(1, *reference.outputs[node].shape[1:]) for node in model.outputs.nodes]
    manifest = Manifest.model_construct(  # unchecked: the outputs are not those of a whole model
        name=model.name,
        kind=model.kind,
        device="bisect",
        created="",
        files=files,
        variants=(variant,),
        inputs=(Described(name="image", shape=(1, size, size, 3), layout="NHWC"),),
        outputs=tuple(Described(name=name, shape=shape) for name, shape in zip(model.outputs.names, shapes)),
    )
    bundle = Bundle(folder, manifest, {file.path: (folder / file.path).read_bytes() for file in files})
    return runtimes.get(runtime).load(bundle, variant, RuntimeOptions(threads=1))
