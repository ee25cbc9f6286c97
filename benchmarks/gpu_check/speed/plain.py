"""A TopK SAE as it is written in plain torch: float32 weights, bf16 autocast, fused Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_check.inputs import start_weights
from deconstruct.sae.spec import StepSpec


class PlainTopK:
    """Weights, `torch.optim.Adam` and the step by autograd; no AuxK.

    rate: of all steps. compiled: whether torch.compile makes the loss and what is done by rows.
    """

    def __init__(self, spec: StepSpec, rate: float, device: str, compiled: bool) -> None:
        start = start_weights(spec, device)
        self.weights = {n: w.contiguous().clone().requires_grad_() for n, w in start.items()}
        parameters = list(self.weights.values())
        self.adam = torch.optim.Adam(parameters, lr=rate, fused=device == "cuda")
        self.device, self.k, self.clip_norm = device, spec.k, spec.clip_norm

        def made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return torch.compile(function, dynamic=False) if compiled else function

        self._loss, self._across, self._unit = made(_loss), made(_across), made(_unit)

    def step(self, x: Tensor) -> None:
        """Train on x, float32 [batch, d_in]."""
        with torch.autocast(self.device, torch.bfloat16):
            loss = self._loss(x, *self.weights.values(), self.k)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            W_dec = self.weights["W_dec"]
            assert W_dec.grad is not None
            W_dec.grad.copy_(self._across(W_dec.grad, W_dec))
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip_norm, foreach=True)
            self.adam.step()
            W_dec.copy_(self._unit(W_dec))
        self.adam.zero_grad()


def _loss(x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int) -> Tensor:
    """Mean of |x' - x|^2 over the tokens."""
    pre = torch.relu((x - b_dec) @ W_enc + b_enc)
    top = pre.topk(k, dim=1, sorted=False)
    active = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    error = active @ W_dec + b_dec - x
    return error.float().square().sum(1).mean()


def _across(grad: Tensor, w: Tensor) -> Tensor:
    """The part of each gradient row that is at right angles to its weight row."""
    return grad - (grad * w).sum(1, keepdim=True) * w


def _unit(w: Tensor) -> Tensor:
    """Rows of norm 1."""
    found: Tensor = w / w.norm(dim=1, keepdim=True)
    return found
