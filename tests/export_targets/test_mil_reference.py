"""The reference interpreter of ML Programs against numpy: one package of many operations, written by coremltools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edge-hands[coreml]'")

from coremltools.converters.mil import Builder as mb  # noqa: E402

from edge_hands.errors import ExportError  # noqa: E402
from edge_hands.export_targets import mil_reference  # noqa: E402

RNG = np.random.default_rng(11)
X = RNG.normal(size=(1, 4, 6, 5)).astype(np.float32) * 2.0
WEIGHT = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
MATRIX = RNG.normal(size=(5, 3)).astype(np.float32)
PLACES = RNG.uniform(-2, 7, size=(1, 2, 3, 2)).astype(np.float32)  # x before y, some outside


def convolved(x: np.ndarray, weight: np.ndarray, groups: int, stride: int, pad: int) -> np.ndarray:
    """(1, C, H, W) by its definition, a sum over the kernel's taps."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    parts = []
    for group, kernel in enumerate(np.split(weight, groups)):
        mine = x[:, group * weight.shape[1] : (group + 1) * weight.shape[1]]
        windows = np.lib.stride_tricks.sliding_window_view(mine, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        parts.append(np.einsum("bchwij,ocij->bohw", windows, kernel))
    return np.concatenate(parts, 1)


def sampled(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear, 0 outside, by four hats."""
    rows, columns = np.arange(x.shape[2]), np.arange(x.shape[3])
    hat_x = np.maximum(0, 1 - np.abs(places[..., 0, None] - columns))
    hat_y = np.maximum(0, 1 - np.abs(places[..., 1, None] - rows))
    return np.einsum("bchw,bijh,bijw->bcij", x, hat_y, hat_x)


def normed(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)


#: Operation in MIL of a variable, and in numpy of its value.
CASES = {
    "arithmetic": (
        lambda x: mb.sub(x=mb.mul(x=mb.add(x=x, y=1.5), y=x), y=mb.real_div(x=x, y=4.0)),
        lambda x: (x + 1.5) * x - x / 4,
    ),
    "functions": (
        lambda x: mb.add(x=mb.exp(x=mb.mul(x=mb.abs(x=x), y=-1.0)), y=mb.sqrt(x=mb.square(x=x))),
        lambda x: np.exp(-np.abs(x)) + np.abs(x),
    ),
    "softplus": (lambda x: mb.softplus(x=x), lambda x: np.logaddexp(0, x)),
    "sigmoid": (lambda x: mb.sigmoid(x=x), lambda x: 1 / (1 + np.exp(-x))),
    "relu": (lambda x: mb.relu(x=x), lambda x: np.maximum(x, 0)),
    "inverse_adds_its_epsilon": (lambda x: mb.inverse(x=x, epsilon=0.25), lambda x: 1 / (x + 0.25)),
    "rsqrt": (lambda x: mb.rsqrt(x=mb.square(x=x), epsilon=0.5), lambda x: 1 / np.sqrt(x * x + 0.5)),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=1.0), lambda x: np.clip(x, -0.5, 1.0)),
    "select": (lambda x: mb.select(cond=mb.greater(x=x, y=0.5), a=x, b=-3.0), lambda x: np.where(x > 0.5, x, -3)),
    "round_halves_to_even": (
        lambda x: mb.round(x=mb.add(x=mb.floor(x=x), y=0.5)),
        lambda x: np.rint(np.floor(x) + 0.5),
    ),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "reduce_mean": (lambda x: mb.reduce_mean(x=x, axes=[1, -1], keep_dims=False), lambda x: x.mean((1, 3))),
    "reduce_max": (lambda x: mb.reduce_max(x=x, axes=[2], keep_dims=True), lambda x: x.max(2, keepdims=True)),
    "cumsum": (
        lambda x: mb.cumsum(x=x, axis=2, exclusive=True, reverse=True),
        lambda x: np.cumsum(x[:, :, ::-1], 2)[:, :, ::-1] - x,
    ),
    "matmul": (lambda x: mb.matmul(x=x, y=MATRIX), lambda x: x @ MATRIX),
    "matmul_transposed": (lambda x: mb.matmul(x=x, y=x, transpose_y=True), lambda x: x @ x.swapaxes(2, 3)),
    "linear": (
        lambda x: mb.linear(x=x, weight=MATRIX.T.copy(), bias=MATRIX[0].copy()),
        lambda x: x @ MATRIX + MATRIX[0],
    ),
    "conv": (
        lambda x: mb.conv(x=x, weight=WEIGHT, groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: convolved(x, WEIGHT, 2, 2, 1),
    ),
    "conv_same": (
        lambda x: mb.conv(x=x, weight=WEIGHT, groups=2, pad_type="same"),
        lambda x: convolved(x, WEIGHT, 2, 1, 1),
    ),
    "avg_pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 5], strides=[2, 1], pad_type="valid"),
        lambda x: x.reshape(1, 4, 3, 2, 5).mean((3, 4))[..., None],
    ),
    "max_pool": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 1], strides=[3, 1], pad_type="valid"),
        lambda x: x.reshape(1, 4, 2, 3, 5).max(3),
    ),
    "layer_norm": (lambda x: mb.layer_norm(x=x, axes=[1], epsilon=1e-3), normed),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=MATRIX[:4, 0], variance=MATRIX[:4, 1] ** 2, epsilon=0.1),
        lambda x: (x - MATRIX[:4, :1, None]) / np.sqrt(MATRIX[:4, 1:2, None] ** 2 + 0.1),
    ),
    "upsample": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=2.0),
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "resample": (
        lambda x: mb.resample(
            x=x,
            coordinates=PLACES,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="unnormalized",
            align_corners=True,
        ),
        lambda x: sampled(x, PLACES),
    ),
    "reshape": (
        lambda x: mb.transpose(x=mb.reshape(x=x, shape=[4, -1, 3]), perm=[2, 0, 1]),
        lambda x: x.reshape(4, 10, 3).transpose(2, 0, 1),
    ),
    "slice_by_index": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 3, 1, 4], end=[0, 0, -1, 0], stride=[1, -2, 1, 1], squeeze_mask=[True, False, False, True]
        ),
        lambda x: x[0, 3:0:-2, 1:-1, 4],
    ),
    "slice_by_size": (
        lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2, 0], size=[1, 2, -1, 5]),
        lambda x: x[:, 1:3, 2:],
    ),
    "split_and_concat": (
        lambda x: mb.concat(values=mb.split(x=x, split_sizes=[1, 3], axis=1)[::-1], axis=1),
        lambda x: np.concatenate([x[:, 1:], x[:, :1]], 1),
    ),
    "concat_interleaved": (
        lambda x: mb.concat(values=[x, mb.add(x=x, y=9.0)], axis=1, interleave=True),
        lambda x: np.stack([x, x + 9], 2).reshape(1, 8, 6, 5),
    ),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="constant", constant_val=7.0),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), constant_values=7),
    ),
    "pad_reflected": (
        lambda x: mb.pad(x=x, pad=[2, 1], mode="reflect"),
        lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (2, 1)), mode="reflect"),
    ),
    "gather": (lambda x: mb.gather(x=x, indices=[3, 0], axis=1), lambda x: x[:, [3, 0]]),
    "tile": (lambda x: mb.tile(x=x, reps=[2, 1, 1, 3]), lambda x: np.tile(x, (2, 1, 1, 3))),
    "topk": (lambda x: mb.topk(x=x, k=2, axis=3)[0], lambda x: -np.sort(-x, 3)[..., :2]),
    "argsort": (
        lambda x: mb.cast(x=mb.argsort(x=x, axis=2, ascending=True), dtype="fp32"),
        lambda x: np.argsort(x, 2),
    ),
    "upsample_of_three_dimensions": (
        lambda x: mb.upsample_bilinear(
            x=mb.squeeze(x=x, axes=[0]), scale_factor_height=2.0, scale_factor_width=1.0, align_corners=False
        ),
        lambda x: np.einsum(
            "oh,chw->cow",
            np.maximum(0, 1 - np.abs(((np.arange(12) + 0.5) / 2 - 0.5).clip(0, 5)[:, None] - np.arange(6))),
            x[0],
        ),
    ),
    "quantize": (
        lambda x: mb.cast(x=mb.quantize(input=x, scale=np.float32(0.03), zero_point=np.int8(-7), output_dtype="int8"),
                          dtype="fp32"),
        lambda x: np.clip(np.rint(x / np.float32(0.03)) - 7, -128, 127),
    ),
    "quantize_by_channel": (
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32([0.5, 0.25, 1, 2]), axis=1, output_dtype="int8"),
            scale=np.float32([0.5, 0.25, 1, 2]),
            axis=1,
        ),
        lambda x: np.rint(x / [[[0.5]], [[0.25]], [[1]], [[2]]]) * [[[0.5]], [[0.25]], [[1]], [[2]]],
    ),
    "dequantized_weight": (
        lambda x: mb.mul(
            x=x,
            y=mb.constexpr_affine_dequantize(
                quantized_data=np.arange(-2, 3, dtype=np.int8),
                scale=np.float32(0.5),
                zero_point=np.int8(1),
                axis=0,
            ),
        ),
        lambda x: x * (np.arange(-2, 3) - 1) * 0.5,
    ),
}  # fmt: skip


def package(build, path: Path, **convert) -> Path:
    """Saves the ML Program of ``build``, as it is unless ``convert`` says otherwise."""
    options = {"pass_pipeline": ct.PassPipeline.EMPTY, "compute_precision": ct.precision.FLOAT32, **convert}
    with contextlib.redirect_stderr(io.StringIO()):
        model = ct.convert(build, minimum_deployment_target=ct.target.iOS17, skip_model_load=True, **options)
        model.save(str(path))
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What every case computes of X: they are one program."""

    @mb.program(input_specs=[mb.TensorSpec(X.shape)], opset_version=ct.target.iOS17)
    def build(x):
        return tuple(mb.identity(x=in_mil(x), name=name) for name, (in_mil, _) in CASES.items())

    program = mil_reference.load(package(build, tmp_path_factory.mktemp("mil") / "many.mlpackage"))
    assert program.inputs == {"x": X.shape}
    return program({"x": X})


@pytest.mark.parametrize("name", CASES)
def test_an_operation(results: dict[str, np.ndarray], name: str) -> None:
    expected = CASES[name][1](X.astype(np.float64))
    assert results[name].shape == expected.shape
    np.testing.assert_allclose(results[name], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("precision", "expected"), [("FLOAT32", [1.0, 1.0, 1.0]), ("FLOAT16", [1.0, 0.0, 0.0])])
def test_every_result_is_rounded_to_its_type(tmp_path: Path, precision: str, expected: list[float]) -> None:
    @mb.program(input_specs=[mb.TensorSpec((3,))], opset_version=ct.target.iOS17)
    def build(x):
        return mb.sub(x=mb.add(x=x, y=1.0), y=x, name="y")

    options = {"compute_precision": getattr(ct.precision, precision), "pass_pipeline": None}
    program = mil_reference.load(package(build, tmp_path / "p.mlpackage", **options))
    x = np.float32([1.0, 2048.0, 4096.0])  # float16 has no 2049 and no 4097
    assert program({"x": x})["y"].tolist() == expected


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((1, 4, 6, 6))], opset_version=ct.target.iOS17)
    def build(x):
        return mb.local_response_norm(x=x, size=3, name="tuned")

    with pytest.raises(mil_reference.UnknownOperation, match=r"operation local_response_norm \(tuned\) is not in the"):
        mil_reference.load(package(build, tmp_path / "unknown.mlpackage"))


def test_what_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere.mlpackage is no ML Program"):
        mil_reference.load(tmp_path / "nowhere.mlpackage")

    @mb.program(input_specs=[mb.TensorSpec((3,))], opset_version=ct.target.iOS17)
    def build(x):
        return mb.relu(x=x)

    good = package(build, tmp_path / "good.mlpackage")
    with pytest.raises(mil_reference.ProgramError, match="has no function 'other': expected one of main"):
        mil_reference.load(good, "other")
    (good / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"\xff" * 100)
    with pytest.raises(mil_reference.ProgramError, match="good.mlpackage is no ML Program"):
        mil_reference.load(good)


def test_a_value_of_the_wrong_shape_is_noticed(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2, 3))], opset_version=ct.target.iOS17)
    def build(x):
        return mb.transpose(x=x, perm=[1, 0], name="turned")

    program = mil_reference.load(package(build, tmp_path / "p.mlpackage"))
    with pytest.raises(mil_reference.ProgramError, match=r"transpose \(turned\) gives \[5, 2\] where .* \[3, 2\]"):
        program({"x": np.zeros((2, 5), np.float32)})
