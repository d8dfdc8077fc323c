"""How many hands are found in frames whose hands are known: the tracker, and MediaPipe Hands on the same frames.

    python -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe==0.10.21
    python benchmarks/found_hands.py --data frames --count 500 [--mediapipe /tmp/mediapipe/bin/python]
        [--landmarks DIR] [--detector DIR]

Val frames of a folder of shards, each as a photograph with at most two hands. A hand is found when the box of the
joints that somebody gives and the box of its own overlap by half (IoU); a hand that training ignores counts neither
way, as ``edge-hands evaluate`` has it for the detector alone. Shares with 95 % bootstrap intervals over the frames.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge_hands import HandTracker
from edge_hands.errors import EdgeHandsError
from edge_hands.quantization.data.frames import FrameBatches
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.metrics import iou, match

#: Side of the frames that both look at, pixels.
SIDE = 256
RESAMPLES = 1000
_CHILD = Path(__file__).with_name("mediapipe_pictures.py")
_COMPLEXITY = {"MediaPipe lite": 0, "MediaPipe full": 1}


def ours(images: np.ndarray, landmarks: Path | None, detector: Path | None) -> list[list[np.ndarray]]:
    """Joints (21, 2), in shares of the side, of the hands in images (n, S, S, 3)."""
    with HandTracker(landmarks, detector) as tracker:
        return [[hand.joints_uv / SIDE for hand in tracker.track(image, still=True)] for image in images]


def theirs(images: np.ndarray, python: str, complexity: int) -> list[list[np.ndarray]]:
    """The same from MediaPipe Hands in the environment of ``python``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pictures.npy")
        np.save(path, images)
        command = [python, str(_CHILD), str(path), str(complexity)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{python} could not run MediaPipe: {last}. Install mediapipe==0.10.21 there.")
    return [[np.array(hand) for hand in picture] for picture in json.loads(done.stdout)]


def count(found: list[list[np.ndarray]], truth: dict[str, np.ndarray]) -> np.ndarray:
    """(n, 3): hands found rightly, hands given, hands there are, of each of n frames (``FrameBatches``' truth)."""
    counts = np.zeros((len(found), 3), int)
    for i, hands in enumerate(found):
        real = truth["boxes"][i][truth["valid"][i] > 0.5]
        unclear = truth["boxes"][i][truth["ignore"][i] > 0.5]
        counts[i, 2] = len(real)
        if not hands:
            continue
        boxes = np.array([np.clip(np.concatenate([hand.min(0), hand.max(0)]), 0, 1) for hand in hands])
        for box, target in zip(boxes, match(np.ones(len(boxes)), boxes, real)):
            if target < 0 and len(unclear) and iou(box[None], unclear).max() > 0.3:
                continue
            counts[i, :2] += target >= 0, 1
    return counts


def rates(counts: np.ndarray) -> dict[str, list[float]]:
    """Recall and precision, each with its interval: [share, low, high]."""
    rng, n = np.random.default_rng(0), len(counts)
    sums = np.stack([counts.sum(0), *(counts[rng.integers(n, size=n)].sum(0) for _ in range(RESAMPLES))])
    shares = {"recall": sums[:, 0] / sums[:, 2].clip(1), "precision": sums[:, 0] / sums[:, 1].clip(1)}
    return {name: [float(s[0]), *map(float, np.percentile(s[1:], (2.5, 97.5)))] for name, s in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of frame shards; repeatable")
    parser.add_argument("--count", type=int, default=500, help="val frames of each")
    parser.add_argument("--mediapipe", metavar="PYTHON", help="a Python that has mediapipe==0.10.21")
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--detector", type=Path)
    asked = parser.parse_args()
    print("| frames | hands | | recall | precision |\n|---|---|---|---|---|")
    for folder in asked.data:
        pool = Pool(folder, "val", "frame")
        chosen = np.arange(min(asked.count, len(pool)))
        truth = FrameBatches(pool, SIDE, None)(chosen, np.random.default_rng(0))
        found = {"edge_hands": ours(truth["image"], asked.landmarks, asked.detector)}
        for name, complexity in _COMPLEXITY.items() if asked.mediapipe else ():
            found[name] = theirs(truth["image"], asked.mediapipe, complexity)
        for name, hands in found.items():
            counts = count(hands, truth)
            cells = [f"{s:.1%} ({low:.1%} to {high:.1%})" for s, low, high in rates(counts).values()]
            print(f"| {folder.name}, {len(chosen)} | {counts[:, 2].sum()} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except EdgeHandsError as error:
        sys.exit(str(error))
