"""The training loop of landmark models and detectors: Muon, averaged weights, bf16 autocast, exact resume.

``train`` runs until its budget of minutes or samples is spent or it is told to stop, and writes to its folder a
checkpoint (see ``checkpoint.py``) and ``log.jsonl``: one line a report, with ``"event"`` "step", "validation",
"checkpoint", "skipped", "sharpened" or "end".
"""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from math import cos, inf, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_hands import models
from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint, losses
from edge_hands.quantization.data.augment import Augmentation, CropBatches
from edge_hands.quantization.data.frames import FrameAugmentation, FrameBatches
from edge_hands.quantization.data.mix import Source, parse_sources
from edge_hands.quantization.data.pipeline import Loader, Position, pool_order
from edge_hands.quantization.data.shards import Pool, shard_paths
from edge_hands.quantization.evaluate import evaluate, torch_predictor
from edge_hands.quantization.optimisers import Optimisers
from edge_hands.quantization.parallel import Replicas
from edge_hands.quantization.sharpen import sharpen

#: Non-finite losses in a row after which training gives up.
MAX_SKIPPED = 20
#: Training samples, and how many at a time, that set the batch-norm statistics of the averaged weights.
CALIBRATION, CALIBRATION_BATCH = 512, 64


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. One of ``minutes`` and ``samples`` must be set."""

    model: str
    data: Sequence[str | Path] = ()  # FOLDER or FOLDER=SHARE of every batch
    validate: str | Path | None = None  # folder; the first of data that has val shards
    overrides: dict = field(default_factory=dict)  # of the model's config
    minutes: float | None = None
    samples: int | None = None
    batch: int = 64
    lr: float = 2e-3
    offset_lr: float = 0.1  # times lr
    final_lr: float = 0.01  # times lr, where the cosine ends
    warmup: int = 150  # steps
    weight_decay: float = 0.01
    clip: float = 5.0
    ema: float = 0.999
    bf16: bool = True
    threads: int = 2
    seed: int = 0
    log_every: int = 50  # steps
    validate_minutes: float = 4.0
    validate_count: int = 512
    checkpoint_minutes: float = 5.0
    augmentation: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)

    @classmethod
    def from_dict(cls, settings: dict) -> Recipe:
        """From a recipe file's table. Raises DataError for a setting that does not exist or a missing budget."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise DataError(f"a recipe has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        recipe = cls(**settings)
        if isinstance(recipe.data, str | Path):
            raise DataError(f"data in a recipe is a list of folders, such as data = ['{recipe.data}']")
        if recipe.minutes is None and recipe.samples is None:
            raise DataError("a recipe needs a budget: give --minutes or --samples")
        return recipe

    def as_dict(self) -> dict:
        """What ``from_dict`` takes, of JSON's types."""
        validate = None if self.validate is None else str(self.validate)
        return {**asdict(self), "data": list(map(str, self.data)), "validate": validate}


@dataclass(frozen=True)
class Task:
    """What differs between the kinds of model."""

    shards: str
    batches: type
    augmentation: type
    loss: Callable[..., losses.Losses]
    weights: type


TASKS = {
    "landmarks": Task("crop", CropBatches, Augmentation, losses.landmark_loss, losses.LandmarkWeights),
    "detector": Task("frame", FrameBatches, FrameAugmentation, losses.detector_loss, losses.DetectorWeights),
}

Report = Callable[[dict], None]


