"""The fused step by torch on a CPU, into the same buffers, with the same roundings: at widths
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
    """The largest of each row, or of the batch; slots of a row that nothing fires in are F."""
    key, k, f = b.pre.float().clamp(min=0), b.spec.k, b.spec.d_sae
    if b.per_batch:
        flat = key.flatten().argsort(descending=True, stable=True)[: len(b.index)]
        flat = flat[key.flatten()[flat] > 0].sort().values
        token, index = flat // f, flat % f
        b.token_ptr[1:] = torch.bincount(token, minlength=len(key)).cumsum(0)
        b.index.fill_(f)
        b.value.zero_()
        b.index[: len(flat)], b.token[: len(flat)] = index.int(), token.int()
        b.value[: len(flat)] = key[token, index]
    else:
        best = key.argsort(dim=1, descending=True, stable=True)[:, :k]
        index = torch.where(key.gather(1, best) > 0, best, f).sort(1).values
        b.index.copy_(index.flatten())
        b.value.copy_((key.gather(1, index.clamp(max=f - 1)) * (index < f)).flatten())
    b.row_ptr[1:] = torch.bincount(b.index, minlength=f + 1)[:f].cumsum(0)
    b.order.copy_(b.index.sort(stable=True).indices)
    for name, of in (("token", b.token), ("value", b.value)):
        b.runs[name].copy_(of[b.order])


def rows(b: Buffers, pairs: Tensor) -> Tensor:
    """[B * k] as [B, k]."""
    return pairs.view(b.spec.batch, b.spec.k)


def _dense(b: Buffers, of: Tensor) -> Tensor:
    """[P] as [B, F]."""
    into = torch.zeros(b.spec.batch, b.spec.d_sae + 1)
    into[b.token.long(), b.index.long()] = of
    return into[:, :-1]


def _decode(b: Buffers) -> None:
    value, w = _dense(b, b.value), b.dec.float()
    left = torch.stack([value[:, :end] @ w[:end] for end in b.ends]) - b.centered.float()
    error = left.flip(0).cumsum(0).flip(0)
    b.error.copy_(error)
    b.loss.copy_(error.square().sum(2))
    real = b.index < b.spec.d_sae
    slopes = torch.cat([error[n] @ w[b.nest == n].mT for n in range(len(error))], dim=1)
    b.slope.copy_(slopes[b.token.long(), b.index.clamp(max=b.spec.d_sae - 1).long()] * real)
    b.runs["slope"].copy_(b.slope[b.order])
    b.state["losses"][int(b.state["step"]) - 1] = b.loss[-1].mean()


def _gradients(b: Buffers) -> dict[str, Tensor]:
    scale, value, slope = b.scale, _dense(b, b.value), _dense(b, b.slope)
    of_dec = torch.cat([value[:, b.nest == n].mT @ e.float() for n, e in enumerate(b.error)])
    w, biases = b.state["W_dec"], slope.sum(0)
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
