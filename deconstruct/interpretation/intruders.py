"""The intruder score: which of five contexts is the one in which the latent is silent?

After Paulo and Belrose 2025 (arXiv 2507.08473): four contexts in which a latent fires with
activations of one quantile, and one in which it is silent, in an order without meaning. Whoever
finds the intruder more often than one time in five sees something that the four share; no
explanation is needed. Here words alone decide: the odd one out is the context that is least
similar to the others by TF-IDF of its tokens and by the token in its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.interpretation.contexts import (
    Firings,
    Texts,
    one_a_group,
    quantile_parts,
    silent_places,
)

FIRING, SIZE = 4, 5
"""Contexts of a trial in which the latent fires, and all of them."""
CHANCE = 1 / SIZE
BLOCK_TRIALS = 2000
"""Trials that are compared at a time: some tens of MB."""


class Trial(NamedTuple):
    """quantile: from 1, the weakest. places: [5] into the texts. intruder: which of them."""

    quantile: int
    places: NDArray[np.int64]
    intruder: int


def trials_of(
    texts: Texts, firings: Firings, latent: int, quantiles: int, most: int, width: int, seed: int
) -> list[Trial]:
    """At most ``most`` trials in each quantile of a latent; none where it fires too seldom.

    Contexts of one trial are from different groups of documents, and no firing is in two trials.
    """
    fires = firings.place[latent]
    if len(fires) < FIRING * quantiles:
        return []
    draw = np.random.default_rng([seed, latent])
    found = []
    for quantile, part in quantile_parts(firings.activation[latent], quantiles):
        places = one_a_group(texts, fires[part], draw)
        for start in range(0, min(most, len(places) // FIRING) * FIRING, FIRING):
            four = places[start : start + FIRING]
            silent = silent_places(texts, fires, width, texts.group[four], draw)
            if len(silent):
                order = draw.permutation(SIZE)
                five = np.append(four, silent[0])[order]
                found.append(Trial(quantile, five, int(np.flatnonzero(order == FIRING)[0])))
    return found


def odd_ones_out(texts: Texts, trials: Sequence[Trial], width: int) -> NDArray[np.int64]:
    """Which context of each trial is the least similar to the other four, [trials]."""
    tokens, token = np.unique(texts.token, return_inverse=True)
    weight = _rarity(texts, token, len(tokens))
    found = [np.empty(0, np.int64)]
    for start in range(0, len(trials), BLOCK_TRIALS):
        places = np.stack([trial.places for trial in trials[start : start + BLOCK_TRIALS]])
        rows = _rows(texts, token, weight, places.reshape(-1), width)
        trial = np.repeat(np.arange(len(places)), SIZE)
        member = sparse.csr_matrix(
            (np.ones(len(trial)), (trial, np.arange(len(trial)))),
            shape=(len(places), len(trial)),
        )
        sums = (member @ rows)[trial]
        own = np.asarray(rows.multiply(rows).sum(1)).ravel()
        alike = np.asarray(rows.multiply(sums).sum(1)).ravel() - own
        # Of equal ones the first: their order in the trial has no meaning.
        found.append(np.argmin(np.round(alike, 9).reshape(-1, SIZE), 1))
    return np.concatenate(found)


def _rarity(texts: Texts, token: NDArray[np.int64], tokens: int) -> NDArray[np.float64]:
    """Inverse document frequency of each token, groups of documents counted once: ln(n / df)."""
    pairs = np.unique(np.stack([texts.group, token], 1), axis=0) if len(token) else token[:, None]
    groups = len(np.unique(texts.group))
    count = np.bincount(pairs[:, -1], minlength=tokens)
    return np.log(groups / np.maximum(count, 1))


def _rows(
    texts: Texts,
    token: NDArray[np.int64],
    weight: NDArray[np.float64],
    places: NDArray[np.int64],
    width: int,
) -> sparse.csr_matrix:
    """Contexts as rows [places, 2 * tokens]: TF-IDF of all tokens, of unit length, and beside it
    the token in the middle alone."""
    low, high = texts.bounds(places, width)
    length = high - low + 1
    row = np.repeat(np.arange(len(places)), length)
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    near = token[np.repeat(low, length) + within]
    shape = (len(places), len(weight))
    words = sparse.csr_matrix((weight[near], (row, near)), shape=shape)
    norm = np.sqrt(np.asarray(words.multiply(words).sum(1)).ravel())
    words = sparse.diags(1 / np.where(norm > 0, norm, 1)) @ words
    middle = sparse.csr_matrix(
        (np.ones(len(places)), (np.arange(len(places)), token[places])), shape=shape
    )
    return sparse.hstack([words, middle], format="csr")
