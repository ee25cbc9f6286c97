"""What a reconstruction costs the language model: its loss with the site's activations replaced.

Four passes over the same documents: clean, reconstruction spliced in, zeros, and the train mean.
What comes before the site is the same in all of them, and computed in the first alone.
Only recorded positions are replaced (those that the SAE is made for), in all variants alike; the
skipped leading positions keep their clean activations. The loss is that of predicting the next
token from recorded positions, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from threading import Lock, local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.progress import Advance
from deconstruct.common.site import Site
from deconstruct.evaluation.reconstruction import per_token
from deconstruct.model.hooks import Prefix, Replace, repeating, replacing

BATCH_TOKENS = 512
"""Tokens in one pass: their logits over a vocabulary of 262,144 take 0.25 GB in bfloat16."""
CPU_BYTES, GPU_BYTES = 1 << 21, 1 << 29
"""Float32 logits that are worked on at a time: what a core's cache holds, what a GPU is busy with.
No result depends on it."""

VARIANTS = ("clean", "spliced", "zero", "mean")

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Text:
    """One document, or a window of one: token ids [length] and which positions are recorded
    [length]."""

    doc_id: int
    ids: NDArray[np.int64]
    recorded: NDArray[np.bool_]


@dataclass(frozen=True)
class Losses:
    """Sums over each document, in the order of their ids; float64 [documents].

    Over its predictions from recorded positions: ``clean``, ``spliced``, ``zero``, ``mean`` and
    ``kl`` in nats, and their number. Over all its positions: ``error`` of |x - x'|^2, and
    ``variance`` of |x - mean|^2 about the mean of all positions of all these documents.
    """

    predictions: NDArray[np.float64]
    clean: NDArray[np.float64]
    spliced: NDArray[np.float64]
    zero: NDArray[np.float64]
    mean: NDArray[np.float64]
    kl: NDArray[np.float64]
    positions: NDArray[np.float64]
    error: NDArray[np.float64]
    variance: NDArray[np.float64]


def spliced_losses(
    model: nn.Module,
    site: Site,
    texts: list[Text],
    reconstruct: Reconstruct,
    mean: Tensor,
    advance: Advance,
    source: Site | None = None,
) -> Losses:
    """Run the model four times over each document.

    reconstruct: float32 [n, d_in] -> [n, d_out], from activations at ``source`` (none: at ``site``
    itself) to those at ``site``, which it replaces. mean: [d_out], at ``site``. Memory: two
    batches' logits a core of a CPU, and [documents, d_out] in float64.
    """
    found: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    on_cpu = next(model.parameters()).device.type == "cpu"
    side_by_side = each_on_one_thread if on_cpu else map
    splicing = _Splicing(model, site, source or site, reconstruct, mean)
    with splicing.hooked():
        for batch in side_by_side(splicing.judge, _equal_lengths(texts)):
            for doc_id, figures, shift in batch:
                before = found.get(doc_id)  # other windows of it
                found[doc_id] = (
                    (figures, shift) if before is None else (before[0] + figures, before[1] + shift)
                )
            advance(sum(int(figures[-3]) for _, figures, _ in batch))
    order = sorted(found)
    columns = np.array([found[doc][0] for doc in order]).T
    shifts = np.stack([found[doc][1] for doc in order])
    positions, squares = columns[-3], columns[-1]
    centre = shifts.sum(0) / positions.sum()
    columns[-1] = squares - 2 * shifts @ centre + positions * (centre @ centre)
    return Losses(*columns)


class _Pass(local):
    """What one thread's pass puts at the site (None: nothing), and what it has read."""

    put: Replace | None = None
    stream: Tensor
    read: Tensor


Figures = list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]
"""Of each text: its document, the figures of `Losses` (variance about the train mean), and the sum
of x - mean."""


