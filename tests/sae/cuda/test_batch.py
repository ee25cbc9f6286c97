"""The fused step of BatchTopK and Matryoshka, in Triton's interpreter or on a card: its pairs are
the CPU engine's, ties and all, and its gradients those of the dense loss in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.cuda import DEVICE, REASON
from torch import Tensor

from deconstruct.sae.architectures import base, batchtopk
from deconstruct.sae.architectures.base import Inputs
from deconstruct.sae.architectures.pairs import Pairs, keep_largest, offsets_of
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import THRESHOLD_RATE
from deconstruct.sae.engines.cpu.sparse import SparseEngine
from deconstruct.sae.engines.cuda.check import check_spec, disagreement
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import UnfitError
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
NAMES = ("batchtopk", "matryoshka")


def step_spec(
    architecture: str, n: int, d_in: int, d_sae: int, k: int, clip_norm: float = math.inf
) -> StepSpec:
    ends = tuple(sorted({max(1, d_sae // 5), max(1, d_sae // 2), d_sae}))
    return StepSpec(
        architecture, n, d_in, d_sae, k, 0.0, clip_norm, min(3, d_sae), 0.5, 1000, epsilon=1e-4,
        prefixes=ends if architecture == "matryoshka" else (),
    )  # fmt: skip


def started(spec: StepSpec, seed: int, dead: Tensor) -> tuple[FusedTopK, dict[str, Tensor]]:
    weights = initial_weights(spec, seed)
    draw = torch.Generator().manual_seed(seed)
    weights["b_enc"] += 0.1 * torch.randn(spec.d_sae, generator=draw)
    weights["b_dec"] += 0.1 * torch.randn(spec.d_in, generator=draw)
    found = FusedTopK(spec, weights, torch.full((3,), 1e-3), DEVICE)
    found.load_state_dict({**found.state_dict(), "since_fired": 1000 * dead.long()})
    return found, weights


def listed(found: FusedTopK) -> Pairs:
    """The pairs that the kernels listed."""
    b = found._buffers
    ends = b.token_ptr.cpu().numpy().astype(np.int64)
    index, token, value = (t.cpu().numpy()[: ends[-1]] for t in (b.index, b.token, b.value))
    assert (b.index[ends[-1] :] == found.spec.d_sae).all()
    return Pairs(ends, index, token, value)


def largest_of(pre: Tensor, count: int) -> tuple[Pairs, float]:
    """What the CPU's engine keeps of the positive pre-activations [n, d_sae]."""
    key = pre.cpu().float().clamp(min=0).numpy()
    tokens, latents = (at.astype(np.int32) for at in key.nonzero())
    ends = offsets_of(np.bincount(tokens, minlength=len(key)))
    return keep_largest(Pairs(ends, latents, tokens, key[tokens, latents]), count)


def same_pairs(found: FusedTopK) -> float:
    """Assert that they are the largest; returns the smallest."""
    ours = listed(found)
    wanted, least = largest_of(found._buffers.pre, found.spec.batch * found.spec.k)
    for name in ("offsets", "latents", "tokens", "pre"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(wanted, name), name)
    return least


def first_of_equals(of: Tensor, k: int) -> Tensor:
    """`base.largest` by rows; of equal ones the first, as kernels have it."""
    kept = of.relu().sort(dim=1, descending=True, stable=True)
    top = torch.arange(of.shape[1]) < k
    return torch.zeros_like(of).scatter(1, kept.indices, kept.values * top)


