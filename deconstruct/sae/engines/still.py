"""The random SAE: no weight is trained, and one number is fitted, the length of all activations.

What an SAE finds is to be held against one whose directions were drawn and left alone, with as many
latents per token (``sae.frozen = "all"``; Korznikov et al. 2026, arXiv 2602.14111, freeze encoder
or decoder). Random directions explain a little of anything, but only at the right length:

    y = a @ W_dec,   c = sum <y, z> / sum |y|^2   over a few batches,   a' = c * a

which is least squares. Architectures that a penalty makes sparse have no number of latents of
their own: they get one threshold for all, above which as many fire as the L0 that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor

from deconstruct.common.cores import on_one_thread
from deconstruct.sae.architectures.base import Inputs, centred_product
from deconstruct.sae.architectures.batchtopk import largest_of_batch, smallest
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import Control
from deconstruct.sae.engines.engine import Engine, counts
from deconstruct.sae.engines.ranks import anywhere, average
from deconstruct.sae.spec import ALL, StepSpec

LEAST_SCALE = 1e-3
THRESHOLDS = {"relu": ("b_enc", -1), "gated": ("b_gate", -1), "jumprelu": ("threshold", 1)}
"""Of architectures without a number of latents of their own: the parameter that holds one
threshold for all, and its sign there."""


class StillEngine(Engine):
    """Weights as they were drawn, and sums that their scale follows from; W_enc [d_in, d_sae]."""

    title = "no step: weights stay as they were drawn, and their scale is fitted"

    def __init__(self, spec: StepSpec, weights: Mapping[str, Tensor], steps: int, device: str):
        self._architecture = ARCHITECTURES[spec.architecture]
        self._control = Control(spec, device)
        self._weights = {name: w.detach().float().to(device) for name, w in weights.items()}
        sums = {name: torch.zeros(1, dtype=torch.float64, device=device) for name in ("zy", "yy")}
        state = {**sums, "l0": torch.zeros(1, dtype=torch.float64, device=device)}
        super().__init__(spec, state | self._control.state() | counts(spec, steps, device))

    @classmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """Whatever has something to train."""
        return None if spec.frozen == ALL else "there are weights to train"

    @classmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """See `Engine.begin`; products are in float32."""
        return cls(spec, weights, len(rates), device)

    @torch.no_grad()
    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Look at one more batch."""
        state, device = self._state, self.losses.device
        done = int(state["step"])
        z = z.to(device)
        target = z if target is None else target.to(device)
        # On several threads a product may cut its sums, and so round otherwise.
        y, fired, least = on_one_thread(partial(self._look, z, target))
        of = (y * target, y * y, target * target)
        found = [one.sum(dtype=torch.float64) / len(z) for one in of]
        figures = torch.stack([*found, fired.sum().double() / len(z), least.double()])
        average([figures])
        zy, yy, zz, l0, least = figures.unbind()
        state["zy"] += zy
        state["yy"] += yy
        state["l0"][0] = l0
        state["since_fired"].add_(self.spec.batch).mul_(~anywhere(fired.any(0)))
        self._control.observe(done, l0, least)
        scale = self._scale()
        self.losses[done] = zz - 2 * scale * zy + scale * scale * yy
        state["step"] += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies on the CPU: what makes activations is in proportion to their length, so
        all of it grows alike, and W_dec and b_dec are as they were."""
        scale = float(self._scale())
        found = {
            name: (w if name in ("W_dec", "b_dec", "W_skip", "r_mag") else w * scale).cpu().clone()
            for name, w in self._weights.items()
        }
        threshold = self._control.threshold.float().cpu() * scale
        if self.spec.architecture in THRESHOLDS:
            name, sign = THRESHOLDS[self.spec.architecture]
            found[name] = (sign * threshold).expand(self.spec.d_sae).contiguous()
        elif "threshold" in (finished := self._control.finish(found)):
            found["threshold"] = finished["threshold"] * scale
        return found

    def _look(self, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y [n, d_out]; which latents fire, bool [n, d_sae]; the smallest activation that does."""
        spec, nobody = self.spec, torch.zeros(self.spec.d_sae, dtype=torch.bool, device=z.device)
        inputs = Inputs(z, target, nobody, 0.0)
        if spec.by_number:
            active = self._architecture.loss(self._weights, inputs, spec).active
            least = smallest(active)
        else:
            wanted = max(1, round((spec.target_l0 or 1) * len(z)))
            active = largest_of_batch(centred_product(self._weights, inputs, spec), wanted)
            least = smallest(active)
            if spec.architecture == "relu":  # whose bias is taken off what fires, too
                active = (active - least).relu()
        return active @ self._weights["W_dec"], active > 0, least

    def _scale(self) -> Tensor:
        """c, a scalar; 1 where nothing has fired yet. Of a transcoder, whose encoder and decoder
        know nothing of each other, least squares may ask for less than none: then next to none."""
        yy = self._state["yy"]
        c = torch.where(yy > 0, self._state["zy"] / yy, torch.ones_like(yy))
        return c.clamp(min=LEAST_SCALE).squeeze(0)

    def _l0(self) -> float:
        return float(self._state["l0"])

    def _refresh(self) -> None:
        """All is in the state."""
