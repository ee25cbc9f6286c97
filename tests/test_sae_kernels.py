"""The CPU kernels and the whole TopK step against plain dense references in float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deconstruct.sae import cpu_kernels as kernels
from deconstruct.sae.cpu import CpuTopK, fold_columns
from deconstruct.sae.engine import StepSpec, initial_weights

SIZES = {"n": st.integers(1, 20), "d_in": st.integers(1, 40), "d_sae": st.integers(1, 700)}


def bf16_matrix(n: int, d_sae: int, seed: int, coarse: bool) -> torch.Tensor:
    """Random bfloat16s; ``coarse`` makes many ties, and rows without a positive entry."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n, d_sae, generator=generator)
    if coarse:
        pre = (pre * 2).round() / 2
        pre[::3] = -pre[::3].abs()
    return pre.bfloat16()


def select(pre: torch.Tensor, k: int) -> tuple[np.ndarray, torch.Tensor]:
    latents = np.full((len(pre), k), 99, np.int32)
    bits = np.full((len(pre), k), 99, np.int16)
    columns = fold_columns(pre.shape[1], k)
    kernels.select_topk(pre.view(torch.int16).numpy(), k, columns, latents, bits)
    return latents, torch.from_numpy(bits).view(torch.bfloat16).float()


@settings(deadline=None, max_examples=60)
@given(
    n=SIZES["n"],
    d_sae=SIZES["d_sae"],
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    coarse=st.booleans(),
)
def test_selected_are_the_k_largest_positive(
    n: int, d_sae: int, share: float, seed: int, coarse: bool
) -> None:
    k = max(1, round(share * d_sae))  # from 1 to d_sae
    pre = bf16_matrix(n, d_sae, seed, coarse)
    latents, values = select(pre, k)
    expected = pre.float().relu().topk(k, dim=1).values
    assert torch.equal(values.sort(dim=1, descending=True).values, expected)
    for row in range(n):
        fires = values[row] > 0
        chosen = latents[row][fires.numpy()]
        assert len(set(chosen.tolist())) == len(chosen)
        assert torch.equal(pre[row].float()[torch.from_numpy(chosen).long()], values[row][fires])


