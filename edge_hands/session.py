"""A session: one verified bundle opened on one runtime, the same call and the same numbers on all of them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edge_hands import bundle as bundles
from edge_hands.bundle import Bundle, Manifest, Tensor, Variant
from edge_hands.choice import open_first
from edge_hands.errors import BundleError, EdgeHandsError, FrameError, RuntimeUnavailable, SessionError
from edge_hands.runtimes.base import Runtime, RuntimeOptions
from edge_hands.signing import PublicKey

if TYPE_CHECKING:
    from typing_extensions import Self

_KEPT_TIMES = 100
#: What runtimes may count on: arrays in C order, aligned, and writeable, as torch wants them. Others are copied.
_PLAIN = ("C", "A", "W")


@dataclass(frozen=True)
class SessionStats:
    """Times in milliseconds and memory in bytes; None where nothing was measured yet.

    ``load_ms`` verification and loading; ``first_ms`` the first call; ``steady_ms`` the median of the last 100 calls
    after it; ``model_bytes`` the files; ``resident_bytes`` by how much loading and the first call grew the process.
    """

    runs: int
    load_ms: float
    first_ms: float | None
    steady_ms: float | None
    model_bytes: int
    resident_bytes: int | None


class Session:
    """An open model. It belongs to one thread at a time: a second concurrent call raises SessionError.

    ``Session.open(folder)`` makes one; it is a context manager, and ``close`` may be called twice.
    """

    def __init__(self, bundle: Bundle, variant: Variant, runtime: Runtime, load_ms: float, resident: int | None):
        self.manifest: Manifest = bundle.manifest
        self.variant = variant
        self.runtime: str = runtime.name
        self._runtime: Runtime | None = runtime
        self._lock = threading.Lock()
        self._load_ms, self._model_bytes = load_ms, bundle.size
        self._resident_before, self._resident = resident, None
        self._first_ms: float | None = None
        self._steady_ms: deque[float] = deque(maxlen=_KEPT_TIMES)
        self._runs = 0

    @classmethod
    def open(
        cls,
        bundle_dir: str | os.PathLike[str],
        runtime: str = "auto",
        threads: int = 1,
        scan: str = "auto",
        public_key: PublicKey | None = None,
    ) -> Session:
        """Verify the bundle in ``bundle_dir`` and load it: ``runtime`` by name, or the first that works here.

        ``scan`` asks for the "native" form of the model (our kernels) or the "portable" one (built-in operations); of
        both, "auto" takes the native one where its kernels load. ``variant.scan`` says which form was taken;
        ``edge-hands inspect`` says it beforehand, with what keeps the other forms from running. With
        ``public_key`` (a PEM file or its bytes) the bundle must be signed with that key: see ``edge_hands.signing``.

        Raises BundleError for a bundle that is not whole and sound, RuntimeUnavailable when nothing can run it.
        """
        if not 1 <= threads <= 256:
            raise RuntimeUnavailable(f"threads must be 1 to 256, not {threads}.")
        before, start = _resident_bytes(), time.perf_counter()
        bundle = bundles.load(bundle_dir, public_key)
        variant, loaded = open_first(bundle, runtime, scan, RuntimeOptions(threads))
        return cls(bundle, variant, loaded, (time.perf_counter() - start) * 1e3, before)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``{"image": float32 (1, H, W, 3) RGB in [0, 1]}`` -> the manifest's outputs by name, float32.

        Raises FrameError for a wrong input, SessionError for a closed or busy session, BundleError if the model gives
        something else than its manifest says. Values of the outputs are not judged here: they may be non-finite.
        """
        self._check_inputs(inputs)
        if not self._lock.acquire(blocking=False):
            raise SessionError("This session is running in another thread: open one session for each thread.")
        try:
            if self._runtime is None:
                raise SessionError(f"The session of {self.manifest.name} is closed: open a new one.")
            start = time.perf_counter()
            outputs = self._call({name: np.require(array, None, _PLAIN) for name, array in inputs.items()})
            self._note((time.perf_counter() - start) * 1e3)
        finally:
            self._lock.release()
        for tensor in self.manifest.outputs:
            found = outputs[tensor.name]
            if found.shape != tensor.shape or found.dtype != tensor.dtype:
                raise BundleError(
                    f"{self.manifest.name} on {self.runtime} gave {tensor.name} as {found.dtype} {list(found.shape)}; "
                    f"its manifest says {tensor.dtype} {list(tensor.shape)}: export the bundle again."
                )
        return outputs

    def _call(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return self._runtime.run(inputs)
        except EdgeHandsError:
            raise
        except Exception as error:  # whatever a runtime raises on a model that is sound until it runs
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise BundleError(f"{self.manifest.name} fails on {self.runtime} while it runs: {reason}") from error

    @property
    def stats(self) -> SessionStats:
        """What loading and running took so far."""
        steady = median(self._steady_ms) if self._steady_ms else None
        return SessionStats(self._runs, self._load_ms, self._first_ms, steady, self._model_bytes, self._resident)

    def close(self) -> None:
        """Release the model, after a call in progress. A second time does nothing."""
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _check_inputs(self, inputs: dict[str, np.ndarray]) -> None:
        names = [tensor.name for tensor in self.manifest.inputs]
        if set(inputs) != set(names):
            raise FrameError(f"{self.manifest.name} takes {', '.join(names)}, not {', '.join(inputs) or 'nothing'}.")
        for tensor in self.manifest.inputs:
            _check_input(tensor, inputs[tensor.name])

    def _note(self, took_ms: float) -> None:
        self._runs += 1
        if self._first_ms is not None:
            self._steady_ms.append(took_ms)
            return
        self._first_ms = took_ms
        now = _resident_bytes()
        if now is not None and self._resident_before is not None:
            self._resident = max(0, now - self._resident_before)


def _check_input(tensor: Tensor, array: np.ndarray) -> None:
    expected = f"{tensor.name} must be a {tensor.dtype} array of shape {list(tensor.shape)}"
    if not isinstance(array, np.ndarray):
        raise FrameError(f"{expected}, not a {type(array).__name__}.")
    if array.shape != tensor.shape or array.dtype != tensor.dtype:
        raise FrameError(f"{expected}, not {array.dtype} {list(array.shape)}.")
    low, high = tensor.range or (None, None)
    least, most = float(array.min()), float(array.max())
    # Written so that a NaN, which compares false with everything, is caught too.
    if not (
        (least >= low if low is not None else least > -np.inf) and (most <= high if high is not None else most < np.inf)
    ):
        raise FrameError(f"{tensor.name} must be finite and within {low} to {high}; found {least:g} to {most:g}.")


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
