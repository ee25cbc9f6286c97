"""The machine: what is installed, how fast the card is, what compute-sanitizer says of a step."""

SANITIZER_FOUND = 9
"""compute-sanitizer's exit status where it has found something; others are its own troubles."""
