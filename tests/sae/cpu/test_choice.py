"""Which engine a CPU gets, and what it says of the others."""

from __future__ import annotations

import logging

import pytest
import torch

from deconstruct.config import SaeConfig
from deconstruct.sae.engines import choice
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import step_spec


@pytest.mark.parametrize(
    ("changes", "d_out", "dtype", "engine", "why"),
    [
        ({}, 0, "auto", "CpuTopK", []),
        ({"architecture": "relu"}, 0, "auto", "SparseEngine", ["trains topk, not relu"]),
        ({}, 6, "auto", "SparseEngine", ["no transcoders"]),
        (
            {"architecture": "gated"},
            0,
            "float32",
            "DenseEngine",
            ["trains topk, not gated", "the sparse step of the CPU multiplies in bfloat16"],
        ),
    ],
    ids=["topk", "another", "transcoder", "exact"],
)
def test_the_first_that_serves_is_taken_and_the_others_say_why_not(
    changes: dict[str, object],
    d_out: int,
    dtype: str,
    engine: str,
    why: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "deconstruct.sae.engines.choice")
    config = SaeConfig.model_validate(
        {"d_sae": 12, "k": 2, "batch_size": 4, "tokens": 20} | changes
    )
    spec = step_spec(config, 8, d_out)
    rates = torch.full((5,), 1e-3)
    found = choice.build_engine(spec, initial_weights(spec, 0), rates, "cpu", dtype)
    assert type(found).__name__ == engine
    [record] = caplog.records
    assert f"trains by {found.title}" in record.getMessage()
    assert record.getMessage().count("; ") == max(0, len(why) - 1)
    for reason in why:
        assert reason in record.getMessage()
    assert record.levelno == logging.DEBUG  # nobody asked


def test_several_processes_and_other_devices_are_refused_by_name() -> None:
    spec = step_spec(SaeConfig(d_sae=12, k=2), 8)
    topk, sparse, dense = choice.on_cpu()
    assert topk.refuses(spec, "cpu", "auto", 2) == (
        "the TopK step of the CPU is for one process, not 2"
    )
    assert topk.refuses(spec, "mps", "auto", 1) == "the TopK step of the CPU does not run on mps"
    assert sparse.refuses(spec, "mps", "auto", 1) == (
        "the sparse step of the CPU does not run on mps"
    )
    assert sparse.refuses(spec, "cpu", "auto", 2) is None
    assert dense.refuses(spec, "mps", "float32", 2) is None
