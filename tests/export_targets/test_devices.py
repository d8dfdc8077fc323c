"""Devices: the files of the package are whole, and a wrong one is named with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_hands.errors import DeviceError
from edge_hands.export_targets.devices import list_devices, load_device

GOOD = """
title = "A board"
abi = "aarch64"
runtimes = ["litert"]
[limits]
size_mb = 3
[sources]
abi = "its data sheet"
"""


@pytest.mark.parametrize("name", list_devices())
def test_every_device_of_the_package_is_whole(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.title
    assert device.runtimes
    assert set(device.sources) >= {key for key in ("abi", "chip", "system") if getattr(device, key)}


def test_the_device_of_this_issue_is_there() -> None:
    device = load_device("linux-x86_64")
    assert device.runtimes[0] == "litert"
    assert device.local
    assert device.limits.mean_mm == 0.1


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    device = load_device(str(path))
    assert (device.name, device.limits.size_mb, device.chip) == ("board", 3, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title", "titel"), "unknown setting titel"),
        (('abi = "aarch64"\n', ""), "abi is missing"),
        (('["litert"]', '"litert"'), r"runtimes is 'litert', expected tuple"),
        (("size_mb = 3", 'size_mb = "3"'), "size_mb is '3', expected float"),
        (("size_mb", "size"), "unknown setting size"),
        (('abi = "its data sheet"', ""), "abi has no entry in .sources."),
        (("[limits]", "[limits"), "is not TOML"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(DeviceError, match=message):
        load_device(str(path))


def test_an_unknown_device_lists_those_there_are() -> None:
    with pytest.raises(DeviceError, match="no device is called 'quest-9'.*linux-x86_64"):
        load_device("quest-9")
