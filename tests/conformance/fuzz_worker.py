"""Loads and runs bundles as told on stdin, a line of JSON each, and answers on stdout; a test watches over it.

A line is ``{"folder", "runtime", "scan", "key": public key or null}``, the answer ``{"verdict", "said", "seconds",
"cpu"}``, seconds by the clock and of the processor: "ran" for outputs as the manifest says, "refused" for an error of
ours, "fault" for any other. The process may have 1 GB more memory than it starts with; its death is the test's to
notice.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time

import numpy as np

from edge_hands import runtimes
from edge_hands.errors import EdgeHandsError
from edge_hands.session import Session

#: More memory than this for one case is a failure; a runtime answers it with an error of its own, or dies.
MEMORY = 1 << 30
#: A case that takes longer is interrupted by the alarm, which ends the process.
SECONDS = 10


def attempt(folder: str, runtime: str, scan: str, key: str | None) -> tuple[str, str]:
    try:
        with Session.open(folder, runtime=runtime, scan=scan, public_key=key) as session:
            shape = session.manifest.input_shape
            outputs = session.run({"image": np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)})
            assert all(outputs[tensor.name].shape == tensor.shape for tensor in session.manifest.outputs)
        return "ran", ""
    except EdgeHandsError as error:
        return "refused", str(error)
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # runtimes print; what they print is no answer
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for name in runtimes.NAMES:
        runtimes.get(name)
    limited = False
    for line in sys.stdin:
        task = json.loads(line)
        signal.alarm(SECONDS if limited else 0)  # the first may have to build or load libraries
        start, spent = time.perf_counter(), time.process_time()
        verdict, said = attempt(**task)
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        signal.alarm(0)
        answers.write(json.dumps({"verdict": verdict, "said": said, "seconds": seconds, "cpu": spent}) + "\n")
        answers.flush()
        if not limited:  # the first case is the sound bundle: imports and thread pools are in by now
            used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            limited = True


if __name__ == "__main__":
    main()
