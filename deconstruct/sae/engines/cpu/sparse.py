"""The training step on a CPU where the number of active latents varies from token to token.

    inputs = z - b_dec                          a transcoder's: z
    pre    = inputs @ W_enc + b_enc             the only dense product, in bfloat16, by blocks
    pairs  = pre at or above its latent's edge  while the block is in cache
    the rest for pairs alone: decode, slopes, gradients of weights

It trains every architecture, and transcoders. Where a batch has so many pairs that dense products
are faster (ReLU, Gated and JumpReLU start so), it makes the step by them, of its own accord.
Weights and moments are float32; W_enc is kept transposed, [d_sae, d_in].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import on_one_thread, share
from deconstruct.sae.architectures.base import Floats, Inputs, Scene, Selection
from deconstruct.sae.architectures.pairs import Pairs, keep_largest
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.control import Control
from deconstruct.sae.engines.cpu.adam import Gradient, RowAdam, array_of, bits_of, rows_of
from deconstruct.sae.engines.cpu.blocks import Encoder, ordered, pairs_of, with_bias
from deconstruct.sae.engines.cpu.kernels import packed, plain
from deconstruct.sae.engines.cpu.kernels.vectors import HALF, WIDTH
from deconstruct.sae.engines.cpu.pairs import ActivePairs, Gradients, weighted_sum
from deconstruct.sae.engines.cpu.products import Decoded, Flags, Nested, Packed, Products
from deconstruct.sae.engines.engine import Engine, as_given, counts, rows_by_latent
from deconstruct.sae.engines.ranks import anywhere, average, ranks
from deconstruct.sae.spec import SHARED, StepSpec, aux_tokens

DENSE_ABOVE = 0.06
"""Share of all (token, latent) pairs beyond which the dense step is faster."""
EDGE = 0.93
"""Of BatchTopK's last threshold: where the search for the next one begins."""


