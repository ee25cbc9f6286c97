"""Documents as vectors: their latents, or their raw activations, pooled over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.activations.layout import SPLITS
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.corpus.tables import KEPT
from deconstruct.corpus.vocabulary import whole_characters


@dataclass(frozen=True)
class Documents:
    """The corpus' documents: arrays [documents], indexed by doc_id. label: None where unknown.
    group: equal where they hang together (`group_ids`)."""

    split: NDArray[Any]
    label: NDArray[Any]
    text: list[str]
    group: NDArray[np.int64]

    @classmethod
    def read(cls, corpus: Artifact) -> Documents:
        """Texts are what the model saw: the kept tokens, without special ones; where those leave
        out spaces and the like, the source's text as far as they go."""
        table = corpus.table("documents.parquet", ["split", "label"])
        texts = (
            _texts_of_source(corpus)
            if KEPT in corpus.manifest.files
            else _texts(corpus, len(table))
        )
        return cls(
            table["split"].to_numpy(zero_copy_only=False),
            np.array(table["label"].to_pylist(), dtype=object),
            texts,
            group_ids(corpus),
        )


def _texts(corpus: Artifact, documents: int) -> list[str]:
    texts = [""] * documents
    for block in corpus.rows("tokens.parquet", ["doc_id", "token", "special"]):
        doc_id = block.column("doc_id").to_numpy()
        special = block.column("special").to_pylist()
        tokens = [
            "" if marker else token
            for token, marker in zip(block.column("token").to_pylist(), special, strict=True)
        ]
        starts = _starts(doc_id)
        for start, end in zip(starts, [*starts[1:], len(doc_id)], strict=True):
            texts[doc_id[start]] += "".join(tokens[start:end])
    return [whole_characters(text) for text in texts]


def _texts_of_source(corpus: Artifact) -> list[str]:
    kept = corpus.table(KEPT)["characters"].to_pylist()
    texts = corpus.table("documents.parquet", ["text"])["text"].to_pylist()
    return [text[:characters] for text, characters in zip(texts, kept, strict=True)]


def pooled_latents(latents: Artifact, documents: int, pooling: str) -> sparse.csr_matrix:
    """Float32 CSR [documents, d_sae]: mean (zeros counted) or max of a document's tokens."""
    d_sae = len(latents.table("features.parquet", ["latent"]))
    in_document = np.zeros(documents, np.int64)
    latent: list[NDArray[np.int32]] = []
    value: list[NDArray[np.float32]] = []
    # Rows are ordered by (doc_id, latent), as CSR has them: no third number of each is held.
    for rows in latents.rows("document_latents.parquet", ["doc_id", "latent", pooling]):
        doc, count = np.unique(rows["doc_id"].to_numpy(), return_counts=True)
        in_document[doc] += count
        latent.append(rows["latent"].to_numpy().astype(np.int32))
        value.append(rows[pooling].to_numpy().astype(np.float32))
    starts = np.concatenate([[0], np.cumsum(in_document)])
    columns = np.concatenate(latent) if latent else np.empty(0, np.int32)
    values = np.concatenate(value) if value else np.empty(0, np.float32)
    return sparse.csr_matrix((values, columns, starts), shape=(documents, d_sae))


def pooled_activations(activations: Artifact, documents: int, pooling: str) -> NDArray[np.float32]:
    """Float32 [documents, d_in] of the recorded tokens; zeros for a document without any."""
    d_in = int(activations.facts["d_in"])
    pooled = np.full((documents, d_in), 0.0 if pooling == "mean" else -np.inf)
    tokens = np.zeros(documents)
    for split in SPLITS:
        for block in ActivationReader(activations, split).rows_in_order():
            x = block.activation.double().numpy()
            starts = _starts(block.doc_id)
            doc_id = block.doc_id[starts]
            if pooling == "mean":
                np.add.at(pooled, doc_id, np.add.reduceat(x, starts))
            else:
                np.maximum.at(pooled, doc_id, np.maximum.reduceat(x, starts))
            np.add.at(tokens, doc_id, np.diff(starts, append=len(x)))
    if pooling == "mean":
        pooled /= np.maximum(tokens, 1)[:, None]
    pooled[tokens == 0] = 0
    return pooled.astype(np.float32)


def _starts(doc_id: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where runs of one document begin: a document's rows are consecutive, a block may cut one."""
    return np.concatenate([[0], np.flatnonzero(doc_id[1:] != doc_id[:-1]) + 1])
