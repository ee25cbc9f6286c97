"""The method itself, in plain PyTorch and by active pairs: read this first."""
