"""A run's first fused step, at the run's own size, against float64.

`check` compares a small SAE, whose groups, blocks and tiles are others than the run's. So of the
first step that a process makes for a run, whatever can be had again from a little that is kept
beforehand is compared: all that is whole numbers; tokens spread over the batch, over all latents;
latents that fire often, once and never, and dead ones, over all tokens; and all errors, from random
directions (`first_forward`).

Gradients are had from the first moments, m' = beta1 m + (1 - beta1) c g, where c is what clipping
left of them. Adam is then checked on the moments that it had itself: what bfloat16 rounds off a
gradient, its root would magnify.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.engines.cuda.first_forward import (
    MATRICES,
    Kept,
    Made,
    choice_fault,
    chunks,
    counts_fault,
    error_fault,
    keep,
)
from deconstruct.sae.spec import aux_tokens, pace_of

log = logging.getLogger(__name__)

CLOSE = 0.03
"""Of gradients, relative to a row's length and to that of its parts if these were independent.
Some 0.004 are seen (tests/sae/cuda/test_first_step.py)."""
AUXK_CLOSE = 0.25
"""Of AuxK's, together: which dead latents are a token's largest, bfloat16 may decide otherwise."""
EXACT = 1e-3
"""Of float32 arithmetic."""
ROUNDED = 1e-6
"""Of a float32 that is divided by a row's norm: a card's roots and quotients are approximate."""
Rows = dict[str, Tensor]
__all__ = ["fault", "keep"]


def fault(kept: Kept, buffers: Buffers) -> str | None:
    """What is off in the step that was made since, in a sentence; None where nothing is, or where
    there was infinity or no number before it. Waits for the device."""
    if not (kept.pre.isfinite().all() and kept.z.isfinite().all()):
        return None
    made = Made(kept, buffers)
    for check in (counts_fault, choice_fault, error_fault, gradients_fault):
        if said := check(made):
            return f"in the run's first step, held against float64, {said}"
    return None


def gradients_fault(made: Made) -> str | None:
    """The second half: gradients of sampled latents over all tokens, and what Adam makes of
    them."""
    sums = Sums(made)
    if sums.fault:
        return sums.fault
    found = {name: _gradient(made, name, made.kept.latents) for name in sums.rows}
    certain = ~made.kept.dead[made.kept.latents]
    clip = _clip(made, sums, found, certain)
    if clip is None:
        return _adam_fault(made)
    return (
        _rows_fault(made, sums, found, certain, clip)
        or _biases_fault(made, clip)
        or _clip_fault(made, clip)
        or _adam_fault(made)
    )


class Sums:
    """The gradient of the sampled latents over all tokens, float64, W_dec's without its part along
    the row.

    rows: by name. spread: by name, [n], how long a row were if its parts were independent. fault:
    where one of them is chosen by a token that should not have, or left out.
    """

    def __init__(self, made: Made) -> None:
        kept, spec, b = made.kept, made.spec, made.buffers
        n, latents = len(kept.latents), kept.latents
        self._w = {name: kept.rows[name].double() for name in MATRICES}
        self.rows = {name: torch.zeros_like(w) for name, w in self._w.items()}
        self.rows["b_enc"] = self.rows["W_dec"].new_zeros(n)
        self.spread = {name: self.rows["W_dec"].new_zeros(n) for name in self.rows}
        self.fault: str | None = None
        nests = b.nest[latents]
        for some in chunks(spec.batch, max(spec.d_in, made.index.shape[1] * n)):
            x, match = kept.centered(some), made.index[some, :, None] == latents
            chosen = match.any(1)
            value = (match * made.value[some, :, None]).sum(1).double()
            pre = x @ self._w["W_enc"].mT + kept.rows["b_enc"].double()
            off = made.off(pre, x, latents)
            border = torch.where(chosen, torch.inf, made.border[some, None])
            same = ~chosen | ((value - pre.clamp(min=0)).abs() <= off)
            if not bool((same & (pre - off <= border)).all()):
                self.fault = "a latent fires on other tokens, or otherwise, than it should"
                return
            for nest, error in enumerate(b.error[:, some]):
                self._add(x, error.double(), value, chosen * (nests == nest))
        if kept.dead_rows is not None:
            self._add_auxk(made, kept.dead_rows)
        scale, w = b.scale, self._w["W_dec"]
        for name, rows in self.rows.items():
            rows.mul_(scale)
            self.spread[name].sqrt_().mul_(scale)
        self.rows["W_dec"] -= (self.rows["W_dec"] * w).sum(1, keepdim=True) * w

    def _add(self, x: Tensor, error: Tensor, value: Tensor, chosen: Tensor) -> None:
        """The part of tokens whose active pairs are given, [tokens, n]."""
        value = value * chosen
        slope = (error @ self._w["W_dec"].mT) * chosen
        self.rows["W_dec"] += value.mT @ error
        self.rows["W_enc"] += slope.mT @ x
        self.rows["b_enc"] += slope.sum(0)
        errors, inputs = (t.square().sum(1)[:, None] for t in (error, x))
        typical = chosen * errors / error.shape[1]  # of slopes, which are sums that may cancel
        self.spread["W_dec"] += (value.square() * errors).sum(0)
        self.spread["W_enc"] += (typical * inputs).sum(0)
        self.spread["b_enc"] += typical.sum(0)

    def _add_auxk(self, made: Made, dead: Rows) -> None:
        """The dead latents' part in what the living ones left over of the first tokens."""
        spec, kept = made.spec, made.kept
        some, n = aux_tokens(spec.batch), len(dead["b_enc"])
        x, error = kept.centered(slice(some)), made.buffers.error[-1, :some].double()
        z = (x @ dead["W_enc"].mT + dead["b_enc"]).relu()
        if spec.k_aux < n:
            best = z.topk(spec.k_aux, dim=1)
            z = torch.zeros_like(z).scatter_(1, best.indices, best.values)
        tokens = 2 / made.buffers.scale  # by which gradients are divided later on
        e = (error + z @ dead["W_dec"]) * (spec.aux_weight(n) * tokens / some)
        places = kept.dead.nonzero().squeeze(1)
        here = torch.isin(places, kept.latents)
        slope = ((e @ dead["W_dec"].mT) * (z > 0))[:, here]
        at = torch.isin(kept.latents, places)  # both ascend
        self.rows["W_dec"][at] += z[:, here].mT @ e
        self.rows["W_enc"][at] += slope.mT @ x
        self.rows["b_enc"][at] += slope.sum(0)


