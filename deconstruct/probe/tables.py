"""Tables of the stage probe."""

from __future__ import annotations

import pyarrow as pa

PROBES = pa.schema(
    {
        "representation": pa.string(),
        "k": pa.uint32(),
        "label": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
        "n_train": pa.uint32(),
        "n_test": pa.uint32(),
    }
)
PROBE_PREDICTIONS = pa.schema(
    {
        "representation": pa.string(),
        "k": pa.uint32(),
        "doc_id": pa.uint32(),
        "label": pa.string(),
        "predicted": pa.string(),
        "probability": pa.float64(),
    }
)
PROBE_WEIGHTS = pa.schema(
    {
        "label": pa.string(),
        "latent": pa.uint32(),
        "weight": pa.float64(),
        "effect": pa.float64(),
        "rank": pa.uint32(),
    }
)
