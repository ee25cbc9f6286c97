"""The TopK training step fused on one GPU."""
