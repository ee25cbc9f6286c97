"""Products of active pairs with a decoder's rows: decoding, its slope, the weights' gradients.

Two forms of one thing: `Packed`, in bfloat16 and as fast as the TopK step, for one dictionary that
reconstructs its input; `Nested` in float32 for all others. They are made anew for each target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deconstruct.common.cores import share
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.engines.cpu.kernels import plain
from deconstruct.sae.engines.cpu.pairs import Gradients, PairProducts

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass
class Decoded:
    """What values come to. slope: error . decoder row at each pair, [P]. squared: mean |e|^2.
    total: sum of the errors, [d_out]. residual: target less reconstruction of the first tokens,
    as many as were asked for, [.., d_out]. errors: what the form keeps for its gradients."""

    slope: Floats
    squared: float
    total: Floats
    residual: Floats
    errors: Any


class Products(Protocol):
    """Products of pairs for one target; with errors averaged over groups of latents and summed
    over tokens: ``scale`` is the factor of each."""

    scale: float

    def decode(self, pairs: Pairs, values: Floats, residual: int = 0, keep: bool = True) -> Decoded:
        """Reconstruct by the pairs' values [P]. keep: what `gradients` needs of it."""

    def gradients(
        self, pairs: Pairs, values: Floats, push: Floats, decoded: Decoded, held: Flags
    ) -> None:
        """Into the gradients of W_dec [F, d_out] and of W_enc [F, d_in], transposed; added to for
        the latents ``held`` [F]. push: the loss' slope in each pair's pre-activation, [P]."""

    def explaining(self, residual: Floats, scale: float) -> Products:
        """The same for another target of the first tokens, [<= n, d_out]: by one dictionary,
        without a bias."""


class Nested:
    """Decoder rows W_dec, float32 [F, d_out], and the group of each, int32 [F] in ascending order:
    the nested dictionaries of a Matryoshka SAE, one for all others.

    x: what they are to add up to, [n, d_out]. inputs: [n, d_in]. into: gradients of W_dec and of
    W_enc, transposed.
    """

    def __init__(
        self,
        W_dec: Floats,
        groups: NDArray[np.int32],
        x: Floats,
        inputs: Floats,
        into: tuple[Floats, Floats],
        scale: float,
    ) -> None:
        self.W_dec, self.groups, self.x, self.inputs, self.into = W_dec, groups, x, inputs, into
        self.n_groups = int(groups[-1]) + 1
        self.scale = scale / self.n_groups

    def decode(self, pairs: Pairs, values: Floats, residual: int = 0, keep: bool = True) -> Decoded:
        """See `Products` and `plain.decode`."""
        n = len(self.x)
        kept = 1 if self.n_groups == 1 else self.n_groups + 1
        errors = np.empty((kept, *self.x.shape), np.float32)
        of = (pairs.offsets, pairs.latents, values, self.W_dec, self.groups)
        share(plain.decode, n, *of, self.x, errors)
        slope = np.empty(len(pairs), np.float32)
        share(
            plain.slopes, n, pairs.offsets, pairs.latents, self.W_dec, self.groups, errors,
            self.scale, slope,
        )  # fmt: skip
        squared = float(np.square(errors[-1], dtype=np.float64).sum() / n)
        total: Floats = np.add.reduce(errors[0], axis=0)
        return Decoded(slope, squared, total, -errors[-1, :residual], errors)

    def gradients(
        self, pairs: Pairs, values: Floats, push: Floats, decoded: Decoded, held: Flags
    ) -> None:
        """See `Products`."""
        starts = np.zeros(len(self.W_dec) + 1, np.int64)
        order = np.empty(len(pairs), np.int32)
        plain.group_by_latent(pairs.latents, starts, order)
        of = (starts, order, pairs.tokens, values, push, self.groups, decoded.errors, self.scale)
        share(plain.weight_gradients, len(held), *of, self.inputs, held, *self.into)

    def explaining(self, residual: Floats, scale: float) -> Nested:
        """See `Products`."""
        one = np.zeros_like(self.groups)
        return Nested(self.W_dec, one, residual, self.inputs, self.into, scale)


class Packed:
    """W_dec packed, [S, F, HALF]; bias [d_in] and x [n, d_in], what values and bias are to add up
    to; rows [S, n, 2, HALF], of which the second of each pair is the inputs (`kernels.packed`)."""

    def __init__(
        self,
        W_dec: NDArray[np.uint32],
        bias: Floats,
        x: Floats,
        rows: NDArray[np.uint32],
        into: Gradients,
        scale: float,
    ) -> None:
        self.W_dec, self.bias, self.x, self.rows, self.into = W_dec, bias, x, rows, into
        self.scale = scale

    def decode(self, pairs: Pairs, values: Floats, residual: int = 0, keep: bool = True) -> Decoded:
        """See `Products`. Errors are kept in ``rows``: `gradients` reads those kept last."""
        products = PairProducts(
            pairs.offsets[:-1], np.diff(pairs.offsets).astype(np.int32), pairs.latents, len(self)
        )
        left = np.empty((residual, self.x.shape[1]), np.float32)
        rows = self.rows if keep else np.empty_like(self.rows)
        of = (self.W_dec, values, self.bias, self.x, rows, self.scale)
        total = products.decode(*of, left)
        squared = float(products.squared.mean(dtype=np.float64))
        return Decoded(products.slope, squared, total, left, products)

    def gradients(
        self, pairs: Pairs, values: Floats, push: Floats, decoded: Decoded, held: Flags
    ) -> None:
        """See `Products`."""
        products: PairProducts = decoded.errors
        products.gradients(values, push, self.scale, self.rows, self.W_dec, held, self.into)
        silent = ~(products.fired() | held)
        self.into.W_dec[silent] = self.into.W_enc[silent] = 0

    def explaining(self, residual: Floats, scale: float) -> Packed:
        """See `Products`."""
        none = np.zeros_like(self.bias)
        return Packed(self.W_dec, none, residual, self.rows, self.into, scale)

    def __len__(self) -> int:
        return len(self.into.W_dec)
