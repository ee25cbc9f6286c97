"""What an encoder of many tokens is, and how much of a card's memory it may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from deconstruct.common.errors import ConfigError

BATCH_BYTES = 2 << 30
"""Of a card's memory: what a batch takes at most, beside the weights and the pairs found."""

Fired = tuple[Tensor, Tensor, Tensor]
"""Of n tokens: how many latents fire, int64 [n]; which, int32 [pairs], ascending within a token;
how strongly, float32 [pairs], positive."""


class Encoder(Protocol):
    """Encodes tokens on the device that it was made on. title: for the log. rows: the most tokens
    that it takes at once; by sizes alone, so that no result depends on what else is on a card."""

    @property
    def title(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def __call__(self, x: Tensor) -> Fired:
        """x: float32 [n, d_in] on the device, n from 1 to `rows`."""


@contextmanager
def within_memory(W_enc: Tensor) -> Iterator[None]:
    """Raises ``ConfigError`` in place of ``torch.OutOfMemoryError``. W_enc: [d_in, d_sae]."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        d_in, d_sae = W_enc.shape
        raise ConfigError(
            f"encoding with d_sae = {d_sae} latents of width {d_in} does not fit into the memory "
            f"of {W_enc.device}: beside the weights it takes {BATCH_BYTES >> 30} GiB for a batch; "
            "free the device of other work, or encode with --device cpu"
        ) from error
