"""Devices: the files of the package are whole, and a wrong one is named with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_hands.errors import DeviceError
from edge_hands.export_targets.devices import list_devices, load_device

FACTS = ("system", "chip", "memory_gb", "abi", "instruction_sets", "minimum_system", "quantization")
APPLE = ("coreml_target", "coreml_form")

GOOD = """
title = "A board"
abi = "aarch64"
runtimes = ["litert"]
[delegates]
litert = ["xnnpack"]
[limits]
size_mb = 3
[sources]
abi = "its data sheet"
"""


#: Design, "Devices".
WANTED = {
    "quest-2", "quest-pro", "quest-3", "quest-3s", "galaxy-xr", "pico-4", "pico-4-ultra", "vive-xr-elite",
    "magic-leap-2", "hololens-2", "vision-pro", "iphone", "android-arm64", "raspberry-pi", "linux-x86_64",
}  # fmt: skip


def test_every_device_of_the_design_is_there() -> None:
    assert set(list_devices()) == WANTED


@pytest.mark.parametrize("name", list_devices())
def test_every_device_of_the_package_is_whole(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.title
    assert set(device.delegates) == set(device.runtimes)
    stated = {key for key, value in vars(device).items() if value not in (None, (), "") and key in FACTS + APPLE}
    assert set(device.sources) >= stated | {"limits", "runtimes", "delegates"}
    assert all(len(source) > 10 for source in device.sources.values())
    assert set(device.sources) <= set(vars(device)), "a source of nothing"
    assert device.limits.size_mb and (device.local or device.limits.latency_ms and device.limits.memory_mb)
    for choice in ("limits", "runtimes", "delegates"):
        assert device.sources[choice].startswith("our "), choice
    assert ("coreml" in device.runtimes) == (device.coreml_target is not None) == (device.coreml_form is not None)


def test_no_source_is_a_package_registry() -> None:
    hosts = ("pypi", "nuget", "npmjs", "crates", "maven")
    for name in list_devices():
        assert not [source for source in load_device(name).sources.values() if any(host in source for host in hosts)]


#: Who makes a device, its chip or its system; what others say is marked.
VENDORS = (
    "apple.github.io/coremltools", "developer.android.com", "developer.apple.com", "developers.meta.com",
    "forum.magicleap.cloud", "github.com/raspberrypi", "learn.microsoft.com", "coremltools 9.0",
    "docs.pytorch.org/executorch",
)  # fmt: skip


@pytest.mark.parametrize("name", list_devices())
def test_what_no_vendor_says_is_marked(name: str) -> None:
    own = ("our ", "by definition", "SSE2 is part of x86-64")
    for fact, source in load_device(name).sources.items():
        assert source.startswith((*VENDORS, *own, "press: ", "wiki: ")), (fact, source)


def test_the_local_device_is_this_one() -> None:
    device = load_device("linux-x86_64")
    assert device.runtimes[0] == "litert"
    assert device.local
    assert device.limits.mean_mm == 0.1
    assert [name for name in list_devices() if load_device(name).local] == ["linux-x86_64"]


def test_apple_devices_ask_for_what_int8_needs() -> None:
    found = {name: load_device(name) for name in ("vision-pro", "iphone")}
    assert {name: (device.coreml_form, device.coreml_target) for name, device in found.items()} == {
        "vision-pro": ("w8a8", "iOS17"),
        "iphone": ("w8a8", "iOS17"),
    }
    assert load_device("hololens-2").runtimes == ("onnx",)
    assert load_device("magic-leap-2").abi == "x86_64"


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
        (('litert = ["xnnpack"]', 'onnx = ["cpu"]'), "delegates are given for onnx, which is not among its runtimes"),
        (('litert = ["xnnpack"]', 'litert = "xnnpack"'), "delegates.litert is 'xnnpack', expected a list"),
        (("size_mb = 3", "memory_mb = true"), "memory_mb is True, expected float"),
        (('abi = "aarch64"', 'abi = "aarch64"\nmemory_gb = 4.0'), "memory_gb has no entry in .sources."),
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
