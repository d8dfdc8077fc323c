"""Core ML export: the hand-written scans against numpy, and a quantised model from its graph to its package."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edge-hands[coreml]'")

from edge_hands.bundle import Variant  # noqa: E402
from edge_hands.errors import DeviceError, ExportError  # noqa: E402
from edge_hands.export_targets import coreml, coreml_ops, mil_reference  # noqa: E402
from edge_hands.export_targets.devices import Device, load_device  # noqa: E402
from edge_hands.export_targets.double import in_double  # noqa: E402
from edge_hands.kernels import reference, torch_ops  # noqa: E402, F401  (registers the operators)
from edge_hands.quantization import qat  # noqa: E402


class Scan(torch.nn.Module):
    """One scan of inputs that come one by one; A and D are constants, as in a model."""

    def __init__(self, a: np.ndarray, d: np.ndarray, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("a", torch.from_numpy(a))
        self.register_buffer("d", torch.from_numpy(d))
        self.sizes = sizes

    def forward(self, x, offset, weight, delta, b, c):
        ops = torch.ops.edge_hands
        if not self.sizes:
            return ops.selective_scan(x, delta, self.a, b, c, self.d) + 0.0 * (offset.sum() + weight.sum())
        return ops.deformable_scan(x, offset, weight, delta, self.a, b, c, self.d, *self.sizes)


def scan_inputs(rng: np.random.Generator, length: int, channels: int, groups: int, points: int, reach: float):
    """Named inputs, A and D. Offsets are up to ``reach``; delta goes from almost no step to a large one."""
    states, of = 3, lambda *shape: rng.normal(size=shape).astype(np.float32)
    inputs = {
        "x": of(1, length, channels),
        "offset": rng.uniform(-reach, reach, (1, length, groups * points * 2)).astype(np.float32),
        "weight": of(1, length, groups * points),
        "delta": rng.uniform(-8, 6, (1, length, channels)).astype(np.float32),
        "b": of(1, length, states),
        "c": of(1, length, states),
    }
    return inputs, -rng.uniform(0.5, 8, (channels, states)).astype(np.float32), of(channels)


def run_scan(path: Path, module: Scan, inputs: dict[str, np.ndarray], form: str, half: bool = False) -> np.ndarray:
    """Output of the scan's package in the reference interpreter."""
    program = torch.export.export(module, tuple(map(torch.from_numpy, inputs.values())))
    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    with contextlib.redirect_stderr(io.StringIO()), coreml_ops.sampling(form):
        model = ct.convert(
            program.run_decompositions({}),
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=precision,
            skip_model_load=True,
        )
        model.save(str(path))
    (found,) = mil_reference.load(path)(inputs).values()
    return found


@pytest.mark.parametrize("length", [1, 7, 12, 64])
def test_selective_scan(tmp_path: Path, rng: np.random.Generator, length: int) -> None:
    inputs, a, d = scan_inputs(rng, length, 4, 1, 1, 1.0)
    found = run_scan(tmp_path / "p.mlpackage", Scan(a, d, ()), inputs, "auto")
    expected = reference.selective_scan(inputs["x"], inputs["delta"], a, inputs["b"], inputs["c"], d)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["tanh", "none"])
def test_gelu_keeps_its_form(tmp_path: Path, form: str) -> None:
    """The two are up to 5e-4 apart; coremltools' own translator writes the exact one for both."""
    x = torch.linspace(-4, 4, 801)
    layer = torch.nn.GELU(approximate=form)
    program = torch.export.export(layer, (x,)).run_decompositions({})
    precise = {"compute_precision": ct.precision.FLOAT32, "minimum_deployment_target": ct.target.iOS17}
    ct.convert(program, **precise, skip_model_load=True).save(str(tmp_path / "p.mlpackage"))
    package = mil_reference.load(tmp_path / "p.mlpackage")
    (found,) = package({name: x.numpy() for name in package.inputs}).values()
    np.testing.assert_allclose(found, layer(x), atol=1e-6)


