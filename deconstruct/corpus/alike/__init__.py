"""Texts alike: near-copies, found by the tokens that they share in order (`shingles`)."""
