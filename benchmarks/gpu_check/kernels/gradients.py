"""A step's gradients in float64, their norm, and the factor that clips it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_check.kernels.auxk import DeadGradients
from benchmarks.gpu_check.kernels.findings import relative
from benchmarks.gpu_check.kernels.forward import firings
from benchmarks.gpu_check.kernels.made import Made


@dataclass(frozen=True)
class Gradients:
    """Float64, unclipped. rows: of W_dec and W_enc, [d_sae, d_in]. biases: of b_enc and b_dec.
    factor: what clipping multiplies them all by."""

    rows: dict[str, Tensor]
    biases: dict[str, Tensor]
    factor: float


def check_gradients(made: Made, aux: DeadGradients | None) -> Gradients:
    """Gradients of the biases, and the norm of all with what is made of it.

    Rows are never written by the step: what the optimiser makes of them is checked later.
    """
    spec, b, findings = made.spec, made.buffers, made.findings
    flat, _ = firings(made)
    b_enc = torch.zeros(spec.d_sae + 1, dtype=torch.float64, device=flat.device)
    b_enc.index_add_(0, flat, b.slope.flatten().double())
    b_enc = b_enc[:-1]
    if aux is not None:
        b_enc = b_enc + aux.b_enc
    sure = slice(None) if aux is None else ~aux.dead
    findings.at_most("gradient of b_enc", relative(b.grad["b_enc"][sure], b_enc[sure]), 1e-4)
    b_dec = b.error[0].double().sum(0) - b.grad["b_enc"].double() @ made.enc.double()
    findings.at_most("gradient of b_dec", relative(b.grad["b_dec"], b_dec), 1e-3)
    scale = 2.0 / spec.batch
    biases = {"b_enc": scale * b_enc, "b_dec": scale * b_dec}
    rows = {name: scale * _rows(made, name, aux) for name in ("W_dec", "W_enc")}
    squares = sum(float(g.square().sum()) for g in (*biases.values(), *rows.values()))
    return Gradients(rows, biases, _check_clip(made, squares**0.5))


def _rows(made: Made, name: str, aux: DeadGradients | None) -> Tensor:
    """Sums over the firing pairs and AuxK's, [d_sae, d_in]; W_dec's at right angles to its rows."""
    spec, b = made.spec, made.buffers
    rows, factor = (b.error[0], b.value) if name == "W_dec" else (b.centered, b.slope)
    factor, index = made.by_token(factor), made.by_token(b.index)
    total = torch.zeros(spec.d_sae + 1, spec.d_in, dtype=torch.float64, device=rows.device)
    for part in made.pieces(spec.k * spec.d_in):
        pairs = factor[part].double().unsqueeze(2) * rows[part].double().unsqueeze(1)
        total.index_add_(0, index[part].flatten().long(), pairs.view(-1, spec.d_in))
        del pairs
    total = total[:-1]
    if aux is not None:
        total[aux.listed] += aux.rows[name]
    if name == "W_dec":
        w = made.before[name].double()
        total -= w * (total * w).sum(1, keepdim=True)
    return total


def _check_clip(made: Made, norm: float) -> float:
    """The norm's bound and the factor; returns the step's own factor, which the rest goes by."""
    b, findings, limit = made.buffers, made.findings, made.spec.clip_norm
    findings.note("gradient's norm", norm, limit)
    if math.isinf(limit):
        return 1.0
    bound = float(b.norm_bound[0]) ** 0.5
    findings.at_most("norm over its bound", norm / bound, 1.0)
    findings.note("bound over norm", bound / norm)
    factor = min(1.0, limit / norm)
    findings.at_most("clip's factor", abs(float(b.clip) - factor) / factor, 5e-3)
    return float(b.clip)
