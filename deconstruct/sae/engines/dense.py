"""The training step in plain dense PyTorch: any architecture, any device.

It is the path where the sparse engines can't run, or have nothing to gain: on GPUs for all but
TopK, BatchTopK and Matryoshka, and in the reference that they are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from deconstruct.common.hardware import pick_dtype
from deconstruct.sae.architectures.base import Inputs
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import Control
from deconstruct.sae.engines.dense_adam import DenseAdam
from deconstruct.sae.engines.engine import Engine, counts, is_dense, turned
from deconstruct.sae.engines.ranks import anywhere, average
from deconstruct.sae.spec import StepSpec


class DenseEngine(Engine):
    """The step by autograd; W_enc [d_in, d_sae] in checkpoints, too."""

    title = "the dense step"

    def __init__(
        self,
        spec: StepSpec,
        weights: Mapping[str, Tensor],
        learning_rates: Tensor,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self._architecture = ARCHITECTURES[spec.architecture]
        self._control = Control(spec, device)
        self._parameters = {
            name: weight.detach().float().clone().to(device).requires_grad_(name not in spec.still)
            for name, weight in weights.items()
        }
        self._trained = {n: p for n, p in self._parameters.items() if p.requires_grad}
        self._optimizer = DenseAdam(spec, learning_rates.tolist(), self._trained)
        self._mean_l0 = torch.zeros((), device=device)
        state = {name: p.detach() for name, p in self._parameters.items()}
        state |= self._optimizer.state() | self._control.state()
        super().__init__(spec, state | counts(spec, len(learning_rates), device))

    @classmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """Nothing."""
        return None

    @classmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """With products in the dtype that is fast on the device, where ``dtype`` is "auto"."""
        return cls(spec, weights, rates, device, pick_dtype(dtype, device))

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates; target: a transcoder's."""
        state, device = self._state, self.losses.device
        done = int(state["step"])
        z = z.to(device, non_blocking=True)
        target = z if target is None else target.to(device, non_blocking=True)
        dead = state["since_fired"] >= self.spec.dead_after
        inputs = Inputs(z, target, dead, self._control.penalty(done))
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            terms = self._architecture.loss(self._parameters, inputs, self.spec)
        for parameter in self._trained.values():
            parameter.grad = None
        terms.loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        fired = terms.active > 0
        least = torch.zeros_like(terms.squared) if terms.threshold is None else terms.threshold
        figures = torch.stack([terms.squared, fired.sum() / len(z), least.to(terms.squared)])
        average([*(p.grad for p in self._trained.values() if p.grad is not None), figures])
        self._update(done)
        state["since_fired"].add_(self.spec.batch).mul_(~anywhere(fired.any(0)))
        self._mean_l0 = figures[1]
        self._control.observe(done, figures[1], None if terms.threshold is None else figures[2])
        self.losses[done] = figures[0]
        state["step"] += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies on the CPU, names and shapes as in `Engine.weights`."""
        found = {name: p.detach().cpu().clone() for name, p in self._parameters.items()}
        return self._control.finish(found)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`, or that of an engine that has a latent a row, and of the
        control all, the threshold or nothing. Raises ``KeyError`` where a tensor is missing."""
        if not is_dense(state):
            state = self._control.state() | turned(state)
        super().load_state_dict(state)

    def _l0(self) -> float:
        return float(self._mean_l0)

    def _refresh(self) -> None:
        """All is in the state."""

    @torch.no_grad()
    def _update(self, done: int) -> None:
        W_dec = self._parameters["W_dec"]
        unit_norm = self._architecture.unit_norm and "W_dec" in self._trained
        if unit_norm:
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(self._trained.values(), self.spec.clip_norm)
        self._optimizer.step(done)
        if unit_norm:
            W_dec /= W_dec.norm(dim=1, keepdim=True)
        if "threshold" in self._parameters:
            self._parameters["threshold"].clamp_(min=0)
