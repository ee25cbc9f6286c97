"""Documents as texts and as pooled vectors: memory grows with those that are asked for alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.activations.layout import SPLITS
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.corpus.tables import KEPT
from deconstruct.corpus.vocabulary import whole_characters

Ids = NDArray[np.int64]


def texts_of(corpus: Artifact, documents: int, wanted: Ids) -> list[str]:
    """What the model saw of each wanted document, in their order: the kept tokens, without special
    ones; where those leave out spaces and the like, the source's text as far as they go.

    documents: how many the corpus has. wanted: doc_ids.
    """
    place = _places(documents, wanted)
    texts = [""] * len(wanted)
    if KEPT in corpus.manifest.files:
        kept = corpus.table(KEPT)["characters"].to_numpy()
        for block in corpus.rows("documents.parquet", ["doc_id", "text"]):
            doc_id, mine = _wanted(block, place)
            for doc, text in zip(doc_id, mine["text"].to_pylist(), strict=True):
                texts[place[doc]] = text[: kept[doc]]
        return texts
    for block in corpus.rows("tokens.parquet", ["doc_id", "token", "special"]):
        doc_id, mine = _wanted(block, place)
        special = mine["special"].to_pylist()
        for doc, token, marker in zip(doc_id, mine["token"].to_pylist(), special, strict=True):
            if not marker:
                texts[place[doc]] += token
    return [whole_characters(text) for text in texts]


def latents_in_blocks(
    latents: Artifact, pooling: str = "mean"
) -> Iterator[tuple[Ids, sparse.csr_matrix]]:
    """Documents in which a latent fires, ascending, and float32 CSR [documents, d_sae] of the mean
    over each one's tokens (zeros counted), or of the ``max``; a block at a time."""
    d_sae = len(latents.table("features.parquet", ["latent"]))
    doc_id = np.empty(0, np.int64)
    latent, value = np.empty(0, np.int32), np.empty(0, np.float32)
    for rows in latents.rows("document_latents.parquet", ["doc_id", "latent", pooling]):
        doc_id = np.concatenate([doc_id, rows["doc_id"].to_numpy().astype(np.int64)])
        latent = np.concatenate([latent, rows["latent"].to_numpy().astype(np.int32)])
        value = np.concatenate([value, rows[pooling].to_numpy().astype(np.float32)])
        whole = int(np.searchsorted(doc_id, doc_id[-1]))  # the last one may go on
        if whole:
            yield _block(doc_id[:whole], latent[:whole], value[:whole], d_sae)
            doc_id, latent, value = doc_id[whole:], latent[whole:], value[whole:]
    if len(doc_id):
        yield _block(doc_id, latent, value, d_sae)


def latents_of(
    latents: Artifact, documents: int, wanted: Ids, pooling: str = "mean"
) -> sparse.csr_matrix:
    """Float32 CSR [wanted, d_sae], in their order: the mean over each one's tokens, or the max."""
    d_sae = len(latents.table("features.parquet", ["latent"]))
    place = _places(documents, wanted)
    found, parts = [], [sparse.csr_matrix((0, d_sae), dtype=np.float32)]
    for doc_id, rows in latents_in_blocks(latents, pooling):
        mine = np.flatnonzero(place[doc_id] >= 0)
        found.append(place[doc_id[mine]])
        parts.append(rows[mine])
    order = np.full(len(wanted), -1)
    there = np.concatenate(found) if found else np.empty(0, np.int64)
    order[there] = np.arange(len(there))
    stacked = sparse.vstack([*parts, sparse.csr_matrix((1, d_sae), dtype=np.float32)], "csr")
    return stacked[np.where(order < 0, len(there), order)]  # the last row is empty


def activations_of(
    activations: Artifact, documents: int, wanted: Ids, pooling: str = "mean"
) -> NDArray[np.float64]:
    """[wanted, d_in], in their order: the mean over each one's recorded tokens, or the max; zeros
    without."""
    place = _places(documents, wanted)
    mean = pooling == "mean"
    pooled = np.full((len(wanted), int(activations.facts["d_in"])), 0.0 if mean else -np.inf)
    tokens = np.zeros(len(wanted))
    for split in SPLITS:
        if not activations.files(f"{split}-*.parquet"):
            continue
        for block in ActivationReader(activations, split).rows_in_order():
            mine = np.flatnonzero(place[block.doc_id] >= 0)
            if len(mine) == 0:
                continue
            at = place[block.doc_id[mine]]
            starts = np.concatenate([[0], np.flatnonzero(at[1:] != at[:-1]) + 1])
            x = block.activation.float().numpy()
            x = x if len(mine) == len(x) else x[mine]
            join = np.add if mean else np.maximum
            join.at(pooled, at[starts], join.reduceat(x, starts, dtype=np.float64))
            np.add.at(tokens, at[starts], np.diff(starts, append=len(at)))
    pooled[tokens == 0] = 0
    return pooled / np.maximum(tokens, 1)[:, None] if mean else pooled


def _block(
    doc_id: Ids, latent: NDArray[np.int32], value: NDArray[np.float32], d_sae: int
) -> tuple[Ids, sparse.csr_matrix]:
    found, starts = np.unique(doc_id, return_index=True)
    bounds = np.append(starts, len(doc_id))
    return found, sparse.csr_matrix((value, latent, bounds), shape=(len(found), d_sae))


def _places(documents: int, wanted: Ids) -> NDArray[np.int64]:
    """[documents]: where each stands among the wanted ones, -1 for the others."""
    place = np.full(documents, -1)
    place[wanted] = np.arange(len(wanted))
    return place


def _wanted(block: pa.Table, place: NDArray[np.int64]) -> tuple[NDArray[np.uint32], pa.Table]:
    """The rows of wanted documents, and whose they are."""
    mine = block.filter(pa.array(place[block["doc_id"].to_numpy()] >= 0))
    return mine["doc_id"].to_numpy(), mine
