"""What speaks for a new hand: how much the detector's score, the presence and the joints' confidence each say, and what
each threshold of the tracker finds and takes for a hand that is none.

    make assets
    python benchmarks/evidence.py --data frames --data real-frames [--skip 500] [--count 500] [--empty 500]
        [--threshold 1.0 --threshold 1.3] [--landmarks DIR] [--detector DIR]

Frames are val frames from the ``--skip``-th on, which benchmarks/found_hands.py does not look at; pictures without a
hand are ``--empty`` of each kind that benchmarks/false_hands.py has, for each of two seeds, other ones than it draws.
First a logistic regression over all looks at all candidates: the weights of the log-odds of score and presence and of
the mean log-odds of the joints (``Look.odds``, ``evidence_threshold``). Then, for every ``--threshold``, hands seen in
pictures without one, and recall and precision in the frames, as photographs and as the first frame of a video.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from false_hands import kinds
from found_hands import SIDE, count, rates

from edge_hands import HandTracker
from edge_hands.errors import EdgeHandsError
from edge_hands.images import whole
from edge_hands.look import Look, log_odds
from edge_hands.quantization.data.frames import FrameBatches
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.metrics import iou
from edge_hands.tracker import STILL, VIDEO

SEEDS = (7, 8)
Truth = dict[str, np.ndarray]


def looks(tracker: HandTracker, image: np.ndarray) -> Iterator[tuple[float, Look]]:
    """Every look but the first at every candidate in ``image``, with the detector's score, as ``STILL`` has them."""
    detections = tracker._detect(image, [whole(*image.shape[:2])], STILL)
    for found in detections[: STILL.candidates * tracker.max_hands]:
        for scale, turn in STILL.crops:
            crop = replace(found.crop, side=found.crop.side * scale, angle=found.crop.angle + math.radians(turn))
            for number in range(STILL.looks):
                look = tracker._look_both_ways(image, crop, found.right)
                if look is None:
                    break
                if number:
                    yield found.score, look
                crop = look.next_crop


def is_hand(look: Look, truth: Truth | None, index: int) -> bool | None:
    """Whether the box of a look's joints is that of a hand of frame ``index``; None for a hand that is ignored."""
    if truth is None:
        return False
    box = np.clip(look.box / SIDE, 0, 1)[None]
    real, unclear = (truth["boxes"][index][truth[name][index] > 0.5] for name in ("valid", "ignore"))
    if len(real) and iou(np.repeat(box, len(real), 0), real).max() >= 0.5:
        return True
    return None if len(unclear) and iou(np.repeat(box, len(unclear), 0), unclear).max() > 0.3 else False


def candidates(tracker: HandTracker, pictures: list[tuple[np.ndarray, Truth | None]]) -> np.ndarray:
    """(n, 4): log-odds of the score and the presence, mean log-odds of the joints, 1 for a hand."""
    rows = []
    for images, truth in pictures:
        for index, image in enumerate(images):
            for score, look in looks(tracker, image):
                hand = is_hand(look, truth, index)
                if hand is not None:
                    sure = np.mean([log_odds(p) for p in look.confidence])
                    rows.append((log_odds(score), log_odds(look.presence), sure, hand))
    return np.array(rows, float)


def regression(x: np.ndarray, y: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Weights of the columns of ``x`` (n, k), and the constant behind them, by Newton's method."""
    x, weights = np.column_stack([x, np.ones(len(x))]), np.zeros(x.shape[1] + 1)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-x @ weights))
        weights += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(weights)), x.T @ (y - p))
    return weights


def found(tracker: HandTracker, images: np.ndarray, still: bool) -> list[list[np.ndarray]]:
    """Joints (21, 2), in shares of the side, of the hands in images, each as a photograph or a first frame."""
    hands = []
    for image in images:
        tracker.reset()
        hands.append([hand.joints_uv / SIDE for hand in tracker.track(image, still=still, time=0.0)])
    return hands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of frame shards; repeatable")
    parser.add_argument("--skip", type=int, default=500, help="first val frames of each that are left out")
    parser.add_argument("--count", type=int, default=500, help="val frames of each")
    parser.add_argument("--empty", type=int, default=500, help="pictures of each kind without a hand, for each seed")
    parser.add_argument("--threshold", type=float, action="append", help="evidence_threshold; repeatable")
    parser.add_argument("--assets", type=Path, default=Path("node_modules"))
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--detector", type=Path)
    asked = parser.parse_args()
    empty = {
        name: np.array([image for seed in SEEDS for image in pictures(asked.empty, seed, SIDE)])
        for name, pictures in kinds(asked.assets).items()
    }
    frames: dict[str, Truth] = {}
    for folder in asked.data:
        pool = Pool(folder, "val", "frame")
        chosen = np.arange(min(asked.skip, len(pool)), min(asked.skip + asked.count, len(pool)))
        frames[folder.name] = FrameBatches(pool, SIDE, None)(chosen, np.random.default_rng(0))
    pictures = [(truth["image"], truth) for truth in frames.values()] + [(images, None) for images in empty.values()]

    with HandTracker(asked.landmarks, asked.detector) as tracker:
        rows = candidates(tracker, pictures)
    score, presence, joints, constant = regression(rows[:, :3], rows[:, 3])
    print(f"{len(rows)} looks, {rows[:, 3].mean():.1%} at a hand")
    print(f"weights: score {score:.2f}, presence {presence:.2f}, joints {joints:.2f}, constant {constant:.2f}")
    print(f"over the joints': score {score / joints:.2f}, presence {presence / joints:.2f}")

    names = [f"a hand in {name}" for name in empty] + [f"{name}: recall / precision" for name in frames]
    print(f"\n| evidence asked for | as | {' | '.join(names)} |" + "\n" + "|---" * (len(names) + 2) + "|")
    for threshold in asked.threshold or [None]:
        options = {} if threshold is None else {"evidence_threshold": threshold}
        with HandTracker(asked.landmarks, asked.detector, **options) as tracker:
            for still, way, effort in ((True, "photograph", STILL), (False, "first frame", VIDEO)):
                cells = [f"{np.mean([len(h) > 0 for h in found(tracker, i, still)]):.1%}" for i in empty.values()]
                for truth in frames.values():
                    shares = rates(count(found(tracker, truth["image"], still), truth))
                    cells.append(f"{shares['recall'][0]:.1%} / {shares['precision'][0]:.1%}")
                print(f"| {tracker.evidence_threshold + effort.doubt:g} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except EdgeHandsError as error:
        sys.exit(str(error))
