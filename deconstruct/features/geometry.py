"""Where the latents' directions lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.features.tables import DIRECTIONS

BLOCK_COSINES = 1 << 24
"""Cosines that are in memory at a time: 64 MiB of them."""


def directions(W_dec: Tensor) -> pa.Table:
    """``directions.parquet``: a row per latent. W_dec: [d_sae, d_in], written as it is."""
    rows = W_dec.detach().float().cpu().numpy()
    ends = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    decoder = pa.ListArray.from_arrays(pa.array(ends), pa.array(rows.reshape(-1)))
    return DIRECTIONS.of(np.arange(len(rows), dtype=np.uint32), decoder)


@dataclass(frozen=True)
class Geometry:
    """Where the latents' directions lie; every array is [d_sae].

    decoder_norm, encoder_decoder_cosine: float32. nearest_latent: uint32, the other latent whose
    decoder row has the largest cosine with this one's; nearest_cosine: float32.
    """

    decoder_norm: NDArray[np.float32]
    encoder_decoder_cosine: NDArray[np.float32]
    nearest_latent: NDArray[np.uint32]
    nearest_cosine: NDArray[np.float32]

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor) -> Geometry:
        """W_enc: [d_in, d_sae]. W_dec: [d_sae, d_out]. Cosines come block by block.

        A row of zeros has the cosine 0 with every other. A transcoder's encoder and decoder lie
        in the spaces of two sites; their cosine is 0 where those differ in width.
        """
        decoder = W_dec.detach().float()
        encoder = W_enc.detach().float().T
        norm = decoder.norm(dim=1)
        unit = torch.nn.functional.normalize(decoder, dim=1)
        aligned = torch.zeros(len(unit), device=unit.device)
        if encoder.shape == unit.shape:
            aligned = (torch.nn.functional.normalize(encoder, dim=1) * unit).sum(1)
        return cls(norm.cpu().numpy(), aligned.cpu().numpy(), *nearest(unit))


def nearest(unit: Tensor) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Of each row the other one with the largest cosine, and that cosine: [n] both.

    unit: [n, d], rows of unit length, or zeros.
    """
    n = len(unit)
    step = max(1, BLOCK_COSINES // n)
    row = torch.empty(n, dtype=torch.int64, device=unit.device)
    cosine = torch.empty(n, device=unit.device)
    for start in range(0, n, step):
        block = unit[start : start + step] @ unit.T
        own = torch.arange(len(block), device=unit.device)
        block[own, own + start] = -torch.inf
        cosine[start : start + step], row[start : start + step] = block.max(1)
    return row.cpu().numpy().astype(np.uint32), cosine.clamp(-1, 1).cpu().numpy()
