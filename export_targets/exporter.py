"""A quantised checkpoint -> bundles for devices, each of which has passed its device's gate.

An exporter is a module with ``export(model, source, out) -> Variant`` and ``TOOLS``; ``forms.EXPORTERS`` names them.
One that can write a form with built-in operations only and one with our kernels says so by ``SCANS = ("portable",
"native")``, and its ``export`` takes ``scan``, one of them. One whose file depends on the device has
``settings(device)``, further arguments of its ``export``, and ``DELEGATES`` where ``RUNTIME:DELEGATE`` may ask for one
of them. One that knows what stands in for a file that does not run here has ``stand_in(folder, variant)``, a function
of an image; one whose file holds several functions has ``parts(model, variant)``, each of them with the model that it
is to compute.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from edge_hands.bundle import load, write_manifest
from edge_hands.errors import ExportError
from edge_hands.export_targets import gate
from edge_hands.export_targets.devices import Device
from edge_hands.export_targets.forms import EXPORTERS, Form, Forms
from edge_hands.export_targets.manifest import make_manifest, now

#: What ``scan`` may be, and the forms that it asks for.
_SCANS = {"portable": ("portable",), "native": ("native",), "both": ("portable", "native")}


def export_bundle(
    source: str | Path,
    device: Device,
    out: str | Path,
    runtimes: tuple[str, ...] = (),
    data: str | Path | None = None,
    count: int = 200,
    step: Callable[[str], None] = lambda text: None,
    scan: str | None = None,
    pythons: dict[str, str] | None = None,
) -> gate.Report:
    """Exports the quantised checkpoint ``source`` to the bundle ``out`` and puts it through the gate of ``device``.

    ``runtimes`` default to the device's first one that we can export to. ``scan``, by default the device's, is
    "portable", "native" or "both", for runtimes that can have both. Crops or frames come from the val shards in
    ``data``, else from the package; ``step`` is told what is being done. ``pythons`` names, for a runtime, a Python
    that has edge_hands and its exporter and is to make its forms (``isolated``). The bundle is written whatever the
    gate says, its verdict is in the manifest. Raises ExportError, DeviceError or DataError.
    """
    ((_, report),) = export_bundles(source, {Path(out): device}, runtimes, data, count, step, scan, pythons)
    return report


def export_bundles(
    source: str | Path,
    devices: dict[Path, Device],
    runtimes: tuple[str, ...] = (),
    data: str | Path | None = None,
    count: int = 200,
    step: Callable[[str], None] = lambda text: None,
    scan: str | None = None,
    pythons: dict[str, str] | None = None,
) -> Iterator[tuple[Device, gate.Report]]:
    """``export_bundle`` for several devices, by the folder of each one's bundle; what they share is made once."""
    plans = {out: _plan(device, runtimes, scan) for out, device in devices.items()}
    if unknown := sorted(set(pythons or {}) - set(EXPORTERS)):
        raise ExportError(f"a Python is given for {unknown[0]}, which is no exporter: expected {', '.join(EXPORTERS)}")
    with tempfile.TemporaryDirectory(prefix="edge_hands_export_") as folder:
        with closing(Forms(Path(source), Path(folder), data, count, step, pythons)) as forms:
            if any(_compares_float(device, plans[out]) for out, device in devices.items()):
                forms.begin_float()
            for out, device in devices.items():
                yield device, _export(forms, device, out, plans[out])


def forms_of(device: Device, runtimes: tuple[str, ...], scan: str | None) -> list[tuple[str, str]]:
    """Runtime and scan, as ``Forms.get`` takes them, of every form of a device's bundle. Raises ExportError."""
    known = [name for name in device.runtimes if name in EXPORTERS]
    wanted, scan = runtimes or tuple(known[:1]), scan or device.scan
    if not wanted:
        raise ExportError(
            f"{device.name} takes {', '.join(device.runtimes)}, and this version exports {', '.join(EXPORTERS)} only"
        )
    for name in wanted:
        if name not in known:
            raise ExportError(f"cannot export {name} for {device.name}: expected one of {', '.join(known)}")
    if scan not in _SCANS:
        raise ExportError(f"scan is {scan!r}, expected one of {', '.join(_SCANS)}")
    plan = []
    for name in wanted:
        offered = getattr(EXPORTERS[name], "SCANS", None)
        plan += [(name, form) for form in _SCANS[scan] if form in offered] if offered else [(name, "only")]
    return plan


#: Runtime, scan and settings, as ``Forms.get`` takes them.
_Planned = tuple[str, str, dict[str, str]]


