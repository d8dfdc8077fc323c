"""The TFLite delegate against the numpy reference, on a file of its custom ops written as the exporter writes them.

One conversion serves every size: an interpreter gives its inputs new shapes, and the 16 option bytes are replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from edge_hands.kernels import reference
from edge_hands.kernels.cases import DEFORM_INPUTS, NETWORK_CASES, ODD_CASES, SCAN_INPUTS, Case
from edge_hands.kernels.checks import Quantization
from edge_hands.kernels.delegate import DEFORMABLE_SCAN, SELECTIVE_SCAN, delegate_path, options

pytest.importorskip("ai_edge_litert")
LIBRARY = delegate_path()
if LIBRARY is None:
    pytest.skip("libedge_hands_tflite.so is not built", allow_module_level=True)

WRITTEN = Case("written", 1, 3, 4, 8, 4, 2)
X, Y = Quantization(0.03, 5), Quantization(0.06, -11)


@pytest.fixture(scope="module")
def content() -> bytes:
    """A .tflite file with both ops, a chain of two, and both between int8 tensors; outputs by name, all float32."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("litert_torch")
    pytest.importorskip("torch.ao.quantization.fx._decomposed")  # registers quantized_decomposed

    from edge_hands.export_targets.litert import convert_module
    from edge_hands.kernels import torch_ops  # noqa: F401  (registers edge_hands)

    ops = torch.ops.edge_hands

    def int8(value, quantization):
        rounding = (*quantization, -128, 127, torch.int8)
        quantized = torch.ops.quantized_decomposed.quantize_per_tensor(value, *rounding)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(quantized, *rounding)

    class Ops(torch.nn.Module):
        def forward(self, x, offset, weight, delta, A, B, C, D):
            plain = ops.selective_scan(x, delta, A, B, C, D)
            arguments = (offset, weight, delta, A, B, C, D, WRITTEN.height, WRITTEN.width)
            return {
                "plain": plain,
                "chained": ops.selective_scan(plain, delta, A, B, C, D),
                "deformed": ops.deformable_scan(x, *arguments),
                "plain_int8": int8(ops.selective_scan(int8(x, X), delta, A, B, C, D), Y),
                "deformed_int8": int8(ops.deformable_scan(int8(x, X), *arguments), Y),
            }

    inputs = {name: torch.from_numpy(a) for name, a in WRITTEN.inputs(np.random.default_rng(0)).items()}
    return convert_module(Ops(), inputs, quantized=True, scan="native")


