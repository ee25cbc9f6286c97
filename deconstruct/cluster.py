"""The stage cluster: documents grouped by their latents.

Spherical k-means on tf-idf weighted latents: latents that fire on more than a tenth of all tokens
are left out, the others weighted down by how many documents they fire in, and rows scaled to unit
length, as for words in texts. Labels play no part in it but to choose k where none is given; the
scores against labels say how far the groups are the labels' groups, not how good they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
    silhouette_score,
)
from sklearn.preprocessing import normalize

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.config import ClusterConfig
from deconstruct.errors import ConfigError
from deconstruct.pooled import Documents, pooled_latents
from deconstruct.progress import track

VERSION = 1
DENSE = 0.1
"""Latents denser than this fire on everything; they would rule every distance."""
DEFAULT_K = 8
STARTS = 10
SILHOUETTE_DOCUMENTS = 5000

CLUSTERS = pa.schema({"doc_id": pa.uint32(), "cluster": pa.uint32(), "distance": pa.float64()})
SUMMARY = pa.schema(
    {
        "cluster": pa.uint32(),
        "size": pa.uint32(),
        "top_label": pa.string(),
        "top_label_share": pa.float64(),
        "latents": pa.list_(pa.uint32()),
        "keywords": pa.list_(pa.string()),
        "exemplars": pa.list_(pa.uint32()),
    }
)
METRICS = pa.schema({"metric": pa.string(), "value": pa.float64()})


def recipe(config: ClusterConfig, corpus: Artifact, latents: Artifact) -> Recipe:
    """All that decides the clusters."""
    inputs = {"corpus": corpus.key, "latents": latents.key}
    return Recipe("cluster", VERSION, config.model_dump(mode="json"), inputs)


def cluster(
    store: ArtifactStore, config: ClusterConfig, corpus: Artifact, latents: Artifact
) -> Artifact:
    """Group documents: ``clusters``, ``cluster_summary`` and ``cluster_metrics``.

    Documents in which no latent fires belong to no cluster. Raises ``ConfigError`` if there are
    more clusters than documents.
    """

    def write(draft: Draft) -> None:
        documents = Documents.read(corpus)
        density = pq.read_table(latents.file("features.parquet"), columns=["density"])["density"]
        weighted = weigh(
            pooled_latents(latents, len(documents.text), "mean"), density.to_numpy() <= DENSE
        )
        members = np.flatnonzero(np.diff(weighted.indptr) > 0)
        names = {str(label) for label in documents.label if label is not None}
        k = config.k or (len(names) if len(names) >= 2 else DEFAULT_K)
        if config.k is None:
            k = max(1, min(k, len(members) // 2))
        if k > len(members):
            raise ConfigError(
                f"cluster.k = {k} is more than the {len(members)} documents in which a latent "
                "fires; lower it"
            )
        rows = weighted[members]
        with track("cluster", STARTS + 1, "starts") as advance:
            assigned, centres = spherical_kmeans(rows, k, config.seed)
            advance(STARTS)
            distance = 1 - np.asarray(rows.multiply(centres[assigned]).sum(1)).ravel()
            metrics = _metrics(rows, assigned, documents.label[members], config.seed)
            advance()
        summary = _summary(config, documents, members, assigned, distance, weighted)
        tables = {
            "clusters.parquet": pa.table(
                [members.astype(np.uint32), assigned.astype(np.uint32), distance], schema=CLUSTERS
            ),
            "cluster_summary.parquet": pa.Table.from_pylist(summary, SUMMARY),
            "cluster_metrics.parquet": pa.table(
                [list(metrics), list(metrics.values())], schema=METRICS
            ),
        }
        for name, table in tables.items():
            with draft.writing(name) as path:
                pq.write_table(
                    table, path, compression="zstd", compression_level=1, write_page_checksum=True
                )
            draft.rows[name] = len(table)
        draft.facts.update(metrics)

    return store.make(recipe(config, corpus, latents), write)


def weigh(pooled: sparse.csr_matrix, keep: NDArray[np.bool_]) -> sparse.csr_matrix:
    """tf-idf of latents, rows of unit length; [documents, d_sae], columns not kept are zero.

    Activations are damped by log1p of their ratio to the latent's own mean, so that strong
    latents don't drown the others.
    """
    kept = sparse.csr_matrix(pooled @ sparse.diags(keep.astype(np.float64)))
    kept.eliminate_zeros()
    documents, latents = kept.shape
    in_documents = np.bincount(kept.indices, minlength=latents)
    total = np.asarray(kept.sum(0)).ravel()
    usual = np.divide(total, in_documents, out=np.ones(latents), where=in_documents > 0)
    kept.data = np.log1p(kept.data / usual[kept.indices])
    kept.data *= np.log((1 + documents) / (1 + in_documents[kept.indices])) + 1
    return normalize(kept)


def spherical_kmeans(
    rows: sparse.csr_matrix, k: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-means by cosine (Dhillon and Modha 2001): assignment [n] and unit centres [k, features].

    On rows of unit length, squared Euclidean distance is 2 - 2 cosine; clusters are numbered from
    the largest to the smallest.
    """
    found = KMeans(k, n_init=STARTS, random_state=seed, algorithm="lloyd").fit(rows)
    sizes = np.bincount(found.labels_, minlength=k)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty(k, np.int64)
    number[order] = np.arange(k)
    return number[found.labels_], normalize(found.cluster_centers_[order])


