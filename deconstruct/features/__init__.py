"""What is known of single latents: how often they fire, where they point, what they promote."""
