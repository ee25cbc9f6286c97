"""What a training step takes: ours and the peers', kernel by kernel, and its feed."""