def reference(
    found: FusedTopK, weights: dict[str, Tensor], z: Tensor, dead: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Gradients of the dense loss, float64, at the kernels' own pre-activations and rounded
    decoder; and |e|^2."""
    spec = found.spec
    leaf = {name: w.double().requires_grad_() for name, w in weights.items()}
    low = leaf["W_dec"] + (leaf["W_dec"].bfloat16().double() - leaf["W_dec"]).detach()
    off = found._buffers.pre.cpu().double() - (
        (z.double() - weights["b_dec"].double()) @ weights["W_enc"].double()
        + weights["b_enc"].double()
    )
    product = base.centred_product
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "centred_product", lambda *args: product(*args) + off)
        for module in (base, batchtopk):
            patch.setattr(module, "largest", first_of_equals)
        inputs = Inputs(z.double(), z.double(), dead, 0.0)
        terms = ARCHITECTURES[spec.architecture].loss({**leaf, "W_dec": low}, inputs, spec)
    terms.loss.backward()
    grads = {name: w.grad for name, w in leaf.items()}
    unit = weights["W_dec"].double()
    grads["W_dec"] -= (grads["W_dec"] * unit).sum(1, keepdim=True) * unit
    return grads, float(terms.squared)


def close(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    gap = (found.double().cpu() - wanted.double()).norm() / wanted.double().norm().clamp(1e-9)
    assert gap < tolerance, f"{name}: relative error {gap:.2e}"


@pytest.mark.parametrize("architecture", NAMES)
@settings(deadline=None, max_examples=3, derandomize=True)
@example(n=5, d_in=6, d_sae=70, share=0.1, seed=1, dead_share=0.4, clip_norm=0.05)
@given(
    n=st.integers(2, 9),
    d_in=st.integers(2, 20),
    d_sae=st.integers(2, 70),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 999),
    dead_share=st.sampled_from([0.0, 0.4]),
    clip_norm=st.sampled_from([0.05, 1e9]),
)
def test_whole_step(
    architecture: str, n: int, d_in: int, d_sae: int, share: float, seed: int,
    dead_share: float, clip_norm: float,
) -> None:  # fmt: skip
    """Pairs, loss, gradients, counts and threshold; Adam by the check of a first step."""
    spec = step_spec(architecture, n, d_in, d_sae, max(1, round(share * d_sae)), clip_norm)
    draw = torch.Generator().manual_seed(seed)
    dead = torch.rand(d_sae, generator=draw) < dead_share
    z = torch.randn(n, d_in, generator=draw) / d_in**0.5
    found, weights = started(spec, seed, dead)
    found.first_step(z)
    least = same_pairs(found)
    wanted, squared = reference(found, weights, z, dead)
    assert found.losses[0].item() == pytest.approx(squared, rel=1e-2, abs=1e-6)
    norm = sum(float(g.square().sum()) for g in wanted.values()) ** 0.5
    state = found.state_dict()
    for name, want in wanted.items():
        grad = state[f"{name}.m"].double() / (1 - spec.betas[0])
        clip = min(1.0, clip_norm / norm)
        close(grad.mT if name == "W_enc" else grad, clip * want, 2e-2, name)
    fired = np.bincount(listed(found).latents, minlength=d_sae) > 0
    age = torch.where(torch.from_numpy(fired), 0, 1000 * dead + n)
    assert torch.equal(state["since_fired"].cpu(), age)
    assert found.weights()["threshold"].tolist() == [np.float32(least)] * d_sae
    assert found.firing()[0] == len(listed(found)) / n


def alike(spec: StepSpec, weights: dict[str, Tensor]) -> Tensor:
    """All tokens, and all latents but for the last three, which don't fire."""
    weights["W_enc"][:] = 1.0
    weights["b_enc"][:] = -100.0 * (torch.arange(spec.d_sae) >= spec.d_sae - 3)
    return torch.ones(spec.batch, spec.d_in)


def silent(spec: StepSpec, weights: dict[str, Tensor]) -> Tensor:
    weights["b_enc"][:] = -100.0
    return torch.ones(spec.batch, spec.d_in)


def one_takes_all(spec: StepSpec, weights: dict[str, Tensor]) -> Tensor:
    """A token that is so large that no other has a pair; and fewer are positive than may be."""
    weights["b_enc"][:] = -5.0
    weights["W_enc"][:, ::2] = 1.0
    weights["W_enc"][:, 1::2] = -1.0
    return torch.tensor([0.0, 100.0, 0.0, 0.0])[:, None].expand(4, spec.d_in).contiguous()


CASES: dict[str, tuple[Callable[[StepSpec, dict[str, Tensor]], Tensor], list[int]]] = {
    "ties": (alike, [25, 3, 0, 0]),  # of 28 pairs, 25 of the first token
    "silent": (silent, [0, 0, 0, 0]),
    "one takes all": (one_takes_all, [0, 14, 0, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_pairs_at_the_edges(case: str) -> None:
    """Matryoshka, which has all that BatchTopK has."""
    make, numbers = CASES[case]
    spec = step_spec("matryoshka", 4, 6, 28, 7)
    found, weights = started(spec, 0, torch.zeros(28, dtype=torch.bool))
    weights["b_dec"][:] = 0
    z = make(spec, weights)
    found.load_weights(weights)
    found.first_step(z)
    least = same_pairs(found)
    assert np.diff(listed(found).offsets).tolist() == numbers
    assert float(found.state_dict()["control.threshold"]) == least
    wanted, squared = reference(found, weights, z, torch.zeros(28, dtype=torch.bool))
    assert found.losses[0].item() == pytest.approx(squared, rel=1e-2)
    for name in ("W_dec", "b_dec"):
        grad = found.state_dict()[f"{name}.m"] / (1 - spec.betas[0])
        close(grad, wanted[name], 2e-2, name)


def test_steps_beside_the_dense_engine_and_back_to_it() -> None:
    """The small check agrees; the threshold follows; each goes on from the other's state."""
    spec = step_spec("matryoshka", 4, 8, 24, 2)
    disagreement.cache_clear()
    assert disagreement(FusedTopK, check_spec(spec), DEVICE) is None
    disagreement.cache_clear()
    found, _ = started(spec, 0, torch.zeros(24, dtype=torch.bool))
    leasts = []
    for seed in range(2):
        draw = torch.Generator().manual_seed(seed)
        found.step(torch.randn(4, 8, generator=draw) / 8**0.5)
        leasts.append(same_pairs(found))
    rates = [1, max(THRESHOLD_RATE, 1 / 2)]
    threshold = rates[1] * leasts[1] + (1 - rates[1]) * leasts[0]
    assert float(found.state_dict()["control.threshold"]) == pytest.approx(threshold)
    dense = DenseEngine(
        spec, initial_weights(spec, 2), torch.full((3,), 1e-3), DEVICE, torch.float32
    )
    dense.load_state_dict(found.state_dict())
    sparse = SparseEngine(spec, initial_weights(spec, 2), torch.full((3,), 1e-3))
    sparse.step(torch.randn(4, 8, generator=torch.Generator().manual_seed(9)) / 8**0.5)
    for of in (dense, sparse):
        again, _ = started(spec, 1, torch.zeros(24, dtype=torch.bool))
        again.load_state_dict(of.state_dict())
        for name, tensor in (found.state_dict() if of is dense else sparse.state_dict()).items():
            if name in again.state_dict() and name != "room":
                assert torch.equal(again.state_dict()[name].cpu(), tensor.cpu()), name


def test_what_goes_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair too few, and errors of another nested dictionary, by the check of a first step."""
    from deconstruct.sae.engines.cuda import forward

    spec = step_spec("matryoshka", 4, 8, 24, 2)
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) / 8**0.5
    nobody = torch.zeros(24, dtype=torch.bool)
    follow = forward._follow_threshold

    def one_less(b: object) -> None:
        b.token_ptr[-1] -= 1  # type: ignore[attr-defined]
        b.index[-1] = 24  # type: ignore[attr-defined]
        follow(b)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(forward, "_follow_threshold", one_less)
        with pytest.raises(UnfitError, match=r"of the batch are not its 8 largest|than it should"):
            started(spec, 0, nobody)[0].first_step(z)
    found, _ = started(spec, 0, nobody)
    found._buffers.nest[:] = 0
    with pytest.raises(UnfitError, match="held against float64"):
        found.first_step(z)
