"""Deconstruct takes a language model apart: activations, sparse autoencoders, what latents know."""
