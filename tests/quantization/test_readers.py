"""Data sets written small in their owners' layout and read back; real samples where they are at hand."""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.errors import DataError
from edge_hands.hands import BONES
from edge_hands.quantization.data import readers
from edge_hands.quantization.data.augment import CropBatches
from edge_hands.quantization.data.frames import FrameBatches
from edge_hands.quantization.data.readers import convert
from edge_hands.quantization.data.shards import Pool, read

LAYOUTS = Path(__file__).parents[3] / "shared" / "data" / "layouts"
K = np.array([[480.0, 0, 160], [0, 470.0, 120], [0, 0, 1]])
SIZE = (320, 240)


def right_hand(rng: np.random.Generator) -> np.ndarray:
    """(21, 3) metres, T order, in front of the camera: fingers up, palm towards it, a little depth."""
    joints = np.zeros((21, 3))
    for finger in range(5):
        angle = np.deg2rad(-40 + 20 * finger)
        reach = (0.09 if finger else 0.04) + 0.028 * np.arange(4)
        joints[1 + 4 * finger : 5 + 4 * finger, :2] = reach[:, None] * (np.sin(angle), -np.cos(angle))
    joints[:, 2] = rng.normal(0, 0.01, 21)
    return joints + (*rng.uniform(-0.02, 0.02, 2), rng.uniform(0.62, 0.7)) + (0, 0.06, 0)


def left_hand(rng: np.random.Generator) -> np.ndarray:
    return right_hand(rng) * (-1, 1, 1)


def project(xyz: np.ndarray) -> np.ndarray:
    return np.stack([480 * xyz[:, 0] / xyz[:, 2] + 160, 470 * xyz[:, 1] / xyz[:, 2] + 120], -1)


