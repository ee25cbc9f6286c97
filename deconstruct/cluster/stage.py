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
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.cluster.methods import STARTS, class_keywords, spherical_kmeans, weigh
from deconstruct.cluster.tables import CLUSTER_METRICS, CLUSTER_SUMMARY, CLUSTERS, TABLES
from deconstruct.common.errors import ConfigError
from deconstruct.common.progress import track
from deconstruct.config import ClusterConfig
from deconstruct.latents.pooling import Documents, pooled_latents

log = logging.getLogger(__name__)

VERSION = 2
DENSE = 0.1
"""Latents denser than this fire on everything; they would rule every distance."""
DEFAULT_K = 8
SILHOUETTE_DOCUMENTS = 5000
DISTANCES_MB = 4
"""Of the distances between these, so many are computed at a time; scikit-learn takes 1024, and lets
no other thread run meanwhile: a bar's clock would stand still."""


def recipe(config: ClusterConfig, *, corpus: Artifact, latents: Artifact) -> Recipe:
    """All that decides the clusters."""
    inputs = keys_of(corpus=corpus, latents=latents)
    return Recipe("cluster", VERSION, config.key_fields(), inputs)


def group_documents(
    root: DataRoot, config: ClusterConfig, *, corpus: Artifact, latents: Artifact
) -> Artifact:
    """Group documents: ``clusters``, ``cluster_summary`` and ``cluster_metrics``.

    Documents in which no latent fires (of those that are not left out) belong to no cluster. With
    fewer than two documents left the files are empty and the fact ``skipped`` gives the reason.
    Raises ``ConfigError`` if ``config.k`` is more than there are documents to group.
    """

    def write(draft: Draft) -> None:
        documents = Documents.read(corpus)
        density = latents.table("features.parquet", ["density"])["density"]
        weighted = weigh(
            pooled_latents(latents, len(documents.text), "mean"), density.to_numpy() <= DENSE
        )
        members = np.flatnonzero(np.diff(weighted.indptr) > 0)
        found = [table.empty() for table in TABLES]
        if len(members) < 2:
            draft.facts["skipped"] = (
                f"in {len(members)} of {len(documents.text)} documents fires a latent that is not "
                f"on more than {DENSE:.0%} of all tokens; clusters need two"
            )
            log.warning("no clusters: %s", draft.facts["skipped"])
        else:
            k = _number(config, documents, len(members))
            found, metrics = _grouped(config, documents, weighted, members, k)
            draft.facts |= metrics
        for table, rows in zip(TABLES, found, strict=True):
            draft.write_table(table.file, rows)

    return root.make(recipe(config, corpus=corpus, latents=latents), write)


STAGE = Stage("cluster", recipe, group_documents)


def _number(config: ClusterConfig, documents: Documents, members: int) -> int:
    """How many clusters: as told, or one per label, at most one for two documents."""
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
    """Rows of `TABLES`, and the metrics. members: the documents that are grouped."""
    rows = weighted if len(members) == weighted.shape[0] else weighted[members]
    with track("cluster", STARTS + 1, "starts") as advance:
        assigned, centres = spherical_kmeans(rows, k, config.seed)
        advance(STARTS)
        similarity = np.asarray(rows @ centres.T)
        distance = 1 - similarity[np.arange(len(members)), assigned]
        metrics = _metrics(rows, assigned, documents.label[members], config.seed)
        advance()
    summary = _summary(config, documents, members, assigned, distance, rows)
    tables = [
        CLUSTERS.of(members, assigned, distance),
        CLUSTER_SUMMARY.of_rows(summary),
        CLUSTER_METRICS.of(list(metrics), list(metrics.values())),
    ]
    return tables, metrics


def _metrics(
    rows: sparse.csr_matrix, assigned: NDArray[np.int64], label: NDArray[Any], seed: int
) -> dict[str, float]:
    """Silhouette by cosine, and, where labels are known, agreement with them."""
    from sklearn import config_context
    from sklearn import metrics as agreement

    k = int(assigned.max()) + 1
    metrics: dict[str, float] = {"k": float(k)}
    if 1 < k < len(assigned):
        size = min(SILHOUETTE_DOCUMENTS, len(assigned))
        with config_context(working_memory=DISTANCES_MB):
            metrics["silhouette"] = float(
                agreement.silhouette_score(
                    rows, assigned, metric="cosine", sample_size=size, random_state=seed
                )
            )
    known = np.array([one is not None for one in label], dtype=bool)
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
    """One row per cluster. Its latents are those whose mean weight in it most exceeds all's."""
    k = int(assigned.max()) + 1
    keywords = class_keywords([documents.text[d] for d in members], assigned, k, config.top)
    overall = np.asarray(rows.mean(0)).ravel()
    summary = []
    for number in range(k):
        inside = np.flatnonzero(assigned == number)
        lift = np.asarray(rows[inside].mean(0)).ravel() - overall
        best = np.argsort(-lift, kind="stable")[: config.top]
        labels = [str(x) for x in documents.label[members[inside]] if x is not None]
        names, counts = np.unique(labels, return_counts=True) if labels else ([None], [0])
        top = int(np.argmax(counts))
        nearest = inside[np.argsort(distance[inside], kind="stable")][: config.top]
        summary.append(
            {
                "cluster": number,
                "size": len(inside),
                "top_label": None if names[top] is None else str(names[top]),
                "top_label_share": counts[top] / len(labels) if labels else None,
                "latents": [int(j) for j in best if lift[j] > 0],
                "keywords": keywords[number],
                "exemplars": members[nearest].tolist(),
            }
        )
    return summary
