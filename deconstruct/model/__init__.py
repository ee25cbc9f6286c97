"""The language model: found, loaded, and hooked at a site."""
