"""Massive activations: tokens far from all others, and latents that are about nothing else.

Some tokens, often without a meaning of their own, have activations a thousand times as far from the
mean as others (Sun et al. 2024, arXiv 2402.17762), where the model keeps its attention that has
nowhere else to go (Xiao et al. 2023, arXiv 2309.17453). A document's pooled vector is then of that
one token, whatever the document says: documents that share nothing but such a token look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.activations.layout import SPLITS
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.latents.pooling import latents_in_blocks
from deconstruct.map.layout import Floats
from deconstruct.map.tables import MASSIVE_LATENTS, MASSIVE_TOKENS

Ints = NDArray[np.int64]
ROWS = 100
"""Tokens and latents that are listed, at most."""
LEAST = 5
"""Massive tokens that a latent must fire on to be called massive."""
TIMES = 10
"""How many times as strongly as elsewhere."""


@dataclass(frozen=True)
class Massive:
    """The massive tokens of a corpus, ascending by token_index: [n] each.

    token_index, token_id, doc_id: which they are. distance: |x - mean|^2, mean that of the train
    rows. by_token: [vocabulary], how often each token is recorded. recorded, total: how many tokens
    there are in all, and the sum of their distances. median: of the train rows' distances.
    """

    token_index: Ints
    token_id: Ints
    doc_id: Ints
    distance: Floats
    by_token: Ints
    recorded: int
    total: float
    median: float

    @classmethod
    def of(cls, activations: Artifact, median: float, multiple: float) -> Massive:
        """Read all activations once. Memory grows with the massive tokens alone."""
        parts: list[tuple[Ints, ...]] = []
        distances: list[Floats] = []
        by_token, recorded, total = np.zeros(0, np.int64), 0, 0.0
        bound = multiple * median if median > 0 else np.inf
        for split in SPLITS:
            if not activations.files(f"{split}-*.parquet"):
                continue
            reader = ActivationReader(activations, split)
            mean = reader.moments.mean
            for block in reader.rows_in_order():
                x = block.activation.float().numpy()
                distance = np.square(x - mean).sum(1)
                counts = np.bincount(block.token_id, minlength=len(by_token))
                counts[: len(by_token)] += by_token
                by_token, recorded = counts, recorded + len(distance)
                total += float(distance.sum())
                far = np.flatnonzero(distance > bound)
                columns = (block.token_index, block.token_id, block.doc_id)
                parts.append(tuple(column[far].astype(np.int64) for column in columns))
                distances.append(distance[far])
        whole = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(whole[0])
        token_index, token_id, doc_id = (column[order] for column in whole)
        distance = np.concatenate(distances)[order]
        return cls(token_index, token_id, doc_id, distance, by_token, recorded, total, median)

    def in_documents(self, documents: int) -> Ints:
        """How many each document has: [documents]."""
        return np.bincount(self.doc_id, minlength=documents)

    def facts(self) -> dict[str, float]:
        """How many there are, in how many documents, of which share of tokens and variance."""
        return {
            "massive_tokens": len(self.token_index),
            "massive_documents": len(np.unique(self.doc_id)),
            "massive_share": len(self.token_index) / max(1, self.recorded),
            "massive_variance_share": float(self.distance.sum()) / self.total if self.total else 0,
        }

    def table(self, strings: Mapping[int, str]) -> pa.Table:
        """Rows of `MASSIVE_TOKENS`, largest share of the variance first."""
        ids, place = np.unique(self.token_id, return_inverse=True)
        distance = np.bincount(place, self.distance, len(ids))
        largest = np.zeros(len(ids))
        np.maximum.at(largest, place, self.distance)
        pairs = np.unique(np.stack([place, self.doc_id]), axis=1)
        order = np.argsort(-distance, kind="stable")[:ROWS]
        n = np.bincount(place, minlength=len(ids))
        return MASSIVE_TOKENS.of(
            ids[order].astype(np.uint32),
            [strings.get(int(one), "") for one in ids[order]],
            n[order].astype(np.uint64),
            self.by_token[ids[order]].astype(np.uint64),
            np.bincount(pairs[0], minlength=len(ids))[order].astype(np.uint32),
            n[order] / max(1, self.recorded),
            distance[order] / self.total if self.total else distance[order],
            largest[order] / self.median if self.median else np.full(len(order), np.inf),
        )


class OnMassive:
    """How strongly each latent fires on massive tokens and on all others, as firings are read."""

    def __init__(self, massive: Massive, tokens: int, d_sae: int) -> None:
        self._massive, self._d_sae = massive, d_sae
        self._is = np.zeros(tokens, np.bool_)
        self._is[massive.token_index] = True
        self.n, self.sum, self.max = (np.zeros((2, d_sae)) for _ in range(3))
        self._pairs: list[tuple[Ints, Ints]] = []

    def add(self, latent: Ints, token_index: Ints, activation: NDArray[np.float32]) -> None:
        """Some firings: [n] each, in any order."""
        on = self._is[token_index]
        for row, mine in ((0, ~on), (1, on)):
            own, strength = latent[mine], activation[mine]
            if len(own) == 0:
                continue
            self.n[row] += np.bincount(own, minlength=self._d_sae)
            self.sum[row] += np.bincount(own, strength, minlength=self._d_sae)
            np.maximum.at(self.max[row], own, strength)
        if on.any():
            at = np.searchsorted(self._massive.token_index, token_index[on])
            key = latent[on] << 32 | self._massive.token_id[at]
            self._pairs.append(np.unique(key, return_counts=True))

    def found(self) -> Ints:
        """The latents that are massive, ascending."""
        mean = self.means()
        often = self.n[1] >= LEAST
        return np.flatnonzero(often & ((self.n[0] == 0) | (mean[1] >= TIMES * mean[0])))

    def means(self) -> Floats:
        """[2, d_sae], on other tokens and on massive ones, where a latent fires; else 0."""
        return np.asarray(self.sum / np.maximum(self.n, 1))

    def tokens(self) -> dict[int, int]:
        """The token_id of the massive token on which each latent fires most often."""
        if not self._pairs:
            return {}
        keys, counts = (np.concatenate(one) for one in zip(*self._pairs, strict=True))
        every, place = np.unique(keys, return_inverse=True)
        total = np.bincount(place, counts)
        order = np.lexsort((every & 0xFFFFFFFF, -total, every >> 32))
        latent, first = np.unique((every >> 32)[order], return_index=True)
        token_id = (every & 0xFFFFFFFF)[order][first]
        return dict(zip(latent.tolist(), token_id.tolist(), strict=True))

    def table(self, latents: Artifact, strings: Mapping[int, str]) -> tuple[pa.Table, float]:
        """Rows of `MASSIVE_LATENTS`, and the share that all massive latents, listed or not, have of
        the squared length of pooled documents with a massive token, on average."""
        found = self.found()
        pooled, maxima = self._in_documents(latents)
        order = found[np.lexsort((found, -pooled[found]))][:ROWS]
        mean, token = self.means(), self.tokens()
        elsewhere = self.n[0, order] > 0
        total = np.maximum(self.sum[:, order].sum(0), np.finfo(float).tiny)
        rows = MASSIVE_LATENTS.of(
            order.astype(np.uint32),
            self.n[1, order].astype(np.uint64),
            self.n[0, order].astype(np.uint64),
            mean[1, order],
            pa.array(mean[0, order], mask=~elsewhere),
            self.max[1, order],
            pa.array(self.max[0, order], mask=~elsewhere),
            self.sum[1, order] / total,
            maxima[order],
            pooled[order],
            [strings.get(token[int(one)], "") for one in order],
        )
        return rows, float(pooled[found].sum())

    def _in_documents(self, latents: Artifact) -> tuple[Floats, Floats]:
        """[d_sae] each: ``share_of_pooled`` and ``share_of_document_maxima``."""
        holds = set(self._massive.doc_id.tolist())
        pooled, documents = np.zeros(self._d_sae), 0
        for doc_id, means in latents_in_blocks(latents):
            mine = means[[doc in holds for doc in doc_id.tolist()]].astype(np.float64)
            square = mine.multiply(mine)
            length = np.asarray(square.sum(1)).ravel()
            there = length > 0
            pooled += square[there].T @ (1 / length[there])
            documents += int(there.sum())
        fires, above = np.zeros(self._d_sae), np.zeros(self._d_sae)
        for _, strongest in latents_in_blocks(latents, "max"):
            more = strongest.data > self.max[0, strongest.indices]
            fires += np.bincount(strongest.indices, minlength=self._d_sae)
            above += np.bincount(strongest.indices[more], minlength=self._d_sae)
        return pooled / max(1, documents), above / np.maximum(fires, 1)