class SparseEngine(Engine):
    """Parameters, Adam's moments and the step over them, for any architecture; W_enc transposed in
    checkpoints."""

    title = "the sparse step of the CPU"

    def __init__(
        self, spec: StepSpec, weights: Mapping[str, Tensor], learning_rates: Tensor
    ) -> None:
        super().__init__(spec, rows_by_latent(weights, weights))
        self._control = Control(spec)
        self._names = tuple(weights)
        self._optimizer = RowAdam(spec, learning_rates.tolist(), self._state)
        self._state |= counts(spec, len(learning_rates)) | self._control.state()
        self._state["edge"] = torch.zeros(1, dtype=torch.float64)
        self._state["dense"] = torch.zeros(1, dtype=torch.bool)
        self._state["l0"] = torch.zeros(1, dtype=torch.float64)
        self._architecture = ARCHITECTURES[spec.architecture]
        self._shadow = torch.empty(spec.d_sae, spec.d_in + 2, dtype=torch.bfloat16)
        self._encoder: Encoder | None = None
        ends = np.array(spec.prefixes or (spec.d_sae,))
        self._groups = np.searchsorted(ends, np.arange(spec.d_sae), side="right").astype(np.int32)
        self._grad = {name: torch.zeros_like(self._state[name]) for name in self._names}
        whole = spec.d_in % WIDTH == 0  # else packed gradients would be wider than the weights
        self._packed = not spec.transcoder and len(ends) == 1 and whole
        slices = spec.d_in // WIDTH if self._packed else 0
        self._W_dec = np.zeros((slices, spec.d_sae, HALF), np.uint32)
        self._refresh()

    @classmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """Nothing on a CPU but float32 products."""
        if device != "cpu":
            return f"the sparse step of the CPU does not run on {device}"
        exact = dtype == "float32"
        return "the sparse step of the CPU multiplies in bfloat16" if exact else None

    @classmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """See `Engine.begin`."""
        return cls(spec, weights, rates)

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates; target: a transcoder's."""
        state, done = self._state, int(self._state["step"])
        target = z if target is None else target
        dead = torch.nonzero(state["since_fired"] >= self.spec.dead_after).squeeze(1)
        penalty = float(self._control.penalty(done))
        result = None if bool(state["dense"]) else self._sparse(z, target, dead, penalty)
        if result is None:
            # On several threads a product may cut its sums, and so round otherwise: a member of a
            # sweep has one, and its bytes are those of a run of its own.
            result = on_one_thread(partial(self._dense, z, target, dead, penalty))
        squared, fired, fires, threshold = result
        if ranks() > 1:
            average(self._grad.values())
            figures = torch.tensor([squared, fires, threshold or 0.0], dtype=torch.float64)
            average([figures])
            squared, fires, least = figures.tolist()
            threshold = None if threshold is None else least
            fired = anywhere(fired)
        self._update(done)
        state["since_fired"] += self.spec.batch
        state["since_fired"][fired] = 0
        state["l0"][0] = fires / len(z)
        state["dense"][0] = fires > DENSE_ABOVE / 2 * len(z) * self.spec.d_sae
        self._control.observe(done, fires / len(z), threshold)
        self.losses[done] = squared
        state["step"] += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies, names and shapes as in `Engine.weights`."""
        return self._control.finish(as_given(self._state, self._names))

    def _l0(self) -> float:
        return float(self._state["l0"])

    def _sparse(
        self, z: Tensor, target: Tensor, dead: Tensor, penalty: float
    ) -> tuple[float, Tensor, float, float | None] | None:
        """Gradients by pairs; mean |e|^2, which latents fired, how many pairs did, BatchTopK's
        threshold. None: there are too many pairs."""
        state, spec, n = self._state, self.spec, len(z)
        aux_rows = aux_tokens(n) if spec.by_number and len(dead) else 0
        aux = ActivePairs(aux_rows, spec.d_sae, spec.k_aux) if aux_rows else None
        if aux is not None:
            aux.allowed[:] = 0
            aux.allowed[dead.numpy()] = -1
        products, encoder = self._products(z, target)
        chosen = self._choose(encoder, aux)
        if chosen is None:
            return None
        pairs, threshold = chosen
        decoded: list[Decoded] = []

        def decode_frozen(values: Floats) -> Floats:
            return products.decode(pairs, values, keep=False).slope

        def decode(values: Floats) -> Floats:
            decoded[:] = [products.decode(pairs, values, residual=aux_rows)]
            return decoded[0].slope

        scene = Scene(spec, self._of_latents(), state["W_dec"], penalty, n)
        coded = self._architecture.code(pairs, scene, decode, decode_frozen)
        found = decoded[0]
        pull = None if spec.by_number or not len(dead) else self._pull(pairs, dead, n)
        push = coded.push if pull is None else coded.push + pull
        nobody = np.zeros(spec.d_sae, np.bool_)
        products.gradients(pairs, coded.values, push, found, nobody)
        for name, gradient in coded.gradients.items():
            self._grad[name].copy_(torch.from_numpy(gradient))
        if coded.along is not None:
            self._grad["W_dec"].addcmul_(torch.from_numpy(coded.along)[:, None], state["W_dec"])
        pushes = _sums(pairs, push, spec.d_sae)
        if pull is not None:
            self._pull_whole(dead, pushes, _sums(pairs, pull, spec.d_sae), z)
        own_part = torch.from_numpy(found.total[: len(state["b_dec"])]) * products.scale
        if spec.skip:
            heard = torch.from_numpy(found.errors[0])
            self._grad["W_skip"].copy_(products.scale * (heard.T @ z))
        if aux is not None:
            held = np.bincount(pairs.latents, minlength=spec.d_sae) > 0
            pushes += self._auxk(aux, len(dead), products, found.residual, held)
        if "b_enc" in self._grad:
            self._grad["b_enc"].copy_(pushes)
        # Reduced over tokens first, so that the encoder's part is a product with one vector.
        if not spec.transcoder:
            own_part -= torch.from_numpy(weighted_sum(array_of(pushes), array_of(state["W_enc"])))
        self._grad["b_dec"].copy_(own_part)
        fires = coded.values > 0
        fired = torch.from_numpy(np.bincount(pairs.latents[fires], minlength=spec.d_sae) > 0)
        return found.squared, fired, int(fires.sum()), threshold

    def _products(self, z: Tensor, target: Tensor) -> tuple[Products, Encoder]:
        """Products of this batch's pairs; the encoder, which has its inputs."""
        state, spec, n = self._state, self.spec, len(z)
        encoder = self._encoder_of(n)
        low = encoder.low
        b_dec = array_of(state["b_dec"])
        if self._packed:
            rows = np.empty((spec.d_in // WIDTH, n, 2, HALF), np.uint32)
            share(packed.centre, n, array_of(z), b_dec, bits_of(low), rows)
            into = Gradients(array_of(self._grad["W_dec"]), array_of(self._grad["W_enc"]))
            return Packed(self._W_dec, b_dec, array_of(z), rows, into, 2 / n), encoder
        inputs = z if spec.transcoder else z - state["b_dec"]
        low[:, : spec.d_in] = inputs
        x = target - state["b_dec"] - (z @ state["W_skip"].T if spec.skip else 0)
        into_both = (array_of(self._grad["W_dec"]), array_of(self._grad["W_enc"]))
        W_dec = array_of(state["W_dec"])
        return Nested(W_dec, self._groups, array_of(x), array_of(inputs), into_both, 2 / n), encoder

    def _of_latents(self) -> dict[str, Floats]:
        """The parameters with one number per latent, and b_dec."""
        state = self._state
        return {name: array_of(state[name]) for name in self._names if state[name].dim() == 1}

    def _encoder_of(self, tokens: int) -> Encoder:
        """The encoder of batches of so many tokens; kept, with the room for its inputs."""
        if self._encoder is None or len(self._encoder.low) != tokens:
            low = torch.ones(tokens, self.spec.d_in + 2, dtype=torch.bfloat16)
            self._encoder = Encoder(self._shadow, low)
        return self._encoder

    def _choose(
        self, encoder: Encoder, aux: ActivePairs | None
    ) -> tuple[Pairs, float | None] | None:
        """The pairs, and BatchTopK's threshold; fills aux. None: too many pairs."""
        state, spec = self._state, self.spec
        n = len(encoder.low)
        limit = int(DENSE_ABOVE * n * spec.d_sae)
        selection = self._architecture.selection
        if selection is Selection.PER_TOKEN:
            if spec.k * n > limit:
                return None
            largest = ActivePairs(n, spec.d_sae, spec.k)
            encoder.largest([largest] if aux is None else [largest, aux])
            return pairs_of(largest), None
        if selection is Selection.ABOVE_EDGE:
            edges = self._architecture.edges(self._of_latents(), spec)
            found = encoder.above(ordered(edges), limit)
            return None if found is None else (found, None)
        wanted = spec.k * n
        edge_from = float(state["edge"]) or EDGE * encoder.guess(spec.k)
        while wanted <= limit:
            edges = np.full(spec.d_sae, edge_from, np.float32)
            found = encoder.above(ordered(edges), limit, aux)
            if found is None:
                return None
            if len(found) >= wanted or edge_from <= 0:
                pairs, least = keep_largest(found, wanted)
                state["edge"][0] = EDGE * least
                return pairs, least
            edge_from = 0.8 * edge_from if edge_from > 1e-3 else 0.0
        return None

    def _pull(self, pairs: Pairs, dead: Tensor, n: int) -> NDArray[np.float32]:
        """What the pull on dead latents leaves out at pairs where they fire after all, [P]: it is
        taken for whole latents, as a dead one is below its threshold nearly everywhere."""
        weight = np.zeros(self.spec.d_sae, np.float32)
        weight[dead.numpy()] = self.spec.aux_coefficient / self.spec.d_sae / n
        thresholds = self._architecture.thresholds(self._of_latents(), self.spec)
        return weight[pairs.latents] * (pairs.pre > thresholds[pairs.latents])

    def _pull_whole(self, dead: Tensor, pushes: Tensor, left_out: Tensor, z: Tensor) -> None:
        """Add the pull on dead latents, as if they fired nowhere, to gradients and pushes [d_sae].

        left_out: sums of `_pull`, [d_sae].
        """
        weight, n = self.spec.aux_coefficient / self.spec.d_sae, len(z)
        inputs = torch.from_numpy(np.add.reduce(array_of(z), axis=0)) / n
        if not self.spec.transcoder:
            inputs -= self._state["b_dec"]
        self._grad["W_enc"][dead] -= weight * inputs
        pushes[dead] -= weight
        if self._architecture.bias != "b_enc":  # whose gradient the pushes are
            bias = self._grad[self._architecture.bias]
            bias += left_out
            bias[dead] -= weight

    def _auxk(
        self, aux: ActivePairs, n_dead: int, products: Products, residual: Floats, held: Flags
    ) -> Tensor:
        """Add AuxK's gradients; returns the pushes of the pairs chosen for it, [d_sae].

        See `deconstruct.sae.architectures`; ``residual`` is a constant to it. held: [d_sae], the
        latents that have gradients already.
        """
        pairs = pairs_of(aux)
        explained = products.explaining(residual, 2 * self.spec.aux_weight(n_dead) / len(residual))
        decoded = explained.decode(pairs, pairs.pre)
        explained.gradients(pairs, pairs.pre, decoded.slope, decoded, held)
        return _sums(pairs, decoded.slope, self.spec.d_sae)

    def _dense(
        self, z: Tensor, target: Tensor, dead: Tensor, penalty: float
    ) -> tuple[float, Tensor, float, float | None]:
        """The same by autograd over dense products in bfloat16."""
        leaves = {
            name: self._state[name].detach().requires_grad_(name not in self.spec.still)
            for name in self._names
        }
        is_dead = torch.zeros(self.spec.d_sae, dtype=torch.bool)
        is_dead[dead] = True
        # Without its cache, which all threads share: whether two uses of a weight were one cast,
        # whose gradients add up in bfloat16, would hang on when another member's step ends.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            p = {name: leaf.T if name == "W_enc" else leaf for name, leaf in leaves.items()}
            terms = self._architecture.loss(p, Inputs(z, target, is_dead, penalty), self.spec)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        for name, leaf in leaves.items():
            if leaf.grad is None:
                self._grad[name].zero_()
            else:
                self._grad[name].copy_(leaf.grad)
        fires = terms.active > 0
        threshold = None if terms.threshold is None else float(terms.threshold)
        if threshold is not None:
            self._state["edge"][0] = EDGE * threshold
        return float(terms.squared), fires.any(0), int(fires.sum()), threshold

    def _update(self, done: int) -> None:
        """Clip by the global norm, and let the optimiser move what has a gradient."""
        state, spec = self._state, self.spec
        touched, total = np.zeros(spec.d_sae, np.bool_), 0.0
        gradients: dict[str, Gradient] = {}
        for name in (name for name in self._names if name not in spec.still):
            count = spec.d_sae if name not in SHARED else len(np.atleast_2d(array_of(state[name])))
            gradient = rows_of(self._grad[name], count)
            squares = np.empty(count, np.float64)
            if name == "W_dec" and self._architecture.unit_norm:
                along = np.empty(count, np.float32)
                share(plain.project, count, array_of(state[name]), gradient, along, squares)
                gradients[name] = Gradient(gradient, along)
            else:
                share(plain.row_squares, count, gradient, squares)
                gradients[name] = Gradient(gradient)
            total += float(squares.sum())
            if name not in SHARED:
                touched |= squares > 0
        if "W_enc" in gradients:
            gradients["W_enc"] = Gradient(gradients["W_enc"].rows, low=bits_of(self._shadow))
        if self._packed and "W_dec" in gradients:
            of_dec = gradients["W_dec"]
            gradients["W_dec"] = Gradient(of_dec.rows, of_dec.along, packed=self._W_dec)
        clip = min(1.0, spec.clip_norm / max(math.sqrt(total), 1e-30))
        self._optimizer.step(done, torch.from_numpy(touched), clip, gradients)
        if "threshold" in state:
            state["threshold"].clamp_(min=0)
        with_bias(self._shadow, state[self._architecture.bias])

    def _refresh(self) -> None:
        """The copies in bfloat16, which the optimiser keeps up."""
        self._shadow[:, : self.spec.d_in] = self._state["W_enc"]
        with_bias(self._shadow, self._state[self._architecture.bias])
        if self._packed:
            share(packed.pack, self.spec.d_sae, array_of(self._state["W_dec"]), self._W_dec)


def _sums(pairs: Pairs, values: NDArray[np.float32], count: int) -> Tensor:
    """Of each latent's pairs: [count]."""
    return torch.from_numpy(np.bincount(pairs.latents, values, count).astype(np.float32))
