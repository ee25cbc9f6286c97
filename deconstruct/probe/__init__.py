"""What the latents know of labels: linear probes beside their baselines."""
