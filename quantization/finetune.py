"""Quantisation of a trained model: calibrate the ranges, then fine-tune the weights under fake int8.

The fine-tune has a small learning rate that falls as a cosine. Ranges are watched during its first part and frozen
for the rest, so that the weights settle on the scales that ship. Zero steps are plain post-training quantisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.data.pipeline import Loader
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.evaluate import evaluate, torch_predictor
from edge_hands.quantization.quantizer import DEFAULT, Scheme
from edge_hands.quantization.train import TASKS, Task


@dataclass(frozen=True)
class QatRecipe:
    """How to quantise. ``minutes`` ends the fine-tune early; ``freeze`` is the part of it that watches ranges."""

    steps: int = 2000
    minutes: float | None = None
    batch: int = 32
    lr: float = 5e-5
    offset_lr: float = 0.1  # times lr
    freeze: float = 0.3
    calibrate: int = 48  # batches
    clip: float = 1.0
    threads: int = 2
    seed: int = 0
    validate_count: int = 1000
    log_every: int = 20


Report = Callable[[dict], None]


def quantize(
    recipe: QatRecipe,
    source: str | Path,
    data: str | Path,
    out: str | Path,
    report: Report | None = None,
    scheme: Scheme = DEFAULT,
) -> dict:
    """Quantise the float checkpoint ``source`` with the shards in ``data``; returns {"float", "ptq", "qat"} metrics.

    Writes a checkpoint of stage "qat" to ``out``. ``report`` gets a dict per event: "calibrate" and "step" with
    ``fraction`` and ``loss``, "metrics" with ``stage`` and ``metrics``. Raises DataError for a checkpoint that is
    not float, shards of the wrong kind, a layer in ``scheme`` that is none or a loss that is not finite.
    """
    report = report or (lambda record: None)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    meta = checkpoint.load_meta(source)
    if meta.stage == qat.STAGE:
        raise DataError(f"{source} is quantised already; give the float checkpoint that it came from")
    model, meta = checkpoint.load_model(source)
    task, size = TASKS[model.kind], model.config.image_size
    pool = Pool(data, "train", task.shards)
    validation = task.batches(Pool(data, "val", task.shards), size, None)
    metrics: dict[str, dict] = {}

    def measure(stage: str, candidate: nn.Module) -> None:
        metrics[stage] = evaluate(
            model.kind, torch_predictor(candidate), validation, recipe.validate_count, recipe.batch
        )
        report({"event": "metrics", "stage": stage, "metrics": metrics[stage]})

    graph = qat.prepare(model, scheme)  # before anything slow: it may refuse the scheme
    measure("float", model)
    loader = Loader(pool, task.batches(pool, size, task.augmentation()), min(recipe.batch, len(pool)), recipe.seed)
    try:
        _calibrate(graph, loader, recipe, report)
        measure("ptq", qat.convert(graph, model))
        steps = _finetune(graph, loader, task, recipe, report)
    finally:
        loader.close()
    if steps:
        measure("qat", qat.convert(graph, model))
    qat.observe(graph, observers=False, fake_quant=True)
    done = checkpoint.Meta(
        meta.model, meta.overrides, meta.step + steps, meta.samples + steps * recipe.batch, qat.STAGE, metrics
    )
    story = {"recipe": asdict(recipe), "source": Path(source).name}
    checkpoint.save(out, graph, replace(done, scheme=scheme.as_dict(), resume=story))
    return metrics


def _calibrate(graph: GraphModule, loader: Loader, recipe: QatRecipe, report: Report) -> None:
    """Ranges from the float activations of augmented training samples."""
    qat.observe(graph, observers=True, fake_quant=False)
    with torch.no_grad():
        for index in range(recipe.calibrate):
            image, _ = _batch(loader)
            if not all(bool(feature.isfinite().all()) for feature in graph(image).values()):
                raise DataError(
                    "the float network gives values that are not finite on training samples, which have no range: "
                    "train it further, or with a smaller lr"
                )
            report({"event": "calibrate", "fraction": (index + 1) / recipe.calibrate})


def _finetune(graph: GraphModule, loader: Loader, task: Task, recipe: QatRecipe, report: Report) -> int:
    """Trains the weights of a calibrated graph in place; returns the number of steps."""
    qat.observe(graph, observers=True, fake_quant=True)
    optimiser = torch.optim.AdamW(_groups(graph, recipe), lr=recipe.lr, weight_decay=0.0, fused=True)
    weights, parameters = task.weights(), list(graph.parameters())
    begun, step, frozen, total = time.monotonic(), 0, False, 0.0
    while (fraction := _fraction(step, begun, recipe)) < 1:
        if not frozen and fraction >= recipe.freeze:
            qat.observe(graph, observers=False, fake_quant=True)
            frozen = True
        scale = 0.5 * (1 + math.cos(math.pi * fraction)) * min(1.0, (step + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * group["factor"] * scale
        image, batch = _batch(loader)
        loss, _ = task.loss(graph(image), batch, weights)
        if not loss.isfinite():
            raise DataError(f"the loss of step {step} is not finite: lower --lr, or look for NaN in the labels")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        step, total = step + 1, total + loss.item()
        if step % recipe.log_every == 0:
            speed = step * recipe.batch / (time.monotonic() - begun)
            fraction = min(1.0, _fraction(step, begun, recipe))
            report(
                {"event": "step", "fraction": fraction, "loss": total / recipe.log_every, "images_per_second": speed}
            )
            total = 0.0
    return step


def _fraction(step: int, begun: float, recipe: QatRecipe) -> float:
    """Spent share of the budget; 1 at once when there are no steps to do."""
    spent = (time.monotonic() - begun) / 60 / recipe.minutes if recipe.minutes else 0.0
    return max(step / recipe.steps if recipe.steps else 1.0, spent)


def _batch(loader: Loader) -> tuple[Tensor, dict[str, Tensor]]:
    arrays, _ = next(loader)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return batch.pop("image").float().div_(255), batch


def _groups(graph: GraphModule, recipe: QatRecipe) -> list[dict]:
    """Sampling layers learn slowly, as in training."""
    slow, fast = [], []
    for name, parameter in graph.named_parameters():
        (slow if {"offset", "weight_proj"} & set(name.split(".")) else fast).append(parameter)
    return [{"params": fast, "factor": 1.0}, {"params": slow, "factor": recipe.offset_lr}]
