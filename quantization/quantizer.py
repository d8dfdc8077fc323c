"""The one quantizer: int8 convolutions and linears, everything else float32.

Weights are symmetric per output channel, activations affine per tensor with static scales. A layer's output is
int8 (after its ReLU, if that is its only reader); sums, products, the scan and the decode read it dequantised.
Layers of the classes FloatConv2d and FloatLinear stay float32: offsets feed bilinear weights, dt an exponential,
and head maps a soft-argmax, and all of them are small.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

#: What is quantised, and what may be fused behind it.
LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
_FLOAT_CLASSES = ("FloatConv2d", "FloatLinear")

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


class EdgeHandsQuantizer(Quantizer):
    """Annotates an exported graph for ``prepare_qat_pt2e``."""

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.op == "call_function" and node.target in LAYERS and not _stays_float(node):
                _annotate_layer(node)
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


def _stays_float(node: Node) -> bool:
    """Whether the module that made this node is a Float* layer."""
    stack = node.meta.get("nn_module_stack") or {}
    innermost = list(stack.values())[-1][1] if stack else ""
    name = innermost if isinstance(innermost, str) else innermost.__name__
    return name.rsplit(".", 1)[-1] in _FLOAT_CLASSES
