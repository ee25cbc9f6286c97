"""The fused TopK step on a GPU against the reference of the CPU's, and against the CPU's itself.

On a CUDA device the kernels run there; without one, in Triton's interpreter, on small shapes;
without Triton, nothing here runs and the reason is printed.
"""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.alone import ON_GPU
from support.cuda import DEVICE, REASON
from support.sae_reference import TRIED, Reference, Trial
from torch import Tensor

from deconstruct.sae.engines.cpu.topk import CpuTopK
from deconstruct.sae.engines.cuda.first_forward import by_token
from deconstruct.sae.engines.cuda.options import GpuOptions, Tiling
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
STEPS = 8


def step_spec(
    batch: int,
    d_in: int,
    d_sae: int,
    k: int,
    clip_norm: float = math.inf,
    k_aux: int = 0,
    aux_coefficient: float = 1 / 32,
    dead_after: int = 10_000_000,
) -> StepSpec:
    return StepSpec(
        "topk", batch, d_in, d_sae, k, 0.0, clip_norm, k_aux, aux_coefficient, dead_after
    )


def weights(spec: StepSpec, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    decoder = torch.randn(spec.d_sae, spec.d_in, generator=rng)
    decoder /= decoder.norm(dim=1, keepdim=True)
    return {
        "W_enc": decoder.mT + 0.1 * torch.randn(spec.d_in, spec.d_sae, generator=rng),
        "b_enc": 0.1 * torch.randn(spec.d_sae, generator=rng),
        "W_dec": decoder,
        "b_dec": 0.1 * torch.randn(spec.d_in, generator=rng),
    }


def batch(spec: StepSpec, seed: int = 1) -> Tensor:
    return torch.randn(spec.batch, spec.d_in, generator=torch.Generator().manual_seed(seed))


def engine(
    spec: StepSpec, changed: dict[str, Tensor] | None = None, options: GpuOptions | None = None
) -> FusedTopK:
    rates = torch.linspace(1e-3, 5e-4, STEPS)
    return FusedTopK(spec, {**weights(spec), **(changed or {})}, rates, DEVICE, options)


def snapshot(found: FusedTopK) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in found.state_dict().items()}


def chosen(pre: Tensor, k: int) -> Tensor:
    """The mask of each row's k largest positive entries, ties to the lower index."""
    key = pre.float().clamp(min=0)
    order = key.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(key).scatter(1, order, 1.0).bool() & (key > 0)


def selection(found: FusedTopK) -> Tensor:
    """The kernels' (index, value) as a dense [B, d_sae] tensor."""
    spec = found.spec
    dense = torch.zeros(spec.batch, spec.d_sae + 1, device=found.device)
    index, value, _ = by_token(found._buffers)
    rows = torch.arange(spec.batch, device=found.device)[:, None].expand_as(index)
    real = index < spec.d_sae
    assert len(set(zip(rows[real].tolist(), index[real].tolist(), strict=True))) == real.sum()
    assert value[~real].abs().sum() == 0
    return dense.scatter(1, index, value)[:, :-1]


def gradients(found: FusedTopK) -> dict[str, Tensor]:
    """The gradients of a first step, read back from Adam's first moment."""
    state, beta = snapshot(found), found.spec.betas[0]
    grads = {n: state[f"{n}.m"].double().cpu() / (1 - beta) for n in weights(found.spec)}
    grads["W_enc"] = grads["W_enc"].mT
    return grads


