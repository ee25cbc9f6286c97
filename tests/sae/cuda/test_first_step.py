"""A run's first fused step is held against float64 at the run's own size: sound kernels pass, and
those that go wrong at that size alone are found out, before anything is lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cuda import DEVICE, REASON
from torch import Tensor

from deconstruct.sae.engines.cuda import first_forward, first_step
from deconstruct.sae.engines.cuda.check import check_spec, disagreement
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.engine import UnfitError
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

SPEC = StepSpec("topk", 68, 8, 320, 1, 0.0, 1.0, 6, 0.5, 10_000, epsilon=1e-6)
"""More tokens and latents than the small check has, and twice as many to a group."""


def fused(spec: StepSpec, seed: int = 0, dead_share: float = 0.0) -> FusedTopK:
    weights = initial_weights(spec, seed)
    draw = torch.Generator().manual_seed(seed)
    weights["b_enc"] += 0.05 * torch.randn(spec.d_sae, generator=draw)
    weights["b_dec"] += 0.05 * torch.randn(spec.d_in, generator=draw)
    found = FusedTopK(spec, weights, torch.full((6,), 1e-3), DEVICE)
    dead = torch.rand(spec.d_sae, generator=draw) < dead_share
    silent = {"since_fired": spec.dead_after * dead.long()}
    found.load_state_dict({**found.state_dict(), **silent})
    return found


def tokens(spec: StepSpec, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(spec.batch, spec.d_in, generator=draw) / spec.d_in**0.5


def gaps(caplog: pytest.LogCaptureFixture) -> list[float]:
    return [float(r.args[1]) for r in caplog.records if "first fused step" in r.msg and r.args]


@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    n=st.integers(2, 12),
    d_in=st.integers(2, 40),
    d_sae=st.integers(2, 40),
    seed=st.integers(0, 999),
    dead_share=st.sampled_from([0.0, 0.3]),
    clip_norm=st.sampled_from([0.05, 1.0, math.inf]),
    optimizer=st.sampled_from(["sparse_adam", "adam"]),
)
def test_sound_kernels_agree(
    n: int, d_in: int, d_sae: int, seed: int, dead_share: float, clip_norm: float, optimizer: str
) -> None:
    k = 1 + seed % d_sae
    spec = StepSpec(
        "topk", n, d_in, d_sae, k, 0.0, clip_norm, min(4, d_sae), 0.5, 1000, optimizer=optimizer
    )
    found = fused(spec, seed, dead_share)
    found.first_step(tokens(spec, seed))
    found.first_step(tokens(spec, seed + 1))  # as after a resume, with moments


def test_sound_kernels_agree_at_sizes_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "deconstruct")
    found = fused(SPEC, dead_share=0.2)
    found.first_step(tokens(SPEC))
    found.first_step(tokens(SPEC, 2))
    assert len(gaps(caplog)) == 6
    assert max(gaps(caplog)) < first_step.CLOSE / 3
    small = check_spec(SPEC)
    assert (small.batch, small.d_sae) == (64, 256)


def test_what_is_kept_is_small() -> None:
    kept = first_step.keep(fused(SPEC)._buffers, tokens(SPEC))
    held = (kept.pre, *kept.norms.values(), *kept.seen.values(), *kept.rows.values())
    entries = sum(tensor.numel() for tensor in held)
    each = first_forward.SAMPLED_TOKENS + 2 * SPEC.d_in + 2
    assert entries <= each * SPEC.d_sae + 4 * first_forward.SAMPLED_LATENTS * (6 * SPEC.d_in + 3)
    fires = kept.pre.topk(SPEC.k, dim=1)
    number = torch.bincount(fires.indices.flatten(), minlength=SPEC.d_sae)[kept.latents]
    assert {0, 1} <= set(number.tolist())
    assert number.max() > 1


Change = Callable[..., None]


class After:
    """A kernel, and what is done to its arguments thereafter where the run's size is met."""

    def __init__(self, kernel: Any, spoil: Change) -> None:
        self.kernel, self.spoil = kernel, spoil

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*given: Any, **more: Any) -> None:
            self.kernel[grid](*given, **more)
            self.spoil(*given, **more)

        return launch


def lost_groups(pre: Tensor, maxima: Tensor, *_: Any, **more: Any) -> None:
    """Of groups of more than 16."""
    if more["GROUP"] > 16:
        maxima[:] = maxima.roll(1, 1)


def wrong_tile(pre: Tensor, *_: Any, **__: Any) -> None:
    """A band of the product, of its last tile rows alone."""
    if len(pre) > 64:
        pre.view(torch.bfloat16)[64:].mul_(1.1)


def short_order(*given: Any, **_: Any) -> None:
    """The order of pairs that are summed in blocks."""
    token = given[4]
    if len(token) > 64:
        token[40:42] = token[40:42].flip(0)


def no_correction(*given: Any, **_: Any) -> None:
    """Adam without bias correction."""
    pace = given[8]
    if len(pace) > 257:
        pace[:, 0] *= 0.1
        pace[:, 1] = 1


SABOTAGE = {
    "group order": ("topk", "group_max_kernel", lost_groups, "are not its 1 largest"),
    "product": ("topk", "group_max_kernel", wrong_tile, "not the encoder's product"),
}


def spoiled_decode(change: Callable[[Any], None]) -> Change:
    def spoil(*given: Any, **_: Any) -> None:
        if len(given[0]) > 64:
            change(given)

    return spoil


SABOTAGE |= {
    "a dropped pair": (
        "decode", "decode_kernel", spoiled_decode(lambda a: a[4][66].zero_()),
        "no positive activation",
    ),
    "an error": (
        "decode", "decode_kernel",
        spoiled_decode(lambda a: a[6].view(torch.bfloat16)[0, 66].mul_(1.3)),
        "the error of a token",
    ),
    "the loss": (
        "decode", "decode_kernel", spoiled_decode(lambda a: a[8][:, 60:].zero_()), "the loss is",
    ),
    "slopes": (
        "decode", "decode_kernel", spoiled_decode(lambda a: a[7][60:].mul_(1.5)), "the gradient of",
    ),
    "order": ("gradients", "chunk_kernel", short_order, "not sorted by latent"),
    "no bias correction": ("latents", "pace_kernel", no_correction, "moves otherwise than by Adam"),
}  # fmt: skip


@pytest.mark.parametrize("case", SABOTAGE)
def test_what_goes_wrong_at_the_run_s_size_alone_is_noticed(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, spoil, told = SABOTAGE[case]
    of = import_module(f"deconstruct.sae.engines.cuda.kernels.{module}")
    monkeypatch.setattr(of, name, After(getattr(of, name), spoil))
    with pytest.raises(UnfitError, match=f"first step, held against float64, .*{told}"):
        fused(SPEC).first_step(tokens(SPEC))


def test_the_small_check_sees_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, spoil, _ in SABOTAGE.values():
        of = import_module(f"deconstruct.sae.engines.cuda.kernels.{module}")
        monkeypatch.setattr(of, name, After(getattr(of, name), spoil))
    disagreement.cache_clear()
    assert disagreement(FusedTopK, check_spec(SPEC), DEVICE) is None
    disagreement.cache_clear()
