"""Stops the warnings of torchao and torch about absent GPU libraries and their own old interfaces.

Imported with the package, so before any module of it imports torchao.
"""

import logging
import warnings

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, message=".*treespec, LeafSpec.*")