@pytest.mark.parametrize(
    ("form", "height", "width", "groups", "points", "reach"),
    [
        ("dense", 1, 1, 1, 9, 1.0),
        ("dense", 3, 5, 2, 9, 6.0),
        ("resample", 3, 5, 2, 9, 6.0),
        ("window", 3, 5, 2, 9, 2.0),
        ("dense", 4, 4, 1, 25, 3.0),
        ("resample", 4, 4, 1, 1, 3.0),
    ],
)
def test_deformable_scan(
    tmp_path: Path, rng: np.random.Generator, form: str, height: int, width: int, groups: int, points: int, reach: float
) -> None:
    inputs, a, d = scan_inputs(rng, height * width, 4 * groups, groups, points, reach)
    found = run_scan(tmp_path / "p.mlpackage", Scan(a, d, (height, width, points)), inputs, form)
    x, offset, weight, delta, b, c = inputs.values()
    expected = reference.deformable_scan(x, offset, weight, delta, a, b, c, d, height, width, points)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-4)


def test_float16_keeps_small_steps(tmp_path: Path, rng: np.random.Generator) -> None:
    inputs, a, _ = scan_inputs(rng, 64, 8, 1, 9, 2.0)
    inputs["delta"] = np.full_like(inputs["delta"], -8.5)  # 1 + exp(-8.5) is 1 in float16: its logarithm would be 0
    d = np.zeros(8, np.float32)
    x, offset, weight, delta, b, c = inputs.values()
    expected = reference.deformable_scan(x, offset, weight, delta, a, b, c, d, 8, 8)
    found = run_scan(tmp_path / "p.mlpackage", Scan(a, d, (8, 8, 9)), inputs, "dense", half=True)
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.01


def test_large_maps_are_resampled_and_small_ones_are_not(tmp_path: Path, rng: np.random.Generator) -> None:
    for side, wanted in ((4, False), (17, True)):
        inputs, a, d = scan_inputs(rng, side * side, 2, 1, 1, 1.0)
        path = tmp_path / f"{side}.mlpackage"
        run_scan(path, Scan(a, d, (side, side, 1)), inputs, "auto")
        assert ("resample" in mil_reference.load(path).operations) == wanted


def test_a_sampling_that_there_is_not() -> None:
    with pytest.raises(ExportError, match="expected one of auto, dense, window, resample"), coreml_ops.sampling("best"):
        pass


@dataclass(frozen=True)
class Exported:
    model: qat.QuantizedModel
    folder: Path
    variants: dict[str, Variant]
    images: np.ndarray

    def program(self, form: str):
        """coremltools' own view of a package: the MIL program."""
        from coremltools.converters.mil.frontend.milproto.load import load

        package = self.folder / self.variants[form].path
        spec = ct.utils.load_spec(str(package))
        weights = package / "Data" / "com.apple.CoreML" / "weights"
        return load(spec, spec.specificationVersion, str(weights)).functions["main"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, small, crops) -> Exported:
    """A calibrated test_dfmamba in the forms of one function, and crops."""
    network, graph = small
    quantised, images = qat.convert(graph, network), crops(16).astype(np.float32) / 255
    folder = tmp_path_factory.mktemp("coreml")
    variants = {form: coreml.export(quantised, folder, folder, form) for form in ("w8a8", "w8")}
    return Exported(quantised, folder, variants, images)


