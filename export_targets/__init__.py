"""Export of quantised models to devices: one module a runtime, the devices as data, and the gate they must pass."""
