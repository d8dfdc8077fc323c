"""What our int8 layers save: a bundle's LiteRT native form with XNNPACK's layers and with ours, one thread.

    OMP_NUM_THREADS=1 python benchmarks/layers.py [--bundle DIR] [--against MODEL.tflite] [--rounds 30]

CPU milliseconds of a bare ``invoke``. Every round runs each contestant some times, one after another; medians of the
rounds, the least, and the median of the ratios within a round. ``--against`` adds a file without our ops, MediaPipe's
hand_landmark_lite.tflite say.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

from edge_hands.bundle import bundled
from edge_hands.kernels.delegate import delegate_path

REPEATS = 20


def opened(file: Path, layers: int | None) -> Interpreter:
    """With a random input in place; ``layers`` None is without our delegate."""
    options = {"threads": 1, "layers": layers}
    delegates = None if layers is None else [load_delegate(str(delegate_path()), options)]
    interpreter = Interpreter(str(file), num_threads=1, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]
    interpreter.set_tensor(place["index"], np.random.default_rng(0).random(place["shape"], np.float32))
    return interpreter


def cpu_ms(interpreter: Interpreter) -> float:
    begin = time.process_time()
    for _ in range(REPEATS):
        interpreter.invoke()
    return (time.process_time() - begin) * 1000 / REPEATS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=bundled("landmarks"))
    parser.add_argument("--against", type=Path, help="a .tflite file of others")
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    file = asked.bundle / "model.native.tflite"
    running = {"XNNPACK's layers": opened(file, 0), "our layers": opened(file, 1)}
    if asked.against:
        running[asked.against.name] = opened(asked.against, None)
    rounds = [[cpu_ms(interpreter) for interpreter in running.values()] for _ in range(asked.rounds + 1)][1:]
    times = dict(zip(running, np.array(rounds).T, strict=True))
    for name, values in times.items():
        ratio = np.median(times["our layers"] / values)
        print(f"{name:<28} median {np.median(values):6.3f} ms, least {values.min():6.3f}; ours / this {ratio:.3f}")


if __name__ == "__main__":
    main()
