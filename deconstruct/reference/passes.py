"""The model's passes with something else at a site, and what its logits say: losses, divergence.

What comes before the site is the same in all passes over a batch, and computed in the clean one
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor, nn

from deconstruct.common.site import Site
from deconstruct.model.hooks import Prefix, Replace, repeating, replacing
from deconstruct.reference.texts import BATCH_TOKENS

CPU_BYTES, GPU_BYTES = 1 << 21, 1 << 29
"""Float32 logits that are worked on at a time: what a core's cache holds, what a GPU is busy with.
No result depends on it."""
MOST_TOKENS = 8192
"""Tokens of a pass on a GPU, however few logits each has."""


class _State(local):
    """What one thread's pass puts at the site (None: nothing), and what it has read."""

    put: Replace | None = None
    stream: Tensor
    read: Tensor


class Passes:
    """Passes over a batch of texts of one length; several threads may make them at once."""

    def __init__(self, model: nn.Module, site: Site, source: Site | None = None) -> None:
        """site: where something is put. source: where an SAE reads (None: there)."""
        self.model, self.site, self.source = model, site, source or site
        self.on_cpu = next(model.parameters()).device.type == "cpu"
        self._state = _State()
        self._prefix: Prefix

    @property
    def tokens(self) -> int:
        """How many tokens a pass takes: on a GPU those whose logits fill `GPU_BYTES`, at least as
        many as on a CPU. By another shape of batch results differ in their rounding."""
        if self.on_cpu:
            return BATCH_TOKENS
        embedding: Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        room = GPU_BYTES // (len(embedding) * embedding.element_size())
        return max(BATCH_TOKENS, min(MOST_TOKENS, room))

    @contextmanager
    def hooked(self) -> Iterator[Passes]:
        """Passes are made within this block."""
        with (
            replacing(self.model, self.source, self._note),
            replacing(self.model, self.site, self._put),
            repeating(self.model, self.site) as self._prefix,
        ):
            yield self

    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of each prediction, [batch, length - 1, vocabulary], and what passes at the site
        and at the source, [batch, length, width] each. ids: int64 [batch, length]."""
        logits = self._logits(ids, None)
        return logits, self._state.stream, self._state.read

    def replaced(self, ids: Tensor, replace: Replace) -> Tensor:
        """The logits with ``replace`` of the activation at the site in its place. It begins there:
        the thread's last clean pass must be of the same ids."""
        return self._logits(ids, replace)

    def _logits(self, ids: Tensor, put: Replace | None) -> Tensor:
        self._state.put, self._prefix.again = put, put is not None
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[:, :-1]

    def _note(self, activation: Tensor) -> Tensor:
        if self._state.put is None:
            self._state.read = activation
        return activation

    def _put(self, activation: Tensor) -> Tensor:
        if self._state.put is not None:
            return self._state.put(activation)
        self._state.stream = activation
        return activation


def putting(recorded: Tensor, what: Callable[[Tensor], Tensor]) -> Replace:
    """Put ``what`` of the recorded activations [n, d_out] in their place."""

    def replace(activation: Tensor) -> Tensor:
        replaced = activation.clone()
        replaced[recorded] = what(activation[recorded]).to(activation.dtype)
        return replaced

    return replace


def normaliser(logits: Tensor) -> Tensor:
    """log sum exp of each prediction's logits: [batch, length, vocabulary] -> [batch, length]."""
    parts = []
    for some in _pieces(logits):
        wide = some.to(torch.float32, copy=True)
        top = wide.amax(-1, keepdim=True)
        parts.append(wide.sub_(top).exp_().sum(-1).log_().add_(top[:, 0]))
    return torch.cat(parts).view(logits.shape[:2])


def loss(logits: Tensor, log_z: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each prediction in nats, [batch, length]. log_z: its `normaliser`. targets:
    ids [batch, length]."""
    return log_z - logits.gather(-1, targets[..., None])[..., 0].float()


def divergence(
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


def likeliest(logits: Tensor) -> Tensor:
    """The likeliest next token of each prediction: int64 [batch, length]; of equals the first."""
    parts = [some.float().max(-1).indices for some in _pieces(logits)]  # argmax takes twice as long
    return torch.cat(parts).view(logits.shape[:2])


def _pieces(rows: Tensor, like: Tensor | None = None) -> Iterator[Tensor]:
    """[batch, length, n] as [some, n], so few that the vocabulary of ``like`` stays in caches."""
    like = rows if like is None else like
    some = max(1, (CPU_BYTES if like.device.type == "cpu" else GPU_BYTES) // (4 * like.shape[-1]))
    for document in rows:
        yield from document.split(some)
