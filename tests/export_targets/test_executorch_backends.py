"""ExecuTorch's delegates other than XNNPACK: who asks for them, what is refused, what lowers here and what it gives.

None of them runs on this machine. What they were given is computed by torch, and Core ML's package by its reference
interpreter; the two exports of a whole model are slow.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from edge_hands.errors import DeviceError, ExportError, RuntimeUnavailable  # noqa: E402
from edge_hands.export_targets import executorch, executorch_backends, executorch_vulkan, exporter  # noqa: E402
from edge_hands.export_targets.devices import load_device  # noqa: E402
from edge_hands.export_targets.executorch_lowered import in_torch  # noqa: E402
from edge_hands.session import Session  # noqa: E402

BACKENDS = executorch_backends.BACKENDS


def test_a_device_gets_the_first_of_its_delegates() -> None:
    assert executorch.settings(load_device("quest-3")) == {"backend": "xnnpack"}
    assert executorch.settings(load_device("iphone")) == {"backend": "coreml", "target": "iOS17"}
    device = load_device("android-arm64")
    assert executorch.settings(replace(device, delegates={"executorch": ("vulkan", "xnnpack")})) == {
        "backend": "vulkan"
    }
    assert executorch.settings(replace(device, delegates={})) == {"backend": "xnnpack"}
    with pytest.raises(
        DeviceError, match="android-arm64: the first delegate .* 'dsp', expected one of xnnpack, vulkan"
    ):
        executorch.settings(replace(device, delegates={"executorch": ("dsp",)}))


def test_a_runtime_may_be_asked_for_with_a_delegate() -> None:
    device = load_device("quest-3")
    asked = ("executorch", "executorch:vulkan", "litert")
    assert exporter._plan(device, asked, "portable") == [
        ("executorch", "portable", {"backend": "xnnpack"}),
        ("executorch", "portable", {"backend": "vulkan"}),
        ("litert", "portable", {}),
    ]
    assert exporter._plan(load_device("iphone"), ("executorch:coreml:iOS18",), "portable") == [
        ("executorch", "portable", {"backend": "coreml", "target": "iOS18"})
    ]
    with pytest.raises(ExportError, match="litert:vulkan names a delegate, and litert has none to choose from"):
        exporter._plan(device, ("litert:vulkan",), None)
    with pytest.raises(ExportError, match="cannot export executorch for hololens-2: expected one of onnx"):
        exporter._plan(load_device("hololens-2"), ("executorch:vulkan",), None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("vulkan:adreno", "made for no target, found 'adreno': leave out the colon"),
        ("coreml:iOS16", "asked for the system 'iOS16', expected one of iOS17, iOS18, iOS26"),
        ("qnn", "QNN_SDK_ROOT is not set: get the Qualcomm AI Runtime SDK"),
    ],
)
def test_what_cannot_be_lowered_to_is_refused_before_anything_is_made(asked, message, monkeypatch) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    with pytest.raises(ExportError, match=message):
        exporter._plan(load_device("quest-3"), (f"executorch:{asked}",), None)


def test_qnn_says_what_to_set_and_never_starts_its_backend(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    with pytest.raises(
        ExportError, match="QNN_SDK_ROOT is not set: .*Software Center, unpack it, and set QNN_SDK_ROOT"
    ):
        executorch.convert(None, "portable", "qnn", "SM8550")
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    with pytest.raises(
        ExportError, match=f"QNN_SDK_ROOT={tmp_path} has none: .*the folder that has lib/x86_64-linux-cl"
    ):
        executorch.convert(None, "portable", "qnn", "SM8550")
    assert "executorch.backends.qualcomm.utils.utils" not in sys.modules  # which would download an SDK


def test_qnn_is_for_a_chip_that_executorch_knows(monkeypatch, tmp_path) -> None:
    library = tmp_path / "lib/x86_64-linux-clang/libQnnHtp.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    for target in ("", "UNKNOWN_SM", "XR2"):
        with pytest.raises(ExportError, match=f"for one chip, found {target or 'none'}: .*SXR2230P"):
            executorch.convert(None, "portable", "qnn", target)


def test_what_a_delegate_does_not_offer_is_refused() -> None:
    with pytest.raises(ExportError, match="vulkan takes portable scans only, not native: set --scan"):
        executorch.convert(None, "native", "vulkan")
    with pytest.raises(ExportError, match="no delegate 'dsp' here: expected one of xnnpack, vulkan, coreml, qnn"):
        executorch.convert(None, "portable", "dsp")


class Shaderless(torch.nn.Module):
    """The operations of a scan that Vulkan has no shader for."""

    def forward(self, x):
        y = 1.0 + torch.exp(-torch.abs(x))
        return (1.0 / (y + 1.0)).sum(2) + y.sum(2)


def test_vulkan_takes_a_rewritten_graph_whole() -> None:
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    plain = torch.export.export(Shaderless(), (x,))
    alone = executorch.coverage(BACKENDS["vulkan"].lower(plain, "").exported_program())
    assert alone.fallbacks == {"aten::reciprocal": 1, "aten::sum": 2}
    graph = plain.module(check_guards=False)
    executorch_vulkan.prepare(graph)
    torch.testing.assert_close(graph(x), Shaderless()(x), rtol=1e-6, atol=1e-6)
    edge = BACKENDS["vulkan"].lower(torch.export.export(graph, (x,)), "")
    found = executorch.coverage(edge.exported_program())
    assert (found.fallbacks, found.delegates) == ({}, 1)
    torch.testing.assert_close(in_torch(edge.exported_program())(x), Shaderless()(x), rtol=1e-6, atol=1e-6)
    assert b"VulkanBackend" in edge.to_executorch().buffer


class Linear(torch.nn.Module):
    """int8 in, float out: what Vulkan lowers and cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(-32, 32, dtype=torch.int8).reshape(8, 8))
        self.register_buffer("scales", torch.full((8,), 0.01))
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))

    def forward(self, x):
        ops = torch.ops.quantized_decomposed
        given = (0.02, 3, -128, 127, torch.int8)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *given), *given)
        weight = ops.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return torch.nn.functional.linear(x, weight)


