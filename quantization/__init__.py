"""Training, quantisation and evaluation. Needs torch: install the extra ``[train]``."""
