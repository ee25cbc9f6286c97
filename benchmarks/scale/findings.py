"""What is told of a synthetic run beside its firings: as many rows as a run of its size has, so
that every page of the explorer has its due work.

Documents have places, clusters that follow their labels for the most part, a probe's scores that
err on one in ten, and losses; one in two hundred holds a massive token, and the last tenth came
after the SAE was trained.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from deconstruct.artifacts.table import Table
from deconstruct.cluster.tables import CLUSTER_CURVE, CLUSTER_METRICS, CLUSTER_SUMMARY, CLUSTERS
from deconstruct.cluster.tables import TABLES as CLUSTER
from deconstruct.drift.tables import DRIFT, LATENT_DRIFT
from deconstruct.drift.tables import TABLES as DRIFTED
from deconstruct.evaluation.tables import (
    DENSITY_HISTOGRAM,
    DOCUMENT_METRICS,
    SAE_METRICS,
    TOKEN_ERRORS,
)
from deconstruct.evaluation.tables import TABLES as EVALUATION
from deconstruct.features.tables import FEATURE_LOGITS
from deconstruct.interpretation.tables import INTERPRETATION_ITEMS, LATENT_SCORES
from deconstruct.interpretation.tables import TABLES as INTERPRETATION
from deconstruct.map.tables import (
    DOCUMENT_MAP,
    LABEL_LATENTS,
    LATENT_HISTOGRAM,
    LATENT_MAP,
    MASSIVE_LATENTS,
    MASSIVE_TOKENS,
)
from deconstruct.map.tables import TABLES as MAP
from deconstruct.probe.tables import PROBE_CURVE, PROBE_SCORES, PROBE_WEIGHTS, PROBES
from deconstruct.probe.tables import TABLES as PROBE
from deconstruct.reference.tables import DOCUMENT_LOSSES
from deconstruct.reference.tables import TABLES as REFERENCE
from tests.support.planted import Contents, filled

LABELS = ("business", "entertainment", "politics", "sport", "tech")
METRICS = {"fvu": 0.2, "fvu_typical": 0.3, "l0": 32, "delta_loss": 0.4, "kl": 0.5}
ENDS = {"ci_low": 0.1, "ci_high": 0.3}
Rows = dict[Table, pa.Table]


def is_held_out(documents: int) -> np.ndarray:
    """Every fifth: bool [documents]."""
    return np.arange(documents) % 5 == 0


def findings(
    labels: np.ndarray, tokens: int, d_sae: int, draw: np.random.Generator
) -> dict[str, Contents]:
    """Tables by stage, all but the firings and their contexts. labels: of each document, places in
    `LABELS`. tokens: of each document."""
    rows = (
        _single(d_sae)
        | _evaluation(labels, tokens, draw)
        | _probe(labels, d_sae, draw)
        | _clusters(labels, d_sae, draw)
        | _maps(labels, d_sae, draw)
        | _drift(d_sae, draw)
    )
    stages = {
        "evaluation": EVALUATION, "probe": PROBE, "cluster": CLUSTER, "map": MAP,
        "interpretation": INTERPRETATION, "reference": REFERENCE, "drift": DRIFTED,
    }  # fmt: skip
    return {
        stage: {t: rows.get(t, t.empty()) for t in own if not t.optional}
        for stage, own in stages.items()
    }


def _single(d_sae: int) -> Rows:
    """Of which one row does."""
    rows = {
        FEATURE_LOGITS: {"direction": "promoted", "rank": 1, "token": " word0", "logit": 1.0},
        DENSITY_HISTOGRAM: {"low": -3.0, "high": -2.0, "latents": d_sae},
        PROBE_CURVE: {"representation": "latents", "n": 2, "draw": 0, "value": 0.8},
        CLUSTER_METRICS: {"representation": "latents", "kind": "value", "metric": "nmi"}
        | {"value": 0.1},
        CLUSTER_CURVE: {"k": 5, "stability": 0.9, "standard_error": 0.02, "null_stability": 0.0}
        | {"silhouette": 0.1, "chosen": True},
        LATENT_SCORES: {"method": "intruder-tfidf", "value": 0.4, "n": 20, "floor": 0.2} | ENDS,
        INTERPRETATION_ITEMS: {"method": "intruder-tfidf", "truth": True, "answer": True},
    }
    return {table: filled(table, **own) for table, own in rows.items()}


def _evaluation(labels: np.ndarray, tokens: int, draw: np.random.Generator) -> Rows:
    held_out = np.flatnonzero(is_held_out(len(labels)))
    read = np.arange(0, len(labels) * tokens, 5, dtype=np.uint64)
    noise = 1 + 0.1 * draw.random((6, len(held_out)))
    sums = {
        "error": noise[0], "error_typical": noise[1], "fires": 32 * tokens * noise[2],
        "spliced": (3 + noise[3]) * tokens, "kl": 0.5 * tokens * noise[4],
        "top1": 0.6 * tokens * noise[5],
    }  # fmt: skip
    losses = {"zero": 12.0, "kl_zero": 9.0, "zero_bos_kept": 11.0, "mean": 8.0}
    return {
        SAE_METRICS: filled(
            SAE_METRICS, metric=list(METRICS), value=list(METRICS.values()), n=1, unit="share",
            text="own", **ENDS,
        ),
        TOKEN_ERRORS: filled(
            TOKEN_ERRORS, token_index=read, squared_error=draw.random(len(read), np.float32),
            squared_norm=1 + draw.random(len(read), np.float32),
        ),
        DOCUMENT_METRICS: filled(
            DOCUMENT_METRICS, text="own", doc_id=held_out, tokens=tokens, tokens_typical=tokens,
            variance=5.0, variance_typical=4.0, predictions=tokens, clean=3.0 * tokens, **sums,
        ),
        DOCUMENT_LOSSES: filled(
            DOCUMENT_LOSSES, doc_id=held_out, predictions=tokens, clean=3.0 * tokens,
            **{name: value * tokens for name, value in losses.items()},
        ),
    }  # fmt: skip


def _probe(labels: np.ndarray, d_sae: int, draw: np.random.Generator) -> Rows:
    weights = draw.normal(size=(len(LABELS), d_sae))
    label, latent = np.indices(weights.shape, np.uint32).reshape(2, -1)
    rank = (np.argsort(np.argsort(-np.abs(weights), 1), 1) + 1).astype(np.uint32)
    held_out = np.flatnonzero(is_held_out(len(labels)))
    target = np.tile(np.arange(len(LABELS)), len(held_out))
    truth = np.repeat(labels[held_out], len(LABELS)) == target
    said = np.where(draw.random(len(held_out)) < 0.1, draw.integers(0, 5, len(held_out)), -1)
    said = np.repeat(np.where(said < 0, labels[held_out], said), len(LABELS)) == target
    names = [LABELS[which] for which in label]
    return {
        PROBES: filled(
            PROBES, representation="latents", k=None, label=None, metric="accuracy", target=None,
            seed=0, value=0.9, n_train=80, n_test=20, **ENDS,
        ),
        PROBE_WEIGHTS: filled(
            PROBE_WEIGHTS, label=names, latent=latent, weight=weights.reshape(-1),
            effect=weights.reshape(-1), rank=rank.reshape(-1),
        ),
        PROBE_SCORES: filled(
            PROBE_SCORES, representation="latents", k=None,
            target=[LABELS[which] for which in target], doc_id=np.repeat(held_out, len(LABELS)),
            score=4.0 * said - 2 + draw.random(len(said)), truth=truth.astype(float),
        ),
    }  # fmt: skip


def _clusters(labels: np.ndarray, d_sae: int, draw: np.random.Generator) -> Rows:
    """Three in four documents are in the cluster of their label."""
    astray = draw.random(len(labels)) < 0.25
    of = np.where(astray, draw.integers(0, len(LABELS), len(labels)), labels)
    distance = draw.random(len(labels))
    nearest = [np.flatnonzero(of == one)[:9].tolist() for one in range(len(LABELS))]
    latents = draw.integers(0, d_sae, (len(LABELS), 12))
    return {
        CLUSTERS: filled(
            CLUSTERS, cluster=of, distance=distance, support=draw.random(len(labels))
        ),
        CLUSTER_SUMMARY: filled(
            CLUSTER_SUMMARY, size=np.bincount(of, minlength=len(LABELS)), top_label=list(LABELS),
            top_label_share=0.8, latents=latents.tolist(), exemplars=nearest, jaccard=0.8,
            keywords=[[f"word{one}", f"word{one + 5}"] for one in range(len(LABELS))],
        ),
    }  # fmt: skip


def _maps(labels: np.ndarray, d_sae: int, draw: np.random.Generator) -> Rows:
    documents = len(labels)
    latent, place = np.arange(d_sae), draw.normal(size=(4, documents))
    across, up = draw.normal(size=(2, d_sae))
    ranked = draw.integers(0, d_sae - 50, len(LABELS))[:, None] + np.arange(50)
    low = np.tile(np.arange(20) / 20, d_sae)
    return {
        DOCUMENT_MAP: filled(
            DOCUMENT_MAP, doc_id=np.arange(documents), x=place[0] + 4 * labels, y=place[1],
            pooled_x=place[2], pooled_y=place[3], massive=(np.arange(documents) % 200 == 0) * 1,
        ),
        LATENT_MAP: filled(LATENT_MAP, latent=latent, x=across, y=up),
        LATENT_HISTOGRAM: filled(
            LATENT_HISTOGRAM, latent=np.repeat(latent, 20), bin=np.tile(np.arange(20), d_sae),
            low=low, high=low + 0.05, n=draw.integers(1, 100, 20 * d_sae),
        ),
        LABEL_LATENTS: filled(
            LABEL_LATENTS, label=np.repeat(LABELS, 50), latent=ranked.reshape(-1),
            rank=np.tile(np.arange(1, 51), len(LABELS)), cohen_d_train=1.0, cohen_d=1.0, auroc=0.8,
        ),
        MASSIVE_TOKENS: filled(MASSIVE_TOKENS, token_id=[0], token=" word0", n=1, n_tokens=1),
        MASSIVE_LATENTS: filled(MASSIVE_LATENTS, latent=[1], n_massive=5, token=" word0"),
    }  # fmt: skip


def _drift(d_sae: int, draw: np.random.Generator) -> Rows:
    density, ratio = draw.random(d_sae) / 100, draw.normal(size=d_sae)
    return {
        DRIFT: filled(
            DRIFT, subject="label share", metric=list(LABELS), reference=0.2, current=0.25,
            difference=0.05, ci_low=0.01, ci_high=0.09, n_reference=1000, n_current=100,
        ),
        LATENT_DRIFT: filled(
            LATENT_DRIFT, reference_density=density, current_density=density * 2**ratio,
            log2_ratio=ratio,
        ),
    }  # fmt: skip