def sparse_case(
    n: int, d_in: int, d_sae: int, k: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random arrays of a step, and the dense activations [n, d_sae] that they stand for."""
    draw = np.random.default_rng(seed)
    latents = np.stack([draw.permutation(d_sae)[:k] for _ in range(n)]).astype(np.int32)
    values = np.maximum(draw.normal(size=(n, k)), 0).astype(np.float32)
    values[draw.random(n) < 0.2] = 0
    dense = np.zeros((n, d_sae))
    np.put_along_axis(dense, latents.astype(np.int64), values, axis=1)
    arrays = {
        "W_dec": draw.normal(size=(d_sae, d_in)),
        "b_dec": draw.normal(size=d_in),
        "x": draw.normal(size=(n, d_in)),
        "centred": draw.normal(size=(n, d_in)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays | {"latents": latents, "values": values}, dense


@settings(deadline=None, max_examples=40)
@given(n=SIZES["n"], d_in=SIZES["d_in"], d_sae=st.integers(1, 60), seed=st.integers(0, 99))
def test_decoding_and_gradients(n: int, d_in: int, d_sae: int, seed: int) -> None:
    k = 1 + seed % d_sae
    a, dense = sparse_case(n, d_in, d_sae, k, seed)
    error, squared = np.empty((n, d_in), np.float32), np.empty(n, np.float32)
    slope = np.empty((n, k), np.float32)
    kernels.decode_and_slope(
        a["W_dec"], a["b_dec"], a["latents"], a["values"], a["x"], error, slope, squared
    )
    W_dec = a["W_dec"].astype(np.float64)
    expected = dense @ W_dec + a["b_dec"] - a["x"]
    np.testing.assert_allclose(error, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(squared, (expected**2).sum(1), rtol=1e-4, atol=1e-4)
    dense_slope = 2 / n * expected @ W_dec.T * (dense > 0)
    own = np.take_along_axis(dense_slope, a["latents"].astype(np.int64), axis=1)
    np.testing.assert_allclose(slope, own, rtol=1e-3, atol=1e-3)

    starts, pairs = np.empty(d_sae + 1, np.int32), np.empty(n * k, np.int32)
    kernels.group_by_latent(a["latents"], a["values"], d_sae, starts, pairs)
    assert np.array_equal(np.diff(starts), (dense > 0).sum(0))
    for f in range(d_sae):
        mine = pairs[starts[f] : starts[f + 1]]
        assert np.array_equal(mine, np.sort(mine))
        assert (a["latents"].reshape(-1)[mine] == f).all()

    grads = [np.full((d_sae, d_in), 7, np.float32), np.full((d_sae, d_in), 7, np.float32)]
    bias = np.full(d_sae, 7, np.float32)
    kernels.weight_gradients(starts, pairs, a["values"], slope, error, a["centred"], *grads, bias)
    np.testing.assert_allclose(grads[0], 2 / n * dense.T @ expected, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(grads[1], dense_slope.T @ a["centred"], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(bias, dense_slope.sum(0), rtol=1e-3, atol=2e-3)


def decided(pre: torch.Tensor, k: int) -> bool:
    """Whether every row's k-th place is won by more than bfloat16 may round off.

    Two latents that are equal in bfloat16 may both take it: there is no one right step then.
    """
    if k == pre.shape[1]:
        return True
    ranked = pre.relu().sort(dim=1, descending=True).values
    won, lost = ranked[:, k - 1], ranked[:, k]
    return bool(((won - lost > 0.01 * won) | (won == 0)).all())


def reference_step(
    spec: StepSpec,
    weights: dict[str, torch.Tensor],
    z: torch.Tensor,
    dead: torch.Tensor,
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]],
    done: int,
    rate: float,
) -> tuple[dict[str, torch.Tensor], float]:
    """One step in dense float64 by autograd: TopK, AuxK, projection, clipping, Adam, unit norm."""
    p = {name: w.double().requires_grad_() for name, w in weights.items()}
    z = z.double()
    # The engine multiplies in bfloat16; so does its reference, for the same choice of latents.
    low = (z - p["b_dec"]).bfloat16().float() @ p["W_enc"].detach().bfloat16().float()
    low = (low + p["b_enc"].detach().bfloat16().float()).bfloat16().double()
    pre = (z - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    pre = pre + (low - pre).detach()

    def top(of: torch.Tensor, k: int) -> torch.Tensor:
        kept = of.relu().topk(k, dim=1)
        return torch.zeros_like(of).scatter(1, kept.indices, kept.values)

    assume(decided(low, spec.k))
    error = top(pre, spec.k) @ p["W_dec"] + p["b_dec"] - z
    squared = error.square().sum(1).mean()
    loss = squared
    n_dead = int(dead.sum())
    if n_dead and spec.k_aux:
        assume(decided(low.masked_fill(~dead, 0), min(spec.k_aux, n_dead)))
        aux = top(pre.masked_fill(~dead, 0), min(spec.k_aux, n_dead)) @ p["W_dec"]
        weight = spec.aux_coefficient * min(1.0, n_dead / spec.k_aux)
        loss = loss + weight * (aux + error.detach()).square().sum(1).mean()
    loss.backward()
    grads = {name: w.grad.clone() for name, w in p.items()}
    W_dec = p["W_dec"].detach()
    grads["W_dec"] -= (grads["W_dec"] * W_dec).sum(1, keepdim=True) * W_dec
    norm = torch.sqrt(sum(g.square().sum() for g in grads.values()))
    clip = min(1.0, spec.clip_norm / float(norm))
    new = {}
    for name, grad in grads.items():
        g = clip * grad
        first, second = moments.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
        first = spec.betas[0] * first + (1 - spec.betas[0]) * g
        second = spec.betas[1] * second + (1 - spec.betas[1]) * g**2
        moments[name] = (first, second)
        m_hat = first / (1 - spec.betas[0] ** (done + 1))
        v_hat = second / (1 - spec.betas[1] ** (done + 1))
        new[name] = p[name].detach() - rate * m_hat / (v_hat.sqrt() + spec.epsilon)
    new["W_dec"] /= new["W_dec"].norm(dim=1, keepdim=True)
    return new, float(squared.detach())


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(2, 24),
    d_in=st.integers(2, 24),
    d_sae=st.integers(2, 80),
    seed=st.integers(0, 999),
    dead_share=st.sampled_from([0.0, 0.3, 1.0]),
    k_aux=st.integers(0, 12),
    clip_norm=st.sampled_from([0.05, 1e9]),
)
def test_whole_step(
    n: int, d_in: int, d_sae: int, seed: int, dead_share: float, k_aux: int, clip_norm: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = 1 + seed % d_sae
    spec = StepSpec(
        "topk",
        n,
        d_in,
        d_sae,
        k,
        0.0,
        clip_norm,
        min(k_aux, d_sae),
        0.5,
        dead_after=1000,
        epsilon=1e-4,
    )
    weights = initial_weights(spec, seed)
    weights["b_enc"] += 0.1 * torch.randn(d_sae, generator=generator)
    engine = CpuTopK(spec, weights, torch.full((2,), 1e-2))
    dead = torch.rand(d_sae, generator=generator) < dead_share
    engine._state["since_fired"][dead] = 10_000
    z = torch.randn(n, d_in, generator=generator) / d_in**0.5
    expected, loss = reference_step(spec, weights, z, dead, {}, 0, 1e-2)
    engine.step(z)
    found = engine.weights()
    assert abs(float(engine.losses[0]) - loss) < 1e-3 * loss + 1e-6
    for name, want in expected.items():
        # Adam's first step is rate * g / (|g| + epsilon): it magnifies what bfloat16 rounds off
        # gradients near epsilon, hence a share of the elements may differ by part of a step.
        off = (found[name].double() - want).abs()
        assert float(off.max()) < 2.1e-2, name
        assert float((off > 5e-4).float().mean()) < 0.12, name
    fires = found["W_dec"].norm(dim=1)
    torch.testing.assert_close(fires, torch.ones(d_sae))


def test_auxk_reaches_encoder_and_decoder_of_dead_latents() -> None:
    spec = StepSpec("topk", 64, 16, 64, 4, 0.0, 1e9, 8, 1 / 32, dead_after=100)
    weights = initial_weights(spec, 0)
    weights["b_enc"][:32] = -1.0  # these lose every contest, yet can be positive for AuxK
    weights["W_enc"][:, :32] *= 8
    engine = CpuTopK(spec, weights, torch.full((2,), 1e-3))
    engine._state["since_fired"][:32] = 1000
    engine.step(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 4)
    for name in ("W_enc", "W_dec"):
        assert engine._grad[name][:32].abs().max() > 0, name
    counts = np.diff(engine._starts)
    silent = torch.from_numpy(counts == 0)
    without = CpuTopK(
        StepSpec("topk", 64, 16, 64, 4, 0.0, 1e9, 0, 1 / 32, dead_after=100),
        weights,
        torch.full((2,), 1e-3),
    )
    without._state["since_fired"][:32] = 1000
    without.step(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 4)
    assert without._grad["W_enc"][silent].abs().max() == 0


def test_the_bfloat16_copy_is_rounded_to_nearest_even() -> None:
    spec = StepSpec("topk", 32, 8, 40, 4, 0.0, 1.0, 0, 0.0, dead_after=10**9)
    engine = CpuTopK(spec, initial_weights(spec, 0), torch.full((5,), 1e-2))
    for seed in range(5):
        engine.step(torch.randn(32, 8, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(engine._shadow, engine._state["W_enc"].bfloat16())
