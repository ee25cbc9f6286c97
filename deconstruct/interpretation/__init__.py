"""How clear single latents are: items that anyone can score again, and scores of them."""
