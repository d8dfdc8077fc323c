"""The bundled models and the tracker against MediaPipe Hands in one run, one thread each.

    python -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe==0.10.21
    OMP_NUM_THREADS=1 python benchmarks/against_mediapipe.py --mediapipe /tmp/mediapipe/bin/python \
        --out benchmarks/results/mediapipe-x86_64.md

Models: MediaPipe's own .tflite files in the LiteRT interpreter of this environment, bare ``invoke``; ours through
``Session.run``, copies of tensors included. Frames: ``HandTracker.track`` here and ``Hands.process`` in MediaPipe's
environment (mediapipe_frames.py), one hand, video mode, on the same picture that drifts by a pixel a frame.

Times are CPU time of all threads, so a busy machine disturbs them little. Every round times each contestant once, one
after another; a ratio is the median over the rounds of the ratio within one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from edge_hands import HandTracker, Session
from edge_hands.bundle import bundled
from edge_hands.errors import RuntimeUnavailable

BARS = {"landmarks": 0.3, "detector": 0.3, "frame": 2.5}
_FRAMES = 32  # of the drifting picture, there and back
_CHILD = Path(__file__).with_name("mediapipe_frames.py")
_WHERE = "import importlib.util as u; print(u.find_spec('mediapipe').submodule_search_locations[0])"
_THEIRS = {
    "landmarks": {"lite": "hand_landmark/hand_landmark_lite", "full": "hand_landmark/hand_landmark_full"},
    "detector": {"lite": "palm_detection/palm_detection_lite", "full": "palm_detection/palm_detection_full"},
}


class TheirTracker:
    """MediaPipe Hands in a process of its own; called with a number of frames, returns CPU ms a frame."""

    def __init__(self, python: str, frames: Path, complexity: int) -> None:
        command = [python, str(_CHILD), str(frames), str(complexity)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.found = 1.0

    def __call__(self, count: int) -> float:
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeUnavailable(
                f"MediaPipe ended with code {self._process.wait()}; run `{_CHILD.name}` to see why"
            )
        found = json.loads(answer)
        self.found = min(self.found, found["found"])
        return found["cpu_ms"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class OurTracker:
    """HandTracker; called with a number of frames, returns CPU ms a frame."""

    def __init__(self, frames: np.ndarray, bundles: dict[str, Path]) -> None:
        self._frames, self._next, self._tracker = frames, 0, HandTracker(**bundles, max_hands=1, threads=1)
        self.found = 1.0

    def __call__(self, count: int) -> float:
        hands, begin = 0, time.process_time()
        for _ in range(count):
            hands += len(self._tracker.track(self._frames[self._next], time=self._next / 30))
            self._next = (self._next + 1) % len(self._frames)
        took = (time.process_time() - begin) * 1000 / count
        self.found = min(self.found, hands / count)
        return took

    def close(self) -> None:
        self._tracker.close()


def ours(bundle: Path) -> Callable[[], object]:
    """One run of our model."""
    session = Session.open(bundle, threads=1)
    _, height, width, _ = session.manifest.input_shape
    image = np.random.default_rng(0).random((1, height, width, 3), np.float32)
    return lambda: session.run({"image": image})


def theirs(path: Path) -> Callable[[], object]:
    """One run of a .tflite file, with its input in place."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]
    interpreter.set_tensor(place["index"], np.random.default_rng(0).random(place["shape"], np.float32))
    return interpreter.invoke


def cpu_ms(run: Callable[[], object], repeats: int) -> float:
    begin = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - begin) * 1000 / repeats


