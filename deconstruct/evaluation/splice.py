"""What a reconstruction costs the language model: its loss with the site's activations replaced.

Two passes over the same documents: clean, and with the reconstruction spliced in; what no SAE is
needed for is measured by the stage reference. What comes before the site is the same in both, and
computed in the first alone; the clean logits are needed for the divergence, and would take some 400
times the memory of the activations to keep (embedded default). Only recorded positions are replaced
(those that the SAE is made for); the skipped leading positions keep their clean activations. The
loss is that of predicting the next token from recorded positions, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.progress import Advance
from deconstruct.evaluation.reconstruction import per_token
from deconstruct.reference.passes import (
    Passes,
    divergence,
    likeliest,
    loss,
    normaliser,
    putting,
)
from deconstruct.reference.texts import Text, equal_lengths

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Losses:
    """Sums over each document, in the order of their ids: ``doc_id`` uint32, the rest float64
    [documents].

    Over its predictions from recorded positions: ``clean``, ``spliced`` and ``kl`` in nats,
    ``top1``, how many likeliest tokens stay the same, and their number. Over all its positions:
    ``error`` of |x - x'|^2, and ``variance`` of |x - mean|^2 about the mean of all positions of all
    these documents.
    """

    doc_id: NDArray[np.uint32]
    predictions: NDArray[np.float64]
    clean: NDArray[np.float64]
    spliced: NDArray[np.float64]
    kl: NDArray[np.float64]
    top1: NDArray[np.float64]
    positions: NDArray[np.float64]
    error: NDArray[np.float64]
    variance: NDArray[np.float64]


def spliced_losses(
    passes: Passes,
    texts: Sequence[Text],
    reconstruct: Reconstruct,
    mean: Tensor,
    advance: Advance,
) -> Losses:
    """Run the model twice over each document.

    reconstruct: float32 [n, d_in] -> [n, d_out], from activations at the source of ``passes`` to
    those at its site, which it replaces. mean: [d_out], about what sums are taken on the way.
    Memory: two batches' logits a core of a CPU, and [documents, d_out] in float64.
    """
    side_by_side = each_on_one_thread if passes.on_cpu else map
    splicing = _Splicing(passes, reconstruct, mean)
    batches = {}
    with passes.hooked():
        for number, figures in side_by_side(
            splicing.judge, enumerate(equal_lengths(texts, passes.tokens))
        ):
            batches[number] = figures
            advance(sum(int(columns[-3]) for _, columns, _ in figures))
    found: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for number in sorted(batches):  # in one order, whichever was done first
        for doc_id, columns, shift in batches[number]:
            before = found.get(doc_id, (0, 0))  # other windows of it
            found[doc_id] = (before[0] + columns, before[1] + shift)
    order = sorted(found)
    sums = np.array([found[doc][0] for doc in order]).T
    shifts = np.stack([found[doc][1] for doc in order])
    positions, squares = sums[-3], sums[-1]
    centre = shifts.sum(0) / positions.sum()
    sums[-1] = squares - 2 * shifts @ centre + positions * (centre @ centre)
    return Losses(np.array(order, np.uint32), *sums)


Figures = list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]
"""Of each text: its document, the figures of `Losses` (variance about the train mean), and the sum
of x - mean."""


@dataclass
class _Splicing:
    """The two passes over a batch; several threads may make them at once."""

    passes: Passes
    reconstruct: Reconstruct
    mean: Tensor
    turn: AbstractContextManager[bool] = field(default_factory=Lock)

    @torch.inference_mode()
    def judge(self, numbered: tuple[int, list[Text]]) -> tuple[int, Figures]:
        """The figures of texts of one length."""
        number, batch = numbered
        ids = torch.from_numpy(np.stack([text.ids for text in batch])).to(self.mean.device)
        recorded = torch.from_numpy(np.stack([text.recorded for text in batch])).to(ids.device)
        targets = ids[:, 1:]
        clean, stream, read = self.passes.clean(ids)
        out, rebuilt = self._reconstructed(read, recorded)
        spliced = self.passes.replaced(ids, putting(recorded, lambda _: out))
        log_z, spliced_log_z = normaliser(clean), normaliser(spliced)
        sums = {
            "clean": loss(clean, log_z, targets),
            "spliced": loss(spliced, spliced_log_z, targets),
            "kl": divergence(clean, log_z, spliced, spliced_log_z),
            "top1": likeliest(clean) == likeliest(spliced),
        }
        del clean, spliced
        found: Figures = []
        for row, text in enumerate(batch):
            chosen = recorded[row, :-1]
            figures = [float(chosen.sum())]
            figures += [float(of[row][chosen].double().sum()) for of in sums.values()]
            x = stream[row].float()
            error = float(per_token(x, rebuilt[row])["error"].sum())
            # About the train mean first; the mean of these documents is known at the end.
            centred = x.double() - self.mean.double()
            figures += [len(x), error, float(centred.square().sum())]
            found.append((text.doc_id, np.array(figures), centred.sum(0).cpu().numpy()))
        return number, found

    def _reconstructed(self, read: Tensor, recorded: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """What is made of the recorded positions, [n, d_out], and of all those of each text,
        [length, d_out]. read: [batch, length, d_in]; recorded: bool [batch, length].

        On a card once: there a few tokens take as long as a batch. On a CPU the recorded ones are
        taken by themselves, as a product's rounding may depend on how many there are.
        """
        with self.turn:  # an autoencoder works in buffers of its own
            if self.passes.on_cpu:
                recorded_ones = self.reconstruct(read[recorded].float())
                return recorded_ones, [self.reconstruct(text.float()) for text in read]
            whole = self.reconstruct(read.flatten(0, 1).float()).view(*read.shape[:2], -1)
            return whole[recorded], list(whole)
