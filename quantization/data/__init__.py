"""Training data: shard readers, augmentation and the loader that feeds the training loop."""
