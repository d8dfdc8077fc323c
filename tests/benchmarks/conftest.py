"""Benchmarks are scripts: they are loaded from their files, which may import each other."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from ..quantization.conftest import crop_shards  # noqa: F401

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """``script(name)`` -> the module of benchmarks/NAME.py."""

    def load(name: str) -> ModuleType:
        spec = spec_from_file_location(name, FOLDER / f"{name}.py")
        module = module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(FOLDER))
            spec.loader.exec_module(module)
        return module

    return load
