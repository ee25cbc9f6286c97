"""Encoding on a card: all that fires on many tokens."""
