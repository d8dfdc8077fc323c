"""ExecuTorch export of the test models: what the program computes, holds, delegates, and what a bundle says of it."""

from __future__ import annotations

import json
from functools import cache
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands.errors import ExportError, RuntimeUnavailable  # noqa: E402
from edge_hands.export_targets import executorch  # noqa: E402
from edge_hands.kernels import executorch as kernels  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402
from edge_hands.session import Session  # noqa: E402

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
#: Mean difference of an output. The models are hardly trained: see tests/sdk/test_conformance.py.
TOLERANCE = {"joints_uv": 1e-3, "joints_xyz": 3e-3}
#: Lowering takes half a minute for each; one of them is tested every time.
FORMS = [
    ("test_dfmamba", "native"),
    *(
        pytest.param(*form, marks=pytest.mark.slow)
        for form in (("test_dfmamba", "portable"), ("test_detector", "native"), ("test_detector", "portable"))
    ),
]


@cache
def model(name: str) -> qat.QuantizedModel:
    from safetensors.torch import load_file

    manifest = bundles.load(BUNDLES / name).manifest
    config = next(variant.config for variant in manifest.variants if variant.runtime == "torch")
    return qat.rebuild(load_file(BUNDLES / name / "model.safetensors"), config)


@pytest.fixture
def bundle(bundle_of):
    """``bundle(name, scan)`` -> the folder of a bundle with this one form."""

    def make(name: str, scan: str) -> Path:
        try:
            return bundle_of(name, "executorch", scan)
        except ExportError as error:
            if isinstance(error.__cause__, RuntimeUnavailable):
                pytest.skip(str(error))
            raise

    return make


def images(side: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.random((6, 6, 3), np.float32), (side, side))[None] for _ in range(2)]
    return [np.zeros((1, side, side, 3), np.float32), *smooth]


@pytest.mark.parametrize(("name", "scan"), FORMS)
def test_every_output_is_that_of_the_fake_quant_model_and_of_litert(bundle, name, scan):
    with (
        Session.open(bundle(name, scan), runtime="executorch") as session,
        Session.open(BUNDLES / name, runtime="litert") as litert,
    ):
        assert session.variant.scan == scan
        for image in images(session.manifest.input_shape[1]):
            found, theirs = session.run({"image": image}), litert.run({"image": image})
            with torch.inference_mode():
                expected = {key: value.numpy() for key, value in model(name)(torch.from_numpy(image)).items()}
            for key, value in expected.items():
                limit = TOLERANCE.get(key, 1e-2)
                assert np.abs(found[key] - value).mean() <= limit, key
                assert np.abs(found[key] - theirs[key]).mean() <= limit, key


@pytest.mark.parametrize(("name", "scan"), FORMS)
def test_the_file_holds_the_graphs_scales_and_weights(bundle, name, scan, tmp_path):
    content = (bundle(name, scan) / executorch.FILES[scan]).read_bytes()
    graph = model(name).body
    wanted = qat.activation_scales(graph)
    found = activation_scales(content, tmp_path)
    for one, other in ((found, wanted), (wanted, found)):  # none is made up, none is lost
        for scale, zero in one:
            assert any(zero == z and abs(scale - s) < 1e-6 for s, z in other), (scale, zero)
    for scale, _ in wanted:
        assert np.float32(scale).tobytes() in content  # to the last bit

    quantise = torch.ops.quantized_decomposed.quantize_per_channel.default
    count = 0
    for node in graph.graph.find_nodes(op="call_function", target=quantise):
        weight, scale, zero = (attrgetter(argument.target)(graph).detach() for argument in node.args[:3])
        integers = quantise(weight, scale, zero, *node.args[3:]).numpy()
        orders = [integers]  # of a linear; a depth-wise convolution's lie turned
        if integers.ndim == 4:
            orders = [integers.transpose(0, 2, 3, 1), integers.transpose(1, 2, 3, 0)]
        assert any(np.ascontiguousarray(order).tobytes() in content for order in orders), node.args[0].target
        assert scale.numpy().astype(np.float32).tobytes() in content, node.args[1].target
        count += 1
    assert count > 10


