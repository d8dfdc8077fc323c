"""The training loop of landmark models and detectors: Muon, averaged weights, bf16 autocast, exact resume.

``train`` runs until its budget of minutes or samples is spent or it is told to stop, and writes to its folder a
checkpoint (see ``checkpoint.py``) and ``log.jsonl``: one line a report, with ``"event"`` "start", "step", "validation",
"checkpoint", "skipped", "sharpened" or "end". Started by torchrun, the processes share the batch (``parallel.py``); the
first one writes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import cos, inf, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_hands import models
from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint, losses, resuming
from edge_hands.quantization.averaged import Averaged
from edge_hands.quantization.data.augment import Augmentation, CropBatches
from edge_hands.quantization.data.frames import FrameAugmentation, FrameBatches
from edge_hands.quantization.data.mix import Source, parse_sources
from edge_hands.quantization.data.pipeline import Loader, Position, pool_order
from edge_hands.quantization.data.shards import Pool, shard_paths
from edge_hands.quantization.evaluate import evaluate, torch_predictor
from edge_hands.quantization.optimisers import Optimisers
from edge_hands.quantization.parallel import Processes, Replicas
from edge_hands.quantization.progress import Log, Report, Window
from edge_hands.quantization.recipe import Recipe
from edge_hands.quantization.sharpen import sharpen

#: Non-finite losses in a row after which training gives up.
MAX_SKIPPED = 20
#: Training samples, and how many at a time, that set the batch-norm statistics of the averaged weights.
CALIBRATION, CALIBRATION_BATCH = 512, 64


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
    processes = Processes()
    try:
        run = Run(recipe, out, resume, report, start, processes)
        try:
            with _stop_on_signal() as stop:
                return run.loop(stop)
        finally:
            run.close()
    finally:
        processes.close()
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
        processes: Processes | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out = recipe, Path(out)
        self.processes = processes or Processes()
        self.device, count = self.processes.device, self.processes.count
        if recipe.batch % count:
            raise DataError(
                f"a batch of {recipe.batch} cannot be shared by {count} processes; give a multiple: --batch"
            )
        self.model = models.create(recipe.model, **recipe.overrides)
        if start is not None and not resume:
            resuming.begin_with(self.model, recipe, start)
        self.model.to(self.device)
        self.task = TASKS[self.model.kind]
        self.weights = self.task.weights(**recipe.loss)
        self.average = Averaged(self.model)
        self.optimisers = Optimisers(self.model, recipe.offset_lr, recipe.weight_decay)
        self.step, self.samples, self.seconds, self.skipped = 0, 0, 0.0, 0
        self.position, self.metrics = Position(), {}
        if resume:
            self._restore()

        size = self.model.config.image_size
        augmentation = self.task.augmentation(**recipe.augmentation)
        sources, part = parse_sources(recipe.data), (self.processes.rank, count)
        self.shares = [source.share for source in sources]
        self.pool = Pool([source.folder for source in sources], "train", self.task.shards, part)
        held_out = Pool(recipe.validate or _validation_folder(sources), "val", self.task.shards)
        self.validation = self.task.batches(held_out, size, None)
        self.batches = self.task.batches(self.pool, size, augmentation)
        seed = (recipe.seed, self.processes.rank) if self.processes.rank else recipe.seed
        self.loader = Loader(self.pool, self.batches, recipe.batch // count, seed, self.position, shares=self.shares)
        threads = recipe.threads if self.device.type == "cpu" else 1
        self.replicas = Replicas(self.model, threads, self._losses, self.processes)
        self._write = Log(self.out, report, self.processes.first)
        self._log("start", resumed=resume, pool=len(self.pool), processes=count, device=self.device.type)

    def close(self) -> None:
        self.loader.close()
        self.replicas.close()

    def loop(self, stop: threading.Event) -> dict:
        recipe, begun, spent = self.recipe, time.monotonic(), self.seconds
        saved = validated = begun
        window, stopping = Window(), False
        while self.fraction < 1 and not stopping:
            arrays, self.position = next(self.loader)
            window.waited()
            self._train_step(arrays, window)
            self.seconds = spent + time.monotonic() - begun
            if self.step % recipe.log_every == 0 and window.steps:
                state = {"ready": self.loader.ready, "pool": len(self.pool)}
                summary = window.summary(recipe.batch)
                self._log("step", lr=self.lr, left=self._left(summary["images_per_second"]), **summary, **state)
                window = Window()
            now = time.monotonic()
            due = now - saved > recipe.checkpoint_minutes * 60, now - validated > recipe.validate_minutes * 60
            # One learning rate and one end for all processes.
            self.seconds, stopping, saving, validating = self.processes.highest(
                [self.seconds, stop.is_set(), *(self.processes.first and late for late in due)]
            )
            if saving:
                self._save()
                saved, window = time.monotonic(), Window()
            if validating:
                self._validate()
                validated, window = time.monotonic(), Window()
        self._save()
        if not stopping:
            self._sharpen()
            self._validate()
            self._save(finished=True)
        self._log("end", stopped=bool(stopping))
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

    def _left(self, speed: float) -> float:
        """Seconds until the budget is spent, at so many samples a second."""
        minutes, samples = self.recipe.minutes, self.recipe.samples
        by_time = minutes * 60 - self.seconds if minutes else inf
        by_samples = (samples - self.samples) / speed if samples and speed else inf
        return round(max(0.0, min(by_time, by_samples)), 1)

    def _train_step(self, arrays: dict, window: Window) -> None:
        batch = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        self.optimisers.zero_grad()
        parts = self.replicas.backward(batch)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.samples += self.recipe.batch
        if not (parts["loss"].isfinite() and norm.isfinite()):
            self._skip(parts["loss"])
            return
        self.optimisers.step(self.lr)
        self.step, self.skipped = self.step + 1, 0
        self.average.follow(self.model, min(self.recipe.ema, (1 + self.step) / (10 + self.step)))
        window.add({**parts, "gradient": norm})

    def _losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Total and parts of the loss of one share of a batch; the total carries the gradient."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
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

    def _final(self) -> nn.Module:
        """The averaged model as it is validated and written."""
        return self.average.calibrated(self._calibration(), self.recipe.bf16)

    def _calibration(self) -> Iterator[dict[str, Tensor]]:
        """CALIBRATION augmented training samples, mixed as in training, the same for a seed, with planar images."""
        rng = np.random.default_rng(self.recipe.seed)
        order = pool_order(self.pool, rng, self.shares)[:CALIBRATION]
        for start in range(0, len(order), CALIBRATION_BATCH):
            arrays = self.batches(order[start : start + CALIBRATION_BATCH], rng)
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            yield {**tensors, "image": planar(tensors["image"])}

    def _validate(self) -> None:
        if not self.processes.first:
            return
        begun = time.monotonic()
        predict = torch_predictor(self._final(), self.recipe.bf16)
        count, batch = self.recipe.validate_count, self.recipe.batch
        self.metrics = evaluate(self.model.kind, predict, self.validation, count, batch)
        self._log("validation", metrics=self.metrics, took=round(time.monotonic() - begun, 2))

    def _sharpen(self) -> None:
        """At the end of a run: read the averaged model's heat maps as sharply as is best on training crops."""
        if self.model.kind == "landmarks" and self.processes.first:
            self._log("sharpened", factor=sharpen(self._final(), self._calibration()))

    def _log(self, event: str, **values) -> None:
        place = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        self._write(event, **place, fraction=round(min(1.0, self.fraction), 5), **values)

    def _save(self, finished: bool = False) -> None:
        positions = resuming.positions(self.position, len(self.pool.members), self.processes)
        if not self.processes.first:
            return
        place = {"positions": list(map(asdict, positions)), "seconds": self.seconds, "recipe": self.recipe.as_dict()}
        place["finished"] = finished
        meta = checkpoint.Meta(
            self.recipe.model, self.recipe.overrides, self.step, self.samples, "float", self.metrics, place
        )
        checkpoint.save(self.out, self._final(), meta, resuming.tensors(self.model, self.optimisers))
        self._log("checkpoint")

    def _restore(self) -> None:
        meta = resuming.restore(self.out, self.recipe, self.model, self.average.weights, self.optimisers)
        self.step, self.samples, self.metrics = meta.step, meta.samples, meta.metrics
        self.seconds = meta.resume["seconds"]
        stored = meta.resume.get("positions") or [meta.resume["position"]]  # "position": before processes
        self.position = resuming.position(list(map(Position.from_dict, stored)), self.processes)


def _validation_folder(sources: Sequence[Source]) -> Path:
    """The first folder with val shards; the first of all, for its error, where there is none."""
    return next((source.folder for source in sources if shard_paths(source.folder, "val")), sources[0].folder)


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
