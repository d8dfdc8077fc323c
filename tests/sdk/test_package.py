"""What importing the package costs, and what it offers."""

from __future__ import annotations

import subprocess
import sys

import edge_hands


def test_import_is_light_and_everything_offered_is_there():
    code = (
        "import sys, time; start = time.process_time(); import edge_hands; took = time.process_time() - start\n"
        "assert not {'torch', 'cv2', 'numpy', 'ai_edge_litert', 'pydantic'} & set(sys.modules)\n"
        "print(took)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5


def test_the_sdk_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edge_hands\n"
        "for name in edge_hands.__all__: getattr(edge_hands, name)\n"
        "from edge_hands import runtimes\n"
        "assert not runtimes.get('torch').availability()\n"
        "assert 'edge-hands[train]' in runtimes.get('torch').availability().reason"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_offered_names():
    for name in edge_hands.__all__:
        assert getattr(edge_hands, name) is not None
        assert name in dir(edge_hands)
    assert issubclass(edge_hands.FrameError, edge_hands.EdgeHandsError)
