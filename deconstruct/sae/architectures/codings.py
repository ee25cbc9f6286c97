"""What each architecture makes of its active pairs, and the slopes of its loss in them.

The sparse half of `deconstruct.sae.architectures`, whose formulas these are, by pairs. A coding
gets the pairs at or above its latents' edges, with pre-activations, and a function that decodes
values and returns slopes; it answers with what the weights' gradients are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deconstruct.sae.architectures.losses import TANH_SCALE
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec

Floats = NDArray[np.float32]
Decode = Callable[[Floats], Floats]
"""Values [P] of the pairs -> slope [P] of mean |e|^2 in each of them."""


@dataclass(frozen=True)
class Coded:
    """values: activations [P]. push: the loss' slope in each pair's pre-activation, [P]. own:
    gradients of the parameters that this architecture alone has, [d_sae] each. along: how much
    of its own row is added to a latent's gradient of W_dec, [d_sae]."""

    values: Floats
    push: Floats
    own: dict[str, Floats] = field(default_factory=dict)
    along: Floats | None = None


@dataclass(frozen=True)
class Scene:
    """What a coding may look at: parameters [d_sae] by name, the step, the penalty's weight."""

    spec: StepSpec
    parameters: Mapping[str, NDArray[np.float32]]
    penalty: float
    tokens: int

    def sums(self, pairs: Pairs, values: Floats) -> Floats:
        """Of each latent's pairs: [d_sae]."""
        return np.bincount(pairs.latents, values, self.spec.d_sae).astype(np.float32)


def linear(pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
    """topk, batchtopk, matryoshka: the pairs were chosen, and fire as they are."""
    return Coded(pairs.pre, decode(pairs.pre))


def relu(pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
    """L1 weighted by decoder norms, which it pulls in as well."""
    norm = scene.parameters["decoder_norm"]
    weight = np.float32(scene.penalty / scene.tokens)
    push = decode(pairs.pre) + weight * norm[pairs.latents]
    along = weight * scene.sums(pairs, pairs.pre) / np.maximum(norm, np.float32(1e-30))
    return Coded(pairs.pre, push, along=along.astype(np.float32))


def jumprelu(pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
    """Pairs above their threshold fire; those within half a bandwidth of it move it."""
    spec = scene.spec
    threshold = scene.parameters["threshold"][pairs.latents]
    fires = pairs.pre > threshold
    values = np.where(fires, pairs.pre, np.float32(0))
    slope = decode(values)
    weight = np.float32(scene.penalty / scene.tokens)
    near = np.abs(pairs.pre - threshold) < spec.bandwidth / 2
    window = near / np.float32(spec.bandwidth)
    if spec.sparsity == "tanh":
        steep = TANH_SCALE * (1 - np.tanh(TANH_SCALE * values) ** 2)
        slope = (slope + weight * steep).astype(np.float32)
        through = threshold * window * slope
        push = slope * fires + through
    else:
        through = window * (threshold * slope + weight)
        push = slope * fires
    own = {"threshold": -scene.sums(pairs, through)}
    return Coded(values, push.astype(np.float32), own)


def gated(pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
    """Pairs are those whose gate is open; each has a magnitude, and the gate a loss of its own."""
    p = scene.parameters
    grow = np.exp(p["r_mag"])[pairs.latents]
    product = pairs.pre - p["b_gate"][pairs.latents]
    magnitude = np.maximum(grow * product + p["b_mag"][pairs.latents], 0)
    slope = decode(magnitude) * (magnitude > 0)
    gate = frozen(pairs.pre) + np.float32(scene.penalty / scene.tokens)
    own = {
        "b_mag": scene.sums(pairs, slope),
        "r_mag": scene.sums(pairs, slope * grow * product),
        "b_gate": scene.sums(pairs, gate),
    }
    return Coded(magnitude, slope * grow + gate, own)


CODINGS: Mapping[str, Callable[[Pairs, Scene, Decode, Decode], Coded]] = {
    "topk": linear,
    "batchtopk": linear,
    "matryoshka": linear,
    "relu": relu,
    "jumprelu": jumprelu,
    "gated": gated,
}
