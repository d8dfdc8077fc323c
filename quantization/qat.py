"""The fake-quant graph: how it is made from a float model, stored, rebuilt and converted.

A float model is folded, exported with a free batch size and annotated by the one quantizer (``prepare``). The
*prepared* graph simulates int8 and can be calibrated and fine-tuned (``finetune.py``); the *converted* one holds
explicit quantize and dequantize nodes and is what every target is exported from and compared with.

A quantised checkpoint stores the prepared graph's tensors (weights, scales, zero points) in safetensors and the
name of the model and the scheme in JSON; rebuilding traces the model again and loads them.
"""

from __future__ import annotations

import copy
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization import pt2e
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from edge_hands import models
from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint
from edge_hands.quantization.fold import fold_batch_norms
from edge_hands.quantization.quantizer import DEFAULT, LAYERS, EdgeHandsQuantizer, Scheme

#: ``Meta.stage`` of a quantised checkpoint.
STAGE = "qat"
#: Largest batch that a graph takes.
MAX_BATCH = 1024
#: A float32 layer of more weights than these has them rounded to float16: its file may hold them in half the space.
HALF_WEIGHTS = 50_000


class _Features(nn.Module):
    """Image (B, H, W, 3) in [0, 1] -> the model's raw features: the part of a model that is quantised."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.model.features(image.permute(0, 3, 1, 2))


class QuantizedModel(nn.Module):
    """A converted graph with the model interface: ``body`` gives raw features, ``forward`` what a bundle gives."""

    def __init__(self, graph: GraphModule, model: nn.Module) -> None:
        super().__init__()
        self.body, self.outputs = graph, model.outputs
        self.name, self.kind, self.config = model.name, model.kind, model.config

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image (B, H, W, 3) in [0, 1] -> the outputs of the model interface, float32."""
        return self.outputs(self.body(image))

    def train(self, mode: bool = True) -> QuantizedModel:
        """An exported graph has no modes: nothing in it depends on one."""
        return self


def prepare(model: nn.Module, scheme: Scheme = DEFAULT) -> GraphModule:
    """The prepared graph of a float model: image (B, H, W, 3) -> features, B free. The model is left as it is.

    Raises DataError when ``scheme`` names a layer that the graph has not.
    """
    folded = _Features(fold_batch_norms(model)).eval()
    size = model.config.image_size
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.export.export(folded, (torch.zeros(2, size, size, 3),), dynamic_shapes=({0: batch},))
    # No move_exported_model_to_eval: it looks, for seconds, for dropout and batch norms, and here are none.
    graph = prepare_qat_pt2e(program.module(), EdgeHandsQuantizer(scheme))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def observe(graph: GraphModule, observers: bool, fake_quant: bool) -> None:
    """Switches the watching of ranges and the rounding of a prepared graph."""
    graph.apply(pt2e.enable_observer if observers else pt2e.disable_observer)
    graph.apply(pt2e.enable_fake_quant if fake_quant else pt2e.disable_fake_quant)


def convert(graph: GraphModule, model: nn.Module) -> QuantizedModel:
    """The converted model of a calibrated prepared graph; both arguments are left as they are."""
    graph = copy.deepcopy(graph)
    observe(graph, observers=False, fake_quant=True)
    converted = convert_pt2e(graph, fold_quantize=False)
    _snap(converted)
    return QuantizedModel(converted.requires_grad_(False), model)


def _snap(graph: GraphModule) -> None:
    """Puts weights, and biases of int8 layers, on the grid that files hold them on: no exporter can round them apart.

    An int8 weight becomes integer x scale, a bias integer x input scale x weight scale. A bias of more than 2^22 such
    steps stays: float32 could not tell its integer. The weights of a large float32 layer become float16 numbers.
    """
    ops, layers = torch.ops.quantized_decomposed, (node for node in graph.graph.nodes if node.target in LAYERS)
    for layer in layers:
        x, weight, bias = (*layer.args, None)[:3]
        if weight.target is not ops.dequantize_per_channel.default:
            values = graph.get_parameter(weight.target)
            if values.numel() > HALF_WEIGHTS:
                values.data.copy_(values.detach().half())
            continue
        source, scale, *rest = weight.args[0].args
        source, scale = graph.get_parameter(source.target), attrgetter(scale.target)(graph)
        zero_point = attrgetter(rest[0].target)(graph)
        integers = ops.quantize_per_channel(source.detach(), scale, zero_point, *rest[1:])
        shape = (-1, *(1,) * (source.dim() - 1))
        source.data.copy_(integers.float() * scale.float().view(shape))
        if bias is not None and x.target is ops.dequantize_per_tensor.default:
            values, step = graph.get_parameter(bias.target), x.args[1] * scale.double()
            steps = torch.round(values.detach().double() / step)
            values.data.copy_(torch.where(steps.abs() < 2**22, steps * step, values.detach().double()))


def fits_half(weight: Tensor) -> bool:
    """Whether a float32 tensor is worth storing as float16, and loses nothing by it."""
    return (
        weight.dtype is torch.float32 and weight.numel() > HALF_WEIGHTS and torch.equal(weight, weight.half().float())
    )


def rebuild(state: dict[str, Tensor], config: dict) -> QuantizedModel:
    """The converted model from a prepared graph's tensors.

    ``config`` is {"model": name, "overrides": {...}, "scheme": {...}}; the last two may be absent. Raises DataError
    when the tensors are not those of this model's graph.
    """
    return convert(*_restore(state, config))


def load_quantized(directory: str | Path) -> QuantizedModel:
    """The converted model of a quantised checkpoint. Raises DataError when it is none or is damaged."""
    return convert(*load_prepared(directory))


def load_prepared(directory: str | Path) -> tuple[GraphModule, nn.Module]:
    """The prepared graph of a quantised checkpoint, and the float model, with fresh weights, that it was traced from.

    Raises DataError as ``load_quantized`` does.
    """
    meta = checkpoint.load_meta(directory)
    if meta.stage != STAGE:
        raise DataError(
            f"{directory} is a {meta.stage} checkpoint, not a quantised one; run `edge-hands quantize` on it"
        )
    state = checkpoint.load_tensors(directory, checkpoint.MODEL, meta.step)
    return _restore(state, {"model": meta.model, "overrides": meta.overrides, "scheme": meta.scheme})


def _restore(state: dict[str, Tensor], config: dict) -> tuple[GraphModule, nn.Module]:
    model = models.create(config["model"], **config.get("overrides", {})).eval()
    graph = prepare(model, Scheme.of(config.get("scheme", {})))
    try:
        graph.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"the tensors do not fit the quantised graph of {config['model']}: {error}") from error
    return graph, model


def activation_scales(graph: GraphModule) -> dict[tuple[float, int], int]:
    """How often each (scale, zero point) quantises an activation in a converted graph."""
    found: dict[tuple[float, int], int] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            key = (float(node.args[1]), int(node.args[2]))
            found[key] = found.get(key, 0) + 1
    return found
