"""How the activations of paired latents go together over tokens that both runs recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.matching.assignment import NONE

TOKENS = 65_536
"""Tokens of the corpus whose firings are in memory at a time."""
_COLUMNS = ["token_index", "latent", "activation"]


class Firings(NamedTuple):
    """Firings in the order of (token, latent); arrays [n]: int64, int64, float64."""

    token: NDArray[np.int64]
    latent: NDArray[np.int64]
    activation: NDArray[np.float64]

    def where(self, kept: NDArray[np.bool_]) -> Firings:
        """Those that ``kept``, [n], says."""
        return Firings(self.token[kept], self.latent[kept], self.activation[kept])


def correlations(
    own: Artifact, other: Artifact, partner: NDArray[np.int64], tokens: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """Pearson correlation of each latent's activations with its partner's, zeros counted.

    own, other: latents artifacts over one corpus. partner: [d_sae of own], latents of the other or
    `NONE`. tokens: indices of the tokens, ascending, on which both are compared. Gives float64
    [d_sae of own]: NaN without a partner, or where either is the same on all tokens.
    """
    sizes = [int(one.manifest.files["features.parquet"].rows or 0) for one in (own, other)]
    assert len(partner) == sizes[0]
    sums = [np.zeros((2, size)) for size in sizes]
    products = np.zeros(sizes[0])
    last = int(tokens[-1]) + 1 if len(tokens) else 0
    edges = [*range(TOKENS, last, TOKENS), last]
    pairs = zip(edges, _ranges(own, edges), _ranges(other, edges), strict=True)
    for edge, *both in pairs:
        start = edge - 1 - (edge - 1) % TOKENS
        counted = np.zeros(max(edge - start, 0), bool)
        here = slice(*np.searchsorted(tokens, np.array([start, edge], tokens.dtype)))
        counted[tokens[here].astype(np.int64) - start] = True
        a, b = (one.where(counted[one.token - start]) for one in both)
        sums = [of + _moments(one, of.shape[1]) for of, one in zip(sums, (a, b), strict=True)]
        products += _products(a, b, partner, sizes[1])
    return _pearson(len(tokens), sums, products, partner)


def _ranges(latents: Artifact, edges: list[int]) -> Iterator[Firings]:
    """The firings before each edge and from the one before it on; edges are ascending tokens."""
    rows = latents.rows("latents_by_token.parquet", _COLUMNS)
    waiting = Firings(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    ended = False
    for edge in edges:
        while not ended and (not len(waiting.token) or waiting.token[-1] < edge):
            table = next(rows, None)
            if table is None:
                ended = True
                break
            read = Firings(
                table["token_index"].to_numpy().astype(np.int64),
                table["latent"].to_numpy().astype(np.int64),
                table["activation"].to_numpy().astype(np.float64),
            )
            waiting = Firings(
                np.concatenate([waiting.token, read.token]),
                np.concatenate([waiting.latent, read.latent]),
                np.concatenate([waiting.activation, read.activation]),
            )
        before = waiting.token < edge
        yield waiting.where(before)
        waiting = waiting.where(~before)


def _moments(firings: Firings, size: int) -> NDArray[np.float64]:
    """Sums of activations and of their squares by latent: [2, size]."""
    powers = (firings.activation, firings.activation**2)
    return np.stack([np.bincount(firings.latent, power, size) for power in powers])


def _products(
    a: Firings, b: Firings, partner: NDArray[np.int64], other_size: int
) -> NDArray[np.float64]:
    """Sums of the products of each latent's activations with its partner's: [d_sae of a]."""
    a = a.where(partner[a.latent] != NONE)
    wanted = a.token * other_size + partner[a.latent]
    there = b.token * other_size + b.latent  # ascending, as the firings are
    place = np.searchsorted(there, wanted)
    place[place == len(there)] = 0
    both = there[place] == wanted if len(there) else np.zeros(len(wanted), bool)
    met = a.activation[both] * b.activation[place[both]]
    return np.bincount(a.latent[both], met, len(partner)).astype(np.float64)


def _pearson(
    n: int,
    sums: list[NDArray[np.float64]],
    products: NDArray[np.float64],
    partner: NDArray[np.int64],
) -> NDArray[np.float64]:
    own, other = sums[0], sums[1][:, partner]
    spread = [n * of[1] - of[0] ** 2 for of in (own, other)]
    known = (partner != NONE) & (spread[0] > 0) & (spread[1] > 0)
    found = np.full(len(partner), np.nan)
    joint = n * products - own[0] * other[0]
    found[known] = joint[known] / np.sqrt(spread[0][known] * spread[1][known])
    return np.asarray(np.clip(found, -1, 1))
