"""What a reconstruction costs the language model: its loss with the site's activations replaced.

Four passes over the same documents: clean, reconstruction spliced in, zeros, and the train mean.
Only recorded positions are replaced (those that the SAE is made for), in all variants alike; the
skipped leading positions keep their clean activations. The loss is that of predicting the next
token from recorded positions, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.common.progress import Advance
from deconstruct.common.site import Site
from deconstruct.evaluation.reconstruction import per_token
from deconstruct.model.hooks import replacing

BATCH_TOKENS = 512
"""Tokens in one pass: their logits over a vocabulary of 262,144 take 0.25 GB in bfloat16."""
CPU_BYTES, GPU_BYTES = 1 << 23, 1 << 29
"""Float32 logits that are worked on at a time: what caches hold, what a GPU is busy with."""

VARIANTS = ("clean", "spliced", "zero", "mean")

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Text:
    """One document: token ids [length] and which positions are recorded [length]."""

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


@torch.inference_mode()
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
    itself) to those at ``site``, which it replaces. mean: [d_out], at ``site``. Memory: one
    batch's logits a variant, and [documents, d_out] in float64.
    """
    sums: dict[int, list[float]] = {}
    shifted: dict[int, NDArray[np.float64]] = {}
    device = next(model.parameters()).device
    for batch in _equal_lengths(texts):
        ids = torch.from_numpy(np.stack([text.ids for text in batch])).to(device)
        recorded = torch.from_numpy(np.stack([text.recorded for text in batch])).to(device)
        losses, kl, stream, read = _variants(
            model, site, source or site, ids, recorded, reconstruct, mean
        )
        predicted = recorded[:, :-1]
        for row, text in enumerate(batch):
            chosen = predicted[row]
            figures = [float(chosen.sum())]
            figures += [float(losses[v][row][chosen].double().sum()) for v in VARIANTS]
            figures.append(float(kl[row][chosen].double().sum()))
            x = stream[row].float()
            error = float(per_token(x, reconstruct(read[row].float()))["error"].sum())
            # About the train mean first; the mean of these documents is known at the end.
            centred = x.double() - mean.double()
            sums[text.doc_id] = [*figures, len(x), error, float(centred.square().sum())]
            shifted[text.doc_id] = centred.sum(0).cpu().numpy()
            advance(len(text.ids))
    order = sorted(sums)
    columns = np.array([sums[doc] for doc in order]).T
    shifts = np.stack([shifted[doc] for doc in order])
    positions, squares = columns[-3], columns[-1]
    centre = shifts.sum(0) / positions.sum()
    columns[-1] = squares - 2 * shifts @ centre + positions * (centre @ centre)
    return Losses(*columns)


def _variants(
    model: nn.Module,
    site: Site,
    source: Site,
    ids: Tensor,
    recorded: Tensor,
    reconstruct: Reconstruct,
    mean: Tensor,
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Loss of each prediction [batch, length - 1] a variant, KL likewise, clean activations at
    ``site`` and at ``source``."""
    kept: list[Tensor] = []
    read: list[Tensor] = []

    def keep(activation: Tensor) -> Tensor:
        kept.append(activation)
        return activation

    def note(activation: Tensor) -> Tensor:
        read.append(activation)
        return activation

    def put(what: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def replace(activation: Tensor) -> Tensor:
            replaced = activation.clone()
            replaced[recorded] = what(activation[recorded]).to(activation.dtype)
            return replaced

        return replace

    def with_(replace: Callable[[Tensor], Tensor]) -> Tensor:
        with replacing(model, site, replace):
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits[:, :-1]

    targets = ids[:, 1:]
    with replacing(model, source, note):
        clean = with_(keep)
    losses = {"clean": _loss(clean, targets)}
    # What comes before the site is clean there too, so that the first pass has read its source.
    out = reconstruct(read[0][recorded].float())
    spliced = with_(put(lambda _: out))
    losses["spliced"] = _loss(spliced, targets)
    divergence = _divergence(clean, spliced)
    del clean, spliced
    losses["zero"] = _loss(with_(put(torch.zeros_like)), targets)
    losses["mean"] = _loss(with_(put(lambda x: mean.to(x).expand_as(x))), targets)
    return losses, divergence, kept[0], read[0]


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each prediction in nats: [batch, length, vocabulary] -> [batch, length]."""
    rows = zip(_pieces(logits), _pieces(targets[..., None], logits), strict=True)
    parts = [
        ours.float().logsumexp(-1) - ours.gather(-1, target)[:, 0].float() for ours, target in rows
    ]
    return torch.cat(parts).view_as(targets)


def _divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(clean || other) of each prediction in nats, [batch, length]."""
    parts = []
    for ours, theirs in zip(_pieces(clean), _pieces(other), strict=True):
        log_p = ours.float().log_softmax(-1)
        log_q = theirs.float().log_softmax(-1)
        parts.append(torch.linalg.vecdot(log_p.exp(), log_p - log_q))
    return torch.cat(parts).view(clean.shape[:2]).clamp_(min=0)


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
