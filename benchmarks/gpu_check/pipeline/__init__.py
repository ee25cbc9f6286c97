"""The stages of a run on the device: how fast, and whether the CPU finds the same."""
