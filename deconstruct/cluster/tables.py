"""Tables of the stage cluster."""

from deconstruct.artifacts.table import DOC_ID, LATENT, Column, Table

_CLUSTER = Column("cluster", "UINTEGER", "Number of the cluster, from 0.")
_DISTANCE = Column("distance", "DOUBLE", "Distance from the cluster's centre: 1 - cosine.")

CLUSTERS = Table(
    "clusters",
    "Which cluster each document fell into.",
    ("doc_id",),
    (
        DOC_ID,
        _CLUSTER,
        _DISTANCE,
        Column(
            "support",
            "DOUBLE",
            "Of the fits on part of the documents that it was in, the share in which it stayed in "
            "its cluster; null of documents that were assigned to clusters without being fitted.",
        ),
    ),
    "clusters.parquet",
)

CLUSTER_SUMMARY = Table(
    "cluster_summary",
    "One row for each cluster of documents.",
    ("cluster",),
    (
        _CLUSTER,
        Column("size", "UINTEGER", "Documents in it."),
        Column("top_label", "VARCHAR", "Most frequent label in it; null without labels."),
        Column("top_label_share", "DOUBLE", "Share of its documents with that label."),
        Column("latents", "UINTEGER[]", "Latents that set it apart, strongest first."),
        Column("keywords", "VARCHAR[]", "Words that set it apart (c-TF-IDF), strongest first."),
        Column("exemplars", "UINTEGER[]", "Documents (doc_id) nearest its centre."),
        Column(
            "jaccard",
            "DOUBLE",
            "How much of it fits on part of the documents find again: its Jaccard similarity with "
            "the cluster most like it, the mean of all fits (Hennig 2007). Above 0.75: stable; "
            "below 0.6: better not named.",
        ),
    ),
    "cluster_summary.parquet",
)

CLUSTER_METRICS = Table(
    "cluster_metrics",
    "How good the clustering is, beside those of other representations and of no structure.",
    ("representation", "kind", "metric"),
    (
        Column(
            "representation",
            "VARCHAR",
            "What was grouped by the same method into as many clusters: documents as latents, "
            "activations or words (tfidf); or latents as decoder directions (decoder).",
        ),
        Column(
            "kind",
            "VARCHAR",
            "value: of the clusters; null: the same of the same numbers, each column shuffled over "
            "the documents; stability: of fits on part of the documents, with each other.",
        ),
        Column(
            "metric",
            "VARCHAR",
            "value and null: k, documents, silhouette, nmi, ami, ari, purity. stability: ari, its "
            "standard_error, null_ari, jaccard, support.",
        ),
        Column("value", "DOUBLE", "Its value."),
    ),
    "cluster_metrics.parquet",
)

CLUSTER_CURVE = Table(
    "cluster_curve",
    "How stable clusters of documents by their latents are, for each number of them that was "
    "tried; one row where cluster.k says how many.",
    ("k",),
    (
        Column("k", "UINTEGER", "Number of clusters."),
        Column(
            "stability",
            "DOUBLE",
            "Mean adjusted Rand index of pairs of fits on part of the documents, each.",
        ),
        Column("standard_error", "DOUBLE", "Of the stability, by a jackknife over the fits."),
        Column("null_stability", "DOUBLE", "The same with each column shuffled over documents."),
        Column("silhouette", "DOUBLE", "Mean silhouette by cosine of the fits on part of them."),
        Column("chosen", "BOOLEAN", "Whether this is the number of clusters that the run has."),
    ),
    "cluster_curve.parquet",
)

LATENT_CLUSTERS = Table(
    "latent_clusters",
    "Which latents point the same way: those that fire, grouped by decoder direction; where "
    "cluster.latents asks for it.",
    ("latent",),
    (
        LATENT,
        Column("latent_cluster", "UINTEGER", "Number of the cluster of latents, from 0."),
        _DISTANCE,
        Column(
            "support",
            "DOUBLE",
            "Of the fits on part of the latents that it was in, the share in which it stayed with "
            "its cluster; null of latents that were assigned to clusters without being fitted.",
        ),
    ),
    "latent_clusters.parquet",
    optional=True,
)

TABLES = (CLUSTERS, CLUSTER_SUMMARY, CLUSTER_METRICS, CLUSTER_CURVE, LATENT_CLUSTERS)
