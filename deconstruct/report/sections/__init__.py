"""The sections of the report, each a function of a `Look` to what its template shows.

A function raises ``Missing`` where the run has nothing of it; the sentence is shown in its place.
"""
