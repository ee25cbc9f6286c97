"""Activations with a known dictionary, for tests of training."""

from __future__ import annotations

import torch

from deconstruct.activations.shards import Moments
from deconstruct.config import SaeConfig

D_IN, TRUE_LATENTS = 32, 64
OTHERS = ("batchtopk", "matryoshka", "jumprelu", "gated", "relu")


class Planted:
    """Data with a known dictionary: each token is a sum of 3 of 64 unit directions, off centre."""

    def __init__(self, batch: int, seed: int = 0) -> None:
        self.batch = batch
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(TRUE_LATENTS, D_IN, generator=generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.centre = 5 * torch.randn(D_IN, generator=generator)
        self.calls: list[int] = []

    def at(self, step: int) -> torch.Tensor:
        self.calls.append(step)
        generator = torch.Generator().manual_seed(1000 + step)
        which = torch.rand(self.batch, TRUE_LATENTS, generator=generator).topk(3, dim=1).indices
        strength = 1 + torch.rand(self.batch, 3, generator=generator)
        return (self.directions[which] * strength[..., None]).sum(1) + self.centre

    @property
    def moments(self) -> Moments:
        rows = torch.cat([Planted(self.batch).at(-step) for step in range(1, 5)]).double().numpy()
        return Moments(len(rows), rows.mean(0), rows.var(0))


def settings(**changes: object) -> SaeConfig:
    base = {"d_sae": 128, "k": 3, "batch_size": 512, "tokens": 512 * 400, "learning_rate": 3e-3}
    return SaeConfig.model_validate(base | changes)
