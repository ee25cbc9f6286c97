"""Dictionaries that others trained: a reader for each layout that they are published in."""
