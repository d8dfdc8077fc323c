"""The tracker: frames in, hands out.

A hand is found by the detector, seen by the landmark model in an aligned crop (mirrored for a left hand), and followed
from frame to frame by the crop of its own joints. Photographs are taken one by one: the detector also looks at tiles,
so that a small hand in a large picture is found, and nothing is carried over to the next.
"""

from __future__ import annotations

import math
import os
import threading
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edge_hands.bundle import bundled
from edge_hands.crops import Crop
from edge_hands.decode import Detection, containment, decode, iou, suppress
from edge_hands.errors import BundleError, SessionError
from edge_hands.filters import OneEuro, OneEuroState, one_euro
from edge_hands.hand import Hand
from edge_hands.hands import REFERENCE_SKELETON_LENGTH
from edge_hands.images import View, as_input, check_frame, tiles, whole
from edge_hands.look import Look, distinct, log_odds
from edge_hands.session import Session
from edge_hands.signing import PublicKey

if TYPE_CHECKING:
    from typing_extensions import Self

#: A detector's probability of its side from which on the other side is not looked at; it counts for no more.
_SURE = 0.9
#: How much one frame's handedness counts against those before it.
_HANDEDNESS_MIX = 0.2
#: Default smoothing: steady at rest, less than a frame of lag in a fast gesture.
SMOOTHING = OneEuro(min_cutoff=1.5, beta=6.0)
#: Length that stands for "one hand" in the filter's speeds of joints in metres.
_HAND_METRES = 0.2
#: Crops of fewer pixels (a side) show a landmark model nothing but blur.
_SMALLEST_CROP = 24.0
#: Black margin of the last view tried on a photograph in which no hand was found: for a hand that fills it.
_MARGIN = 0.3


@dataclass(frozen=True)
class Timing:
    """What one frame took, in milliseconds, and how often each model ran."""

    detect_ms: float = 0.0
    landmarks_ms: float = 0.0
    total_ms: float = 0.0
    detector_runs: int = 0
    landmark_runs: int = 0


@dataclass(frozen=True)
class Effort:
    """How hard new hands are looked for: at most ``candidates`` for each hand that may be shown, each in ``crops``, the
    detector's made so many times as large and turned by so many degrees, ``looks`` times, every look in the crop of the
    last one's joints. The best look but the first counts. Candidates of only ``faint`` times the detector's threshold
    are looked at too. Many looks meet more that is no hand: ``doubt`` is what the evidence must be beyond the tracker's
    threshold.
    """

    candidates: int
    crops: tuple[tuple[float, float], ...]
    looks: int
    faint: float = 1.0
    doubt: float = 0.0


#: In video the next frame is the next look.
VIDEO = Effort(1, ((1.0, 0.0),), 2)
#: A detector's crop that cuts fingers off does not grow by itself, nor does one turn that is far from upright: half of
#: the detector's are more than 13 degrees off. ``doubt`` was chosen by benchmarks/evidence.py.
STILL = Effort(6, ((1.0, 0.0), (1.4, 0.0), (1.2, -45.0), (1.2, 45.0)), 3, faint=0.5, doubt=0.5)


@dataclass
class _Track:
    id: int
    look: Look
    right: float
    filtered: OneEuroState | None = None  # uv and xyz side by side, (21, 5)

    def add(self, look: Look) -> None:
        if look.crop.mirror != self.look.crop.mirror:
            self.filtered = None  # the joints have changed sides; do not smear them across the hand
        self.look = look
        self.right += _HANDEDNESS_MIX * (look.right - self.right)


