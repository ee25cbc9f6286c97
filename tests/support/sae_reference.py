"""One TopK step in dense float64, which those of the CPU and of the GPU are tested against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec, pace_of

TRIED = {
    "seed": st.integers(0, 999),
    "dead_share": st.sampled_from([0.0, 0.3, 1.0]),
    "k_aux": st.integers(0, 12),
    "clip_norm": st.sampled_from([0.05, 1e9]),
    "optimizer": st.sampled_from(["sparse_adam", "adam"]),
}
"""What a whole step is tried with, beside sizes."""


def decided(pre: torch.Tensor, k: int) -> bool:
    """Whether every row's k-th place is won by more than bfloat16 may round off.

    Two latents that are equal in bfloat16 may both take it: there is no one right step then.
    """
    if k == pre.shape[1]:
        return True
    ranked = pre.relu().sort(dim=1, descending=True).values
    won, lost = ranked[:, k - 1], ranked[:, k]
    return bool(((won - lost > 0.01 * won) | (won == 0)).all())


def unpacked(words: np.ndarray, d: int) -> np.ndarray:
    """[S, R, HALF] -> float64 [R, d]."""
    halves = [words << np.uint32(16), words & np.uint32(0xFFFF0000)]
    slices = np.concatenate([half.view(np.float32) for half in halves], axis=2)
    return slices.transpose(1, 0, 2).reshape(words.shape[1], -1)[:, :d].astype(np.float64)


@dataclass(frozen=True)
class Trial:
    """What one step is tried on: z, float32 [n, d_in], and ``dead``, bool [d_sae]."""

    spec: StepSpec
    weights: dict[str, torch.Tensor]
    dead: torch.Tensor
    z: torch.Tensor

    @classmethod
    def of(
        cls,
        n: int,
        d_in: int,
        d_sae: int,
        *,
        seed: int,
        dead_share: float,
        k_aux: int,
        clip_norm: float,
        optimizer: str,
    ) -> Trial:
        spec = StepSpec(
            "topk",
            n,
            d_in,
            d_sae,
            1 + seed % d_sae,
            0.0,
            clip_norm,
            min(k_aux, d_sae),
            0.5,
            dead_after=1000,
            epsilon=1e-4,
            optimizer=optimizer,
        )
        draw = torch.Generator().manual_seed(seed)
        weights = initial_weights(spec, seed)
        weights["b_enc"] += 0.1 * torch.randn(d_sae, generator=draw)
        dead = torch.rand(d_sae, generator=draw) < dead_share
        return cls(spec, weights, dead, torch.randn(n, d_in, generator=draw) / d_in**0.5)


@dataclass
class Reference:
    """The step in dense float64 by autograd: TopK, AuxK, projection, clipping, Adam, unit norm.

    Adam leaves rows of latents without a gradient alone and counts each row's own updates, unless
    ``spec.optimizer`` is "adam": then it is as published.
    """

    spec: StepSpec
    weights: dict[str, torch.Tensor]
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    updates: torch.Tensor | None = None
    done: int = 0

    def step(self, z: torch.Tensor, dead: torch.Tensor, rate: float) -> float:
        """Train on z [n, d_in], and return the loss without AuxK."""
        spec = self.spec
        grads, touched, squared = self.gradients(z, dead)
        norm = torch.sqrt(sum(g.square().sum() for g in grads.values()))
        clip = min(1.0, spec.clip_norm / float(norm))
        self.done += 1
        if spec.optimizer == "adam":
            touched = torch.ones_like(touched)
        self.updates = touched.long() if self.updates is None else self.updates + touched
        for name, grad in grads.items():
            self._adam(name, self.weights[name].double(), clip * grad, touched, rate)
        self.weights["W_dec"] /= self.weights["W_dec"].norm(dim=1, keepdim=True)
        return squared

    def check(self, found: Mapping[str, torch.Tensor], *, rate: float, close: float) -> None:
        """Assert that an engine's weights are these, after a first step at ``rate``.

        Adam's first step is rate * g / (|g| + epsilon): it magnifies what bfloat16 rounds off
        gradients near epsilon, hence a share of the elements may differ by more than ``close`` of
        a step. Those of a decoder's narrow row, less their part along the row, are near it
        together.
        """
        for name, want in self.weights.items():
            off = (found[name].double() - want).abs()
            assert float(off.max()) < 2.1 * rate, name
            one = self.spec.d_in if off.dim() == 2 else 1
            assert int((off > close * rate).sum()) <= max(one, 0.12 * off.numel()), name
        torch.testing.assert_close(found["W_dec"].norm(dim=1), torch.ones(self.spec.d_sae))

    def gradients(
        self, z: torch.Tensor, dead: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
        """What Adam is given but for clipping, by name; the latents that it concerns, bool [d_sae];
        the loss without AuxK."""
        spec = self.spec
        p = {name: w.detach().double().requires_grad_() for name, w in self.weights.items()}
        z = z.double()
        # The engine multiplies in bfloat16; so does its reference, for the same choice of latents.
        low = (z - p["b_dec"]).bfloat16().float() @ p["W_enc"].detach().bfloat16().float()
        low = (low + p["b_enc"].detach().float()).bfloat16().double()
        pre = (z - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        pre = pre + (low - pre).detach()
        # It decodes with a bfloat16 copy of W_dec, too.
        W_dec = p["W_dec"] + (p["W_dec"].bfloat16().double() - p["W_dec"]).detach()

        def top(of: torch.Tensor, k: int) -> torch.Tensor:
            kept = of.relu().topk(k, dim=1)
            return torch.zeros_like(of).scatter(1, kept.indices, kept.values)

        assume(decided(low, spec.k))
        active = top(pre, spec.k)
        error = active @ W_dec + p["b_dec"] - z
        squared = error.square().sum(1).mean()
        loss = squared
        n_dead = int(dead.sum())
        touched = (active > 0).any(0)
        if n_dead and spec.k_aux:
            some = slice(-(-len(z) // 4))  # the first quarter of the tokens
            assume(decided(low[some].masked_fill(~dead, 0), min(spec.k_aux, n_dead)))
            chosen = top(pre[some].masked_fill(~dead, 0), min(spec.k_aux, n_dead))
            aux = chosen @ W_dec
            weight = spec.aux_coefficient * min(1.0, n_dead / spec.k_aux)
            loss = loss + weight * (aux + error[some].detach()).square().sum(1).mean()
            touched = touched | (chosen > 0).any(0)
        loss.backward()
        grads = {name: w.grad.clone() for name, w in p.items()}
        unit = p["W_dec"].detach()
        grads["W_dec"] -= (grads["W_dec"] * unit).sum(1, keepdim=True) * unit
        return grads, touched, float(squared.detach())

    def _adam(
        self, name: str, weight: torch.Tensor, g: torch.Tensor, touched: torch.Tensor, rate: float
    ) -> None:
        first, second = self.moments.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
        count, moves = torch.tensor(self.done), torch.tensor(True)
        if name != "b_dec":
            count, moves = self.updates.clamp(min=1), touched
            if name == "W_dec":
                count, moves = count[:, None], moves[:, None]
        beta1, beta2 = self.spec.betas
        first = torch.where(moves, beta1 * first + (1 - beta1) * g, first)
        second = torch.where(moves, beta2 * second + (1 - beta2) * g**2, second)
        self.moments[name] = (first, second)
        m_hat, v_hat = first / (1 - beta1**count), second / (1 - beta2**count)
        step = rate * pace_of(self.spec, name) * m_hat / (v_hat.sqrt() + self.spec.epsilon)
        self.weights[name] = torch.where(moves, weight - step, weight)
