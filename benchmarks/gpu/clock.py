"""Time and memory on a device, and its two ceilings: copies and bf16 products.

A device is "cuda" or "cpu"; on a CPU the host's clock serves, and memory is not counted.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def ms_of(work: Callable[[], object], times: int, device: str) -> float:
    """Milliseconds of one call, as the mean of ``times`` in a row, by device events."""
    if device != "cuda":
        began = time.perf_counter()
        for _ in range(times):
            work()
        return 1e3 * (time.perf_counter() - began) / times
    first, last = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    first.record()
    for _ in range(times):
        work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / times


def block_ms(
    step: Callable[[Tensor], object], data: Sequence[Tensor], first: int, steps: int, device: str
) -> float:
    """Milliseconds of one of so many steps in a row, on batches from the number ``first`` on."""
    numbers = count(first)
    return ms_of(lambda: step(data[next(numbers) % len(data)]), steps, device)


def median_ms(work: Callable[[], object], times: int, device: str, rounds: int = 7) -> float:
    """The median of several `ms_of`, each after a rest."""
    work()
    took = []
    for _ in range(rounds):
        _rest(device)
        took.append(ms_of(work, times, device))
    return statistics.median(took)


def _rest(device: str) -> None:
    """Products in a row heat the card: leave the clock time to recover."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]  # cycles


def ceilings(device: str, floats: int = 2**28, side: int = 8192) -> dict[str, float]:
    """Rates of this card now. floats: that are copied; side: of the square bf16 product."""
    source = torch.randn(floats, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    copy = median_ms(lambda: target.copy_(source), 3, device)
    product = median_ms(lambda: a @ b, 2, device)
    return {
        "copy_gb_s": 2 * source.nbytes / copy / 1e6,
        "product_tflop_s": 2 * side**3 / product / 1e9,
    }


def fresh_memory(device: str) -> int:
    """Give back what is unused and forget the peak so far; returns the bytes in use."""
    gc.collect()
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_gb(before: int, device: str) -> float | None:
    """GB at the peak since `fresh_memory`, above what it returned; None on a CPU."""
    return (torch.cuda.max_memory_allocated() - before) / 1e9 if device == "cuda" else None
