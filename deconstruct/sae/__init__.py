"""Activations -> autoencoder: the methods, what trains them, and the trained one."""
