"""Photographed hands in synthetic frames, for the detector: real skin among drawn people, things and backgrounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from edge_hands.crops import aligned_crop
from edge_hands.hands import MIDDLE_MCP, WRIST
from edge_hands.quantization.data.shards import MAX_HANDS, Pool
from edge_hands.quantization.teacher.compose import cut, lit

_SIDES = (0.08, 0.5)  # of the frame: range of a hand's aligned crop, drawn evenly by its logarithm
_ROOM = 0.6  # hands may come this near each other, in the larger one's crop sides
_TRIES = 8
_TURN = np.deg2rad(50)  # standard deviation of a hand's turn; every fifth is turned anyhow
_SLEEVE = 0.6  # probability that the arm is dressed
_ARM = (0.30, 0.45)  # of the crop's side: range of an arm's width
_BRIGHTER = (1.0, 1.5)  # the photographs are dim

Samples = Iterable[tuple[str, np.ndarray, dict]]


def pasted(samples: Samples, frames: Pool, times: int) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Each right hand of (key, crop image, label) ``times`` times in frames that have room for it, as frame samples.

    Half of them are mirrored to left hands. What is drawn depends on the key and on ``frames`` alone; a hand that
    cannot be cut out is left out.
    """
    roomy = np.flatnonzero(frames.labels["count"] < MAX_HANDS)
    for key, image, label in samples:
        uv = np.array(label["uv"])
        opacity = cut(image, uv)
        if opacity is None:
            continue
        for number in range(times):
            rng = np.random.default_rng([int(key), number, 1])
            index = roomy[rng.integers(len(roomy))]
            others = [
                {"side": "right" if right > 0.5 else "left", "uv": joints, "visible": visible}
                for right, joints, visible in zip(*(frames.labels[n][index] for n in ("right", "uv", "visible")))
            ][: frames.labels["count"][index]]
            frame = frames.image(index)
            if (matrix := _place(rng, frame.shape[:2], uv, [hand["uv"] for hand in others])) is None:
                continue
            joints = uv @ matrix[:, :2].T + matrix[:, 2]
            hand = {
                "side": "right" if np.linalg.det(matrix[:, :2]) > 0 else "left",
                "uv": joints,
                "visible": ((joints >= 0) & (joints < frame.shape[1::-1])).all(-1).astype(float),
            }
            frame = _arm(frame, rng, joints, _skin(image, opacity, uv))
            hands = [{n: v if n == "side" else np.round(v, 2).tolist() for n, v in h.items()} for h in (*others, hand)]
            yield f"{key}-{number}", _paste(frame, image, opacity, matrix, rng), {"kind": "frame", "hands": hands}


def _place(rng: np.random.Generator, shape: tuple[int, int], uv: np.ndarray, others: list) -> np.ndarray | None:
    """Similarity (2, 3) from pixels of the crop image to those of the frame, away from ``others``; None when full."""
    height, width = shape
    own = aligned_crop(uv)
    taken = [(np.array(crop.center), crop.side) for crop in map(aligned_crop, others)]
    for _ in range(_TRIES):
        side = max(shape) * np.exp(rng.uniform(*np.log(_SIDES)))
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.2 else rng.normal(0, _TURN)
        center = rng.uniform(0.05, 0.95, 2) * (width, height)
        linear = side / own.side * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            linear[:, 0] *= -1
        if all(np.linalg.norm(center - other) > _ROOM * max(side, size) for other, size in taken):
            return np.hstack([linear, (center - linear @ own.center)[:, None]])
    return None


def _skin(image: np.ndarray, opacity: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Mean colour (3,) of the forearm, or of the hand where no forearm is seen."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    along = uv[MIDDLE_MCP] - uv[WRIST]
    behind = (columns - uv[WRIST, 0]) * along[0] + (rows - uv[WRIST, 1]) * along[1] < 0
    solid = opacity > 0.9
    return image[solid & behind if (solid & behind).sum() > 30 else solid].mean(0)


def _arm(frame: np.ndarray, rng: np.random.Generator, joints: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """The frame with an arm, bare or dressed, from behind the wrist outwards; photographs end at the wrist."""
    along = joints[WRIST] - joints[MIDDLE_MCP]
    length = np.linalg.norm(along) + 1e-6
    side = aligned_crop(joints).side
    turn = rng.normal(0, 0.15)
    direction = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ (along / length)
    dressed = rng.random() < _SLEEVE
    colour = rng.uniform(0, 255, 3) if dressed else skin * rng.uniform(0.8, 1.0)
    start = joints[WRIST] + direction * side * rng.uniform(0.12, 0.35)
    end = start + direction * side * rng.uniform(0.8, 8.0)
    thick = side * rng.uniform(*_ARM)
    across = np.array([-direction[1], direction[0]]) * thick / 2
    widening = rng.uniform(1.0, 1.5)
    corners = np.stack([start - across, start + across, end + across * widening, end - across * widening])
    mask = np.zeros(frame.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, np.rint(corners * 16).astype(np.int32), 1.0, cv2.LINE_AA, 4)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    off = ((columns - start[0]) * across[0] + (rows - start[1]) * across[1]) / (thick / 2) ** 2
    shade = 1 - 0.35 * np.clip(off + rng.uniform(-0.5, 0.5), -1, 1) ** 2  # a cylinder, darker at its edges
    weight = mask[..., None]
    return np.clip(frame * (1 - weight) + weight * shade[..., None] * colour, 0, 255).astype(np.uint8)


def _paste(
    frame: np.ndarray, image: np.ndarray, opacity: np.ndarray, matrix: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The frame with the hand in it, as bright as a hand there may be; uint8 RGB."""
    shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    stacked = np.dstack([image.astype(np.float32), opacity])
    if shrink < 0.8:
        stacked = cv2.GaussianBlur(stacked, (0, 0), 0.4 / shrink)
    m = matrix.copy()
    m[:, 2] += m[:, :2] @ np.full(2, 0.5) - 0.5  # OpenCV counts from pixel centres
    warped = cv2.warpAffine(stacked, m, frame.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    weight = warped[..., 3:]
    hand = warped[..., :3] * lit(rng) * rng.uniform(*_BRIGHTER)
    if np.ptp(frame, axis=-1).mean() < 2:  # a grey sensor
        hand = hand.mean(-1, keepdims=True)
    return np.clip(hand * weight + frame * (1 - weight), 0, 255).astype(np.uint8)
