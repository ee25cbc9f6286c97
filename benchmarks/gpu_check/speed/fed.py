"""Sources of shuffled batches in each of their places, and whether all give the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.clock import wait
from deconstruct.activations.lane import CudaLane, Lane
from deconstruct.activations.places import OnDevice
from deconstruct.activations.reader import BatchSource

MEMORY, PINNED, DEVICE = "in memory", "by pinned buffers", "pool on the device"
PLACES = (MEMORY, PINNED, DEVICE)
_PLENTY = 1 << 40


class Rows:
    """Some rows, float32 [rows, d_in] that bfloat16 holds, in groups: a `Pooled`."""

    dtype = torch.bfloat16

    def __init__(self, rows: Tensor, groups: int) -> None:
        self._all = rows
        self._groups: Sequence[Tensor] = torch.chunk(rows, groups)
        self.rows, self.d_in = rows.shape
        self.group_rows = np.array([len(group) for group in self._groups])

    def decode(self, groups: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
        """A copy, as of what is read from a file."""
        return torch.cat([self._groups[group] for group in groups]).to(dtype)

    def whole(self, dtype: torch.dtype) -> Tensor:
        """All rows."""
        return self._all.to(dtype)


def source(
    rows: Tensor, batch: int, place: str, device: str, pools: int = 1, ahead: int = 1
) -> BatchSource:
    """Batches of rows [rows, d_in], rounded to bfloat16, from so many pools of them."""
    pooled = Rows(rows.bfloat16().float(), 4 * pools)
    where = None
    if place != MEMORY:
        index = torch.cuda.current_device() if device == "cuda" else 0
        lane = CudaLane(torch.device(device, index)) if device == "cuda" else Lane()
        room = _PLENTY if place == DEVICE else 0
        where = OnDevice(lane, pooled.d_in, pooled.dtype, batch, room)
    pool_rows = len(rows) if pools == 1 else len(rows) // pools
    return BatchSource(pooled, batch, 0, pool_rows, None, ahead, where)


def agreement(rows: Tensor, batch: int, device: str) -> None:
    """Raises ValueError unless all places give the same batches, over two epochs of many pools.

    What is computed reads a batch late, behind a product that takes some time, so that whoever
    writes into memory that is still to be read would be seen. The host does not wait in between.
    """
    steps = 2 * len(rows) // batch
    size = 8192 if device == "cuda" else 8
    weight = torch.randn(size, size, device=device)
    for pools in (1, 8):
        memory = source(rows, batch, MEMORY, device, pools)
        expected = [memory.at(step).to(device, torch.bfloat16) for step in range(steps)]
        memory.close()
        for place in (PINNED, DEVICE):
            of = source(rows, batch, place, device, pools)
            off = torch.zeros((), dtype=torch.int64, device=device)
            for step in range(steps):
                found = of.at(step)
                _ = weight @ weight
                off += (found != expected[step]).sum()
                del found
            wait(device)
            of.close()
            if int(off):
                raise ValueError(f"{place}, {pools} pools: {int(off)} entries of batches differ")
