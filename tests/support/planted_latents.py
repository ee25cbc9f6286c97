"""Latents artifacts with planted activations, for the stages that read pooled documents."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow.parquet as pq

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.features.tables import FEATURES
from deconstruct.latents.tables import DOCUMENT_LATENTS


def plant(root: DataRoot, mean: np.ndarray, density: np.ndarray | None = None) -> Artifact:
    """mean: [documents, d_sae], 0 where silent; max is twice as much. density: [d_sae]."""
    d_sae = mean.shape[1]
    density = np.full(d_sae, 0.01) if density is None else density

    def write(draft: Draft) -> None:
        doc, latent = np.nonzero(mean)
        value = mean[doc, latent].astype(np.float32)
        pooled = DOCUMENT_LATENTS.of(doc, latent, np.ones(len(doc), np.uint32), value, 2 * value)
        features = [{"latent": i, "density": float(own)} for i, own in enumerate(density)]
        draft.write_table(DOCUMENT_LATENTS.file, pooled)
        draft.write_table(FEATURES.file, FEATURES.of_rows(features))

    digest = hashlib.sha256(mean.tobytes() + density.tobytes()).hexdigest()
    return root.make(Recipe("latents", 0, {"planted": True}, {"values": digest}), write)


def labels_of(corpus: Artifact) -> np.ndarray:
    """[documents] of str or None."""
    table = pq.read_table(corpus.file("documents.parquet"), columns=["label"])
    return np.array(table["label"].to_pylist(), dtype=object)


def is_train(corpus: Artifact) -> np.ndarray:
    """[documents] of bool."""
    table = pq.read_table(corpus.file("documents.parquet"), columns=["split"])
    return np.array(table["split"].to_pylist()) == "train"
