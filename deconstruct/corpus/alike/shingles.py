"""The shingles of documents: every run of five tokens that is kept of one, as a 64-bit hash.

Broder 1997, "On the resemblance and containment of documents": two documents are alike as far as
they have shingles in common. Tokens rather than words, so that texts without spaces between words
have shingles too, and what is compared is what the model reads; of the embedded corpus the pairs
over 0.5 are the same ones by either. Special tokens, which all documents begin with, are left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH = 5
"""Tokens of a shingle. A document of fewer has none, and is like no other."""
TOKENS_AT_ONCE = 1 << 18
"""Tokens that are hashed at a time."""


class Kept:
    """The tokens that are kept of a corpus' documents, in a file without a name: 8 bytes per
    document are in memory."""

    def __init__(
        self, folder: Path | None = None, special: NDArray[np.bool_] | None = None
    ) -> None:
        """folder: where the file lies. special: [vocabulary], tokens that count for nothing."""
        self.folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, gone with this object
        self._special = special
        self._ends: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]

    def add(self, tokens: Sequence[list[int] | NDArray[np.uint32]]) -> None:
        """The next documents."""
        arrays = [np.asarray(ids, np.uint32) for ids in tokens]
        if self._special is not None:
            arrays = [ids[~self._special[ids]] for ids in arrays]
        lengths = np.array([len(ids) for ids in arrays], np.int64)
        self._ends.append(self._ends[-1][-1] + np.cumsum(lengths))
        for ids in arrays:
            self._file.write(ids.tobytes())

    def ends(self) -> NDArray[np.int64]:
        """Where each document begins, counted in tokens, and the last one ends: [documents + 1]."""
        if len(self._ends) > 1:
            self._ends = [np.concatenate(self._ends)]
        return self._ends[0]

    def hashed(
        self, documents: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        """The shingles of some documents, repeats included, in blocks of whole documents.

        documents: ascending. Gives [shingles] hashes, and the place in ``documents`` of the one
        that each is of.
        """
        ends = self.ends()
        first = 0
        while first < len(documents):
            upto = ends[documents[first:] + 1] - ends[documents[first]]
            last = first + max(1, int(np.searchsorted(upto, TOKENS_AT_ONCE, side="right")))
            ids = [self._read(d) for d in documents[first:last].tolist()]
            hashes, owner = shingles(ids)
            yield hashes, owner + first
            first = last

    def sets(self, documents: NDArray[np.int64]) -> list[NDArray[np.uint64]]:
        """The shingles of each of some documents: sorted, each once."""
        return [np.unique(shingles([self._read(d)])[0]) for d in documents.tolist()]

    def _read(self, document: int) -> NDArray[np.uint32]:
        start, end = self.ends()[document : document + 2].tolist()
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * (end - start)), np.uint32)


def shingles(
    documents: Sequence[NDArray[np.uint32]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of each run of `WIDTH` tokens within a document: [shingles], and which document it is
    of."""
    ids = np.concatenate([np.zeros(0, np.uint32), *documents]).astype(np.uint64)
    owner = np.repeat(np.arange(len(documents)), [len(one) for one in documents])
    runs = max(0, len(ids) - WIDTH + 1)
    hashes = np.zeros(runs, np.uint64)
    for place in range(WIDTH):
        hashes = mixed(hashes + ids[place : place + runs] + np.uint64(0x9E3779B97F4A7C15))
    whole = owner[:runs] == owner[WIDTH - 1 :][:runs]
    return hashes[whole], owner[:runs][whole]


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value as 64 bits that tell nothing of it: the finaliser of SplitMix64 (Steele et al.
    2014), one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