def _plan(device: Device, runtimes: tuple[str, ...], scan: str | None) -> list[_Planned]:
    """Every form of a device's bundle, with what its exporter makes of the device."""
    settings = {name: getattr(exporter, "settings", lambda device: {}) for name, exporter in EXPORTERS.items()}
    plan = []
    for asked in runtimes or ("",):
        runtime, _, delegate = asked.partition(":")
        chosen = _with_delegate(device, runtime, delegate) if delegate else device
        for name, form in forms_of(chosen, (runtime,) if runtime else (), scan):
            plan.append((name, form, settings[name](chosen)))
    return plan


def _compares_float(device: Device, plan: list[_Planned]) -> bool:
    """Whether the gate of a device compares a form's latency with that of float32."""
    return device.limits.latency_ratio is not None and any(runtime == "litert" for runtime, _, _ in plan)


def _with_delegate(device: Device, runtime: str, delegate: str) -> Device:
    """The device with another delegate of a runtime, as ``--runtime RUNTIME:DELEGATE`` asks."""
    if not hasattr(EXPORTERS.get(runtime), "DELEGATES"):
        raise ExportError(f"{runtime}:{delegate} names a delegate, and {runtime} has none to choose from")
    return replace(device, delegates=device.delegates | {runtime: (delegate,)})


def _export(forms: Forms, device: Device, out: Path, plan: list[_Planned]) -> gate.Report:
    out.mkdir(parents=True, exist_ok=True)
    chosen = [form for runtime, scan, settings in plan for form in forms.get(runtime, scan, **settings)]
    files = {form.variant.path: form for form in chosen}
    for path, form in files.items():
        _copy(form.folder / path, out / path)
    variants = [form.variant for form in files.values()]
    manifest = make_manifest(forms.model, forms.meta, device.name, variants, _tools(files.values()), out)
    write_manifest(out, manifest)
    forms.step(f"gate of {device.name}")
    report = _judge(forms, chosen, device, load(out).size)
    machine = {"date": now(), "machine": f"{platform.system()} {platform.machine()}, 1 thread"}
    machine["runtimes"] = ", ".join(dict.fromkeys(f"{form.runtime} {form.version}" for form in chosen))
    write_manifest(out, manifest.model_copy(update={"gate": report.as_dict() | machine}))
    return report


def _tools(forms: Iterable[Form]) -> dict[str, str]:
    """Versions of the packages that wrote the forms: more than one where exporters have Pythons of their own."""
    found: dict[str, dict[str, None]] = {}
    for form in forms:
        for tool, version in form.tools.items():
            found.setdefault(tool, {})[version] = None
    return {tool: ", ".join(versions) for tool, versions in found.items()}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _judge(forms: Forms, chosen: list[Form], device: Device, size: int) -> gate.Report:
    """The checks of every form, by the limits of the device, and of the bundle."""
    limits, checks = device.limits, []
    for form in chosen:
        truth = {name: array[: form.seen] for name, array in forms.samples.items()}
        meant = form.meant or forms.reference.first(form.seen)
        found = gate.parity(forms.model.kind, form.outputs, meant, limits, truth, form.exact)
        if form.seen < len(forms.images):
            found = [replace(check, note=f"{form.seen} samples") for check in found]
        if form.instead:
            found = [replace(check, name=f"stand-in: {check.name}") for check in found]
            found.insert(0, gate.Check("runs of the file here", 0.0, note=f"not run here: {form.instead}"))
        found += gate.coverage(form.variant.config, limits.coverage)
        if "planned_bytes" in form.variant.config:
            found.append(gate.Check("planned memory", form.variant.config["planned_bytes"] / 1e6, "MB"))
        if form.latency_ms is not None:
            limit = limits.latency_ms if device.local else None
            found.append(gate.Check("latency on the exporting machine", form.latency_ms, "ms", limit))
        if form.resident_bytes is not None and form.latency_ms is not None:
            budget = limits.memory_mb if device.local else None
            found.append(gate.Check("memory of loading and running", form.resident_bytes / 1e6, "MB", budget))
        if form.runtime == "litert" and limits.latency_ratio is not None:
            ratio = form.latency_ms / forms.float_latency_ms(form)
            found.append(gate.Check("latency over that of float32", ratio, "", limits.latency_ratio))
        if len(chosen) > 1:
            delegate = form.variant.config.get("backend", "")
            name = " ".join(filter(None, (form.runtime, delegate, form.part or form.scan)))
            found = [replace(check, name=f"{name}: {check.name}") for check in found]
        checks += found
    checks.append(gate.Check("size of the files", size / 1e6, "MB", limits.size_mb))
    return gate.Report(tuple(checks), len(forms.images))