def _gradient(made: Made, name: str, at: Tensor | slice = slice(None)) -> Tensor:
    """What Adam was given, float64, by the first moments; nothing where it left a latent alone."""
    before = made.kept.rows if isinstance(at, Tensor) else made.kept.whole
    beta = made.spec.betas[0]
    old, new = before[f"{name}.m"].double(), made.state[f"{name}.m"][at].double()
    given: Tensor = (new - beta * old) / (1 - beta)
    if name == "b_dec":
        return given
    moved = (made.state["updates"] > made.kept.whole["updates"])[at]
    return given * (moved if given.dim() == 1 else moved[:, None])


def _clip(made: Made, sums: Sums, found: Rows, certain: Tensor) -> float | None:
    """What clipping has left of the gradient, by the sampled latents; None where they have none, or
    were all dead."""
    pairs = [(found[name][certain], sums.rows[name][certain]) for name in MATRICES]
    size = sum(float(wanted.square().sum()) for _, wanted in pairs)
    if not size:
        return None
    if math.isinf(made.spec.clip_norm):
        return 1.0
    return sum(float((a * wanted).sum()) for a, wanted in pairs) / size


def _rows_fault(made: Made, sums: Sums, found: Rows, certain: Tensor, clip: float) -> str | None:
    """Rows of the sampled latents; those of dead ones together."""
    for name, wanted in sums.rows.items():
        gap, size = _lengths(found[name] - clip * wanted), _lengths(clip * wanted)
        rounded = (
            ROUNDED * _lengths(made.kept.rows[f"{name}.m"].double()) / (1 - made.spec.betas[0])
        )
        room = size + abs(clip) * sums.spread[name]
        share = (gap / (room + 1e-30))[certain]
        if len(share):
            log.debug("first fused step: gradient of %s within %.2g", name, float(share.max()))
        if not bool((gap <= CLOSE * room + rounded)[certain].all()):
            return f"the gradient of {name} is another"
        if made.kept.dead_rows is not None:
            off, whole = float(gap[~certain].norm()), float((room + rounded)[~certain].norm())
            if not off <= AUXK_CLOSE * whole:
                return f"the gradient of {name} is another in dead latents"
    return None


def _biases_fault(made: Made, clip: float) -> str | None:
    """b_enc's gradient of all latents, and b_dec's from the directions."""
    kept, b, spec = made.kept, made.buffers, made.spec
    scale = b.scale
    given = _gradient(made, "b_enc")
    wanted = given.new_zeros(spec.d_sae + 1)
    wanted.index_add_(0, made.index.flatten(), made.slope.double().flatten())
    wanted = clip * scale * wanted[:-1]
    rounded = ROUNDED * float(kept.whole["b_enc.m"].double().norm()) / (1 - spec.betas[0])
    gap = float(((given - wanted) * ~kept.dead).norm())
    if not gap <= CLOSE * float(wanted.norm()) + rounded:
        return "the gradient of b_enc is another"
    errors = clip * scale * (b.error[0].double().sum(0) @ kept.directions)
    through = given @ kept.seen["W_enc"].double()
    gap = float((_gradient(made, "b_dec") @ kept.directions - (errors - through)).norm())
    rounded = ROUNDED * float(kept.whole["b_dec.m"].double().norm()) / (1 - spec.betas[0])
    size = float(errors.norm() + through.norm() + given.norm())
    if not gap <= CLOSE * size + rounded:
        return "the gradient of b_dec is another"
    return None


