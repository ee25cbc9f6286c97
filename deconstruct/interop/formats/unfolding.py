"""Our weights as those of code that takes b_dec from the activation before it encodes."""

from __future__ import annotations

from torch import Tensor

from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder


def subtracting(sae: SparseAutoencoder) -> dict[str, Tensor]:
    """The weights that give the same latents from ``(x - b_dec) @ W_enc`` as ours from
    ``x @ W_enc``: biases [d_sae] grow by ``b_dec @ W_enc`` (of `Gated`, its magnitude's by
    ``exp(r_mag)`` times that).

    Biases that were moved are float64, the rest is float32 as it was. A float32 sum would keep as
    much of the bias as the product leaves of 24 bits; of a float64 one, a reader who takes the
    product off again has the bias back to the last bit. Frameworks round it once as they load it.
    """
    weights = sae.weights()
    wide = {name: weight.double() for name, weight in weights.items()}
    moved = ARCHITECTURES[sae.architecture].fold(wide, 1.0, -(wide["b_dec"] @ wide["W_enc"]))
    changed = {n: w for n, w in moved.items() if not bool((w == wide[n]).all())}
    return weights | changed
