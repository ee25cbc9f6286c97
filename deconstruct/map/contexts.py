"""Contexts over the whole range of each latent's activations, chosen ahead: what the macro
contexts_by_quantile draws when it is asked, which for a dense latent orders a million firings.

Firings come by latent, the strongest first, so that one latent is done after another, many at once;
of one whose firings go on, only what may be drawn in the end is kept.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.map.tables import LATENT_CONTEXTS

Ints = NDArray[np.int64]
QUANTILES, SHOWN = 5, 4
"""Parts of equal count, and contexts of each that are wanted: as the macro has them by default."""
SPARE = 4
"""More of each part, as some may have the same text."""
DRAWN = 8 * SHOWN + 40
"""Firings of each part that are looked at for different documents."""

Firings = tuple[Ints, Ints, NDArray[np.float32]]
"""Latent (or latent and part of it), token_index, activation: [n] each."""
_NONE: Firings = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class Chosen:
    """Contexts of the latents whose firings were added. Memory: that of the rows added at once, and
    40 bytes per latent."""

    def __init__(self, corpus: Artifact, n_fires: NDArray[np.unsignedinteger]) -> None:
        """n_fires: [d_sae], how many firings of each latent will be added in all."""
        lengths = corpus.table("documents.parquet", ["n_tokens"])["n_tokens"].to_numpy()
        self._starts = np.cumsum(lengths.astype(np.int64)) - lengths
        self._groups = group_ids(corpus)
        self._count = n_fires.astype(np.int64)
        self._low = np.full(len(n_fires) * QUANTILES, np.inf, np.float32)
        self._high = np.full(len(n_fires) * QUANTILES, -np.inf, np.float32)
        self._rest: Firings = _NONE
        self._drawn: Firings = _NONE
        self._last, self._taken = -1, 0
        self._tables = [LATENT_CONTEXTS.empty()]

    def add(self, latent: Ints, token_index: Ints, activation: NDArray[np.float32]) -> None:
        """Some firings, [n] each, in the order (latent, strongest first, token_index)."""
        latent, token_index, activation = joined = _after(
            self._rest, (latent, token_index, activation)
        )
        if len(latent):
            # Of equally strong ones each one's place is known once all are there.
            whole = int(np.argmax((latent == latent[-1]) & (activation == activation[-1])))
            self._take(*_some(joined, slice(0, whole)))
            self._rest = _some(joined, slice(whole, None))

    def table(self) -> pa.Table:
        """Rows of `LATENT_CONTEXTS`."""
        self._take(*self._rest)
        self._tables.append(self._best(*self._drawn))
        self._rest = self._drawn = _NONE
        return pa.concat_tables(self._tables).combine_chunks()

    def _take(self, latent: Ints, token_index: Ints, activation: NDArray[np.float32]) -> None:
        """Firings to which no equally strong ones will come."""
        if not len(latent):
            return
        before = self._taken if latent[0] == self._last else 0
        key = latent * QUANTILES + _parts(latent, activation, self._count, before)
        np.minimum.at(self._low, key, activation)
        np.maximum.at(self._high, key, activation)
        self._last = int(latent[-1])
        first = int(np.searchsorted(latent, self._last))
        self._taken = len(latent) - first + (0 if first else before)
        drawn = _after(self._drawn, (key, token_index, activation))
        order = _mixed(*drawn[:2])
        kept = np.sort(order[_numbered(drawn[0][order]) < DRAWN])
        done = int(np.searchsorted(drawn[0][kept] // QUANTILES, self._last))
        self._drawn = _some(drawn, kept[done:])
        if done:
            self._tables.append(self._best(*_some(drawn, kept[:done])))

    def _best(self, key: Ints, token: Ints, activation: NDArray[np.float32]) -> pa.Table:
        """Of whole latents, of whose firings these were drawn; key: latent and part of it."""
        key, token, activation = _some((key, token, activation), _mixed(key, token))
        group = self._groups[np.searchsorted(self._starts, token, "right") - 1]
        mixed = _scattered(token)
        within = _numbered_by(key, group, mixed)
        among_all = _numbered_by(key // QUANTILES, group, mixed)
        best = np.lexsort((mixed, among_all, within, key))
        place = _numbered(key[best])
        best, place = best[place < SHOWN + SPARE], place[place < SHOWN + SPARE]
        key = key[best]
        latent, part = np.divmod(key, QUANTILES)
        size = self._count[latent] // QUANTILES + (part < self._count[latent] % QUANTILES)
        return LATENT_CONTEXTS.of(
            latent.astype(np.uint32),
            (part + 1).astype(np.uint8),
            (place + 1).astype(np.uint8),
            token[best].astype(np.uint64),
            activation[best],
            self._low[key],
            self._high[key],
            size.astype(np.uint64),
        )


def _parts(latent: Ints, activation: NDArray[np.float32], count: Ints, before: int) -> Ints:
    """Which part of its latent's firings each is in, 0 the weakest: [n]. As SQL's ntile over
    (activation, token_index): the first parts take what is left over.

    count: [d_sae], firings of each latent in all. before: those of the first that came before.
    """
    n, index = len(latent), np.arange(len(latent))
    new = np.r_[True, latent[1:] != latent[:-1]]
    total = count[latent[new]]
    last = index[new] + total
    last[0] -= before
    of = np.cumsum(new) - 1
    tied = np.r_[True, (latent[1:] != latent[:-1]) | (activation[1:] != activation[:-1])]
    begins = index[tied]
    ends = np.append(begins[1:], n)
    which = np.cumsum(tied) - 1
    # Equal ones stand by token either way.
    place = last[of] - ends[which] + index - begins[which]
    small, more = (total // QUANTILES)[of], (total % QUANTILES)[of]
    early = place < more * (small + 1)
    late = more + (place - more * (small + 1)) // np.maximum(small, 1)
    return np.asarray(np.where(early, place // (small + 1), late))


def _after(before: Firings, firings: Firings) -> Firings:
    return (
        np.concatenate([before[0], firings[0]]),
        np.concatenate([before[1], firings[1]]),
        np.concatenate([before[2], firings[2]]),
    )


def _some(firings: Firings, chosen: slice | Ints) -> Firings:
    return firings[0][chosen], firings[1][chosen], firings[2][chosen]


def _mixed(key: Ints, token_index: Ints) -> Ints:
    """The order by key and, within, `_scattered`: [n]."""
    return np.argsort(
        key.astype(np.uint64) << np.uint64(32) | _scattered(token_index), kind="stable"
    )


def _scattered(token_index: Ints) -> NDArray[np.uint64]:
    """An order without meaning: the macro scattered."""
    wide = token_index.astype(np.uint64) * np.uint64(2654435761)
    return np.asarray(wide % np.uint64(1 << 32))


def _numbered(*keys: Ints) -> Ints:
    """Of rows in order: how many rows right before each have the same keys, [n]."""
    index = np.arange(len(keys[0]))
    if not len(index):
        return index
    new = np.r_[True, np.any([key[1:] != key[:-1] for key in keys], axis=0)]
    return np.asarray(index - np.maximum.accumulate(np.where(new, index, 0)))


def _numbered_by(first: Ints, second: Ints, order: NDArray[np.uint64]) -> Ints:
    """The number of each row among those of equal keys, by ``order``: [n]."""
    rows = np.lexsort((order, second, first))
    found = np.empty(len(rows), np.int64)
    found[rows] = _numbered(first[rows], second[rows])
    return found
