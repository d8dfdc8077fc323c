"""Training for real on a few drawn hands: the loss falls, a resumed run is the uninterrupted one, trouble is named."""

import json
import os
import signal
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.hands import REFERENCE_SKELETON_LENGTH, skeleton_length  # noqa: E402
from edge_hands.quantization import checkpoint, losses  # noqa: E402
from edge_hands.quantization import train as loop  # noqa: E402
from edge_hands.quantization.data.augment import CropBatches  # noqa: E402
from edge_hands.quantization.data.frames import FrameBatches  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.quantization.evaluate import evaluate_path  # noqa: E402
from edge_hands.quantization.parallel import Replicas  # noqa: E402
from edge_hands.quantization.train import Recipe, train  # noqa: E402


def tensors(batch: dict) -> dict:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def small(model: str = "test_dfmamba", **settings) -> Recipe:
    defaults = dict(samples=320, batch=16, threads=1, warmup=4, log_every=2, validate_count=16)
    return Recipe(model, **{**defaults, **settings})


def log_of(folder, event: str) -> list[dict]:
    return [r for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if r["event"] == event]


@pytest.fixture(scope="module")
def crops(crop_shards):
    pool = Pool(crop_shards, "train", "crop")
    some = np.argsort(pool.labels["present"], kind="stable")[2:18]  # the empty crops come first
    return tensors(CropBatches(pool, 64, None)(some, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def frames(frame_shards):
    batches = FrameBatches(Pool(frame_shards, "train", "frame"), 64, None)
    return tensors(batches(np.arange(16), np.random.default_rng(0)))


def perfect_landmarks(batch: dict, size: int = 32) -> dict:
    sure = (batch["present"] * 40 - 20)[:, None].expand(16, 21)
    return {
        "heatmap_logits": (losses.gaussian(batch["uv"], size, 1.1) + 1e-12).log().view(16, 21, size, size),
        "uv": batch["uv"],
        "z": batch["z"],
        "confidence_logits": sure,
        "presence_logits": batch["present"] * 40 - 20,
        "handedness_logits": batch["handed"] * 40 - 20,
    }


def test_the_landmark_loss_is_least_for_the_truth(crops):
    truth = perfect_landmarks(crops)
    best, parts = losses.landmark_loss(truth, crops)
    assert float(parts["uv"] + parts["z"] + parts["confidence"] + parts["presence"] + parts["handedness"]) < 1e-5
    assert float(parts["xyz"]) < 1e-5 and float(parts["error_2d"]) == 0
    for name in truth:
        worse = {**truth, name: truth[name] + torch.randn(truth[name].shape, generator=torch.manual_seed(1)) * 30}
        assert losses.landmark_loss(worse, crops)[0] > best + 0.01, name


def test_crops_without_a_hand_count_for_presence_and_confidence_alone(crops):
    empty = crops["present"] == 0
    assert 0 < empty.sum() < 16
    features = {name: value.clone().requires_grad_() for name, value in perfect_landmarks(crops).items()}
    losses.landmark_loss({name: value + 0.3 for name, value in features.items()}, crops)[0].backward()
    for name in ("heatmap_logits", "uv", "z", "handedness_logits"):
        assert not features[name].grad[empty].any(), name
    assert features["presence_logits"].grad[empty].all()
    assert (features["confidence_logits"].grad[empty] > 0).all()  # less sure of a joint that is not there


def test_the_gaussian_sums_to_one_and_peaks_on_the_joint():
    heat = losses.gaussian(torch.tensor([[[0.25, 0.75]]]), 32, 1.1)
    assert float(heat.sum()) == pytest.approx(1, abs=1e-5)
    peak = heat[0, 0].view(32, 32).nonzero()[heat[heat > 0].argmax()]
    assert peak.tolist() in ([23, 7], [23, 8], [24, 7], [24, 8])


def perfect_detector(batch: dict, side: int = 8) -> dict:
    """Each cell predicts the hand that is nearest to it; the score is sure at the cell of a centre."""
    cells = losses.cell_centers(side)
    apart = (cells[None, None] - batch["centers"][:, :, None]).square().sum(-1) + 1e6 * (1 - batch["valid"])[..., None]
    owner, count = apart.argmin(1), len(cells)
    pick = {n: batch[n][torch.arange(16)[:, None], owner] for n in ("centers", "boxes", "points", "sides", "right")}
    scores = torch.full((16, count), -20.0)
    for i, hand in batch["valid"].nonzero():
        scores[i, apart[i, hand].argmin()] = 20.0
    named = {n: pick[n] for n in ("centers", "boxes", "points", "sides")}
    return {"score_logits": scores, **named, "handedness_logits": pick["right"] * 40 - 20}


def test_the_detector_loss_is_least_for_the_truth(frames):
    truth = perfect_detector(frames)
    best, parts = losses.detector_loss(truth, frames)
    assert float(best) < 0.05, parts
    for name in truth:
        worse = {**truth, name: truth[name] + torch.randn(truth[name].shape, generator=torch.manual_seed(1)) * 40}
        assert losses.detector_loss(worse, frames)[0] > best + 0.1, name


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([1.0, 0.0, 3.0, 2.0], 1 / 3),  # the hull is the union
        ([0.0, 0.0, 1.0, 1.0], 1 / 4),
        ([3.0, 0.0, 5.0, 2.0], -1 / 5),  # apart: two tenths of the hull are neither's
        ([1.0, 1.0, 0.0, 0.0], 0.0),  # turned inside out: nothing in common with a hull that is the other's
    ],
)
def test_giou_of_boxes_worked_out_by_hand(other, expected):
    found = losses.giou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([other]))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_an_ignored_hand_may_be_found_or_not(frames):
    quiet = perfect_detector(frames)
    hidden = {**frames, "ignore": frames["valid"], "valid": torch.zeros_like(frames["valid"])}
    silent = {**quiet, "score_logits": torch.full_like(quiet["score_logits"], -20.0)}
    found = float(losses.detector_loss(quiet, hidden)[0])
    assert found == pytest.approx(float(losses.detector_loss(silent, hidden)[0]), abs=1e-3)


