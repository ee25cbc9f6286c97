"""Tables of the stage drift."""

from __future__ import annotations

import pyarrow as pa

DRIFT = pa.schema(
    {
        "subject": pa.string(),
        "metric": pa.string(),
        "reference": pa.float64(),
        "current": pa.float64(),
        "difference": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
        "n_reference": pa.uint64(),
        "n_current": pa.uint64(),
    }
)
LATENT_DRIFT = pa.schema(
    {
        "latent": pa.uint32(),
        "reference_density": pa.float64(),
        "current_density": pa.float64(),
        "log2_ratio": pa.float64(),
    }
)
