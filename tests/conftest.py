"""Settings of the whole test suite: repeatable, and calm on a busy machine with few cores."""

from __future__ import annotations

import os

# Before torch is imported: small tensors gain nothing from threads, and threads that wait by spinning make a loaded
# machine crawl. The native kernels' own threads are tested by asking for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

try:
    import hypothesis
except ImportError:  # only tests/kernels use it
    hypothesis = None

if hypothesis is not None:
    hypothesis.settings.register_profile("project", deadline=None, max_examples=30, derandomize=True)
    hypothesis.settings.load_profile("project")


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that is the same in every run."""
    return np.random.default_rng(20251120)
