"""Quantisation from a float checkpoint to a quantised one, on drawn hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.finetune import QatRecipe, quantize  # noqa: E402

SMALL = {"depths": [1, 0, 1, 1, 0, 0]}
RECIPE = QatRecipe(steps=4, batch=4, calibrate=2, validate_count=8, log_every=2, threads=1, freeze=0.5)


@pytest.fixture(scope="module")
def float_checkpoint(tmp_path_factory: pytest.TempPathFactory, make_shard: Callable) -> tuple[Path, Path]:
    """(checkpoint, data) of an untrained landmark model and a few crops."""
    torch.manual_seed(0)
    data, source = tmp_path_factory.mktemp("crops"), tmp_path_factory.mktemp("float")
    make_shard(data / "train-00000.tar", "crop", 12, 1)
    make_shard(data / "val-00000.tar", "crop", 8, 2)
    checkpoint.save(source, models.create("test_dfmamba", **SMALL), checkpoint.Meta("test_dfmamba", SMALL, step=5))
    return source, data


@pytest.fixture(scope="module")
def tuned(float_checkpoint: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list]:
    """(quantised checkpoint, metrics, reports) after a few steps."""
    source, data = float_checkpoint
    out, reports = tmp_path_factory.mktemp("qat"), []
    metrics = quantize(RECIPE, source, data, out, reports.append)
    return out, metrics, reports


def test_every_stage_is_measured_and_kept(tuned) -> None:
    out, metrics, reports = tuned
    assert list(metrics) == ["float", "ptq", "qat"]
    assert all(found["crops"] == 8 for found in metrics.values())
    meta = checkpoint.load_meta(out)
    assert (meta.stage, meta.step, meta.samples) == (qat.STAGE, 5 + 4, 4 * 4)
    assert meta.metrics["qat"]["error_2d_percent"] == metrics["qat"]["error_2d_percent"]
    assert [r["event"] for r in reports] == ["metrics", *["calibrate"] * 2, "metrics", "step", "step", "metrics"]
    assert reports[-2]["fraction"] == 1.0


def test_the_result_is_a_graph_that_can_be_opened(tuned) -> None:
    out, _, _ = tuned
    model = qat.load_quantized(out)
    with torch.inference_mode():
        outputs = model(torch.rand(1, 64, 64, 3))
    assert outputs["joints_uv"].shape == (1, 21, 2)
    assert all(torch.isfinite(tensor).all() for tensor in outputs.values())


def test_fine_tuning_moves_weights_and_freezes_the_ranges(tuned, float_checkpoint, tmp_path: Path) -> None:
    source, data = float_checkpoint
    metrics = quantize(QatRecipe(**{**vars(RECIPE), "steps": 0}), source, data, tmp_path)
    assert list(metrics) == ["float", "ptq"]
    before = checkpoint.load_tensors(tmp_path, checkpoint.MODEL, 5)
    after = checkpoint.load_tensors(tuned[0], checkpoint.MODEL, 9)
    assert before.keys() == after.keys()
    weight = "model.backbone.stage1.0.first.0.weight"
    assert not torch.equal(before[weight], after[weight])
    enabled = [key for key in after if key.endswith("observer_enabled")]
    assert enabled
    assert not any(after[key].any() for key in enabled)


def test_a_quantised_checkpoint_is_not_quantised_again(tuned, float_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is quantised already"):
        quantize(RECIPE, tuned[0], float_checkpoint[1], tmp_path)


def test_a_network_whose_values_overflow_has_no_ranges(float_checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    source, data = float_checkpoint
    model, meta = checkpoint.load_model(source)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.dim() == 4:
                parameter.mul_(1e12)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.mul_(1e20)
    checkpoint.save(tmp_path / "wild", model, meta)
    with pytest.raises(DataError, match="values that are not finite on training samples"):
        quantize(RECIPE, tmp_path / "wild", data, tmp_path / "out")
