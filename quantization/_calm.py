"""Imported before torchao: stops its and torch's warnings about absent GPU libraries and their own old interfaces."""

import logging
import warnings

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, message=".*treespec, LeafSpec.*")
