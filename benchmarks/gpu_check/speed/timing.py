"""One contender's milliseconds, tokens per second and memory."""

from __future__ import annotations

import statistics
import time
from typing import Any

from torch import Tensor

from benchmarks.gpu.clock import block_ms, fresh_memory, ms_of, peak_gb, wait
from benchmarks.gpu_check.speed.contenders import Contender

_BLOCK_MS = 150
"""How long a block of steps takes that is timed as one."""


def timed(contender: Contender, data: list[Tensor], floor_ms: float, device: str) -> dict[str, Any]:
    """Medians over five blocks of steps; ready_s: seconds until the first two steps are made.

    data: batches in bf16. floor_ms: what no step can do without. In a smoke test, a single step.
    """
    smoke = device == "cpu"
    before, began = fresh_memory(device), time.perf_counter()
    one = contender.make()
    rows = [x.float() for x in data] if contender.wide else data
    for x in rows[:1] if smoke else rows[:2]:
        one.step(x)
    wait(device)
    ready = time.perf_counter() - began
    took = [ms_of(lambda: one.step(rows[0]), 1, device)]
    if not smoke:
        block = max(3, min(40, int(_BLOCK_MS / max(took[0], 0.05))))
        for x in (rows * 3)[:10]:
            one.step(x)
        wait(device)
        took = [block_ms(one.step, rows, repeat, block, device) for repeat in range(5)]
    ms = statistics.median(took)
    return {
        "ms": ms, "ms_min": min(took), "ms_max": max(took), "tokens_s": 1e3 * len(data[0]) / ms,
        "share_of_roofline": floor_ms / ms, "ready_s": ready, "peak_gb": peak_gb(before, device),
    }  # fmt: skip