def check_close(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    gap = (found.double().cpu() - wanted.double().cpu()).norm() / wanted.double().norm().clamp(1e-9)
    assert gap < tolerance, f"{name}: relative error {gap:.2e}"


@settings(deadline=None, max_examples=8, derandomize=True)
@given(n=st.integers(2, 12), d_in=st.integers(2, 24), d_sae=st.integers(2, 40), **TRIED)
def test_whole_step(n: int, d_in: int, d_sae: int, **tried: Any) -> None:
    """As the CPU engine's test of the same name: gradients, loss, counts and new weights."""
    trial = Trial.of(n, d_in, d_sae, **tried)
    spec, dead = trial.spec, trial.dead
    reference = Reference(spec, dict(trial.weights))
    wanted, touched, loss = reference.gradients(trial.z, dead)
    reference.step(trial.z, dead, 1e-3)
    norm = sum(float(g.square().sum()) for g in wanted.values()) ** 0.5
    clip = min(1.0, spec.clip_norm / norm)

    found = FusedTopK(spec, trial.weights, torch.full((2,), 1e-3), DEVICE)
    found.load_state_dict({**snapshot(found), "since_fired": 10_000 * dead.long()})
    found.step(trial.z)
    assert found.losses[0].item() == pytest.approx(loss, rel=1e-2, abs=1e-6)
    for name, grad in gradients(found).items():
        check_close(grad, clip * wanted[name], 2e-2, name)
    after = snapshot(found)
    assert torch.equal(after["updates"] > 0, touched | (spec.optimizer == "adam"))
    fired = selection(found).cpu().any(0)
    assert torch.equal(after["since_fired"], torch.where(fired, 0, 10_000 * dead + n))
    assert found.firing()[1] == float((after["since_fired"] >= 1000).float().mean())
    reference.check(found.weights(), rate=1e-3, close=0.1)


SHAPES = [(12, 24, 72, 5), (6, 16, 32, 32)]
if ON_GPU:
    SHAPES += [(512, 768, 4096, 32), (256, 100, 40000, 64), (128, 1024, 131072, 256)]
    SHAPES += [(64, 4096, 8192, 512)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_choice_is_the_largest_of_the_product(shape: tuple[int, int, int, int]) -> None:
    spec = step_spec(*shape)
    found, x = engine(spec), batch(spec)
    found.step(x)
    start = weights(spec)
    pre = (x - start["b_dec"]).double() @ start["W_enc"].double() + start["b_enc"].double()
    check_close(found._buffers.pre, pre, 1e-2, "pre")
    mask = chosen(found._buffers.pre, spec.k)
    assert torch.equal(selection(found), torch.where(mask, found._buffers.pre.float(), 0.0))


@pytest.mark.parametrize("optimizer", ["sparse_adam", "adam"])
def test_steps_beside_the_cpu_engine(optimizer: str) -> None:
    """From a state of the CPU engine: the same steps, up to bfloat16, latents left alone alike."""
    spec = step_spec(8, 16, 32, 12, 1.0, k_aux=6, dead_after=24)
    spec = replace(spec, epsilon=1e-3, optimizer=optimizer)
    start = initial_weights(spec, 0)
    start["b_enc"] -= 0.05  # so that few of them fire
    rates = torch.full((8,), 3e-3)
    beside = CpuTopK(spec, start, rates)
    draw = torch.Generator().manual_seed(0)

    def few() -> Tensor:
        return torch.rand(8, 3, generator=draw) @ torch.randn(3, 16, generator=draw) / 4

    for _ in range(4):
        beside.step(few())
    found = FusedTopK(spec, start, rates, DEVICE)
    found.load_state_dict(beside.state_dict())
    left_alone, revived = 0, 0
    for step in range(4, 8 if ON_GPU else 5):
        z, before, dead = few(), found.weights(), beside.firing()[1]
        found.step(z)
        beside.step(z)
        assert found.losses[step].item() == pytest.approx(beside.losses[step].item(), rel=1e-2)
        assert found.firing() == pytest.approx(beside.firing(), abs=0.2)
        still = snapshot(found)["updates"] == beside.state_dict()["updates"]
        assert still.float().mean() > 0.95  # a latent at the edge may fire in one of them alone
        silent = (found.weights()["W_enc"] == before["W_enc"]).all(0)
        assert torch.equal(before["W_dec"][silent], found.weights()["W_dec"][silent])
        left_alone += int(silent.sum())
        revived += int(dead > 0)
    assert revived
    if optimizer == "adam":
        assert (snapshot(found)["updates"] == step + 1).all()
    else:
        assert left_alone
        assert beside.state_dict()["updates"].float().std() > 1
    for name, want in beside.weights().items():
        torch.testing.assert_close(found.weights()[name], want, rtol=0, atol=1.5e-3)


@pytest.mark.skipif(not ON_GPU, reason="the fused product needs Hopper's TMA")
@pytest.mark.parametrize("shape", [(512, 768, 4096, 32), (200, 96, 1000, 16)], ids=str)
def test_fused_product_makes_the_same_choice(shape: tuple[int, int, int, int]) -> None:
    spec = step_spec(*shape)
    found = engine(spec, options=GpuOptions(encoder="fused"))
    found.step(batch(spec))
    plain = engine(spec, options=GpuOptions(encoder="cublas"))
    plain.step(batch(spec))
    check_close(found._buffers.pre, plain._buffers.pre, 5e-3, "pre")
    mask = chosen(found._buffers.pre, spec.k)
    assert torch.equal(selection(found), torch.where(mask, found._buffers.pre.float(), 0.0))


def test_ties_go_to_the_lower_index() -> None:
    spec = step_spec(4, 16, 60, 6)
    same = torch.ones(16, 60) * torch.tensor([0.5, 1.0]).repeat(30)  # two values only
    found = engine(spec, {"W_enc": same, "b_enc": torch.zeros(60), "b_dec": torch.zeros(16)})
    found.step(torch.ones(4, 16))
    assert torch.equal(found._buffers.index.view(4, 6).cpu(), torch.arange(1, 12, 2).expand(4, 6))


def test_more_ties_than_sixteen_bits_count() -> None:
    from deconstruct.sae.engines.cuda.kernels.topk import choose_groups_kernel

    maxima = torch.full((1, 1 << 16), 9, dtype=torch.int16, device=DEVICE)
    groups = torch.full((1 << 17,), -1, dtype=torch.int32, device=DEVICE)  # of which 5 are its own
    with torch.cuda.device(DEVICE) if ON_GPU else nullcontext():
        choose_groups_kernel[(1,)](maxima, groups, 1 << 16, K=3, GROUPS_P2=1 << 16, num_warps=16)
    assert groups[:5].tolist() == [0, 1, 2, 3, 9]
    assert (groups[5:] == -1).all()


def test_rows_where_nothing_fires() -> None:
    spec = step_spec(8, 16, 64, 4)
    found = engine(spec, {"b_enc": torch.full((64,), -100.0)})
    before = found.weights()
    found.step(batch(spec))
    after = found.weights()
    assert (found._buffers.index == 64).all()
    assert (snapshot(found)["updates"] == 0).all()
    assert (snapshot(found)["since_fired"] == 8).all()
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["b_dec"], before["b_dec"])  # it still learns the mean


def test_one_latent_on_every_token() -> None:
    # 40 pairs of one latent: its run is head, blocks of CHUNK and tail.
    spec = step_spec(40, 16, 24, 2)
    options = GpuOptions(tiling=Tiling(chunk=8))
    start = initial_weights(spec, 0)
    start["b_enc"][7] = 20.0
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 16, generator=draw)
    ranked = (x @ start["W_enc"]).sort(dim=1, descending=True).values
    x = x[(ranked[:, 0] - ranked[:, 1] > 0.1) & (ranked[:, 1] - ranked[:, 2] > 0.1)][:40]
    found = engine(spec, start, options)
    found.step(x)
    assert (selection(found)[:, 7] > 0).all()
    wanted, _, _ = Reference(spec, start).gradients(x, torch.zeros(24, dtype=torch.bool))
    for name, grad in gradients(found).items():
        check_close(grad, wanted[name], 1.5e-2, name)


