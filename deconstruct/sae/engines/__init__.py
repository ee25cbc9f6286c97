"""Who makes the training step: dense, sparse on a CPU, fused on a GPU."""
