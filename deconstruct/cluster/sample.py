"""Which documents are fitted, and in which order: their texts decide, not where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.latents.pooling import Ids, latents_in_blocks


@dataclass(frozen=True)
class Sample:
    """The documents of a corpus, and those that are fitted.

    documents: how many there are. label: [documents], None where unknown. members: doc_ids,
    ascending, of those in which a latent fires. fitted: doc_ids [n], in the order of the digests
    of their texts, so that neither the sample nor what is drawn from it depends on where documents
    stand. groups: [n], numbered from 0 in that order: of texts that are left out together.
    """

    documents: int
    label: NDArray[Any]
    members: Ids
    fitted: Ids
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Artifact, latents: Artifact, keep: NDArray[np.bool_], most: int) -> Sample:
        """keep: [d_sae], latents that count. most: so many documents are fitted."""
        digests, labels = [], []
        names: dict[str | None, str | None] = {}
        for block in corpus.rows("documents.parquet", ["doc_key", "label"]):
            keys = block["doc_key"].to_pylist()
            digests.append(np.array([int(key, 16) for key in keys], np.uint64))
            labels += [names.setdefault(label, label) for label in block["label"].to_pylist()]
        digest = np.concatenate(digests)
        members = _firing(latents, len(digest), keep)
        fitted = members[np.argsort(digest[members], kind="stable")[:most]]
        groups = group_ids(corpus)[fitted]
        _, first, own = np.unique(groups, return_index=True, return_inverse=True)
        in_order = np.argsort(np.argsort(first))[own] if len(fitted) else own
        return cls(len(digest), np.array(labels, object), members, fitted, in_order)


def _firing(latents: Artifact, documents: int, keep: NDArray[np.bool_]) -> Ids:
    """doc_ids of the documents in which a latent that counts fires."""
    fires = np.zeros(documents, np.bool_)
    for doc_id, rows in latents_in_blocks(latents):
        counted = np.append(0, np.cumsum(keep[rows.indices] & (rows.data != 0)))
        fires[doc_id] = np.diff(counted[rows.indptr]) > 0
    return np.flatnonzero(fires)
