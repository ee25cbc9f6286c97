"""The device and precision that a name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import devices, pick_device, pick_dtype


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("mps", "tpu", "cuda:77" if not torch.cuda.is_available() else "nonsense"):
        with pytest.raises(ConfigError, match=f"there is no device '{device}' here"):
            pick_device(device)
    assert pick_dtype("float32", "cuda") == torch.float32
    assert pick_dtype("bfloat16", "cpu") == torch.bfloat16
    assert pick_dtype("auto", "cuda") == torch.bfloat16
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = "avx512_bf16" in flags or "amx_tile" in flags
    assert pick_dtype("auto", "cpu") == (torch.bfloat16 if fast else torch.float32)


def test_work_is_shared_out_to_all_gpus_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert devices("cpu") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices("auto") == devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda:1") == ["cuda:1"]
    assert devices("cpu") == ["cpu"]
