"""One process of a run under torchrun: trains two steps and writes what it saw and what it learnt to OUT."""

import json
import sys
import threading
from pathlib import Path

import numpy as np

from edge_hands.quantization.parallel import Processes
from edge_hands.quantization.recipe import Recipe
from edge_hands.quantization.train import Run

settings, out = Path(sys.argv[1]), Path(sys.argv[2])
processes = Processes(cuda=False)
run = Run(Recipe.from_dict(json.loads(settings.read_text())), out, False, None, None, processes)
keys = [run.pool.image(index).astype(np.int64).sum() for index in range(len(run.pool))]
step, seen = run._train_step, []


def recorded(arrays, window):
    seen.append(arrays)
    step(arrays, window)


run._train_step = recorded
run.loop(threading.Event())
run.close()
np.savez(
    out / f"rank{processes.rank}.npz",
    samples=keys,
    **{f"batch.{name}": np.stack([batch[name] for batch in seen]) for name in seen[0]},
    **{f"model.{name}": parameter.detach().numpy() for name, parameter in run.model.named_parameters()},
    **{f"average.{name}": parameter.numpy() for name, parameter in run.average.weights.named_parameters()},
)
processes.close()
