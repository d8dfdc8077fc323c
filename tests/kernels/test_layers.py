"""The int8 layers of the TFLite delegate against XNNPACK's, bit for bit, and against the graph in exact integers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edge_hands.bundle import bundled
from edge_hands.kernels.delegate import delegate_path

pytest.importorskip("ai_edge_litert")
LIBRARY = delegate_path()
if LIBRARY is None:
    pytest.skip("libedge_hands_tflite.so is not built", allow_module_level=True)

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
FILES = {name: BUNDLES / name / "model.tflite" for name in ("test_dfmamba", "test_detector")}  # portable forms
FILES |= {kind: next(bundled(kind).glob("*.tflite")) for kind in ("landmarks", "detector")}

#: Runs a file with and without our layers, on some images, and stores the outputs of both.
CHILD = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
library, file, out = sys.argv[1:]
found = {}
for layers in (0, 1):
    delegate = load_delegate(library, {"threads": 1, "layers": layers})
    interpreter = Interpreter(file, num_threads=1, experimental_delegates=[delegate])
    runner = interpreter.get_signature_runner()
    name, place = next(iter(runner.get_input_details().items()))
    rng = np.random.default_rng(0)
    for turn in range(3):
        image = rng.random(place["shape"], np.float32) * 1.2 - 0.1
        for key, value in runner(**{name: image}).items():
            found[f"{layers} {turn} {key}"] = value
np.savez(out, **found)
"""


def outputs(file: Path, isa: str, out: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of XNNPACK's layers and of ours, by turn and name."""
    environment = {**os.environ, "EDGE_HANDS_ISA": isa}
    subprocess.run([sys.executable, "-c", CHILD, str(LIBRARY), str(file), str(out)], check=True, env=environment)
    found = np.load(out)
    return tuple({key[2:]: found[key] for key in found if key.startswith(which)} for which in "01")


def rows_with_layers() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    asked = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return ["scalar", *(isa for isa, needs in asked.items() if needs <= set(flags))]


@pytest.mark.parametrize("isa", rows_with_layers())
@pytest.mark.parametrize("name", FILES)
def test_a_network_computes_what_it_does_with_xnnpack(name, isa, tmp_path):
    """To the bit, but for the decode, whose sums are taken in another order. Scalar products are not fused with their
    sums, so they round elsewhere, and a few int8 values with them."""
    theirs, ours = outputs(FILES[name], isa, tmp_path / "outputs.npz")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert np.isfinite(ours[key]).all(), key
        if isa == "scalar":
            assert np.abs(ours[key] - value).mean() <= 0.02 * np.abs(value).max(), key
        else:
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=2e-6, err_msg=key)


class OddNetwork(NamedTuple):
    file: Path
    kept: tuple[str, ...]  # its float32 layers


