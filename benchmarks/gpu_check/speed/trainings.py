"""Short trainings: the loss after equal steps by several engines, and how often a step clips."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.sizes import Sizes, topk_spec
from benchmarks.gpu_check.engine import FusedTopK, GpuOptions, buffers_of, dense
from benchmarks.gpu_check.inputs import start_weights, tokens
from deconstruct.sae.engines.engine import Engine

_TINY = Sizes(4, 8, 16, 2)


def losses(device: str) -> dict[str, Any]:
    """After equal steps on equal batches from equal weights: fused, and dense in bf16."""
    cuda = device == "cuda"
    sizes = Sizes(4096, 768, 8192, 32) if cuda else _TINY
    steps, batches = (200, 64) if cuda else (3, 4)
    spec = topk_spec(sizes, dead_after=20 * sizes.batch)
    data = torch.split(tokens(batches * sizes.batch, sizes.d_in, 13, device), sizes.batch)
    rates, weights = torch.full((steps,), 1e-3), start_weights(spec, device)
    half = GpuOptions(moments="bfloat16")
    engines: dict[str, Engine] = {
        "fused": FusedTopK(spec, weights, rates, device),
        "fused, bf16 moments": FusedTopK(spec, weights, rates, device, half),
        "dense, bf16": dense(spec, weights, rates, device),
    }
    found: dict[str, Any] = {}
    for name, engine in engines.items():
        for step in range(steps):
            engine.step(data[step % len(data)])
        l0, dead = engine.firing()
        first, last = float(engine.losses[0]), float(engine.losses[-10:].mean())
        found[name] = {"loss_first": first, "loss_last10": last, "l0": l0, "dead": dead}
    return found


def clipping(sizes: Sizes, device: str) -> dict[str, Any]:
    """formed: share of steps whose bound is above the limit, so that all gradient rows are formed
    for their norm; clipped: share that clips."""
    steps, batches = (120, 32) if device == "cuda" else (2, 4)
    spec = topk_spec(sizes)
    data = torch.split(tokens(batches * sizes.batch, sizes.d_in, 13, device), sizes.batch)
    found: dict[str, Any] = {}
    for name, rate in (("rate 2e-4", 2e-4), ("rate 1e-3", 1e-3)):
        rates = torch.full((steps,), rate)
        engine = FusedTopK(spec, start_weights(spec, device), rates, device)
        bounds, factors = [], []
        for step in range(steps):
            engine.step(data[step % len(data)])
            bounds.append(float(buffers_of(engine).norm_bound[0]) ** 0.5)
            factors.append(float(buffers_of(engine).clip))
        found[name] = {
            "formed": sum(bound > spec.clip_norm for bound in bounds) / steps,
            "clipped": sum(factor < 1 for factor in factors) / steps,
            "bound_first_last": [bounds[0], bounds[-1]],
            "clip_min": min(factors),
        }
    return found
