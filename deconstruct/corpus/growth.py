"""A corpus read back: the documents that a growing one has already."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from deconstruct.artifacts import Artifact


class KnownDocuments:
    """Which texts a corpus holds, and how often each; 16 bytes a document."""

    def __init__(self, corpus: Artifact) -> None:
        keys = [
            np.array([int(key, 16) for key in table["doc_key"].to_pylist()], np.uint64)
            for table in corpus.rows("documents.parquet", ["doc_key"])
        ]
        self._keys, self._left = np.unique(np.concatenate(keys), return_counts=True)

    def take(self, doc_key: str) -> bool:
        """Whether the text of ``doc_key`` is there once more than it was taken."""
        key = np.uint64(int(doc_key, 16))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key or self._left[place] == 0:
            return False
        self._left[place] -= 1
        return True

    def left(self) -> int:
        """How many documents were not taken."""
        return int(self._left.sum())


def documents_of(corpus: Artifact) -> Iterator[tuple[pa.Table, list[list[int]]]]:
    """Rows of ``documents.parquet``, some at a time, each with the ids of its tokens."""
    waiting = np.empty(0, np.uint32)
    tokens = corpus.rows("tokens.parquet", ["token_id"])
    for table in corpus.rows("documents.parquet"):
        lengths = table["n_tokens"].to_numpy()
        wanted = int(lengths.sum())
        while len(waiting) < wanted:
            waiting = np.concatenate([waiting, next(tokens)["token_id"].to_numpy()])
        taken, waiting = waiting[:wanted], waiting[wanted:]
        yield table, [part.tolist() for part in np.split(taken, np.cumsum(lengths)[:-1])]


def segments(corpus: Artifact) -> list[int]:
    """How many documents each segment has: what it grew from, first and in order, then the new."""
    return [int(n) for n in corpus.facts.get("segments", [corpus.facts["documents"]])]