@dataclass
class _Splicing:
    """The four passes over a batch; several threads may make them at once."""

    model: nn.Module
    site: Site
    source: Site
    reconstruct: Reconstruct
    mean: Tensor
    passing: _Pass = field(default_factory=_Pass)
    turn: AbstractContextManager[bool] = field(default_factory=Lock)
    prefix: Prefix = field(init=False)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """`judge` works within this block."""
        with (
            replacing(self.model, self.source, self._note),
            replacing(self.model, self.site, self._put),
            repeating(self.model, self.site) as self.prefix,
        ):
            yield

    @torch.inference_mode()
    def judge(self, batch: list[Text]) -> Figures:
        """The figures of texts of one length."""
        ids = torch.from_numpy(np.stack([text.ids for text in batch])).to(self.mean.device)
        recorded = torch.from_numpy(np.stack([text.recorded for text in batch])).to(ids.device)
        targets = ids[:, 1:]
        clean = self._logits(ids, None)
        stream, read = self.passing.stream, self.passing.read
        out = self._reconstructed(read[recorded])
        spliced = self._logits(ids, _putting(recorded, lambda _: out))
        log_z, spliced_log_z = _normaliser(clean), _normaliser(spliced)
        losses = {
            "clean": _loss(clean, log_z, targets),
            "spliced": _loss(spliced, spliced_log_z, targets),
        }
        kl = _divergence(clean, log_z, spliced, spliced_log_z)
        del clean, spliced
        constant = _putting(recorded, lambda x: self.mean.to(x).expand_as(x))
        for variant, put in {
            "zero": _putting(recorded, torch.zeros_like),
            "mean": constant,
        }.items():
            logits = self._logits(ids, put)
            losses[variant] = _loss(logits, _normaliser(logits), targets)
        found: Figures = []
        for row, text in enumerate(batch):
            chosen = recorded[row, :-1]
            figures = [float(chosen.sum())]
            figures += [float(losses[v][row][chosen].double().sum()) for v in VARIANTS]
            figures.append(float(kl[row][chosen].double().sum()))
            x = stream[row].float()
            error = float(per_token(x, self._reconstructed(read[row]))["error"].sum())
            # About the train mean first; the mean of these documents is known at the end.
            centred = x.double() - self.mean.double()
            figures += [len(x), error, float(centred.square().sum())]
            found.append((text.doc_id, np.array(figures), centred.sum(0).cpu().numpy()))
        return found

    def _reconstructed(self, read: Tensor) -> Tensor:
        with self.turn:  # an autoencoder works in buffers of its own
            return self.reconstruct(read.float())

    def _logits(self, ids: Tensor, put: Replace | None) -> Tensor:
        """Of each prediction; a pass that puts something at the site begins there."""
        self.passing.put, self.prefix.again = put, put is not None
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[:, :-1]

    def _note(self, activation: Tensor) -> Tensor:
        if self.passing.put is None:
            self.passing.read = activation
        return activation

    def _put(self, activation: Tensor) -> Tensor:
        if self.passing.put is not None:
            return self.passing.put(activation)
        self.passing.stream = activation
        return activation


def _putting(recorded: Tensor, what: Replace) -> Replace:
    """Put ``what`` of the recorded activations [n, d_out] in their place."""

    def replace(activation: Tensor) -> Tensor:
        replaced = activation.clone()
        replaced[recorded] = what(activation[recorded]).to(activation.dtype)
        return replaced

    return replace


def _normaliser(logits: Tensor) -> Tensor:
    """log sum exp of each prediction's logits: [batch, length, vocabulary] -> [batch, length]."""
    parts = []
    for some in _pieces(logits):
        wide = some.to(torch.float32, copy=True)
        top = wide.amax(-1, keepdim=True)
        parts.append(wide.sub_(top).exp_().sum(-1).log_().add_(top[:, 0]))
    return torch.cat(parts).view(logits.shape[:2])


def _loss(logits: Tensor, normaliser: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each prediction in nats, [batch, length]. targets: ids [batch, length]."""
    return normaliser - logits.gather(-1, targets[..., None])[..., 0].float()


def _divergence(
    clean: Tensor, its_normaliser: Tensor, other: Tensor, others_normaliser: Tensor
) -> Tensor:
    """KL(clean || other) of each prediction in nats, [batch, length].

    sum p (x - y) - log Z_x + log Z_y, for logits x and y: one exponential per logit.
    """
    parts = []
    rows = its_normaliser[..., None]
    for ours, theirs, log_z in zip(
        _pieces(clean), _pieces(other), _pieces(rows, clean), strict=True
    ):
        x = ours.to(torch.float32, copy=True)
        apart = x - theirs
        parts.append(torch.linalg.vecdot(x.sub_(log_z).exp_(), apart))
    gain = torch.cat(parts).view(clean.shape[:2])
    return (gain - its_normaliser + others_normaliser).clamp_(min=0)


def _pieces(rows: Tensor, like: Tensor | None = None) -> Iterator[Tensor]:
    """[batch, length, n] as [some, n], so few that the vocabulary of ``like`` stays in caches."""
    like = rows if like is None else like
    some = max(1, (CPU_BYTES if like.device.type == "cpu" else GPU_BYTES) // (4 * like.shape[-1]))
    for document in rows:
        yield from document.split(some)


def _equal_lengths(texts: list[Text]) -> Iterator[list[Text]]:
    """Batches of documents of equal length, so that no padding is computed."""
    by_length: dict[int, list[Text]] = {}
    for text in texts:
        by_length.setdefault(len(text.ids), []).append(text)
    for length, same in sorted(by_length.items()):
        size = max(1, BATCH_TOKENS // length)
        yield from (same[first : first + size] for first in range(0, len(same), size))
