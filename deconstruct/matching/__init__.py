"""Which latents of two dictionaries are the same."""
