"""Tables of the stage cluster."""

from deconstruct.artifacts.table import DOC_ID, Column, Table

CLUSTERS = Table(
    "clusters",
    "Which cluster each document fell into.",
    ("doc_id",),
    (
        DOC_ID,
        Column("cluster", "UINTEGER", "Number of the cluster, from 0."),
        Column("distance", "DOUBLE", "Distance from the cluster's centre."),
    ),
    "clusters.parquet",
)

CLUSTER_SUMMARY = Table(
    "cluster_summary",
    "One row for each cluster of documents.",
    ("cluster",),
    (
        Column("cluster", "UINTEGER", "Number of the cluster, from 0."),
        Column("size", "UINTEGER", "Documents in it."),
        Column("top_label", "VARCHAR", "Most frequent label in it; null without labels."),
        Column("top_label_share", "DOUBLE", "Share of its documents with that label."),
        Column("latents", "UINTEGER[]", "Latents that set it apart, strongest first."),
        Column("keywords", "VARCHAR[]", "Words that set it apart (c-TF-IDF), strongest first."),
        Column("exemplars", "UINTEGER[]", "Documents (doc_id) nearest its centre."),
    ),
    "cluster_summary.parquet",
)

CLUSTER_METRICS = Table(
    "cluster_metrics",
    "How good the clustering is.",
    ("metric",),
    (
        Column("metric", "VARCHAR", "silhouette, nmi, ari, purity, ..."),
        Column("value", "DOUBLE", "Its value."),
    ),
    "cluster_metrics.parquet",
)

TABLES = (CLUSTERS, CLUSTER_SUMMARY, CLUSTER_METRICS)
