"""Is the autoencoder faithful: errors of its reconstruction, and what it costs the model."""
