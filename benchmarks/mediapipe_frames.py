"""MediaPipe Hands on a row of frames, for against_mediapipe.py, in MediaPipe's own environment.

    python mediapipe_frames.py FRAMES.npy COMPLEXITY

FRAMES: (n, H, W, 3) uint8 RGB, gone through in a circle. For each line on standard input, a number of frames, answers
a line of JSON: ``cpu_ms`` a frame, of all threads of this process, and ``found``, the share with a hand.
"""

from __future__ import annotations

import json
import sys
import time

import mediapipe
import numpy as np


def main() -> None:
    frames = np.load(sys.argv[1])
    hands = mediapipe.solutions.hands.Hands(max_num_hands=1, model_complexity=int(sys.argv[2]))
    position = 0
    for line in sys.stdin:
        count, found, begin = int(line), 0, time.process_time()
        for _ in range(count):
            found += hands.process(frames[position]).multi_hand_landmarks is not None
            position = (position + 1) % len(frames)
        cpu_ms = (time.process_time() - begin) * 1000 / count
        print(json.dumps({"cpu_ms": cpu_ms, "found": found / count}), flush=True)


if __name__ == "__main__":
    main()
