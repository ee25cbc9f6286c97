"""The sparse step for a varying number of active latents against dense float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deconstruct.common.cores import on_one_thread
from deconstruct.sae.architectures import base, gated
from deconstruct.sae.architectures.base import Inputs
from deconstruct.sae.architectures.pairs import Pairs, keep_largest
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.cpu import sparse
from deconstruct.sae.engines.cpu.blocks import Encoder, floats, ordered, pairs_of, with_bias
from deconstruct.sae.engines.cpu.kernels import select
from deconstruct.sae.engines.cpu.pairs import ActivePairs
from deconstruct.sae.engines.cpu.sparse import SparseEngine
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 12),
    d_sae=st.integers(1, 1500),
    seed=st.integers(0, 99),
    coarse=st.booleans(),
    shift=st.floats(-3, 3),
)
def test_pairs_above_an_edge(n: int, d_sae: int, seed: int, coarse: bool, shift: float) -> None:
    """All entries above their column's edge, none else, whatever its sign; ties at it are below."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n, d_sae, generator=generator)
    edge = (shift + torch.randn(d_sae, generator=generator)).numpy()
    if coarse:  # many entries lie on an edge; some rows are zero, of either sign
        pre, edge = (pre * 2).round() / 2, np.round(edge * 2) / 2
        pre[::3] *= 0
    low = pre.bfloat16()
    places, values = np.zeros((n, d_sae), np.int32), np.zeros((n, d_sae), np.int16)
    counts = np.zeros(n, np.int32)
    bits = low.view(torch.int16).numpy()
    select.select_above(0, n, bits, ordered(edge), places, values, counts)
    expected = low.double().numpy() > edge.astype(np.float32).astype(np.float64)
    for row in range(n):
        mine = places[row, : counts[row]]
        assert np.array_equal(np.sort(mine), np.flatnonzero(expected[row]))
        assert np.array_equal(floats(values[row, : counts[row]]), low[row].float().numpy()[mine])


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 60), seed=st.integers(0, 99), coarse=st.booleans())
def test_the_largest_of_a_batch(count: int, seed: int, coarse: bool) -> None:
    draw = np.random.default_rng(seed)
    pre = np.abs(draw.normal(size=40)).astype(np.float32)
    if coarse:
        pre = np.ceil(pre * 2) / 2
    tokens = np.sort(draw.integers(0, 6, 40)).astype(np.int32)
    offsets = np.searchsorted(tokens, np.arange(7)).astype(np.int64)
    pairs = Pairs(offsets, draw.integers(0, 9, 40).astype(np.int32), tokens, pre)
    kept, least = keep_largest(pairs, count)
    assert np.array_equal(np.sort(kept.pre)[::-1], np.sort(pre)[::-1][:count])
    assert least == kept.pre.min()
    assert np.array_equal(np.diff(kept.offsets), np.bincount(kept.tokens, minlength=6))
    on_edge = np.flatnonzero(pre == least)[: (kept.pre == least).sum()]
    assert np.array_equal(kept.tokens[kept.pre == least], tokens[on_edge])  # the earlier ones


class Recorded(SparseEngine):
    """Keeps the gradients as they are before projection and clipping."""

    def _update(self, done: int) -> None:
        self.found = {name: g.double().clone() for name, g in self._grad.items()}
        self.found["W_enc"] = self.found["W_enc"].T
        super()._update(done)


