"""``auto`` is bfloat16 where the device has it, and not where it is emulated."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from deconstruct.common.hardware import pick_dtype


@pytest.mark.parametrize(("has", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_card_is_asked(has: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def supported(including_emulation: bool = True) -> bool:
        return has or including_emulation

    def device(index: int) -> Any:
        asked.append(index)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", device)
    assert pick_dtype("auto", "cuda:1") == wanted
    assert asked == [1]
    assert pick_dtype("bfloat16", "cuda:1") == torch.bfloat16
