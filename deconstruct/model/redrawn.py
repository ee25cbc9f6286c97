"""A model with its weights drawn anew: what training put into them is gone, their scale is not.

Heap et al. 2025 (arXiv 2501.17727): SAEs of such a model are the control for what is said of those
of the trained one. Embedding and unembedding are drawn anew too (theirs is the variant "including
embeddings"), so that a token's vector says which token it is and nothing else of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

ELEMENTS = 1 << 22
"""Looked at and drawn at a time."""


@torch.no_grad()
def redraw(model: nn.Module, seed: int) -> None:
    """Fill every weight but those of norms, in place, with normal numbers of the weight's own mean
    and standard deviation.

    A tensor's numbers are decided by the seed and its name, whatever the order of tensors; one
    that has two names (tied embeddings) is drawn once, by the first, and stays tied. One whose
    entries are all equal stays as it is.
    """
    kept = {id(p) for norm in filter(_is_norm, model.modules()) for p in norm.parameters()}
    for name, weight in model.named_parameters():
        if id(weight) not in kept and weight.is_floating_point() and weight.numel():
            _redraw(weight, np.random.default_rng(_seed_of(name, seed)))


def _is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm and what families call theirs: Gemma3RMSNorm, OlmoLayerNorm, ..."""
    return "norm" in type(module).__name__.lower()


def _seed_of(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")


def _redraw(weight: Tensor, random: np.random.Generator) -> None:
    """By numpy, which sums on one thread: the same values on any number of cores."""
    n = weight.numel()
    mean = sum(float(one.sum()) for one in _values(weight)) / n
    spread = np.sqrt(sum(float(np.square(one - mean).sum()) for one in _values(weight)) / n)
    for part in _parts(weight):
        drawn = random.standard_normal(part.numel(), np.float32)
        part.copy_(torch.from_numpy(drawn * np.float32(spread) + np.float32(mean)).view(part.shape))


def _parts(weight: Tensor) -> Iterator[Tensor]:
    """Views of the weight's rows, some at a time."""
    rows = weight.detach() if weight.dim() else weight.detach().view(1)
    yield from torch.split(rows, max(1, ELEMENTS * len(rows) // rows.numel()))


def _values(weight: Tensor) -> Iterator[np.ndarray]:
    """The same as float64 arrays."""
    for part in _parts(weight):
        yield part.double().cpu().numpy()
