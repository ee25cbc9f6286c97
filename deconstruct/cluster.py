"""The stage cluster: documents grouped by their latents.

Spherical k-means on tf-idf weighted latents: latents that fire on more than a tenth of all tokens
are left out, the others weighted down by how many documents they fire in, and rows scaled to unit
length, as for words in texts. Labels play no part in it but to choose k where none is given; the
scores against labels say how far the groups are the labels' groups, not how good they are. All
documents are grouped, train and test: nothing is held out, and the scores describe this corpus.
One start of k-means with another seed gives other groups: there is no measure of stability here.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.config import ClusterConfig
from deconstruct.errors import ConfigError
from deconstruct.pooled import Documents, pooled_latents
from deconstruct.progress import track

log = logging.getLogger(__name__)

VERSION = 2
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
FILES = ("clusters.parquet", "cluster_summary.parquet", "cluster_metrics.parquet")


def recipe(config: ClusterConfig, corpus: Artifact, latents: Artifact) -> Recipe:
    """All that decides the clusters."""
    inputs = {"corpus": corpus.key, "latents": latents.key}
    return Recipe("cluster", VERSION, config.model_dump(mode="json"), inputs)


def cluster(
    store: ArtifactStore, config: ClusterConfig, corpus: Artifact, latents: Artifact
) -> Artifact:
    """Group documents: ``clusters``, ``cluster_summary`` and ``cluster_metrics``.

    Documents in which no latent fires (of those that are not left out) belong to no cluster. With
    fewer than two documents left the files are empty and the fact ``skipped`` gives the reason.
    Raises ``ConfigError`` if ``config.k`` is more than there are documents to group.
    """

    def write(draft: Draft) -> None:
        documents = Documents.read(corpus)
        density = pq.read_table(latents.file("features.parquet"), columns=["density"])["density"]
        weighted = weigh(
            pooled_latents(latents, len(documents.text), "mean"), density.to_numpy() <= DENSE
        )
        members = np.flatnonzero(np.diff(weighted.indptr) > 0)
        tables = [CLUSTERS.empty_table(), SUMMARY.empty_table(), METRICS.empty_table()]
        if len(members) < 2:
            draft.facts["skipped"] = (
                f"in {len(members)} of {len(documents.text)} documents fires a latent that is not "
                f"on more than {DENSE:.0%} of all tokens; clusters need two"
            )
            log.warning("no clusters: %s", draft.facts["skipped"])
        else:
            k = _number(config, documents, len(members))
            tables, metrics = _grouped(config, documents, weighted, members, k)
            draft.facts |= metrics
        for name, table in zip(FILES, tables, strict=True):
            with draft.writing(name) as path:
                pq.write_table(
                    table, path, compression="zstd", compression_level=1, write_page_checksum=True
                )
            draft.rows[name] = len(table)

    return store.make(recipe(config, corpus, latents), write)


def _number(config: ClusterConfig, documents: Documents, members: int) -> int:
    """How many clusters: as told, or one a label, at most one for two documents."""
    if config.k is None:
        names = {label for label in documents.label if label is not None}
        return max(2, min(len(names) if len(names) > 1 else DEFAULT_K, members // 2))
    if config.k > members:
        raise ConfigError(
            f"cluster.k = {config.k} is more than the {members} documents in which a latent "
            f"fires; take {members} or fewer"
        )
    return config.k


def _grouped(
    config: ClusterConfig,
    documents: Documents,
    weighted: sparse.csr_matrix,
    members: NDArray[np.int64],
    k: int,
) -> tuple[list[pa.Table], dict[str, float]]:
    """The three tables, and the metrics. members: the documents that are grouped."""
    rows = weighted[members]
    with track("cluster", STARTS + 1, "starts") as advance:
        assigned, centres = spherical_kmeans(rows, k, config.seed)
        advance(STARTS)
        similarity = np.asarray(rows @ centres.T)
        distance = 1 - similarity[np.arange(len(members)), assigned]
        metrics = _metrics(rows, assigned, documents.label[members], config.seed)
        advance()
    summary = _summary(config, documents, members, assigned, distance, rows)
    tables = [
        pa.table(
            [members.astype(np.uint32), assigned.astype(np.uint32), distance], schema=CLUSTERS
        ),
        pa.Table.from_pylist(summary, SUMMARY),
        pa.table([list(metrics), list(metrics.values())], schema=METRICS),
    ]
    return tables, metrics


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
    return normalize(kept)


def spherical_kmeans(
    rows: sparse.csr_matrix, k: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-means by cosine (Dhillon and Modha 2001): assignment [n] and unit centres [k, features].

    On rows of unit length, squared Euclidean distance is 2 - 2 cosine. The best of `STARTS`
    starts; clusters are numbered from the largest to the smallest. Fewer than k come out if rows
    are equal. On one thread: others would add up in another order each time.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(k, n_init=STARTS, random_state=seed, algorithm="lloyd").fit(rows)
    sizes = np.bincount(found.labels_, minlength=k)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    number = np.empty(k, np.int64)
    number[order] = np.arange(len(order))
    return number[found.labels_], normalize(found.cluster_centers_[order])


def _metrics(
    rows: sparse.csr_matrix, assigned: NDArray[np.int64], label: NDArray[Any], seed: int
) -> dict[str, float]:
    """Silhouette by cosine, and, where labels are known, agreement with them."""
    from sklearn import metrics as agreement

    k = int(assigned.max()) + 1
    metrics: dict[str, float] = {"k": float(k)}
    if 1 < k < len(assigned):
        size = min(SILHOUETTE_DOCUMENTS, len(assigned))
        metrics["silhouette"] = float(
            agreement.silhouette_score(
                rows, assigned, metric="cosine", sample_size=size, random_state=seed
            )
        )
    known = np.array([own is not None for own in label], dtype=bool)
    if known.any():
        truth, found = label[known].astype(str), assigned[known]
        metrics["nmi"] = float(agreement.normalized_mutual_info_score(truth, found))
        metrics["ami"] = float(agreement.adjusted_mutual_info_score(truth, found))
        metrics["ari"] = float(agreement.adjusted_rand_score(truth, found))
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
    rows: sparse.csr_matrix,
) -> list[dict[str, Any]]:
    """One row a cluster. Its latents are those whose mean weight in it most exceeds that in all."""
    k = int(assigned.max()) + 1
    keywords = class_keywords([documents.text[d] for d in members], assigned, k, config.top)
    overall = np.asarray(rows.mean(0)).ravel()
    summary = []
    for number in range(k):
        own = np.flatnonzero(assigned == number)
        lift = np.asarray(rows[own].mean(0)).ravel() - overall
        best = np.argsort(-lift, kind="stable")[: config.top]
        labels = [str(x) for x in documents.label[members[own]] if x is not None]
        names, counts = np.unique(labels, return_counts=True) if labels else ([None], [0])
        top = int(np.argmax(counts))
        nearest = own[np.argsort(distance[own], kind="stable")][: config.top]
        summary.append(
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
    return summary


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
