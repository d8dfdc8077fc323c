"""One call of a native-form .tflite model: `run_tflite.py model.tflite delegate.so inputs.npz outputs.npz`.

Needs LiteRT and numpy only, so that the same file runs on this machine and in the ARM64 userland. Prints the machine.
"""

import platform
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

model, delegate, inputs, outputs = sys.argv[1:]
interpreter = Interpreter(model, num_threads=1, experimental_delegates=[load_delegate(delegate)])
np.savez(outputs, **interpreter.get_signature_runner()(**np.load(inputs)))
print(platform.machine())
