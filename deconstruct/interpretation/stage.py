"""The stage interpretation: how clear latents are without anyone's explanation.

A sample of the living latents goes through the intruder trials of `intruders`, on held-out
documents alone: an SAE knows its train documents, and explanations are made from those, so that
held-out contexts are fresh for every score. Items are stored, and scores computed from them.
"""

from __future__ import annotations

import itertools
import logging

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common.progress import track
from deconstruct.config import InterpretationConfig
from deconstruct.interpretation.contexts import Texts, drawn_documents, read
from deconstruct.interpretation.intruders import CHANCE, SIZE, Trial, odd_ones_out, trials_of
from deconstruct.interpretation.scores import Z, share_found
from deconstruct.interpretation.tables import INTERPRETATION_ITEMS, LATENT_SCORES

log = logging.getLogger(__name__)

VERSION = 1
BY_WORDS = "intruder-tfidf"


def recipe(config: InterpretationConfig, *, corpus: Artifact, latents: Artifact) -> Recipe:
    """All that decides the scores."""
    inputs = keys_of(corpus=corpus, latents=latents)
    return Recipe("interpretation", VERSION, config.key_fields(), inputs)


def interpret(
    root: DataRoot, config: InterpretationConfig, *, corpus: Artifact, latents: Artifact
) -> Artifact:
    """Intruder scores by words: ``latent_scores`` and ``interpretation_items``.

    A latent that fires on fewer held-out tokens than the trials need has a row without a value.
    Facts: ``intruder_tfidf``, the mean over the latents with a score, ``ci_low`` and ``ci_high`` of
    its 95% interval over latents, ``latents`` sampled and ``scored``.
    """

    def write(draft: Draft) -> None:
        sample = sampled(latents, config.latents, config.seed)
        documents = drawn_documents(corpus, "test", config.max_documents, config.seed)
        with track("interpretation", len(sample) + 2, "latents") as advance:
            texts, firings = read(corpus, latents, documents, sample)
            advance()
            trials: dict[int, list[Trial]] = {}
            for latent in sample.tolist():
                trials[latent] = trials_of(
                    texts, firings, latent, config.quantiles, config.trials, config.width,
                    config.seed,
                )  # fmt: skip
                advance()
            answers = odd_ones_out(
                texts, [one for own in trials.values() for one in own], config.width
            )
            advance()
        _write(draft, texts, trials, answers)

    return root.make(recipe(config, corpus=corpus, latents=latents), write)


STAGE = Stage("interpretation", recipe, interpret)


def sampled(latents: Artifact, most: int, seed: int) -> NDArray[np.int64]:
    """At most ``most`` of those that fire in the corpus, drawn alike, ascending."""
    features = latents.table("features.parquet", ["latent", "dead"])
    living = features["latent"].to_numpy()[~features["dead"].to_numpy(zero_copy_only=False)]
    drawn = np.random.default_rng(seed).permutation(living)[:most]
    return np.sort(drawn).astype(np.int64)


def _write(
    draft: Draft, texts: Texts, trials: dict[int, list[Trial]], answers: NDArray[np.int64]
) -> None:
    """The two tables, and the facts."""
    every = [trial for own in trials.values() for trial in own]
    found = np.array([trial.intruder for trial in every], np.int64) == answers
    starts = np.cumsum([0, *(len(own) for own in trials.values())])
    scores = [share_found(found[a:b]) for a, b in itertools.pairwise(starts)]
    values = np.array([score.value for score in scores if score.value is not None])
    draft.facts |= {"latents": len(trials), "scored": len(values)}
    if len(values):
        mean = float(values.mean())
        draft.facts["intruder_tfidf"] = mean
        if len(values) > 1:
            half = Z * float(values.std(ddof=1)) / len(values) ** 0.5
            draft.facts |= {"ci_low": mean - half, "ci_high": mean + half}
    else:
        log.warning("no intruder scores: no latent of the sample fires on enough held-out tokens")
    columns = zip(*scores, strict=True) if scores else [[]] * 5
    value, n, failed, low, high = (list(column) for column in columns)
    floor = [CHANCE] * len(scores)
    draft.write_table(
        LATENT_SCORES.file,
        LATENT_SCORES.of(
            list(trials), [BY_WORDS] * len(scores), value, n, failed, floor, low, high
        ),
    )
    latent = np.repeat(list(trials), np.diff(starts)).astype(np.int64)
    item = np.concatenate([np.empty(0, int), *(np.arange(len(own)) for own in trials.values())])
    intruder = np.array([trial.intruder for trial in every], np.int64)
    places = np.array([trial.places for trial in every], np.int64).reshape(-1, SIZE)
    which = np.tile(np.arange(SIZE), len(every))
    draft.write_table(
        INTERPRETATION_ITEMS.file,
        INTERPRETATION_ITEMS.of(
            np.repeat(latent, SIZE),
            [BY_WORDS] * places.size,
            np.repeat(item, SIZE),
            texts.index[places.reshape(-1)],
            np.repeat([trial.quantile for trial in every], SIZE).astype(np.int64),
            which == np.repeat(intruder, SIZE),
            which == np.repeat(answers, SIZE),
        ),
    )
