"""MediaPipe Hands over a stack of pictures, in an environment of its own: run as a script, imported by nothing.

    python mediapipe_hands.py IN.npz OUT.npz

IN holds ``images`` (n, H, W, 3) uint8 RGB. OUT holds, for each of the V looks in ``VIEWS``, the best hand that
MediaPipe found: ``uv`` (n, V, 21, 2) continuous pixels of the picture, ``xyz`` (n, V, 21, 3) its world landmarks in
metres with the picture's axes (x right, y down, z forward), ``score`` (n, V) of its handedness and ``right`` (n, V),
1 for a right hand. All are NaN where it found none.
"""

from __future__ import annotations

import sys
import time

import cv2
import mediapipe
import numpy as np

#: (enlargement of a 100-pixel picture, turn in degrees, mirrored, model complexity) of each look.
VIEWS = (
    (4.0, 0.0, False, 1),
    (3.6, 10.0, True, 1),
    (4.4, -10.0, False, 0),
)
#: Border around the picture, as a share of its side: a hand that fills a picture is not found without one.
PADDING = 0.35


def main() -> None:
    source, target = sys.argv[1:]
    cv2.setNumThreads(1)
    images = np.load(source)["images"]
    shape = len(images), len(VIEWS)
    found = {"uv": np.full((*shape, 21, 2), np.nan), "xyz": np.full((*shape, 21, 3), np.nan)}
    found |= {"score": np.full(shape, np.nan), "right": np.full(shape, np.nan)}
    hands = {
        c: mediapipe.solutions.hands.Hands(
            static_image_mode=True, max_num_hands=1, model_complexity=c, min_detection_confidence=0.3
        )
        for c in sorted({view[3] for view in VIEWS})
    }
    start = time.monotonic()
    for i, image in enumerate(images):
        for v, view in enumerate(VIEWS):
            hand = look(hands[view[3]], image, *view[:3])
            if hand:
                for name, value in hand.items():
                    found[name][i, v] = value
        if i % 100 == 99:
            print(f"{i + 1} of {len(images)} pictures in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    np.savez(target, views=np.array(VIEWS, float), **found)


def look(hands, image: np.ndarray, scale: float, turn: float, mirror: bool) -> dict | None:
    """The hand in one look at a picture, in the picture's own pixels and axes, or None."""
    side = max(image.shape[:2])
    size = round(100 * scale * (1 + 2 * PADDING))
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        rotation[0] = -rotation[0]
    linear = rotation * (100 * scale / side)
    center = np.array([image.shape[1], image.shape[0]]) / 2
    shift = size / 2 - linear @ center
    matrix = np.hstack([linear, (shift + linear @ [0.5, 0.5] - 0.5)[:, None]])
    view = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    result = hands.process(view)
    if not result.multi_hand_landmarks:
        return None
    uv = np.array([(p.x, p.y) for p in result.multi_hand_landmarks[0].landmark]) * size
    xyz = np.array([(p.x, p.y, p.z) for p in result.multi_hand_world_landmarks[0].landmark])
    side = result.multi_handedness[0].classification[0]
    # MediaPipe names sides for a mirrored (selfie) picture, so its "Left" is a right hand of a picture as it is.
    right = (side.label == "Left") != mirror
    xyz[:, :2] = xyz[:, :2] @ rotation
    return {"uv": (uv - shift) @ np.linalg.inv(linear).T, "xyz": xyz, "score": side.score, "right": float(right)}


if __name__ == "__main__":
    main()
