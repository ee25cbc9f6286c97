"""Tables of the stage evaluation."""

from __future__ import annotations

import pyarrow as pa

SAE_METRICS = pa.schema(
    {
        "metric": pa.string(),
        "value": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
        "n": pa.uint64(),
        "unit": pa.string(),
        "note": pa.string(),
    }
)
TOKEN_ERRORS = pa.schema(
    {"token_index": pa.uint64(), "squared_error": pa.float32(), "squared_norm": pa.float32()}
)
