"""Pickles that ask for more than arrays are refused, and nothing of what they ask for happens."""

import os
import pickle

import numpy as np
import pytest

from edge_hands.errors import DataError
from edge_hands.quantization.data.readers.unpickle import load


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_come_back(protocol, tmp_path):
    content = {
        0: {
            "xyz": np.arange(12.0).reshape(4, 3).T,
            "n": np.float32(2.5),
            "none": None,
            "list": [1, 2.5, "text", b"\xff"],
        },
        "mixed": (np.array([[True]]), np.arange(3, dtype=">i2"), np.int64(7), np.array(["ab"]), np.zeros((0, 3))),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = load(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found[0]["xyz"], content[0]["xyz"])
    assert found[0]["n"] == 2.5 and found[0]["none"] is None and found[0]["list"] == content[0]["list"]
    for own, true in zip(found["mixed"], content["mixed"], strict=True):
        assert np.asarray(own).dtype == np.asarray(true).dtype
        np.testing.assert_array_equal(own, true)


class Asks:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


HOSTILE = {
    "a shell": lambda sign: Asks(os.system, (f"touch {sign}",)),
    "eval": lambda sign: Asks(eval, (f"open({str(sign)!r}, 'w')",)),
    "a file": lambda sign: Asks(open, (str(sign), "w")),
    "numpy.load": lambda sign: Asks(np.load, (str(sign),)),
    "a class": lambda sign: np.random.default_rng(0),
    "objects in an array": lambda sign: np.array([Asks(os.system, (f"touch {sign}",))], object),
    "an array of objects": lambda sign: np.array([None, {}], object),
    "a structured array": lambda sign: np.zeros(2, [("a", "i4"), ("b", "O")]),
    "a set": lambda sign: {1, 2},
    "a bare type": lambda sign: np.ndarray,
    "dates": lambda sign: np.zeros(2, "M8[s]"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_else_is_asked_for_is_refused(what, tmp_path):
    sign, path = tmp_path / "sign", tmp_path / "bad.pkl"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"label": HOSTILE[what](sign)}, protocol=protocol))
        with pytest.raises(DataError, match="bad.pkl is (refused|no pickle)"):
            load(path)
        assert not sign.exists()


def endless() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def huge() -> bytes:
    """An array that claims 10^15 numbers and brings eight bytes."""
    small = pickle.dumps(np.zeros(1), protocol=2)
    assert small.count(b"K\x01\x85") == 1
    return small.replace(b"K\x01\x85", b"\x8a\x07\x00\x00\x00\x00\x00\x00\x04\x85")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps(np.zeros(100))[:200],
        pickle.dumps(endless()),
        huge(),
        b"\x80\x04" + b"(" * 10_000 + b"l" * 10_000 + b".",
        b"\x80\x02cnumpy\ndtype\n}b.",  # sets the state of a stand-in's class
        b"\x80\x02ccopyreg\n_reconstructor\n.",
        b"\x80\x02\x82\x01.",  # an extension code
    ],
    ids=["empty", "text", "torn", "endless", "huge", "deep", "class state", "copyreg", "extension"],
)
def test_damage_is_named(content, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(content)
    with pytest.raises(DataError, match="bad.pkl is (refused|no pickle)"):
        load(tmp_path / "bad.pkl")


def test_every_flipped_byte_is_an_answer_or_a_sentence(tmp_path, rng):
    content = pickle.dumps({0: {"K": np.eye(3), "xyz": np.ones((42, 3))}}, protocol=2)
    for place in rng.integers(0, len(content), 300):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << rng.integers(8)
        (tmp_path / "bad.pkl").write_bytes(spoilt)
        try:
            load(tmp_path / "bad.pkl")
        except DataError:
            pass