def test_what_vulkan_lowers_and_cannot_run_is_known_by_its_name_in_the_file() -> None:
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

    program = BACKENDS["vulkan"].lower(torch.export.export(Linear(), (torch.randn(4, 8),)), "").to_executorch()
    with pytest.raises(ExportError, match="lowered it to vulkan, where it cannot run: a linear with int8 input"):
        executorch._refuse_faults(program.buffer, "vulkan", "it")


def test_lowering_leaves_the_root_logger_alone() -> None:
    import logging

    level = logging.root.level
    with executorch._quiet():
        logging.root.setLevel(logging.DEBUG)  # as importing the Vulkan partitioner does
    assert logging.root.level == level


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "asked", "delegate", "compared"),
    [
        ("quest-3", "executorch:vulkan", "VulkanBackend", "the graph that the delegate was given, computed by torch"),
        ("iphone", "executorch", "CoreMLBackend", "the delegate's package out of the file"),
    ],
)
def test_a_whole_model_lowers_and_the_gate_says_what_it_compared(
    stored, tmp_path, device, asked, delegate, compared
) -> None:
    report = exporter.export_bundle(stored, load_device(device), tmp_path, (asked,), count=4)
    checks = {check.name: check for check in report.checks}
    runs = checks["runs of the file here"]
    assert runs.value == 0
    assert runs.note.startswith(f"not run here: it needs the delegate {delegate}, which the installed ExecuTorch does")
    assert f"compared: {compared}" in runs.note
    # The model is hardly trained: see test_executorch.
    assert checks["stand-in: joints_xyz SQNR"].value > 20
    assert checks["stand-in: PA-MPJPE, change"].passed
    assert checks["share of the work in delegates and our kernels"].value == 1
    assert not [name for name in checks if "latency" in name or name.startswith("joints")]
    with pytest.raises(RuntimeUnavailable, match=f"executorch portable: it needs the delegate {delegate}"):
        Session.open(tmp_path)
