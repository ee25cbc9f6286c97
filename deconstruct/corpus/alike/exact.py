"""All pairs of documents that are alike, by counting the shingles that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.corpus.alike.shingles import Kept

PRODUCTS_AT_ONCE = 1 << 20
"""Pairs of equal shingles that are counted at a time: some 16 MiB."""

Pairs = NDArray[np.int64]
"""[pairs, 2], places of documents; the larger one first."""


class Shared:
    """Which shingles several documents have.

    shingles: [documents], how many different ones each has. times: [shared], how many documents
    have each that more than one has.
    """

    def __init__(self, kept: Kept, documents: NDArray[np.int64]) -> None:
        blocks = list(kept.hashed(documents))
        hashes = np.concatenate([np.zeros(0, np.uint64), *(h for h, _ in blocks)])
        owner = np.concatenate([np.zeros(0, np.int32), *(o.astype(np.int32) for _, o in blocks)])
        del blocks
        order = np.argsort(hashes, kind="stable")  # owners of one hash stay ascending
        hashes, owner = hashes[order], owner[order]
        del order
        again = np.zeros(len(hashes), bool)
        again[1:] = (hashes[1:] == hashes[:-1]) & (owner[1:] == owner[:-1])
        hashes, owner = hashes[~again], owner[~again]
        self.shingles = np.bincount(owner, minlength=len(documents))
        begins = np.zeros(len(hashes), bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        number = np.cumsum(begins)
        times = np.bincount(number)
        shared = times[number] > 1
        places = np.cumsum(times > 1) - 1
        self.times = times[times > 1]
        self._has = sparse.csr_matrix(
            (np.ones(int(shared.sum()), np.int32), (owner[shared], places[number[shared]])),
            shape=(len(documents), len(self.times)),
        )

    @property
    def products(self) -> int:
        """How many pairs of equal shingles there are to count."""
        return int((self.times.astype(np.int64) ** 2).sum())

    def pairs(self) -> Pairs:
        """All that have a Jaccard index of at least one half, in order."""
        cost = np.cumsum(self._has @ self.times.astype(np.int64))
        found = [np.zeros((0, 2), np.int64)]
        first, turned = 0, self._has.T.tocsr()
        while first < len(cost):
            before = int(cost[first - 1]) if first else 0
            last = int(np.searchsorted(cost, before + PRODUCTS_AT_ONCE, side="right"))
            last = max(first + 1, last)
            counted = (self._has[first:last] @ turned).tocoo()
            larger, smaller = counted.row.astype(np.int64) + first, counted.col.astype(np.int64)
            both = self.shingles[larger] + self.shingles[smaller]
            chosen = (smaller < larger) & half_or_more(counted.data, both)
            some = np.stack([larger[chosen], smaller[chosen]], 1)
            found.append(some[np.lexsort(some.T[::-1])])
            first = last
        return np.concatenate(found)


def half_or_more(common: NDArray[np.int64], both: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether common / (both - common), the Jaccard index of two sets, is at least one half.

    both: the sizes of the two sets together.
    """
    return 3 * common >= both
