"""How documents are weighed, grouped and described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

WORD = r"(?u)\b[^\W\d_]{3,}\b"
"""Three letters or more."""
Matrix = Any
"""A scipy CSR matrix."""


@dataclass(frozen=True)
class Weighing:
    """tf-idf of latents, as the fitted documents have it.

    usual: [d_sae], the mean of a latent's activation over the documents in which it fires. rarity:
    [d_sae], its idf; 0 of a latent that is left out, or that fires in none of them.
    """

    usual: NDArray[np.float64]
    rarity: NDArray[np.float64]

    @classmethod
    def of(cls, pooled: Matrix, keep: NDArray[np.bool_]) -> Weighing:
        """pooled: [documents, d_sae], of those that are fitted. keep: [d_sae], latents that are."""
        documents, latents = pooled.shape
        fires = pooled.data != 0
        in_documents = np.bincount(pooled.indices[fires], minlength=latents)
        total = np.bincount(pooled.indices, pooled.data, minlength=latents)
        usual = np.divide(total, in_documents, out=np.ones(latents), where=in_documents > 0)
        rarity = np.log((1 + documents) / (1 + in_documents)) + 1
        return cls(usual, np.where(keep & (in_documents > 0), rarity, 0.0))

    def rows(self, pooled: Matrix) -> Matrix:
        """Rows of unit length; [documents, d_sae], columns not kept are zero.

        Activations are damped by log1p of their ratio to the latent's own mean, so that strong
        latents don't drown the others.
        """
        from sklearn.preprocessing import normalize

        data = np.log1p(pooled.data / self.usual[pooled.indices]) * self.rarity[pooled.indices]
        weighed = sparse.csr_matrix((data, pooled.indices, pooled.indptr), pooled.shape, copy=True)
        weighed.eliminate_zeros()
        return normalize(weighed, copy=False)


def standardised(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """[documents, features], columns of mean 0 and deviation 1, rows scaled to unit length.

    Without that, a few large dimensions that all documents share would rule every cosine.
    """
    from sklearn.preprocessing import normalize

    centred = pooled - pooled.mean(0)
    spread = centred.std(0)
    rows: NDArray[np.float64] = normalize(centred / np.where(spread > 0, spread, 1))
    return rows


def words_of(texts: list[str]) -> Matrix | None:
    """TF-IDF of the words that two texts have, rows of unit length; None without such a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(
        stop_words="english", token_pattern=WORD, sublinear_tf=True, min_df=2, dtype=np.float32
    )
    try:
        return words.fit_transform(texts)
    except ValueError:
        return None


def class_keywords(
    texts: list[str], assigned: NDArray[np.int64], k: int, top: int
) -> list[list[str]]:
    """Words that set each cluster's texts apart, by c-TF-IDF (Grootendorst 2022, BERTopic).

    weight(t, c) = tf(t, c) / sum tf(., c) * log(1 + A / f(t)), with A the mean number of words a
    cluster and f(t) the frequency of t in all of them.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(stop_words="english", token_pattern=WORD)
    try:
        counts = words.fit_transform(texts)
    except ValueError:  # not a single word
        return [[] for _ in range(k)]
    membership = sparse.csr_matrix(
        (np.ones(len(texts)), (assigned, np.arange(len(texts)))), shape=(k, len(texts))
    )
    by_cluster = np.asarray((membership @ counts).todense(), dtype=np.float64)
    frequency = by_cluster.sum(0)
    per_cluster = by_cluster.sum(1, keepdims=True)
    weight = by_cluster / np.maximum(per_cluster, 1) * np.log1p(per_cluster.mean() / frequency)
    vocabulary = words.get_feature_names_out()
    return [
        [str(vocabulary[j]) for j in np.argsort(-row, kind="stable")[:top] if row[j] > 0]
        for row in weight
    ]
