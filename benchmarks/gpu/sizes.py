"""Sizes of a TopK step, and the step that benchmarks make of them."""

from __future__ import annotations

import math
from typing import NamedTuple

from deconstruct.sae.spec import StepSpec

DEAD_AFTER = 10_000_000
"""Tokens without firing after which a latent counts as dead."""


class Sizes(NamedTuple):
    """Tokens a batch, width of the activations, latents, and latents per token."""

    batch: int
    d_in: int
    d_sae: int
    k: int

    @property
    def parameters(self) -> int:
        """Of both weight matrices."""
        return 2 * self.d_in * self.d_sae

    @property
    def adam_rate(self) -> float:
        """Gao et al.'s rule (arXiv 2406.04093) for Adam's learning rate."""
        return 2e-4 * math.sqrt(2**14 / self.d_sae)

    @property
    def signum_rate(self) -> float:
        """sparsify's default for its signum."""
        return 5e-3 * math.sqrt(2**14 / self.d_sae)


def topk_spec(
    sizes: Sizes,
    clip_norm: float = 1.0,
    k_aux: int | None = None,
    dead_after: int = DEAD_AFTER,
    epsilon: float = 1e-8,
) -> StepSpec:
    """A TopK step of these sizes. k_aux: latents that AuxK keeps; None: k, 0: no AuxK."""
    batch, d_in, d_sae, k = sizes
    kept = min(k if k_aux is None else k_aux, d_sae)
    return StepSpec(
        "topk", batch, d_in, d_sae, k, 0.0, clip_norm, kept, 1 / 32, dead_after, epsilon=epsilon
    )


def floor_ms(sizes: Sizes, ceilings: dict[str, float], touched: float = 1.0) -> dict[str, float]:
    """What no step can do without, at a card's ceilings: the encoder's product, and Adam's traffic.

    That traffic is 26 bytes per parameter: two moments and a master weight of float32, read and
    written, and a bf16 copy. touched: share of the latents that a step updates.
    """
    product = sizes.batch * sizes.parameters / ceilings["product_tflop_s"] / 1e9
    traffic = 26 * sizes.parameters / ceilings["copy_gb_s"] / 1e6
    return {"product_ms": product, "optimiser_ms": traffic * touched}