def drifting(picture: Path, count: int) -> np.ndarray:
    """(count, H, W, 3) uint8 RGB: the picture, longer side 640, moving right by a pixel a frame and back again."""
    image = cv2.imread(str(picture), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise SystemExit(f"{picture} cannot be read as a picture; give --picture another")
    zoom = 640 / max(image.shape[:2])
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    steps = np.minimum(np.arange(count), np.arange(count, 0, -1))
    return np.stack([np.roll(image, step, axis=1) for step in steps])


def measure(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Times (rounds,) of each, one after another in every round, after one that warms up."""
    times = [[run() for run in contestants.values()] for _ in range(rounds + 1)]
    return dict(zip(contestants, np.array(times[1:]).T))


def models(kind: str, bundle: Path, modules: Path, rounds: int, repeats: int) -> dict[str, np.ndarray]:
    """Times of our model and of MediaPipe's two."""
    runs = {"ours": ours(bundle)} | {name: theirs(modules / f"{file}.tflite") for name, file in _THEIRS[kind].items()}
    return measure({name: lambda run=run: cpu_ms(run, repeats) for name, run in runs.items()}, rounds)


def trackers(
    frames: np.ndarray, bundles: dict[str, Path], python: str, rounds: int, repeats: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Times of a tracked frame, and the lowest share of frames of a round in which each tracker had the hand."""
    running: dict[str, OurTracker | TheirTracker] = {}
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "frames.npy"
        np.save(stored, frames)
        try:
            running["ours"] = OurTracker(frames, bundles)
            for name, complexity in (("lite", 0), ("full", 1)):
                running[name] = TheirTracker(python, stored, complexity)
            for tracker in running.values():
                tracker(len(frames))
                tracker.found = 1.0  # the first frames look for the hand
            times = measure({name: lambda t=t: t(repeats) for name, t in running.items()}, rounds)
        finally:
            for tracker in running.values():
                tracker.close()
    return times, {name: tracker.found for name, tracker in running.items()}


def report(times: dict[str, dict[str, np.ndarray]], found: dict[str, float], command: str) -> str:
    lines = [
        "# Our models and tracker against MediaPipe Hands 0.10.21, one thread",
        "",
        f"{date.today()}, {_processor()}, {platform.system()}, ai-edge-litert {version('ai-edge-litert')}:",
        f"`{command}`",
        "",
        "CPU milliseconds, median of the rounds (10th to 90th percentile). Ratio: ours over theirs, the median of the",
        "ratios within a round; a shared machine, so compare these.",
        "",
        "| what | ours | MediaPipe lite | MediaPipe full | ours / lite | ours / full | bar | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, runs in times.items():
        cells = [_span(runs[name]) for name in ("ours", "lite", "full")]
        ratios = [float(np.median(runs["ours"] / runs[name])) for name in ("lite", "full")]
        value, bar = (np.median(runs["ours"]), BARS[what]) if what == "frame" else (ratios[0], BARS[what])
        asked = f"<= {bar} ms" if what == "frame" else f"<= {bar} x lite"
        label = {"landmarks": "landmark model", "detector": "detector / palm model", "frame": "tracked frame"}[what]
        cells += [f"{ratio:.2f}" for ratio in ratios] + [asked, "met" if value <= bar else "missed"]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    seen = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
    return "\n".join([*lines, "", f"Frames in which the hand was tracked: {seen}.", ""])


def _span(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mediapipe", required=True, help="Python of an environment with mediapipe 0.10.21")
    parser.add_argument("--landmarks", type=Path, default=bundled("landmarks"), help="our landmark bundle")
    parser.add_argument("--detector", type=Path, default=bundled("detector"), help="our detector bundle")
    parser.add_argument("--picture", type=Path, default=bundled("landmarks").parent / "sample.jpg")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=10, help="runs or frames of a contestant in a round")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    asked = subprocess.run([options.mediapipe, "-c", _WHERE], capture_output=True, text=True)
    if asked.returncode:
        raise SystemExit(f"{options.mediapipe} has no mediapipe: {asked.stderr.strip().splitlines()[-1]}")
    modules = Path(asked.stdout.strip()) / "modules"
    bundles = {"landmarks": options.landmarks, "detector": options.detector}
    times = {kind: models(kind, bundle, modules, options.rounds, options.repeats) for kind, bundle in bundles.items()}
    frames = drifting(options.picture, _FRAMES)
    times["frame"], found = trackers(frames, bundles, options.mediapipe, options.rounds, options.repeats)
    text = report(times, found, " ".join(["python", *sys.argv]))
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
