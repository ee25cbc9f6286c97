"""Contexts over the whole range of each latent's activations, chosen ahead: what the macro
contexts_by_quantile draws when it is asked, which for a dense latent orders a million firings.

Firings come by latent, the strongest first, so that one latent is done after another, many at once.
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


class Chosen:
    """Contexts of the latents whose firings were added; one that goes on in the next rows waits."""

    def __init__(self, corpus: Artifact) -> None:
        lengths = corpus.table("documents.parquet", ["n_tokens"])["n_tokens"].to_numpy()
        self._starts = np.cumsum(lengths.astype(np.int64)) - lengths
        self._groups = group_ids(corpus)
        self._rest = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        self._tables = [LATENT_CONTEXTS.empty()]

    def add(self, latent: Ints, token_index: Ints, activation: NDArray[np.float32]) -> None:
        """Some firings, [n] each, in the order (latent, strongest first, token_index)."""
        before, rest = self._rest, slice(None)
        latent = np.concatenate([before[0], latent])
        token_index = np.concatenate([before[1], token_index])
        activation = np.concatenate([before[2], activation])
        if len(latent):
            whole = int(np.searchsorted(latent, latent[-1]))
            done, rest = slice(0, whole), slice(whole, None)
            if whole:
                self._tables.append(self._chosen(latent[done], token_index[done], activation[done]))
        self._rest = (latent[rest], token_index[rest], activation[rest])

    def table(self) -> pa.Table:
        """Rows of `LATENT_CONTEXTS`."""
        if len(self._rest[0]):
            self._tables.append(self._chosen(*self._rest))
        return pa.concat_tables(self._tables).combine_chunks()

    def _chosen(self, latent: Ints, token_index: Ints, activation: NDArray[np.float32]) -> pa.Table:
        """Of whole latents."""
        part, size = _parts(latent, activation)
        key = (latent - latent[0]) * QUANTILES + part
        low = np.full(int(key.max()) + 1, np.inf, np.float32)
        high = np.full(len(low), -np.inf, np.float32)
        np.minimum.at(low, key, activation)
        np.maximum.at(high, key, activation)
        whole = key.astype(np.uint64) << np.uint64(32) | _scattered(token_index)
        order = np.argsort(whole, kind="stable")
        drawn = order[_numbered(key[order]) < DRAWN]
        key, token = key[drawn], token_index[drawn]
        group = self._groups[np.searchsorted(self._starts, token, "right") - 1]
        mixed = _scattered(token)
        within = _numbered_by(key, group, mixed)
        among_all = _numbered_by(latent[drawn], group, mixed)
        best = np.lexsort((mixed, among_all, within, key))
        place = _numbered(key[best])
        best, place = best[place < SHOWN + SPARE], place[place < SHOWN + SPARE]
        key, drawn = key[best], drawn[best]
        return LATENT_CONTEXTS.of(
            latent[drawn].astype(np.uint32),
            (key % QUANTILES + 1).astype(np.uint8),
            (place + 1).astype(np.uint8),
            token_index[drawn].astype(np.uint64),
            activation[drawn],
            low[key],
            high[key],
            size[drawn].astype(np.uint64),
        )


def _parts(latent: Ints, activation: NDArray[np.float32]) -> tuple[Ints, Ints]:
    """Which part of its latent's firings each is in, 0 the weakest, and how many are in it: [n]
    each. As SQL's ntile over (activation, token_index): the first parts take what is left over."""
    n, index = len(latent), np.arange(len(latent))
    new = np.r_[True, latent[1:] != latent[:-1]]
    start = index[new]
    count = np.diff(start, append=n)
    of = np.cumsum(new) - 1
    tied = np.r_[True, (latent[1:] != latent[:-1]) | (activation[1:] != activation[:-1])]
    begins = index[tied]
    ends = np.append(begins[1:], n)
    which = np.cumsum(tied) - 1
    # Equal ones stand by token either way.
    place = (start + count)[of] - ends[which] + index - begins[which]
    small, more = count[of] // QUANTILES, count[of] % QUANTILES
    early = place < more * (small + 1)
    late = more + (place - more * (small + 1)) // np.maximum(small, 1)
    part = np.where(early, place // (small + 1), late)
    return part, small + (part < more)


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
