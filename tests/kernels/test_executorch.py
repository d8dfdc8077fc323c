"""The ExecuTorch kernels against the numpy reference, each called by a program of one scan; building and loading."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_hands.errors import RuntimeUnavailable
from edge_hands.kernels import executorch as kernels
from edge_hands.kernels import reference
from edge_hands.kernels.cases import DEFORM_INPUTS, NETWORK_CASES, ODD_CASES, SCAN_INPUTS, Case
from edge_hands.kernels.checks import Quantization

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

X, Y = Quantization(0.03, 5), Quantization(0.06, -11)
CASES = {case.name: case for case in ODD_CASES + NETWORK_CASES}
LARGEST = Case("largest", 3, 40, 40, 640, 40, 8)


class Plain(torch.nn.Module):
    def forward(self, x, delta, A, B, C, D, x_int8):
        arrays = (delta, A, B, C, D)
        plain = torch.ops.edge_hands.selective_scan(x, *arrays)
        return plain, torch.ops.edge_hands.selective_scan_int8(x_int8, *X, *arrays, *Y)


class Deformed(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.deform = case.deform

    def forward(self, x, offset, weight, delta, A, B, C, D, x_int8):
        arrays = (offset, weight, delta, A, B, C, D, *self.deform)
        deformed = torch.ops.edge_hands.deformable_scan(x, *arrays)
        return deformed, torch.ops.edge_hands.deformable_scan_int8(x_int8, *X, *arrays, *Y)


@pytest.fixture(scope="module")
def loaded() -> kernels.Kernels:
    try:
        return kernels.load()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


def lower(module: torch.nn.Module, inputs: list, dynamic: dict | None = None):
    from executorch.exir import EdgeCompileConfig, to_edge

    from edge_hands.export_targets.executorch import define_out_forms

    define_out_forms()
    exported = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic)
    return to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()


class Loaded:
    """A program and its method, which reads the program's bytes: keep it in a variable while it runs."""

    def __init__(self, content: bytes) -> None:
        from executorch.runtime import Runtime

        self.program = Runtime.get().load_program(content)
        self.execute = self.program.load_method("forward").execute


def tensors(arrays: dict[str, np.ndarray], names) -> list[torch.Tensor]:
    int8 = reference.quantize(arrays["x"], X)
    return [torch.from_numpy(array) for array in (*(arrays[name] for name in names), int8)]


@pytest.fixture(scope="module")
def plain(loaded):
    """The selective scans at any size up to LARGEST."""
    inputs = tensors(Case("traced", 2, 3, 4, 10, 3).inputs(np.random.default_rng(0)), SCAN_INPUTS)
    b, n, d, length = (
        torch.export.Dim(name, min=1, max=size)
        for name, size in (("b", LARGEST.batch), ("n", LARGEST.states), ("d", LARGEST.channels), ("l", LARGEST.length))
    )
    tokens, rows = {0: b, 1: length, 2: d}, {0: b, 1: length, 2: n}
    shapes = {"x": tokens, "delta": tokens, "A": {0: d, 1: n}, "B": rows, "C": rows, "D": {0: d}, "x_int8": tokens}
    return Loaded(lower(Plain(), inputs, shapes).buffer)


def check(found: list[torch.Tensor], exact: np.ndarray, exact_int8: np.ndarray) -> None:
    scale = np.abs(exact).max(initial=1e-30)
    assert np.abs(found[0].numpy() - exact).max(initial=0) <= 2e-6 * scale
    steps = np.abs(found[1].numpy().astype(int) - exact_int8)
    assert found[1].dtype == torch.int8
    assert steps.max(initial=0) <= 1


@pytest.mark.parametrize("name", [name for name in CASES if name != "empty"])
def test_selective_scans_agree_with_the_reference(plain, name, rng):
    arrays = CASES[name].inputs(rng)
    exact = [arrays[key].astype(np.float64) for key in SCAN_INPUTS]
    int8 = reference.selective_scan_int8(reference.quantize(arrays["x"], X), X, *exact[1:], Y)
    check(plain.execute(tensors(arrays, SCAN_INPUTS)), reference.selective_scan(*exact), int8)


@pytest.mark.parametrize("name", ["one_token", "partial_groups", "far_outside", "edge_stage3"])
def test_deformable_scans_agree_with_the_reference(loaded, name, rng):
    case = CASES[name]
    arrays = case.inputs(rng)
    inputs = tensors(arrays, DEFORM_INPUTS)
    exact = [arrays[key].astype(np.float64) for key in DEFORM_INPUTS]
    int8 = reference.deformable_scan_int8(reference.quantize(arrays["x"], X), X, *exact[1:], *case.deform, Y)
    program = Loaded(lower(Deformed(case), inputs).buffer)
    found = program.execute(inputs)
    check(found, reference.deformable_scan(*exact, *case.deform), int8)


