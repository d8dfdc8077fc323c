"""Sessions on real bundles: opening, inputs, closing, threads, times."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.errors import BundleError, FrameError, RuntimeUnavailable, SessionError
from edge_hands.runtimes.litert import LiteRT
from edge_hands.session import Session


@pytest.fixture
def session(real_bundles):
    with Session.open(real_bundles / "test_dfmamba") as opened:
        yield opened


@pytest.fixture
def image(session):
    return np.random.default_rng(0).random(session.manifest.input_shape, np.float32)


def test_it_says_what_it_took_and_how_long(session, image):
    assert session.runtime == "litert"
    assert session.variant.scan == "portable"
    before = session.stats
    assert before.runs == 0
    assert before.load_ms > 0
    assert before.first_ms is before.steady_ms is before.resident_bytes is None
    for _ in range(3):
        session.run({"image": image})
    after = session.stats
    assert after.runs == 3
    assert 0 < after.steady_ms < 1000
    assert after.model_bytes == sum(file.size for file in session.manifest.files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"float32 array of shape \[1, 64, 64, 3\], not float32 \[64, 64, 3\]"),
        (lambda x: x.astype(np.float64), "not float64"),
        (lambda x: (x * 255).astype(np.uint8), "not uint8"),
        (lambda x: x.transpose(0, 3, 1, 2), r"not float32 \[1, 3, 64, 64\]"),
        (lambda x: x * 255, "within 0.* to 1"),
        (lambda x: x - 0.5, "finite and within"),
        (lambda x: np.where(x > 0.9, np.float32("nan"), x), "found nan to nan"),
        (lambda x: x.tolist(), "not a list"),
    ],
)
def test_wrong_images_are_refused(session, image, change, message):
    with pytest.raises(FrameError, match=message):
        session.run({"image": change(image)})


def test_wrong_names_are_refused(session, image):
    with pytest.raises(FrameError, match="takes image, not picture"):
        session.run({"picture": image})
    with pytest.raises(FrameError, match="takes image, not nothing"):
        session.run({})


def test_close_twice_then_run(session, image):
    session.close()
    session.close()
    with pytest.raises(SessionError, match="is closed"):
        session.run({"image": image})


def test_a_second_thread_is_refused_and_close_waits(session, image, monkeypatch):
    inside, go_on, run = threading.Event(), threading.Event(), LiteRT.run

    def slow(self, inputs):
        inside.set()
        assert go_on.wait(10)
        return run(self, inputs)

    monkeypatch.setattr(LiteRT, "run", slow)
    first = threading.Thread(target=session.run, args=({"image": image},))
    first.start()
    assert inside.wait(10)
    with pytest.raises(SessionError, match="another thread"):
        session.run({"image": image})
    closing = threading.Thread(target=session.close)
    closing.start()
    go_on.set()
    first.join()
    closing.join()
    assert session.stats.runs == 1


def test_sessions_of_two_threads_do_not_disturb_each_other(real_bundles, image, session):
    expected, results = session.run({"image": image}), {}

    def work(name):
        with Session.open(real_bundles / "test_dfmamba") as mine:
            results[name] = [mine.run({"image": image}) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for runs in results.values():
        for outputs in runs:
            assert all((outputs[name] == expected[name]).all() for name in expected)


def test_no_runtime_is_said_with_reasons(bundle_dir, real_bundles):
    with pytest.raises(RuntimeUnavailable, match="no runtime 'warp': choose one of litert, .*coreml, or auto"):
        Session.open(bundle_dir, runtime="warp")
    with pytest.raises(RuntimeUnavailable, match="has no torch form, only litert portable. Ask for one"):
        Session.open(bundle_dir, runtime="torch")
    with pytest.raises(RuntimeUnavailable, match="threads must be 1 to 256"):
        Session.open(bundle_dir, threads=0)


def test_bytes_that_are_no_model(bundle_dir):
    with pytest.raises(BundleError, match=r"model\.tflite is not a model that LiteRT can load"):
        Session.open(bundle_dir)


def test_a_bundle_damaged_after_it_was_written(real_bundles, tmp_path):
    folder = shutil.copytree(real_bundles / "test_dfmamba", tmp_path / "b")
    path = folder / bundles.load(folder).manifest.variants[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Session.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["inputs"][0].update(shape=[1, 32, 32, 3]), "in the manifest"),
        (lambda c: c["variants"][0]["output_names"].update(presence="no_such"), "is called 'no_such' in the manifest"),
        (lambda c: c["variants"][0]["input_names"].update(image="no_such"), "input image is called 'no_such'"),
    ],
)
def test_a_manifest_that_is_not_the_model_s(real_bundles, tmp_path, change, message):
    folder = shutil.copytree(real_bundles / "test_dfmamba", tmp_path / "b")
    manifest = bundles.load(folder).manifest
    content = manifest.model_dump(by_alias=True, mode="json")
    content["variants"] = [variant for variant in content["variants"] if variant["runtime"] == "litert"]
    change(content)
    bundles.write_manifest(folder, bundles.Manifest.model_validate(content))
    with pytest.raises(BundleError, match=message):
        Session.open(folder)
