"""onnxruntime's custom ops are the scans: every case of the kernels, and a sentence for what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edge_hands import kernels  # noqa: E402
from edge_hands.kernels import reference  # noqa: E402
from edge_hands.kernels.onnx_library import DOMAIN, library_path  # noqa: E402

pytestmark = pytest.mark.skipif(library_path() is None, reason="libedge_hands_onnx.so is not built")

NAMES = ("x", "delta", "A", "B", "C", "D")
DEFORM_NAMES = ("x", "offset", "weight", "delta", "A", "B", "C", "D")


def inputs(rng: np.random.Generator, batch: int, height: int, width: int, channels: int, states: int, groups: int = 0):
    """Arguments of a scan; with ``groups`` those of a deformable one with 9 points."""
    length, shape = height * width, (batch, height * width, channels)
    found = {"x": rng.normal(size=shape)}
    if groups:
        found["offset"] = rng.normal(size=(batch, length, groups * 18)) * 2
        found["weight"] = rng.normal(size=(batch, length, groups * 9))
    found |= {"delta": rng.normal(size=shape) - 1, "A": -np.exp(rng.normal(size=(channels, states)))}
    found |= {name: rng.normal(size=(batch, length, states)) for name in "BC"}
    found["D"] = rng.normal(size=channels)
    return {name: value.astype(np.float32) for name, value in found.items()}


def session(kind: str, arrays: dict[str, np.ndarray], threads: int = 1, **attributes: int) -> ort.InferenceSession:
    helper, kinds = onnx.helper, {np.dtype(np.float32): 1, np.dtype(np.float64): 11}
    values = [helper.make_tensor_value_info(name, kinds[array.dtype], None) for name, array in arrays.items()]
    node = helper.make_node(kind, list(arrays), ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph([node], "scan", values, [helper.make_tensor_value_info("y", 1, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    options.register_custom_ops_library(str(library_path()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 4, 4, 5, 3), (2, 8, 8, 32, 8), (1, 3, 7, 33, 16)])
def test_selective_scan(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    arrays = inputs(rng, *shape)
    (found,) = session("SelectiveScan", arrays).run(None, arrays)
    expected = reference.selective_scan(*arrays.values())
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (found == kernels.selective_scan(*arrays.values())).all()  # the very kernel


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 1), (1, 4, 4, 6, 3, 2), (2, 8, 8, 32, 8, 4), (1, 3, 7, 33, 16, 3)])
def test_deformable_scan(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    arrays, (_, height, width, *_) = inputs(rng, *shape), shape
    scan = session("DeformableScan", arrays, height=height, width=width, points=9)
    (found,) = scan.run(None, arrays)
    expected = reference.deformable_scan(*arrays.values(), height, width)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (found == scan.run(None, arrays)[0]).all()


def test_sessions_of_one_process_share_the_library(rng: np.random.Generator) -> None:
    arrays = inputs(rng, 1, 4, 4, 8, 4)
    several = [session("SelectiveScan", arrays, threads) for threads in (1, 2, 1)]
    results = [one.run(None, arrays)[0] for one in several]
    del several[0]
    assert (several[0].run(None, arrays)[0] == results[0]).all()
    assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": (1, 16, 7)}, "delta"),
        ({"A": (8,)}, "A"),
        ({"D": (9,)}, "D"),
        ({"B": (1, 15, 4)}, "B"),
        ({"x": (16, 8)}, "x"),
        ({"offset": (1, 16, 35)}, "offset"),
    ],
)
def test_wrong_shapes_are_errors_that_name_the_argument(
    rng: np.random.Generator, change: dict[str, tuple[int, ...]], message: str
) -> None:
    arrays = inputs(rng, 1, 4, 4, 8, 4, 2)
    arrays |= {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    scan = session("DeformableScan", arrays, height=4, width=4, points=9)
    with pytest.raises(Exception, match=rf"\b{message}: "):
        scan.run(None, arrays)


@pytest.mark.parametrize(
    "sizes", [{"height": 4, "width": 5}, {"height": -4, "width": -4}, {"height": 2**40, "width": 2**40}, {"points": 8}]
)
def test_wrong_sizes_are_errors(rng: np.random.Generator, sizes: dict[str, int]) -> None:
    arrays = inputs(rng, 1, 4, 4, 8, 4, 2)
    with pytest.raises(Exception, match="height|width|points|offset"):
        session("DeformableScan", arrays, **{"height": 4, "width": 4, "points": 9, **sizes}).run(None, arrays)


def test_a_missing_attribute_or_a_wrong_type_does_not_load(rng: np.random.Generator) -> None:
    arrays = inputs(rng, 1, 4, 4, 8, 4, 2)
    with pytest.raises(Exception, match="points"):
        session("DeformableScan", arrays, height=4, width=4)
    with pytest.raises(Exception, match="(?i)type"):
        session("SelectiveScan", {name: arrays[name].astype(np.float64) for name in NAMES})
    with pytest.raises(Exception, match="(?i)input"):
        session("SelectiveScan", {name: arrays[name] for name in NAMES[:5]})
