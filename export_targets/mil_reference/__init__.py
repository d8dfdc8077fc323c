"""A reference interpreter of Core ML's ML Programs: what an .mlpackage computes, on a machine without Core ML.

``load(package)`` gives a ``Program``; calling it runs the package's operations one by one in torch, in float64: what
the package says, before any rounding of float32, which devices do in an order and width of their own. A result that the
program declares as float16 or as an integer is rounded to that. Its times mean nothing.

    elementwise  shapes  reductions  layers  quantization    tables of operations: name -> function of ``Arguments``
"""

from edge_hands.export_targets.mil_reference.program import Program, ProgramError, UnknownOperation, load
from edge_hands.export_targets.mil_reference.table import OPERATIONS

__all__ = ["OPERATIONS", "Program", "ProgramError", "UnknownOperation", "load"]
