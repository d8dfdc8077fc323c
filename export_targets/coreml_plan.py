"""On which unit Core ML runs which operation of a package, and how long a call takes: asked of a Mac.

    python -m edge_hands.export_targets.coreml_plan out/vision-pro/w8a8.mlpackage > plan.json

Core ML tells its compute plan on macOS 14.4 or later only. What runs where is decided there: no figure about delegates
or speed can come from another system. Every setting of compute units has a process of its own, as some abort theirs.

Nothing in this file that needs a Mac has been run by its authors, who had none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_hands.errors import EdgeHandsError, ExportError

_MODULE = "edge_hands.export_targets.coreml_plan"
UNITS = ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL")
_CALLS = 100
_SECONDS = 600


@dataclass(frozen=True)
class Planned:
    """One operation: its kind, its first result, the device that Core ML prefers for it, and its share of the cost."""

    kind: str
    name: str
    device: str
    cost: float


def summarise(operations: list[Planned], main: str) -> dict:
    """Operations and cost by device, and what falls back from the device ``main``, dearest first."""
    total = sum(operation.cost for operation in operations) or 1.0
    costs: Counter[str] = Counter()
    for operation in operations:
        costs[operation.device] += operation.cost
    fallen = [operation for operation in operations if operation.device != main]
    return {
        "operations": dict(Counter(operation.device for operation in operations)),
        "share_of_cost": {device: round(cost / total, 4) for device, cost in costs.items()},
        "fallbacks": [asdict(operation) for operation in sorted(fallen, key=lambda one: -one.cost)],
    }


def measure(package: Path, unit: str) -> dict:
    """Plan and time of ``package`` with one setting of compute units. On a Mac only."""
    import coremltools as ct
    import numpy as np
    from coremltools.models.compute_plan import MLComputePlan

    units = getattr(ct.ComputeUnit, unit)
    begun = time.perf_counter()
    model = ct.models.MLModel(str(package), compute_units=units)
    load_ms = (time.perf_counter() - begun) * 1e3
    plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), compute_units=units)
    operations = []
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:  # a constant
            continue
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        device = type(usage.preferred_compute_device).__name__.removeprefix("ML").removesuffix("ComputeDevice")
        name = operation.outputs[0].name if operation.outputs else ""
        operations.append(Planned(operation.operator_name, name, device, cost.weight if cost else 0.0))
    main = {"CPU_AND_NE": "NeuralEngine", "ALL": "NeuralEngine", "CPU_AND_GPU": "GPU"}.get(unit, "CPU")
    inputs = {
        feature.name: np.full(tuple(feature.type.multiArrayType.shape), 0.5, np.float32)
        for feature in model.get_spec().description.input
    }
    times = []
    for _ in range(_CALLS):
        begun = time.perf_counter()
        model.predict(inputs)
        times.append((time.perf_counter() - begun) * 1e3)
    steady = statistics.median(times[_CALLS // 4 :])
    return {"load_ms": load_ms, "first_ms": times[0], "steady_ms": steady, **summarise(operations, main)}


def probe(package: Path) -> dict:
    """``measure`` for every setting of compute units; ``error`` for one that fails. Raises ExportError off a Mac."""
    if sys.platform != "darwin":
        raise ExportError(
            f"a compute plan of {package} needs Core ML: run this on macOS 14.4 or later with coremltools installed"
        )
    if not package.is_dir():
        raise ExportError(f"{package} is no .mlpackage: give the folder that `edge-hands export` wrote")
    found = {}
    for unit in UNITS:
        command = [sys.executable, "-m", _MODULE, str(package), "--unit", unit]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            found[unit] = {"error": f"no answer in {_SECONDS} s"}
            continue
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        found[unit] = (
            json.loads(ended.stdout.splitlines()[-1])
            if ended.returncode == 0
            else {"error": f"exit {ended.returncode}: {last}"}
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="coreml_plan", description=__doc__.split("\n", 1)[0])
    parser.add_argument("package", type=Path, help="an .mlpackage")
    parser.add_argument("--unit", choices=UNITS, help="this setting of compute units only, in this process")
    options = parser.parse_args(arguments)
    try:
        found = measure(options.package, options.unit) if options.unit else probe(options.package)
    except EdgeHandsError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found, indent=None if options.unit else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
