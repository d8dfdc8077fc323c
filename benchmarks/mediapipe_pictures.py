"""MediaPipe Hands on single pictures, for found_hands.py, in MediaPipe's own environment.

    python mediapipe_pictures.py PICTURES.npy COMPLEXITY

PICTURES: (n, H, W, 3) uint8 RGB. Writes one line of JSON: for each picture the joints of each of at most two hands,
[[[x, y], ... 21], ...], as shares of the picture's sides.
"""

from __future__ import annotations

import json
import sys

import mediapipe
import numpy as np


def main() -> None:
    pictures = np.load(sys.argv[1])
    hands = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=2, model_complexity=int(sys.argv[2]))
    found = [hands.process(picture).multi_hand_landmarks or [] for picture in pictures]
    print(json.dumps([[[[p.x, p.y] for p in hand.landmark] for hand in picture] for picture in found]))


if __name__ == "__main__":
    main()
