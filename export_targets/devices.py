"""Devices as data: one TOML file each in ``devices/``, read into a frozen dataclass.

A fact that no source states is absent from the file, and None or empty here. ``sources`` says where each came from, as
the address of a page and what it states; what is our choice or our budget says so.
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
    ``sqnr_db`` is the least signal-to-noise ratio of any output, ``coverage`` the least share of the
    multiply-accumulates that delegates and our kernels run (0 to 1), ``size_mb`` all files (1e6 bytes),
    ``latency_ratio`` int8 over float32 time of the same network on the exporting machine, ``latency_ms`` the int8 time
    of one call on one thread of the device, ``memory_mb`` (1e6 bytes) what loading and a first call may add to a
    process there: the gate holds both where the exporting machine is of the device's kind, elsewhere they are for
    whoever measures it.
    """

    accuracy_mm: float | None = 0.1
    mean_mm: float | None = 0.1
    mean_px: float | None = 0.1
    sqnr_db: float | None = 30.0
    coverage: float | None = 0.95
    size_mb: float | None = None
    memory_mb: float | None = None
    latency_ratio: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Device:
    """A device: its ABI, instruction sets, runtimes in order of preference, limits, and the source of each fact.

    ``delegates`` names, for a runtime, what executes its operations, in order of preference. ``quantization`` is the
    scheme of its bundles. ``coreml_target`` is the oldest system that its .mlpackage asks for, by coremltools' name (it
    has none for visionOS: iOS17, iOS18 and iOS26 stand for visionOS 1, 2 and 26), ``coreml_form`` what it holds,
    "w8a8", "w8" or "multi" (see ``coreml``). ``minimum_system`` is the oldest system that applications for the device
    may ask for, ``memory_gb`` all the memory that it has.

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
    memory_gb: float | None = None
    minimum_system: str | None = None
    coreml_target: str | None = None
    coreml_form: str | None = None
    quantization: str = "int8"
    delegates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scan: str = "portable"
    local: bool = False
    limits: Limits = Limits()
    sources: dict[str, str] = field(default_factory=dict)


#: What a device file may only state with its source.
_FACTS = ("system", "chip", "memory_gb", "abi", "instruction_sets", "minimum_system", "coreml_target", "coreml_form")


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
    _check(path, content, Device, tables=("delegates", "limits", "sources"))
    limits, delegates = content.pop("limits", {}), content.pop("delegates", {})
    _check(path, limits, Limits)
    _check_delegates(path, delegates, content["runtimes"])
    lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
    delegates = {runtime: tuple(names) for runtime, names in delegates.items()}
    device = Device(**{"name": path.stem, **content, **lists, "delegates": delegates, "limits": Limits(**limits)})
    if missing := [key for key in _FACTS if getattr(device, key) and key not in device.sources]:
        raise DeviceError(f"{path}: {missing[0]} has no entry in [sources]; say where the fact comes from")
    return device


def _check_delegates(path: Path, delegates: dict, runtimes: list[str]) -> None:
    for runtime, names in delegates.items():
        if runtime not in runtimes:
            raise DeviceError(f"{path}: delegates are given for {runtime}, which is not among its runtimes")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DeviceError(f"{path}: delegates.{runtime} is {names!r}, expected a list of names")


def _check(path: Path, content: dict, kind: type, tables: tuple[str, ...] = ()) -> None:
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
            if key in tables
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
