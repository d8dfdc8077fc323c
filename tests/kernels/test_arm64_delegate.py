"""The TFLite delegate's ARM64 build inside ai-edge-litert's ARM64 wheel, under emulation: the numbers of x86-64.

Needs mmdebstrap and the Debian and PyPI mirrors the first time; the userland is kept in build/tests.
"""

import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_hands.kernels.cases import Case

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
safetensors = pytest.importorskip("safetensors.torch")

HERE = Path(__file__).parent
BUNDLE = HERE.parent / "data/bundles/test_dfmamba"
LIBRARY = "libedge_hands_tflite.so"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compares ARM64 with an x86-64 machine"),
]

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def run_on_both(build, arm64_build, tmp_path_factory) -> Callable[[bytes, Arrays], tuple[Arrays, Arrays]]:
    """run_on_both(model, inputs) -> outputs on this machine, outputs in the ARM64 userland."""
    spec = importlib.util.spec_from_file_location("userland", HERE / "arm64/userland.py")
    userland = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(userland)
    if userland.missing():
        pytest.skip(f"the ARM64 userland needs {', '.join(userland.missing())} (Debian packages)")
    root = HERE.parents[1] / "build/tests/arm64-userland"
    try:
        userland.make(root)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the ARM64 userland cannot be made: {(error.stderr or str(error)).strip()[-300:]}")
    x86, arm64 = build("native", target=LIBRARY), arm64_build("aarch64-linux-gnu", target=LIBRARY)
    script = str(HERE / "arm64/run_tflite.py")

    def run(model: bytes, inputs: Arrays) -> tuple[Arrays, Arrays]:
        folder = tmp_path_factory.mktemp("arm64")
        (folder / "model.tflite").write_bytes(model)
        np.savez(folder / "inputs.npz", **inputs)

        def outputs(delegate: Path, machine: str, start: Callable[..., subprocess.CompletedProcess]) -> Arrays:
            files = (folder / "model.tflite", delegate, folder / "inputs.npz", folder / f"{machine}.npz")
            done = start(script, *map(str, files))
            assert done.returncode == 0, done.stderr[-2000:]
            assert done.stdout.split()[-1] == machine
            return dict(np.load(files[-1]))

        def here(*arguments: str) -> subprocess.CompletedProcess:
            return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)

        return outputs(x86, "x86_64", here), outputs(arm64, "aarch64", lambda *a: userland.run(root, *a))

    return run


def test_the_scans_alone_agree_to_the_bit(run_on_both, rng):
    from edge_hands.export_targets.litert import convert_module
    from edge_hands.kernels import torch_ops

    case = Case("delegate", 2, 5, 4, 70, 8, 2)

    class Scans(torch.nn.Module):
        def forward(self, x, offset, weight, delta, A, B, C, D):
            plain = torch_ops.selective_scan(x, delta, A, B, C, D)
            return {
                "plain": plain,
                "deformed": torch_ops.deformable_scan(
                    plain, offset, weight, delta, A, B, C, D, case.height, case.width
                ),
            }

    inputs = case.inputs(rng)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    x86, arm64 = run_on_both(convert_module(Scans(), tensors, quantized=False, scan="native"), inputs)
    assert set(x86) == {"plain", "deformed"}
    for name, value in x86.items():
        assert np.ptp(value) > 1, name
        np.testing.assert_array_equal(arm64[name], value, err_msg=name)


def test_a_whole_int8_network_agrees(run_on_both, rng):
    """All layers but the scans are LiteRT's own: its float32 operations round differently on the two machines."""
    from edge_hands.export_targets import litert
    from edge_hands.quantization import qat

    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    config = next(variant["config"] for variant in manifest["variants"] if variant["runtime"] == "torch")
    network = qat.rebuild(safetensors.load_file(BUNDLE / "model.safetensors"), config)
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    x86, arm64 = run_on_both(litert.convert(network, quantized=True, scan="native"), {"image": image})
    assert set(x86) == {"joints_uv", "joints_xyz", "confidence", "presence", "handedness"}
    assert np.ptp(x86["joints_uv"]) > 0
    for name, value in x86.items():
        np.testing.assert_allclose(arm64[name], value, rtol=0, atol=1e-5, err_msg=name)