def test_replicas_give_the_gradient_of_the_whole_batch(crops):
    """Two halves with equally many hands, batch norm aside, add up to the gradient of one batch."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.BatchNorm1d(5, momentum=0.0))
    batch = {"x": torch.randn(8, 12)}

    def square(model, share):
        return {"loss": model[1](model[0](share["x"])).square().mean()}

    square(model, batch)["loss"].backward()
    whole = [p.grad.clone() for p in model[1].parameters()]
    model.zero_grad()
    replicas = Replicas(model, 2, square)
    found = replicas.backward(batch)
    replicas.close()
    for grad, parameter in zip(whole, model[1].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    torch.testing.assert_close(found["loss"], square(model, batch)["loss"].detach())


def test_training_lowers_the_loss(crop_shards, tmp_path):
    metrics = train(small(samples=800, batch=8, lr=4e-3, augmentation={"occlude": 0.0}, data=[crop_shards]), tmp_path)
    steps = log_of(tmp_path, "step")
    assert steps[-1]["loss"] < 0.75 * steps[0]["loss"]
    assert steps[-1]["error_2d"] < 0.75 * steps[0]["error_2d"]
    model, meta = checkpoint.load_model(tmp_path)
    assert (meta.model, meta.step, meta.samples, meta.stage) == ("test_dfmamba", 100, 800, "float")
    assert meta.metrics == metrics
    again = evaluate_path(tmp_path, crop_shards, count=16)
    assert (again["kind"], again["stage"]) == ("landmarks", "float")
    assert again["error_2d_percent"] == pytest.approx(metrics["error_2d_percent"], rel=0.02)  # bf16 against float32
    with torch.no_grad():
        xyz = model(torch.rand(1, 64, 64, 3))["joints_xyz"].numpy()
    assert skeleton_length(xyz)[0] == pytest.approx(REFERENCE_SKELETON_LENGTH, rel=1e-4)


def test_the_detector_learns(frame_shards, tmp_path):
    train(small("test_detector", samples=1440, batch=16, lr=4e-3, data=[frame_shards]), tmp_path)
    steps = log_of(tmp_path, "step")
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert 0 <= evaluate_path(tmp_path, frame_shards)["average_precision"] <= 1


def test_a_resumed_run_is_the_uninterrupted_one(crop_shards, tmp_path):
    def stopped_at(step: int):
        def report(record):
            if record["event"] == "step" and record["step"] == step:
                os.kill(os.getpid(), signal.SIGTERM)

        return report

    recipe = small(samples=224, threads=2, bf16=False, data=[crop_shards])
    train(recipe, tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    train(recipe, tmp_path / "parts", report=stopped_at(8))  # in the midst of the second epoch
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint.load_meta(tmp_path / "parts").step == 8
    train(recipe, tmp_path / "parts", resume=True)
    ends = [log_of(tmp_path / name, "end")[-1] for name in ("whole", "parts")]
    assert [(end["step"], end["stopped"]) for end in ends] == [(14, False)] * 2
    for name in (checkpoint.MODEL, checkpoint.RESUME):
        whole, parts = (checkpoint.load_tensors(tmp_path / run, name, 14) for run in ("whole", "parts"))
        for key in whole.keys() - {"rng"}:
            torch.testing.assert_close(whole[key], parts[key], rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_a_second_thread_can_train(crop_shards, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(small(samples=32, data=[crop_shards]), tmp_path)))
    thread.start()
    thread.join()
    assert done[0]["crops"] == 16


def test_a_non_finite_step_is_skipped_and_twenty_end_the_run(crop_shards, tmp_path, monkeypatch):
    true_loss, calls = losses.landmark_loss, []

    def sometimes(features, batch, weights):
        calls.append(1)
        total, parts = true_loss(features, batch, weights)
        return (total * float("nan") if len(calls) == 3 else total), parts

    monkeypatch.setitem(loop.TASKS, "landmarks", loop.Task(**{**vars(loop.TASKS["landmarks"]), "loss": sometimes}))
    train(small(samples=80, data=[crop_shards]), tmp_path / "one")
    assert checkpoint.load_meta(tmp_path / "one").step == 4
    assert [r["in_a_row"] for r in log_of(tmp_path / "one", "skipped")] == [1]
    assert all(t.isfinite().all() for t in checkpoint.load_tensors(tmp_path / "one", checkpoint.MODEL, 4).values())

    always = loop.Task(**{**vars(loop.TASKS["landmarks"]), "loss": lambda f, b, w: (f["z"].sum() * float("inf"), {})})
    monkeypatch.setitem(loop.TASKS, "landmarks", always)
    with pytest.raises(DataError, match="20 steps in a row"):
        train(small(samples=4000, data=[crop_shards]), tmp_path / "all")
    assert not (tmp_path / "all" / checkpoint.META).exists()


def test_recipes_name_what_is_wrong():
    with pytest.raises(DataError, match="no setting speed"):
        Recipe.from_dict({"model": "test_dfmamba", "speed": 3, "samples": 1})
    with pytest.raises(DataError, match="--minutes or --samples"):
        Recipe.from_dict({"model": "test_dfmamba"})


def test_the_learning_rate_warms_up_and_falls(crop_shards, tmp_path):
    run = loop.Run(small(samples=1600, warmup=10, lr=1.0, final_lr=0.01, data=[crop_shards]), tmp_path, False, None)
    try:
        assert run.lr == pytest.approx(0.1)
        run.step, run.samples = 50, 800
        assert run.lr == pytest.approx(0.505)
        run.step, run.samples = 100, 1600
        assert run.lr == pytest.approx(0.01)
    finally:
        run.close()


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path, models.create("test_dfmamba"), checkpoint.Meta("test_dfmamba", step=3))
    return tmp_path


def test_a_checkpoint_comes_back(saved):
    model, meta = checkpoint.load_model(saved)
    assert (
        not model.training
        and meta.step == 3
        and sorted(p.name for p in saved.iterdir())
        == [
            checkpoint.META,
            checkpoint.MODEL,
        ]
    )


def test_damaged_checkpoints_are_named(saved, tmp_path):
    with pytest.raises(DataError, match="is no checkpoint"):
        checkpoint.load_model(saved / "nothing")
    with pytest.raises(DataError, match="resume.safetensors is missing"):
        checkpoint.load_tensors(saved, checkpoint.RESUME, 3)
    description = (saved / checkpoint.META).read_text()
    for change, message in (
        (description.replace('"step": 3', '"step": 4'), "torn"),
        (description[:-9], "not a checkpoint's description"),
        (description.replace('"samples"', '"simples"'), "not a checkpoint's description"),
        (description.replace("test_dfmamba", "dfmamba_edge"), "does not fit the model"),
        (description.replace("test_dfmamba", "no_such_model"), "no_such_model"),
    ):
        (saved / checkpoint.META).write_text(change)
        with pytest.raises(DataError, match=message):
            checkpoint.load_model(saved)
    (saved / checkpoint.META).write_text(description)
    weights = saved / checkpoint.MODEL
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        checkpoint.load_model(saved)


def test_the_wrong_folder_is_named(crop_shards, frame_shards, saved):
    with pytest.raises(DataError, match="of kind 'frame', expected 'crop'"):
        evaluate_path(saved, frame_shards)
    with pytest.raises(DataError, match="no shard"):
        train(small(data=[saved]), saved / "out")
    with pytest.raises(DataError, match="is no checkpoint"):
        train(small(data=[crop_shards]), saved / "out", resume=True)


def test_a_run_starts_from_the_weights_of_another(crop_shards, saved, tmp_path):
    train(small(lr=0.0, data=[crop_shards]), tmp_path / "on", start=saved)  # nothing is learnt: the weights stay
    before, _ = checkpoint.load_model(saved)
    after, _ = checkpoint.load_model(tmp_path / "on")
    records = map(json.loads, (tmp_path / "on" / "log.jsonl").read_text().splitlines())
    factor = next(record["factor"] for record in records if record["event"] == "sharpened")
    with torch.no_grad():
        for maps in (before.head.maps.weight, before.head.maps.bias):
            maps[:21] *= factor  # at its end a run chooses anew how sharply its heat maps are read
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    with pytest.raises(DataError, match="expected a float test_detector {} to start from"):
        train(small(model="test_detector", data=[crop_shards]), tmp_path / "other", start=saved)
    with pytest.raises(DataError, match="expected a float test_dfmamba {'states': 2} to start from"):
        train(small(overrides={"states": 2}, data=[crop_shards]), tmp_path / "other", start=saved)


@pytest.mark.parametrize("overrides", [{"image_size": 32}, {"stage_taps": True}])
def test_a_run_with_smaller_images_or_more_taps_starts_from_the_same_weights(crop_shards, saved, tmp_path, overrides):
    train(small(samples=16, lr=0.0, overrides=overrides, data=[crop_shards]), tmp_path / "on", start=saved)
    before, _ = checkpoint.load_model(saved)
    after, meta = checkpoint.load_model(tmp_path / "on")
    assert meta.overrides == overrides
    for (name, a), b in zip(before.backbone.named_parameters(), after.backbone.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_commands(crop_shards, tmp_path):
    from typer.testing import CliRunner

    from edge_hands.cli.main import app

    recipe, out, numbers = tmp_path / "recipe.toml", tmp_path / "out", tmp_path / "numbers.json"
    recipe.write_text('model = "test_dfmamba"\nsamples = 9999\nthreads = 1\nvalidate_count = 16\n[loss]\nz = 4.0\n')
    arguments = ["train", "--data", crop_shards, "--out", out, "--config", recipe, "--samples", 32, "--batch", 16]
    ran = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ran.exit_code == 0 and f"checkpoint in {out}" in ran.output.replace("\n", "")
    meta = checkpoint.load_meta(out)
    assert (meta.step, meta.resume["recipe"]["samples"], meta.resume["recipe"]["loss"]) == (2, 32, {"z": 4.0})

    arguments = ["evaluate", "--model", out, "--data", crop_shards, "--count", 20, "--json", numbers]
    ran = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ran.exit_code == 0 and "PA-MPJPE, mean" in ran.output and "little" in ran.output
    found = json.loads(numbers.read_text())
    assert (found["kind"], found["crops"]) == ("landmarks", 20)
    assert f"{found['pa_mpjpe_mm']:.3f}" in ran.output

    recipe.write_text("model = ")
    with pytest.raises(DataError, match="not TOML"):
        CliRunner().invoke(app, ["train", "--data", "x", "--out", "y", "--config", str(recipe)], catch_exceptions=False)
