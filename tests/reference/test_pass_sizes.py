"""How many tokens a pass over held-out texts takes, by device and vocabulary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deconstruct.common.site import Site
from deconstruct.reference.passes import Passes


@pytest.mark.parametrize(
    ("vocabulary", "dtype", "expected"),
    [
        (262_144, torch.bfloat16, 1024),
        (262_144, torch.float32, 512),
        (50_257, torch.bfloat16, 5341),
        (1000, torch.bfloat16, 8192),
    ],
)
def test_a_gpu_takes_as_many_as_their_logits_have_room_for(
    vocabulary: int, dtype: torch.dtype, expected: int
) -> None:
    weight = torch.empty(vocabulary, 4, dtype=dtype, device="meta")
    model: Any = SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(weight=weight),
        parameters=lambda: iter([weight]),
    )
    assert Passes(model, Site(0, "resid_post")).tokens == expected


def test_a_cpu_takes_what_its_caches_like() -> None:
    assert Passes(torch.nn.Linear(2, 2), Site(0, "resid_post")).tokens == 512
