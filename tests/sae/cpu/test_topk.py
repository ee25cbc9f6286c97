"""The whole TopK step on the CPU against a plain dense reference in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sae_reference import TRIED, Reference, Trial, unpacked

from deconstruct.sae.engines.cpu.sparse import SparseEngine
from deconstruct.sae.engines.cpu.topk import CpuTopK
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec


@settings(deadline=None, max_examples=25)
@given(n=st.integers(2, 24), d_in=st.integers(2, 24), d_sae=st.integers(2, 80), **TRIED)
def test_whole_step(n: int, d_in: int, d_sae: int, **tried: Any) -> None:
    trial = Trial.of(n, d_in, d_sae, **tried)
    engine = CpuTopK(trial.spec, trial.weights, torch.full((2,), 1e-2))
    engine._state["since_fired"][trial.dead] = 10_000
    reference = Reference(trial.spec, dict(trial.weights))
    loss = reference.step(trial.z, trial.dead, 1e-2)
    engine.step(trial.z)
    assert abs(float(engine.losses[0]) - loss) < 1e-3 * loss + 1e-6
    reference.check(engine.weights(), rate=1e-2, close=0.05)


@pytest.mark.parametrize("optimizer", ["sparse_adam", "adam"])
def test_latents_that_do_not_fire(optimizer: str) -> None:
    """Several steps beside the reference, of which each sees a few directions alone: sparse_adam
    leaves the others alone, adam moves those that have fired before."""
    spec = StepSpec(
        "topk", 16, 24, 96, 96, 0.0, 1e9, 0, 0.0, dead_after=10**9, epsilon=1e-3,
        optimizer=optimizer,
    )  # fmt: skip
    weights = initial_weights(spec, 0)
    weights["b_enc"] -= 0.05  # so that few of them fire
    engine = CpuTopK(spec, weights, torch.full((6,), 3e-3))
    reference = Reference(spec, dict(weights))
    nobody = torch.zeros(96, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    touched, drifted = torch.zeros(96, dtype=torch.int64), False
    for step in range(6):
        few = torch.randn(3, 24, generator=generator)
        mix = torch.rand(16, 3, generator=generator)
        z = mix @ few / 5
        before = engine.weights()
        loss = reference.step(z, nobody, 3e-3)
        engine.step(z)
        assert float(engine.losses[step]) == pytest.approx(loss, rel=1e-2)
        silent = np.diff(engine._pairs.starts) == 0
        after = engine.weights()
        assert silent.any()
        if optimizer == "sparse_adam":
            assert torch.equal(before["W_dec"][silent], after["W_dec"][silent])
            assert torch.equal(before["W_enc"][:, silent], after["W_enc"][:, silent])
        elif (touched > 0)[silent].any():
            drift = (before["W_enc"] - after["W_enc"])[:, silent & (touched > 0).numpy()]
            assert (drift.abs().amax(0) > 0).all()
            drifted = True
        touched += torch.from_numpy(~silent)
    if optimizer == "sparse_adam":
        assert torch.equal(engine.state_dict()["updates"].long(), touched)
        assert touched.float().std() > 1  # some latents were updated more often than others
    else:
        assert drifted
    for name, want in reference.weights.items():
        torch.testing.assert_close(engine.weights()[name].double(), want, rtol=0, atol=1.5e-3)


def test_auxk_reaches_encoder_and_decoder_of_dead_latents() -> None:
    spec = StepSpec("topk", 64, 16, 64, 4, 0.0, 1e9, 8, 1 / 32, dead_after=100)
    weights = initial_weights(spec, 0)
    weights["b_enc"][:32] = -0.3  # these lose every contest, yet can be positive for AuxK
    weights["W_enc"][:, :32] *= 8
    engine = CpuTopK(spec, weights, torch.full((2,), 1e-3))
    engine._state["since_fired"][:32] = 1000
    engine.step(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 4)
    for name in ("W_enc", "W_dec"):
        assert np.abs(getattr(engine._grad, name)[:32]).max() > 0, name
    counts = np.diff(engine._pairs.starts)
    silent = torch.from_numpy(counts == 0)
    without = CpuTopK(
        StepSpec("topk", 64, 16, 64, 4, 0.0, 1e9, 0, 1 / 32, dead_after=100),
        weights,
        torch.full((2,), 1e-3),
    )
    without._state["since_fired"][:32] = 1000
    without.step(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 4)
    assert torch.equal(without.weights()["W_enc"][:, silent], weights["W_enc"][:, silent])


def test_the_bfloat16_copies_are_the_weights_rounded() -> None:
    spec = StepSpec("topk", 32, 8, 40, 4, 0.0, 1.0, 0, 0.0, dead_after=10**9)
    engine = CpuTopK(spec, initial_weights(spec, 0), torch.full((5,), 1e-2))
    for seed in range(5):
        engine.step(torch.randn(32, 8, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(engine._W_enc[:, :8], engine._state["W_enc"].bfloat16())
    bias = engine._W_enc[:, 8:].float().sum(1)
    torch.testing.assert_close(bias, engine._state["b_enc"], rtol=2**-16, atol=0)
    copy = unpacked(engine._W_dec, spec.d_in)
    assert np.array_equal(copy, engine._state["W_dec"].bfloat16().double().numpy())


@pytest.mark.parametrize("engine_of", [CpuTopK, SparseEngine])
@pytest.mark.parametrize("batch", [300, 2100])
def test_the_number_of_threads_changes_no_byte(
    batch: int, engine_of: type[CpuTopK] | type[SparseEngine]
) -> None:
    spec = StepSpec("topk", batch, 640, 2000, 6, 0.0, 1.0, 6, 1 / 32, dead_after=batch)
    states = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            weights = initial_weights(spec, 0)
            weights["W_enc"][:, :40] *= 0.01  # so that these are soon dead, for AuxK to choose
            engine = engine_of(spec, weights, torch.full((4,), 1e-2))
            dead = []
            for seed in range(4):
                z = torch.randn(batch, 640, generator=torch.Generator().manual_seed(seed)) / 25
                dead.append(int((engine._state["since_fired"] >= spec.dead_after).sum()))
                engine.step(z)
            assert max(dead) >= 10
            states.append(engine.state_dict())
    finally:
        torch.set_num_threads(before)
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in other)