@pytest.mark.parametrize(("form", "pixels", "millimetres"), [("w8a8", 1e-4, 1e-3), ("w8", 2.0, 10.0)])
def test_a_package_computes_what_it_is_meant_to(
    exported: Exported, form: str, pixels: float, millimetres: float
) -> None:
    """``w8a8`` is the fake-quant model, in float64, ``w8`` the same without rounded activations, in float16."""
    ((_, meant),) = coreml.parts(exported.model, exported.variants[form]).values()
    assert (meant is exported.model) == (form == "w8a8")
    meant = in_double(meant) if form == "w8a8" else meant
    program = mil_reference.load(exported.folder / exported.variants[form].path)
    apart = []
    for image in exported.images[:6, None]:
        found = program({"image": image})
        with torch.inference_mode():
            expected = {name: value.numpy() for name, value in meant(torch.from_numpy(image)).items()}
        assert list(found) == list(expected)
        assert all(found[name].shape == expected[name].shape for name in expected)
        uv, xyz = (found[name] - expected[name] for name in ("joints_uv", "joints_xyz"))
        apart.append((np.linalg.norm(uv, axis=-1).mean() * 256, np.linalg.norm(xyz, axis=-1).mean() * 1000))
        assert np.abs(found["presence"] - expected["presence"]).max() < 0.02
    assert (np.mean(apart, 0) < (pixels, millimetres)).all(), apart


def _graph_weights(graph: torch.fx.GraphModule) -> list[tuple[np.ndarray, np.ndarray]]:
    """int8 values and scales of every quantised weight of a graph."""
    quantise, found = torch.ops.quantized_decomposed.quantize_per_channel.default, []
    for node in graph.graph.nodes:
        if node.target is quantise:
            weight, scale, zero = (
                graph.get_parameter(a.target)
                if hasattr(a, "target") and "weight" in a.target
                else graph.get_buffer(a.target)
                for a in node.args[:3]
            )
            assert not zero.any()
            found.append((quantise(weight, scale, zero, *node.args[3:]).detach().numpy(), scale.numpy()))
    return found


@pytest.mark.parametrize("form", ["w8a8", "w8"])
def test_weights_are_the_graphs_bit_for_bit(exported: Exported, form: str) -> None:
    stored = [op for op in exported.program(form).operations if op.op_type == "constexpr_affine_dequantize"]
    wanted = _graph_weights(exported.model.body)
    assert len(stored) == len(wanted)
    kind = np.float32 if form == "w8a8" else np.float16
    for values, scale in wanted:
        assert any(
            np.array_equal(op.quantized_data.val.reshape(-1), values.reshape(-1))
            and np.array_equal(op.scale.val, scale.astype(kind))
            and not np.any(op.zero_point.val)
            for op in stored
        )


def test_scales_and_zero_points_are_the_graphs(exported: Exported) -> None:
    wanted = {(float(np.float32(s)), z) for s, z in qat.activation_scales(exported.model.body)}
    for kind in ("quantize", "dequantize"):
        operations = [op for op in exported.program("w8a8").operations if op.op_type == kind]
        assert {op.scale.dtype.__name__ for op in operations} == {"fp32"}
        found = {(float(op.scale.val), int(op.zero_point.val) if op.zero_point else 0) for op in operations}
        assert found == wanted
    assert not any(op.op_type == "quantize" for op in exported.program("w8").operations)