def test_room_for_the_dead_is_made_before_they_are() -> None:
    """Looked at every few steps, and yet no latent that dies in between is left out."""
    spec = step_spec(2, 8, 16, 1, k_aux=2, dead_after=40)
    found = engine(spec, options=GpuOptions(refresh_every=8))
    assert found._every == 2  # an eighth of the 20 steps it takes to die
    state = snapshot(found)
    state["since_fired"][3:] = 33 + torch.arange(13) // 7
    found.load_state_dict(state)
    rooms = []
    for seed in range(5):
        dead = snapshot(found)["since_fired"] >= 40
        rooms.append(int(found._room))
        found.step(batch(spec, seed))
        if dead.any():
            assert torch.equal(found._buffers.aux_slot.cpu()[dead], torch.arange(int(dead.sum())))
    assert rooms[0] == 0
    assert rooms[-1] == 16
    assert dead.any()


@pytest.mark.parametrize("limit", [0.5, 60.0, 1e4])
def test_clipping_by_the_exact_global_norm(limit: float) -> None:
    spec = step_spec(6, 16, 32, 4)
    found = engine(spec)
    found.step(batch(spec))
    norm = sum(g.square().sum() for g in gradients(found).values()) ** 0.5
    spec = step_spec(6, 16, 32, 4, clip_norm=limit)
    clipped = engine(spec)
    clipped.step(batch(spec))
    bound = clipped._buffers.norm_bound[0].item() ** 0.5
    assert norm < bound < 20 * norm
    factor = min(1.0, limit / norm.item())
    assert clipped._buffers.clip.item() == pytest.approx(factor, rel=1e-3)
    for name, grad in gradients(clipped).items():
        check_close(grad, gradients(found)[name] * factor, 1e-3, name)