def picture(path: Path, *hands: np.ndarray) -> None:
    image = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    for uv in map(project, hands):
        for a, b in BONES:
            cv2.line(image, uv[a].astype(int).tolist(), uv[b].astype(int).tolist(), (150, 180, 230), 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def dump(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def tips_first(hand: np.ndarray) -> np.ndarray:
    """Each finger tip to base, the wrist last: InterHand2.6M and AssemblyHands."""
    return np.concatenate([hand[1:].reshape(5, 4, 3)[:, ::-1].reshape(20, 3), hand[:1]])


def wrist_then_tips(hand: np.ndarray) -> np.ndarray:
    """The wrist, each finger tip to base: RHD."""
    return np.concatenate([hand[:1], hand[1:].reshape(5, 4, 3)[:, ::-1].reshape(20, 3)])


def mano(hand: np.ndarray) -> np.ndarray:
    """The wrist, three joints of index, middle, little, ring, thumb, then the tips from the thumb on."""
    thumb, index, middle, ring, little = hand[1:].reshape(5, 4, 3)
    chains = [finger[:3] for finger in (index, middle, little, ring, thumb)]
    return np.concatenate([hand[:1], *chains, [finger[3] for finger in (thumb, index, middle, ring, little)]])


TURN = cv2.Rodrigues(np.array([0.3, -0.5, 0.2]))[0]
PLACE = np.array([120.0, -40.0, 900.0])


def write_freihand(root, right, left):
    dump(root / "training_K.json", [K.tolist(), K.tolist()])
    dump(root / "training_xyz.json", [right.tolist(), (right + 0.01).tolist()])
    for number in range(4):
        picture(root / "training" / "rgb" / f"{number:08d}.jpg", right + 0.01 * (number % 2))
    return "training", [{"right": right}, {"right": right + 0.01}] * 2


def write_rhd(root, right, left, protocol=2):
    def entry(*hands):
        uv = np.concatenate([project(wrist_then_tips(hand)) for hand in hands])
        seen = np.repeat([float(hand[0, 2] > 0) for hand in hands], 21)[:, None]
        return {"uv_vis": np.hstack([uv, seen]), "xyz": np.concatenate([wrist_then_tips(h) for h in hands]), "K": K}

    labels = {0: entry(left, right), 7: entry(-np.ones((21, 3)), right)}
    (root / "training" / "color").mkdir(parents=True)
    (root / "training" / "anno_training.pickle").write_bytes(pickle.dumps(labels, protocol=protocol))
    picture(root / "training" / "color" / "00000.png", left, right)
    picture(root / "training" / "color" / "00007.png", right)
    return "training", [{"left": left, "right": right}, {"right": right}]


def write_interhand(root, right, left):
    world = [(tips_first(hand) * 1000) @ TURN + PLACE for hand in (right, left)]  # X = R^T Xc + campos
    garbage = np.ones((21, 3))
    camera = {"campos": {"400": PLACE.tolist()}, "camrot": {"400": TURN.tolist()}}
    camera |= {"focal": {"400": [480.0, 470.0]}, "princpt": {"400": [160.0, 120.0]}}
    both, alone = np.ones((42, 1)), np.repeat([[0.0], [1.0]], 21, 0)
    joints = {
        "5": {"world_coord": np.concatenate(world).tolist(), "joint_valid": both.tolist()},
        "6": {"world_coord": np.concatenate([garbage, world[1]]).tolist(), "joint_valid": alone.tolist()},
    }
    images, annotations = [], []
    for number, (frame, kind, valid) in enumerate((("5", "interacting", both), ("6", "left", alone))):
        name = f"Capture0/ROM01/cam400/image{frame}.jpg"
        images.append({"id": number, "file_name": name, "capture": 0, "camera": "400", "frame_idx": int(frame)})
        annotations.append({"id": number, "image_id": number, "hand_type": kind, "joint_valid": valid.tolist()})
        picture(root / "images" / "val" / name, *((right, left) if kind == "interacting" else (left,)))
    start = root / "annotations" / "val"
    dump(start / "InterHand2.6M_val_data.json", {"images": images, "annotations": annotations})
    dump(start / "InterHand2.6M_val_camera.json", {"0": camera})
    dump(start / "InterHand2.6M_val_joint_3d.json", {"0": joints})
    return "val", [{"right": right, "left": left}, {"left": left}]


def write_assemblyhands(root, right, left):
    move = np.array([30.0, -20, 50])
    world = np.concatenate([(tips_first(hand) * 1000 - move) @ TURN for hand in (right, left)])  # Xc = R X + t
    camera = {"intrinsics": {"HMC_1_mono10bit": K.tolist()}}
    camera["extrinsics"] = {"000012": {"HMC_1_mono10bit": np.column_stack([TURN, move]).tolist()}}
    image = {"id": 3, "file_name": "ego_images_rectified/val/s/HMC_1/000012.jpg", "seq_name": "s", "camera": "HMC_1"}
    boxes = {"right": [1, 2, 3, 4], "left": None}
    annotation = {"id": 9, "image_id": 3, "bbox": boxes, "joint_valid": [1] * 42}
    start = root / "annotations" / "val"
    dump(
        start / "assemblyhands_val_ego_data_v1-1.json",
        {"images": [image | {"frame_idx": 12}], "annotations": [annotation]},
    )
    dump(start / "assemblyhands_val_ego_calib_v1-1.json", {"calibration": {"s": camera}})
    joints = {"000012": {"world_coord": world.tolist()}}
    dump(start / "assemblyhands_val_joint_3d_v1-1.json", {"annotations": {"s": joints}})
    picture(root / "images" / image["file_name"], right)
    return "val", [{"right": right}]


def write_ho3d(root, right, left):
    metas = {
        "0000": {"camMat": K, "handJoints3D": mano(right) * (1, -1, -1), "handBeta": np.zeros(10)},
        "0001": {"camMat": K, "handJoints3D": None},
        "0002": {"camMat": K, "handJoints3D": right[0]},  # evaluation: the wrist only
    }
    for number, meta in metas.items():
        path = root / "train" / "ABF10" / "meta" / f"{number}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(meta, protocol=2))
        picture(root / "train" / "ABF10" / "rgb" / f"{number}.png", right)
    (root / "train.txt").write_text("".join(f"ABF10/{number}\n" for number in metas))
    return "train", [{"right": right}, {}, {}]


def write_dexycb(root, right, left):
    for serial in ("11", "22"):
        path = root / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "color:\n  fx: 480.0\n  fy: 470.0\n  height: 480\n  ppx: 160.0\n  ppy: 120.0\ndepth:\n  fx: 1.0\n"
        )
    for sequence in range(6):
        folder = root / "20200709-subject-01" / f"20200709_{sequence:06d}"
        for serial in ("11", "22"):
            (folder / serial).mkdir(parents=True)
            for number, hand in enumerate((left, -np.ones((21, 3)))):
                joints = {"joint_3d": hand[None].astype(np.float32), "joint_2d": np.zeros((1, 21, 2), np.float32)}
                np.savez(folder / serial / f"labels_{number:06d}.npz", **joints)
                picture(folder / serial / f"color_{number:06d}.jpg", *([left] * (number == 0)))
        (folder / "meta.yml").write_text("mano_calib:\n- subject-01\nmano_sides:\n- left\nnum_frames: 2\n")
    return "s0/val", [{"left": left}, {}] * 2  # one sequence of six, two cameras


WRITERS = {name.removeprefix("write_"): writer for name, writer in globals().items() if name.startswith("write_")}


@pytest.fixture
def hands(rng):
    return right_hand(rng), left_hand(rng)


@pytest.mark.parametrize("dataset", readers.DATASETS)
def test_what_was_written_is_read(dataset, hands, tmp_path):
    split, expected = WRITERS[dataset](tmp_path, *hands)
    found = list(readers.frames(dataset, tmp_path, split))
    assert len(found) == len(expected)
    for frame, truth in zip(found, expected, strict=True):
        assert frame.image().shape == (SIZE[1], SIZE[0], 3)
        np.testing.assert_allclose(frame.K, K)
        assert {hand.side for hand in frame.hands} == truth.keys()
        for hand in frame.hands:
            np.testing.assert_allclose(hand.xyz, truth[hand.side], atol=1e-6)
            np.testing.assert_allclose(hand.uv, project(truth[hand.side]), atol=0.01)
            assert hand.valid.all() and hand.visible.all()
            drawn = frame.image()[hand.uv[:, 1].astype(int), hand.uv[:, 0].astype(int)]
            assert (drawn[:, 0] > 150).mean() > 0.9, "joints lie where the hand was drawn"


@pytest.mark.parametrize("dataset", readers.DATASETS)
def test_what_is_missing_is_named(dataset, hands, tmp_path):
    split, _ = WRITERS[dataset](tmp_path, *hands)
    with pytest.raises(DataError, match="no split 'nothing'; expected one of"):
        list(readers.frames(dataset, tmp_path, "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot read|holds no subjects"):
        list(readers.frames(dataset, tmp_path / "empty", split))
    with pytest.raises(DataError, match=f"give the root of {dataset}, which holds"):
        list(readers.frames(dataset, tmp_path / "nowhere", split))


def test_other_faults_are_named(hands, tmp_path):
    with pytest.raises(DataError, match="no reader for 'feet'; expected one of assemblyhands, dexycb"):
        list(readers.frames("feet", tmp_path, "train"))
    write_freihand(tmp_path, *hands)
    dump(tmp_path / "training_K.json", [K.tolist()])
    with pytest.raises(DataError, match="1 cameras for 2 hands"):
        list(readers.frames("freihand", tmp_path, "training"))
    dump(tmp_path / "training_K.json", [[1], [2]])
    with pytest.raises(DataError, match="is not laid out as freihand"):
        list(readers.frames("freihand", tmp_path, "training"))
    (tmp_path / "training_K.json").write_text("[")
    with pytest.raises(DataError, match="training_K.json is not JSON"):
        list(readers.frames("freihand", tmp_path, "training"))


def test_the_parts_of_dexycb_do_not_overlap():
    from edge_hands.quantization.data.readers.dexycb import PARTS

    for setup in ("s0", "s1", "s2", "s3"):
        share = Counter()
        for subject, sequence, camera in np.ndindex(10, 100, 8):
            chosen = [part for part, has in PARTS.items() if part.startswith(setup) and has(subject, sequence, camera)]
            assert len(chosen) == 1, (setup, subject, sequence, camera, chosen)
            share[chosen[0]] += 1
        assert share[f"{setup}/train"] == {"s0": 6400, "s1": 5600, "s2": 6000, "s3": 6000}[setup]


def test_crops_train_a_model_and_left_hands_are_mirrored(hands, tmp_path, capsys):
    """A left hand gives the crop of the right hand that is its mirror image; the shards feed the training batches."""
    right = hands[0]
    write_rhd(tmp_path / "rhd", right, right * (-1, 1, 1))
    found = list(readers.frames("rhd", tmp_path / "rhd", "training"))
    first, second = convert.crops(found[:1], Counter())
    assert (first[1]["side"], second[1]["side"]) == ("left", "right")
    np.testing.assert_allclose(first[1]["uv"], second[1]["uv"], atol=0.01)
    np.testing.assert_allclose(first[1]["xyz"], second[1]["xyz"], atol=1e-4)

    counts = convert.convert(found, tmp_path / "shards", "train", "crop")
    assert counts == {"written": 3}
    pool = Pool(tmp_path / "shards", "train", "crop")
    batch = CropBatches(pool, 128, None)(np.arange(3), np.random.default_rng(0))
    for image, uv, xyz, z in zip(batch["image"], batch["uv"], batch["xyz"], batch["z"], strict=True):
        assert uv.min() > 0.1 and uv.max() < 0.9 and uv[12, 1] < uv[0, 1]  # upright, with room about it
        there = image[(uv[:, 1] * 128).astype(int), (uv[:, 0] * 128).astype(int)]
        assert (there[:, 0] > 120).mean() > 0.8
        scale = np.linalg.norm(uv[0] - uv[9]) / np.linalg.norm(xyz[0, :2] - xyz[9, :2])
        np.testing.assert_allclose(z, xyz[:, 2] * scale, atol=0.02)  # depth in crop sides, as uv
        np.testing.assert_allclose(np.ptp(xyz, 0), np.ptp(right, 0), atol=0.02)
    with pytest.raises(DataError, match="holds train shards already"):
        convert.convert(found, tmp_path / "shards", "train", "crop")


def test_frames_feed_the_detector(hands, tmp_path):
    split, _ = write_interhand(tmp_path / "set", *hands)
    counts = convert.convert(readers.frames("interhand", tmp_path / "set", split), tmp_path / "out", "val", "frame")
    assert counts == {"written": 2}
    labels = [label for _, _, label in read(tmp_path / "out", "val")]
    assert [[hand["side"] for hand in label["hands"]] for label in labels] == [["right", "left"], ["left"]]
    np.testing.assert_allclose(labels[1]["hands"][0]["uv"], project(hands[1]), atol=0.01)
    batch = FrameBatches(Pool(tmp_path / "out", "val", "frame"), 192, None)(np.arange(2), np.random.default_rng(0))
    assert batch["valid"].tolist() == [[1, 1], [1, 0]]


def test_hands_that_cannot_be_used_are_counted(hands, tmp_path):
    right, _ = hands
    dump(tmp_path / "evaluation_K.json", [K.tolist()] * 4)
    poses = [right, right + (0.6, 0, 0), right + (0, 0, 4), right * (1, 1, -1)]
    dump(tmp_path / "evaluation_xyz.json", [pose.tolist() for pose in poses])
    for number in range(4):
        picture(tmp_path / "evaluation" / "rgb" / f"{number:08d}.jpg", right)
    found = readers.frames("freihand", tmp_path, "evaluation")
    counts = convert.convert(found, tmp_path / "out", "val", "crop")
    reasons = {"out of the picture": 1, "too small": 1, "with joints that are not annotated": 1}
    assert counts == {"written": 1, **reasons}
    with pytest.raises(DataError, match="no hand can be taken: 1 with joints"):
        convert.convert(list(readers.frames("freihand", tmp_path, "evaluation"))[3:], tmp_path / "no", "val", "crop")


def test_one_command_converts_and_one_fine_tunes(hands, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from typer.testing import CliRunner

    from edge_hands import models
    from edge_hands.cli.main import app
    from edge_hands.quantization import checkpoint

    split, _ = write_freihand(tmp_path / "set", *hands)
    (tmp_path / "set" / "evaluation" / "rgb").mkdir(parents=True)
    for name in ("K", "xyz"):
        shutil.copy(tmp_path / "set" / f"training_{name}.json", tmp_path / "set" / f"evaluation_{name}.json")
    picture(tmp_path / "set" / "evaluation" / "rgb" / "00000000.jpg", hands[0])
    out = tmp_path / "shards"
    for part in (split, "evaluation"):
        arguments = ["convert", "--dataset", "freihand", "--root", tmp_path / "set", "--split", part, "--out", out]
        done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["train-00000.tar", "val-00000.tar"]
    checkpoint.save(tmp_path / "start", models.create("test_dfmamba"), checkpoint.Meta("test_dfmamba"))
    arguments = ["train", "--data", out, "--start", tmp_path / "start", "--out", tmp_path / "tuned", "--samples", 8]
    arguments += ["--model", "test_dfmamba", "--batch", 4, "--threads", 1]
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert checkpoint.load_meta(tmp_path / "tuned").samples == 8


@pytest.mark.skipif(not LAYOUTS.is_dir(), reason="no real samples here")
def test_real_samples_of_interhand(tmp_path):
    """Joints of both hands, projected by the owners' cameras, fall into the owners' boxes of the hands."""
    source = LAYOUTS / "interhand2.6m"
    start = tmp_path / "annotations" / "test"
    start.mkdir(parents=True)
    for what in ("data", "camera", "joint_3d"):
        shutil.copy(source / f"test_interhand2.6m_{what}.json", start / f"InterHand2.6M_test_{what}.json")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test").symlink_to(source)
    found = list(readers.frames("interhand", tmp_path, "test"))
    data = json.loads((start / "InterHand2.6M_test_data.json").read_text())
    boxes, sizes = [a["bbox"] for a in data["annotations"]], [(i["height"], i["width"]) for i in data["images"]]
    assert [sorted(hand.side for hand in frame.hands) for frame in found] == [
        ["left", "right"],
        ["left", "right"],
        ["left"],
        ["right"],
    ]
    for frame, (x, y, width, height), size in zip(found, boxes, sizes, strict=True):
        assert frame.image().shape[:2] == size
        uv = np.concatenate([hand.uv[hand.valid] for hand in frame.hands])
        assert (uv >= (x - 3, y - 3)).all() and (uv <= (x + width + 3, y + height + 3)).all()
        assert (np.ptp(uv, 0) > 0.5 * np.array([width, height])).all()
        for hand in frame.hands:
            bones = np.array([np.linalg.norm(hand.xyz[a] - hand.xyz[b]) for a, b in BONES])
            assert (bones < 0.13).all() and 0.6 < bones.sum() < 1.1  # a hand's, in metres and in order
            assert 0.3 < hand.xyz[0, 2] < 2


@pytest.mark.skipif(not LAYOUTS.is_dir(), reason="no real samples here")
def test_real_samples_of_rhd(tmp_path):
    """Given as COCO JSON here: put into the owners' pickle, the joints fall on the annotated pixels."""
    content = json.loads((LAYOUTS / "rhd" / "test_rhd.json").read_text())
    (tmp_path / "evaluation" / "color").mkdir(parents=True)
    labels, pixels = {}, {}
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        own = slice(0, 21) if annotation["hand_type"] == "left" else slice(21, 42)
        xyz, uv = np.zeros((42, 3)), np.zeros((42, 3))
        xyz[own] = np.array(annotation["joint_cam"]) / 1000
        uv[own] = annotation["keypoints"]
        camera = np.diag([*image["cam_param"]["focal"], 1.0])
        camera[:2, 2] = image["cam_param"]["princpt"]
        labels[image["id"]], pixels[image["id"]] = {"xyz": xyz, "uv_vis": uv, "K": camera}, uv[own]
        shutil.copy(LAYOUTS / "rhd" / image["file_name"], tmp_path / "evaluation" / "color")
    (tmp_path / "evaluation" / "anno_evaluation.pickle").write_bytes(pickle.dumps(labels))
    found = list(readers.frames("rhd", tmp_path, "evaluation"))
    assert [frame.hands[0].side for frame in found] == [a["hand_type"] for a in content["annotations"]]
    for frame in found:
        (hand,) = frame.hands
        uv = pixels[int(frame.path.stem)]
        nearest = np.linalg.norm(hand.uv[:, None] - uv[None, :, :2], axis=-1).argmin(1)
        np.testing.assert_array_equal(nearest, readers.rhd.ORDER)
        assert np.abs(hand.uv - uv[nearest, :2]).max() < 0.5
        bones = np.array([np.linalg.norm(hand.xyz[a] - hand.xyz[b]) for a, b in BONES])
        assert (bones < 0.13).all() and 0.6 < bones.sum() < 1.1
