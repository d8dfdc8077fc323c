"""Settings of the whole test suite: repeatable, and calm on a busy machine with few cores."""

from __future__ import annotations

import numpy as np
import pytest

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
