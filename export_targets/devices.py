"""Devices as data: one TOML file each in ``devices/``, read into a frozen dataclass.

A fact that no source states is absent from the file, and None or empty here. ``sources`` says where each came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from edge_hands.errors import DeviceError

_FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Limits:
    """What a bundle must keep to pass the gate; None: not limited.

    ``accuracy_mm`` is the change of PA-MPJPE against the fake-quant model; ``mean_mm`` and ``mean_px`` (of a 256 px
    input) are mean distances to its joints or points, or more where rounding alone moves them more (see ``gate``);
    ``sqnr_db`` is the least signal-to-noise ratio of any output, ``size_mb`` all files (1e6 bytes), ``latency_ratio``
    int8 over float32 time of the same network on the exporting machine, ``latency_ms`` its int8 time there on one
    thread.
    """

    accuracy_mm: float | None = 0.1
    mean_mm: float | None = 0.1
    mean_px: float | None = 0.1
    sqnr_db: float | None = 30.0
    size_mb: float | None = None
    latency_ratio: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Device:
    """A device: its ABI, instruction sets, runtimes in order of preference, limits, and the source of each fact.

    ``scan`` is the form its bundles have where a runtime can have more than one: "portable", "native" or "both".
    ``local`` says that the exporting machine is of this kind, so that the gate's latencies are the device's own.
    """

    name: str
    title: str
    abi: str
    runtimes: tuple[str, ...]
    instruction_sets: tuple[str, ...] = ()
    system: str | None = None
    chip: str | None = None
    scan: str = "portable"
    local: bool = False
    limits: Limits = Limits()
    sources: dict[str, str] = field(default_factory=dict)


def list_devices() -> list[str]:
    """Names of all devices."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_device(name: str) -> Device:
    """The device of this name, or of a TOML file's path. Raises DeviceError when unknown or wrong."""
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise DeviceError(f"no device is called {name!r}; there are {', '.join(list_devices())}, or give a TOML file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path} is not TOML: {error}") from error
    _check(path, content, Device, optional_tables=("limits", "sources"))
    limits = content.pop("limits", {})
    _check(path, limits, Limits)
    lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
    device = Device(**{"name": path.stem, **content, **lists, "limits": Limits(**limits)})
    unsourced = [key for key in ("chip", "system", "abi", "instruction_sets") if getattr(device, key)]
    if missing := [key for key in unsourced if key not in device.sources]:
        raise DeviceError(f"{path}: {missing[0]} has no entry in [sources]; say where the fact comes from")
    return device


def _check(path: Path, content: dict, kind: type, optional_tables: tuple[str, ...] = ()) -> None:
    """Names and types of a table against a dataclass."""
    expected = {f.name: str(f.type) for f in fields(kind)}
    if unknown := sorted(set(content) - set(expected)):
        raise DeviceError(f"{path}: unknown setting {unknown[0]}; there are {', '.join(sorted(expected))}")
    if kind is Device and (missing := [key for key in ("title", "abi", "runtimes") if key not in content]):
        raise DeviceError(f"{path}: {missing[0]} is missing")
    for key, value in content.items():
        want = expected[key]
        right = (
            isinstance(value, dict)
            if key in optional_tables
            else isinstance(value, list) and all(isinstance(item, str) for item in value)
            if want.startswith("tuple")
            else isinstance(value, bool)
            if want == "bool"
            else isinstance(value, (int, float)) and not isinstance(value, bool)
            if want.startswith("float")
            else isinstance(value, str)
        )
        if not right:
            raise DeviceError(f"{path}: {key} is {value!r}, expected {want}")
