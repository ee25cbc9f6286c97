"""The fused TopK step against a dense float64 reference.

On a CUDA device the kernels run there; without one, in Triton's interpreter, on small shapes;
without Triton, nothing here runs and the reason is printed.
"""

import math
import os
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

ON_GPU = torch.cuda.is_available()
if not ON_GPU and find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are first imported

from deconstruct.sae.cuda import FusedTopK, GpuOptions, Tiling, unavailable  # noqa: E402
from deconstruct.sae.engine import StepSpec  # noqa: E402

REASON = unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
DEVICE = "cuda" if ON_GPU else "cpu"
STEPS = 8


RAW = GpuOptions(unit_norm=False)  # so that W_dec's gradient can be seen whole


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
    index = found._buffers.index.long()
    rows = torch.arange(spec.batch, device=found.device)[:, None].expand_as(index)
    real = index < spec.d_sae
    assert len(set(zip(rows[real].tolist(), index[real].tolist(), strict=True))) == real.sum()
    assert found._buffers.value[~real].abs().sum() == 0
    return dense.scatter(1, index, found._buffers.value)[:, :-1]


def reference(
    spec: StepSpec, start: dict[str, Tensor], x: Tensor, mask: Tensor, dead: Tensor | None = None
) -> dict[str, Tensor]:
    """Gradients by autograd through dense float64 products, for a given choice of latents."""
    p = {n: t.detach().to("cpu", torch.float64).requires_grad_() for n, t in start.items()}
    x64 = x.double()
    pre = (x64 - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    z = torch.where(mask.cpu(), pre, 0.0)
    error = z @ p["W_dec"] + p["b_dec"] - x64
    loss = error.square().sum(1).mean()
    if dead is not None:
        centered = (x - start["b_dec"]).bfloat16()
        rounded = torch.addmm(
            start["b_enc"][dead].bfloat16(), centered, start["W_enc"][:, dead].bfloat16()
        )
        z_dead = torch.where(chosen(rounded, spec.k_aux), pre[:, dead], 0.0)
        missing = z_dead @ p["W_dec"][dead] + error.detach()
        weight = spec.aux_coefficient * min(1.0, len(dead) / spec.k_aux)
        loss = loss + weight * missing.square().sum(1).mean()
    loss.backward()
    return {n: t.grad for n, t in p.items() if t.grad is not None}


def gradients(found: FusedTopK) -> dict[str, Tensor]:
    """The gradients of a first step, read back from Adam's first moment."""
    state, beta = snapshot(found), found.spec.betas[0]
    grads = {n: state[f"{n}.m"].double().cpu() / (1 - beta) for n in weights(found.spec)}
    grads["W_enc"] = grads["W_enc"].mT
    return grads


def check_close(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    gap = (found.double().cpu() - wanted.double().cpu()).norm() / wanted.double().norm().clamp(1e-9)
    assert gap < tolerance, f"{name}: relative error {gap:.2e}"


SHAPES = [(12, 24, 72, 5), (6, 40, 48, 1), (6, 16, 32, 32), (10, 17, 50, 7)]
if ON_GPU:
    SHAPES += [(512, 768, 4096, 32), (256, 100, 40000, 64), (128, 1024, 131072, 256)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_step_matches_the_dense_reference(shape: tuple[int, int, int, int]) -> None:
    spec = step_spec(*shape)
    found, x = engine(spec, options=RAW), batch(spec)
    found.step(x)
    start = weights(spec)
    centered = (x - start["b_dec"]).double()
    pre = centered @ start["W_enc"].double() + start["b_enc"].double()
    check_close(found._buffers.pre, pre, 1e-2, "pre")
    mask = chosen(found._buffers.pre, spec.k)
    assert torch.equal(selection(found), torch.where(mask, found._buffers.pre.float(), 0.0))
    wanted = reference(spec, start, x, mask)
    for name, grad in gradients(found).items():
        check_close(grad, wanted[name], 1.5e-2, name)
    assert torch.equal(found.fired, mask.sum(0))
    since_fired = snapshot(found)["since_fired"].long()
    assert torch.equal(since_fired, torch.where(mask.any(0), 0, spec.batch).cpu())
    z = torch.where(mask.cpu(), pre, 0.0)
    error = z @ start["W_dec"].double() + start["b_dec"].double() - x.double()
    assert found.losses[0].item() == pytest.approx(error.square().sum(1).mean().item(), rel=1e-2)


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
    assert torch.equal(found._buffers.index.long().cpu(), torch.arange(1, 12, 2).expand(4, 6))


def test_rows_where_nothing_fires() -> None:
    spec = step_spec(8, 16, 64, 4)
    found = engine(spec, {"b_enc": torch.full((64,), -100.0)})
    before = found.weights()
    found.step(batch(spec))
    after = found.weights()
    assert (found._buffers.index == 64).all()
    assert found.fired.sum() == 0
    assert (snapshot(found)["since_fired"] == 8).all()
    for name in ("W_enc", "b_enc"):
        assert torch.equal(after[name], before[name])
    check_close(after["W_dec"], before["W_dec"], 1e-6, "W_dec")
    assert not torch.equal(after["b_dec"], before["b_dec"])  # it still learns the mean


def test_one_latent_on_every_token() -> None:
    # 70 pairs of one latent: its run is head, blocks of CHUNK and tail.
    spec = step_spec(70, 16, 24, 2)
    options = GpuOptions(unit_norm=False, tiling=Tiling(chunk=16))
    bias = torch.zeros(24)
    bias[7] = 20.0
    found, x = engine(spec, {"b_enc": bias}, options), batch(spec)
    found.step(x)
    assert found.fired[7] == 70
    wanted = reference(spec, {**weights(spec), "b_enc": bias}, x, chosen(found._buffers.pre, 2))
    for name, grad in gradients(found).items():
        check_close(grad, wanted[name], 1.5e-2, name)


@pytest.mark.parametrize("k_aux", [4, 40])
def test_auxk_reaches_encoder_and_decoder(k_aux: int) -> None:
    spec = step_spec(12, 24, 72, 4, k_aux=k_aux, aux_coefficient=2.0, dead_after=100)
    found, x = engine(spec, options=RAW), batch(spec)
    dead = torch.arange(3, 70, 5)
    state = snapshot(found)
    state["dead"][dead] = True
    found.load_state_dict(state)
    found.step(x)
    mask = chosen(found._buffers.pre, spec.k)
    wanted = reference(spec, weights(spec), x, mask, dead)
    without = reference(spec, weights(spec), x, mask)
    for name, grad in gradients(found).items():
        check_close(grad, wanted[name], 2e-2, name)
    for name in ("W_enc", "W_dec"):
        assert (wanted[name] - without[name]).norm() > 0.05 * wanted[name].norm()


def test_dead_latents_are_found_at_the_refresh() -> None:
    spec = step_spec(4, 16, 40, 2, k_aux=8, dead_after=8)
    found = engine(spec, options=GpuOptions(refresh_every=3))
    for seed in range(4):
        found.step(batch(spec, seed))
        assert (found._buffers.dead_capacity > 0) == (seed == 3)
        if seed == 2:
            expected = snapshot(found)["since_fired"] >= 8
    assert torch.equal(snapshot(found)["dead"], expected)


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


def test_adam_projection_and_unit_rows_over_steps() -> None:
    spec = step_spec(6, 16, 32, 4)
    found = engine(spec)
    twins = {n: t.clone().requires_grad_() for n, t in weights(spec).items()}
    adam = torch.optim.Adam(twins.values(), lr=1.0)
    before = snapshot(found)
    for step in range(3):
        found.step(batch(spec, step))
        after = snapshot(found)
        for name, twin in twins.items():
            grad = (after[f"{name}.m"] - 0.9 * before[f"{name}.m"]).cpu() / 0.1
            twin.grad = grad.mT if name == "W_enc" else grad
        along = (twins["W_dec"].grad * twins["W_dec"]).sum(1)  # the projection took it out
        assert along.abs().max() < 1e-5
        adam.param_groups[0]["lr"] = torch.linspace(1e-3, 5e-4, STEPS)[step].item()
        adam.step()
        with torch.no_grad():
            twins["W_dec"] /= twins["W_dec"].norm(dim=1, keepdim=True)
        before = after
    for name, tensor in found.weights().items():
        check_close(tensor, twins[name], 1e-5, name)


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
    if not ON_GPU:  # Triton's interpreter truncates to bf16 where torch and a GPU round
        for name in ("enc", "dec", "bias_half"):
            getattr(resumed._buffers, name).copy_(getattr(fresh[2]._buffers, name))
    runs.append(run(resumed))
    for name, tensor in runs[0].items():
        assert torch.equal(tensor, runs[1][name]), name
        assert torch.equal(tensor, runs[2][name]), name


def test_bf16_moments_keep_the_mean() -> None:
    spec = step_spec(8, 24, 48, 4)
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
        ({"architecture": "relu"}, "topk, not relu"),
        ({"k": 0}, "k=0"),
        ({"k_aux": 65}, "k_aux=65"),
    ):
        with pytest.raises(ValueError, match=message):
            engine(replace(spec, **changed))
    found = engine(spec)
    with pytest.raises(ValueError, match="x is"):
        found.step(torch.zeros(7, 16))
    with pytest.raises(ValueError, match="b_enc is"):
        engine(spec, {"b_enc": torch.zeros(63)})
    found.steps_done = STEPS
    with pytest.raises(IndexError, match="all of them done"):
        found.step(torch.zeros(8, 16))
