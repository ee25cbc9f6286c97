"""Tables of the stage cluster."""

from __future__ import annotations

import pyarrow as pa

CLUSTERS = pa.schema({"doc_id": pa.uint32(), "cluster": pa.uint32(), "distance": pa.float64()})
CLUSTER_SUMMARY = pa.schema(
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
CLUSTER_METRICS = pa.schema({"metric": pa.string(), "value": pa.float64()})
FILES = ("clusters.parquet", "cluster_summary.parquet", "cluster_metrics.parquet")
