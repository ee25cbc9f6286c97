"""What a step takes from where its batch lies, and training from where its batches are made."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.gpu.clock import wait
from benchmarks.gpu.sizes import DEAD_AFTER, Sizes
from benchmarks.gpu_check.inputs import tokens
from benchmarks.gpu_check.speed.contenders import fused
from benchmarks.gpu_check.speed.fed import MEMORY, PLACES, agreement, source
from deconstruct.activations.reader import BatchSource
from deconstruct.activations.shards import Moments
from deconstruct.config import SaeConfig
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training.loop import train


def feed(sizes: Sizes, device: str) -> dict[str, Any]:
    """ms: of a step; host_ms: until `FusedTopK.step` returns, which need not wait for it.

    First on one batch, wherever it lies; then on those that a source makes of shuffled rows in each
    of its places, scaled (the first, in memory, is what all devices had before); then by the
    project's own loop. Raises ValueError where two places give other batches.
    """
    batches = 32 if device == "cuda" else 4
    rows = tokens(batches * sizes.batch, sizes.d_in, 11, device).cpu()
    agreement(rows, sizes.batch, device)
    found = _places(sizes, device)
    for place in PLACES:
        found[f"source, {place}"] = _fed(sizes, rows, place, device)
    return found | {
        f"train(), {place}": _training(sizes, rows, place, device) for place in (MEMORY, PLACES[-1])
    }


def _places(sizes: Sizes, device: str) -> dict[str, Any]:
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
    return found


def _fed(sizes: Sizes, rows: Tensor, place: str, device: str) -> dict[str, float]:
    """Steps on the batches of a source."""
    engine, of = fused(sizes, device), source(rows, sizes.batch, place, device)
    scaling = Scaling.of(_moments(rows))
    warm, times = (20, 200) if device == "cuda" else (0, 1)
    for step in range(warm + times):
        if step == warm:
            wait(device)
            began = time.perf_counter()
        engine.step(scaling.apply(of.at(step)))
    wait(device)
    took = time.perf_counter() - began
    of.close()
    return {"ms": 1e3 * took / times}


class _Noting:
    """Batches of a source; asked: when each was asked for, seconds."""

    def __init__(self, of: BatchSource) -> None:
        self._of = of
        self.asked: list[float] = []

    def at(self, step: int) -> Tensor:
        self.asked.append(time.perf_counter())
        return self._of.at(step)


def _training(sizes: Sizes, rows: Tensor, place: str, device: str) -> dict[str, float]:
    """The project's own loop; times from one request for a batch to the next, a third left out."""
    steps = 300 if device == "cuda" else 3
    config = SaeConfig(
        d_sae=sizes.d_sae,
        k=sizes.k,
        batch_size=sizes.batch,
        tokens=steps * sizes.batch,
        dead_after_tokens=DEAD_AFTER,
    )
    of = source(rows, sizes.batch, place, device)
    noting = _Noting(of)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        _, log = train(noting, _moments(rows), config, Path(scratch), device=device)
        took = time.perf_counter() - began
    of.close()
    asked = noting.asked[len(noting.asked) // 3 :]
    each = [1e3 * (b - a) for a, b in itertools.pairwise(asked)]
    return {
        "s": took, "ms_a_step": statistics.median(each), "mean": statistics.mean(each),
        "fvu": log[-1].fvu, "l0": log[-1].l0,
    }  # fmt: skip


def _moments(rows: Tensor) -> Moments:
    mean, variance = rows.double().mean(0).numpy(), rows.double().var(0).numpy()
    return Moments(len(rows), mean, variance)
