"""Tables of the stage corpus."""

from __future__ import annotations

import pyarrow as pa

DOCUMENTS = pa.schema(
    {
        "doc_id": pa.uint32(),
        "doc_key": pa.string(),
        "split": pa.string(),
        "label": pa.string(),
        "text": pa.string(),
        "n_tokens": pa.uint32(),
    }
)
TOKENS = pa.schema(
    {
        "token_index": pa.uint64(),
        "doc_id": pa.uint32(),
        "position": pa.uint32(),
        "token_id": pa.uint32(),
        "token": pa.string(),
        "special": pa.bool_(),
    }
)
