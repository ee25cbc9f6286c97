"""First-letter absorption, by the formula of SAEBench 0.6.0.

A latent for a letter may fall silent on words for which another latent, of the word, has taken the
letter's direction in. Of a word whose letter a linear probe reads, with x the activation, u the
probe's unit direction, P = x . u, and the projection of a latent that fires with a along its
decoder row d being p = a d . u:

    M = sum of p over the letter's main latents
    A = sum of the three largest p > 0 of other latents with cos(d, u) >= 0.1
    fraction = 0                                   where M >= P or A / P < 0.4
               1                                   where M <= 0
               min(A, P - M) / (min(A, P - M) + M) else
    full     = no main latent fires, P >= 0, and the latent of the largest p has cos >= 0.025 and
               p / P >= 0.4

Chanin et al., A is for Absorption, arXiv 2409.14507; Karvonen et al., SAEBench, arXiv 2503.09532.
The fraction has meant other things in other releases. An SAE whose latents know nothing of letters
has little to absorb and scores as well as a perfect one, so the recall of the main latents belongs
beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPS = 1e-8
"""An activation below which a latent counts as silent."""
FULL_COSINE = 0.025
FRACTION_COSINE = 0.1
PROPORTION = 0.4
ABSORBERS = 3
MOST_MAIN = 10
"""Main latents of a letter, at most."""
GAIN = 0.03
"""F1 that a further main latent must add."""


@dataclass(frozen=True)
class Absorbed:
    """Of each word: the fraction, float64 [n], and whether it is absorbed in full, [n]."""

    fraction: NDArray[np.float64]
    full: NDArray[np.bool_]


def absorbed(
    activations: NDArray[np.floating],
    decoder: NDArray[np.floating],
    direction: NDArray[np.floating],
    projection: NDArray[np.floating],
    main: Sequence[int],
) -> Absorbed:
    """How much of a letter other latents than the main ones carry.

    activations: [n, d_sae] of words that begin with the letter. decoder: [d_sae, d_in], rows of any
    length. direction: [d_in], of the probe, of any length. projection: P, [n], of the words'
    activations along the direction's unit vector. main: the letter's latents.
    """
    unit = direction / np.linalg.norm(direction)
    norm = np.linalg.norm(decoder, axis=1)
    along = decoder @ unit
    cosine = along / np.maximum(norm, np.finfo(np.float64).tiny)
    own = np.zeros(len(decoder), bool)
    own[list(main)] = True
    each = activations.astype(np.float64) * along
    carried = each[:, own].sum(1)
    others = np.where(~own & (cosine >= FRACTION_COSINE), np.maximum(each, 0), 0)
    most = np.sort(np.partition(others, -ABSORBERS, axis=1)[:, -ABSORBERS:], 1).sum(1)
    projection = projection.astype(np.float64)
    share = np.divide(most, projection, out=np.zeros(len(each)), where=projection != 0)
    taken = np.minimum(most, projection - carried)
    found = taken / np.where(taken + carried > 0, taken + carried, 1)
    fraction = np.where(carried <= 0, 1.0, np.clip(found, 0, 1))
    fraction[(carried >= projection) | (share < PROPORTION)] = 0
    top = each.argmax(1)
    strongest = each[np.arange(len(each)), top]
    enough = np.divide(strongest, projection, out=np.zeros(len(each)), where=projection != 0)
    silent = (np.abs(activations[:, own]) < EPS).all(1)
    full = silent & (cosine[top] >= FULL_COSINE) & (projection >= 0) & (enough >= PROPORTION)
    return Absorbed(fraction, full)


def main_latents(
    fit: tuple[NDArray[np.floating], NDArray[np.bool_]],
    chosen_on: tuple[NDArray[np.floating], NDArray[np.bool_]],
) -> list[int]:
    """A letter's main latents: that of the largest difference of means, and each next one as long
    as a probe on all of them gains more than `GAIN` in F1.

    fit, chosen_on: activations [n, d_sae] of words, and which of them begin with the letter [n]; of
    words to fit on and of others to choose on.
    """
    activations, is_letter = fit
    apart = activations[is_letter].mean(0) - activations[~is_letter].mean(0)
    ranked = np.argsort(-apart, kind="stable")[:MOST_MAIN]
    kept, best = [int(ranked[0])], sparse_f1(fit, chosen_on, ranked[:1])
    for count in range(2, len(ranked) + 1):
        found = sparse_f1(fit, chosen_on, ranked[:count])
        if found - best <= GAIN:
            break
        kept, best = [int(one) for one in ranked[:count]], found
    return kept


def sparse_f1(
    fit: tuple[NDArray[np.floating], NDArray[np.bool_]],
    judged_on: tuple[NDArray[np.floating], NDArray[np.bool_]],
    latents: Sequence[int] | NDArray[np.integer],
) -> float:
    """F1 of a logistic probe on a few latents, fitted on some words and judged on others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    columns = np.asarray(latents)
    scale = np.maximum(fit[0][:, columns].std(0), 1e-12)
    probe = LogisticRegression(class_weight="balanced", max_iter=200)
    probe.fit(fit[0][:, columns] / scale, fit[1])
    guessed = probe.predict(judged_on[0][:, columns] / scale)
    return float(f1_score(judged_on[1], guessed, zero_division=0))
