"""Synthetic activations: sums of few directions out of a planted dictionary."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Planted:
    """Directions of unit length, [latents, d_in], which fire as a power law of their rank says.

    active: how many fire on a token in the mean. draw: decides the directions, and where they lie.
    """

    def __init__(self, latents: int, d_in: int, active: float, draw: Generator) -> None:
        directions = torch.randn(latents, d_in, generator=draw, device=draw.device)
        self.directions = torch.nn.functional.normalize(directions)
        self._share = 1 / (torch.arange(latents, device=draw.device) + 10.0) ** 0.8
        self._share *= active / self._share.sum()

    def rows(self, n: int, draw: Generator) -> Tensor:
        """Sums of the directions that fire, of log-normal sizes; float32 [n, d_in]."""
        shape = n, len(self._share)
        fires = torch.rand(shape, generator=draw, device=draw.device) < self._share
        size = torch.randn(shape, generator=draw, device=draw.device).mul_(0.5).exp_()
        found: Tensor = (fires * size) @ self.directions
        return found