def activation_scales(content: bytes, folder: Path) -> set[tuple[float, int]]:
    """(scale to six places, zero point) of every int8 tensor in the delegates of a .pte, read back from them."""
    from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
    from executorch.exir._serialize._flatbuffer import _flatc_decompile
    from executorch.exir._serialize._program import deserialize_pte_binary

    (folder / "schema.fbs").write_bytes(xnnpack._get_schema_bytes())
    found = set()
    for blob in deserialize_pte_binary(content).program.backend_delegate_data:
        header = xnnpack.XNNHeader.from_bytes(blob.data[: xnnpack.XNNHeader.EXPECTED_LENGTH])
        start = header.flatbuffer_offset
        (folder / "graph.bin").write_bytes(blob.data[start : start + header.flatbuffer_size])
        _flatc_decompile(str(folder), str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"])
        text = (folder / "graph.json").read_text().replace(": inf", ": Infinity").replace(": -inf", ": -Infinity")
        for value in json.loads(text)["xvalues"]:
            if value["xvalue_union_type"] == "XNNQuantizedTensorValue":
                tensor = value["xvalue_union"]
                if tensor["quant_params_type"] == "PerTensorQuant":
                    params = tensor["quant_params"]
                    found.add((params["scale"], params["zero_point"]))
    return found


@pytest.mark.parametrize(("name", "scan"), FORMS)
def test_nearly_all_the_work_is_delegated_and_the_rest_is_named(bundle, name, scan):
    config = bundles.load(bundle(name, scan)).manifest.variants[0].config
    assert config["delegated_macs"] + config["own_kernels_macs"] >= 0.95
    assert (config["own_kernels_macs"] > 0) == (scan == "native")
    assert "aten::upsample_nearest2d" in config["fallbacks"]
    assert not [name for name in config["fallbacks"] if name in ("aten::convolution", "aten::linear", "aten::mean")]
    assert config["planned_bytes"] > 64 * 64 * 3 * 4
    assert config["delegates"] >= 1


def test_a_program_that_cannot_run_is_an_export_error():
    image = torch.zeros(1, 64, 64, 3)
    with pytest.raises(ExportError, match="lowered test to a program that it cannot run"):
        executorch._execute(b"not a program" * 100, image, "test", "portable")


def test_native_scans_without_kernels_are_an_export_error(monkeypatch):
    def refuse():
        raise RuntimeUnavailable("no C++ compiler was found")

    monkeypatch.setattr(kernels, "load", refuse)
    with pytest.raises(ExportError, match="cannot be executed here: no C.. compiler was found"):
        executorch._execute(b"", torch.zeros(1), "test", "native")


def test_a_mean_over_channels_and_a_split_become_what_the_delegate_takes():
    from edge_hands.export_targets.executorch_graph import prepare

    class Block(torch.nn.Module):
        def forward(self, x):
            first, second = x.split([2, 6], 1)
            return (
                first.square().mean(1, keepdim=True) + second.mean((2, 3), keepdim=True).sum() + torch.arange(3).sum()
            )

    x = torch.randn(1, 8, 3, 3)
    graph, mean = torch.export.export(Block(), (x,)).module(check_guards=False), torch.ops.aten.mean.dim
    prepare(graph)
    torch.testing.assert_close(graph(x), Block()(x))
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.slice.Tensor") == 2
    assert targets.count("aten.conv2d.default") == 1
    assert [node.args[2] for node in graph.graph.find_nodes(op="call_function", target=mean)] == [True]
    assert not [target for target in targets if "split" in target or "arange" in target]


class Wide(torch.nn.Module):
    """A 1 x 1 convolution whose weights are float16 numbers, and a small one whose weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.little = torch.nn.Conv2d(256, 256, 1), torch.nn.Conv2d(256, 2, 1, bias=False)
        for layer in (self.large, self.little):
            layer.weight.data.copy_(layer.weight.data.half())

    def forward(self, x):
        return self.little(torch.relu(self.large(x)))


def test_large_float_weights_take_half_the_space_and_the_product_is_delegated():
    from executorch.runtime import Runtime

    from edge_hands.export_targets.executorch_backends import BACKENDS
    from edge_hands.export_targets.executorch_graph import halve_weights

    model, x = Wide().eval(), torch.randn(1, 256, 3, 2, generator=torch.Generator().manual_seed(0))
    graph = torch.export.export(model, (x,)).module(check_guards=False)
    halve_weights(graph)
    torch.testing.assert_close(graph(x), model(x), atol=1e-5, rtol=1e-5)
    edge = BACKENDS["xnnpack"].lower(torch.export.export(graph, (x,)), "")
    found = executorch.coverage(edge.exported_program())
    assert (found.share, found.delegates) == (1, 1)
    assert list(found.fallbacks) == ["dim_order_ops::_to_dim_order_copy"]
    content = edge.to_executorch().buffer
    assert 256 * 256 * 2 < len(content) < 256 * 256 * 2 + 20_000
    (y,) = Runtime.get().load_program(content).load_method("forward").execute([x])
    torch.testing.assert_close(y, model(x), atol=1e-5, rtol=1e-5)
