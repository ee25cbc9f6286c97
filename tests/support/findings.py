"""What a planted run finds after its probes: clusters, how clear latents are, drift."""

from __future__ import annotations

import numpy as np
from support.drawn import DEAD, LABELS, SPORT_LATENT, Drawn
from support.planted import Contents, filled

from deconstruct.cluster.tables import (
    CLUSTER_CURVE,
    CLUSTER_METRICS,
    CLUSTER_SUMMARY,
    CLUSTERS,
    LATENT_CLUSTERS,
)
from deconstruct.drift.tables import DRIFT, LATENT_DRIFT
from deconstruct.explanation.tables import EXPLANATION_ITEMS, EXPLANATION_SCORES, EXPLANATIONS
from deconstruct.interpretation.tables import INTERPRETATION_ITEMS, LATENT_SCORES


def clusters(drawn: Drawn) -> Contents:
    sizes = np.bincount(drawn.clusters)
    return {
        CLUSTERS: filled(
            CLUSTERS,
            cluster=drawn.clusters,
            distance=np.arange(len(drawn.clusters)) * 7 % 11 / 11,
            support=0.9,
        ),
        CLUSTER_SUMMARY: filled(
            CLUSTER_SUMMARY,
            size=sizes,
            top_label=drawn.names,
            top_label_share=0.8,
            latents=[[SPORT_LATENT, 1]] * len(sizes),
            keywords=[["match", "goal"]] * len(sizes),
            exemplars=[[0, 3]] * len(sizes),
            jaccard=0.8,
        ),
        CLUSTER_METRICS: filled(
            CLUSTER_METRICS,
            representation=["latents"] * 5 + ["tfidf"],
            kind=["value"] * 4 + ["stability", "null"],
            metric=["silhouette", "nmi", "ari", "purity", "ari", "nmi"],
            value=[0.1, 0.6, 0.5, 0.8, 0.9, 0.0],
        ),
        CLUSTER_CURVE: filled(
            CLUSTER_CURVE,
            k=[len(sizes)],
            stability=0.9,
            standard_error=0.02,
            null_stability=0.0,
            silhouette=0.1,
            chosen=True,
        ),
        LATENT_CLUSTERS: filled(LATENT_CLUSTERS, latent_cluster=0, distance=0.5, support=0.9),
    }


def interpretation(drawn: Drawn) -> Contents:
    """One latent's trial of five contexts, in which the intruder was found."""
    fires = np.flatnonzero(drawn.activations[:, SPORT_LATENT])[:4]
    silent = np.flatnonzero(~drawn.special & (drawn.activations[:, SPORT_LATENT] == 0))[0]
    intruder = [False] * 4 + [True]
    method = "intruder-tfidf"
    return {
        LATENT_SCORES: filled(
            LATENT_SCORES, latent=[SPORT_LATENT, DEAD], method=method, value=[1.0, None],
            n=[1, 0], floor=0.2, ci_low=[0.2, None], ci_high=[1.0, None],
        ),
        INTERPRETATION_ITEMS: filled(
            INTERPRETATION_ITEMS, latent=SPORT_LATENT, method=method, item=0, quantile=1,
            token_index=[*fires, silent], truth=intruder, answer=intruder,
        ),
    }  # fmt: skip


def explanation(drawn: Drawn) -> Contents:
    """One latent explained from train documents, one held-out context judged."""
    fires = np.flatnonzero(drawn.activations[:, SPORT_LATENT])
    held_out = np.isin(drawn.doc_of[fires], drawn.test_docs)
    held_out[-1] |= not held_out.any()
    own = {"latent": SPORT_LATENT, "method": "detection"}
    return {
        EXPLANATIONS: filled(
            EXPLANATIONS, latent=SPORT_LATENT, text=f"{len(fires)} goals", model="m",
            shown=[fires[~held_out][:3].tolist()],
        ),
        EXPLANATION_ITEMS: filled(
            EXPLANATION_ITEMS, **own, quantile=1, token_index=fires[held_out][:1], truth=True,
            answer=None,
        ),
        EXPLANATION_SCORES: filled(
            EXPLANATION_SCORES, **own, value=None, ci_low=None, ci_high=None, failed=[1], floor=0.5
        ),
    }  # fmt: skip


def drift(dense: np.ndarray) -> Contents:
    density = (dense > 0).mean(0)
    return {
        DRIFT: filled(
            DRIFT,
            subject=["reconstruction", "label share"],
            metric=["fvu_train_mean", LABELS[1]],
            reference=[0.2, 0.4],
            current=[0.3, 0.1],
            difference=[0.3 - 0.2, 0.1 - 0.4],
            ci_low=[0.05, None],
            ci_high=[0.15, None],
            n_reference=[100, 6],
            n_current=[20, 2],
        ),
        LATENT_DRIFT: filled(
            LATENT_DRIFT, reference_density=density, current_density=density / 2, log2_ratio=-1.0
        ),
    }
