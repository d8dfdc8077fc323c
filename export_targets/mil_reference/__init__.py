"""A reference interpreter of Core ML's ML Programs: what an .mlpackage computes, on a machine without Core ML.

``load(package)`` gives a ``Program``; calling it runs the package's operations one by one in torch, in float32, each
result rounded to the type that the program declares. That is the arithmetic of the format's documentation. Devices
may add in another order or width, so its numbers are a reference, and its times mean nothing.

    elementwise  shapes  reductions  layers  quantization    tables of operations: name -> function of ``Arguments``
"""

from edge_hands.export_targets.mil_reference.program import Program, ProgramError, UnknownOperation, load
from edge_hands.export_targets.mil_reference.table import OPERATIONS

__all__ = ["OPERATIONS", "Program", "ProgramError", "UnknownOperation", "load"]
