"""The stage cluster: documents grouped by their latents.

Spherical k-means on tf-idf weighted latents: latents that fire on more than a tenth of all tokens
are left out, the others weighted down by how many documents they fire in, and rows scaled to unit
length, as for words in texts. The number of clusters is the largest that is as stable as any
(`stability.choose`); labels play no part in it. The scores against labels say how far the groups
are the labels' groups, not how good they are: beside them stand those of the same method on
activations and on words, and on the same numbers shuffled. All documents are grouped, train and
test: nothing is held out, and the scores describe this corpus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.table import Table
from deconstruct.cluster.directions import DECODER, group_latents
from deconstruct.cluster.groupings import Grouping, grouped, work
from deconstruct.cluster.kmeans import Rows, centres_of
from deconstruct.cluster.methods import Matrix, Weighing, standardised, words_of
from deconstruct.cluster.sample import Sample
from deconstruct.cluster.stability import KS
from deconstruct.cluster.summary import Placed, summary
from deconstruct.cluster.tables import (
    CLUSTER_CURVE,
    CLUSTER_METRICS,
    CLUSTER_SUMMARY,
    CLUSTERS,
    LATENT_CLUSTERS,
    TABLES,
)
from deconstruct.common.errors import ConfigError
from deconstruct.common.progress import track
from deconstruct.common.threads import one_blas_thread
from deconstruct.config import ClusterConfig
from deconstruct.latents.pooling import activations_of, latents_in_blocks, latents_of, texts_of

log = logging.getLogger(__name__)

VERSION = 3
DENSE = 0.1
"""Latents denser than this fire on everything; they would rule every distance."""
LATENTS, ACTIVATIONS, WORDS = "latents", "activations", "tfidf"
"""What documents are grouped as."""


def recipe(
    config: ClusterConfig, *, corpus: Artifact, latents: Artifact, activations: Artifact
) -> Recipe:
    """All that decides the clusters."""
    inputs = keys_of(corpus=corpus, latents=latents, activations=activations)
    return Recipe("cluster", VERSION, config.key_fields(), inputs)


def group_documents(
    root: DataRoot,
    config: ClusterConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
) -> Artifact:
    """Group documents: ``clusters``, ``cluster_summary``, ``cluster_metrics``, ``cluster_curve``.

    Documents in which no latent fires (of those that are not left out) belong to no cluster. Of
    more than ``config.max_documents`` of them so many are fitted, all scores are of these, and the
    others are assigned to the nearest centre. With fewer than two documents left the files are
    empty and the fact ``skipped`` gives the reason. With ``config.latents``, latents are grouped
    too: ``latent_clusters``. Raises ``ConfigError`` if ``config.k`` is more than there are
    documents to group, or ``config.latents`` more than there are latents.
    """

    def write(draft: Draft) -> None:
        keep = latents.table("features.parquet", ["density"])["density"].to_numpy() <= DENSE
        sample = Sample.of(corpus, latents, keep, config.max_documents)
        found: dict[Table, pa.Table] = {t: t.empty() for t in TABLES if not t.optional}
        if len(sample.fitted) < 2:
            draft.facts["skipped"] = (
                f"in {len(sample.fitted)} of {sample.documents} documents fires a latent that is "
                f"not on more than {DENSE:.0%} of all tokens; clusters need two"
            )
            log.warning("no clusters: %s", draft.facts["skipped"])
        else:
            ks = _numbers(config, len(sample.fitted))
            with one_blas_thread():
                tables, facts = Clustering(config, sample, keep, ks).run(
                    corpus, latents, activations
                )
            found |= tables
            draft.facts |= facts
        for table, rows in found.items():
            draft.write_table(table.file, rows)

    wanted = recipe(config, corpus=corpus, latents=latents, activations=activations)
    return root.make(wanted, write)


STAGE = Stage("cluster", recipe, group_documents)


def _numbers(config: ClusterConfig, fitted: int) -> tuple[int, ...]:
    """How many clusters are tried: as many as told, or `KS`, at most one for two documents."""
    if config.k is None:
        return tuple(k for k in KS if k <= fitted // 2) or (2,)
    if config.k > fitted:
        raise ConfigError(
            f"cluster.k = {config.k} is more than the {fitted} documents in which a latent "
            f"fires and that are fitted; take {fitted} or fewer"
        )
    return (config.k,)


class Clustering:
    """Groups the documents of one corpus. ks: the numbers of clusters that are tried."""

    def __init__(
        self, config: ClusterConfig, sample: Sample, keep: NDArray[np.bool_], ks: tuple[int, ...]
    ) -> None:
        self.config, self.sample, self.keep, self.ks = config, sample, keep, ks
        self.metrics: list[tuple[str, str, str, float]] = []

    def run(
        self, corpus: Artifact, latents: Artifact, activations: Artifact
    ) -> tuple[dict[Table, pa.Table], dict[str, float]]:
        """The tables and the facts: the scores of the documents' clusters."""
        documents, fitted = self.sample.documents, self.sample.fitted
        wanted = self.config.latents
        steps = (3 if wanted is None else 4) * work(self.config.fits)
        tables: dict[Table, pa.Table] = {}
        with track("cluster", steps, "fits") as advance:
            pooled = latents_of(latents, documents, fitted)
            weighing = Weighing.of(pooled, self.keep)
            rows = weighing.rows(pooled)
            del pooled
            own = self.group(LATENTS, rows, self.ks, advance)
            texts = texts_of(corpus, documents, fitted)
            tables |= self.describe(own, rows, weighing, latents, texts)
            del rows
            chosen = (own.real.ks[own.at],)
            self.group(
                ACTIVATIONS,
                standardised(activations_of(activations, documents, fitted)),
                chosen,
                advance,
            )
            words = words_of(texts)
            if words is not None:
                self.group(WORDS, words, chosen, advance)
            if wanted is not None:
                tables[LATENT_CLUSTERS], found = group_latents(
                    latents, self.config, wanted, advance
                )
                self.metrics += [(DECODER, *row) for row in found]
        tables[CLUSTER_METRICS] = CLUSTER_METRICS.of(*map(list, zip(*self.metrics, strict=True)))
        return tables, self.facts()

    def group(
        self, representation: str, rows: Rows, ks: tuple[int, ...], advance: Callable[[int], None]
    ) -> Grouping:
        """Group the fitted documents' rows, and keep the scores."""
        config, groups = self.config, self.sample.groups
        found = grouped(rows, groups, ks, config.fits, config.seed, advance)
        label = self.sample.label[self.sample.fitted]
        self.metrics += [(representation, *row) for row in found.metrics(label)]
        return found

    def describe(
        self, own: Grouping, rows: Matrix, weighing: Weighing, latents: Artifact, texts: list[str]
    ) -> dict[Table, pa.Table]:
        """What is told of the clusters themselves. rows: latents of the fitted, weighed."""
        jaccard, support = own.real.found_again(own.at)
        placed = self.place(own, rows, weighing, latents, support)
        told = summary(self.sample, placed, rows, own.labels, texts, self.config.top)
        for one, again in zip(told, jaccard, strict=True):
            one["jaccard"] = float(again) if np.isfinite(again) else None
        supported = pa.array(placed.support, from_pandas=True)  # nan: null
        return {
            CLUSTERS: CLUSTERS.of(placed.doc_id, placed.cluster, placed.distance, supported),
            CLUSTER_SUMMARY: CLUSTER_SUMMARY.of_rows(told),
            CLUSTER_CURVE: CLUSTER_CURVE.of_rows(own.curve()),
        }

    def place(
        self,
        own: Grouping,
        rows: Matrix,
        weighing: Weighing,
        latents: Artifact,
        support: NDArray[np.float64],
    ) -> Placed:
        """All documents: the fitted ones in their clusters, the others in the nearest."""
        sample, centres = self.sample, centres_of(rows, own.labels)
        assigned = np.full(sample.documents, -1)
        assigned[sample.fitted] = own.labels
        distance = np.full(sample.documents, np.nan)
        supported = np.full(sample.documents, np.nan)
        supported[sample.fitted] = support
        for doc_id, pooled in latents_in_blocks(latents):
            cosine = np.asarray(weighing.rows(pooled) @ centres.T)
            cluster = np.where(assigned[doc_id] < 0, cosine.argmax(1), assigned[doc_id])
            assigned[doc_id] = cluster
            distance[doc_id] = 1 - cosine[np.arange(len(doc_id)), cluster]
        members = sample.members
        return Placed(members, assigned[members], distance[members], supported[members])

    def facts(self) -> dict[str, Any]:
        """The scores of the documents' clusters by their latents."""
        own = {(kind, metric): value for r, kind, metric, value in self.metrics if r == LATENTS}
        facts = {metric: value for (kind, metric), value in own.items() if kind == "value"}
        facts["stability"] = own["stability", "ari"]
        facts["null_stability"] = own["stability", "null_ari"]
        return facts