def _clip_fault(made: Made, clip: float) -> str | None:
    """The clipping's factor; an upper bound of it, where AuxK adds to the gradient."""
    limit = made.spec.clip_norm
    if math.isinf(limit):
        return None
    norm = _norm(made, clip)
    wanted = min(1.0, limit / norm) if norm else 1.0
    if clip > wanted * (1 + CLOSE) or not (clip >= wanted * (1 - CLOSE) or made.kept.dead.any()):
        return f"the gradient is clipped to {clip:.3g} of itself, not to {wanted:.3g}"
    return None


def _norm(made: Made, clip: float) -> float:
    """Of the whole gradient but for AuxK's part, from the pairs' activations and slopes: rows are
    formed densely, some latents at a time, in float32."""
    kept, spec, b = made.kept, made.spec, made.buffers
    x, squares = kept.centered().float(), 0.0
    for some in chunks(spec.d_sae, max(spec.batch, spec.d_in)):
        n = some.stop - some.start
        here = (made.index >= some.start) & (made.index < some.stop)
        at = torch.where(here, made.index - some.start, n)
        value, slope = (
            x.new_zeros(spec.batch, n + 1).scatter_(1, at, of)[:, :n]
            for of in (made.value, made.slope)
        )
        along = (value * slope).sum(0)  # W_dec's gradient along its rows, which is taken out
        rows = x.new_zeros(n, spec.d_in)
        for nest in sorted(set(b.nest[some].tolist())):
            own = b.nest[some] == nest
            rows[own] = value[:, own].mT @ b.error[nest].float()
        parts = (rows.square(), (slope.mT @ x).square(), slope.sum(0).square())
        squares += sum(float(part.sum(dtype=torch.float64)) for part in parts)
        lengths = kept.norms["W_dec"][some].double().square()  # 1, but for what others trained
        squares -= float((along.double().square() * (2 - lengths)).sum())
    shared = float(_gradient(made, "b_dec").norm()) / (clip or 1.0)
    return math.hypot(b.scale * math.sqrt(max(0.0, squares)), shared)


def _adam_fault(made: Made) -> str | None:
    """Second moments, weights, and their copies in bfloat16."""
    kept, b, latents = made.kept, made.buffers, made.kept.latents
    made_updates = made.state["updates"][latents].double()
    moved = made_updates > kept.whole["updates"][latents]
    for name in (*MATRICES, "b_enc"):
        across = moved if name == "b_enc" else moved[:, None]
        count = made_updates.clamp(min=1)
        if said := _moved_otherwise(made, name, latents, across, count):
            return said
    every = torch.ones((), dtype=torch.bool, device=b.device)
    count = made.state["step"].double()
    if said := _moved_otherwise(made, "b_dec", slice(None), every, count):
        return said
    copies = {"W_enc": b.enc, "W_dec": b.dec, "b_enc": b.bias_half}
    for name, copy in copies.items():
        if not torch.equal(copy[latents], made.state[name][latents].bfloat16()):
            return f"the copy of {name} in bfloat16 is another"
    return None


def _moved_otherwise(
    made: Made, name: str, at: Tensor | slice, moved: Tensor, count: Tensor
) -> str | None:
    """One parameter's rows after Adam's ``count`` updates; what is not moved is left alone."""
    spec, state = made.spec, made.state
    before = made.kept.whole if name == "b_dec" else made.kept.rows
    old, v = before[name].double(), before[f"{name}.v"].double()
    new, m_new, v_new = (state[f"{name}{end}"][at].double() for end in ("", ".m", ".v"))
    if not torch.equal(new.where(~moved, old), old):
        return f"{name} moves where it has no gradient"
    beta1, beta2 = spec.betas
    more = (1 - beta2) * _gradient(made, name, at).square()
    if not _near((v_new - beta2 * v - more) * moved, more, ROUNDED * v.norm()):
        return f"Adam's second moment of {name} is another"
    count = count[:, None] if new.dim() == 2 else count
    rate = float(made.buffers.rates[int(state["step"]) - 1]) * pace_of(spec, name)
    below = (v_new / (1 - beta2**count)).sqrt() + spec.epsilon
    target = old - moved * rate / (1 - beta1**count) * m_new / below
    if name == "W_dec":
        target = torch.where(moved, target / target.norm(dim=1, keepdim=True).clamp(1e-30), old)
    if not _near((new - target), target - old, ROUNDED * old.norm()):
        return f"{name} moves otherwise than by Adam"
    return None


def _near(gap: Tensor, of: Tensor, rounded: Tensor) -> bool:
    return bool(gap.norm() <= EXACT * of.norm() + rounded + 1e-30)


def _lengths(rows: Tensor) -> Tensor:
    return rows.abs() if rows.dim() == 1 else rows.norm(dim=1)
