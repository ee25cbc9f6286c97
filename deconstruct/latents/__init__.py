"""Autoencoder -> firings: every recorded token encoded, in three orders."""
