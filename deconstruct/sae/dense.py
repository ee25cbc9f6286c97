"""The training step in plain dense PyTorch: any architecture, any device.

It is the path for ReLU + L1, most of whose latents fire early in training, so that sparse work
would be slower there, and for TopK where the sparse engines can't run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deconstruct.sae.engine import NAMES, StepSpec


class DenseEngine:
    """Parameters, torch's fused Adam, and the step by autograd.

    loss = mean |e|^2 + l1_coefficient * mean sum(a) for ReLU, where decoder rows of unit norm keep
    the penalty honest. Dead latents are revived by AuxK (topk), or, as a dead ReLU gives AuxK
    nothing to hold on to, by a pull of their negative pre-activations towards zero (relu; the
    pre-activation loss of Anthropic's January 2025 update).
    """

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
        self._done = 0
        self._parameters = {
            name: weights[name].detach().float().clone().to(device).requires_grad_()
            for name in NAMES
        }
        self._adam = torch.optim.Adam(
            self._parameters.values(), lr=0.0, betas=spec.betas, eps=spec.epsilon, fused=True
        )
        self._since_fired = torch.zeros(spec.d_sae, dtype=torch.int64, device=device)
        self._l0 = torch.zeros((), device=device)
        for parameter in self._parameters.values():  # so that a checkpoint can be loaded into it
            parameter.grad = torch.zeros_like(parameter)
        self._adam.step()

    def step(self, z: Tensor) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates."""
        z = z.to(self.losses.device, non_blocking=True)
        dead = self._since_fired >= self.spec.dead_after
        loss, squared, fired = self._loss(z, dead)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        self._since_fired = (self._since_fired + self.spec.batch) * ~fired.any(0)
        self._l0 = fired.sum() / len(z)
        self.losses[self._done] = squared
        self._done += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec."""
        return {name: p.detach().cpu().clone() for name, p in self._parameters.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint."""
        state = {name: p.detach() for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            moments = self._adam.state[parameter]
            state[f"{name}.m"], state[f"{name}.v"] = moments["exp_avg"], moments["exp_avg_sq"]
        step = torch.tensor([self._done])
        return {**state, "since_fired": self._since_fired, "losses": self.losses, "step": step}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ``KeyError`` where a tensor is missing."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        self._done = int(state["step"])

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
        dead = self._since_fired >= self.spec.dead_after
        return float(self._l0), float(dead.float().mean())

    def _loss(self, z: Tensor, dead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its reconstruction part, and which latents fire on which token."""
        spec, p = self.spec, self._parameters
        with torch.autocast(z.device.type, self.dtype, enabled=self.dtype != torch.float32):
            pre = (z - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
            active = _top(pre, spec.k) if spec.architecture == "topk" else pre.relu()
            error = active @ p["W_dec"] + p["b_dec"] - z
        squared = error.float().square().sum(1).mean()
        loss = squared
        if spec.architecture == "relu":
            loss = loss + spec.l1_coefficient * active.float().sum(1).mean()
            pull = (-pre.float()).relu() * dead
            loss = loss + spec.aux_coefficient * pull.sum(1).mean() / spec.d_sae
        elif spec.k_aux and bool(dead.any()):
            aux = _top(pre.masked_fill(~dead, 0), min(spec.k_aux, int(dead.sum())))
            off = aux.float() @ p["W_dec"] + error.detach().float()
            weight = spec.aux_coefficient * min(1.0, int(dead.sum()) / spec.k_aux)
            loss = loss + weight * off.square().sum(1).mean()
        return loss, squared.detach(), active.detach() > 0

    @torch.no_grad()
    def _update(self) -> None:
        W_dec = self._parameters["W_dec"]
        assert W_dec.grad is not None
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.spec.clip_norm)
        self._adam.param_groups[0]["lr"] = self._rates[self._done]
        for parameter in self._parameters.values():
            self._adam.state[parameter]["step"].fill_(self._done)
        self._adam.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)


def _top(pre: Tensor, k: int) -> Tensor:
    """relu(pre), but for the k largest of each row zero."""
    kept = pre.relu().topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
