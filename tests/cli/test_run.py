"""``edge-hands run``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from .conftest import BUNDLES


def test_a_photograph_gives_json_and_an_annotated_copy(edge_hands, photo, tmp_path):
    done = edge_hands("run", photo, "--json", "out.json", "--draw", "drawn", models=True)
    assert done.returncode == 0, done.stderr
    assert "test_dfmamba on litert" in done.stdout
    assert "photo.png  90x60" in done.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert (content["schema"], content["kind"], content["errors"]) == (1, "photo", [])
    (image,) = content["images"]
    assert (image["width"], image["height"], image["time"]) == (90, 60, None)
    assert image["ms"]["total"] >= image["ms"]["detect"] > 0
    for hand in image["hands"]:
        assert hand["handedness"] in ("left", "right")
        assert len(hand["joints"]) == 21
    assert cv2.imread(str(tmp_path / "drawn" / "photo_hands.png")).shape == (60, 90, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "out.json", "photo.png"]


def test_json_on_stdout_is_nothing_but_json(edge_hands, photo):
    done = edge_hands("run", photo, "--json", "-", models=True)
    assert json.loads(done.stdout)["source"].endswith("photo.png")
    assert "photo.png" in done.stderr


def test_a_folder_with_a_bad_picture_goes_on_and_complains(edge_hands, photo, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "b.jpg").write_text("dear diary")
    shutil.copy(photo, folder / "c.png")
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((4, 4, 3), np.uint8))
    done = edge_hands("run", folder, "--json", "out.json", models=True)
    assert done.returncode == 1
    assert "b.jpg is not a picture that can be read: it holds text" in done.stderr
    assert "tiny.png: A frame's sides must be 16 to 16384 pixels" in done.stderr
    assert "2 pictures, 2 that could not be read" in done.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert [image["name"].rsplit("/", 1)[1] for image in content["images"]] == ["a.png", "c.png"]
    assert [error["name"].rsplit("/", 1)[1] for error in content["errors"]] == ["b.jpg", "tiny.png"]


def test_pictures_of_one_stem_do_not_overwrite_each_other(called, photo, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    cv2.imwrite(str(folder / "a.jpg"), cv2.imread(str(photo)))
    assert called("run", folder, "--draw", "drawn", models=True)[0] == 0
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_a_video_gives_a_summary_json_and_a_video(edge_hands, tmp_path):
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 20, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for i in range(8):
        writer.write(np.full((64, 96, 3), 20 * i, np.uint8))
    writer.release()
    done = edge_hands("run", path, "--json", "out.json", "--draw", "drawn", "--limit", 5, models=True)
    assert done.returncode == 0, done.stderr
    assert "5 frames, hands in" in done.stdout
    assert "fps" in done.stdout
    images = json.loads((tmp_path / "out.json").read_text())["images"]
    assert [image["time"] for image in images] == [0, 0.05, 0.1, 0.15, 0.2]
    assert cv2.VideoCapture(str(tmp_path / "drawn" / "v_hands.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["text.jpg"], "text.jpg is not a picture that can be read: it holds text"),
        (["empty"], "empty holds no pictures"),
        (["photo.png", "--json", "photo.png"], "expected the name of a JSON file"),
        (["photo.png", "--json", "no/such/out.json"], "is not a folder: out.json cannot be written there"),
        (["photo.png", "--draw", "text.jpg"], "text.jpg is a file where a folder is needed"),
        (["photo.png", "--runtime", "warp"], "There is no runtime 'warp'"),
        (["97"], "camera 97 cannot be opened"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(called, photo, tmp_path, arguments, message):
    (tmp_path / "text.jpg").write_text("dear diary")
    (tmp_path / "empty").mkdir()
    before = photo.read_bytes()
    code, _, err = called("run", *arguments, models=True)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert photo.read_bytes() == before


def test_a_source_is_never_overwritten(called, photo, tmp_path):
    (tmp_path / "photo_hands.png").write_bytes(photo.read_bytes())
    before = photo.read_bytes()
    code, _, err = called("run", tmp_path, "--draw", tmp_path, models=True)
    assert code == 2
    assert "photo_hands.png is a source" in err
    assert (tmp_path / "photo_hands.png").read_bytes() == before


def test_bundles_that_are_wrong(called, photo, tmp_path):
    code, _, err = called("run", photo, "--landmarks", tmp_path)
    assert code == 2
    assert "manifest.json is missing" in err


def test_with_a_public_key_both_bundles_must_be_signed(called, photo, tmp_path):
    pytest.importorskip("cryptography")
    from edge_hands import signing

    public = signing.new_key(tmp_path / "maker.pem")
    names = {"--landmarks": "test_dfmamba", "--detector": "test_detector"}
    copies = {option: shutil.copytree(BUNDLES / name, tmp_path / name) for option, name in names.items()}
    command = ["run", photo, "--public-key", public, *(word for pair in copies.items() for word in pair)]
    signing.sign(copies["--landmarks"], tmp_path / "maker.pem")
    code, _, err = called(*command)
    assert code == 2
    assert "test_detector is not signed: it has no manifest.sig" in err
    assert len(err.strip().splitlines()) == 1
    signing.sign(copies["--detector"], tmp_path / "maker.pem")
    assert called(*command)[0] == 0
    code, _, err = called("run", photo, "--public-key", "nowhere.pub")
    assert code == 2
    assert "nowhere.pub cannot be read" in err
