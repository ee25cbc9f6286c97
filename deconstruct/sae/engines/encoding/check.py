"""The fused selection held against float64, on a few tokens.

A kernel that one card, driver or version of Triton compiles wrongly finds firings without
complaint. So it is tried twice before it is believed: in another process (some errors of a kernel
leave a device of no use to the process that had them) at the run's own sizes, on random numbers;
and on the first tokens that are encoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from deconstruct.sae.engines.apart import found_apart
from deconstruct.sae.engines.encoding.encoder import Encoder

CHECKED_TOKENS = 64
LATENTS_AT_ONCE = 8192
TOLERANCE = 1e-5
"""What float32 sums may be off by, as a share of |x - b_dec| times the longest encoder row (plus
the largest bias): a tenth of a per mille of the activations that fire in a thousand dimensions."""
BFLOAT16 = 2.0**-8
"""The same of the product in bfloat16, by which a latent near zero may be taken for silent."""


@torch.no_grad()
def fault(encoder: Encoder, weights: Mapping[str, Tensor], k: int, x: Tensor) -> str | None:
    """What is wrong with the k latents that are found on x [n, d_in], in a sentence; None: nothing
    on any of `CHECKED_TOKENS` of them. weights: W_enc, b_enc, b_dec."""
    counts, latents, values = (part.cpu() for part in encoder(x))
    if len(counts) != len(x) or int(counts.sum()) != len(latents) or len(latents) != len(values):
        return "in a check, the fused selection's counts are not those of its pairs"
    ends = counts.cumsum(0)
    few = torch.linspace(0, len(x) - 1, min(len(x), CHECKED_TOKENS)).long()
    pre, scale = _reference(weights, x[few.to(x.device)])
    for n, row in enumerate(few.tolist()):
        own = slice(int(ends[row] - counts[row]), int(ends[row]))
        wrong = _wrong(latents[own].long(), values[own], pre[n], k, float(scale[n]))
        if wrong:
            return f"in a check, the fused selection {wrong} on token {row} of {len(x)}"
    return None


def _reference(weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations in float64 on the CPU, [n, d_sae], and what errors are a share of, [n]."""
    centred = (x - weights["b_dec"]).double()
    parts, longest = [], 0.0
    for first in range(0, weights["W_enc"].shape[1], LATENTS_AT_ONCE):
        some = slice(first, first + LATENTS_AT_ONCE)
        W = weights["W_enc"][:, some].double()
        bias = weights["b_enc"][some].double() + weights["b_dec"].double() @ W
        parts.append((centred @ W + bias).cpu())
        longest = max(longest, float(W.norm(dim=0).max()))
    largest = float(weights["b_enc"].abs().max())
    reach = weights["b_dec"].double().norm() + centred.norm(dim=1)
    return torch.cat(parts, 1), (reach * longest + largest).cpu()


def _wrong(latents: Tensor, values: Tensor, pre: Tensor, k: int, scale: float) -> str | None:
    """latents int64 and values [m] of one token. pre: float64 [d_sae]."""
    if len(latents) > k or bool((latents.diff() <= 0).any()) or not bool((values > 0).all()):
        return "finds too many latents, or not in order"
    if len(latents) and (int(latents[0]) < 0 or int(latents[-1]) >= len(pre)):
        return "finds latents that are not there"
    slack = TOLERANCE * scale
    if len(latents) and not float((values - pre[latents]).abs().max()) <= slack:
        return "has another activation than float64"
    edge = float(pre.topk(k).values[-1])
    if edge <= 0:  # fewer than k are positive: those near zero may be missed
        edge = BFLOAT16 * scale
    elif len(latents) and float(pre[latents].min()) < edge - 2 * slack:
        return "finds a latent that is not among the k largest"
    must = pre > edge + 2 * slack
    must[latents] = False
    return "misses one of the k largest latents" if bool(must.any()) else None


@cache
def wrong_elsewhere(device: str, d_in: int, d_sae: int, k: int) -> str | None:
    """What `drawn_fault` finds in another process, or how that ended; None: all is well."""
    sizes = json.dumps([d_in, d_sae, k])
    return found_apart("the fused selection", __package__, device, sizes)


def drawn_fault(device: str, d_in: int, d_sae: int, k: int) -> str | None:
    """`fault` of as many random tokens as are encoded at once, by random weights."""
    from deconstruct.sae.engines.encoding.selected import STEP_ROWS, SelectedTopK

    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    weights = {
        "W_enc": normal(d_in, d_sae) / d_in**0.5,
        "b_enc": 0.1 * normal(d_sae),
        "b_dec": normal(d_in),
    }
    encoder = SelectedTopK(weights, k)
    interpreted = torch.device(device).type == "cpu"  # a tenth of a second for a token
    return fault(encoder, weights, k, normal(STEP_ROWS if interpreted else encoder.rows, d_in))