class HandTracker:
    """Tracks hands through frames. A context manager; it belongs to one thread at a time.

    landmarks, detector: folders of bundles, or open sessions (then the caller closes them); None for the bundled ones.
    runtime, threads, public_key: as in ``Session.open``; with a key both bundles must be signed, and an open session,
    whose bundle can no longer be checked, is refused. max_hands: of a frame, best first. hand_size: sum of the 20 bone
    lengths in metres of this user, to which ``joints_xyz`` is scaled. detect_threshold: the detector's score from which
    a place is looked at; in photographs half of it (``STILL``). evidence_threshold: from which a new hand is believed,
    the log-odds of that score and of the look together (``Look.evidence``); photographs ask for more. Less finds more
    hands, and more that are none.
    presence_threshold: the landmark model's probability of a hand below which it is lost. detect_every: while fewer
    than max_hands are tracked, look for more in every n-th frame. tiles: views of a photograph beside the whole, (2, 3)
    for 2x2 and 3x3; None lets its size decide. smoothing: one-euro settings for video, speeds in hand sizes per second;
    None for raw joints.
    """

    def __init__(
        self,
        landmarks: str | os.PathLike[str] | Session | None = None,
        detector: str | os.PathLike[str] | Session | None = None,
        runtime: str = "auto",
        threads: int = 1,
        max_hands: int = 2,
        *,
        hand_size: float = REFERENCE_SKELETON_LENGTH,
        detect_threshold: float = 0.3,
        evidence_threshold: float = 1.3,
        presence_threshold: float = 0.7,
        detect_every: int = 5,
        tiles: Sequence[int] | None = None,
        smoothing: OneEuro | None = SMOOTHING,
        public_key: PublicKey | None = None,
    ) -> None:
        if max_hands < 1 or detect_every < 1 or not hand_size > 0 or any(not 2 <= n <= 8 for n in tiles or ()):
            raise ValueError("max_hands and detect_every must be at least 1, hand_size positive, tiles from 2 to 8")
        self.max_hands, self.hand_size, self.detect_every = max_hands, hand_size, detect_every
        self.detect_threshold, self.evidence_threshold = detect_threshold, evidence_threshold
        self.presence_threshold = presence_threshold
        self.tiles, self.smoothing = None if tiles is None else tuple(tiles), smoothing
        self.timing = Timing()
        self._busy = threading.Lock()
        self._opened: list[Session] = []
        try:
            self.landmarks = self._open(landmarks, "landmarks", runtime, threads, public_key)
            self.detector = self._open(detector, "detector", runtime, threads, public_key)
        except BaseException:
            self.close()
            raise
        self.reset()

    def _open(
        self,
        source: str | os.PathLike[str] | Session | None,
        kind: str,
        runtime: str,
        threads: int,
        public_key: PublicKey | None,
    ) -> Session:
        session = source
        if source is None or isinstance(source, (str, os.PathLike)):
            folder = bundled(kind) if source is None else source
            session = Session.open(folder, runtime, threads, public_key=public_key)
            self._opened.append(session)
        elif public_key is not None:
            raise BundleError(
                f"{source.manifest.name} is an open session, whose signature a tracker cannot check: give its folder, "
                "or open both sessions with Session.open(..., public_key=...) and the tracker without a key."
            )
        manifest = session.manifest
        if manifest.kind != kind:
            raise BundleError(f"{manifest.name} is a {manifest.kind} model where a {kind} model is needed.")
        if manifest.input_shape[1] != manifest.input_shape[2]:
            raise BundleError(
                f"{manifest.name} has the input {list(manifest.input_shape)}; a tracker needs a square one."
            )
        return session

    def track(self, frame: np.ndarray, *, time: float | None = None, still: bool | None = None) -> list[Hand]:
        """The hands in ``frame``, best first; an empty list if there are none.

        frame: RGB, uint8 or float in [0, 1], (H, W, 3); grey and alpha are taken too, else FrameError. time: seconds,
        for the filter; None for the frame's own (``frames`` gives it) or else now. still: a photograph on its own; None
        for what ``frames`` says of it, a plain array counts as video.
        """
        image = check_frame(frame)
        still = getattr(frame, "still", False) if still is None else still
        time = getattr(frame, "time", None) if time is None else time
        time = clock.monotonic() if time is None else time
        if not self._busy.acquire(blocking=False):
            raise SessionError("This tracker is running in another thread: open one tracker for each thread.")
        try:
            self.timing, start = Timing(), clock.perf_counter()
            hands = self._still(image) if still else self._video(image, time)
            self.timing = replace(self.timing, total_ms=_ms_since(start))
        finally:
            self._busy.release()
        return hands

    def reset(self) -> None:
        """Forget every hand: the next frame has nothing to do with the last. Ids start again."""
        self._tracks: list[_Track] = []
        self._ids = count()
        self._frame = 0
        self._shape: tuple[int, ...] | None = None

    def close(self) -> None:
        """Close the models that this tracker opened. A second time does nothing."""
        for session in self._opened:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _still(self, frame: np.ndarray) -> list[Hand]:
        self.reset()
        height, width = frame.shape[:2]
        views = [whole(height, width)]
        for n in self._tile_counts(max(height, width)):
            views += tiles(height, width, n)
        looks = self._looks(frame, self._detect(frame, views, STILL), STILL)
        if not looks:
            looks = self._looks(frame, self._detect(frame, [whole(height, width, _MARGIN)], STILL), STILL)
        kept = distinct(sorted(looks, key=lambda look: -look.evidence))[: self.max_hands]
        return [self._hand(look, next(self._ids), look.right) for look in kept]

    def _tile_counts(self, long: int) -> tuple[int, ...]:
        if self.tiles is not None:
            return self.tiles
        size = self.detector.manifest.input_shape[1]
        return () if long <= 2 * size else (2,) if long <= 6 * size else (2, 3)

    def _video(self, frame: np.ndarray, time: float) -> list[Hand]:
        if self._shape not in (None, frame.shape):
            self.reset()
        self._shape = frame.shape
        before = len(self._tracks)
        self._tracks = [track for track in self._tracks if self._follow(frame, track)]
        self._drop_doubles()
        lost, missing = len(self._tracks) < before, len(self._tracks) < self.max_hands
        if missing and (lost or not self._tracks or self._frame % self.detect_every == 0):
            self._find(frame)
        self._frame += 1
        hands = [self._smoothed(track, time) for track in self._tracks]
        return sorted(hands, key=lambda hand: -hand.score)

    def _follow(self, frame: np.ndarray, track: _Track) -> bool:
        """Whether the hand is still there; if so the track has its new joints."""
        look = self._look(frame, track.look.next_crop)
        if look is None or look.presence < self.presence_threshold:
            return False
        track.add(look)
        if (track.right < 0.5) != look.crop.mirror:
            other = self._look(frame, replace(look.crop, mirror=not look.crop.mirror))
            if other is not None and other.presence >= self.presence_threshold and other.fit > look.fit:
                track.add(other)
        return True

    def _find(self, frame: np.ndarray) -> None:
        tracked = [track.look.box for track in self._tracks]
        new = [
            found
            for found in self._detect(frame, [whole(*frame.shape[:2])], VIDEO)
            if all(iou(found.box, box) < 0.3 and containment(found.box, box) < 0.6 for box in tracked)
        ]
        for look in self._looks(frame, new, VIDEO):
            self._tracks.append(_Track(next(self._ids), look, look.right))
        self._drop_doubles()
        self._tracks = self._tracks[: self.max_hands]

    def _drop_doubles(self) -> None:
        kept = distinct(track.look for track in self._tracks)  # older tracks stand first and keep their id
        self._tracks = [track for track in self._tracks if any(track.look is look for look in kept)]

    def _detect(self, frame: np.ndarray, views: list[View], effort: Effort) -> list[Detection]:
        start, size, found = clock.perf_counter(), self.detector.manifest.input_shape[1], []
        for view in views:
            outputs = self.detector.run({"image": as_input(view.image(frame, size))})
            found += decode(outputs, view, effort.faint * self.detect_threshold)
        timing = self.timing
        self.timing = replace(
            timing, detect_ms=timing.detect_ms + _ms_since(start), detector_runs=timing.detector_runs + len(views)
        )
        return suppress(found)

    def _looks(self, frame: np.ndarray, detections: list[Detection], effort: Effort) -> list[Look]:
        """The best look at each detection that is a hand; the best detections stand first."""
        most = effort.candidates * self.max_hands
        best = (self._refined(frame, detection, effort) for detection in detections[:most])
        return [look for look in best if look is not None]

    def _refined(self, frame: np.ndarray, detection: Detection, effort: Effort) -> Look | None:
        best, most = None, self.evidence_threshold + effort.doubt
        for scale, turn in effort.crops:
            given = detection.crop
            crop = replace(given, side=given.side * scale, angle=given.angle + math.radians(turn))
            for number in range(effort.looks):
                look = self._look_both_ways(frame, crop, detection.right)
                if look is None or look.presence < self.presence_threshold:
                    break
                look = replace(look, detected=detection.score)
                if number > 0 and look.evidence >= most:
                    best, most = look, look.evidence
                crop = look.next_crop
        return best

    def _look_both_ways(self, frame: np.ndarray, crop: Crop, right: float) -> Look | None:
        """A look at ``crop`` and at its mirror image: which of the two the landmark model finds more fitting tells left
        from right best. A detector that is sure by ``right`` is believed unless the model contradicts."""
        look = self._look(frame, crop)
        own = min(max(1.0 - right if crop.mirror else right, 1.0 - _SURE), _SURE)
        if look is None or (own >= _SURE and look.fit >= 0.5):
            return look
        other = self._look(frame, replace(crop, mirror=not crop.mirror))
        if other is None or log_odds(look.fit) + log_odds(own) >= log_odds(other.fit):
            return look
        return other

    def _look(self, frame: np.ndarray, crop: Crop) -> Look | None:
        """What the landmark model sees in ``crop``; None for a crop off the frame or a non-finite output."""
        height, width = frame.shape[:2]
        x, y = crop.center
        if not _SMALLEST_CROP <= crop.side <= 8 * max(height, width) or not (0 <= x <= width and 0 <= y <= height):
            return None
        start = clock.perf_counter()
        image = crop.warp(frame, self.landmarks.manifest.input_shape[1])
        outputs = self.landmarks.run({"image": as_input(image)})
        timing = self.timing
        self.timing = replace(
            timing, landmarks_ms=timing.landmarks_ms + _ms_since(start), landmark_runs=timing.landmark_runs + 1
        )
        if not all(np.isfinite(output).all() for output in outputs.values()):
            return None
        return Look(
            crop,
            crop.to_frame(outputs["joints_uv"][0].astype(float)),
            crop.xyz_to_frame(outputs["joints_xyz"][0].astype(float)),
            np.clip(outputs["confidence"][0], 0, 1),
            float(np.clip(outputs["presence"][0], 0, 1)),
            float(np.clip(outputs["handedness"][0], 0, 1)),
        )

    def _smoothed(self, track: _Track, time: float) -> Hand:
        look = track.look
        if self.smoothing is not None:
            sizes = np.array([max(look.size, 1.0)] * 2 + [_HAND_METRES] * 3)
            joints = np.hstack([look.uv, look.xyz])
            track.filtered = one_euro(joints, time, track.filtered, self.smoothing, sizes)
            look = replace(look, uv=track.filtered.value[:, :2], xyz=track.filtered.value[:, 2:])
        return self._hand(look, track.id, track.right)

    def _hand(self, look: Look, id: int, right: float) -> Hand:
        return Hand(
            joints_uv=look.uv.astype(np.float32),
            joints_xyz=(look.xyz * (self.hand_size / REFERENCE_SKELETON_LENGTH)).astype(np.float32),
            confidence=look.confidence.astype(np.float32),
            handedness="left" if look.crop.mirror else "right",
            handedness_score=1.0 - right if look.crop.mirror else right,
            score=look.presence,
            id=id,
        )


def _ms_since(start: float) -> float:
    return (clock.perf_counter() - start) * 1e3
