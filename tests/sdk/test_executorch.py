"""The ExecuTorch runtime where it could go wrong: other bytes, other tensors, no kernels, the one thread pool."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.choice import choices
from edge_hands.errors import BundleError, RuntimeUnavailable
from edge_hands.kernels import executorch as kernels
from edge_hands.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

OUTPUTS = bundles.OUTPUTS["landmarks"]


class Constant(torch.nn.Module):
    """Every output of a landmark model, each the mean of the image."""

    def forward(self, image):
        mean = image.mean()
        return tuple(mean + torch.zeros(shape) for shape in OUTPUTS.values())


@pytest.fixture(scope="module")
def content() -> bytes:
    """A small sound program with the tensors of a landmark model."""
    from executorch.exir import to_edge

    return to_edge(torch.export.export(Constant(), (torch.rand(1, 64, 64, 3),))).to_executorch().buffer


@pytest.fixture(scope="module")
def delegated() -> bytes:
    """The same, computed by XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(Constant(), (torch.rand(1, 64, 64, 3),))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer


@pytest.fixture
def make(tmp_path, make_manifest):
    """``make(content, scans, **changes)`` -> a bundle of these bytes, with a variant for each form."""

    def bundle(content: bytes, *scans: str, **changes):
        variants = []
        for scan in scans or ("portable",):
            (tmp_path / f"{scan}.pte").write_bytes(content)
            names = {name: str(place) for place, name in enumerate(OUTPUTS)}
            variant = {"runtime": "executorch", "scan": scan, "path": f"{scan}.pte", "output_names": names}
            variants.append({**variant, "input_names": {"image": "0"}, **changes})
        files = tuple(bundles.describe_file(tmp_path, variant["path"]) for variant in variants)
        bundles.write_manifest(tmp_path, make_manifest("landmarks", files, variants=variants))
        return tmp_path

    return bundle


def test_a_program_is_run_and_its_outputs_belong_to_the_caller(make, content):
    with Session.open(make(content), runtime="executorch") as session:
        bright = session.run({"image": np.full((1, 64, 64, 3), 0.75, np.float32)})
        kept = {name: value.copy() for name, value in bright.items()}
        frozen = np.full((1, 64, 64, 3), 0.25, np.float32)
        frozen.flags.writeable = False
        dark = session.run({"image": frozen})
    for name, shape in OUTPUTS.items():
        assert bright[name].shape == shape
        np.testing.assert_allclose(bright[name], 0.75, rtol=1e-5)
        np.testing.assert_allclose(dark[name], 0.25, rtol=1e-5)
        assert (bright[name] == kept[name]).all()


def test_bytes_that_are_no_program_are_a_bundle_error(make, content, tmp_path):
    """In a process of its own: every one must end with a sentence, none with a signal."""
    wrong = [b"", b"not a program", bytes(4096), content[:100], content[: len(content) // 2], content[:-64]]
    wrong += [content[:place] + b"\xff" * 8 + content[place + 8 :] for place in range(0, 64, 8)]
    folders = []
    for index, data in enumerate(wrong):
        folders.append(make(data).rename(tmp_path.with_name(f"{tmp_path.name}-{index}")))
        tmp_path.mkdir()
    code = (
        "import sys\n"
        "from edge_hands.errors import BundleError\n"
        "from edge_hands.session import Session\n"
        "for folder in sys.argv[1:]:\n"
        "    try: Session.open(folder, runtime='executorch')\n"
        "    except BundleError as error: print(error)\n"
        "    else: print('opened')"
    )
    command = [sys.executable, "-c", code, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(wrong)
    assert sum("is not a model that ExecuTorch can load" in line for line in lines) >= len(wrong) - 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_names": {"image": "1"}}, "input image is called '1' in the manifest; the model has 0: export"),
        ({"input_names": {"image": "x"}}, "input image is called 'x' in the manifest"),
        (
            {"output_names": {name: str((place + 1) % 5) for place, name in enumerate(OUTPUTS)}},
            r"output joints_uv is float32 \[1, 21, 3\] in the model, float32 \[1, 21, 2\] in the manifest",
        ),
        (
            {"output_names": {name: "9" for name in OUTPUTS}},
            "output joints_uv is called '9' in the manifest; the model has 0, 1, 2, 3, 4",
        ),
    ],
)
def test_tensors_that_differ_from_the_manifest_are_named(make, content, changes, message):
    with pytest.raises(BundleError, match=message):
        Session.open(make(content, **changes), runtime="executorch")


def test_a_native_form_whose_kernels_do_not_compile_gives_way(make, content, monkeypatch, tmp_path):
    """The compiler is real, and fails: an empty cache, and a CXX that is no compiler."""
    folder = make(content, "portable", "native")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_load", kernels._load.__wrapped__)
    first = [choice.state.first for choice in choices(bundles.load(folder).manifest)]
    assert first == ["its kernels are compiled, some seconds", None]
    monkeypatch.setenv("CXX", "false")
    with Session.open(folder, runtime="executorch") as session:
        assert session.variant.scan == "portable"
    with pytest.raises(RuntimeUnavailable, match="executorch native: false cannot compile the kernels for executorch"):
        Session.open(folder, runtime="executorch", scan="native")
    assert list((tmp_path / "cache").rglob("*.so")) == []


def test_without_a_compiler_a_native_form_is_not_tried(make, content, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    folder = make(content, "portable", "native")
    native, portable = choices(bundles.load(folder).manifest)
    assert "no C++ compiler was found: install one" in native.state.reason
    assert portable.state.version == version("executorch")
    with Session.open(folder) as session:
        assert session.variant.scan == "portable"
    with pytest.raises(RuntimeUnavailable, match="executorch native: .* no C.. compiler was found: install one"):
        Session.open(folder, scan="native")


def test_a_delegate_that_is_not_there_is_named(make, delegated):
    """A program whose delegate has another name, as one for a phone's has."""
    other = delegated.replace(b"XnnpackBackend", b"CoremlxBackend")
    assert other != delegated
    message = "needs the delegate CoremlxBackend, which the installed ExecuTorch does not have .*Xnnpack"
    with pytest.raises(RuntimeUnavailable, match=message):
        Session.open(make(other), runtime="executorch")
    with Session.open(make(delegated), runtime="executorch") as session:
        session.run({"image": np.zeros((1, 64, 64, 3), np.float32)})


def test_the_thread_pool_does_not_change_under_an_open_session(make, content):
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    folder, image = make(content), {"image": np.zeros((1, 64, 64, 3), np.float32)}
    with Session.open(folder, runtime="executorch", threads=2) as first:
        with pytest.warns(RuntimeWarning, match=r"runs on the 2 thread\(s\) of those that are open, not on 1"):
            second = Session.open(folder, runtime="executorch", threads=1)
        assert _threadpool_get_thread_count() == 2
        first.run(image)
        second.run(image)
        second.close()
    with Session.open(folder, runtime="executorch", threads=1) as session:
        assert _threadpool_get_thread_count() == 1
        session.run(image)


def test_a_session_that_fails_to_open_leaves_the_pool_alone(make, content):
    with pytest.raises(BundleError):
        Session.open(make(content, output_names={name: "9" for name in OUTPUTS}), runtime="executorch", threads=2)
    with Session.open(make(content), runtime="executorch", threads=1):
        pass