@pytest.fixture(scope="module", params=[(), ("same", "smaller", "thin_same")], ids=["int8", "some_float"])
def odd_network(tmp_path_factory, request) -> OddNetwork:
    """Layers of sizes that fill no register and no tile, in every combination that is fused; quantised, as a file, all
    of them or all but some of 3 x 3, which then read dequantised images and sums of float32.

    Images of 10 x 14 have five rows of 2 x 2 pixels, those of 5 x 7 have no whole ones.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("litert_torch")
    from torch import nn
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    from edge_hands.export_targets.litert import convert_module
    from edge_hands.quantization.quantizer import EdgeHandsQuantizer, Scheme

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 19, 3, 2, 1), nn.ReLU())
            self.same = nn.Conv2d(19, 19, 3, 1, 1)
            self.wide = nn.Sequential(nn.Conv2d(19, 50, 1), nn.ReLU())
            self.depth = nn.Conv2d(50, 50, 3, 1, 1, groups=50)
            self.gate = nn.Conv2d(19, 50, 1)
            self.back = nn.Conv2d(50, 19, 1)
            self.smaller = nn.Conv2d(19, 33, 3, 2, 1)
            self.small = nn.Conv2d(33, 33, 3, 1, 1)
            self.shut = nn.Conv2d(33, 19, 1)
            self.thin = nn.Sequential(nn.Conv2d(19, 8, 3, 2, 1), nn.ReLU())
            self.thin_same = nn.Conv2d(8, 8, 3, 1, 1)
            self.thick = nn.Conv2d(8, 19, 1)

        def forward(self, image):
            x = self.stem(image.permute(0, 3, 1, 2) * 4.0 - 2.0)
            x = x + self.same(x)
            x = x + self.back(self.depth(self.wide(x)) * self.gate(x))
            small, thin = self.shut(self.small(self.smaller(x))), self.thin(x)
            small = small + self.thick(thin + self.thin_same(thin))  # the inner sum is one of int8
            small = nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")
            return {"sum": (x + small).permute(0, 2, 3, 1), "gate": self.gate(x).permute(0, 2, 3, 1)}

    torch.manual_seed(0)
    inputs = torch.rand(1, 20, 28, 3)
    exported = torch.export.export(Odd().eval(), (inputs,)).module()
    graph = prepare_qat_pt2e(exported, EdgeHandsQuantizer(Scheme(request.param)))
    pt2e.move_exported_model_to_eval(graph)
    for _ in range(3):
        graph(torch.rand_like(inputs))
    graph.apply(pt2e.disable_observer)
    converted = convert_pt2e(graph, fold_quantize=False)
    pt2e.move_exported_model_to_eval(converted)
    file = tmp_path_factory.mktemp("odd") / "odd.tflite"
    file.write_bytes(convert_module(converted, {"image": inputs}, quantized=True, scan="native"))
    return OddNetwork(file, request.param)


@pytest.mark.parametrize("isa", rows_with_layers())
def test_odd_sizes_compute_what_xnnpack_does(odd_network, isa, tmp_path):
    """To the bit, but for scalar products of float32, which are not fused with their sums."""
    theirs, ours = outputs(odd_network.file, isa, tmp_path / "outputs.npz")
    for key, value in theirs.items():
        assert len(np.unique(value)) > 50, key  # no comparison of constants
        if odd_network.kept and isa == "scalar":
            assert np.abs(ours[key] - value).mean() <= 1e-4 * np.abs(value).max(), key
        else:
            np.testing.assert_array_equal(ours[key], value, err_msg=key)


def test_odd_sizes_are_all_ours(odd_network, tmp_path):
    """One delegated piece, and none of XNNPACK's beside it: what was compared is no layer of its with itself."""
    code = CHILD + "print(*(op['op_name'] for op in interpreter._get_ops_details()))\n"
    run = [sys.executable, "-c", code, str(LIBRARY), str(odd_network.file), str(tmp_path / "outputs.npz")]
    environment = {**os.environ, "EDGE_HANDS_ISA": "scalar"}  # every CPU has these layers
    found = subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout.split()
    assert len(found) > 30 and found.count("DELEGATE") == 1


def test_inputs_of_another_size_are_refused_in_a_sentence(tmp_path):
    code = CHILD.split("found = {}")[0] + (
        'delegate = load_delegate(library, {"threads": 1, "layers": 1})\n'
        "interpreter = Interpreter(file, num_threads=1, experimental_delegates=[delegate])\n"
        'interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [1, 96, 96, 3])\n'
        "try:\n    interpreter.allocate_tensors()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    run = [sys.executable, "-c", code, str(LIBRARY), str(FILES["test_dfmamba"]), str(tmp_path / "none")]
    environment = {**os.environ, "EDGE_HANDS_ISA": "scalar"}  # every CPU has these layers
    found = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    assert "int8 layers are made for the sizes of the file" in found.stdout + found.stderr


def test_sessions_use_them_for_portable_forms_too(monkeypatch):
    from edge_hands.runtimes import litert
    from edge_hands.session import Session

    loaded, load = [], litert._load_delegate
    monkeypatch.setattr(
        litert, "_load_delegate", lambda *args, **kwargs: loaded.append(load(*args, **kwargs)) or loaded[-1]
    )
    image = np.random.default_rng(3).random((1, 64, 64, 3), np.float32)
    found = []
    for path in (LIBRARY, None):  # without the library a portable form runs as well
        monkeypatch.setattr(litert, "_delegate_path", lambda path=path: path)
        with Session.open(BUNDLES / "test_dfmamba", runtime="litert", threads=1) as session:
            assert session.variant.scan == "portable"
            found.append(session.run({"image": image}))
    assert loaded[0] is not None and loaded[1] is None
    for key, value in found[1].items():
        atol = 2e-6 if rows_with_layers()[-1] != "scalar" else 0
        np.testing.assert_allclose(found[0][key], value, rtol=0, atol=atol, err_msg=key)


@pytest.mark.parametrize("value", ["2", "yes", ""])
def test_the_option_is_0_or_1(value):
    from ai_edge_litert.interpreter import load_delegate

    with pytest.raises(ValueError, match="layers: expected 0 or 1, found"):
        load_delegate(str(LIBRARY), {"layers": value})