def run(content: bytes, case: Case, inputs: dict[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    sized = content.replace(options(*WRITTEN.deform), options(*case.deform))
    delegate = load_delegate(str(LIBRARY), {"threads": threads})
    return Interpreter(model_content=sized, experimental_delegates=[delegate]).get_signature_runner()(**inputs)


def expected(case: Case, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float64 results; the int8 ones as integers."""
    exact = {name: a.astype(np.float64) for name, a in inputs.items()}
    plain = [exact[name] for name in SCAN_INPUTS]
    deform = [exact[name] for name in DEFORM_INPUTS]
    rounded = reference.dequantize(reference.quantize(inputs["x"], X), X, np.dtype(np.float64))
    y = reference.selective_scan(*plain)
    return {
        "plain": y,
        "chained": reference.selective_scan(y, *plain[1:]),
        "deformed": reference.deformable_scan(*deform, *case.deform),
        "plain_int8": reference.quantize(reference.selective_scan(rounded, *plain[1:]), Y),
        "deformed_int8": reference.quantize(reference.deformable_scan(rounded, *deform[1:], *case.deform), Y),
    }


def check(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> None:
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        if name.endswith("int8"):
            steps = np.rint(found[name] / Y.scale) + Y.zero_point - value
            assert np.abs(steps).max(initial=0) <= 1, name
        else:
            assert np.abs(found[name] - value).max(initial=0) <= 5e-6 * np.abs(value).max(initial=1), name


# XNNPACK, which runs the quantize and dequantize beside the scans here, refuses empty tensors.
@pytest.mark.parametrize("case", [c for c in ODD_CASES if c.length] + [*NETWORK_CASES[:3]], ids=lambda c: c.name)
def test_agrees_with_the_reference(content, case, rng):
    inputs = case.inputs(rng)
    check(run(content, case, inputs), expected(case, inputs))


def test_int8_values_saturate_and_differ(content, rng):
    """The int8 case above is no comparison of constants: its values cover the range and reach both ends."""
    inputs = WRITTEN.inputs(rng)
    inputs["D"] *= 8
    found = run(content, WRITTEN, inputs)["plain_int8"]
    steps = np.rint(found / Y.scale).astype(int) + Y.zero_point
    assert (steps.min(), steps.max()) == (-128, 127)
    assert len(np.unique(steps)) > 40
    check({"plain_int8": found}, {"plain_int8": expected(WRITTEN, inputs)["plain_int8"]})


@pytest.mark.parametrize("threads", [2, 7])
def test_threads_change_nothing(content, threads, rng):
    case = Case("threads", 3, 5, 4, 160, 4, 5)
    inputs = case.inputs(rng)
    one, many = run(content, case, inputs), run(content, case, inputs, threads)
    for name in one:
        np.testing.assert_array_equal(many[name], one[name])


def test_one_interpreter_takes_other_sizes_in_turn(content, rng):
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    plain = content.replace(options(*WRITTEN.deform), options(2, 3, 9))
    delegates = [load_delegate(str(LIBRARY))]
    runner = Interpreter(model_content=plain, experimental_delegates=delegates).get_signature_runner()
    for batch, channels in ((1, 8), (4, 30), (2, 6)):
        case = Case("sized", batch, 2, 3, channels, 3, 2)
        inputs = case.inputs(rng)
        check(runner(**inputs), expected(case, inputs))


def test_the_file_holds_our_ops_and_their_option_bytes(content):
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = file.subgraphs[0]
    found = []
    for operator in graph.operators:
        code = file.operatorCodes[operator.opcodeIndex]
        if code.customCode:
            x, y = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            found.append((code.customCode.decode(), bytes(operator.customOptions), x.type, y.type))
            if x.type == schema.TensorType.INT8:
                np.testing.assert_allclose([x.quantization.scale[0], y.quantization.scale[0]], [X.scale, Y.scale])
                assert [x.quantization.zeroPoint[0], y.quantization.zeroPoint[0]] == [X.zero_point, Y.zero_point]
    none, grid = struct.pack("<4i", 1, 0, 0, 0), struct.pack("<4i", 1, 3, 4, 9)
    float32, int8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
    assert sorted(found) == sorted(
        [(SELECTIVE_SCAN, none, float32, float32)] * 2
        + [(DEFORMABLE_SCAN, grid, float32, float32)]
        + [(SELECTIVE_SCAN, none, int8, int8), (DEFORMABLE_SCAN, grid, int8, int8)]
    )
    builtin = [file.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
    quantize, dequantize = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE
    # x is quantised (once: both readers round alike), and each int8 y made float32 again: nothing else is left.
    assert builtin.count(dequantize) == 2
    assert 1 <= builtin.count(quantize) <= 2


# What a child process does: tries each case (a file, the shapes to give to inputs) and prints the error as a line.
# Without XNNPACK, which itself crashes at an int8 zero point of 200 before it comes to our nodes.
CHILD = """
import json, sys
from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
library, cases = sys.argv[1], json.load(open(sys.argv[2]))
for path, shapes in cases:
    delegate = load_delegate(library)
    try:
        interpreter = Interpreter(path, experimental_delegates=[delegate], experimental_op_resolver_type=plain)
        for details in interpreter.get_input_details():
            name = details["name"].removeprefix("serving_default_").split(":")[0]
            if name in shapes:
                interpreter.resize_tensor_input(details["index"], shapes[name])
        interpreter.allocate_tensors()
        interpreter.invoke()
        print("no error")
    except (RuntimeError, ValueError) as error:
        print(" ".join(str(error).split()))
"""


def test_wrong_options_and_shapes_are_sentences(content, tmp_path):
    none, grid = options(), options(*WRITTEN.deform)
    wrong_options = {
        "options: expected version 1, found 2": (grid, struct.pack("<4i", 2, 3, 4, 9)),
        "height, width: expected a product of 12": (grid, options(3, 5, 9)),
        "height, width: expected a product of 12.* -3 and -4": (grid, options(-3, -4, 9)),
        "points: expected the square of an odd number .*, found 4": (grid, options(3, 4, 4)),
        "points: expected the square of an odd number .*found -9": (grid, options(3, 4, -9)),
        "points: expected the square of an odd number, found 0": (grid, options(3, 4, 0)),
        "points: expected the square of an odd number .*found 2147483647": (grid, options(3, 4, 2**31 - 1)),
        "weight: expected 25 weights a group": (grid, options(3, 4, 25)),
        "options: expected no height, width and points": (none, grid),
    }
    wrong_shapes = {
        "x: expected 3 dimensions": {"x": [1, 12]},
        r"delta: expected shape \(1, 12, 8\), found \(1, 12, 9\)": {"delta": [1, 12, 9]},
        r"A: expected shape \(8, N\), found \(8\)": {"A": [8]},
        r"B: expected shape \(1, 12, 4\), found \(2, 12, 4\)": {"B": [2, 12, 4]},
        r"C: expected shape \(1, 12, 4\), found \(1, 12, 5\)": {"C": [1, 12, 5]},
        r"D: expected shape \(8\), found \(9\)": {"D": [9]},
        "weight: expected 9 weights a group": {"weight": [1, 12, 17]},
        r"offset: expected shape \(1, 12, 36\), found \(1, 12, 18\)": {"offset": [1, 12, 18]},
    }
    cases, messages = [], []
    for message, (right, wrong) in wrong_options.items():
        path = tmp_path / f"{len(cases)}.tflite"
        assert right in content
        path.write_bytes(content.replace(right, wrong))
        cases.append((str(path), {}))
        messages.append(message)
    (tmp_path / "good.tflite").write_bytes(content)
    for message, shapes in wrong_shapes.items():
        cases.append((str(tmp_path / "good.tflite"), shapes))
        messages.append(message)
    for message, broken in {
        "options: expected 16 bytes, found 15": _shorter_options(content, grid),
        "x: expected one positive scale and a zero point from -128 to 127": _with_zero_point(content, X, 200),
        "y: expected one positive scale": _with_scale(content, Y, 0.0),
    }.items():
        path = tmp_path / f"{len(cases)}.tflite"
        path.write_bytes(broken)
        cases.append((str(path), {}))
        messages.append(message)
    cases.append((str(tmp_path / "good.tflite"), {}))
    messages.append("^no error$")

    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = child("-c", CHILD, str(LIBRARY), str(tmp_path / "cases.json"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(lines) == len(cases)
    for line, message in zip(lines, messages, strict=True):
        assert re.search(message, line), (message, line)
        assert "edge_hands." in line or line == "no error"


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


def _shorter_options(content: bytes, right: bytes) -> bytes:
    """The length that stands before the option bytes, reduced by one."""
    assert struct.pack("<i", 16) + right in content
    return content.replace(struct.pack("<i", 16) + right, struct.pack("<i", 15) + right)


def _with_zero_point(content: bytes, quantization: Quantization, zero_point: int) -> bytes:
    """The file with another zero point wherever a tensor has this quantisation."""
    return _edit(content, quantization, lambda table: table.ZeroPointAsNumpy(), zero_point)


def _with_scale(content: bytes, quantization: Quantization, scale: float) -> bytes:
    return _edit(content, quantization, lambda table: table.ScaleAsNumpy(), scale)


def _edit(content: bytes, quantization: Quantization, field, value: float) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    buffer, edited = bytearray(content), 0
    graph = schema.Model.GetRootAs(buffer).Subgraphs(0)
    for index in range(graph.TensorsLength()):
        table = graph.Tensors(index).Quantization()
        if table and table.ScaleLength() == 1 and table.Scale(0) == np.float32(quantization.scale):
            field(table)[0] = value
            edited += 1
    assert edited
    return bytes(buffer)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"threads": "0"}, "threads: expected a whole number from 1 to 256, found 0"),
        ({"threads": "257"}, "threads: .* found 257"),
        ({"threads": "two"}, "threads: .* found two"),
        ({"threads": "2 "}, "threads: .* found 2 "),
        ({"num_threads": "2"}, "unknown option num_threads; there is threads"),
    ],
)
def test_wrong_delegate_options_are_refused(option, message):
    from ai_edge_litert.interpreter import load_delegate

    with pytest.raises(ValueError, match=message):
        load_delegate(str(LIBRARY), option)


def test_a_row_that_is_not_there_is_refused_at_loading():
    program = "import sys; from ai_edge_litert.interpreter import load_delegate; load_delegate(sys.argv[1])"
    done = child("-c", program, str(LIBRARY), EDGE_HANDS_ISA="abacus")
    assert done.returncode == 1
    assert "abacus" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_same_library_serves_tflite_runtime(content, tflite_runtime_python, tmp_path, rng):
    """In its own environment: tflite-runtime 2.14 and numpy 1."""
    inputs = WRITTEN.inputs(rng)
    (tmp_path / "ops.tflite").write_bytes(content)
    np.savez(tmp_path / "inputs.npz", **inputs)
    program = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter, load_delegate
library, folder = sys.argv[1:]
interpreter = Interpreter(folder + "/ops.tflite", experimental_delegates=[load_delegate(library, {"threads": 2})])
np.savez(folder + "/outputs.npz", **interpreter.get_signature_runner()(**np.load(folder + "/inputs.npz")))
"""
    command = [str(tflite_runtime_python), "-c", program, str(LIBRARY), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "outputs.npz") as found:
        check(dict(found), expected(WRITTEN, inputs))


def _tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_two_symbols_leave_the_library_and_no_runtime_s_come_in():
    lines = [line.split() for line in _tool("nm", "-D", str(LIBRARY)).splitlines()]
    defined = {line[2].split("@")[0] for line in lines if len(line) == 3}
    undefined = {line[1].split("@")[0] for line in lines if len(line) == 2}
    assert defined == {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}
    assert not [name for name in undefined if "tflite" in name.lower() or name.startswith("_ZN")]
    needed = re.findall(r"NEEDED.*\[(.*)\]", _tool("readelf", "-d", str(LIBRARY)))
    assert needed
    assert not [name for name in needed if "stdc++" in name or "gcc" in name]


def test_segments_are_aligned_for_16_kb_pages():
    loads = [
        line.split() for line in _tool("readelf", "-lW", str(LIBRARY)).splitlines() if line.split()[:1] == ["LOAD"]
    ]
    assert loads
    assert all(int(load[-1], 16) % 16384 == 0 for load in loads)
