"""Hand tracking for AR and VR headsets: int8 models, one call on every runtime.

    import edge_hands as eh

    with eh.HandTracker() as tracker:
        for frame in eh.frames("video.mp4"):
            for hand in tracker.track(frame):
                print(hand.handedness, hand.joints_uv)

Names are imported when they are first used, so that ``import edge_hands`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_hands.camera import Intrinsics
    from edge_hands.draw import draw_hands
    from edge_hands.errors import (
        BundleError,
        DataError,
        DeviceError,
        EdgeHandsError,
        ExportError,
        FrameError,
        RuntimeUnavailable,
        SessionError,
    )
    from edge_hands.filters import OneEuro
    from edge_hands.hand import Hand
    from edge_hands.openxr import JointPoses
    from edge_hands.session import Session
    from edge_hands.sources import frames
    from edge_hands.tracker import HandTracker

try:
    __version__ = version("edge-hands")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

_HOMES = {
    "Hand": "hand",
    "HandTracker": "tracker",
    "Intrinsics": "camera",
    "JointPoses": "openxr",
    "OneEuro": "filters",
    "Session": "session",
    "draw_hands": "draw",
    "frames": "sources",
    **dict.fromkeys(
        (
            "BundleError",
            "DataError",
            "DeviceError",
            "EdgeHandsError",
            "ExportError",
            "FrameError",
            "RuntimeUnavailable",
            "SessionError",
        ),
        "errors",
    ),
}
__all__ = [
    "BundleError",
    "DataError",
    "DeviceError",
    "EdgeHandsError",
    "ExportError",
    "FrameError",
    "Hand",
    "HandTracker",
    "Intrinsics",
    "JointPoses",
    "OneEuro",
    "RuntimeUnavailable",
    "Session",
    "SessionError",
    "draw_hands",
    "frames",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
