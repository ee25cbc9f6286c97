"""What the latents group: documents in clusters, and what marks each."""
