"""Kernel by kernel: microseconds per step, and the rate against what the card can do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.clock import wait
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu_check.speed.contenders import fused

_SHOWN = 40
_RATES = ("gb_s", "share_of_copy", "tflop_s")


def kernel_times(
    sizes: Sizes, data: list[Tensor], roof: dict[str, float], device: str
) -> dict[str, Any]:
    """touched: share of latents that a step updates; sum_us and rows: what its kernels take."""
    engine = fused(sizes, device)
    for x in data[:4]:
        engine.step(x)
    before = engine.state_dict()["updates"].clone()
    engine.step(data[4])
    touched = float((engine.state_dict()["updates"] > before).float().mean())
    wait(device)
    kinds = [ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    steps = 1 if device == "cpu" else 10
    with profile(activities=kinds) as seen:
        for n in range(steps):
            engine.step(data[n % len(data)])
        wait(device)
    needed = needs(sizes, touched)
    rows = [_row(*event, steps, needed, roof) for event in _events(seen, device)]
    rows.sort(key=lambda row: -float(row["us_a_step"]))
    total = sum(float(row["us_a_step"]) for row in rows)
    return {"touched": touched, "sum_us": total, "rows": rows[:_SHOWN]}


def _events(seen: profile, device: str) -> Iterator[tuple[str, float, int]]:
    """Name, microseconds in all and number of calls of what ran on the device."""
    for event in seen.key_averages():
        if device == "cuda":
            on_host = str(event.device_type).endswith("CPU")
            micro = 0.0 if on_host else getattr(event, "self_device_time_total", 0.0)
        else:
            micro = event.self_cpu_time_total
        if micro > 0:
            yield event.key, micro, event.count


def _row(
    key: str,
    micro: float,
    calls: int,
    steps: int,
    needed: dict[str, tuple[float, float]],
    roof: dict[str, float],
) -> dict[str, Any]:
    """A kernel's line; its rates where `needs` knows what it must move and compute."""
    row: dict[str, Any] = {"kernel": key[:60], "calls_a_step": calls / steps}
    row["us_a_step"] = micro / steps
    moved, flop = next((n for name, n in needed.items() if key.startswith(name)), (0.0, 0.0))
    each = micro / calls
    if moved:
        row["gb_s"] = moved / each / 1e3
        row["share_of_copy"] = row["gb_s"] / roof["copy_gb_s"]
    if flop:
        row["tflop_s"] = flop / each / 1e6
    return row


def needs(sizes: Sizes, touched: float) -> dict[str, tuple[float, float]]:
    """Kernel -> (bytes that it must move through memory or L2, FLOP) of one launch.

    touched: share of latents that a step updates.
    """
    b, d, f, k = sizes
    group = min(128, max(16, 1 << max(0, math.ceil(math.log2(math.sqrt(f / k))))))
    groups = -(-f // group)
    gathered = 2.0 * b * k * d
    pairs = 4.0 * b * k * d
    return {
        "center_kernel": (b * d * (2 + 2) + 4.0 * f, 0),
        "encode_kernel": (2.0 * (b * d + f * d + b * f) + 2.0 * b * groups, 2.0 * b * d * f),
        "group_max_kernel": (2.0 * b * f + 2.0 * b * groups, 0),
        "choose_groups_kernel": (2.0 * b * groups, 0),
        "select_kernel": (2.0 * b * min(k, groups) * group, 0),
        "decode_kernel": (2 * gathered + 4.0 * b * d, pairs),
        "update_rows_kernel": (touched * f * d * 26.0 + gathered, 2.0 * b * k * d),
        "decoder_bias_partial_kernel": (2.0 * b * d + touched * 2.0 * f * d, 0),
        "chunk_kernel": (2 * gathered, pairs),
        "row_squares_kernel": (2 * gathered + 2.0 * f * d, pairs),
    }


def told(found: dict[str, Any]) -> str:
    """The same as lines of text."""
    lines = [f"touched latents per step: {found['touched']:.3f}; "
             f"sum of kernels {found['sum_us']:.1f} us per step"]  # fmt: skip
    for row in found["rows"]:
        rates = " ".join(f"{name}={row[name]:.3g}" for name in _RATES if name in row)
        calls = f"{row['us_a_step']:9.1f} us {row['calls_a_step']:5.1f} x"
        lines.append(f"{calls} {row['kernel']:60s} {rates}")
    return "\n".join(lines)
