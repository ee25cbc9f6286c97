"""What decides on an early stop: rows of documents that are not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deconstruct.sae.autoencoder import SparseAutoencoder

log = logging.getLogger(__name__)

AT_ONCE = 16_384
"""Rows that are judged at once on a device; on the CPU all are, whose error is one sum."""


@dataclass(frozen=True)
class HeldOut:
    """Raw activations x [n, d_in], and what is reconstructed, y [n, d_out]: in any precision, on
    the CPU or on the device that trains."""

    x: Tensor
    y: Tensor

    def fvu(self, sae: SparseAutoencoder) -> float:
        """Squared error over squares about the mean of these rows; computed where the SAE lies."""
        on_cpu = sae.W_enc.device.type == "cpu"
        return self.in_parts(sae, len(self.x) if on_cpu else AT_ONCE)

    def in_parts(self, sae: SparseAutoencoder, size: int) -> float:
        """`fvu`, so many rows at a time."""
        device = sae.W_enc.device
        parts = zip(torch.split(self.x, size), torch.split(self.y, size), strict=True)
        return sum(_squared(sae, x.to(device), y.to(device)) for x, y in parts) / self._squares

    @cached_property
    def _squares(self) -> float:
        y = self.y.cpu().double()  # once, and so on a device that has no room for it, too
        return float((y - y.mean(0)).square().sum())


class Judge:
    """Looks at the error on held-out rows: on a device as long as there is room for it.

    trained: gives the SAE as it is, on a device that is named.
    """

    def __init__(
        self, held_out: HeldOut, trained: Callable[[str], SparseAutoencoder], device: str
    ) -> None:
        self._held_out, self._trained, self._device = held_out, trained, device

    def fvu(self) -> float:
        """Of the SAE as it is now."""
        try:
            return self._held_out.fvu(self._trained(self._device))
        except torch.OutOfMemoryError:
            log.warning(
                "sae          held-out rows are judged on the CPU: %s has too little memory left",
                self._device,
            )
            self._device = "cpu"
        return self._held_out.fvu(self._trained(self._device))


def _squared(sae: SparseAutoencoder, x: Tensor, y: Tensor) -> float:
    return float((sae(x) - y).double().square().sum())