def test_threads_change_nothing(loaded, plain, rng):
    inputs = tensors(Case("big", 1, 32, 32, 256, 16).inputs(rng), SCAN_INPUTS)
    one = [tensor.clone() for tensor in plain.execute(inputs)]
    loaded.set_threads(3)
    try:
        three = plain.execute(inputs)
    finally:
        loaded.set_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("delta", (2, 12, 9), r"delta: expected shape \(2, 12, 10\), found \(2, 12, 9\)"),
        ("A", (9, 3), r"A: expected shape \(10, N\), found \(9, 3\)"),
        ("B", (2, 12, 4), r"B: expected shape \(2, 12, 3\), found \(2, 12, 4\)"),
        ("C", (1, 12, 3), r"C: expected shape \(2, 12, 3\), found \(1, 12, 3\)"),
        ("D", (11,), r"D: expected shape \(10\), found \(11\)"),
    ],
)
def test_a_wrong_shape_is_an_error_that_names_the_argument(loaded, plain, rng, name, shape, message):
    arrays = Case("small", 2, 3, 4, 10, 3).inputs(rng)
    wrong = arrays | {name: np.zeros(shape, np.float32)}
    with pytest.raises(RuntimeError, match="failed with error"):
        plain.execute(tensors(wrong, SCAN_INPUTS))
    assert re.match(message, loaded.error())
    plain.execute(tensors(arrays, SCAN_INPUTS))
    assert loaded.error() == ""


def test_a_wrong_number_in_the_program_is_named(loaded, rng):
    from executorch.exir._serialize._program import PTEFile, serialize_pte_binary

    case = Case("small", 1, 3, 4, 10, 3)
    inputs = tensors(case.inputs(rng), DEFORM_INPUTS)
    lowered = lower(Deformed(case), inputs)
    for old, new, message in (
        (9, 4, "points: expected the square of an odd number"),
        (4, 5, "height, width: expected a product of 12"),
        (X.zero_point, 200, "x_zero_point: expected -128 to 127, found 200"),
        (X.scale, 0.0, "x_scale: expected a positive number"),
    ):
        program = copy.deepcopy(lowered.executorch_program)
        for value in program.execution_plan[0].values:
            for kind in ("int_val", "double_val"):
                if getattr(value.val, kind, None) == old:
                    setattr(value.val, kind, new)
        content = bytes(serialize_pte_binary(PTEFile(program=program)))
        spoilt = Loaded(content)
        with pytest.raises(RuntimeError, match="failed with error"):
            spoilt.execute(inputs)
        assert loaded.error().startswith(message)


def test_loading_again_registers_nothing_twice(loaded):
    assert kernels.load() is loaded
    code = (
        "from edge_hands.kernels import executorch as kernels\n"
        "from edge_hands.errors import RuntimeUnavailable\n"
        "kernels.load(); kernels._load.cache_clear()\n"
        "try: kernels.load()\n"
        "except RuntimeUnavailable as error: print(error)\n"
        "import numpy; print(numpy.float32(1e-40) * numpy.float32(1) != 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr  # a second registration would abort the process
    assert "is already registered in this process" in done.stdout
    assert done.stdout.rstrip().endswith("True")  # denormal numbers are what they were


def test_importing_the_module_is_light():
    code = "import sys, edge_hands.kernels.executorch; assert not {'torch', 'executorch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_library_is_built_once_and_kept(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = kernels.build()
    written = library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")  # no compiler is needed any more
    assert kernels.build() == library
    assert library.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "edge_hands").iterdir()] == [library.parent.name]
    if readelf := shutil.which("readelf", path=os.defpath + ":/usr/bin"):
        segments = subprocess.run([readelf, "-lW", str(library)], capture_output=True, text=True, check=True).stdout
        loads = [line.split()[-1] for line in segments.splitlines() if line.split()[:1] == ["LOAD"]]
        assert loads
        assert {int(align, 16) for align in loads} == {16384}


def test_without_a_compiler_it_says_what_to_do(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeUnavailable, match="no C.. compiler was found: install one.*portable form"):
        kernels.build()


def test_a_compiler_that_fails_is_quoted(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "c++ -include nowhere.h")
    with pytest.raises(RuntimeUnavailable, match="c.. cannot compile the kernels for executorch .*nowhere.h"):
        kernels.build()
    assert not list(tmp_path.rglob("*.so"))


def test_only_a_folder_of_our_own_is_trusted(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "edge_hands").mkdir()
    (tmp_path / "edge_hands").chmod(0o777)
    with pytest.raises(RuntimeUnavailable, match="can be written by others"):
        kernels.build()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kernels, "_compiler", lambda: None)
    with pytest.raises(RuntimeUnavailable, match="no C.. compiler"):
        kernels.build()
    assert (tmp_path / "home" / ".cache" / "edge_hands").is_dir()
    assert not Path("relative").exists()
