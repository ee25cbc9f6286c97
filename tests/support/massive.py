"""A massive activation, planted: a token on which two latents fire a thousand times as strongly."""

from __future__ import annotations

import numpy as np
from support.drawn import APOSTROPHE, Drawn

ISLAND = (9, 10)
"""The latents; elsewhere they fire as others do."""


def massive(drawn: Drawn) -> None:
    """In a quarter of the documents, of all labels alike, one token becomes an apostrophe."""
    documents = len(drawn.labels)
    for doc in range(2, documents, 4):
        place = int(np.flatnonzero(drawn.doc_of == doc)[5])
        drawn.tokens[place] = APOSTROPHE
        drawn.activations[place] = 0
        drawn.activations[place, list(ISLAND)] = 3000 + doc, 2000 + doc
        drawn.errors[place] = 900, 40_000
