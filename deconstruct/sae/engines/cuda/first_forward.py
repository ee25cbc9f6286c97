"""`first_step`, first half: what is kept before a step, and whether it chose and decoded rightly.

Tolerances are bounds, not guesses. A product of two numbers that were rounded to bfloat16 is off by
2^-8 at most, so by Cauchy and Schwarz a pre-activation is off by 2^-8 |x| |w|, and by 2^-9 of
itself and of its bias once these are rounded; and a latent may take another's place if what is off
can close the gap between them. Errors of all tokens are seen from a few random directions, from
which a vector looks about as long as it is (Johnson and Lindenstrauss 1984).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.spec import NAMES

SAMPLED_TOKENS = 64
SAMPLED_LATENTS = 32  # of each kind
DIRECTIONS = 32
SLACK = 1.25 * 2**-8
"""Of bfloat16 products, relative, and a quarter more for float32 sums of thousands of terms."""
SEEN_LARGER = 2.0
"""How much longer a vector looks from the directions than it is, at most: one in 10^11 exceeds it
(a chi-squared of 32 degrees of freedom above 128)."""
CHUNK = 1 << 22
"""Entries that are looked at in float64 at once: 32 MB."""
MATRICES = ("W_enc", "W_dec")
MOMENTS = ("m", "v")


@dataclass(frozen=True)
class Kept:
    """Of a step that is about to be made: its batch, and of the state what is compared later.

    z: [B, d_in]; tokens: int64 [T]; latents: int64 [n]; dead: bool [F], those that AuxK revives.
    pre: of the tokens, float32 [T, F]. directions: float64 [d_in, m]. Of all rows of W_enc and
    W_dec: norms, [F]; seen: float32 [F, m], from the directions. rows: of the latents, by names of
    the state. whole: biases with their moments, and counts. dead_rows: of all dead latents by name,
    where they fit into a `CHUNK`.
    """

    z: Tensor
    tokens: Tensor
    latents: Tensor
    dead: Tensor
    pre: Tensor
    directions: Tensor
    norms: dict[str, Tensor]
    seen: dict[str, Tensor]
    rows: dict[str, Tensor]
    whole: dict[str, Tensor]
    dead_rows: dict[str, Tensor] | None

    def centered(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Rows of the batch without the decoder's bias, float64."""
        return self.z[rows].double() - self.whole["b_dec"].double()


def keep(buffers: Buffers, z: Tensor) -> Kept:
    """Before the step on z, [B, d_in]: some tens of MB for a hundred thousand latents."""
    spec, state, device = buffers.spec, buffers.state, buffers.device
    d, f = spec.d_in, spec.d_sae
    whole = {f"{name}{end}": state[f"{name}{end}"].clone()
             for name in ("b_enc", "b_dec") for end in ("", ".m", ".v")}  # fmt: skip
    whole |= {name: state[name].clone() for name in ("step", "updates", "since_fired")}
    tokens = spread(spec.batch, SAMPLED_TOKENS, device)
    z = z.to(device)
    x = z[tokens].double() - state["b_dec"].double()
    directions = _directions(d).to(device)
    pre = torch.empty(len(tokens), f, device=device)
    norms = {name: torch.empty(f, device=device) for name in MATRICES}
    seen = {name: torch.empty(f, directions.shape[1], device=device) for name in MATRICES}
    for some in chunks(f, d):
        for name in MATRICES:
            w = state[name][some].double()
            norms[name][some] = w.norm(dim=1).float()
            seen[name][some] = (w @ directions).float()
            if name == "W_enc":
                pre[:, some] = (x @ w.mT + state["b_enc"][some].double()).float()
    silent = state["since_fired"] >= spec.dead_after
    dead = silent if spec.k_aux else torch.zeros_like(silent)
    latents = sampled(pre, spec.k, dead)
    rows = {f"{name}{end}": state[f"{name}{end}"][latents].clone()
            for name in NAMES if name != "b_dec" for end in ("", ".m", ".v")}  # fmt: skip
    dead_rows = None
    if 0 < int(dead.sum()) * d <= CHUNK:
        dead_rows = {name: state[name][dead].double() for name in (*MATRICES, "b_enc")}
    return Kept(
        z, tokens, latents, dead, pre, directions, norms, seen, rows, whole, dead_rows
    )  # fmt: skip


