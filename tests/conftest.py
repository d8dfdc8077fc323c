"""Settings of the whole test suite: repeatable, and calm on a busy machine with few cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


#: Folders that share exports.
_EXPORTS = ("conformance", "export_targets")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For ``-n``: what shares exports, builds or shards, at least a folder, is tested in one process."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder = item.path.parent.name
            item.add_marker(pytest.mark.xdist_group("exports" if folder in _EXPORTS else folder))


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that is the same in every run."""
    return np.random.default_rng(20251120)


@pytest.fixture(scope="session")
def tflite_runtime_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with tflite-runtime 2.14, which needs numpy 1, and this package as in a wheel."""
    from edge_hands import __file__ as package
    from edge_hands.kernels import __file__ as kernels
    from edge_hands.kernels import _native

    folder = tmp_path_factory.mktemp("tflite_runtime")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    wanted = ("tflite-runtime==2.14.0", "numpy<2", "pydantic>=2.6")
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *wanted]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot provide tflite-runtime 2.14 for this Python: {done.stderr.strip().splitlines()[-1]}")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    (site / "edge_hands" / "kernels").mkdir(parents=True)
    for source, target in ((package, "."), (kernels, "kernels"), (_native.__file__, "kernels")):
        for path in Path(source).parent.iterdir():
            link = site / "edge_hands" / target / path.name
            if not link.exists() and path.name != "__pycache__":
                link.symlink_to(path)
    return python
