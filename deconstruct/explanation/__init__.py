"""What a language model behind an endpoint says of latents, and how well that holds."""
