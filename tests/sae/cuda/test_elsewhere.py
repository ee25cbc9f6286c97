"""Errors that a CUDA context does not survive happen in another process, and memory that is too
small is a sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.cuda import DEVICE, REASON
from support.other_python import stand_in

from deconstruct.common.errors import ConfigError
from deconstruct.sae.engines import apart
from deconstruct.sae.engines.choice import first_that_serves
from deconstruct.sae.engines.cuda.check import check_spec
from deconstruct.sae.engines.cuda.elsewhere import wrong_elsewhere
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

SPEC = StepSpec("topk", 8, 16, 32, 4, 0.0, 1.0, 4, 1 / 32, 10_000)


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    wrong_elsewhere.cache_clear()
    yield
    wrong_elsewhere.cache_clear()


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_sound_step_passes_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    assert wrong_elsewhere(check_spec(SPEC), DEVICE) is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ("echo 'torch.AcceleratorError: CUDA error: an illegal memory access' >&2", "exit 1"),
            "does not run here (torch.AcceleratorError: CUDA error: an illegal memory access)",
        ),
        (("kill -ABRT $$",), "does not run here (it ended with -6)"),
        (("exec sleep 9",), "did not end its check within 1 seconds"),
        (("echo '\"W_dec moves otherwise\"'",), "W_dec moves otherwise"),
    ],
    ids=["sticky", "aborted", "hangs", "disagrees"],
)
def test_how_it_ends_there_is_said_here(
    lines: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, *lines))
    monkeypatch.setattr(apart, "SECONDS", 1)
    assert told in (wrong_elsewhere(SPEC, "cuda:0") or "")


class Greedy(DenseEngine):
    """More than there is."""

    @classmethod
    def begin(cls, *given: object) -> DenseEngine:  # type: ignore[override]
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")


def test_too_little_memory_is_a_sentence_and_no_engine_that_needs_more_is_tried() -> None:
    weights = initial_weights(SPEC, 0)
    with pytest.raises(ConfigError, match=r"sae\.d_sae = 32 .*sae\.batch_size = 8 .*lower one"):
        first_that_serves((Greedy, DenseEngine), SPEC, weights, torch.ones(3), "cpu", "auto")
