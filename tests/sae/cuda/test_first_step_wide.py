"""The check of a run's first step at widths that people train: no false alarm on what a card would
round, step after step, and small faults are seen. The step is `fused_in_torch`: no kernel runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from support.cuda import REASON
from support.fused_in_torch import fused_in_torch, rows
from torch import Tensor

from benchmarks.planted import Planted
from deconstruct.sae.engines.cuda.buffers import Buffers, new_state
from deconstruct.sae.engines.cuda.first_step import CLOSE, fault, keep
from deconstruct.sae.engines.cuda.options import GpuOptions
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import NAMES, StepSpec

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def begun(spec: StepSpec) -> Buffers:
    """On the CPU, whatever there is."""
    device = torch.device("cpu")
    state = new_state(spec, GpuOptions(), 8, device)
    weights = initial_weights(spec, 0)
    for name in NAMES:
        state[name].copy_(weights[name].mT if name == "W_enc" else weights[name])
    buffers = Buffers(spec, GpuOptions(), state, torch.full((8,), 1e-3), device)
    buffers.refresh_copies()
    return buffers


def batches(spec: StepSpec, n: int) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    x = Planted(2048, spec.d_in, 30, torch.Generator().manual_seed(1)).rows(n * spec.batch, draw)
    x += 0.1 * torch.randn(x.shape, generator=draw) / spec.d_in**0.5
    return (x / x.square().sum(1).mean().sqrt()).view(n, spec.batch, spec.d_in)


@pytest.mark.parametrize(
    ("batch", "d_in", "d_sae", "k", "clip_norm", "ends"),
    [
        (512, 768, 4096, 32, 1.0, ()),
        (256, 2304, 2048, 64, 0.05, ()),
        (256, 768, 4096, 1, 1.0, ()),
        (256, 768, 4096, 32, 0.05, (256, 512, 1024, 2048, 4096)),
    ],
)
def test_what_bfloat16_rounds_is_no_fault(
    batch: int, d_in: int, d_sae: int, k: int, clip_norm: float, ends: tuple[int, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Of Matryoshka, and BatchTopK with it, where there are ends."""
    caplog.set_level(logging.DEBUG, "deconstruct")
    name = "matryoshka" if ends else "topk"
    spec = StepSpec(name, batch, d_in, d_sae, k, 0.0, clip_norm, 0, 0.0, 10**9, prefixes=ends)
    buffers = begun(spec)
    for z in batches(spec, 4):
        kept = keep(buffers, z)
        fused_in_torch(buffers, z)
        assert fault(kept, buffers) is None
    gaps = [float(r.args[1]) for r in caplog.records if "first fused step" in r.msg and r.args]
    assert len(gaps) == 12
    assert max(gaps) < CLOSE / 3


def swapped(b: Buffers) -> None:
    """Two pairs of the order."""
    b.runs["token"][[8, 9]] = b.runs["token"][[9, 8]]


FAULTS: dict[str, Callable[[Buffers], None]] = {
    "a pair's activation": lambda b: rows(b, b.value)[300].mul_(torch.arange(32) != 3),
    "an error": lambda b: b.error[0, 300].add_(0.3 * b.dec[7]),
    "a latent's row": lambda b: b.state["W_enc.m"].mul_(1.1),
    "a second moment": lambda b: b.state["W_dec.v"].mul_(1.1),
    "a bias": lambda b: b.state["b_dec"].mul_(1.01),
    "counts": lambda b: b.state["since_fired"][5].add_(1),
    "updates": lambda b: b.state["updates"][5].add_(1),
    "order": swapped,
}


def test_small_faults_are_seen() -> None:
    spec = StepSpec("topk", 512, 768, 2048, 32, 0.0, 1.0, 0, 0.0, 10**9)
    buffers, [z] = begun(spec), batches(spec, 1)
    kept = keep(buffers, z)
    fused_in_torch(buffers, z)
    assert fault(kept, buffers) is None
    tensors = [*buffers.state.values(), *buffers.runs.values()]
    tensors += [t for t in vars(buffers).values() if torch.is_tensor(t)]
    sound = [tensor.clone() for tensor in tensors]
    for name, spoil in FAULTS.items():
        spoil(buffers)
        assert fault(kept, buffers), name
        for tensor, whole in zip(tensors, sound, strict=True):
            tensor.copy_(whole)
    assert fault(kept, buffers) is None
