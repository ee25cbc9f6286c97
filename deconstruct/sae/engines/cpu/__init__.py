"""The training step on a CPU, and encoding with a trained TopK."""
