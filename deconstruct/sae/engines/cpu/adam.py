"""How an optimiser moves the parameters of a CPU engine: a row, that is a latent, at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import share
from deconstruct.sae.engines.cpu.kernels import adam
from deconstruct.sae.spec import SHARED, StepSpec, pace_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Gradient:
    """Of one parameter, float32 [rows, width or more]; a latent's are one row.

    along: float32 [rows], the part along rows of unit norm, which is left out; empty: the rows
    are free. low, packed: bfloat16 copies of the weights, which are kept up (`adam.adam_rows`).
    """

    rows: Floats
    along: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    low: NDArray[np.uint16] = field(default_factory=lambda: np.zeros((0, 0), np.uint16))
    packed: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint32))


class RowAdam:
    """Adam (Kingma and Ba 2015) that leaves alone the latents that a step has no gradient for.

    They keep weights and moments, as in torch's SparseAdam, but each counts its own updates.
    Plain Adam, which ``spec.optimizer`` = "adam" asks for, goes on moving a latent by its momentum:
    one that fires once in many steps is thrown ten learning rates far by a single token, and so
    out of the data's reach.
    """

    def __init__(self, spec: StepSpec, rates: list[float], state: dict[str, Tensor]) -> None:
        """state: the engine's parameters, to which counts are added, and moments of those that are
        trained."""
        self.spec, self.rates, self.state = spec, rates, state
        for name in [name for name in state if name not in spec.still]:
            state[f"{name}.m"] = torch.zeros_like(state[name])
            state[f"{name}.v"] = torch.zeros_like(state[name])
        state["updates"] = torch.zeros(spec.d_sae, dtype=torch.int32)

    def step(
        self, done: int, touched: Tensor, clip: float, gradients: Mapping[str, Gradient]
    ) -> None:
        """Update parameters in place. touched: bool [d_sae], the latents that have a gradient.
        clip: factor of all gradients."""
        state, spec = self.state, self.spec
        if spec.optimizer == "adam":
            touched = torch.ones_like(touched)
        state["updates"] += touched
        of_latents = self._pace(done, state["updates"])
        of_latents[0][~touched.numpy()] = 0
        of_shared = self._pace(done, torch.tensor([done + 1]))
        for name, gradient in gradients.items():
            count = len(gradient.rows)
            weight, mean, square = (rows_of(state[name + end], count) for end in ("", ".m", ".v"))
            steps, roots = of_latents
            if name in SHARED:
                steps, roots = (np.repeat(one, count) for one in of_shared)
            pace = (steps * np.float32(pace_of(spec, name)), roots)
            how = (clip, *spec.betas, spec.epsilon)
            copies = (gradient.along, gradient.low, gradient.packed)
            share(adam.adam_rows, count, weight, gradient.rows, mean, square, *pace, *copies, *how)

    def _pace(self, done: int, updates: Tensor) -> tuple[Floats, Floats]:
        """The rate over the first moment's bias correction; 1 over the root of the second's."""
        left1, left2 = (beta ** updates.double() for beta in self.spec.betas)
        step, root = self.rates[done] / (1 - left1), (1 - left2).rsqrt()
        return step.float().numpy(), root.float().numpy()


def rows_of(tensor: Tensor, count: int) -> Floats:
    """The tensor's own memory as an array of ``count`` rows."""
    array: Floats = tensor.detach().view(count, -1).numpy()
    return array


def array_of(tensor: Tensor) -> Floats:
    """The tensor's own memory as an array."""
    array: Floats = tensor.detach().numpy()
    return array


def bits_of(tensor: Tensor) -> NDArray[np.uint16]:
    """The bits of a bfloat16 tensor, its own memory."""
    array: NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return array
