"""Core ML export of a quantised model: .mlpackage, an ML Program written by coremltools on any system.

``FORMS`` are what is made of one fake-quant graph:

* ``w8a8``: the graph as it is. int8 weights and activations with the graph's scales, float32 elsewhere. iOS 17, which
  is visionOS 1, and later.
* ``w8``: int8 weights, everything else float16, as the Neural Engine computes; the activations' quantisers are left
  out, and the weights' scales rounded to float16, which the format asks for. The same systems.
* ``multi``: one package of several functions that share their int8 weights, for iOS 18 (visionOS 2) and later:
  ``FUNCTIONS``, of which ``w8a8`` is the default.

A device's ``coreml_form`` says which it gets, its ``coreml_target`` for which system. Which of them it runs faster, and
on which unit, only a compute plan on a Mac tells (``coreml_plan``): nothing here claims it.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_hands.bundle import Variant
from edge_hands.errors import DeviceError, ExportError
from edge_hands.export_targets.devices import Device
from edge_hands.export_targets.mil_reference.program import quiet
from edge_hands.export_targets.quick_passes import quick_passes
from edge_hands.quantization.qat import QuantizedModel

#: Packages whose version decides what is written.
TOOLS = ("coremltools", "torch", "torchao")


@dataclass(frozen=True)
class Form:
    """One way to write a model: are activations int8, is the rest float16, and how scans sample (``coreml_ops``)."""

    int8_activations: bool
    half: bool
    sampling: str = "auto"


_W8A8, _W8 = Form(True, False), Form(False, True)
#: Functions of ``multi``: how to write each. The first is the default.
FUNCTIONS = {"w8a8": _W8A8, "neural_engine": replace(_W8, sampling="dense"), "gpu": replace(_W8, sampling="resample")}
#: Systems that a package can ask for, oldest first, by coremltools' names.
TARGETS = ("iOS17", "iOS18", "iOS26")
#: What ``export`` writes by name: functions of the package, and the oldest system that can run it.
FORMS = {"w8a8": ({"main": _W8A8}, "iOS17"), "w8": ({"main": _W8}, "iOS17"), "multi": (FUNCTIONS, "iOS18")}

#: They move a scale into another operation, and take zero points away: ours are to stay what the graph says.
UNWANTED_PASSES = (
    "common::distributive_quantized_binary_op_scale_normalization",
    "common::nullify_redundant_quantization_zero_point",
)
#: coremltools puts a table for ExecuTorch's debugger beside the model, as large as the program; nothing else reads it.
_DEBUGGING = "executorch_debug_handle_mapping.json"
#: coremltools writes a reciprocal as 1 / (x + 1e-4).
_DECOMPOSED = {torch.ops.aten.reciprocal.default: lambda x: torch.ones_like(x) / x}


def settings(device: Device) -> dict[str, str]:
    """What ``export`` is to write for a device. DeviceError when its system is too old for its form."""
    form, target = device.coreml_form or "w8a8", device.coreml_target
    if form not in FORMS:
        raise DeviceError(f"{device.name}: coreml_form is {form!r}, expected one of {', '.join(FORMS)}")
    oldest = FORMS[form][1]
    if target not in TARGETS[TARGETS.index(oldest) :]:
        raise DeviceError(
            f"{device.name}: coreml_target is {target!r}, and the form {form} needs {oldest} or later: set one of "
            f"{', '.join(TARGETS[TARGETS.index(oldest) :])}, or another coreml_form"
        )
    return {"form": form, "target": target}


def export(model: QuantizedModel, source: Path, out: Path, form: str = "w8a8", target: str | None = None) -> Variant:
    """Writes ``out``/w8a8.mlpackage (batch 1) or that of another form; its entry for the manifest. ExportError.

    ``target`` is the oldest system that is to run it, one of TARGETS; by default the oldest that can.
    """
    if form not in FORMS:
        raise ExportError(f"there is no Core ML form {form!r}: expected one of {', '.join(FORMS)}")
    functions, oldest = FORMS[form]
    target, path = target or oldest, f"{form}.mlpackage"
    with tempfile.TemporaryDirectory() as folder:
        written = _write(model, Path(folder), functions, target)
        shutil.rmtree(out / path, ignore_errors=True)
        shutil.move(written, out / path)
    names = {name: name for name in model.outputs.names}
    return Variant(
        runtime="coreml",
        scan="portable",
        path=path,
        input_names={"image": "image"},
        output_names=names,
        config={
            "form": form,
            "functions": list(functions),
            "minimum_target": target,
            "compute_plan": "not known: it needs a Mac (edge_hands.export_targets.coreml_plan)",
        },
    )


def parts(model: QuantizedModel, variant: Variant) -> dict[str, tuple[Variant, QuantizedModel]]:
    """Every function of a package by name, as a variant that runs it, with the model that it is to compute.

    Without quantisers of activations that is not the fake-quant model, but the same with int8 weights only.
    """
    functions, _ = FORMS[variant.config["form"]]
    found = {}
    for name, form in functions.items():
        config = variant.config | ({"function": name} if len(functions) > 1 else {})
        meant = model if form.int8_activations else _prepared(model, form)
        found[name] = (variant.model_copy(update={"config": config}), meant)
    return found


def _write(model: QuantizedModel, folder: Path, functions: dict[str, Form], target: str) -> Path:
    """The package in ``folder``: one program, or several functions that share their weights."""
    packages = {name: folder / f"{name}.mlpackage" for name in functions}
    for name, form in functions.items():
        convert(model, packages[name], form, target)
    if len(functions) == 1:
        return packages.popitem()[1]
    from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

    together = MultiFunctionDescriptor()
    for name, package in packages.items():
        together.add_function(str(package), "main", name)
    together.default_function_name = next(iter(functions))
    try:
        with quiet():
            save_multifunction(together, str(folder / "together.mlpackage"))
    except Exception as error:  # as in ``convert``
        raise ExportError(f"Core ML cannot join the functions of {model.name}: {error}") from error
    return folder / "together.mlpackage"


@quick_passes()
def convert(model: QuantizedModel, package: Path, form: Form, target: str = "iOS17") -> None:
    """Writes ``package``, a folder that is not there yet. Raises ExportError."""
    size = model.config.image_size
    with quiet():
        try:
            import coremltools as ct

            from edge_hands.export_targets import coreml_ops, coreml_weights
        except ImportError as error:
            raise ExportError(f"coremltools is not installed ({error}): pip install 'edge-hands[coreml]'") from error
        try:
            program = torch.export.export(_Named(_prepared(model, form)), (torch.zeros(1, size, size, 3),))
            passes = ct.PassPipeline.DEFAULT
            passes.remove_passes(set(UNWANTED_PASSES))
            passes.append_pass(coreml_weights.HALVE_WEIGHTS)
            with coreml_ops.sampling(form.sampling):
                converted = ct.convert(
                    program.run_decompositions(_DECOMPOSED),
                    outputs=[ct.TensorType(name=name) for name in model.outputs.names],
                    minimum_deployment_target=getattr(ct.target, target),
                    compute_precision=ct.precision.FLOAT16 if form.half else ct.precision.FLOAT32,
                    pass_pipeline=passes,
                    skip_model_load=True,
                )
            converted.save(str(package))
            (package / _DEBUGGING).unlink(missing_ok=True)
        except ExportError:
            raise
        except Exception as error:  # the converter raises whatever its passes meet
            raise ExportError(f"Core ML cannot convert {model.name}: {type(error).__name__}: {error}") from error


class _Named(nn.Module):
    """The model with its outputs as a tuple, in the order of ``model.outputs.names``."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.model(image)
        return tuple(found[name] for name in self.model.outputs.names)


