"""The self-check of the fused GPU step: two steps of a small SAE, beside the dense ones.

A kernel that one card, driver or version of Triton compiles wrongly trains without complaint, and
worse. So before the first run of a process, two steps are made by the fused engine and by the dense
one, from the same weights on the same batch, and compared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from deconstruct.sae.architectures.topk import TopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import Engine
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import NAMES, StepSpec

Builder = Callable[[StepSpec, Mapping[str, Tensor], Tensor, str], Engine]
"""The fused engine's class: of spec, weights, learning rates, device."""
log = logging.getLogger(__name__)

TOLERANCE = 0.03
"""Relative difference, of losses and of what weights moved by, that bfloat16 products account for.
Some 0.005 are seen (tests/sae/cuda/test_choice.py)."""
CHECKED_TOKENS = 64
CHECKED_LATENTS = 256


def check_spec(spec: StepSpec) -> StepSpec:
    """A small step through the same kernels: rows of the same width and as many active latents.

    Its gradient is clipped to a norm at which Adam's epsilon is about a gradient's entry: then the
    first step is neither the gradient's sign, which magnifies what is rounded off, nor blind to the
    second moment.
    """
    batch, d_sae = (
        min(spec.batch, CHECKED_TOKENS),
        min(spec.d_sae, max(CHECKED_LATENTS, 4 * spec.k)),
    )
    norm = 0.01
    ends = {max(1, end * d_sae // spec.d_sae) for end in spec.prefixes}
    return StepSpec(
        spec.architecture,
        batch,
        spec.d_in,
        d_sae,
        spec.k,
        penalty=0.0,
        clip_norm=norm,
        k_aux=max(1, d_sae // 32),
        aux_coefficient=0.5,
        dead_after=100 * batch,
        betas=spec.betas,
        epsilon=norm / (2 * spec.d_in * d_sae) ** 0.5,
        prefixes=tuple(sorted(ends)),
        optimizer=spec.optimizer,
    )


@cache
def disagreement(build: Builder, spec: StepSpec, device: str) -> str | None:
    """Where two steps of ``spec`` by the fused engine and by `DenseEngine` differ by more than
    bfloat16 accounts for, in a sentence; None where they agree. Raises whatever compiling the
    kernels raises."""
    weights = initial_weights(spec, 0)
    # Active everywhere, by 8 deviations: the pairs of a latent are then summed in blocks, too.
    weights["b_enc"][0] = 4 / math.sqrt(spec.d_in)
    dead = torch.arange(spec.d_sae) % 3 == 1
    weights["W_enc"][:, dead] *= 0.3  # seldom active
    z = decided_tokens(spec, weights, dead)
    rates = torch.full((2,), 1e-5)
    fused = build(spec, weights, rates, device)
    dense = DenseEngine(spec, weights, rates, device, torch.float32)
    silent = spec.dead_after * dead.long()
    for engine in (fused, dense):
        engine.load_state_dict({**engine.state_dict(), "since_fired": silent})
        engine.step(z)
        engine.state_dict()["since_fired"].copy_(silent)  # the live tensor
        engine.step(z)
    for step in range(2):
        found, wanted = float(fused.losses[step]), float(dense.losses[step])
        if not abs(found - wanted) <= TOLERANCE * wanted:  # not a number: neither
            return f"in a check, the fused GPU step's loss is {found:.4g}, not {wanted:.4g}"
    moved, wanted_moves = fused.weights(), dense.weights()
    for name in NAMES:
        wanted_move = wanted_moves[name] - weights[name]
        gap = float((moved[name] - wanted_moves[name]).norm() / wanted_move.norm())
        if not gap <= TOLERANCE:
            return f"in a check, {name} moves otherwise than by the dense step, by {gap:.1%}"
        log.debug("self-check of the fused GPU step: %s within %.2g", name, gap)
    return None


def decided_tokens(spec: StepSpec, weights: Mapping[str, Tensor], dead: Tensor) -> Tensor:
    """Tokens [batch, d_in] whose active latents, and AuxK's, bfloat16 can't take for others.

    Where a batch shares its latents, they are as long as it takes for their k-th places to go for
    the same activation: then the batch * k largest of all are the k largest of each.
    """
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(64 * spec.batch, spec.d_in, generator=draw) / math.sqrt(spec.d_in)
    if spec.architecture != TopK.name:
        border = _border(z @ weights["W_enc"] + weights["b_enc"], spec.k)
        common = border.median()
        alike = ((border > 0) == (common > 0)).squeeze(1)
        z = (z * (common / border if common > 0 else 1.0))[alike]
    pre = z @ weights["W_enc"] + weights["b_enc"]
    margin = torch.minimum(_margin(pre, spec.k), _margin(pre[:, dead], spec.k_aux))
    return z[margin.topk(spec.batch).indices]


def _border(pre: Tensor, k: int) -> Tensor:
    """Between each row's active entries and the others, [n, 1]; 0 where all positive ones are."""
    if k >= pre.shape[1]:
        return torch.zeros(len(pre), 1)
    border: Tensor = pre.topk(k + 1, dim=1).values[:, -2:].mean(1, keepdim=True).clamp(min=0)
    return border


def _margin(pre: Tensor, k: int) -> Tensor:
    """How far each row's entries [n, d] stay off the border between active and not: [n]."""
    margin: Tensor = (pre - _border(pre, k)).abs().amin(1)
    return margin
