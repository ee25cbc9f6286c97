"""The optimisers of `cpu.adam` in plain dense PyTorch, for any device and layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deconstruct.sae.spec import SHARED, StepSpec, pace_of


class DenseAdam:
    """`cpu.adam.RowAdam` over tensors as autograd has them: W_enc is [d_in, d_sae]; over those
    alone that are trained."""

    def __init__(
        self, spec: StepSpec, rates: list[float], parameters: Mapping[str, Tensor]
    ) -> None:
        self.spec, self.rates, self.parameters = spec, rates, parameters
        self.moments = {
            f"{name}.{end}": torch.zeros_like(p.detach())
            for name, p in parameters.items()
            for end in ("m", "v")
        }
        device = next(iter(parameters.values())).device
        self.updates = torch.zeros(spec.d_sae, dtype=torch.int32, device=device)

    def state(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint."""
        return {**self.moments, "updates": self.updates}

    @torch.no_grad()
    def step(self, done: int) -> None:
        """Update parameters in place from their gradients, which are used up."""
        beta1, beta2 = self.spec.betas
        touched = torch.full_like(self.updates, self.spec.optimizer == "adam", dtype=torch.bool)
        for name, p in self.parameters.items():
            if name not in SHARED and p.grad is not None:
                touched |= by_latent(p.grad, name).ne(0).any(1)
        self.updates += touched
        made = self.updates.clamp(min=1).double()
        for name, p in self.parameters.items():
            assert p.grad is not None
            grad, mean, square = p.grad, self.moments[f"{name}.m"], self.moments[f"{name}.v"]
            if name in SHARED:
                moves, count = torch.ones((), device=p.device), torch.tensor(done + 1.0).double()
            else:
                across = (1, -1) if name == "W_enc" else (-1, *(1 for _ in p.shape[1:]))
                moves, count = touched.view(across).float(), made.view(across)
            count = count.to(p.device)
            mean.add_((grad - mean).mul_((1 - beta1) * moves))
            square.add_(grad.square_().sub_(square).mul_((1 - beta2) * moves))
            step = self.rates[done] * pace_of(self.spec, name) / (1 - beta1**count)
            root = (1 - beta2**count).rsqrt()
            below = (square.sqrt() * root.float()).add_(self.spec.epsilon)
            p.sub_(mean * (step.float() * moves) / below)


def by_latent(tensor: Tensor, name: str) -> Tensor:
    """A latent a row."""
    rows = tensor.T if name == "W_enc" else tensor
    return rows.reshape(len(rows), -1)
