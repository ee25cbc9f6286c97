"""Documents in planted groups: corpora, latents and activations for the cluster stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from support.planted import artifact_of, filled

from deconstruct.activations.shards import Rows, write
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.cluster import stage as cluster
from deconstruct.config import ClusterConfig
from deconstruct.corpus.columns.texts import doc_key
from deconstruct.corpus.tables import DOCUMENTS, TOKENS

D_SAE = 60
OWN = {"business": (5, 6, 7), "film": (17, 18), "sport": (31, 32, 33)}
LOUD = 2
QUICK = ClusterConfig(fits=4)
"""Where stability is not what a test is about."""


def planted(
    labels: np.ndarray, seed: int = 0, own: dict[str, tuple[int, ...]] = OWN, d_sae: int = D_SAE
) -> tuple[np.ndarray, np.ndarray]:
    """Means [documents, d_sae] and densities: sparse noise, latents of each label, and a latent
    that fires everywhere, much louder than all others, in two kinds that cut across labels."""
    draw = np.random.default_rng(seed)
    shape = (len(labels), d_sae)
    mean = draw.gamma(1, 1, shape) * (draw.random(shape) < 0.05)
    for label, latents in own.items():
        for latent in latents:
            mean[labels == label, latent] += draw.gamma(2, 2, (labels == label).sum())
    mean[:, LOUD] = np.where(draw.random(len(labels)) < 0.5, 500, 5000)
    density = np.full(d_sae, 0.01)
    density[LOUD] = 0.9
    return mean, density


def planted_activations(root: DataRoot, values: np.ndarray) -> Artifact:
    """Activations of one token per document: values [documents, d_in]. Two documents are held
    out."""
    numbers = np.arange(len(values))
    test = numbers < 2

    def fill(draft: Draft) -> None:
        for split, mine in (("train", numbers[~test]), ("test", numbers[test])):
            position = np.ones(len(mine), np.uint32)
            source = Rows(mine.astype(np.uint64), mine.astype(np.uint32), position, position)
            with draft.writing(f"{split}-00000.parquet") as path:
                write(path, source, torch.from_numpy(values[mine]).float(), "float32")
        draft.facts["d_in"] = values.shape[1]

    digest = hashlib.sha256(values.tobytes()).hexdigest()
    return root.make(Recipe("activations", 0, {"planted": True}, {"values": digest}), fill)


def planted_corpus(
    root: DataRoot, texts: Sequence[str], labels: Sequence[str | None], **groups: Sequence[int]
) -> Artifact:
    """A corpus whose tokens are the words of its texts. groups: a column ``group_id``."""
    words = [text.split(" ") for text in texts]
    doc_id = np.repeat(np.arange(len(texts)), [len(one) for one in words])
    documents = filled(
        DOCUMENTS,
        doc_key=[doc_key(text) for text in texts],
        split="train",
        label=list(labels),
        text=list(texts),
        n_tokens=[len(one) for one in words],
    )
    tokens = filled(
        TOKENS, doc_id=doc_id, token=[f"{word} " for one in words for word in one], special=False
    )
    for name, column in groups.items():
        if name in documents.schema.names:
            documents = documents.drop_columns([name])
        documents = documents.append_column(name, [np.asarray(column, np.uint32)])
    told = repr((list(texts), list(labels), {name: list(own) for name, own in groups.items()}))
    digest = hashlib.sha256(told.encode()).hexdigest()
    wanted = Recipe("corpus", 0, {"planted": True}, {"texts": digest})
    return artifact_of(root, wanted, {DOCUMENTS: documents, TOKENS: tokens})


def group(
    root: DataRoot,
    corpus: Artifact,
    latents: Artifact,
    config: ClusterConfig = QUICK,
    values: np.ndarray | None = None,
) -> Artifact:
    """The stage, with activations that say nothing where ``values`` are not given."""
    if values is None:
        documents = pq.read_metadata(corpus.file("documents.parquet")).num_rows
        values = np.random.default_rng(0).standard_normal((documents, 4))
    activations = planted_activations(root, values)
    return cluster.group_documents(
        root, config, corpus=corpus, latents=latents, activations=activations
    )


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    """Of one of its tables, checked against its manifest."""
    table = pq.read_table(artifact.file(f"{name}.parquet"), page_checksum_verification=True)
    assert artifact.manifest.files[f"{name}.parquet"].rows == len(table)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def metric(artifact: Artifact, representation: str, kind: str) -> dict[str, float]:
    """Metrics of one representation and kind."""
    return {
        row["metric"]: row["value"]
        for row in rows(artifact, "cluster_metrics")
        if (row["representation"], row["kind"]) == (representation, kind)
    }
