"""What the benchmarks of the GPU path share: sizes, clock and ceilings, peers."""
