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

from deconstruct.hooks import replacing
from deconstruct.progress import Advance
from deconstruct.site import Site

BATCH_TOKENS = 512
"""Tokens in one pass: their logits over a vocabulary of 262,144 take 0.5 GB in float32."""

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
    """Sums over the predictions of each document; float64 [documents]."""

    doc_id: NDArray[np.int64]
    predictions: NDArray[np.float64]
    clean: NDArray[np.float64]
    spliced: NDArray[np.float64]
    zero: NDArray[np.float64]
    mean: NDArray[np.float64]
    kl: NDArray[np.float64]


def spliced_losses(
    model: nn.Module,
    site: Site,
    texts: list[Text],
    reconstruct: Reconstruct,
    mean: Tensor,
    advance: Advance,
) -> tuple[Losses, list[Tensor]]:
    """Losses of each document, and its clean activations at ``site``.

    reconstruct: float32 [n, d_in] -> [n, d_in]. mean: [d_in]. Returns the losses, in the order of
    the documents' ids, and for each of them float32 [length, d_in] on the CPU.
    """
    sums: dict[int, list[float]] = {}
    streams: dict[int, Tensor] = {}
    device = next(model.parameters()).device
    for batch in _equal_lengths(texts):
        ids = torch.from_numpy(np.stack([text.ids for text in batch])).to(device)
        recorded = torch.from_numpy(np.stack([text.recorded for text in batch])).to(device)
        losses, kl, stream = _variants(model, site, ids, recorded, reconstruct, mean)
        predicted = recorded[:, :-1]
        for row, text in enumerate(batch):
            chosen = predicted[row]
            own = [float(chosen.sum())]
            own += [float(losses[v][row][chosen].double().sum()) for v in VARIANTS]
            sums[text.doc_id] = [*own, float(kl[row][chosen].double().sum())]
            streams[text.doc_id] = stream[row].float().cpu()
            advance(len(text.ids))
    order = sorted(sums)
    table = np.array([sums[doc] for doc in order])
    return Losses(np.array(order), *table.T), [streams[doc] for doc in order]


@torch.inference_mode()
def _variants(
    model: nn.Module,
    site: Site,
    ids: Tensor,
    recorded: Tensor,
    reconstruct: Reconstruct,
    mean: Tensor,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Loss of each prediction [batch, length - 1] a variant, KL likewise, clean activations."""
    kept: list[Tensor] = []

    def keep(activation: Tensor) -> Tensor:
        kept.append(activation)
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
        return logits[:, :-1].float()

    targets = ids[:, 1:]
    clean = with_(keep)
    normaliser = clean.logsumexp(-1)
    losses = {"clean": normaliser - clean.gather(-1, targets[..., None])[..., 0]}
    for variant, what in (
        ("spliced", lambda x: reconstruct(x.float())),
        ("zero", torch.zeros_like),
        ("mean", lambda x: mean.to(x).expand_as(x)),
    ):
        logits = with_(put(what))
        own = logits.logsumexp(-1)
        losses[variant] = own - logits.gather(-1, targets[..., None])[..., 0]
        if variant == "spliced":
            # KL(clean || spliced) = sum p (log p - log q), in place: the vocabulary is large.
            probability = (clean - normaliser[..., None]).exp_()
            gap = logits.sub_(own[..., None]).neg_().add_(clean).sub_(normaliser[..., None])
            kl = torch.linalg.vecdot(probability, gap)
            del probability, gap, clean
        del logits
    return losses, kl.clamp_(min=0), kept[0]


def _equal_lengths(texts: list[Text]) -> Iterator[list[Text]]:
    """Batches of documents of equal length, so that no padding is computed."""
    by_length: dict[int, list[Text]] = {}
    for text in texts:
        by_length.setdefault(len(text.ids), []).append(text)
    for length, same in sorted(by_length.items()):
        size = max(1, BATCH_TOKENS // length)
        yield from (same[first : first + size] for first in range(0, len(same), size))
