"""How documents are weighed, grouped and described."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.common.threads import one_quiet_thread

STARTS = 10


def weigh(pooled: sparse.csr_matrix, keep: NDArray[np.bool_]) -> sparse.csr_matrix:
    """tf-idf of latents, rows of unit length; [documents, d_sae], columns not kept are zero.

    Activations are damped by log1p of their ratio to the latent's own mean, so that strong
    latents don't drown the others.
    """
    from sklearn.preprocessing import normalize

    kept = sparse.csr_matrix(pooled @ sparse.diags(keep.astype(np.float64)))
    kept.eliminate_zeros()
    documents, latents = kept.shape
    in_documents = np.bincount(kept.indices, minlength=latents)
    total = np.asarray(kept.sum(0)).ravel()
    usual = np.divide(total, in_documents, out=np.ones(latents), where=in_documents > 0)
    kept.data = np.log1p(kept.data / usual[kept.indices])
    kept.data *= np.log((1 + documents) / (1 + in_documents[kept.indices])) + 1
    return normalize(kept, copy=False)


def spherical_kmeans(
    rows: sparse.csr_matrix, k: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-means by cosine (Dhillon and Modha 2001): assignment [n] and unit centres [k, features].

    On rows of unit length, squared Euclidean distance is 2 - 2 cosine. The best of `STARTS`
    starts; clusters are numbered from the largest to the smallest. Fewer than k come out if rows
    are equal. On one thread: others would add up in another order each time.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    with one_quiet_thread():
        found = KMeans(k, n_init=STARTS, random_state=seed, algorithm="lloyd").fit(rows)
    sizes = np.bincount(found.labels_, minlength=k)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    number = np.empty(k, np.int64)
    number[order] = np.arange(len(order))
    return number[found.labels_], normalize(found.cluster_centers_[order])


def class_keywords(
    texts: list[str], assigned: NDArray[np.int64], k: int, top: int
) -> list[list[str]]:
    """Words that set each cluster's texts apart, by c-TF-IDF (Grootendorst 2022, BERTopic).

    weight(t, c) = tf(t, c) / sum tf(., c) * log(1 + A / f(t)), with A the mean number of words a
    cluster and f(t) the frequency of t in all of them.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
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
