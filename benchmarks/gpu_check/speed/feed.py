"""What a step takes from where its batch lies, and the loop of training with batches of the CPU."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.clock import wait
from benchmarks.gpu.sizes import DEAD_AFTER, Sizes
from benchmarks.gpu_check.inputs import tokens
from benchmarks.gpu_check.speed.contenders import fused
from deconstruct.activations.shards import Moments
from deconstruct.config import SaeConfig
from deconstruct.sae.training.loop import train


def feed(sizes: Sizes, device: str) -> dict[str, Any]:
    """ms: of a step; host_ms: until `FusedTopK.step` returns, which need not wait for it."""
    engine = fused(sizes, device)
    x = tokens(sizes.batch, sizes.d_in, 9, device)
    host = x.cpu()
    places = {"device bf16": x.bfloat16(), "device float32": x, "pageable": host}
    if device == "cuda":
        places["pinned"] = host.pin_memory()
    warm, times = (10, 60) if device == "cuda" else (0, 1)
    found: dict[str, Any] = {}
    for place, rows in places.items():
        for _ in range(warm):
            engine.step(rows)
        wait(device)
        began = time.perf_counter()
        for _ in range(times):
            engine.step(rows)
        asked = time.perf_counter() - began
        wait(device)
        took = time.perf_counter() - began
        found[place] = {"ms": 1e3 * took / times, "host_ms": 1e3 * asked / times}
    del engine
    return found | {"train(), CPU batches": _training(sizes, device)}


class _Source:
    """Gathers on the CPU as `deconstruct.activations.reader.BatchSource`, but without its thread.

    asked: when each batch was asked for, seconds.
    """

    def __init__(self, rows: Tensor, batch: int) -> None:
        self.rows, self.batch = rows, batch
        self.asked: list[float] = []
        self._draw = torch.Generator().manual_seed(0)

    def at(self, step: int) -> Tensor:
        self.asked.append(time.perf_counter())
        return self.rows[torch.randint(len(self.rows), (self.batch,), generator=self._draw)]


def _training(sizes: Sizes, device: str) -> dict[str, float]:
    """The project's own loop; times from one request for a batch to the next, a third left out."""
    batches, steps = (32, 300) if device == "cuda" else (4, 3)
    rows = tokens(batches * sizes.batch, sizes.d_in, 11, device).cpu()
    config = SaeConfig(
        d_sae=sizes.d_sae,
        k=sizes.k,
        batch_size=sizes.batch,
        tokens=steps * sizes.batch,
        dead_after_tokens=DEAD_AFTER,
    )
    mean, variance = rows.double().mean(0).numpy(), rows.double().var(0).numpy()
    source = _Source(rows, sizes.batch)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        moments = Moments(len(rows), mean, variance)
        _, log = train(source, moments, config, Path(scratch), device=device)
        took = time.perf_counter() - began
    asked = source.asked[len(source.asked) // 3 :]
    each = [1e3 * (b - a) for a, b in itertools.pairwise(asked)]
    return {
        "s": took, "ms_a_step": statistics.median(each), "mean": statistics.mean(each),
        "fvu": log[-1].fvu, "l0": log[-1].l0,
    }  # fmt: skip