def _prepared(model: QuantizedModel, form: Form) -> QuantizedModel:
    """A copy whose weights are int8 constants and, unless the form has them, without quantisers of activations."""
    model = copy.deepcopy(model).eval()
    for graph in (module for module in model.modules() if isinstance(module, GraphModule)):
        _fold_weights(graph)
        if not form.int8_activations:
            _drop_activation_quantisers(graph)
        graph.graph.eliminate_dead_code()
        graph.recompile()
    return model


def _fold_weights(graph: GraphModule) -> None:
    """quantize(weight) -> its int8 values, named after the weight."""
    quantize = torch.ops.quantized_decomposed.quantize_per_channel.default
    for node in [node for node in graph.graph.nodes if node.op == "call_function" and node.target is quantize]:
        weight, scale, zero_point = (_attribute(graph, argument.target) for argument in node.args[:3])
        name = f"{node.args[0].target}_int8".replace(".", "_")
        graph.register_buffer(name, quantize(weight, scale, zero_point, *node.args[3:]))
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))
        graph.graph.erase_node(node)


def _drop_activation_quantisers(graph: GraphModule) -> None:
    ops = torch.ops.quantized_decomposed
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is ops.dequantize_per_tensor.default:
            quantizer = node.args[0]
            if quantizer.target is not ops.quantize_per_tensor.default:
                raise ExportError(f"{node.name} dequantises {quantizer.name}, which nothing quantised")
            node.replace_all_uses_with(quantizer.args[0])


def _attribute(graph: nn.Module, name: str) -> Any:
    for part in name.split("."):
        graph = getattr(graph, part)
    return graph.detach()
