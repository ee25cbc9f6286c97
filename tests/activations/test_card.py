"""Batches on the card itself, where there is one; elsewhere the same on the CPU, as far as it goes.

It needs no fixture: `benchmarks/gpu_check` runs it alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.alone import ON_GPU
from support.cuda import DEVICE

from benchmarks.gpu_check.speed import fed
from deconstruct.activations.shards import Moments
from deconstruct.config import SaeConfig
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training.held_out import HeldOut
from deconstruct.sae.training.loop import train

BATCH = 64
on_card = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")


def some_rows() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(70 * BATCH, 32, generator=draw) + 1).bfloat16().float()


def moments_of(rows: torch.Tensor) -> Moments:
    of = rows.double()
    return Moments(len(rows), of.mean(0).numpy(), of.var(0).numpy())


def test_all_places_give_the_same_batches() -> None:
    fed.agreement(some_rows(), BATCH, DEVICE)


def test_a_place_that_gives_others_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail."""

    def off(rows: torch.Tensor, numbers: torch.Tensor, into: torch.Tensor) -> None:
        torch.index_select(rows, 0, numbers, out=into)
        into[0] += 1

    monkeypatch.setattr("deconstruct.activations.places._gather", off)
    with pytest.raises(ValueError, match=r"by pinned buffers, 1 pools: .* entries of batches"):
        fed.agreement(some_rows(), BATCH, DEVICE)


def test_scaling_rounds_as_on_the_cpu() -> None:
    rows = some_rows()
    scaling = Scaling.of(moments_of(rows))
    expected = scaling.apply(rows)
    for there in (rows.to(DEVICE), rows.bfloat16().to(DEVICE)):
        assert torch.equal(scaling.apply(there).cpu(), expected)


@on_card
def test_graphs_are_captured_while_rows_are_loaded() -> None:
    """As the fused step does where more latents may be dead than it has room for."""
    rows = some_rows()
    expected = fed.source(rows, BATCH, fed.MEMORY, DEVICE, pools=16)
    source = fed.source(rows, BATCH, fed.DEVICE, DEVICE, pools=16)
    a, doubled = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    for step in range(60):
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        batch = source.at(step)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            torch.mul(a, 2, out=doubled)
        doubled.zero_()
        graph.replay()
        assert torch.equal(batch.float().cpu(), expected.at(step))
        assert float(doubled.sum()) == 128
    source.close()


@on_card
def test_a_training_on_the_card_does_not_depend_on_the_place(tmp_path: Path) -> None:
    """The fused step's bytes; with an early stop's held-out rows on the card."""
    rows = some_rows()
    held_out = HeldOut(rows[:500].bfloat16().to(DEVICE), rows[:500].to(DEVICE))
    config = SaeConfig(d_sae=256, k=4, batch_size=BATCH, tokens=100 * BATCH, patience=50)
    found = []
    for place in fed.PLACES:
        folder = tmp_path / place
        folder.mkdir()
        source = fed.source(rows, BATCH, place, DEVICE, pools=4)
        sae, log = train(source, moments_of(rows), config, folder, held_out=held_out, device=DEVICE)
        source.close()
        found.append((sae.weights(), log))
    for weights, log in found[1:]:
        assert log == found[0][1]
        assert all(torch.equal(w, found[0][0][name]) for name, w in weights.items())
    on_cpu = HeldOut(rows[:500], rows[:500]).fvu(sae)
    assert log[-1].held_out_fvu == pytest.approx(on_cpu, rel=1e-3)
