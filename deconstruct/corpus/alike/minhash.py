"""Documents that are alike among many: candidates by MinHash, each then verified by its shingles.

Broder 1997; bands as in Leskovec, Rajaraman and Ullman, "Mining of massive datasets", chapter 3. Of
a pair with Jaccard index s, each of `BANDS` bands holds alike with probability s^`ROWS`: of those
at one half 99.8% are candidates, of those over 0.6 all but one in a hundred thousand. What is no
pair is never taken for one, as candidates are compared in full.
"""

from __future__ import annotations

import tempfile

import numpy as np
from numpy.typing import NDArray

from deconstruct.corpus.alike.exact import Pairs, half_or_more
from deconstruct.corpus.alike.shingles import Kept, mixed

BANDS, ROWS = 48, 3
NEIGHBOURS = 4
"""Each document is compared with so many of the next ones that a band takes for its like: enough to
link them all, where comparing all with all would not end."""
SETS_AT_ONCE = 2048
"""Documents whose shingles are in memory at a time, twice."""


def links(kept: Kept, documents: NDArray[np.int64]) -> Pairs:
    """Pairs with a Jaccard index of at least one half, as many as link their documents.

    Of a pair whose documents hang together already by others, nothing is said. The same for the
    same documents: what is drawn is fixed. Some 40 bytes per document in memory, and on the disk
    the bands' 192.
    """
    found = np.zeros((0, 2), np.int64)
    part = np.arange(len(documents))
    bands = Bands(kept, documents)
    for number in range(BANDS):
        candidates = _candidates(bands.read(number), part)
        linked = _verified(kept, documents, candidates)
        if len(linked):
            found = np.concatenate([found, linked])
            part = components(found, len(documents))
    return found


def components(pairs: Pairs, count: int) -> NDArray[np.int64]:
    """Which part each of ``count`` documents belongs to, where pairs hang together: numbered from
    0 in the order of their first documents."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    graph = coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), (count, count))
    parts, found = connected_components(graph, directed=False)
    number = np.empty(parts, np.int32)
    number[np.argsort(firsts(found, parts))] = np.arange(parts, dtype=np.int32)
    in_order: NDArray[np.int64] = number[found].astype(np.int64)
    return in_order


def firsts(part: NDArray[np.signedinteger], parts: int) -> NDArray[np.int32]:
    """The place of the first of each part, [parts]; part: [n], from 0, none of them empty."""
    found = np.empty(parts, np.int32)
    found[part[::-1]] = np.arange(len(part) - 1, -1, -1, dtype=np.int32)  # the last one stays
    return found


class Bands:
    """The bands of documents, one after another in a file without a name: one is read at a time."""

    def __init__(self, kept: Kept, documents: NDArray[np.int64]) -> None:
        self._count = len(documents)
        self._file = tempfile.TemporaryFile(dir=kept.folder)  # noqa: SIM115, gone with this object
        self._file.truncate(BANDS * 4 * self._count)  # 0 of whoever is not written
        factors = mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64)) | np.uint64(1)
        for hashes, owner in kept.hashed(documents):
            if not len(owner):
                continue
            begins = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
            first = int(owner[0])
            those = owner[begins] - first
            for band in range(BANDS):
                key = np.zeros(len(those), np.uint64)
                for factor in factors[band * ROWS : (band + 1) * ROWS]:
                    least = np.minimum.reduceat(hashes * factor >> np.uint64(32), begins)
                    key = mixed(key + least + factor)
                found = np.zeros(those[-1] + 1, np.uint32)
                found[those] = np.maximum(key >> np.uint64(32), 1)
                self._file.seek(4 * (band * self._count + first))
                self._file.write(found.tobytes())

    def read(self, number: int) -> NDArray[np.uint32]:
        """One band, [documents]: equal where `ROWS` minima are; 0 of documents without shingles."""
        self._file.seek(4 * number * self._count)
        return np.frombuffer(self._file.read(4 * self._count), np.uint32)


def _candidates(band: NDArray[np.uint32], part: NDArray[np.int64]) -> Pairs:
    """Neighbours among documents with equal keys that don't hang together yet."""
    order = np.argsort(band, kind="stable")
    keys = band[order]
    again = (keys[1:] == keys[:-1]) & (keys[1:] > 0)
    among_equals = np.zeros(len(order), np.bool_)
    among_equals[1:] = again
    among_equals[:-1] |= again
    order = order[among_equals]
    del keys, again, among_equals
    found = [np.zeros((0, 2), np.int64)]
    for step in range(1, NEIGHBOURS + 1):
        smaller, larger = order[:-step], order[step:]
        chosen = (band[smaller] == band[larger]) & (part[smaller] != part[larger])
        found.append(np.stack([larger[chosen], smaller[chosen]], 1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])]


def _verified(kept: Kept, documents: NDArray[np.int64], candidates: Pairs) -> Pairs:
    """Those of some pairs that are alike, by their whole sets of shingles."""
    common, both = np.zeros((2, len(candidates)), np.int64)
    for first in range(0, len(candidates), SETS_AT_ONCE):
        some = candidates[first : first + SETS_AT_ONCE]
        places, at = np.unique(some, return_inverse=True)
        sets = kept.sets(documents[places])
        for number, (a, b) in enumerate(at.reshape(-1, 2).tolist()):
            common[first + number] = len(np.intersect1d(sets[a], sets[b], assume_unique=True))
            both[first + number] = len(sets[a]) + len(sets[b])
    return candidates[half_or_more(common, both)]