def test_same_bytes_again_and_after_a_resume() -> None:
    spec = step_spec(3, 16, 24, 3, clip_norm=1.0, k_aux=8, dead_after=6)
    options = GpuOptions(refresh_every=2)
    steps = 20 if ON_GPU else 3
    if ON_GPU:
        spec = step_spec(2048, 768, 8192, 32, clip_norm=1.0, k_aux=64, dead_after=4096)
    data = [batch(spec, seed) for seed in range(4)]

    def run(found: FusedTopK) -> dict[str, Tensor]:
        for step in range(found.steps_done, steps):
            found.step(data[step % 4])
        return snapshot(found)

    rates = torch.full((steps,), 1e-3)
    fresh = [FusedTopK(spec, weights(spec), rates, DEVICE, options) for _ in range(3)]
    runs = [run(fresh[0]), run(fresh[1])]
    for step in range(steps - 1):
        fresh[2].step(data[step % 4])
    resumed = FusedTopK(spec, weights(spec, seed=9), rates, DEVICE, options)
    resumed.load_state_dict(snapshot(fresh[2]))
    runs.append(run(resumed))
    for name, tensor in runs[0].items():
        assert torch.equal(tensor, runs[1][name]), name
        assert torch.equal(tensor, runs[2][name]), name


def test_bf16_moments_keep_the_mean() -> None:
    spec = step_spec(4, 24, 24, 4)
    found = engine(spec, options=GpuOptions(moments="bfloat16"))
    exact = engine(spec)
    for seed in range(2):
        found.step(batch(spec, seed))
        exact.step(batch(spec, seed))
    for name in ("W_enc.m", "W_enc.v", "W_dec.m", "W_dec.v"):
        wanted = snapshot(exact)[name].double()
        gap = snapshot(found)[name].double() - wanted
        assert gap.norm() < 1e-2 * wanted.norm()
        assert abs(gap.sum()) < 4 * gap.norm()  # a random walk, no drift
    check_close(found.weights()["W_enc"], exact.weights()["W_enc"], 1e-3, "W_enc")


def test_refusals() -> None:
    spec = step_spec(8, 16, 64, 4)
    for changed, message in (
        ({"architecture": "relu"}, "matryoshka, not relu"),
        ({"k": 0}, "not 0"),
        ({"k_aux": 65}, "aux_k in 0..d_sae = 64, not 65"),
        ({"d_out": 9}, "no transcoders"),
    ):
        with pytest.raises(ValueError, match=message):
            engine(replace(spec, **changed))
    found = engine(spec)
    with pytest.raises(ValueError, match="z is"):
        found.step(torch.zeros(7, 16))
    with pytest.raises(ValueError, match="input alone"):
        found.step(torch.zeros(8, 16), torch.zeros(8, 16))
    with pytest.raises(ValueError, match="b_enc is"):
        engine(spec, {"b_enc": torch.zeros(63)})
    found.steps_done = STEPS
    with pytest.raises(IndexError, match="all of them done"):
        found.step(torch.zeros(8, 16))
