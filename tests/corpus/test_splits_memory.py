"""What a corpus' splits hold of each document, where there are many."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from deconstruct.corpus.alike import groups, minhash, shingles
from deconstruct.corpus.splits import Splits


def peak_of(documents: int) -> int:
    """Bytes at the most, of drawing and settling; a few of the documents are near-copies."""
    draw = np.random.default_rng(0)
    tracemalloc.start()
    splits = Splits(0.2, 0)
    for first in range(0, documents, 500):
        ids = draw.integers(2000, size=(500, 8)).astype(np.uint32)
        ids[:5] = ids[5:10]
        ids[:5, 7] = 7
        splits.draw([f"{first + number:016x}" for number in range(500)], list(ids))
    settled = splits.settle()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert settled.facts()["alike_documents"] > documents / 60
    return found


def test_a_document_more_is_less_than_100_bytes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "EXACT_DOCUMENTS", 10)  # so many that they are found by MinHash
    monkeypatch.setattr(shingles, "TOKENS_AT_ONCE", 1 << 12)
    monkeypatch.setattr(minhash, "SETS_AT_ONCE", 50)
    peak_of(1000)  # which imports what it needs
    fewer, more = 10_000, 50_000
    assert peak_of(more) - peak_of(fewer) < 100 * (more - fewer)
