"""What a check needs of a GPU's memory, which other work of the process may hold."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable

import pytest
import torch
from support.cuda import DEVICE, REASON

from deconstruct.sae.engines.cuda import elsewhere, first_step
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.encoding import check
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

SPEC = StepSpec("topk", 4, 8, 8, 2, 0.0, 1.0, 0, 0.0, 1000)


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_training_goes_on_where_only_its_check_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("all of it is in use")

    monkeypatch.setattr(first_step, "fault", full)
    engine = FusedTopK(SPEC, initial_weights(SPEC, 0), torch.full((1,), 1e-3), DEVICE)
    with caplog.at_level(logging.WARNING):
        engine.first_step(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    assert engine.steps_done == 1
    assert "too little memory to hold the first step against float64" in caplog.text


@pytest.mark.parametrize(
    "checked",
    [
        lambda: elsewhere.wrong_elsewhere.__wrapped__(SPEC, "cuda"),
        lambda: check.wrong_elsewhere.__wrapped__("cuda", 7, 11, 3),
    ],
    ids=["step", "selection"],
)
def test_memory_kept_for_later_is_given_back_before_another_process_checks(
    checked: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        done.append("checked")
        return subprocess.CompletedProcess([], 0, "null\n", "")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    monkeypatch.setattr(subprocess, "run", run)
    assert checked() is None
    assert done == ["given back", "checked"]