def sampled(pre: Tensor, k: int, dead: Tensor) -> Tensor:
    """Latents that the tokens of ``pre`` choose most often, and once; some of all, and of the dead:
    int64, ascending."""
    f = pre.shape[1]
    best = pre.topk(k, dim=1)
    fires = torch.bincount(best.indices[best.values > 0], minlength=f)
    most = fires.topk(min(SAMPLED_LATENTS, f))
    kinds = [most.indices[most.values > 0], spread(f, SAMPLED_LATENTS, pre.device)]
    for some in ((fires == 1).nonzero().squeeze(1), dead.nonzero().squeeze(1)):
        kinds.append(some[spread(len(some), SAMPLED_LATENTS, pre.device)])
    found: Tensor = torch.unique(torch.cat(kinds))
    return found


def spread(n: int, most: int, device: torch.device) -> Tensor:
    """At most so many of 0..n - 1, evenly: int64."""
    some = min(n, most)
    return torch.arange(some, device=device) * n // max(1, some)


def chunks(n: int, width: int) -> Iterator[slice]:
    """Slices of 0..n, of `CHUNK` entries at most where a row has ``width``."""
    size = max(1, CHUNK // width)
    return (slice(at, min(n, at + size)) for at in range(0, n, size))


def _directions(d: int) -> Tensor:
    """Random ones, from which a vector looks about as long as it is; all there are, where these are
    as few: float64 [d, m]."""
    if d <= DIRECTIONS:
        return torch.eye(d, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    drawn: Tensor = torch.randn(d, DIRECTIONS, generator=draw, dtype=torch.float64)
    return drawn / math.sqrt(DIRECTIONS)


def by_token(b: Buffers) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, int64, activations and slopes of the pairs, [B, most of a token]."""
    f, pairs = b.spec.d_sae, len(b.index)
    begin, lengths = b.token_ptr[:-1].long(), b.token_ptr.long().diff().clamp(0, f)
    at = torch.arange(max(1, int(lengths.max())), device=b.device)
    inside = at < lengths[:, None]
    at = (begin[:, None] + at).clamp(0, pairs - 1)
    index = b.index[at].long().where(inside, f)
    none = torch.zeros((), device=b.device)
    return index, b.value[at].where(inside, none), b.slope[at].where(inside, none)


class Made:
    """A step that was made: what its kernels left, and the reference has to explain."""

    def __init__(self, kept: Kept, buffers: Buffers) -> None:
        self.kept, self.buffers = kept, buffers
        self.spec, self.state = buffers.spec, buffers.state
        # Pairs by token, [B, most of a token]; F, 0 and 0 where nothing fires.
        self.index, self.value, self.slope = by_token(buffers)
        self.real = self.index < self.spec.d_sae
        least = self.value.where(self.real, torch.inf)
        full, border = self.real.sum(1) >= self.spec.k, least.amin(1)
        if buffers.per_batch:
            full, border = full.new_tensor(int(self.real.sum()) >= len(buffers.index)), least.amin()
        none = torch.zeros_like(border)
        self.border = torch.where(full, border, none).double().expand(self.spec.batch)

    @cached_property
    def counts(self) -> Tensor:
        """How many tokens chose each latent: int64 [F]."""
        return torch.bincount(self.index[self.real], minlength=self.spec.d_sae)

    @cached_property
    def chosen(self) -> str:
        """What the pairs are to be, in words."""
        spec = self.spec
        if self.buffers.per_batch:
            return f"the latents of the batch are not its {spec.batch * spec.k} largest"
        return f"the latents of a token are not its {spec.k} largest"

    def off(self, pre: Tensor, x: Tensor, latents: Tensor | slice = slice(None)) -> Tensor:
        """By how much the pre-activations [n, m] of tokens x [n, d_in] may be off."""
        norms, bias = self.kept.norms["W_enc"][latents], self.kept.whole["b_enc"][latents]
        sizes: Tensor = x.norm(dim=1, keepdim=True) * norms + pre.abs() + bias.abs()
        return sizes * SLACK


def counts_fault(made: Made) -> str | None:
    """Whole numbers: what was chosen is a choice, and all that is counted and sorted is its."""
    spec, b, before = made.spec, made.buffers, made.kept.whole
    index, real = made.index.sort(1).values, made.real
    twice = (index[:, 1:] == index[:, :-1]) & (index[:, 1:] < spec.d_sae)
    if bool((index[:, 0] < 0).any() | (index[:, -1] > spec.d_sae).any() | twice.any()):
        return f"a token's latents are not some of the {spec.d_sae}"
    tokens = torch.arange(spec.batch, device=b.device)[:, None].expand_as(made.index)
    if not bool((made.value[~real] == 0).all() & (made.value[real] > 0).all()):
        return "a latent that fires has no positive activation"
    if int((b.index < spec.d_sae).sum()) != int(real.sum()):
        return "pairs are listed that no token has"
    ends = torch.cat([made.counts.new_zeros(1), made.counts.cumsum(0)])
    ranked = made.index[real].sort(stable=True).indices
    runs = {"token": tokens[real], "value": made.value[real], "slope": made.slope[real]}
    sorted_so = (torch.equal(b.runs[name][: len(ranked)], of[ranked].to(b.runs[name].dtype))
                 for name, of in runs.items())  # fmt: skip
    if not (torch.equal(b.row_ptr.long(), ends) and all(sorted_so)):
        return "the active pairs are not sorted by latent"
    fired = made.counts > 0
    silent = torch.where(fired, 0, before["since_fired"] + spec.batch)
    if not torch.equal(made.state["since_fired"], silent):
        return "other latents are counted as firing than were chosen"
    raised = made.state["updates"] - before["updates"]
    due = (fired | (spec.optimizer == "adam")).int()
    unsure = made.kept.dead & ((raised == 0) | (raised == 1))  # AuxK's choice is not kept
    if not bool(((raised == due) | unsure).all() & (made.state["step"] == before["step"] + 1)):
        return "other latents are counted as updated than have a gradient"
    return None


def choice_fault(made: Made) -> str | None:
    """The k largest of each sampled token, and their activations."""
    kept, f = made.kept, made.spec.d_sae
    for some in chunks(len(kept.tokens), 8 * f):
        tokens = kept.tokens[some]
        pre = kept.pre[some]
        off = made.off(pre, kept.centered(tokens).float())
        index, real = made.index[tokens], made.real[tokens]
        at = index.clamp(max=f - 1)
        gap = (made.value[tokens] - pre.gather(1, at).clamp(min=0)).abs()
        if not bool((~real | (gap <= off.gather(1, at))).all()):
            return "activations are not the encoder's product"
        chosen = torch.zeros(len(tokens), f + 1, dtype=torch.bool, device=pre.device)
        chosen = chosen.scatter_(1, index, value=True)[:, :f]
        if not bool((chosen | (pre - off <= made.border[tokens, None])).all()):
            return made.chosen
    return None


def error_fault(made: Made) -> str | None:
    """The errors of all tokens, from the directions; and the loss, which is their mean square. What
    nested dictionaries leave is a sum, in which a latent is as often as it is part of one."""
    kept, b, spec = made.kept, made.buffers, made.spec
    squares, m, nests = 0.0, kept.directions.shape[1], len(b.ends)
    for some in chunks(spec.batch, max(spec.d_in, made.index.shape[1] * m)):
        at, value = made.index[some].clamp(max=spec.d_sae - 1), made.value[some].double()
        x = kept.centered(some)
        for nest in range(nests):
            error = b.error[nest, some].double()
            often = (nests - b.nest[at].clamp(min=nest)) * value
            made_of = (often[:, :, None] * kept.seen["W_dec"][at]).sum(1)
            wanted = made_of - (nests - nest) * (x @ kept.directions)
            gap = (error @ kept.directions - wanted).norm(dim=1)
            sizes = (often * kept.norms["W_dec"][at]).sum(1) + error.norm(dim=1)
            sizes += (nests - nest) * x.norm(dim=1)
            if not bool((gap <= SEEN_LARGER * SLACK / 2 * sizes).all()):
                return "the error of a token is not what its latents leave over"
        squares += float(error.square().sum())
    loss = float(made.state["losses"][int(kept.whole["step"])])
    if not abs(loss - squares / spec.batch) <= 4 * SLACK * loss:
        return f"the loss is {loss:.4g}, and the mean square of errors {squares / spec.batch:.4g}"
    return None
