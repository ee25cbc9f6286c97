"""The product that makes the selection's maxima on its way out (TMA), tile by tile: on a card that
has it, or in the interpreter, by small tiles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.alone import ON_GPU
from support.cuda import DEVICE, REASON

from deconstruct.sae.engines.cuda.options import GpuOptions, Tiling
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

if REASON is None:
    from deconstruct.sae.engines.cuda import forward
    from deconstruct.sae.engines.cuda.buffers import Card

HAS_TMA = not ON_GPU or torch.cuda.get_device_capability()[0] in (9, 10)
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.skipif(not HAS_TMA, reason="the fused product needs TMA"),
]
SMALL = Tiling(encode_block=(16, 64, 16), encode_warps=4, encode_stages=2)
SHAPES = [(16, 16, 64, 4), (37, 24, 200, 5), (70, 40, 136, 3)]
"""Tokens, d_in, latents, k: whole tiles, and ends of tiles in all three."""
if ON_GPU:
    SMALL = Tiling()
    SHAPES = [(512, 768, 4096, 32), (200, 96, 1000, 16), (4100, 104, 2008, 8)]


def built(spec: StepSpec, options: GpuOptions) -> FusedTopK:
    weights = initial_weights(spec, 0)
    draw = torch.Generator().manual_seed(3)
    weights["b_enc"] += 0.1 * torch.randn(spec.d_sae, generator=draw)
    return FusedTopK(spec, weights, torch.full((2,), 1e-3), DEVICE, options)


@pytest.mark.parametrize("band", [1, 2, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_make_the_product_and_its_maxima(
    shape: tuple[int, int, int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ON_GPU:  # programs walk over several tiles each, and not equally many
        monkeypatch.setattr(Card, "of", classmethod(lambda cls, device: cls(3, (9, 0))))
    batch, d_in, d_sae, k = shape
    spec = StepSpec("topk", batch, d_in, d_sae, k, 0.0, math.inf, 0, 0.0, 10_000_000)
    tiling = replace(SMALL, encode_band=band)
    found = built(spec, GpuOptions(encoder="fused", tiling=tiling))
    z = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(1)) / d_in**0.5
    start, b = found.weights(), found._buffers
    assert b.fused
    with found._current():
        forward.begin(b, z.to(DEVICE))
        forward.encode(b)
    centered = b.centered.cpu().double()
    pre = centered @ start["W_enc"].bfloat16().double() + start["b_enc"].double()
    gap = (b.pre.cpu().double() - pre).abs()
    assert float((gap / (pre.abs() + 1e-2)).max()) < 2**-7
    padded = torch.nn.functional.pad(b.pre.cpu().float().relu(), (0, -d_sae % b.group))
    maxima = padded.view(batch, -1, b.group).amax(2).bfloat16().view(torch.int16)
    assert torch.equal(b.maxima.cpu(), maxima)
