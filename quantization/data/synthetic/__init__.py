"""Synthetic hands: the training set that ships as code. ``edge-hands synth`` is its command."""
