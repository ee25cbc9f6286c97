"""Latents artifacts with planted activations, for the stages that read pooled documents."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow.parquet as pq
from support.planted import artifact_of, filled

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.features.tables import FEATURES
from deconstruct.latents.tables import DOCUMENT_LATENTS


def plant(root: DataRoot, mean: np.ndarray, density: np.ndarray | None = None) -> Artifact:
    """mean: [documents, d_sae], 0 where silent; max is twice as much. density: [d_sae]."""
    density = np.full(mean.shape[1], 0.01) if density is None else density
    doc, latent = np.nonzero(mean)
    value = mean[doc, latent].astype(np.float32)
    digest = hashlib.sha256(mean.tobytes() + density.tobytes()).hexdigest()
    pooled = {"doc_id": doc, "latent": latent, "n_fires": 1, "mean": value, "max": 2 * value}
    return artifact_of(
        root,
        Recipe("latents", 0, {"planted": True}, {"values": digest}),
        {
            DOCUMENT_LATENTS: filled(DOCUMENT_LATENTS, **pooled),
            FEATURES: filled(FEATURES, density=density),
        },
    )


def labels_of(corpus: Artifact) -> np.ndarray:
    """[documents] of str or None."""
    table = pq.read_table(corpus.file("documents.parquet"), columns=["label"])
    return np.array(table["label"].to_pylist(), dtype=object)


def is_train(corpus: Artifact) -> np.ndarray:
    """[documents] of bool."""
    table = pq.read_table(corpus.file("documents.parquet"), columns=["split"])
    return np.array(table["split"].to_pylist()) == "train"
