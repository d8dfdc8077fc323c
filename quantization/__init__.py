"""Training, quantisation and evaluation. Needs torch: install the extra ``[train]``."""

from edge_hands.quantization import _calm  # noqa: F401  (before any module imports torchao)