def _metrics(
    rows: sparse.csr_matrix, assigned: NDArray[np.int64], label: NDArray[Any], seed: int
) -> dict[str, float]:
    """Silhouette by cosine, and, where labels are known, agreement with them."""
    k = int(assigned.max()) + 1
    metrics: dict[str, float] = {"k": float(k)}
    if 1 < k < len(assigned):
        size = min(SILHOUETTE_DOCUMENTS, len(assigned))
        metrics["silhouette"] = float(
            silhouette_score(rows, assigned, metric="cosine", sample_size=size, random_state=seed)
        )
    known = np.array([own is not None for own in label], dtype=bool)
    if known.any():
        truth, found = label[known].astype(str), assigned[known]
        metrics["nmi"] = float(normalized_mutual_info_score(truth, found))
        metrics["ami"] = float(adjusted_mutual_info_score(truth, found))
        metrics["ari"] = float(adjusted_rand_score(truth, found))
        majority = sum(
            np.unique(truth[found == c], return_counts=True)[1].max() for c in np.unique(found)
        )
        metrics["purity"] = float(majority / len(truth))
    return metrics


def _summary(
    config: ClusterConfig,
    documents: Documents,
    members: NDArray[np.int64],
    assigned: NDArray[np.int64],
    distance: NDArray[np.float64],
    weighted: sparse.csr_matrix,
) -> list[dict[str, Any]]:
    """One row a cluster."""
    k = int(assigned.max()) + 1
    keywords = class_keywords([documents.text[d] for d in members], assigned, k, config.top)
    overall = np.asarray(weighted[members].mean(0)).ravel()
    rows = []
    for number in range(k):
        own = np.flatnonzero(assigned == number)
        lift = np.asarray(weighted[members[own]].mean(0)).ravel() - overall
        best = np.argsort(-lift, kind="stable")[: config.top]
        labels = [str(x) for x in documents.label[members[own]] if x is not None]
        names, counts = np.unique(labels, return_counts=True) if labels else ([None], [0])
        top = int(np.argmax(counts))
        nearest = own[np.argsort(distance[own], kind="stable")][: config.top]
        rows.append(
            {
                "cluster": number,
                "size": len(own),
                "top_label": None if names[top] is None else str(names[top]),
                "top_label_share": counts[top] / len(labels) if labels else None,
                "latents": [int(j) for j in best if lift[j] > 0],
                "keywords": keywords[number],
                "exemplars": members[nearest].tolist(),
            }
        )
    return rows


def class_keywords(
    texts: list[str], assigned: NDArray[np.int64], k: int, top: int
) -> list[list[str]]:
    """Words that set each cluster's texts apart, by c-TF-IDF (Grootendorst 2022, BERTopic).

    weight(t, c) = tf(t, c) / sum tf(., c) * log(1 + A / f(t)), with A the mean number of words a
    cluster and f(t) the frequency of t in all of them.
    """
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
