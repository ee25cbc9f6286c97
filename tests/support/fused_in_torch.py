"""The fused TopK step by torch on a CPU, into the same buffers, with the same roundings: at widths
that are too large for Triton's interpreter. Without AuxK."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.spec import pace_of


def fused_in_torch(b: Buffers, z: Tensor) -> None:
    """What `FusedTopK.step` does, in one pass after another."""
    spec, state = b.spec, b.state
    state["step"] += 1
    b.centered.copy_(z - state["b_dec"])
    b.pre.copy_(b.centered.float() @ b.enc.float().mT + b.bias_half.float())
    _choose(b)
    _decode(b)
    gradients = _gradients(b)
    _count(b)
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    for name, gradient in gradients.items():
        _move(b, name, gradient * min(1.0, spec.clip_norm / norm))
    b.refresh_copies()


def _choose(b: Buffers) -> None:
    key, k, f = b.pre.float().clamp(min=0), b.spec.k, b.spec.d_sae
    best = key.argsort(dim=1, descending=True, stable=True)[:, :k]
    index = torch.where(key.gather(1, best) > 0, best, f).sort(1).values
    flat = index.flatten()
    b.index.copy_(flat)
    b.value.copy_((key.gather(1, index.clamp(max=f - 1)) * (index < f)).flatten())
    counts = torch.bincount(flat, minlength=f + 1)[:f]
    b.row_ptr[1:] = counts.cumsum(0)
    b.order.copy_(flat.sort(stable=True).indices)
    b.runs["token"].copy_(b.order // k)
    b.runs["value"].copy_(b.value[b.order])


def _decode(b: Buffers) -> None:
    for at in range(0, b.spec.batch, 64):
        some = slice(at, at + 64)
        index = rows(b, b.index)[some].long()
        w = b.dec[index.clamp(max=b.spec.d_sae - 1)].float() * (index < b.spec.d_sae)[:, :, None]
        e = (w * rows(b, b.value)[some, :, None]).sum(1) - b.centered[some].float()
        b.error[0, some] = e.bfloat16()
        b.loss[0, some] = e.square().sum(1)
        rows(b, b.slope)[some] = (w * e[:, None]).sum(2)
    b.runs["slope"].copy_(b.slope[b.order])
    b.state["losses"][int(b.state["step"]) - 1] = b.loss.mean()


def rows(b: Buffers, pairs: Tensor) -> Tensor:
    """[B * k] as [B, k]."""
    return pairs.view(b.spec.batch, b.spec.k)


def _gradients(b: Buffers) -> dict[str, Tensor]:
    spec, scale = b.spec, 2 / b.spec.batch
    dense = torch.zeros(2, spec.batch, spec.d_sae + 1)
    value, slope = (d.scatter_(1, rows(b, b.index).long(), rows(b, of))[:, :-1]
                    for d, of in zip(dense, (b.value, b.slope), strict=True))  # fmt: skip
    of_dec, w = value.mT @ b.error[0].float(), b.state["W_dec"]
    biases = slope.sum(0)
    return {
        "W_dec": scale * (of_dec - (of_dec * w).sum(1, keepdim=True) * w),
        "W_enc": scale * (slope.mT @ b.centered.float()),
        "b_enc": scale * biases,
        "b_dec": scale * (b.error[0].float().sum(0) - biases @ b.enc.float()),
    }


def _count(b: Buffers) -> None:
    fired = b.row_ptr[1:] > b.row_ptr[:-1]
    state = b.state
    state["since_fired"].copy_(torch.where(fired, 0, state["since_fired"] + b.spec.batch))
    state["updates"] += fired


def _move(b: Buffers, name: str, g: Tensor) -> None:
    """Adam, of latents that fired."""
    spec, (w, m, v) = b.spec, (b.state[f"{name}{end}"] for end in ("", ".m", ".v"))
    beta1, beta2 = spec.betas
    moved, count = torch.tensor(True), b.state["step"].double()
    if name != "b_dec":
        moved, count = b.row_ptr[1:] > b.row_ptr[:-1], b.state["updates"].clamp(min=1).double()
        if w.dim() == 2:
            moved, count = moved[:, None], count[:, None]
    m.copy_(torch.where(moved, beta1 * m + (1 - beta1) * g, m))
    v.copy_(torch.where(moved, beta2 * v + (1 - beta2) * g * g, v))
    rate = float(b.rates[int(b.state["step"]) - 1]) * pace_of(spec, name) / (1 - beta1**count)
    new = w - rate.float() * m / (v.sqrt() * (1 - beta2**count).rsqrt().float() + spec.epsilon)
    if name == "W_dec":
        new = new / new.norm(dim=1, keepdim=True)
    w.copy_(torch.where(moved, new, w))
