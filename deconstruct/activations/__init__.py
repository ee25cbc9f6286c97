"""Tokens -> activations: recorded in Parquet shards, and read back in order or shuffled."""
