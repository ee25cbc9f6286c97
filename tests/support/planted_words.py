"""A corpus of random words and latents over it: of one word, noise, one that is rare, one dense."""

from __future__ import annotations

import numpy as np
from support.planted import artifact_of, filled

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.features.tables import FEATURES
from deconstruct.latents.tables import LATENTS

SIZE, LENGTH, WORDS = 400, 60, 500
"""Documents, words in each, different words."""
MARKED = 7
"""A word that a latent fires on, wherever it stands."""
PLANTED, RARE, DENSE, NOISE = 0, 1, 2, 40
"""A latent of the word, one that fires three times, one that fires everywhere, and how many are
noise: those after them."""


def corpus_of(root: DataRoot) -> tuple[Artifact, np.ndarray]:
    """Random words, the first of each document special; every second document is held out."""
    draw = np.random.default_rng(0)
    words = draw.integers(10, WORDS, (SIZE, LENGTH))
    words[draw.random(words.shape) < 0.01] = MARKED
    words[:, 0] = 1
    flat = words.reshape(-1)
    contents = {
        DOCUMENTS: filled(DOCUMENTS, split=["test" if doc % 2 else "train" for doc in range(SIZE)]),
        TOKENS: filled(
            TOKENS,
            token_index=np.arange(flat.size),
            doc_id=np.repeat(np.arange(SIZE), LENGTH),
            position=np.tile(np.arange(LENGTH), SIZE),
            token_id=flat,
            token=[f" w{word}" for word in flat],
            special=flat == 1,
        ),
    }
    return artifact_of(root, Recipe("corpus", 1, {}, {}), contents), flat


def latents_of(root: DataRoot, flat: np.ndarray) -> Artifact:
    draw = np.random.default_rng(1)
    free = np.flatnonzero(flat != 1)
    places = [np.flatnonzero(flat == MARKED), draw.choice(free, 3, replace=False), free]
    places += [np.sort(draw.choice(free, 400, replace=False)) for _ in range(NOISE)]
    latent = np.repeat(np.arange(len(places)), [len(own) for own in places])
    strength = draw.random(len(latent)).astype(np.float32) + 0.1
    token = np.concatenate(places)
    order = np.lexsort((token, -strength, latent))
    firings = filled(
        LATENTS, latent=latent[order], token_index=token[order], activation=strength[order]
    )
    features = filled(FEATURES, latent=np.arange(len(places)), n_fires=1, dead=False)
    contents = {LATENTS: firings, FEATURES: features}
    return artifact_of(root, Recipe("latents", 1, {}, {}), contents)
