"""Products of active pairs with a decoder's rows: decoding, its slope, the weights' gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.sae import varying_kernels as kernels
from deconstruct.sae.cpu_threads import share
from deconstruct.sae.pairs import Pairs

Floats = NDArray[np.float32]


class Dictionary:
    """Decoder rows W_dec, float32 [F, d_out], and the group of each, int32 [F] in ascending order:
    the nested dictionaries of a Matryoshka SAE, one for all others."""

    def __init__(self, W_dec: Tensor, groups: NDArray[np.int32]) -> None:
        self.rows: Floats = W_dec.detach().numpy()
        self.groups = groups
        self.n_groups = int(groups[-1]) + 1 if len(groups) else 1

    def errors(self, pairs: Pairs, values: Floats, base: Floats) -> Floats:
        """What ``base`` [n, d_out] and the pairs' values [P] come to; see `varying_kernels.decode`:
        [1, n, d_out], or [groups + 1, n, d_out]."""
        kept = 1 if self.n_groups == 1 else self.n_groups + 1
        found = np.empty((kept, *base.shape), np.float32)
        of = (pairs.offsets, pairs.latents, values)
        share(kernels.decode, len(base), *of, self.rows, self.groups, base, found)
        return found

    def slopes(self, pairs: Pairs, errors: Floats, scale: float) -> Floats:
        """scale * error . decoder row at each pair: [P]."""
        found = np.empty(len(pairs), np.float32)
        of = (pairs.offsets, pairs.latents)
        share(kernels.slopes, errors.shape[1], *of, self.rows, self.groups, errors, scale, found)
        return found

    def gradients(
        self,
        pairs: Pairs,
        values: Floats,
        push: Floats,
        errors: Floats,
        scale: float,
        inputs: Floats,
        into: tuple[Floats, Floats],
    ) -> None:
        """Fill ``into``, the gradients of W_dec [F, d_out] and of W_enc [F, d_in], transposed.

        push: the loss' slope in each pair's pre-activation, [P]. inputs: [n, d_in].
        """
        starts = np.zeros(len(self.rows) + 1, np.int64)
        order = np.empty(len(pairs), np.int32)
        kernels.group_by_latent(pairs.latents, starts, order)
        of = (starts, order, pairs.tokens, values, push, self.groups)
        share(
            kernels.weight_gradients, len(self.rows), *of, errors, scale, inputs, *into
        )  # fmt: skip
