"""Tables of what is known of single latents."""

from __future__ import annotations

import pyarrow as pa

FEATURES = pa.schema(
    {
        "latent": pa.uint32(),
        "n_fires": pa.uint64(),
        "density": pa.float64(),
        "n_documents": pa.uint32(),
        "mean_activation": pa.float32(),
        "max_activation": pa.float32(),
        "top_token": pa.string(),
        "top_token_share": pa.float32(),
        "dead": pa.bool_(),
        "decoder_norm": pa.float32(),
        "encoder_decoder_cosine": pa.float32(),
        "nearest_latent": pa.uint32(),
        "nearest_cosine": pa.float32(),
    }
)

DIRECTIONS = pa.schema({"latent": pa.uint32(), "decoder": pa.list_(pa.float32())})
FEATURE_LOGITS = pa.schema(
    {
        "latent": pa.uint32(),
        "direction": pa.string(),
        "rank": pa.uint32(),
        "token_id": pa.uint32(),
        "token": pa.string(),
        "logit": pa.float32(),
    }
)
