"""From gradients to weights: who is updated, Adam's moments, what it moves, the bf16 copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_check.kernels.auxk import DeadGradients
from benchmarks.gpu_check.kernels.findings import relative
from benchmarks.gpu_check.kernels.forward import firings
from benchmarks.gpu_check.kernels.gradients import Gradients
from benchmarks.gpu_check.kernels.made import Made
from deconstruct.sae.spec import pace_of


@dataclass(frozen=True)
class Due:
    """Latents by what a step was to do with them: bool [d_sae], but for count.

    sure: those of which it is known exactly, the living; which of the dead AuxK takes can hang on a
    rounding. touched: which fire, or are taken. revived: dead and taken. moved: which the step did
    update. count: their updates so far, at least 1, float64.
    """

    sure: Tensor
    touched: Tensor
    revived: Tensor
    moved: Tensor
    count: Tensor


def check_counts(made: Made, aux: DeadGradients | None) -> Due:
    """Numbers of updates, and tokens since a latent fired."""
    before, after, findings = made.before, made.after, made.findings
    fired = firings(made)[1] > 0
    none = torch.zeros_like(fired)
    sure = ~none if aux is None else ~aux.dead
    taken = none if aux is None else aux.touched
    updates = before["updates"].long() + (fired | taken)
    findings.equal("updates", after["updates"].long()[sure], updates[sure])
    age = torch.where(fired, 0, before["since_fired"] + made.spec.batch)
    findings.equal("since_fired", after["since_fired"], age)
    moved = after["updates"] > before["updates"]
    count = after["updates"].double().clamp(min=1)
    return Due(sure, fired | taken, taken & ~fired, moved, count)


def check_rows(made: Made, gradients: Gradients, due: Due, rate: float) -> None:
    """Moments and rows of W_dec and W_enc. rate: the learning rate."""
    for name, gradient in gradients.rows.items():
        moments = _check_moments(made, name, gradient * gradients.factor, due)
        _check_moves(made, name, moments, due, rate)


def _check_moments(made: Made, name: str, g: Tensor, due: Due) -> tuple[Tensor, Tensor]:
    """Both moments of a matrix; returns them in float64. g: clipped, [d_sae, d_in]."""
    after, findings = made.after, made.findings
    limit = 5e-3 if made.engine.options.moments == "bfloat16" else 1e-4
    found = []
    terms = zip(("m", "v"), ("first", "second"), (g, g.square()), made.spec.betas, strict=True)
    for short, long, term, beta in terms:
        old = made.before[f"{name}.{short}"].double()
        wanted = torch.where(due.moved[:, None], beta * old + (1 - beta) * term, old)
        real, here = after[f"{name}.{short}"], due.sure[:, None]
        findings.at_most(f"{name}: {long} moment", relative(real * here, wanted * here), limit)
        if short == "m" and bool(due.revived.any()):
            there = due.revived[:, None]
            gap = relative(real * there, wanted * there)
            findings.at_most(f"{name}: first moment of dead latents", gap, 8e-2)
        found.append(wanted)
    return found[0], found[1]


def _check_moves(
    made: Made, name: str, moments: tuple[Tensor, Tensor], due: Due, rate: float
) -> None:
    """What Adam makes of a matrix, W_dec's rows kept at norm 1, and which rows it leaves alone."""
    findings, real = made.findings, made.after[name]
    old, moved = made.before[name].double(), due.moved
    w = old + _adam(moments, due.count[:, None], made, rate)
    if name == "W_dec":
        w = w / w.norm(dim=1, keepdim=True)
        off = (real[moved].norm(dim=1) - 1).abs().max() if moved.any() else 0.0
        findings.at_most("rows of W_dec have norm 1", off, 1e-5)
    w = torch.where(moved[:, None], w, old)
    here = due.sure[:, None]
    gap = ((real.double() - w) * here).norm() / ((w - old) * here).norm()
    findings.at_most(f"{name}: what Adam moved", gap, 2e-2)
    findings.equal(f"{name}: latents left alone", real[~moved], made.before[name][~moved])
    b = made.buffers
    copy = b.dec if name == "W_dec" else b.enc
    findings.equal(f"{name}: bf16 copy", copy, real.bfloat16())


def _adam(moments: tuple[Tensor, Tensor], count: Tensor, made: Made, rate: float) -> Tensor:
    """What Adam adds, after so many updates."""
    m, v = moments
    beta1, beta2 = made.spec.betas
    root = (v / (1 - beta2**count)).sqrt() + made.spec.epsilon
    added: Tensor = -rate / (1 - beta1**count) * m / root
    return added


def check_biases(made: Made, gradients: Gradients, due: Due, rate: float) -> None:
    """Moments of the biases, and what Adam moves them by."""
    spec, before, after, findings = made.spec, made.before, made.after, made.findings
    beta1, beta2 = spec.betas
    for name, gradient in gradients.biases.items():
        g = gradient * gradients.factor
        own = name == "b_enc"  # a latent's
        here = due.sure & due.touched if own else torch.ones_like(g, dtype=torch.bool)
        m = beta1 * before[f"{name}.m"].double() + (1 - beta1) * g
        v = beta2 * before[f"{name}.v"].double() + (1 - beta2) * g.square()
        gap = relative(after[f"{name}.m"][here], m[here])
        findings.at_most(f"{name}: first moment", gap, 1e-3)
        count = due.count if own else torch.full_like(g, made.number + 1)
        wanted = _adam((m, v), count, made, rate * pace_of(spec, name))
        real = after[name].double() - before[name].double()
        findings.at_most(f"{name}: what Adam moved", relative(real[here], wanted[here]), 2e-2)


def check_copies(made: Made) -> None:
    """The bias's copy, and that no number of the state is infinite or none."""
    after = made.after
    made.findings.equal("bias_half", made.buffers.bias_half, after["b_enc"].bfloat16())
    finite = all(bool(t.isfinite().all()) for t in after.values() if t.is_floating_point())
    made.findings.true("all is finite", finite)
