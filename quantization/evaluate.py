"""Evaluation on held-out shards, of anything that predicts: a checkpoint, a quantised graph or a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization import metrics
from edge_hands.quantization.data.augment import CropBatches
from edge_hands.quantization.data.frames import FrameBatches
from edge_hands.quantization.data.shards import Pool

#: (B, H, W, 3) uint8 RGB -> the outputs of the model interface, arrays over the batch.
Predictor = Callable[[np.ndarray], dict[str, np.ndarray]]

#: Resamples of a bootstrap interval.
RESAMPLES = 1000

_BATCHES = {"landmarks": ("crop", CropBatches), "detector": ("frame", FrameBatches)}


def evaluate(kind: str, predict: Predictor, batches: Callable, count: int, batch: int = 64, resamples: int = 0) -> dict:
    """Metrics over the first ``count`` samples of ``batches.pool``; ``kind`` is "landmarks" or "detector".

    With ``resamples`` also their bootstrap intervals and the calibration curves.
    """
    outputs, truth, rng = [], [], np.random.default_rng(0)
    count = min(count, len(batches.pool))
    for start in range(0, count, batch):
        sample = batches(np.arange(start, min(start + batch, count)), rng)
        images = sample.pop("image")
        outputs.append(predict(images))
        if kind == "landmarks":  # which of a crop and its mirror image the model takes for a right hand
            outputs[-1]["mirrored"] = predict(np.ascontiguousarray(images[:, :, ::-1]))["handedness"]
        truth.append(sample)
    measure = metrics.landmark_metrics if kind == "landmarks" else metrics.detector_metrics
    return measure(_join(outputs), _join(truth), resamples)


def evaluate_path(model: str | Path, data: str | Path, count: int = 1000, threads: int = 2) -> dict:
    """Metrics of a checkpoint, a QAT folder or a bundle on the val shards of ``data``, with its kind and stage.

    With bootstrap ``intervals`` and ``calibration`` curves (see ``metrics``). Raises DataError when ``model`` is none
    of these or the shards are of the other kind.
    """
    kind, size, stage, predict = open_model(model, threads)
    shards, batches = _BATCHES[kind]
    found = evaluate(kind, predict, batches(Pool(data, "val", shards), size, None), count, resamples=RESAMPLES)
    return {"model": str(model), "kind": kind, "stage": stage, **found}


def open_model(path: str | Path, threads: int = 2) -> tuple[str, int, str, Predictor]:
    """(kind, input side, stage, predictor) of a folder; stage is "float", "qat" or "bundle (RUNTIME)"."""
    path = Path(path)
    if (path / "manifest.json").is_file():
        return _open_bundle(path, threads)
    import torch

    from edge_hands import models
    from edge_hands.quantization import checkpoint

    torch.set_num_threads(threads)
    meta = checkpoint.load_meta(path)
    if meta.stage == "qat":
        from edge_hands.quantization.qat import load_quantized

        model = load_quantized(path)
        config = models.config_of(meta.model, **meta.overrides)
    else:
        model, _ = checkpoint.load_model(path)
        config = model.config
    return config.kind, config.image_size, meta.stage, torch_predictor(model)


def torch_predictor(model, bf16: bool = False) -> Predictor:
    """Predictor of a torch model with the model interface; it is put into eval mode when it is a plain module."""
    import torch

    @torch.inference_mode()
    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(torch.from_numpy(images).float().div_(255))
        return {name: tensor.float().numpy() for name, tensor in outputs.items()}

    if hasattr(model, "config"):  # exported graphs know no eval()
        model.eval()
    return predict


def _open_bundle(path: Path, threads: int) -> tuple[str, int, str, Predictor]:
    from edge_hands.session import Session

    session = Session.open(path, threads=threads)

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        runs = [session.run({"image": image[None].astype(np.float32) / 255}) for image in images]
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    manifest = session.manifest
    side = next(spec.shape[1] for spec in manifest.inputs if spec.name == "image")
    return manifest.kind, side, f"bundle ({session.runtime})", predict


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if not parts:
        raise DataError("nothing to evaluate: --count is 0 or the val shards are empty")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
