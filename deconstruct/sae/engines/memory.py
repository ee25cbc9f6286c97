"""A device whose memory is too small is said in a sentence, and no other engine is tried: those
that are slower need more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deconstruct.common.errors import ConfigError
from deconstruct.sae.spec import StepSpec


@contextmanager
def within_memory(spec: StepSpec, device: str) -> Iterator[None]:
    """Raises ``ConfigError`` in place of ``torch.OutOfMemoryError``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"training does not fit into the memory of {device}: sae.d_sae = {spec.d_sae} latents "
            f"of width {spec.d_in}, sae.batch_size = {spec.batch} ({_said(error)}); lower one of "
            "these, or free the device of other work"
        ) from error


def _said(error: Exception) -> str:
    """The first sentence of torch's own."""
    return " ".join(str(error).split())[:200].partition(". ")[0] or "out of memory"
