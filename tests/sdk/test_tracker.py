"""The tracker's logic in a world of known hands; see ``World`` in conftest for how its models see."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_hands.errors import BundleError, FrameError, SessionError
from edge_hands.tracker import HandTracker


@pytest.fixture
def tracker(world):
    with HandTracker(world.model("landmarks"), world.model("detector"), smoothing=None) as made:
        yield made


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("angle", [0.0, 1.2, np.pi, -2.0])
@pytest.mark.parametrize("left", [False, True])
def test_joints_come_back_to_the_frame_from_a_turned_and_mirrored_crop(world, tracker, shape, angle, left, still):
    joints = shape((120, 130), 80, angle, left)
    world.hands = [(joints, "left" if left else "right")]
    (hand,) = tracker.track(world.frame(), still=still)
    assert np.abs(hand.joints_uv - joints).max() < 0.5
    assert hand.handedness == ("left" if left else "right")
    assert hand.handedness_score == pytest.approx(0.95, abs=0.01)
    assert hand.box == pytest.approx([*joints.min(0), *joints.max(0)], abs=0.5)
    # The joints in metres turn and mirror along: the fake model gives 0.2 m for a crop's side.
    side = 1.45 * max(np.ptp(shape((0, 0), 80), axis=0))
    assert hand.joints_xyz[:, :2] == pytest.approx((joints - joints[0]) / side * 0.2, abs=2e-3)


def test_hand_size_scales_metres_only(world, shape):
    world.hands = [(shape((120, 130), 80), "right")]
    hands = []
    for size in (0.94, 0.47):
        with HandTracker(world.model("landmarks"), world.model("detector"), hand_size=size) as tracker:
            hands += tracker.track(world.frame(), still=True)
    assert hands[1].joints_xyz == pytest.approx(hands[0].joints_xyz / 2)
    assert hands[1].joints_uv == pytest.approx(hands[0].joints_uv)


def test_a_followed_hand_keeps_its_id_and_needs_no_detector(world, tracker, shape):
    tracker.max_hands = 1
    ids = []
    for step in range(12):
        world.hands = [(shape((80 + 5 * step, 120 + 2 * step), 80, 0.03 * step), "right")]
        (hand,) = tracker.track(world.frame(), time=step / 30)
        ids.append(hand.id)
        assert np.abs(hand.joints_uv - world.hands[0][0]).max() < 0.7
    assert set(ids) == {0}
    assert world.detector_runs == 1
    assert tracker.timing.landmark_runs == 1
    assert tracker.timing.detector_runs == 0


def test_a_second_hand_is_looked_for_in_every_nth_frame(world, tracker, shape):
    first, second = (shape((70, 130), 80), "right"), (shape((180, 130), 80, left=True), "left")
    world.hands = [first]
    tracker.track(world.frame())
    world.hands = [first, second]
    found = [len(tracker.track(world.frame())) for _ in range(tracker.detect_every)]
    assert found == [1] * (tracker.detect_every - 1) + [2]
    assert world.detector_runs == 2
    hands = {hand.handedness: hand.id for hand in tracker.track(world.frame())}
    assert hands == {"right": 0, "left": 1}


def test_a_lost_hand_is_looked_for_at_once_and_gets_a_new_id(world, tracker, shape):
    world.hands = [(shape((60, 70), 80), "right")]
    assert [hand.id for hand in tracker.track(world.frame())] == [0]
    world.hands = [(shape((190, 180), 80), "right")]
    assert [hand.id for hand in tracker.track(world.frame())] == [1]
    world.hands = []
    assert tracker.track(world.frame()) == []
    tracker.reset()
    world.hands = [(shape((60, 70), 80), "right")]
    assert [hand.id for hand in tracker.track(world.frame())] == [0]


def test_two_detections_of_one_hand_give_one_hand(world, tracker, shape):
    world.hands = [(shape((120, 130), 80), "right")]
    world.extra = [(shape((160, 170), 70), "right"), (shape((95, 100), 60), "right")]
    assert len(tracker.track(world.frame(), still=True)) == 1
    assert len(tracker.track(world.frame(), still=False)) == 1


def test_tracks_that_run_into_one_hand_become_one(world, tracker, shape):
    apart = [(shape((90, 130), 80), "right"), (shape((160, 130), 80), "right")]
    world.hands = apart
    assert len(tracker.track(world.frame())) == 2
    world.hands = [(shape((125, 130), 80), "right")]
    assert len(tracker.track(world.frame())) == 1


@pytest.mark.parametrize("still", [True, False])
def test_a_wrong_side_from_the_detector_is_turned_round(world, tracker, shape, still):
    world.hands, world.wrong_side = [(shape((120, 130), 80, left=True), "left")], True
    (hand,) = tracker.track(world.frame(), still=still)
    assert hand.handedness == "left"
    assert np.abs(hand.joints_uv - world.hands[0][0]).max() < 0.5


def test_an_unsure_detector_leaves_the_side_to_the_landmarks_that_fit_better(world, tracker, shape):
    world.hands, world.wrong_side = [(shape((120, 130), 80), "right")], True
    world.sureness, world.misfit = 0.55, 0.8
    assert [hand.handedness for hand in tracker.track(world.frame(), still=True)] == ["right"]
    world.sureness = 0.95
    assert [hand.handedness for hand in tracker.track(world.frame(), still=True)] == ["left"]


def test_handedness_needs_several_frames_to_change(world, tracker, shape):
    joints = shape((120, 130), 80)
    world.hands = [(joints, "right")]
    tracker.track(world.frame())
    world.hands = [(joints, "left")]
    sides = [tracker.track(world.frame())[0].handedness for _ in range(6)]
    assert sides[:2] == ["right", "right"]
    assert sides[-1] == "left"


def test_a_hand_with_a_non_finite_output_is_dropped(world, tracker, shape):
    world.hands, world.broken = [(shape((120, 130), 80), "right")], True
    assert tracker.track(world.frame()) == []
    assert tracker.track(world.frame(), still=True) == []
    world.broken = False
    assert len(tracker.track(world.frame())) == 1
    world.broken = True
    assert tracker.track(world.frame()) == []


def test_a_new_hand_needs_sure_joints_a_followed_one_does_not(world, tracker, shape):
    world.hands, world.confidence = [(shape((120, 130), 80), "right")], 0.1
    assert tracker.track(world.frame()) == []
    assert tracker.track(world.frame(), still=True) == []
    world.confidence = 0.8
    assert len(tracker.track(world.frame(), still=True)) == 1
    assert len(tracker.track(world.frame())) == 1
    world.confidence = 0.1
    assert len(tracker.track(world.frame())) == 1


@pytest.mark.parametrize("still", [True, False])
def test_what_the_detector_and_the_joints_say_of_a_new_hand_adds_up(world, shape, still):
    def found(score: float, confidence: float, **thresholds: float) -> int:
        world.score, world.confidence = score, confidence
        with HandTracker(world.model("landmarks"), world.model("detector"), **thresholds) as tracker:
            return len(tracker.track(world.frame(), still=still))

    world.hands = [(shape((120, 130), 80), "right")]
    assert found(0.35, 0.9) == 1  # log-odds: -0.6 + 2.2 + 0.3 * 3.9 of the presence
    assert found(0.35, 0.6) == 0
    assert found(0.9, 0.6) == 1
    assert found(0.35, 0.6, evidence_threshold=0.0) == 1
    assert found(0.9, 0.6, evidence_threshold=6.0) == 0
    assert found(0.35, 0.73) == (0 if still else 1)  # a photograph has been searched harder
    assert found(0.2, 0.95) == (1 if still else 0)  # in video it is not looked at: the next frame may show it better
    assert found(0.1, 1.0) == 0
    assert found(0.1, 1.0, detect_threshold=0.09) == 1


def test_tiles_find_a_small_hand_in_a_large_photograph(world, tracker, shape):
    world.width, world.height, world.smallest = 1600, 900, 0.15
    joints = shape((1210, 610), 110, 0.4)
    world.hands = [(joints, "right")]
    frame = world.frame()
    (hand,) = tracker.track(frame, still=True)
    assert np.abs(hand.joints_uv - joints).max() < 3  # 8-bit coordinates in a 1600 px frame
    tracker.tiles = ()
    assert tracker.track(frame, still=True) == []


def test_a_photograph_forgets_and_is_smoothed_by_nothing(world, shape):
    with HandTracker(world.model("landmarks"), world.model("detector")) as tracker:
        for x in (80, 170):
            world.hands = [(shape((x, 130), 80), "right")]
            (hand,) = tracker.track(world.frame(), still=True)
            assert hand.id == 0
            assert np.abs(hand.joints_uv - world.hands[0][0]).max() < 0.5


def test_video_is_smoothed_towards_the_last_position(world, shape):
    with HandTracker(world.model("landmarks"), world.model("detector"), max_hands=1) as tracker:
        world.hands = [(shape((120, 130), 80), "right")]
        tracker.track(world.frame(), time=0.0)
        world.hands = [(shape((122, 130), 80), "right")]
        (hand,) = tracker.track(world.frame(), time=1 / 30)
        moved = float((hand.joints_uv - shape((120, 130), 80))[:, 0].mean())
        assert 0.1 < moved < 1.8
        for step in range(2, 40):
            (hand,) = tracker.track(world.frame(), time=step / 30)
        assert np.abs(hand.joints_uv - world.hands[0][0]).max() < 0.5


def test_at_most_max_hands_best_first(world, shape):
    world.width = 512
    world.hands = [(shape((60 + 95 * i, 130), 80), "right") for i in range(5)]
    with HandTracker(world.model("landmarks"), world.model("detector"), max_hands=3) as tracker:
        for still in (True, False):
            hands = tracker.track(world.frame(), still=still)
            assert len(hands) == 3
            assert [hand.score for hand in hands] == sorted((hand.score for hand in hands), reverse=True)


def test_a_frame_of_another_size_starts_again(world, tracker, shape):
    world.hands = [(shape((120, 130), 80), "right")]
    tracker.track(world.frame())
    world.width = 300
    assert [hand.id for hand in tracker.track(world.frame())] == [0]
    assert world.detector_runs == 2


def test_no_hand_no_landmark_run(world, tracker):
    assert tracker.track(world.frame(), still=True) == []
    assert world.landmark_runs == 0


def test_a_bad_frame_leaves_the_tracks_alone(world, tracker, shape):
    world.hands = [(shape((120, 130), 80), "right")]
    tracker.track(world.frame())
    with pytest.raises(FrameError, match=r"found uint8 \[0, 0, 3\]"):
        tracker.track(np.zeros((0, 0, 3), np.uint8))
    assert [hand.id for hand in tracker.track(world.frame())] == [0]


def test_models_of_the_wrong_kind_are_refused(world):
    with pytest.raises(BundleError, match="is a detector model where a landmarks model is needed"):
        HandTracker(world.model("detector"), world.model("detector"))


def test_a_second_thread_is_refused(world, shape):
    world.hands = [(shape((120, 130), 80), "right")]
    inside, go_on, detector = threading.Event(), threading.Event(), world.model("detector")
    run = detector.run

    def slow(inputs):
        inside.set()
        assert go_on.wait(10)
        return run(inputs)

    detector.run = slow
    tracker = HandTracker(world.model("landmarks"), detector)
    thread = threading.Thread(target=tracker.track, args=(world.frame(),))
    thread.start()
    assert inside.wait(10)
    try:
        with pytest.raises(SessionError, match="another thread"):
            tracker.track(world.frame())
    finally:
        go_on.set()
        thread.join()