class Wide(torch.nn.Module):
    """A 1 x 1 convolution whose weights are float16 numbers, and a small one whose weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.little = torch.nn.Conv2d(256, 256, 1), torch.nn.Conv2d(256, 2, 1)
        for layer in (self.large, self.little):
            layer.weight.data.copy_(layer.weight.data.half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.little(torch.relu(self.large(x)))


def test_large_float_weights_take_half_the_space(tmp_path: Path) -> None:
    from edge_hands.export_targets import coreml_weights

    model, x = Wide().eval(), torch.randn(1, 256, 2, 2, generator=torch.Generator().manual_seed(0))
    passes = ct.PassPipeline.DEFAULT
    passes.append_pass(coreml_weights.HALVE_WEIGHTS)
    with contextlib.redirect_stderr(io.StringIO()):
        ct.convert(
            torch.export.export(model, (x,)).run_decompositions({}),
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=passes,
            skip_model_load=True,
        ).save(str(tmp_path / "p.mlpackage"))
    weights = tmp_path / "p.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert 256 * 256 * 2 < weights.stat().st_size < 256 * 256 * 2 + 8000
    program = mil_reference.load(tmp_path / "p.mlpackage")
    (found,) = program({"x": x.numpy()}).values()
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-5)


def test_the_variant_says_what_it_is_and_what_is_not_known(exported: Exported) -> None:
    variant = exported.variants["w8a8"]
    assert (variant.runtime, variant.path) == ("coreml", "w8a8.mlpackage")
    assert variant.config["minimum_target"] == "iOS17"
    assert "needs a Mac" in variant.config["compute_plan"]
    with pytest.raises(ExportError, match="no Core ML form 'w4': expected one of w8a8, w8, multi"):
        coreml.export(exported.model, exported.folder, exported.folder, "w4")


def board(form: str | None, target: str | None) -> Device:
    return Device("board", "A board", "any", ("coreml",), coreml_form=form, coreml_target=target)


def test_the_device_decides_what_is_asked_for() -> None:
    assert coreml.settings(board("multi", "iOS26")) == {"form": "multi", "target": "iOS26"}
    assert coreml.settings(load_device("iphone")) == {"form": "w8a8", "target": "iOS17"}


@pytest.mark.slow
def test_the_device_decides_what_is_written(exported: Exported, tmp_path: Path) -> None:
    variant = coreml.export(exported.model, tmp_path, tmp_path, **coreml.settings(board("w8", "iOS18")))
    assert (variant.path, variant.config["minimum_target"]) == ("w8.mlpackage", "iOS18")
    asked = {package: ct.utils.load_spec(str(package)).specificationVersion for package in written(exported, tmp_path)}
    assert list(asked.values()) == [ct.target.iOS17, ct.target.iOS17, ct.target.iOS18]
    image = exported.images[:1]
    older, newer = (mil_reference.load(package)({"image": image}) for package in list(asked)[1:])
    for name, value in older.items():
        assert np.abs(value - newer[name]).max() < 5e-3, name


def written(exported: Exported, folder: Path) -> list[Path]:
    return [exported.folder / "w8a8.mlpackage", exported.folder / "w8.mlpackage", folder / "w8.mlpackage"]


@pytest.mark.parametrize(
    ("form", "target", "message"),
    [
        (
            "multi",
            "iOS17",
            "coreml_target is 'iOS17', and the form multi needs iOS18 or later: set one of iOS18, iOS26",
        ),
        ("w8", "iOS16", "coreml_target is 'iOS16', and the form w8 needs iOS17 or later"),
        ("w4", "iOS18", "coreml_form is 'w4', expected one of w8a8, w8, multi"),
        (None, None, "coreml_target is None, and the form w8a8 needs iOS17"),
    ],
)
def test_a_form_that_the_system_cannot_run_is_refused(form: str | None, target: str | None, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        coreml.settings(board(form, target))


@pytest.mark.slow
def test_functions_of_one_package_share_their_weights(exported: Exported, tmp_path: Path) -> None:
    variant = coreml.export(exported.model, exported.folder, tmp_path, "multi")
    package, image = tmp_path / variant.path, exported.images[:1]
    assert (variant.config["minimum_target"], variant.config["functions"]) == ("iOS18", list(coreml.FUNCTIONS))
    programs = {name: mil_reference.load(package, name) for name in ("", *coreml.FUNCTIONS)}
    found = {name: program({"image": image}) for name, program in programs.items()}
    alone = mil_reference.load(exported.folder / "w8a8.mlpackage")({"image": image})
    for name in alone:
        assert (found[""][name] == alone[name]).all() and (found["w8a8"][name] == alone[name]).all()
        assert np.abs(found["gpu"][name] - found["neural_engine"][name]).max() < 0.02
    assert "resample" in programs["gpu"].operations and "resample" not in programs["neural_engine"].operations

    def weights(path: Path) -> int:
        return (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size

    parts = coreml.parts(exported.model, variant)
    assert [part.config["function"] for part, _ in parts.values()] == list(parts) == list(coreml.FUNCTIONS)
    single = [weights(exported.folder / exported.variants[form].path) for form in ("w8a8", "w8")]
    assert weights(package) < 0.7 * (single[0] + 2 * single[1])
