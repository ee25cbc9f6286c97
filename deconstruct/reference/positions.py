"""Passes that are the same for every text: where nothing of a text is left at the site.

With zeros or a constant in the residual stream, and the same leading tokens before it in all texts,
what follows is a function of the position alone. Then one pass over the longest text serves all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconstruct.model.hooks import Replace
from deconstruct.reference.passes import Passes, normaliser
from deconstruct.reference.texts import Text


@dataclass(frozen=True)
class ByPosition:
    """logits: [longest - 1, vocabulary] of each prediction, and their ``log_z``, [longest - 1]."""

    logits: Tensor
    log_z: Tensor

    def of(self, texts: int, predictions: int) -> tuple[Tensor, Tensor]:
        """Those of so many texts of so many predictions, [texts, predictions, ...]."""
        return (
            self.logits[:predictions].expand(texts, -1, -1),
            self.log_z[:predictions].expand(texts, -1),
        )


def alike(texts: Sequence[Text]) -> bool:
    """Whether the positions that are not recorded are the same leading tokens in all texts."""
    first = [int(np.argmax(text.recorded)) for text in texts]
    kept = {tuple(text.ids[:n].tolist()) for text, n in zip(texts, first, strict=True)}
    whole = all(text.recorded[n:].all() for text, n in zip(texts, first, strict=True))
    return whole and len(kept) == 1


@torch.inference_mode()
def by_position(
    passes: Passes, texts: Sequence[Text], put: Replace, device: str
) -> ByPosition | None:
    """What ``put`` gives in every text, or None if that is not the same.

    put: looks at no token. It is tried on two texts: their logits must be equal to the last bit.
    """
    if not passes.site.hook.startswith("resid") or len(texts) < 2:
        return None  # elsewhere the stream passes it by
    longest, *others = sorted(texts, key=lambda text: -len(text.ids))
    other = next((o for o in others if not np.array_equal(o.ids, longest.ids)), others[0])
    length = min(len(longest.ids), len(other.ids))

    def logits(text: Text, length: int) -> Tensor:
        ids = torch.from_numpy(text.ids[None, :length]).to(device)
        passes.clean(ids)
        return passes.replaced(ids, put)

    found = logits(longest, length)
    if not torch.equal(found, logits(other, length)):
        return None
    if length < len(longest.ids):
        found = logits(longest, len(longest.ids))
    return ByPosition(found[0], normaliser(found)[0])
