"""Documents as vectors: their latents, or their raw activations, pooled over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.artifact import Artifact
from deconstruct.reader import ActivationReader


@dataclass(frozen=True)
class Documents:
    """The corpus' documents: arrays [documents], indexed by doc_id. label: None where unknown."""

    split: NDArray[Any]
    label: NDArray[Any]
    text: list[str]

    @classmethod
    def read(cls, corpus: Artifact) -> Documents:
        """Texts are what the model saw: the kept tokens, without special ones."""
        table = pq.read_table(corpus.file("documents.parquet"), columns=["split", "label"])
        texts: list[list[str]] = [[] for _ in range(len(table))]
        file = pq.ParquetFile(corpus.file("tokens.parquet"), page_checksum_verification=True)
        for block in file.iter_batches(1 << 18, columns=["doc_id", "token", "special"]):
            for doc, token, special in zip(*(c.to_pylist() for c in block.columns), strict=True):
                if not special:
                    texts[doc].append(token)
        return cls(
            table["split"].to_numpy(zero_copy_only=False),
            np.array(table["label"].to_pylist(), dtype=object),
            ["".join(tokens) for tokens in texts],
        )


def pooled_latents(latents: Artifact, documents: int, pooling: str) -> sparse.csr_matrix:
    """Float32 CSR [documents, d_sae]: mean (zeros counted) or max of a document's tokens."""
    table = pq.read_table(
        latents.file("document_latents.parquet"),
        columns=["doc_id", "latent", pooling],
        page_checksum_verification=True,
    )
    d_sae = latents.manifest.files["features.parquet"].rows
    shape = (documents, d_sae or pq.read_metadata(latents.file("features.parquet")).num_rows)
    doc, latent, value = (column.to_numpy() for column in table.columns)
    return sparse.csr_matrix((value.astype(np.float32), (doc, latent)), shape=shape)


def pooled_activations(activations: Artifact, documents: int, pooling: str) -> NDArray[np.float32]:
    """Float32 [documents, d_in] of the recorded tokens; zeros for a document without any."""
    d_in = int(activations.facts["d_in"])
    start = 0.0 if pooling == "mean" else -np.inf
    pooled = np.full((documents, d_in), start)
    tokens = np.zeros(documents)
    for split in ("train", "test"):
        for block in ActivationReader(activations, split).rows_in_order():
            x = block.activation.double().numpy()
            # A document's rows are consecutive in a shard.
            starts = np.flatnonzero(np.diff(block.doc_id, prepend=block.doc_id[0] + 1))
            doc = block.doc_id[starts]
            if pooling == "mean":
                np.add.at(pooled, doc, np.add.reduceat(x, starts))
            else:
                np.maximum.at(pooled, doc, np.maximum.reduceat(x, starts))
            np.add.at(tokens, doc, np.diff(starts, append=len(x)))
    if pooling == "mean":
        pooled /= np.maximum(tokens, 1)[:, None]
    pooled[tokens == 0] = 0
    return pooled.astype(np.float32)
