"""What latents do to the language model, tried on it."""
