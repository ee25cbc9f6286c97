"""Tables of the stage latents."""

from __future__ import annotations

import pyarrow as pa

LATENTS = pa.schema({"latent": pa.uint32(), "token_index": pa.uint64(), "activation": pa.float32()})
DOCUMENT_LATENTS = pa.schema(
    {
        "doc_id": pa.uint32(),
        "latent": pa.uint32(),
        "n_fires": pa.uint32(),
        "mean": pa.float32(),
        "max": pa.float32(),
    }
)
