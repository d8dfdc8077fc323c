"""Damaged and hostile bundles: a sentence or a correct refusal, within 2 s and 1 GB, and no crash.

Two layers. As shipped, the manifest's hashes catch every edit of a model file before a runtime sees a byte of it, and
the manifest itself is parsed by us. An attacker can write a manifest whose hashes fit his files: then the bytes do
reach the runtime, whose parsers are C++ that we did not write. What they do is reported by ``test_hostile_bytes``;
a crash of theirs cannot be prevented by us, but by asking for a signature, which
``test_a_required_signature_keeps_hostile_bytes_away`` proves for the very cases that crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands import runtimes, signing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's process limits")

#: Cases of the fast suite and of all: shared out to the targets.
FAST, ALL = 150, 2000
WORKER = Path(__file__).with_name("fuzz_worker.py")
#: Targets: (name, runtime, form, suffix of the file that is edited; the manifest of the first one's bundle).
TARGETS = [
    ("manifest", "litert", "portable", "manifest.json"),
    ("tflite", "litert", "portable", ".tflite"),
    ("onnx", "onnx", "portable", ".onnx"),
    ("pte", "executorch", "portable", ".pte"),
    ("mlpackage", "coreml", "portable", ".mlmodel"),
    # Our own kernels inside the runtimes: they see shapes and attributes from the file.
    ("tflite_native", "litert", "native", ".tflite"),
    ("onnx_native", "onnx", "native", ".onnx"),
    ("pte_native", "executorch", "native", ".pte"),
]


@dataclass
class Answer:
    verdict: str  # "ran", "refused", "fault", "crashed" or "hung"
    said: str = ""
    seconds: float = 0.0
    cpu: float = 0.0


class Worker:
    """A process that handles many cases; a dead one is an answer and is replaced."""

    def __init__(self, sound: dict) -> None:
        self._sound, self._process, self.crashes = sound, None, 0

    def ask(self, task: dict) -> Answer:
        if self._process is None:
            self._start()
        return self._ask(task)

    def close(self) -> None:
        if self._process is not None:
            self._end()

    def _end(self) -> int:
        """Its exit code. Nobody waits for libraries that take their leave."""
        process, self._process = self._process, None
        process.kill()
        code = process.wait()
        with suppress(BrokenPipeError):  # of a task that was not read
            process.stdin.close()
        process.stdout.close()
        return code

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes, text=True, env=environment)
        first = self._ask(self._sound, patience=300)
        assert first.verdict == "ran", first

    def _ask(self, task: dict, patience: float = 30) -> Answer:
        process = self._process
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], patience)
            line = process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line, ready = "", True
        if line:
            return Answer(**json.loads(line))
        self.crashes += 1
        code = self._end()
        return Answer("crashed" if ready else "hung", f"signal {-code}" if code < 0 else f"exit {code}")


def edits(data: bytes, count: int, seed: int) -> list[bytes]:
    """``count`` edits of ``data``, in every region of it: bits, bytes, lengths, cuts, holes, doublings."""
    rng, found = np.random.default_rng(seed), []
    for index in range(count):
        # Regions in turn, the first bytes (headers, offsets) as often as all the rest.
        span = min(len(data), 256) if index % 2 else len(data)
        region = span * (index // 2 % 16) // 16
        place = min(len(data) - 1, region + int(rng.integers(max(1, span // 16))))
        new = bytearray(data)
        kind = index % 7
        if kind in (0, 1):
            new[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            new[place] = int(rng.choice([0, 0x7F, 0x80, 0xFF]))
        elif kind == 3:  # what may be a length or an offset
            value = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), len(data) * 2]))
            word = (value & 0xFFFFFFFF).to_bytes(4, "little")
            new[place // 4 * 4 : place // 4 * 4 + 4] = word[: max(0, len(data) - place // 4 * 4)]
        elif kind == 4:
            del new[place:]
        elif kind == 5:
            del new[place : place + int(rng.integers(1, 64))]
        else:
            new[place:place] = data[place : place + int(rng.integers(1, 64))]
        found.append(bytes(new))
    return found


def count_of(target: str, total: int) -> int:
    """The manifest gets half of the cases, as all of it is ours to parse; the files share the rest."""
    return total // 2 if target == "manifest" else total // 2 // (len(TARGETS) - 1)


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target[0])
def target(request: pytest.FixtureRequest, bundle_of, tmp_path_factory: pytest.TempPathFactory):
    """(name, task for a sound copy, the file to edit)."""
    name, runtime, scan, suffix = request.param
    if runtime not in runtimes.NAMES:
        pytest.skip(f"there is no runtime {runtime} yet")
    source = bundle_of("test_dfmamba", runtime, scan)
    folder = tmp_path_factory.mktemp(name) / "bundle"
    shutil.copytree(source, folder)
    file = next(path for path in sorted(folder.rglob("*")) if path.name.endswith(suffix))
    return name, {"folder": str(folder), "runtime": runtime, "scan": scan, "key": None}, file


@pytest.fixture(scope="module")
def worker(target, tmp_path_factory: pytest.TempPathFactory):
    """A worker whose sound case is a copy that nobody edits."""
    sound = tmp_path_factory.mktemp("sound") / "bundle"
    shutil.copytree(target[1]["folder"], sound)
    made = Worker({**target[1], "folder": str(sound)})
    yield made
    made.close()


def _as_shipped(target, worker: Worker, total: int, seed: int) -> None:
    name, task, file = target
    sound, bad = file.read_bytes(), []
    verdicts: Counter[str] = Counter()
    try:
        for edit in edits(sound, count_of(name, total), seed):
            file.write_bytes(edit)
            answer = worker.ask(task)
            verdicts[answer.verdict] += 1
            if answer.verdict not in ("ran", "refused") or answer.seconds > 2 or "\n" in answer.said:
                bad.append((answer, hashlib.sha256(edit).hexdigest()))
            if name != "manifest" and edit != sound and answer.verdict != "refused":
                bad.append((answer, "an edited file was not refused"))
    finally:
        file.write_bytes(sound)
    assert not bad, bad[:5]
    assert worker.crashes == 0
    assert verdicts["refused"] > 0.5 * sum(verdicts.values())


def test_as_shipped(target, worker: Worker) -> None:
    """Every edit of a file is refused by its hash; a manifest that still describes the files may be used."""
    _as_shipped(target, worker, FAST, 1)


@pytest.mark.slow
def test_as_shipped_many(target, worker: Worker) -> None:
    _as_shipped(target, worker, ALL, 2)


def _fit_hashes(folder: Path, file: Path, data: bytes) -> None:
    """What an attacker does: the edited file, and a manifest that describes it."""
    file.write_bytes(data)
    path = folder / bundles.MANIFEST
    content = json.loads(path.read_text())
    for entry in content["files"]:
        if folder / entry["path"] == file:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    path.write_text(json.dumps(content))


def _hostile(target, worker: Worker, count: int, seed: int, record) -> None:
    name, task, file = target
    if name == "manifest":
        pytest.skip("a manifest has no hash")
    pytest.importorskip("cryptography")
    folder, sound = Path(task["folder"]), file.read_bytes()
    manifest = (folder / bundles.MANIFEST).read_bytes()
    key = folder.parent / f"key-{seed}.pem"
    public = signing.new_key(key)
    signing.sign(folder, key)
    signature = (folder / signing.SIGNATURE).read_bytes()
    verdicts: Counter[str] = Counter()
    slow, cpu, faults, killers = 0.0, 0.0, [], []
    try:
        for edit in edits(sound, count, seed):
            if edit == sound:
                continue
            _fit_hashes(folder, file, edit)
            answer = worker.ask(task)
            verdicts[answer.verdict] += 1
            slow, cpu = max(slow, answer.seconds), max(cpu, answer.cpu)
            if answer.verdict == "fault":
                faults.append(answer)
            if answer.verdict in ("crashed", "hung"):
                killers.append(edit)
        # The same bytes, where a signature is required: never near the runtime.
        for edit in (killers or edits(sound, 5, seed))[:20]:
            _fit_hashes(folder, file, edit)
            answer = worker.ask({**task, "key": str(public)})
            assert answer.verdict == "refused" and "was changed afterwards" in answer.said, answer
            with pytest.raises(bundles.BundleError, match="was changed afterwards"):
                signing.verify(folder, public)
    finally:
        file.write_bytes(sound)
        (folder / bundles.MANIFEST).write_bytes(manifest)
        (folder / signing.SIGNATURE).write_bytes(signature)
    record(f"hostile_{name}", {**verdicts, "slowest_seconds": round(slow, 2), "most_cpu_seconds": round(cpu, 2)})
    print(f"{name}, hashes that fit: {dict(verdicts)}, slowest {slow:.2f} s, at most {cpu:.2f} s of CPU")
    assert not faults, faults[:5]
    assert signing.verify(folder, public)


def test_a_required_signature_keeps_hostile_bytes_away(target, worker: Worker, record_property) -> None:
    """Hashes made to fit: our own errors only, whatever else the runtime does is counted; a signature refuses all."""
    _hostile(target, worker, 20, 3, record_property)


@pytest.mark.slow
def test_hostile_bytes(target, worker: Worker, record_property) -> None:
    """As above, with more cases: run with -s or -rA for the counts that the documents quote."""
    _hostile(target, worker, 300, 4, record_property)
