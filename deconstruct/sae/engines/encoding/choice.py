"""Which encoder takes many tokens on a card: the fused selection where it serves, else dense
products; and why not the first."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import Architecture
from deconstruct.sae.architectures.topk import TopK
from deconstruct.sae.engines.cuda.options import unavailable
from deconstruct.sae.engines.encoding.banded import Banded
from deconstruct.sae.engines.encoding.check import fault, wrong_elsewhere
from deconstruct.sae.engines.encoding.encoder import Encoder, Fired
from deconstruct.sae.engines.encoding.selected import SelectedTopK, unsuited

log = logging.getLogger(__name__)


def encoder_for(
    method: Architecture, weights: Mapping[str, Tensor], k: int | None, transcoder: bool
) -> Encoder:
    """The encoder for the device that the trained SAE's weights are on. Logs which, with a warning
    where the fused selection failed that should have served.

    weights, k: as `deconstruct.sae.autoencoder.SparseAutoencoder` has them.
    """
    device, (d_in, d_sae) = weights["W_enc"].device, weights["W_enc"].shape
    banded = Banded(method, weights, k)
    reason, level = _refusal(method, d_in, d_sae, k or 0, transcoder, device), logging.INFO
    if reason is None and device.type == "cuda":
        reason, level = wrong_elsewhere(str(device), d_in, d_sae, k or 0), logging.WARNING
    if reason is None:
        return Proven(weights, k or 0, banded)
    log.log(level, "encoding     by %s: %s", banded.title, reason)
    return banded


def _refusal(
    method: Architecture, d_in: int, d_sae: int, k: int, transcoder: bool, device: torch.device
) -> str | None:
    if not isinstance(method, TopK):
        return f"the fused selection is for {TopK.name}, not {method.name}"
    if transcoder:
        return "the fused selection is for autoencoders, not transcoders"
    return unsuited(d_in, d_sae, k) or unavailable(device)


class Proven:
    """The fused selection, held against float64 on the first tokens that it is given; where it is
    wrong there, or does not run, dense products take its place."""

    title = SelectedTopK.title

    def __init__(self, weights: Mapping[str, Tensor], k: int, otherwise: Encoder) -> None:
        self._weights, self._k, self._otherwise = weights, k, otherwise
        self._selected = SelectedTopK(weights, k)
        self._serves: bool | None = None  # not known yet
        self.rows = self._selected.rows

    def __call__(self, x: Tensor) -> Fired:
        """As `Encoder` says."""
        if self._serves is None:
            self._serves = self._try(x)
        if self._serves:
            return self._selected(x)
        parts = [self._otherwise(part) for part in torch.split(x, self._otherwise.rows)]
        counts, latents, activations = (torch.cat(part) for part in zip(*parts, strict=True))
        return counts, latents, activations

    def _try(self, x: Tensor) -> bool:
        try:
            reason = fault(self._selected, self._weights, self._k, x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and drivers raise what they like
            reason = f"the fused selection does not run here ({type(error).__name__}: {error})"
        if reason is None:
            log.info("encoding     by %s, which agrees with float64", self.title)
            return True
        log.warning("encoding     by %s: %s", self._otherwise.title, reason)
        return False
