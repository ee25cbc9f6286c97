"""Each architecture's loss and gradients against formulas written out once more, in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
import torch

from deconstruct.config import BY_NUMBER, Architecture
from deconstruct.sae.architectures.base import Inputs, Selection, Terms
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import Control
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

N, D_IN, D_SAE, K = 7, 6, 20, 3
PENALTY = 0.3


def spec_of(architecture: str, **changes: object) -> StepSpec:
    values = {
        "architecture": architecture, "batch": N, "d_in": D_IN, "d_sae": D_SAE, "k": K,
        "penalty": PENALTY, "clip_norm": 1.0, "k_aux": 4, "aux_coefficient": 0.5, "dead_after": 10,
        "bandwidth": 0.4,
    }  # fmt: skip
    if architecture == "matryoshka":
        values["prefixes"] = (5, 12, D_SAE)
    return StepSpec(**(values | changes))


def case(spec: StepSpec, seed: int = 0) -> tuple[dict[str, torch.Tensor], Inputs]:
    """Random float64 parameters that need gradients, and a batch with six dead latents."""
    generator = torch.Generator().manual_seed(seed)
    p = {name: w.double() for name, w in initial_weights(spec, seed).items()}
    for name, w in p.items():
        p[name] = w + 0.3 * torch.randn(w.shape, generator=generator).double()
    if "threshold" in p:
        p["threshold"] = p["threshold"].abs()
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[::4] = True
    z = torch.randn(N, D_IN, generator=generator).double()
    target = torch.randn(N, spec.d_out, generator=generator).double() if spec.d_out else z
    return {n: w.requires_grad_() for n, w in p.items()}, Inputs(z, target, dead, PENALTY)


def run(spec: StepSpec) -> tuple[dict[str, torch.Tensor], Inputs, Terms]:
    p, inputs = case(spec)
    terms = ARCHITECTURES[spec.architecture].loss(p, inputs, spec)
    terms.loss.backward()
    return p, inputs, terms


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """The positive entries that are among the ``count`` largest of a flat tensor, the rest zero."""
    edge = values.flatten().sort(descending=True).values[count - 1]
    return torch.where((values >= edge) & (values > 0), values, 0.0)


def auxk(p: dict[str, torch.Tensor], inputs: Inputs, pre: torch.Tensor, e: torch.Tensor):
    some = slice(-(-len(pre) // 4))  # the first quarter of the tokens
    only_dead = torch.where(inputs.dead, pre[some], torch.zeros(()).double())
    chosen = torch.stack([largest(row, 4) for row in only_dead])
    return 0.5 * (chosen @ p["W_dec"] + e[some].detach()).square().sum(1).mean()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_those_that_fix_the_number(architecture: str) -> None:
    spec = spec_of(architecture)
    p, inputs, terms = run(spec)
    with torch.enable_grad():
        q = {name: w.detach().clone().requires_grad_() for name, w in p.items()}
        pre = (inputs.z - q["b_dec"]) @ q["W_enc"] + q["b_enc"]
        if architecture == "topk":
            a = torch.stack([largest(row, K) for row in pre])
        else:
            a = largest(pre, N * K)
            assert float(terms.threshold) == pytest.approx(float(a.detach()[a > 0].min()))
        ends = spec.prefixes or (D_SAE,)
        errors = [a[:, :m] @ q["W_dec"][:m] + q["b_dec"] - inputs.z for m in ends]
        expected = sum(e.square().sum(1).mean() for e in errors) / len(errors)
        expected = expected + auxk(q, inputs, pre, errors[-1])
    expected.backward()
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.squared, errors[-1].square().sum(1).mean())
    torch.testing.assert_close(terms.active, a)
    for name in p:
        torch.testing.assert_close(p[name].grad, q[name].grad)


def test_relu_weighs_its_penalty_by_decoder_norms() -> None:
    p, inputs, terms = run(spec_of("relu"))
    pre = (inputs.z - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    a = pre.clamp(min=0)
    e = a @ p["W_dec"] + p["b_dec"] - inputs.z
    norm = p["W_dec"].square().sum(1).sqrt()
    pull = 0.5 / D_SAE * ((-pre).clamp(min=0) * inputs.dead).sum(1).mean()
    expected = e.square().sum(1).mean() + PENALTY * (a * norm).sum(1).mean() + pull
    torch.testing.assert_close(terms.loss, expected)
    # Halving decoder rows and doubling what feeds them changes nothing: the penalty is not evaded.
    other = {n: w.detach() for n, w in p.items()}
    other |= {"W_dec": other["W_dec"] / 2, "W_enc": 2 * other["W_enc"], "b_enc": 2 * other["b_enc"]}
    alive = Inputs(inputs.z, inputs.target, torch.zeros_like(inputs.dead), PENALTY)
    relu = ARCHITECTURES["relu"]
    same = relu.loss({n: w.detach() for n, w in p.items()}, alive, spec_of("relu"))
    torch.testing.assert_close(relu.loss(other, alive, spec_of("relu")).loss, same.loss)


def test_gated() -> None:
    p, inputs, terms = run(spec_of("gated"))
    q = {name: w.detach().clone().requires_grad_() for name, w in p.items()}
    product = (inputs.z - q["b_dec"]) @ q["W_enc"]
    gate = product + q["b_gate"]
    a = torch.where(gate > 0, (q["r_mag"].exp() * product + q["b_mag"]).clamp(min=0), 0.0)
    e = a @ q["W_dec"] + q["b_dec"] - inputs.z
    opened = gate.clamp(min=0)
    frozen = opened @ q["W_dec"].detach() + q["b_dec"].detach() - inputs.z
    pull = 0.5 / D_SAE * ((-gate).clamp(min=0) * inputs.dead).sum(1).mean()
    expected = (
        e.square().sum(1).mean()
        + frozen.square().sum(1).mean()
        + PENALTY * opened.sum(1).mean()
        + pull
    )
    expected.backward()
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.active, a)
    for name in p:
        torch.testing.assert_close(p[name].grad, q[name].grad)


@pytest.mark.parametrize("sparsity", ["l0", "tanh"])
def test_jumprelu_and_its_straight_through_gradients(sparsity: str) -> None:
    """Against the pseudo-derivatives of the two papers, pair by pair."""
    spec = spec_of("jumprelu", sparsity=sparsity, aux_coefficient=0.0)
    p, inputs, terms = run(spec)
    w = {name: v.detach() for name, v in p.items()}
    pre = (inputs.z - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    fires = (pre > w["threshold"]).double()
    a = pre * fires
    e = a @ w["W_dec"] + w["b_dec"] - inputs.z
    counted = fires if sparsity == "l0" else torch.tanh(4 * a)
    expected = e.square().sum(1).mean() + PENALTY * counted.sum(1).mean()
    torch.testing.assert_close(terms.loss.detach(), expected)
    window = ((pre - w["threshold"]).abs() < 0.2).double() / 0.4
    slope = 2 / N * e @ w["W_dec"].T
    into_threshold = -w["threshold"] * window * slope
    into_pre = slope * fires
    if sparsity == "l0":
        into_threshold = into_threshold - PENALTY / N * window
    else:
        more = PENALTY / N * 4 * (1 - torch.tanh(4 * a) ** 2)
        into_threshold = into_threshold - w["threshold"] * window * more
        into_pre = (slope + more) * (fires + w["threshold"] * window)
    assert (window > 0).sum() > 5
    torch.testing.assert_close(p["threshold"].grad, into_threshold.sum(0))
    torch.testing.assert_close(p["b_enc"].grad, into_pre.sum(0))
    torch.testing.assert_close(p["W_enc"].grad, (inputs.z - w["b_dec"]).T @ into_pre)
    torch.testing.assert_close(p["W_dec"].grad, 2 / N * a.T @ e)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_transcoder_reads_one_site_and_writes_another(architecture: str) -> None:
    spec = spec_of(architecture, d_out=4, skip=True, aux_coefficient=0.0)
    p, inputs, terms = run(spec)
    assert p["W_dec"].shape == (D_SAE, 4)
    out = terms.active @ p["W_dec"] + p["b_dec"] + inputs.z @ p["W_skip"].T
    squared = (out - inputs.target).square().sum(1).mean()
    torch.testing.assert_close(terms.squared, squared.detach())
    assert p["W_skip"].grad.abs().max() > 0
    # b_dec belongs to the output alone: it does not move the input.
    moved = {n: w.detach() for n, w in p.items()}
    moved["b_dec"] = moved["b_dec"] + 1
    torch.testing.assert_close(
        ARCHITECTURES[spec.architecture].loss(moved, inputs, spec).active, terms.active
    )


def test_the_prefixes_nest() -> None:
    """The first latents of a Matryoshka SAE hear of every prefix that they are in."""
    spec = spec_of("matryoshka", aux_coefficient=0.0)
    p, inputs, terms = run(spec)
    a = terms.active
    errors = [a[:, :m] @ p["W_dec"][:m] + p["b_dec"] - inputs.z for m in spec.prefixes]
    for group, (start, end) in enumerate(pairwise((0, *spec.prefixes))):
        heard = sum(errors[group:]) / len(spec.prefixes)
        expected = 2 / N * a[:, start:end].T @ heard
        torch.testing.assert_close(p["W_dec"].grad[start:end], expected)


def test_the_controller_finds_its_target() -> None:
    """On a plant whose L0 falls with the penalty, and lags: L0 ends at the target."""
    control = Control(spec_of("relu", target_l0=32.0, penalty=0.1, penalty_warmup=10))
    l0 = 500.0
    for done in range(1500):
        penalty = float(control.penalty(done))
        l0 += 0.1 * (30 / penalty - l0)
        control.observe(done, l0, None)
    assert l0 == pytest.approx(32, rel=0.02)
    fixed = Control(spec_of("relu"))
    fixed.observe(0, 500.0, None)
    assert float(fixed.penalty(50)) == pytest.approx(PENALTY)


def test_the_running_threshold_follows() -> None:
    control = Control(spec_of("batchtopk"))
    for done, threshold in enumerate([0.4, *[0.2] * 400]):
        control.observe(done, 3.0, threshold)
    found = control.finish({})["threshold"]
    assert found.shape == (D_SAE,)
    torch.testing.assert_close(found, torch.full((D_SAE,), 0.2), rtol=1e-2, atol=0)


def test_the_settings_and_the_registry_know_the_same_architectures() -> None:
    assert tuple(ARCHITECTURES) == get_args(Architecture)
    for name, one in ARCHITECTURES.items():
        assert (name in BY_NUMBER) == (one.selection is not Selection.ABOVE_EDGE)
        assert one.bias in initial_weights(spec_of(name), 0)
