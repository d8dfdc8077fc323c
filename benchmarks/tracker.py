"""What a tracked frame costs, and which part of it: median CPU milliseconds, one thread.

    python benchmarks/tracker.py [--frames 300] [--landmarks DIR] [--detector DIR] [--runtime NAME] [--json FILE]

One hand of the bundled picture moves through 640x480 frames; the tracker follows it, so the detector is not called. CPU
time (``time.process_time``) does not count other programs, but those that share a core or its caches slow it down, up
to three times: measure on an idle machine. The parts are timed one by one, in turn with whole frames; "session" is what
``Session.run`` adds to the runtime's call, "all else" what no other line names (decoding, the tracker's logic).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

import edge_hands as eh
from edge_hands.images import as_input, check_frame
from edge_hands.sources import read_photo

#: Issue 5's bar for a tracked frame.
BAR = 2.5
SAMPLE = Path(eh.__file__).parent / "bundled" / "sample.jpg"
SIZE, STEPS = (640, 480), 30


def frames() -> list[np.ndarray]:
    """A turn of the picture on a small circle: a hand that moves by up to 4 pixels a frame."""
    picture = np.asarray(read_photo(SAMPLE))
    scale = max(SIZE[0] / picture.shape[1], SIZE[1] / picture.shape[0])
    found = []
    for step in range(STEPS):
        angle = 2 * np.pi * step / STEPS
        x, y = (np.array(SIZE) - scale * np.array(picture.shape[1::-1])) / 2 + 16 * np.array(
            [np.cos(angle), np.sin(angle)]
        )
        found.append(cv2.warpAffine(picture, np.array([[scale, 0, x], [0, scale, y]]), SIZE, flags=cv2.INTER_CUBIC))
    return found


def cpu_ms(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median of ``count`` calls of each, in turn, so that all see the same neighbours on the machine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: median(found) * 1e3 for name, found in times.items()}


def measure(tracker: eh.HandTracker, count: int) -> dict[str, float]:
    """Name -> CPU milliseconds, "frame" first; "landmark runs" is a number of calls in a frame."""
    video, runs, index = frames(), [], 0

    def follow() -> None:
        nonlocal index
        index += 1
        if not tracker.track(video[index % STEPS], time=index / 30, still=False):
            raise SystemExit(f"no hand in frame {index}: nothing is tracked, so nothing is measured")
        runs.append(tracker.timing.landmark_runs)
        if tracker.timing.detector_runs and len(runs) > STEPS:
            raise SystemExit(f"the detector was called in frame {index}: the hand was lost")

    for _ in range(STEPS):
        follow()
    frame, track, landmarks = video[index % STEPS], tracker._tracks[0], tracker.landmarks
    crop, size = track.look.next_crop, landmarks.manifest.input_shape[1]
    small = crop.warp(frame, size)
    inputs = {"image": as_input(small)}
    parts = cpu_ms(
        {
            "frame": follow,
            "frame checked": lambda: check_frame(frame),
            "next crop": lambda: track.look.next_crop,
            "crop cut out": lambda: crop.warp(frame, size),
            "to float32": lambda: as_input(small),
            "landmark model": lambda: landmarks._runtime.run(inputs),
            "session": lambda: landmarks.run(inputs),
            "filter and hand": lambda: tracker._smoothed(track, track.filtered.time + 1 / 30),
        },
        count,
    )
    parts["session"] -= parts["landmark model"]
    parts["all else"] = 2 * parts["frame"] - sum(parts.values())
    return {**parts, "landmark runs": sum(runs[STEPS:]) / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    with eh.HandTracker(asked.landmarks, asked.detector, asked.runtime, 1, max_hands=1) as tracker:
        parts = measure(tracker, asked.frames)
        model = f"{tracker.landmarks.manifest.name} on {tracker.landmarks.runtime}, {tracker.landmarks.variant.scan}"
    for name, value in parts.items():
        print(f"{name:20} {value:8.3f}" + (f"   bar {BAR}" if name == "frame" else ""))
    load = os.getloadavg()[0]
    print(f"CPU ms, median of {asked.frames}; {model}; {platform.machine()}, load {load:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps({"model": model, "frames": asked.frames, "load": load, "cpu_ms": parts}))


if __name__ == "__main__":
    main()
