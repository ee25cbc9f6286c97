"""Sums by document: what they are, and what they hold of documents that are not judged."""

from __future__ import annotations

import tracemalloc

import numpy as np

from deconstruct.evaluation.reconstruction import DocumentSums

NAMES = [f"sum {number}" for number in range(14)]


def test_they_are_sums_by_document() -> None:
    draw = np.random.default_rng(0)
    sums, doc_ids, values = DocumentSums(1000), [], []
    for _ in range(50):  # new documents and old ones, in any order
        doc_ids.append(draw.integers(0, 300, 20).astype(np.uint32) * 3)
        values.append(draw.normal(size=20))
        sums.add(doc_ids[-1], {"tokens": np.ones(20), "value": values[-1]})
    sums.add(doc_ids[0][:1], {"late": np.array([7.0])})
    doc_id, value = np.concatenate(doc_ids), np.concatenate(values)
    seen = np.unique(doc_id)
    assert np.array_equal(sums.seen(), seen)
    found = sums.of_seen()
    assert np.array_equal(found["tokens"], np.bincount(doc_id)[seen])
    np.testing.assert_allclose(found["value"], np.bincount(doc_id, value)[seen], rtol=1e-12)
    assert found["late"].tolist() == (7.0 * (seen == doc_ids[0][0])).tolist()


def held(documents: int) -> int:
    """Bytes, of 1,000 judged documents that lie evenly in a corpus."""
    doc_id = np.linspace(0, documents - 1, 1000).astype(np.uint32)
    tracemalloc.start()
    sums = DocumentSums(documents)
    sums.add(doc_id, {name: np.ones(1000) for name in NAMES})
    found = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return found


def test_a_document_that_is_not_judged_takes_4_bytes() -> None:
    assert held(201_000) - held(1000) < 4.1 * 200_000
