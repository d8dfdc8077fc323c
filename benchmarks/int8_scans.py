"""Whether scans that hand int8 over are quicker: two quantised checkpoints in LiteRT's native form, called in turn.

    edge-hands quantize --model FLOAT --data SHARDS --steps 0 --calibrate 4 --count 128 --out plain
    edge-hands quantize --model FLOAT --data SHARDS --steps 0 --calibrate 4 --count 128 --int8-scans --out int8
    python benchmarks/int8_scans.py plain int8

prints the least milliseconds of each on one thread, and their ratio. docs/quantization.md says what came out.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from edge_hands.export_targets import litert
from edge_hands.quantization import qat

CALLS = 400


def main(checkpoints: list[str]) -> None:
    runners, best = {}, dict.fromkeys(checkpoints, float("inf"))
    for checkpoint in checkpoints:
        model = qat.load_quantized(checkpoint)
        content = litert.convert(model, quantized=True, scan="native")
        runners[checkpoint] = litert._interpreter(content, "native").get_signature_runner()
    side = model.config.image_size
    image = np.random.default_rng(0).random((1, side, side, 3), np.float32)
    for _ in range(CALLS):
        for checkpoint, run in runners.items():
            begun = time.perf_counter()
            run(image=image)
            best[checkpoint] = min(best[checkpoint], (time.perf_counter() - begun) * 1e3)
    for checkpoint, milliseconds in best.items():
        print(f"{checkpoint}: {milliseconds:.3f} ms, {milliseconds / best[checkpoints[0]]:.3f} of {checkpoints[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
