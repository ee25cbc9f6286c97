"""Runs that go on from earlier ones: the standing run, and gates before publishing."""
