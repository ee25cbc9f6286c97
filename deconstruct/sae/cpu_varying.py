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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.config import BY_NUMBER
from deconstruct.sae import varying_kernels as kernels
from deconstruct.sae.architectures import Inputs, loss
from deconstruct.sae.coding import CODINGS, Scene
from deconstruct.sae.control import Control
from deconstruct.sae.cpu_threads import share, weighted_sum
from deconstruct.sae.cpu_update import Gradient, RowAdam, bits_of, rows_of
from deconstruct.sae.engine import SHARED, StepSpec
from deconstruct.sae.pair_products import Dictionary
from deconstruct.sae.pairs import Encoder, Pairs, keep_largest, of_rows, ordered
from deconstruct.sae.parallel import anywhere, average, ranks

DENSE_ABOVE = 0.06
"""Share of all (token, latent) pairs beyond which the dense step is faster."""
EDGE = 0.93
"""Of BatchTopK's last threshold: where the search for the next one begins."""


class VaryingEngine:
    """Parameters, Adam's moments and the step over them, for any architecture."""

    def __init__(
        self, spec: StepSpec, weights: Mapping[str, Tensor], learning_rates: Tensor
    ) -> None:
        self.spec = spec
        self.rates = learning_rates.tolist()
        self.losses = torch.zeros(len(self.rates))
        self._control = Control(spec)
        self._names = tuple(weights)
        self._state: dict[str, Tensor] = {}
        for name, weight in weights.items():
            own = weight.detach().float()
            self._state[name] = (own.T if name == "W_enc" else own).contiguous().clone()
        self._optimizer = RowAdam(spec, self.rates, self._state)
        self._state["step"] = torch.zeros(1, dtype=torch.int64)
        self._state["since_fired"] = torch.zeros(spec.d_sae, dtype=torch.int64)
        self._state["edge"] = torch.zeros(1, dtype=torch.float64)
        self._state["dense"] = torch.zeros(1, dtype=torch.bool)
        self._state["l0"] = torch.zeros(1, dtype=torch.float64)
        self._bias = "b_gate" if spec.architecture == "gated" else "b_enc"
        self._shadow = self._state["W_enc"].bfloat16()
        ends = np.array(spec.prefixes or (spec.d_sae,))
        self._groups = np.searchsorted(ends, np.arange(spec.d_sae), side="right").astype(np.int32)
        self._grad = {name: torch.zeros_like(self._state[name]) for name in self._names}

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates; target: a transcoder's."""
        state, done = self._state, int(self._state["step"])
        target = z if target is None else target
        dead = torch.nonzero(state["since_fired"] >= self.spec.dead_after).squeeze(1)
        penalty = float(self._control.penalty(done))
        result = None if bool(state["dense"]) else self._sparse(z, target, dead, penalty)
        if result is None:
            result = self._dense(z, target, dead, penalty)
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
        found = {name: self._state[name].clone() for name in self._names}
        found["W_enc"] = found["W_enc"].T.contiguous()
        return self._control.finish(found)

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint; W_enc transposed, the bfloat16 copy left out."""
        return {**self._state, **self._control.state(), "losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ``KeyError`` where a tensor is missing."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        self._shadow.copy_(self._state["W_enc"])

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
        dead = self._state["since_fired"] >= self.spec.dead_after
        return float(self._state["l0"]), float(dead.float().mean())

    def _sparse(
        self, z: Tensor, target: Tensor, dead: Tensor, penalty: float
    ) -> tuple[float, Tensor, float, float | None] | None:
        """Gradients by pairs; mean |e|^2, which latents fired, how many pairs did, BatchTopK's
        threshold. None: there are too many pairs."""
        state, spec, n = self._state, self.spec, len(z)
        by_number = spec.architecture in BY_NUMBER
        inputs = z if spec.transcoder else z - state["b_dec"]
        revived = dead if by_number and spec.k_aux else dead[:0]
        chosen = self._choose(inputs, revived)
        if chosen is None:
            return None
        pairs, of_dead, threshold = chosen
        base = state["b_dec"] - target
        if spec.skip:
            base = base + z @ state["W_skip"].T
        dictionary = Dictionary(state["W_dec"], self._groups)
        scale = 2 / n / dictionary.n_groups
        errors = np.empty(0, np.float32)

        def decode(values: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal errors
            errors = dictionary.errors(pairs, values, _np(base))
            return dictionary.slopes(pairs, errors, scale)

        def decode_frozen(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return dictionary.slopes(pairs, dictionary.errors(pairs, values, _np(base)), scale)

        own = {name: _np(state[name]) for name in self._names if state[name].dim() == 1}
        if spec.architecture == "relu":
            own["decoder_norm"] = _np(state["W_dec"].norm(dim=1))
        scene = Scene(spec, own, penalty, n)
        coded = CODINGS[spec.architecture](pairs, scene, decode, decode_frozen)
        pull = None if by_number or not len(dead) else self._pull(pairs, dead, n)
        push = coded.push if pull is None else coded.push + pull
        into = (_np(self._grad["W_dec"]), _np(self._grad["W_enc"]))
        dictionary.gradients(pairs, coded.values, push, errors, scale, _np(inputs), into)
        for name, gradient in coded.own.items():
            self._grad[name].copy_(torch.from_numpy(gradient))
        if coded.along is not None:
            self._grad["W_dec"].addcmul_(torch.from_numpy(coded.along)[:, None], state["W_dec"])
        pushes = _sums(pairs, push, spec.d_sae)
        if pull is not None:
            self._pull_whole(dead, pushes, _sums(pairs, pull, spec.d_sae), inputs)
        if len(revived):
            pushes += self._auxk(revived, of_dead, torch.from_numpy(errors[-1]), inputs)
        if "b_enc" in self._grad:
            self._grad["b_enc"].copy_(pushes)
        heard = torch.from_numpy(errors[0])
        own_part = _column_sums(errors[0]) * scale
        # Reduced over tokens first, so that the encoder's part is a product with one vector.
        if not spec.transcoder:
            own_part -= torch.from_numpy(weighted_sum(_np(pushes), _np(state["W_enc"])))
        self._grad["b_dec"].copy_(own_part)
        if spec.skip:
            self._grad["W_skip"].copy_(scale * (heard.T @ z))
        squared = float(np.square(errors[-1], dtype=np.float64).sum() / n)
        fires = coded.values > 0
        fired = torch.from_numpy(np.bincount(pairs.latents[fires], minlength=spec.d_sae) > 0)
        return squared, fired, int(fires.sum()), threshold

    def _choose(self, inputs: Tensor, dead: Tensor) -> tuple[Pairs, Tensor, float | None] | None:
        state, spec = self._state, self.spec
        encoder = Encoder(self._shadow, state[self._bias], inputs)
        limit = int(DENSE_ABOVE * len(inputs) * spec.d_sae)
        if spec.architecture == "topk":
            return (*encoder.topk(spec.k, dead), None) if spec.k * len(inputs) <= limit else None
        if spec.architecture not in ("batchtopk", "matryoshka"):
            edge = np.zeros(spec.d_sae, np.float32)
            if spec.architecture == "jumprelu":
                edge = _np(state["threshold"]) - np.float32(spec.bandwidth / 2)
            found = encoder.above(ordered(edge), limit, dead)
            return None if found is None else (*found, None)
        wanted = spec.k * len(inputs)
        edge_from = float(state["edge"]) or EDGE * encoder.guess(spec.k)
        while wanted <= limit:
            edges = ordered(np.full(spec.d_sae, edge_from, np.float32))
            found = encoder.above(edges, limit, dead)
            if found is None:
                return None
            if len(found[0]) >= wanted or edge_from <= 0:
                pairs, least = keep_largest(found[0], wanted)
                state["edge"][0] = EDGE * least
                return pairs, found[1], least
            edge_from = 0.8 * edge_from if edge_from > 1e-3 else 0.0
        return None

    def _pull(self, pairs: Pairs, dead: Tensor, n: int) -> NDArray[np.float32]:
        """What the pull on dead latents leaves out at pairs where they fire after all, [P]: it is
        taken for whole latents, as a dead one is below its threshold nearly everywhere."""
        weight = np.zeros(self.spec.d_sae, np.float32)
        weight[dead.numpy()] = self.spec.aux_coefficient / self.spec.d_sae / n
        jump = self.spec.architecture == "jumprelu"
        threshold = _np(self._state["threshold"])[pairs.latents] if jump else 0
        return weight[pairs.latents] * (pairs.pre > threshold)

    def _pull_whole(self, dead: Tensor, pushes: Tensor, left_out: Tensor, inputs: Tensor) -> None:
        """Add the pull on dead latents, as if they fired nowhere, to gradients and pushes [d_sae].

        left_out: sums of `_pull`, [d_sae].
        """
        weight = self.spec.aux_coefficient / self.spec.d_sae
        self._grad["W_enc"][dead] -= weight / len(inputs) * _column_sums(_np(inputs))
        pushes[dead] -= weight
        if "b_gate" in self._grad:
            self._grad["b_gate"] += left_out
            self._grad["b_gate"][dead] -= weight

    def _auxk(self, dead: Tensor, pre: Tensor, error: Tensor, inputs: Tensor) -> Tensor:
        """AuxK over the dead latents, numbered 0, 1, ... meanwhile; returns their pushes [d_sae].

        See `deconstruct.sae.architectures`; ``error`` is a constant to it.
        """
        spec, n, n_dead = self.spec, len(pre), len(dead)
        weight = spec.aux_coefficient * min(1.0, n_dead / spec.k_aux)
        kept = pre.topk(min(spec.k_aux, n_dead), dim=1, sorted=False)
        pairs = of_rows(kept.indices, kept.values)
        dictionary = Dictionary(self._state["W_dec"][dead], np.zeros(n_dead, np.int32))
        scale = 2 * weight / n
        off = dictionary.errors(pairs, pairs.pre, _np(error.contiguous()))
        slope = dictionary.slopes(pairs, off, scale)
        into_dec = torch.empty(n_dead, error.shape[1])
        into_enc = torch.empty(n_dead, spec.d_in)
        into = (_np(into_dec), _np(into_enc))
        dictionary.gradients(pairs, pairs.pre, slope, off, scale, _np(inputs), into)
        self._grad["W_dec"].index_add_(0, dead, into_dec)
        self._grad["W_enc"].index_add_(0, dead, into_enc)
        return torch.zeros(spec.d_sae).index_add_(0, dead, _sums(pairs, slope, n_dead))

    def _dense(
        self, z: Tensor, target: Tensor, dead: Tensor, penalty: float
    ) -> tuple[float, Tensor, float, float | None]:
        """The same by autograd over dense products in bfloat16."""
        leaves = {name: self._state[name].detach().requires_grad_() for name in self._names}
        is_dead = torch.zeros(self.spec.d_sae, dtype=torch.bool)
        is_dead[dead] = True
        with torch.autocast("cpu", torch.bfloat16):
            p = {name: leaf.T if name == "W_enc" else leaf for name, leaf in leaves.items()}
            terms = loss(p, Inputs(z, target, is_dead, penalty), self.spec)
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
        for name in self._names:
            count = spec.d_sae if name not in SHARED else len(np.atleast_2d(_np(state[name])))
            own = rows_of(self._grad[name], count)
            squares = np.empty(count, np.float64)
            if name == "W_dec" and spec.unit_norm:
                along = np.empty(count, np.float32)
                share(kernels.project, count, _np(state[name]), own, along, squares)
                gradients[name] = Gradient(own, along)
            else:
                share(kernels.row_squares, count, own, squares)
                gradients[name] = Gradient(own)
            total += float(squares.sum())
            if name not in SHARED:
                touched |= squares > 0
        gradients["W_enc"] = Gradient(gradients["W_enc"].rows, low=bits_of(self._shadow))
        clip = min(1.0, spec.clip_norm / max(math.sqrt(total), 1e-30))
        self._optimizer.step(done, torch.from_numpy(touched), clip, gradients)
        if "threshold" in state:
            state["threshold"].clamp_(min=0)


def _sums(pairs: Pairs, values: NDArray[np.float32], count: int) -> Tensor:
    """Of each latent's pairs: [count]."""
    return torch.from_numpy(np.bincount(pairs.latents, values, count).astype(np.float32))


def _column_sums(rows: NDArray[np.float32]) -> Tensor:
    """In one order, whatever the number of threads."""
    return torch.from_numpy(np.add.reduce(rows, axis=0))


def _np(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's own memory as an array."""
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array
