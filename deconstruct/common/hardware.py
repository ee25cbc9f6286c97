"""Where tensors are computed, and in which precision."""

from __future__ import annotations

import torch

from deconstruct.common.errors import ConfigError


def pick_device(device: str = "auto") -> str:
    """``auto`` is ``cuda`` where there is one, else ``cpu``. Raises ``ConfigError``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = "unknown"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {device!r} is not to be had here; choose auto, cpu or cuda[:N]")
    return device


def pick_dtype(dtype: str = "auto", device: str = "cpu") -> torch.dtype:
    """``auto`` is bfloat16 where its matrix products are fast: GPUs, and CPUs with AVX512-bf16.

    Such a CPU runs GEMMs in bfloat16 almost four times as fast as in float32.
    """
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device != "cpu":
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
