"""Sparse autoencoders: the trained model, how it is trained, and its files."""
