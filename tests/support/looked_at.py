"""What a planted run has for people to look at: places, histograms, massive activations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from support.drawn import APOSTROPHE, D_SAE, DEAD, SPORT_LATENT, TOKEN_IDS, Drawn
from support.planted import Contents, filled

from deconstruct.map.tables import (
    DOCUMENT_MAP,
    LABEL_LATENTS,
    LATENT_CONTEXTS,
    LATENT_HISTOGRAM,
    LATENT_MAP,
    MASSIVE_LATENTS,
    MASSIVE_TOKENS,
)


def _contexts(drawn: Drawn) -> pa.Table:
    """Of the latent of " goal", the first eight firings of each fifth."""
    strengths = drawn.activations[:, SPORT_LATENT]
    order = np.argsort(strengths, kind="stable")[(strengths == 0).sum() :]
    rows = [
        (
            number,
            place,
            one,
            strengths[one],
            strengths[part].min(),
            strengths[part].max(),
            len(part),
        )
        for number, part in enumerate(np.array_split(order, 5), start=1)
        for place, one in enumerate(part[:8], start=1)
    ]
    names = ("quantile", "place", "token_index", "activation", "low", "high", "n_fires")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return filled(LATENT_CONTEXTS, latent=SPORT_LATENT, **columns)


def maps(drawn: Drawn) -> Contents:
    """Documents stand by their cluster, pooled ones that hold an apostrophe far from all others;
    latents in a row; " goal" is called massive."""
    strongest = drawn.activations.max(0)
    living = np.array([latent for latent in range(D_SAE) if latent != DEAD])
    goals = np.array([token == " goal" for token in drawn.tokens])
    holds = np.bincount(drawn.doc_of, goals, len(drawn.labels))
    island = np.bincount(drawn.doc_of, [token == APOSTROPHE for token in drawn.tokens]) > 0
    across = 10.0 * drawn.clusters + np.arange(len(drawn.labels)) % 5
    return {
        DOCUMENT_MAP: filled(
            DOCUMENT_MAP, doc_id=np.arange(len(drawn.labels)), x=across, y=across % 7,
            pooled_x=holds + 40 * island, pooled_y=across % 3, massive=holds.astype(int),
        ),
        LATENT_MAP: filled(LATENT_MAP, latent=living, x=living.astype(float), y=living % 4 / 1.0),
        LATENT_HISTOGRAM: filled(
            LATENT_HISTOGRAM, latent=living, bin=19, low=strongest[living] * 0.95,
            high=strongest[living], n=(drawn.activations > 0).sum(0)[living],
        ),
        LATENT_CONTEXTS: _contexts(drawn),
        LABEL_LATENTS: filled(
            LABEL_LATENTS, label=list(drawn.names), latent=[0, SPORT_LATENT, 1], rank=1,
            cohen_d_train=[0.1, 3.0, 0.2], cohen_d=[0.1, 2.9, 0.1], ci_low=0.0, ci_high=3.5,
            auroc=[0.5, 1.0, 0.6], difference=0.5, mean_in=0.6, mean_out=0.1,
        ),
        MASSIVE_TOKENS: filled(
            MASSIVE_TOKENS, token_id=[TOKEN_IDS[" goal"]], token=" goal", n=int(goals.sum()),
            n_tokens=int(goals.sum()), n_documents=int((holds > 0).sum()), share=0.01,
            variance_share=0.5, max_ratio=100.0,
        ),
        MASSIVE_LATENTS: filled(
            MASSIVE_LATENTS, latent=[SPORT_LATENT], n_massive=int(goals.sum()), n_typical=0,
            mean_massive=2.5, mean_typical=[None], max_massive=3.0, max_typical=[None],
            share_of_sum=1.0, share_of_document_maxima=1.0, share_of_pooled=0.4, token=" goal",
        ),
    }  # fmt: skip
