"""On which device the parts of an extraction are computed, where a machine has several GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from deconstruct.activations.stage import Share
from deconstruct.config import ActivationsConfig
from deconstruct.model.resolve import ResolvedModel
from tasks import spread
from tasks.spread import Spread, extraction_over


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        (Spread(workers=3), "auto", ["cuda:0", "cuda:1", "cuda:0"]),
        (Spread(kind="dask", workers=3), "auto", ["cuda:0", "cuda:1", "cuda:0"]),
        (Spread(kind="ray", workers=3), "auto", ["auto", "auto", "auto"]),
        (Spread(kind="dask", workers=2, address="tcp://there:1"), "auto", ["auto", "auto"]),
        (Spread(workers=2), "cuda:1", ["cuda:1", "cuda:1"]),
        (Spread(workers=2), "cpu", ["cpu", "cpu"]),
    ],
    ids=["threads", "dask", "ray", "elsewhere", "one card", "cpu"],
)
def test_shares_go_to_the_gpus_in_turn(
    engine: Spread,
    device: str,
    expected: list[str],
    model: ResolvedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("tasks.spread.pick_dtype", lambda dtype, device: torch.bfloat16)
    called: list[dict[str, Any]] = []
    monkeypatch.setattr(spread, "on_engine", lambda _, __, calls: called.extend(calls))
    free = replace(model, dtype="auto")
    compute = extraction_over(engine, "home", ActivationsConfig(), free, device)
    assert compute is not None
    compute(lambda shares: [Share("key", {}, (str(n),)) for n in range(shares)])
    assert [call["device"] for call in called] == expected
    assert [call["share"].shards for call in called] == [(str(n),) for n in range(len(expected))]
    pinned = "bfloat16" if expected[0] == "cuda:0" else "auto"
    assert {call["model"].dtype for call in called} == {pinned}
