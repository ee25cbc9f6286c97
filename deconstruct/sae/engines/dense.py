"""The training step in plain dense PyTorch: any architecture, any device.

It is the path where the sparse engines can't run, or have nothing to gain: on GPUs for all but
TopK, and in the reference that they are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import Inputs
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import Control
from deconstruct.sae.engines.dense_adam import DenseAdam
from deconstruct.sae.engines.ranks import anywhere, average
from deconstruct.sae.spec import StepSpec


class DenseEngine:
    """Parameters, optimiser, and the step by autograd."""

    def __init__(
        self,
        spec: StepSpec,
        weights: Mapping[str, Tensor],
        learning_rates: Tensor,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.losses = torch.zeros(len(learning_rates), device=device)
        self._rates = learning_rates.tolist()
        self._architecture = ARCHITECTURES[spec.architecture]
        self._done = 0
        self._control = Control(spec, device)
        self._parameters = {
            name: weight.detach().float().clone().to(device).requires_grad_()
            for name, weight in weights.items()
        }
        self._optimizer = DenseAdam(spec, self._rates, self._parameters)
        self._since_fired = torch.zeros(spec.d_sae, dtype=torch.int64, device=device)
        self._l0 = torch.zeros((), device=device)

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates; target: a transcoder's."""
        device = self.losses.device
        z = z.to(device, non_blocking=True)
        target = z if target is None else target.to(device, non_blocking=True)
        dead = self._since_fired >= self.spec.dead_after
        inputs = Inputs(z, target, dead, self._control.penalty(self._done))
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            terms = self._architecture.loss(self._parameters, inputs, self.spec)
        for parameter in self._parameters.values():
            parameter.grad = None
        terms.loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        fired = terms.active > 0
        least = torch.zeros_like(terms.squared) if terms.threshold is None else terms.threshold
        figures = torch.stack([terms.squared, fired.sum() / len(z), least.to(terms.squared)])
        average([*(p.grad for p in self._parameters.values() if p.grad is not None), figures])
        self._update()
        self._since_fired = (self._since_fired + self.spec.batch) * ~anywhere(fired.any(0))
        self._l0 = figures[1]
        self._control.observe(self._done, self._l0, None if terms.threshold is None else figures[2])
        self.losses[self._done] = figures[0]
        self._done += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies on the CPU, names and shapes as in `Engine.weights`."""
        found = {name: p.detach().cpu().clone() for name, p in self._parameters.items()}
        return self._control.finish(found)

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint."""
        state = {name: p.detach() for name, p in self._parameters.items()}
        step = torch.tensor([self._done])
        counts = {"since_fired": self._since_fired, "losses": self.losses, "step": step}
        return state | counts | self._optimizer.state() | self._control.state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ``KeyError`` where a tensor is missing."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        self._done = int(state["step"])

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
        dead = self._since_fired >= self.spec.dead_after
        return float(self._l0), float(dead.float().mean())

    @torch.no_grad()
    def _update(self) -> None:
        W_dec = self._parameters["W_dec"]
        assert W_dec.grad is not None
        if self._architecture.unit_norm:
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.spec.clip_norm)
        self._optimizer.step(self._done)
        if self._architecture.unit_norm:
            W_dec /= W_dec.norm(dim=1, keepdim=True)
        if "threshold" in self._parameters:
            self._parameters["threshold"].clamp_(min=0)
