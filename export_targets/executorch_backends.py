"""The delegates that ExecuTorch can lower a program to, by the names that device files and ``export --runtime`` use.

    [delegates]
    executorch = ["vulkan", "xnnpack"]          # the first is taken
    edge-hands export --runtime executorch:vulkan

A name may be followed by a colon and what the program is made for: ``coreml:iOS18`` is the oldest system, else the
device's, ``qnn:SM8550`` the chip, by ExecuTorch's name. docs/executorch.md says what of each was run, and where.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from edge_hands.errors import DeviceError, ExportError
from edge_hands.export_targets import coreml, executorch_graph, executorch_lowered, executorch_vulkan
from edge_hands.export_targets.devices import Device


@dataclass(frozen=True)
class Backend:
    """One delegate.

    ``lower(program, target)`` gives ExecuTorch's edge program; ``check(target)`` raises ExportError where it cannot;
    ``prepare`` rewrites the traced graph in place; ``scans`` are the forms of the scans that it can have; ``faults``
    are operators that it takes and cannot run, by their name in the file; ``compute`` makes of a piece that it took a
    module that computes it without the delegate, which ``stands_in`` describes.
    """

    lower: Callable[[ExportedProgram, str], Any]
    check: Callable[[str], None] = lambda target: None
    prepare: Callable[[GraphModule], None] = lambda graph: None
    scans: tuple[str, ...] = ("portable",)
    faults: tuple[tuple[bytes, str], ...] = ()
    compute: Callable[[Any], nn.Module] = executorch_lowered.as_given
    stands_in: str = "the graph that the delegate was given, computed by torch: nothing of the delegate's own"


def settings(device: Device) -> dict[str, str]:
    """What ``executorch.export`` is to write for a device: the first of its delegates. DeviceError if it is none of
    ours, ExportError if this machine cannot lower to it."""
    name, _, target = device.delegates.get("executorch", ("xnnpack",))[0].partition(":")
    if name not in BACKENDS:
        raise DeviceError(
            f"{device.name}: the first delegate of executorch is {name!r}, expected one of {', '.join(BACKENDS)}"
        )
    if name == "coreml":
        target = target or device.coreml_target or coreml.TARGETS[0]
    BACKENDS[name].check(target)
    return {"backend": name} | ({"target": target} if target else {})


def _edge(program: ExportedProgram, partitioner: Any) -> Any:
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # Checking the graph is slow, and what it gives is computed anyway.
    config = EdgeCompileConfig(_check_ir_validity=False)
    return to_edge_transform_and_lower(program, partitioner=[partitioner], compile_config=config)


def _no_target(target: str) -> None:
    if target:
        raise ExportError(
            f"this delegate is made for no target, found {target!r}: leave out the colon and what follows"
        )


def _xnnpack(program: ExportedProgram, target: str) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return _edge(program, XnnpackPartitioner())


def _vulkan(program: ExportedProgram, target: str) -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return _edge(program, VulkanPartitioner())


def _check_coreml(target: str) -> None:
    if target not in coreml.TARGETS:
        raise ExportError(f"coreml is asked for the system {target!r}, expected one of {', '.join(coreml.TARGETS)}")
    if find_spec("coremltools") is None:
        raise ExportError("lowering to Core ML needs coremltools: pip install 'edge-hands[executorch,coreml]'")


def _coreml(program: ExportedProgram, target: str) -> Any:
    """In float32 around the int8 layers and without the passes that move scales, as ``coreml`` writes its packages."""
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(set(coreml.UNWANTED_PASSES))
    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.ALL,
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
    )
    specs.append(CoreMLBackend.generate_pass_pipeline_compile_spec(passes.passes))
    return _edge(program, CoreMLPartitioner(compile_specs=specs))


#: What of Qualcomm's SDK ExecuTorch loads to lower a program, in its folder.
_QNN_LIBRARY = "lib/x86_64-linux-clang/libQnnHtp.so"


def _check_qnn(target: str) -> None:
    """Before anything of ExecuTorch's QNN backend runs: without QNN_SDK_ROOT that downloads an SDK."""
    root = os.environ.get("QNN_SDK_ROOT")
    advice = (
        "get the Qualcomm AI Runtime SDK (QAIRT, also called QNN or AI Engine Direct) from Qualcomm's Software Center, "
        f"unpack it, and set QNN_SDK_ROOT to the folder that has {_QNN_LIBRARY}, LD_LIBRARY_PATH to that library's"
    )
    if not root:
        raise ExportError(f"lowering to QNN needs Qualcomm's SDK, and QNN_SDK_ROOT is not set: {advice}")
    if not Path(root, _QNN_LIBRARY).is_file():
        raise ExportError(f"lowering to QNN needs Qualcomm's SDK, and QNN_SDK_ROOT={root} has none: {advice}")
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset

    chips = [chip.name for chip in QcomChipset if chip.value]
    if target not in chips:
        raise ExportError(
            f"lowering to QNN is for one chip, found {target or 'none'}: name it as in executorch:qnn:{chips[0]}, "
            f"expected one of {', '.join(chips)}"
        )


def _qnn(program: ExportedProgram, target: str) -> Any:
    """For the Hexagon processor of a chip, what is not int8 in float16. **Never run by us: we have no QNN SDK.**"""
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.utils import utils as qnn

    specs = qnn.generate_qnn_executorch_compiler_spec(
        soc_model=QcomChipset[target], backend_options=qnn.generate_htp_compiler_spec(use_fp16=True)
    )
    return qnn.to_edge_transform_and_lower_to_qnn(program.module(check_guards=False), program.example_inputs[0], specs)


BACKENDS = {
    "xnnpack": Backend(_xnnpack, _no_target, executorch_graph.halve_weights, scans=("portable", "native")),
    "vulkan": Backend(_vulkan, _no_target, executorch_vulkan.prepare, faults=tuple(executorch_vulkan.FAULTS.items())),
    "coreml": Backend(
        _coreml,
        _check_coreml,
        compute=executorch_lowered.CoreMLPackage,
        stands_in="the delegate's package out of the file, run by the reference interpreter: not Core ML itself",
    ),
    "qnn": Backend(_qnn, _check_qnn),
}
