"""Whether a model's documents may be padded on the right: tried on its own texts before the work.

In a causal model nothing looks to the right, so that what stands behind a document's end can't
matter to it, with or without an attention mask; and positions count from the left. No mask is
given: so `torch` may take its fused causal kernel, which takes none. Not every model is causal
through and through: attention may look both ways, experts may share a room of fixed size. So two
things are asked of a pass over documents of all lengths: that it gives the same bits whatever they
are padded with, and that documents come out as they do alone, up to rounding. Where frequencies of
rotary positions follow the longest text of a pass (dynamic NTK, LongRoPE), the difference may hide
in a low precision: such models are not tried.

What it can't show: that documents it has not looked at come out so too.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.activations.layout import Tokens
from deconstruct.common.site import Site
from deconstruct.model.hooks import Read

FOLLOWING = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions, as `transformers` calls them, that follow a pass' longest text."""
ALONE = 8
"""Documents that are also computed alone, from the shortest to the longest."""


@torch.inference_mode()
def fault(model: nn.Module, read: Read, tokens: Tokens, most: int, device: str) -> str:
    """Why they may not, in a clause; "" if they may. read: of ``model``, at the sites that are
    asked for. most: tokens of a pass, padding among them.

    Documents are drawn evenly by length, so that most of the pass is padding. Of a document alone,
    half of the tokens must differ by less than the square root of the precision's epsilon (0.09 in
    bfloat16, 0.0003 in float32), relative to their length as vectors: what follows from another
    shape of batch is well below it, another position or attention above.
    """
    if _follows_longest(model):
        return "its rotary positions follow the longest text of a pass"
    documents = _drawn(tokens, most)
    other_fill = next((i for i in map(int, tokens.ids[1:]) if i != tokens.ids[0]), 0)
    try:
        found = _real(read, tokens, documents, None, device)
        if any(
            not torch.equal(_bits(found[site]), _bits(other))
            for site, other in _real(read, tokens, documents, other_fill, device).items()
        ):
            return "what a document is padded with changes its activations"
        ends = np.cumsum(tokens.lengths[documents])
        for place in np.unique(np.linspace(0, len(documents) - 1, ALONE).round().astype(int)):
            size = int(tokens.lengths[documents[place]])
            alone = _real(read, tokens, documents[[place]], None, device)
            for site, expected in alone.items():
                mine = found[site][ends[place] - size : ends[place]]
                apart, limit = _apart(mine, expected), torch.finfo(expected.dtype).eps ** 0.5
                if apart > limit:
                    return (
                        f"at site {str(site)!r} a document of {size} tokens comes out otherwise "
                        f"padded than alone (by {apart:.2g}, rounding is below {limit:.2g})"
                    )
    except RuntimeError as error:  # what a family of models raises, and a device without room
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"a pass of {most} tokens does not run ({said[0][:200]})"
    return ""


def _follows_longest(model: nn.Module) -> bool:
    kinds = [getattr(module, "rope_type", None) for module in model.modules()]
    named = [list(kind.values()) if isinstance(kind, dict) else [kind] for kind in kinds]
    return any(kind in FOLLOWING for of_module in named for kind in of_module)


def _drawn(tokens: Tokens, most: int) -> NDArray[np.int64]:
    """Documents that fill a pass, evenly over all by length, the shortest first."""
    recorded = np.flatnonzero(tokens.rows > 0)
    order = recorded[np.argsort(tokens.lengths[recorded], kind="stable")]
    room = max(2, most // int(tokens.lengths[order[-1]]))
    drawn: NDArray[np.int64] = order[
        np.unique(np.linspace(0, len(order) - 1, room).round().astype(int))
    ]
    return drawn


def _real(
    read: Read, tokens: Tokens, documents: NDArray[np.int64], fill: int | None, device: str
) -> dict[Site, Tensor]:
    """Activations of their tokens in one pass, without padding: [tokens, d_in] on the device."""
    ids, _ = tokens.padded(documents, fill)
    real = np.arange(ids.shape[1]) < tokens.lengths[documents][:, None]
    chosen = torch.from_numpy(real).to(device)
    return {site: one[chosen] for site, one in read(torch.from_numpy(ids).to(device)).items()}


def _bits(activation: Tensor) -> Tensor:
    return activation.contiguous().view(torch.uint8)


def _apart(found: Tensor, expected: Tensor) -> float:
    """The median over tokens of how far they are apart, relative to the length of the expected."""
    wide = expected.float()
    error = (found.float() - wide).norm(dim=-1) / wide.norm(dim=-1).clamp_min(1e-30)
    return float(error.median())
