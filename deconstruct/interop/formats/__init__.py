"""Layouts that a run is taken out in, one per file."""
