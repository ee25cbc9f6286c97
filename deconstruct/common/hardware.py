"""Where tensors are computed, and in which precision."""

from __future__ import annotations

import torch

from deconstruct.common.errors import ConfigError


def pick_device(device: str = "auto") -> str:
    """``auto`` is ``cuda`` where there is one, else ``cpu``. Raises ``ConfigError``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        kind, index = "unknown", None
    there = kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())
    if not there or (kind == "cuda" and index is not None and index >= torch.cuda.device_count()):
        raise ConfigError(f"there is no device {device!r} here; choose auto, cpu or cuda[:N]")
    return device


def devices(device: str = "auto") -> list[str]:
    """What work that can be shared out may be shared out to: all GPUs where none is named by its
    number, or the one device that `pick_device` gives."""
    picked = pick_device(device)
    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] if picked == "cuda" else [picked]


def pick_dtype(dtype: str = "auto", device: str = "cpu") -> torch.dtype:
    """``auto`` is bfloat16 where its matrix products are fast: GPUs that have it (not those of
    before Ampere, which emulate it), and CPUs with AVX512-bf16.

    Such a CPU runs GEMMs in bfloat16 almost four times as fast as in float32.
    """
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device != "cpu":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def _has_bfloat16(device: str) -> bool:
    """Of a GPU. Where there is none, what is asked is a plan for one of today's."""
    if not torch.cuda.is_available():
        return True
    index = torch.device(device).index
    with torch.cuda.device(-1 if index is None else index):  # torch looks at the current one alone
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
