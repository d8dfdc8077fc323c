"""Every error that edge_hands raises on purpose. A message says in a sentence: what, expected, found, what to do."""

from __future__ import annotations


class EdgeHandsError(Exception):
    """Base of all errors of this package."""


class BundleError(EdgeHandsError):
    """A model bundle is missing, damaged, unsafe, of a newer schema, or not what its manifest says."""


class RuntimeUnavailable(EdgeHandsError):
    """No runtime that can execute this bundle works on this machine, or the asked one does not."""


class FrameError(EdgeHandsError):
    """A picture or tensor handed in is not one: shape, type, range or size."""


class SessionError(EdgeHandsError):
    """A session was used after ``close()`` or by two threads at a time."""


class DeviceError(EdgeHandsError):
    """A device description is unknown or wrong."""


class ExportError(EdgeHandsError):
    """An export failed or its result broke a limit of the gate."""


class DataError(EdgeHandsError):
    """A file or folder to read from or write to is missing, empty, of another kind, or unreadable."""
