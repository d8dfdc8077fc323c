"""ExecuTorch programs for delegates that the installed runtime lacks, and programs that give no tensors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.choice import choices
from edge_hands.errors import BundleError, FrameError, RuntimeUnavailable
from edge_hands.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

OUTPUTS = bundles.OUTPUTS["landmarks"]


class Model(torch.nn.Module):
    """Every output of a landmark model, each the mean of the image; ``last`` changes the last one."""

    def __init__(self, last) -> None:
        super().__init__()
        self.last = last

    def forward(self, image):
        mean = image.mean()
        *others, handedness = (mean + torch.zeros(shape) for shape in OUTPUTS.values())
        return (*others, self.last(handedness))


def program(last=lambda tensor: tensor) -> bytes:
    from executorch.exir import EdgeCompileConfig, to_edge

    exported = torch.export.export(Model(last), (torch.rand(1, 64, 64, 3),))
    return to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch().buffer


@pytest.fixture
def make(tmp_path, make_manifest):
    """``make({file: (bytes, config)})`` -> a bundle with a portable variant for each file."""

    def bundle(files: dict[str, tuple[bytes, dict]]):
        variants, names = [], {name: str(place) for place, name in enumerate(OUTPUTS)}
        for path, (content, config) in files.items():
            (tmp_path / path).write_bytes(content)
            variant = {"runtime": "executorch", "path": path, "input_names": {"image": "0"}, "output_names": names}
            variants.append({**variant, "config": config})
        listed = tuple(bundles.describe_file(tmp_path, path) for path in files)
        bundles.write_manifest(tmp_path, make_manifest("landmarks", listed, variants=variants))
        return tmp_path

    return bundle


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("vulkan", r"it needs the delegate VulkanBackend, .* does not have \(.* built with VulkanBackend"),
        ("coreml", r"it needs the delegate CoreMLBackend, .* does not have \(.* built with CoreMLBackend"),
        # Registered by the wheel, without Qualcomm's libraries.
        ("qnn", r"its delegate QnnBackend opens libQnn\w+\.so, which is not found: unpack .* or export for xnnpack"),
    ],
)
def test_a_form_for_a_delegate_that_is_not_here_gives_way(make, backend, reason):
    content = program()
    folder = make({"other.pte": (content, {"backend": backend}), "model.pte": (content, {"backend": "xnnpack"})})
    first, second = (choice.state for choice in choices(bundles.load(folder).manifest))
    assert re.fullmatch(reason, first.reason)
    assert second.version == version("executorch")
    with Session.open(folder) as session:
        assert session.variant.path == "model.pte"


@pytest.mark.parametrize(
    ("backend", "reason"), [("vulkan", "it needs the delegate VulkanBackend, .*: export"), ("qnn", "its .* libQnn")]
)
def test_alone_it_is_refused_with_what_to_do(make, backend, reason):
    folder = make({"model.pte": (program(), {"backend": backend})})
    with pytest.raises(RuntimeUnavailable, match=f"executorch portable: {reason}"):
        Session.open(folder)


def test_qnn_is_ready_once_the_loader_finds_every_library(tmp_path):
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("libraries are compiled, and there is no C++ compiler")
    (tmp_path / "empty.cpp").write_text("")
    question = "from edge_hands.runtimes.executorch import lacking; print(lacking('QnnBackend'))"
    found = []
    for name in ("libQnnSystem.so", "libQnnHtp.so"):
        subprocess.run([compiler, "-shared", "-o", tmp_path / name, tmp_path / "empty.cpp"], check=True)
        environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
        asked = subprocess.run([sys.executable, "-c", question], env=environment, capture_output=True, text=True)
        found.append(asked.stdout.strip())
    assert found[0].startswith("its delegate QnnBackend opens libQnnHtp.so, which is not found")
    assert found[1] == "None"


def test_a_delegate_of_a_newer_release_is_named(make):
    folder = make({"model.pte": (program(), {"backend": "dsp"})})
    with pytest.raises(
        RuntimeUnavailable, match="this version of edge_hands has no delegate 'dsp': upgrade edge_hands"
    ):
        Session.open(folder)


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (lambda tensor: tensor.to(torch.int64), r"int64 \[1\]"),
        (lambda tensor: tensor.half(), r"float16 \[1\]"),
        (lambda tensor: tensor.reshape(1, 1), r"float32 \[1, 1\]"),
        (lambda tensor: 3, "no tensor"),
    ],
)
def test_an_output_of_another_type_or_shape_is_named_with_both(make, last, found):
    folder = make({"model.pte": (program(last), {})})
    with pytest.raises(
        BundleError, match=rf"output handedness is {found}.* in the model, float32 \[1\] in the manifest"
    ):
        Session.open(folder)


def test_what_a_call_is_given_is_named_with_what_was_expected(make):
    with Session.open(make({"model.pte": (program(), {})})) as session:
        for wrong, found in (
            (np.zeros((1, 32, 64, 3), np.float32), r"float32 \[1, 32, 64, 3\]"),
            (np.zeros((1, 64, 64, 3), np.int64), r"int64 \[1, 64, 64, 3\]"),
        ):
            expected = rf"^image must be a float32 array of shape \[1, 64, 64, 3\], not {found}\.$"
            with pytest.raises(FrameError, match=expected):
                session.run({"image": wrong})
        assert session.stats.runs == 0
        assert session.run({"image": np.full((1, 64, 64, 3), 0.5, np.float32)})["presence"] == pytest.approx(0.5)
