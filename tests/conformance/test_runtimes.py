"""Every runtime, in every form, through one list: the same names, shapes, types, units, errors, numbers, statistics.

The list of runtimes is the registry's, that of forms its exporters': a new runtime is tested without a line here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.bundle import OUTPUTS
from edge_hands.errors import FrameError, RuntimeUnavailable, SessionError
from edge_hands.session import Session

from .conftest import MODELS, STORED, forms

#: Mean difference from the fake-quant model in torch. The models are hardly trained: one rounding of int8 that falls
#: the other way moves a joint by millimetres. The gate of an export holds trained ones to far less.
TOLERANCE = {"joints_uv": 1e-3, "joints_xyz": 3e-3}

Opened = Callable[..., Session]


@pytest.fixture(scope="module")
def opened(bundle_of) -> Iterator[Opened]:
    """``opened(model, runtime, scan)`` -> a session, opened once: rebuilding a graph in torch takes seconds."""
    sessions: dict[tuple[str, str, str], Session] = {}

    def get(*key: str) -> Session:
        if key not in sessions:
            model, runtime, scan = key
            sessions[key] = Session.open(bundle_of(*key), runtime=runtime, scan=scan)
        return sessions[key]

    yield get
    for session in sessions.values():
        session.close()


@pytest.fixture(params=forms(), ids="-".join)
def form(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def session(opened: Opened, model: str, form: tuple[str, str]) -> Session:
    return opened(model, *form)


def images(session: Session) -> list[np.ndarray]:
    """Black, white, and two of smooth colours."""
    rng, shape = np.random.default_rng(0), session.manifest.input_shape
    smooth = [cv2.resize(rng.random((6, 6, 3), np.float32), shape[2:0:-1])[None] for _ in range(2)]
    return [np.zeros(shape, np.float32), np.ones(shape, np.float32), *smooth]


def test_the_session_says_what_it_runs(session: Session, form: tuple[str, str], model: str) -> None:
    assert (session.runtime, session.variant.scan) == form
    assert (session.manifest.name, session.manifest.inputs[0].unit) == (model, "RGB")
    assert all(tensor.unit for tensor in session.manifest.outputs if tensor.name in OUTPUTS[session.manifest.kind])


def test_outputs_are_those_of_the_model_interface(session: Session) -> None:
    for image in images(session):
        given = image.copy()
        outputs = session.run({"image": image})
        assert (image == given).all()
        assert set(outputs) == {tensor.name for tensor in session.manifest.outputs}
        assert set(OUTPUTS[session.manifest.kind]) <= set(outputs)
        for tensor in session.manifest.outputs:
            found = outputs[tensor.name]
            assert type(found) is np.ndarray
            assert (found.shape, found.dtype) == (tensor.shape, np.float32)
            assert np.isfinite(found).all()
            low, high = tensor.range or (None, None)
            assert low is None or found.min() >= low - 1e-5
            assert high is None or found.max() <= high + 1e-5
        if session.manifest.kind == "landmarks":
            assert np.abs(outputs["joints_xyz"][0, 0]).max() < 1e-6  # relative to the wrist


def test_runs_repeat_and_own_their_outputs(session: Session) -> None:
    *_, one, other = images(session)
    first = session.run({"image": one})
    kept = {name: value.copy() for name, value in first.items()}
    between = session.run({"image": other})
    again = session.run({"image": one})
    for name in kept:
        assert (first[name] == kept[name]).all()
        assert (again[name] == kept[name]).all()
    assert any((again[name] != between[name]).any() for name in kept)


def test_numbers_are_the_fake_quant_models(session: Session, opened: Opened, model: str) -> None:
    reference = opened(model, "torch", "native")
    for image in images(session):
        expected, found = reference.run({"image": image}), session.run({"image": image})
        for name, value in expected.items():
            assert np.abs(found[name] - value).mean() <= TOLERANCE.get(name, 1e-2), name


ORDERS = {
    "columns first": np.asfortranarray,
    "every other pixel of a larger one": lambda x: np.repeat(np.repeat(x, 2, 1), 2, 2)[:, ::2, ::2],
    "a mirrored view": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
    "BGR turned round": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "read only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "not aligned": lambda x: np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape),
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_image_in_any_memory_order_is_the_same(session: Session, order: str) -> None:
    image = images(session)[-1]
    other = ORDERS[order](image)
    assert (other == image).all()
    a, b = session.run({"image": image}), session.run({"image": other})
    assert all((a[name] == b[name]).all() for name in a)


def test_a_session_may_move_to_another_thread(session: Session) -> None:
    image, found = images(session)[-1], []
    expected = session.run({"image": image})
    worker = threading.Thread(target=lambda: found.append(session.run({"image": image})))
    worker.start()
    worker.join(60)
    assert all((found[0][name] == expected[name]).all() for name in expected)


WRONG = [
    (lambda x: {}, "{name} takes image, not nothing."),
    (lambda x: {"picture": x}, "{name} takes image, not picture."),
    (lambda x: {"image": x, "mask": x}, "{name} takes image, not image, mask."),
    (lambda x: {"image": x[0]}, "image must be a float32 array of shape [1, 64, 64, 3], not float32 [64, 64, 3]."),
    (
        lambda x: {"image": np.concatenate([x, x])},
        "image must be a float32 array of shape [1, 64, 64, 3], not float32 [2, 64, 64, 3].",
    ),
    (
        lambda x: {"image": x.transpose(0, 3, 1, 2)},
        "image must be a float32 array of shape [1, 64, 64, 3], not float32 [1, 3, 64, 64].",
    ),
    (
        lambda x: {"image": x.astype(np.float64)},
        "image must be a float32 array of shape [1, 64, 64, 3], not float64 [1, 64, 64, 3].",
    ),
    (
        lambda x: {"image": (x * 255).astype(np.uint8)},
        "image must be a float32 array of shape [1, 64, 64, 3], not uint8 [1, 64, 64, 3].",
    ),
    (lambda x: {"image": x.tolist()}, "image must be a float32 array of shape [1, 64, 64, 3], not a list."),
    (
        lambda x: {"image": np.full_like(x, np.nan)},
        "image must be finite and within 0.0 to 1.0; found nan to nan.",
    ),
    (lambda x: {"image": np.full_like(x, np.inf)}, "image must be finite and within 0.0 to 1.0; found inf to inf."),
    (lambda x: {"image": x * 0 + 2}, "image must be finite and within 0.0 to 1.0; found 2 to 2."),
    (lambda x: {"image": x * 0 - 0.5}, "image must be finite and within 0.0 to 1.0; found -0.5 to -0.5."),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_inputs_get_the_same_answer(session: Session, change: Callable, message: str) -> None:
    runs = session.stats.runs
    with pytest.raises(FrameError, match=f"^{re.escape(message.format(name=session.manifest.name))}$"):
        session.run(change(images(session)[-1]))
    assert session.stats.runs == runs  # no runtime has seen it


def test_statistics_and_the_end(bundle_of, form: tuple[str, str]) -> None:
    runtime, scan = form
    session = Session.open(bundle_of("test_dfmamba", *form), runtime=runtime, scan=scan)
    before = session.stats
    assert (before.runs, before.first_ms, before.steady_ms, before.resident_bytes) == (0, None, None, None)
    assert before.load_ms > 0
    image = images(session)[-1]
    for _ in range(3):
        session.run({"image": image})
    after = session.stats
    assert after.runs == 3
    assert after.first_ms > 0 and after.steady_ms > 0
    assert after.load_ms == before.load_ms
    assert after.model_bytes == sum(file.size for file in session.manifest.files)
    assert after.resident_bytes is None or after.resident_bytes >= 0
    with session as same:
        assert same is session
    session.close()
    with pytest.raises(SessionError, match="^The session of test_dfmamba is closed: open a new one.$"):
        session.run({"image": image})
    assert session.stats == after


class _Held:
    """A loaded model that waits in its call until it is told to go on."""

    def __init__(self, real) -> None:
        self.real, self.entered, self.go = real, threading.Event(), threading.Event()

    def run(self, inputs):
        self.entered.set()
        assert self.go.wait(60)
        return self.real.run(inputs)


def test_a_second_call_at_the_same_time_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    image, found = images(session)[-1], []
    expected = session.run({"image": image})
    held = _Held(session._runtime)
    monkeypatch.setattr(session, "_runtime", held)
    worker = threading.Thread(target=lambda: found.append(session.run({"image": image})))
    worker.start()
    assert held.entered.wait(60)
    with pytest.raises(SessionError, match="^This session is running in another thread"):
        session.run({"image": image})
    held.go.set()
    worker.join(60)
    assert all((found[0][name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_an_absurd_number_of_threads_is_refused(bundle_of, form: tuple[str, str], threads: int) -> None:
    folder = bundle_of("test_dfmamba", *form)
    with pytest.raises(RuntimeUnavailable, match=f"^threads must be 1 to 256, not {threads}.$"):
        Session.open(folder, runtime=form[0], threads=threads)


def test_two_threads_change_nothing_that_matters(
    bundle_of, session: Session, model: str, form: tuple[str, str]
) -> None:
    runtime, scan = form
    image = images(session)[-1]
    with Session.open(bundle_of(model, *form), runtime=runtime, scan=scan, threads=2) as double:
        a, b = session.run({"image": image}), double.run({"image": image})
    assert all(np.abs(a[name] - b[name]).max() < 1e-4 for name in a)


def test_a_bundle_without_a_form_for_a_runtime_is_refused(bundle_of, form: tuple[str, str], tmp_path: Path) -> None:
    runtime, scan = form
    folder = bundle_of("test_dfmamba", *form)
    manifest = bundles.load(folder).manifest
    others = tuple(variant.model_copy(update={"runtime": "elsewhere"}) for variant in manifest.variants)
    for file in manifest.files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes((folder / file.path).read_bytes())
    paths = {file.path for file in manifest.files}
    others = tuple(
        other if other.path in paths else other.model_copy(update={"path": manifest.files[0].path}) for other in others
    )
    bundles.write_manifest(tmp_path, manifest.model_copy(update={"variants": others}))
    with pytest.raises(RuntimeUnavailable, match=f"it has no {runtime} form, only elsewhere"):
        Session.open(tmp_path, runtime=runtime)


def test_a_float_network_is_run_as_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    from edge_hands.models import create

    torch.manual_seed(0)
    network = create("test_dfmamba").eval()
    save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "model.safetensors")
    names = list(OUTPUTS["landmarks"])
    manifest = bundles.load(STORED / "test_dfmamba").manifest
    variant = next(variant for variant in manifest.variants if variant.runtime == "torch")
    variant = variant.model_copy(update={"config": {"model": "test_dfmamba", "overrides": {}, "stage": "float"}})
    file = bundles.describe_file(tmp_path, "model.safetensors")
    bundles.write_manifest(tmp_path, manifest.model_copy(update={"variants": (variant,), "files": (file,)}))
    with Session.open(tmp_path) as session:
        assert session.runtime == "torch"
        image = images(session)[-1]
        found = session.run({"image": image})
        with torch.inference_mode():
            expected = network(torch.from_numpy(image))
        assert all(np.allclose(found[name], expected[name].numpy(), atol=1e-6) for name in names)