def train(
    recipe: Recipe,
    out: str | Path,
    resume: bool = False,
    report: Report | None = None,
    start: str | Path | None = None,
) -> dict:
    """Train by a recipe, with checkpoint and log in ``out``; returns the last validation's metrics.

    ``report`` gets every record of the log. ``start`` is a float checkpoint of the same model whose weights a new run
    begins with. SIGTERM and SIGINT end the run after the current step, with a checkpoint.
    Raises DataError: no shards or of the wrong kind, nothing to resume, or 20 non-finite losses in a row.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the replicas are the threads
    run = Run(recipe, out, resume, report, start)
    try:
        with _stop_on_signal() as stop:
            return run.loop(stop)
    finally:
        run.close()
        torch.set_num_threads(before)


class Run:
    """State of one run: weights, their average, the optimiser, the place in the data and what has been spent."""

    def __init__(
        self,
        recipe: Recipe,
        out: str | Path,
        resume: bool,
        report: Report | None,
        start: str | Path | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.report = recipe, Path(out), report
        self.model = models.create(recipe.model, **recipe.overrides)
        if start is not None and not resume:
            _begin_with(self.model, recipe, start)
        self.task = TASKS[self.model.kind]
        self.weights = self.task.weights(**recipe.loss)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimisers = Optimisers(self.model, recipe.offset_lr, recipe.weight_decay)
        self.step, self.samples, self.seconds, self.skipped = 0, 0, 0.0, 0
        self.position, self.metrics = Position(), {}
        if resume:
            self._restore()

        size = self.model.config.image_size
        augmentation = self.task.augmentation(**recipe.augmentation)
        sources = parse_sources(recipe.data)
        self.shares = [source.share for source in sources]
        self.pool = Pool([source.folder for source in sources], "train", self.task.shards)
        held_out = Pool(recipe.validate or _validation_folder(sources), "val", self.task.shards)
        self.validation = self.task.batches(held_out, size, None)
        batches = self.task.batches(self.pool, size, augmentation)
        self.batches, self._calibrated = batches, -1
        self.loader = Loader(self.pool, batches, recipe.batch, recipe.seed, self.position, shares=self.shares)
        self.replicas = Replicas(self.model, recipe.threads, self._losses)
        self.out.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self.loader.close()
        self.replicas.close()

    def loop(self, stop: threading.Event) -> dict:
        recipe, begun, spent = self.recipe, time.monotonic(), self.seconds
        saved = validated = begun
        window = _Window()
        while self.fraction < 1 and not stop.is_set():
            arrays, self.position = next(self.loader)
            window.waited()
            self._train_step(arrays, window)
            self.seconds = spent + time.monotonic() - begun
            if self.step % recipe.log_every == 0 and window.steps:
                state = {"ready": self.loader.ready, "pool": len(self.pool)}
                self._log("step", lr=self.lr, **window.summary(recipe.batch), **state)
                window = _Window()
            if time.monotonic() - saved > recipe.checkpoint_minutes * 60:
                self._save()
                saved, window = time.monotonic(), _Window()
            if time.monotonic() - validated > recipe.validate_minutes * 60:
                self._validate()
                validated, window = time.monotonic(), _Window()
        self._save()
        if not stop.is_set():
            self._sharpen()
            self._validate()
            self._save()
        self._log("end", stopped=stop.is_set())
        return self.metrics

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent."""
        minutes, samples = self.recipe.minutes or inf, self.recipe.samples or inf
        return max(self.seconds / 60 / minutes, self.samples / samples)

    @property
    def lr(self) -> float:
        """Linear warm-up, then a cosine over the budget."""
        r = self.recipe
        decay = r.final_lr + (1 - r.final_lr) * 0.5 * (1 + cos(pi * min(1.0, self.fraction)))
        return r.lr * min(1.0, (self.step + 1) / max(1, r.warmup)) * decay

    def _train_step(self, arrays: dict, window: _Window) -> None:
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.optimisers.zero_grad()
        parts = self.replicas.backward(batch)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.samples += len(batch["image"])
        if not (parts["loss"].isfinite() and norm.isfinite()):
            self._skip(parts["loss"])
            return
        self.optimisers.step(self.lr)
        self.step, self.skipped = self.step + 1, 0
        _average(self.average, self.model, min(self.recipe.ema, (1 + self.step) / (10 + self.step)))
        window.add({**parts, "gradient": norm})

    def _losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Total and parts of the loss of one share of a batch; the total carries the gradient."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            features = model.features(planar(batch["image"]))
        total, parts = self.task.loss(features, batch, self.weights)
        return {"loss": total, **parts}

    def _skip(self, loss: Tensor) -> None:
        self.skipped += 1
        self._log("skipped", loss=float(loss), in_a_row=self.skipped)
        if self.skipped >= MAX_SKIPPED:
            raise DataError(
                f"{MAX_SKIPPED} steps in a row had a non-finite loss or gradient (step {self.step}): "
                "lower --lr, or look for NaN in the labels; the last checkpoint is untouched"
            )

    def _validate(self) -> None:
        begun = time.monotonic()
        self._calibrate()
        predict = torch_predictor(self.average, self.recipe.bf16)
        count, batch = self.recipe.validate_count, self.recipe.batch
        self.metrics = evaluate(self.model.kind, predict, self.validation, count, batch)
        self._log("validation", metrics=self.metrics, took=round(time.monotonic() - begun, 2))

    def _log(self, event: str, **values) -> None:
        record = {"event": event, "step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        record |= {"fraction": round(min(1.0, self.fraction), 5), **values}
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        if self.report:
            self.report(record)

    def _calibrate(self) -> None:
        """Measure the batch-norm statistics of the averaged weights on training batches.

        Averaged statistics would not do: they are not those of the averaged weights, and a single batch with wild
        activations, which a running mean soon forgets, spoils them for a thousand steps.
        """
        if self._calibrated == self.step:
            return
        self._calibrated = self.step
        norms = [module for module in self.average.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        self.average.train()
        for batch in self._calibration():
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
                self.average.features(batch["image"])
        self.average.eval()

    def _calibration(self) -> Iterator[dict[str, Tensor]]:
        """CALIBRATION augmented training samples, mixed as in training, the same for a seed, with planar images."""
        rng = np.random.default_rng(self.recipe.seed)
        order = pool_order(self.pool, rng, self.shares)[:CALIBRATION]
        for start in range(0, len(order), CALIBRATION_BATCH):
            arrays = self.batches(order[start : start + CALIBRATION_BATCH], rng)
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            yield {**tensors, "image": planar(tensors["image"])}

    def _sharpen(self) -> None:
        """At the end of a run: read the averaged model's heat maps as sharply as is best on training crops."""
        if self.model.kind == "landmarks":
            self._calibrate()
            factor = sharpen(self.average, self._calibration())
            self._log("sharpened", factor=factor)

    def _save(self) -> None:
        self._calibrate()
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"optimiser.{entry}": tensor for entry, tensor in self.optimisers.state().items()}
        state["rng"] = torch.get_rng_state()
        place = {"position": asdict(self.position), "seconds": self.seconds, "recipe": self.recipe.as_dict()}
        meta = checkpoint.Meta(
            self.recipe.model, self.recipe.overrides, self.step, self.samples, "float", self.metrics, place
        )
        checkpoint.save(self.out, self.average, meta, state)
        self._log("checkpoint")

    def _restore(self) -> None:
        meta = checkpoint.load_meta(self.out)
        if (meta.model, meta.overrides) != (self.recipe.model, self.recipe.overrides):
            raise DataError(
                f"{self.out} holds a {meta.model} {meta.overrides}, not a {self.recipe.model} {self.recipe.overrides}; "
                "use another --out"
            )
        checkpoint.restore(self.average, checkpoint.load_tensors(self.out, checkpoint.MODEL, meta.step), self.out)
        state = checkpoint.load_tensors(self.out, checkpoint.RESUME, meta.step)
        weights = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
        checkpoint.restore(self.model, weights, self.out / checkpoint.RESUME)
        prefix = "optimiser."
        self.optimisers.restore({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        torch.set_rng_state(state["rng"])
        self.step, self.samples, self.metrics = meta.step, meta.samples, meta.metrics
        self.seconds, self.position = meta.resume["seconds"], Position.from_dict(meta.resume["position"])


class _Window:
    """Sums between two lines of the log."""

    def __init__(self) -> None:
        self.steps, self.begun, self.wait, self._mark = 0, time.monotonic(), 0.0, time.monotonic()
        self._sums: dict[str, Tensor] = {}

    def waited(self) -> None:
        self.wait += time.monotonic() - self._mark

    def add(self, values: dict[str, Tensor]) -> None:
        self.steps += 1
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in values.items()}
        self._mark = time.monotonic()

    def summary(self, batch: int) -> dict:
        took = time.monotonic() - self.begun
        means = {name: round(float(value) / self.steps, 5) for name, value in self._sums.items()}
        speed = {"images_per_second": round(self.steps * batch / took, 1), "waiting": round(self.wait / took, 3)}
        return speed | means


def _validation_folder(sources: Sequence[Source]) -> Path:
    """The first folder with val shards; the first of all, for its error, where there is none."""
    return next((source.folder for source in sources if shard_paths(source.folder, "val")), sources[0].folder)


def _begin_with(model: nn.Module, recipe: Recipe, start: str | Path) -> None:
    meta = checkpoint.load_meta(start)
    if (meta.model, meta.overrides, meta.stage) != (recipe.model, recipe.overrides, "float"):
        raise DataError(
            f"{start} holds a {meta.stage} {meta.model} {meta.overrides}; "
            f"a {recipe.model} can start from a float one only"
        )
    checkpoint.restore(model, checkpoint.load_tensors(start, checkpoint.MODEL, meta.step), start)


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, for the parameters."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def planar(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1], channels last in memory."""
    return image.permute(0, 3, 1, 2).to(torch.float32).div_(255)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; outside the main thread signals cannot be caught and it stays unset."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
