"""Optimisers of the CPU and dense engines against one float64 reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconstruct.sae.engines.cpu.adam import Gradient, RowAdam, bits_of, rows_of
from deconstruct.sae.engines.dense_adam import DenseAdam
from deconstruct.sae.spec import SHARED, StepSpec, pace_of

RATES = [0.01, 0.02, 0.02, 0.005]


def spec_of(d_in: int, d_sae: int, optimizer: str = "sparse_adam") -> StepSpec:
    return StepSpec("topk", 8, d_in, d_sae, 1, 0.0, 1.0, 1, 0.03, 100, optimizer=optimizer)


def reference(
    weights: Mapping[str, torch.Tensor], gradients: list[Mapping[str, torch.Tensor]], spec: StepSpec
) -> dict[str, torch.Tensor]:
    """Adam, latent by latent, each with a count of its own; parameters of no latent plainly."""
    (beta1, beta2), epsilon = spec.betas, spec.epsilon
    found = {name: w.double().clone() for name, w in weights.items()}
    moments = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in found.items()}
    updates = [0] * spec.d_sae

    def move(name: str, at: object, gradient: torch.Tensor, rate: float, count: int) -> None:
        mean, square = (moment[at] for moment in moments[name])
        mean += (1 - beta1) * (gradient - mean)
        square += (1 - beta2) * (gradient**2 - square)
        moments[name][0][at], moments[name][1][at] = mean, square
        upright = mean / (1 - beta1**count), square / (1 - beta2**count)
        found[name][at] -= rate * pace_of(spec, name) * upright[0] / (upright[1].sqrt() + epsilon)

    for step, now in enumerate(gradients):
        for f in range(spec.d_sae):
            of_latent = {name: now[name][f] for name in now if name not in SHARED}
            if spec.optimizer == "adam" or any(bool(g.any()) for g in of_latent.values()):
                updates[f] += 1
                for name, gradient in of_latent.items():
                    move(name, f, gradient.double(), RATES[step], updates[f])
        for name in SHARED:
            if name in now:
                move(name, ..., now[name].double(), RATES[step], step + 1)
    return found


@pytest.mark.parametrize("optimizer", ["sparse_adam", "adam"])
@settings(deadline=None, max_examples=15)
@given(
    d_in=st.integers(1, 9), d_sae=st.integers(1, 12), seed=st.integers(0, 99), skip=st.booleans()
)
def test_both_engines_optimisers_are_the_reference(
    optimizer: str, d_in: int, d_sae: int, seed: int, skip: bool
) -> None:
    """sparse_adam: latents without a gradient keep weights and moments, and each latent's bias
    corrections are its own; adam: all move, by the published rule."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d_sae, d_in), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    if skip:
        shapes["W_skip"] = (3, d_in)
    spec = spec_of(d_in, d_sae, optimizer)
    weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    gradients = []
    for _ in RATES:
        fires = torch.rand(d_sae, generator=draw) < 0.5
        now = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        for name in ("W_enc", "W_dec", "b_enc"):
            now[name][~fires] = 0
        gradients.append(now)
    expected = reference(weights, gradients, spec)

    state = {name: w.clone() for name, w in weights.items()}
    low = weights["W_enc"].bfloat16()
    rows = RowAdam(spec, RATES, state)
    leaves = {n: (w.T if n == "W_enc" else w).contiguous().clone() for n, w in weights.items()}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    dense = DenseAdam(spec, RATES, leaves)
    for step, now in enumerate(gradients):
        given_ = {
            name: Gradient(rows_of(g, len(g) if name not in SHARED or g.dim() > 1 else 1))
            for name, g in now.items()
        }
        given_["W_enc"] = Gradient(given_["W_enc"].rows, low=bits_of(low))
        rows.step(step, now["W_enc"].any(1), 1.0, given_)
        for name, leaf in leaves.items():
            leaf.grad = (now[name].T if name == "W_enc" else now[name]).clone()
        dense.step(step)
    for name, want in expected.items():
        torch.testing.assert_close(state[name].double(), want, rtol=1e-4, atol=1e-5)
        own = leaves[name].detach().T if name == "W_enc" else leaves[name].detach()
        torch.testing.assert_close(own.double(), want, rtol=1e-4, atol=1e-5)
    assert torch.equal(low, state["W_enc"].bfloat16())
    assert torch.equal(dense.updates, state["updates"])


def test_rows_of_unit_norm_keep_it() -> None:
    """The gradient's part along a row is left out before Adam sees it."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(6, 5, generator=draw), dim=1)
    spec = spec_of(5, 6)
    state = {"W_dec": rows.clone()}
    gradient = torch.randn(6, 5, generator=draw)
    along = (gradient * rows).sum(1)
    optimizer = RowAdam(spec, RATES, state)
    every = torch.ones(6, dtype=torch.bool)
    optimizer.step(0, every, 0.5, {"W_dec": Gradient(gradient.numpy(), along.numpy())})
    across = 0.5 * (gradient - along[:, None] * rows)
    torch.testing.assert_close(state["W_dec.m"], 0.1 * across, rtol=1e-5, atol=1e-7)
    moved = torch.nn.functional.normalize(rows - RATES[0] * across.sign(), dim=1)
    torch.testing.assert_close(state["W_dec"], moved, rtol=1e-4, atol=1e-4)
    assert np.allclose(state["W_dec"].norm(dim=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_no_gradient_no_step(name: str) -> None:
    state = {name: torch.ones(4, 3) if name == "W_enc" else torch.ones(3)}
    optimizer = RowAdam(spec_of(3, 4), RATES, state)
    zero = np.zeros((4, 3) if name == "W_enc" else (1, 3), np.float32)
    optimizer.step(0, torch.zeros(4, dtype=torch.bool), 1.0, {name: Gradient(zero)})
    assert torch.equal(state[name], torch.ones_like(state[name]))
