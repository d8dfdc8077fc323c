"""The one quantizer: int8 convolutions and linears, everything else float32.

Weights are symmetric per output channel, activations affine per tensor with static scales. A layer's output is
int8 (after its ReLU, if that is its only reader); sums, products, the scan and the decode read it dequantised.
Layers of the classes FloatConv2d and FloatLinear stay float32: offsets feed bilinear weights, dt an exponential,
and head maps a soft-argmax, and all of them are small. What a user chooses beyond these rules is a ``Scheme``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edge_hands.errors import DataError
from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)

#: What is quantised, and what may be fused behind it.
LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
SCANS = tuple(getattr(torch.ops.edge_hands, name).default for name in ("selective_scan", "deformable_scan"))
_FLOAT_CLASSES = ("FloatConv2d", "FloatLinear")
_ATEN = torch.ops.aten
#: What lies between a layer and a scan: values change places, or float32 becomes float32.
_MOVES = (_ATEN.permute.default, _ATEN.flatten.using_ints, _ATEN.view.default, _ATEN.to.dtype, _ATEN._to_copy.default)

#: Smallest scale: keeps a dead tensor's zero point finite.
_EPS = 2.0**-12

ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, averaging_constant=0.02, eps=_EPS
    ),
)
WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, eps=2.0**-20
    ),
)


@dataclass(frozen=True)
class Scheme:
    """What is chosen for one model: ``keep_float`` are layers that stay float32, by module path (``layer_name``);
    ``int8_scans`` makes x and y of every scan int8, where it lies between int8 layers, and leaves its arithmetic
    float32."""

    keep_float: tuple[str, ...] = ()
    int8_scans: bool = False

    @classmethod
    def of(cls, stored: dict) -> Scheme:
        """From JSON; what is not said is as it is by default. Raises DataError when it is not a scheme's."""
        names, scans = stored.get("keep_float", []), stored.get("int8_scans", False)
        known = stored.keys() <= {"keep_float", "int8_scans"} and isinstance(scans, bool)
        if not (known and isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
            raise DataError(
                f"a quantisation scheme holds keep_float, a list of layers, and int8_scans, yes or no; found {stored}"
            )
        return cls(tuple(names), scans)

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"keep_float": list(self.keep_float)}


#: Nothing chosen: what stays float32 does so by the rules above.
DEFAULT = Scheme()


class EdgeHandsQuantizer(Quantizer):
    """Annotates an exported graph for ``prepare_qat_pt2e``. Raises DataError for a name that is no int8 layer's."""

    def __init__(self, scheme: Scheme = DEFAULT) -> None:
        super().__init__()
        self.scheme = scheme

    def annotate(self, model: GraphModule) -> GraphModule:
        nodes = [node for node in model.graph.nodes if node.op == "call_function" and node.target in LAYERS]
        layers = {layer_name(node): node for node in nodes if not _stays_float(node)}
        for name in self.scheme.keep_float:
            if name not in layers:
                raise _unknown(name, layers.keys(), {layer_name(node) for node in nodes})
        for name, node in layers.items():
            if name not in self.scheme.keep_float:
                _annotate_layer(node)
        if self.scheme.int8_scans:
            for node in model.graph.nodes:
                if node.op == "call_function" and node.target in SCANS:
                    _annotate_scan(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to reject: every layer kind we annotate is supported everywhere."""


def _annotate_layer(layer: Node) -> None:
    inputs = {layer.args[0]: ACTIVATION, layer.args[1]: WEIGHT}
    readers = list(layer.users)
    relu = readers[0] if len(readers) == 1 and readers[0].target in RELUS else None
    layer.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=None if relu else ACTIVATION, _annotated=True
    )
    if relu:
        relu.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=ACTIVATION, _annotated=True)


def _annotate_scan(scan: Node) -> None:
    """x keeps the scale of the int8 layer that it comes from: between them values only change places."""
    x, made = scan.args[0], scan.args[0]
    while Q_ANNOTATION_KEY not in made.meta and made.target in _MOVES:
        made = made.args[0]
    annotation = made.meta.get(Q_ANNOTATION_KEY)
    shared = SharedQuantizationSpec(made) if annotation and annotation.output_qspec else ACTIVATION
    scan.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
        input_qspec_map={x: shared}, output_qspec=ACTIVATION, _annotated=True
    )


def layer_name(layer: Node) -> str:
    """Path of the module in the network that made a node: what a layer is called in reports and in a ``Scheme``."""
    stack = list((layer.meta.get("nn_module_stack") or {"": ("",)}).values())
    return stack[-1][0].removeprefix("model.") or layer.name


def _unknown(name: str, layers: Iterable[str], every: set[str]) -> DataError:
    if name in every:
        return DataError(f"keep_float: {name} is float32 in any case; leave it out")
    near = get_close_matches(name, layers, n=4, cutoff=0.5)
    hint = f"; near it are {', '.join(near)}" if near else ""
    return DataError(
        f"keep_float: no int8 layer is called {name!r}{hint} (`edge-hands quantize --sensitivity` lists all)"
    )


def _stays_float(node: Node) -> bool:
    """Whether the module that made this node is a Float* layer."""
    stack = node.meta.get("nn_module_stack") or {}
    innermost = list(stack.values())[-1][1] if stack else ""
    name = innermost if isinstance(innermost, str) else innermost.__name__
    return name.rsplit(".", 1)[-1] in _FLOAT_CLASSES