def spec_of(architecture: str, n: int, d_in: int, d_sae: int, k: int, **more: object) -> StepSpec:
    values = {
        "architecture": architecture, "batch": n, "d_in": d_in, "d_sae": d_sae, "k": k,
        "penalty": 0.05, "clip_norm": 1e9, "k_aux": min(5, d_sae), "aux_coefficient": 0.5,
        "dead_after": 1000, "bandwidth": 0.3,
    }  # fmt: skip
    if architecture == "matryoshka":
        values["prefixes"] = tuple(sorted({max(1, d_sae // 3), max(1, d_sae // 2), d_sae}))
    return StepSpec(**(values | more))


def as_the_engine(inputs: torch.Tensor, W_enc: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Pre-activations in bfloat16 by the engine's own product: near an edge, one bit decides."""
    shadow = torch.cat([W_enc.T, torch.zeros(len(bias), 2)], dim=1).bfloat16()
    with_bias(shadow, bias)
    low = torch.cat([inputs, torch.ones(len(inputs), 2)], dim=1).bfloat16()
    return on_one_thread(lambda: low @ shadow.T)


def reference(
    spec: StepSpec, weights: dict[str, torch.Tensor], inputs: Inputs
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Dense float64 gradients, with pre-activations rounded as the engine rounds them."""
    p = {name: w.double().requires_grad_() for name, w in weights.items()}
    bias = weights.get("b_gate", weights.get("b_enc"))
    moved = inputs.z.float() if spec.transcoder else inputs.z.float() - weights["b_dec"]
    low = as_the_engine(moved, weights["W_enc"], bias)
    exact = moved.double() @ p["W_enc"].detach() + weights.get("b_gate", weights.get("b_enc"))

    product = base.centred_product
    with pytest.MonkeyPatch.context() as patch:
        rounding = low.double() - exact.detach()  # a constant to the gradient
        for module in (base, gated):
            patch.setattr(module, "centred_product", lambda *args: product(*args) + rounding)
        terms = ARCHITECTURES[spec.architecture].loss(p, inputs, spec)
    terms.loss.backward()
    grads = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in p.items()}
    return grads, terms


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "jumprelu tanh"])
@settings(deadline=None, max_examples=12)
@given(
    n=st.integers(2, 20),
    d_in=st.integers(2, 20) | st.just(64),
    d_sae=st.integers(2, 90),
    k_of=st.sampled_from(["one", "some", "all"]),
    seed=st.integers(0, 999),
    dead_share=st.sampled_from([0.0, 0.4, 1.0]),
    form=st.sampled_from(["autoencoder", "transcoder", "skip"]),
)
def test_gradients_are_those_of_the_dense_loss(
    architecture: str,
    n: int,
    d_in: int,
    d_sae: int,
    k_of: str,
    seed: int,
    dead_share: float,
    form: str,
) -> None:
    """Every architecture, k = 1 to d_sae, none, some or all latents dead."""
    architecture, _, sparsity = architecture.partition(" ")
    k = {"one": 1, "some": max(1, d_sae // 5), "all": d_sae}[k_of]
    d_out = 0 if form == "autoencoder" else 1 + seed % 9
    spec = spec_of(
        architecture, n, d_in, d_sae, k, d_out=d_out, skip=form == "skip", sparsity=sparsity or "l0"
    )
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    weights = initial_weights(spec, seed)
    for name in weights:
        if name not in ("W_enc", "W_dec") or architecture == "relu":
            weights[name] = weights[name] + 0.2 * random(*weights[name].shape)
    if architecture == "jumprelu":
        weights["threshold"] = weights["threshold"].abs()
    z = random(n, d_in) / d_in**0.5
    target = random(n, d_out) if d_out else z
    dead = torch.rand(d_sae, generator=generator) < dead_share
    engine = Recorded(spec, weights, torch.full((1,), 1e-3))
    engine._state["since_fired"][dead] = 10_000
    penalty = float(engine._control.penalty(0))
    inputs = Inputs(z.double(), target.double(), dead, penalty)
    expected, terms = reference(spec, weights, inputs)
    if architecture in ("topk", "batchtopk", "matryoshka"):
        assume(decided(spec, weights, inputs, terms))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "DENSE_ABOVE", 10.0)
        engine.step(z, target if d_out else None)
    assert not engine._state["dense"]
    close = 2e-2 if engine._packed else 2e-3  # that form multiplies by bfloat16s
    squared = float(terms.squared)
    assert abs(float(engine.losses[0]) - squared) < 0.1 * close * (1 + squared)
    for name, want in expected.items():
        size = float(want.abs().max()) + 1e-3
        off = float((engine.found[name] - want).abs().max())
        assert off < close * size, (name, off, size)
    fired = (terms.active > 0).any(0)
    assert torch.equal(engine._state["since_fired"] == 0, fired)


def decided(spec, weights, inputs, terms) -> bool:
    """No tie decides which pairs are kept, in the batch or among the dead."""
    bias = weights["b_enc"]
    moved = inputs.z.float() if spec.transcoder else inputs.z.float() - weights["b_dec"]
    low = as_the_engine(moved, weights["W_enc"], bias).float()

    def clear(rows: torch.Tensor, k: int) -> bool:
        ranked = rows.relu().sort(dim=1, descending=True).values
        if k >= ranked.shape[1]:
            return True
        return bool(((ranked[:, k - 1] > ranked[:, k]) | (ranked[:, k - 1] == 0)).all())

    whole = low if spec.architecture == "topk" else low.reshape(1, -1)
    k = spec.k if spec.architecture == "topk" else spec.k * len(low)
    n_dead = int(inputs.dead.sum())
    return clear(whole, k) and (
        not n_dead or clear(low.masked_fill(~inputs.dead, 0), min(spec.k_aux, n_dead))
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_dense_step_is_the_same_step(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken where pairs are many; from one state both lead to nearly the same weights."""
    spec = spec_of(architecture, 256, 24, 96, 4, clip_norm=1.0, k_aux=4)
    weights = initial_weights(spec, 0)
    if architecture == "jumprelu":
        weights["threshold"] += 0.2
    z = torch.randn(256, 24, generator=torch.Generator().manual_seed(1)) / 24**0.5
    ends = []
    for share in (10.0, 0.0):
        monkeypatch.setattr(sparse, "DENSE_ABOVE", share)
        engine = SparseEngine(spec, weights, torch.full((6,), 1e-3))
        engine._state["since_fired"][:20] = 10_000
        for _ in range(6):
            engine.step(z)
        assert bool(engine._state["dense"]) == (share == 0.0)
        ends.append(engine)
    torch.testing.assert_close(ends[0].losses, ends[1].losses, rtol=2e-2, atol=0)
    for name, weight in ends[0].weights().items():
        off = (weight - ends[1].weights()[name]).abs()
        assert float((off > 2e-3).float().mean()) < 0.05, name
    assert ends[0].firing() == pytest.approx(ends[1].firing(), rel=0.05)


def test_batchtopk_finds_its_edge_again_when_the_data_jump() -> None:
    """Each step keeps exactly n * k pairs, though the last step's edge is no guide to this one."""
    spec = spec_of("batchtopk", 64, 16, 2000, 3, k_aux=0)
    engine = SparseEngine(spec, initial_weights(spec, 0), torch.full((6,), 1e-4))
    for step, size in enumerate([1, 30, 0.01, 1, 1000, 1e-4]):
        generator = torch.Generator().manual_seed(step)
        engine.step(size * torch.randn(64, 16, generator=generator))
        assert engine.firing()[0] == 3.0
        assert float(engine._state["edge"]) > 0


def test_nothing_fires() -> None:
    spec = spec_of("batchtopk", 8, 6, 40, 3)
    weights = initial_weights(spec, 0) | {"b_enc": torch.full((40,), -100.0)}
    engine = SparseEngine(spec, weights, torch.full((2,), 1e-3))
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    engine.step(z)
    assert engine.firing()[0] == 0
    assert float(engine.losses[0]) == pytest.approx(float(z.square().sum(1).mean()), rel=1e-5)
    assert all(torch.isfinite(w).all() for w in engine.weights().values())


def test_the_encoder_gives_what_a_product_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    W, bias = torch.randn(70, 20, generator=generator), torch.randn(70, generator=generator)
    x = torch.randn(1100, 20, generator=generator)  # three blocks, the last one short
    shadow = torch.cat([W, torch.zeros(70, 2)], dim=1).bfloat16()
    with_bias(shadow, bias)
    encoder = Encoder(shadow, torch.cat([x, torch.ones(1100, 2)], dim=1).bfloat16())
    aux = ActivePairs(1100, 70, 3)
    aux.allowed[10:] = 0
    edges = ordered(np.full(70, 2.0, np.float32))
    pairs = encoder.above(edges, 10**6, aux)
    low = (x.bfloat16().float() @ W.bfloat16().float().T + bias).bfloat16().float()
    dense = torch.zeros(1100, 70)
    dense[torch.from_numpy(pairs.tokens).long(), torch.from_numpy(pairs.latents).long()] = (
        torch.from_numpy(pairs.pre)
    )
    torch.testing.assert_close(dense, torch.where(low > 2, low, 0.0), rtol=0.02, atol=0.02)
    largest = low[:, :10].relu().topk(3).values.sort().values
    torch.testing.assert_close(
        torch.from_numpy(aux.values).sort().values, largest, rtol=0.02, atol=0.02
    )
    assert encoder.above(edges, 100) is None
    five = ActivePairs(1100, 70, 5)
    encoder.largest([five])
    rows = pairs_of(five)
    assert (np.diff(rows.offsets) <= 5).all()
