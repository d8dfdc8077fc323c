"""Every runtime gives the same names, shapes, types, units and numbers. One list of runtimes; a new one is one row."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_hands import runtimes
from edge_hands.bundle import OUTPUTS, load
from edge_hands.session import Session

MODELS = {"test_dfmamba": "landmarks", "test_detector": "detector"}
#: Mean difference from the first runtime. The models are hardly trained: one rounding of int8 that falls the other way
#: moves a joint by millimetres. The gate of an export holds trained ones to far less.
TOLERANCE = {"joints_uv": 1e-3, "joints_xyz": 3e-3}


def test_every_runtime_is_in_the_list():
    assert runtimes.NAMES == ("litert", "torch")


@pytest.fixture(params=runtimes.NAMES)
def runtime(request):
    available = runtimes.get(request.param).availability()
    if not available:
        pytest.skip(available.reason)
    return request.param


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def opened(real_bundles):
    """``opened(runtime, model)`` -> a session, opened once: rebuilding a quantised graph in torch takes seconds."""
    sessions: dict[tuple[str, str], Session] = {}

    def get(runtime: str, model: str) -> Session:
        if (runtime, model) not in sessions:
            forms = [variant.runtime for variant in load(real_bundles / model).manifest.variants]
            if runtime not in forms:
                pytest.skip(f"{model} has no form for {runtime}")
            sessions[runtime, model] = Session.open(real_bundles / model, runtime=runtime)
        return sessions[runtime, model]

    yield get
    for session in sessions.values():
        session.close()


def images(session: Session) -> list[np.ndarray]:
    """Black, white, and two of smooth colours."""
    rng, shape = np.random.default_rng(0), session.manifest.input_shape
    smooth = [cv2.resize(rng.random((6, 6, 3), np.float32), shape[2:0:-1])[None] for _ in range(2)]
    return [np.zeros(shape, np.float32), np.ones(shape, np.float32), *smooth]


def test_outputs_are_those_of_the_model_interface(opened, runtime, model):
    session = opened(runtime, model)
    assert session.runtime == runtime
    for image in images(session):
        given = image.copy()
        outputs = session.run({"image": image})
        assert (image == given).all()
        assert set(OUTPUTS[MODELS[model]]) <= set(outputs)
        for tensor in session.manifest.outputs:
            found = outputs[tensor.name]
            assert found.shape == tensor.shape
            assert found.dtype == np.float32
            assert np.isfinite(found).all()
            low, high = tensor.range or (None, None)
            assert low is None or found.min() >= low - 1e-5
            assert high is None or found.max() <= high + 1e-5
        if MODELS[model] == "landmarks":
            assert np.abs(outputs["joints_xyz"][0, 0]).max() < 1e-6  # relative to the wrist


def test_runs_repeat_and_own_their_outputs(opened, runtime, model):
    session = opened(runtime, model)
    *_, one, other = images(session)
    first = session.run({"image": one})
    kept = {name: value.copy() for name, value in first.items()}
    between = session.run({"image": other})
    again = session.run({"image": one})
    for name in kept:
        assert (first[name] == kept[name]).all()
        assert (again[name] == kept[name]).all()
    assert any((again[name] != between[name]).any() for name in kept)


def test_numbers_agree_with_the_first_runtime(opened, runtime, model):
    reference, session = opened(runtimes.NAMES[0], model), opened(runtime, model)
    for image in images(reference):
        expected, found = reference.run({"image": image}), session.run({"image": image})
        for name, value in expected.items():
            assert np.abs(found[name] - value).mean() <= TOLERANCE.get(name, 1e-2), name


def test_two_threads_change_nothing_that_matters(opened, real_bundles, model):
    single = opened(runtimes.NAMES[0], model)
    image = images(single)[-1]
    with Session.open(real_bundles / model, threads=2) as double:
        a, b = single.run({"image": image}), double.run({"image": image})
    assert all(np.abs(a[name] - b[name]).max() < 1e-4 for name in a)


def test_a_float_network_is_run_as_it_is(tmp_path, make_manifest):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    from edge_hands import bundle as bundles
    from edge_hands.models import create

    torch.manual_seed(0)
    network = create("test_dfmamba").eval()
    save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "model.safetensors")
    names = list(OUTPUTS["landmarks"])
    variant = {
        "runtime": "torch",
        "path": "model.safetensors",
        "input_names": {"image": "image"},
        "output_names": {name: name for name in names},
        "config": {"model": "test_dfmamba", "overrides": {}, "stage": "float"},
    }
    file = bundles.describe_file(tmp_path, "model.safetensors")
    bundles.write_manifest(tmp_path, make_manifest("landmarks", (file,), variants=[variant]))
    with Session.open(tmp_path) as session:
        assert session.runtime == "torch"
        image = images(session)[-1]
        found = session.run({"image": image})
        with torch.inference_mode():
            expected = network(torch.from_numpy(image))
        assert all(np.allclose(found[name], expected[name].numpy(), atol=1e-6) for name in names)
