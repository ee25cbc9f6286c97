"""The tokens that a latent's decoder row speaks for: the logit lens, on directions.

A row of ``W_dec`` is put through the model's own end (`deconstruct.model.end`) as if it were the
whole residual stream (nostalgebraist 2020; on decoder rows as in Bricken et al. 2023). What later
layers would make of it is left out, so it is a hint, and the less to be trusted the earlier the
layer. What the end says of no direction at all (biases of the last norm and of the unembedding) is
no latent's and is taken off; so is the mean of all logits, which softmax does not feel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from deconstruct.features.tables import FEATURE_LOGITS
from deconstruct.model.end import end_of

TOP = 10
"""Tokens kept for each latent in each direction."""
BLOCK_LOGITS = 1 << 24
"""Float32 logits in memory at a time: 64 MiB of them."""


@torch.inference_mode()
def feature_logits(model: nn.Module, W_dec: Tensor, tokens: Mapping[int, str]) -> pa.Table:
    """``feature_logits.parquet``: the `TOP` tokens of largest and of smallest logit of each latent.

    W_dec: float32 [d_sae, d_model]. tokens: id -> text of those to choose among. A latent whose
    decoder row is all zeros has no rows. Memory: [d_model, tokens] and `BLOCK_LOGITS` floats.

    Raises ``ConfigError`` for a model whose end is not as `end_of` can tell.
    """
    ids = torch.tensor(sorted(tokens), device=W_dec.device)
    end = end_of(model)
    W_U = end.weight[ids].float().T
    kept = min(TOP, len(ids))
    latents = torch.nonzero(W_dec.abs().amax(1) > 0)[:, 0]
    if len(latents) == 0:
        return FEATURE_LOGITS.empty()
    found: list[tuple[Tensor, Tensor]] = []
    step = max(1, BLOCK_LOGITS // max(1, len(ids)))
    for start in range(0, len(latents), step):
        block = latents[start : start + step]
        logits = end.added(W_dec[block]) @ W_U
        logits -= logits.mean(1, keepdim=True)
        logits *= end.scale
        for sign in (1, -1):
            found.append((sign * logits).topk(kept, dim=1))
            found[-1] = (sign * found[-1][0], found[-1][1])
    logit, place = (
        # [2, latents, kept]: blocks alternate between the two directions
        torch.stack([torch.cat([pair[which] for pair in found[side::2]]) for side in (0, 1)])
        for which in (0, 1)
    )
    return _table(latents, logit, ids[place], tokens)


def _table(latents: Tensor, logit: Tensor, ids: Tensor, tokens: Mapping[int, str]) -> pa.Table:
    """Rows ordered by (latent, direction, rank). logit, ids: [2, latents, kept]."""
    _, count, kept = logit.shape
    token_id = ids.transpose(0, 1).reshape(-1).cpu().numpy()
    columns = [
        np.repeat(latents.cpu().numpy().astype(np.uint32), 2 * kept),
        pa.array(np.tile(np.repeat(["promoted", "suppressed"], kept), count)),
        np.tile(np.arange(1, kept + 1, dtype=np.uint32), 2 * count),
        token_id.astype(np.uint32),
        pa.array([tokens[i] for i in token_id.tolist()], pa.string()),
        logit.transpose(0, 1).reshape(-1).cpu().numpy(),
    ]
    return FEATURE_LOGITS.of(*columns)
