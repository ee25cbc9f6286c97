"""Where pools of rows lie, and batches are put together: on the CPU, or on the device that trains.

Which rows a batch has, and their values, are the same in each place.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.lane import CudaLane, Lane, Mark, Sender

log = logging.getLogger(__name__)

POOL_SHARE = 1 / 8
"""Of a device's free memory when training begins: what one pool may take of it. Two are held at a
time, and of a transcoder two of each site."""
PART_BYTES = 1 << 22
"""Of a pool, copied at once: few enough that a batch does not wait long behind them."""
MOST_GIVEN = 8
"""Batches that the host gives ahead of the device's steps, which bounds the memory they take."""


@dataclass(frozen=True)
class Pool:
    """Rows that batches are taken from, [n, d_in]. there: on the device, and not on the host."""

    rows: Tensor
    there: bool = False


Parts = Iterable[tuple[Pool, NDArray[np.int64]]]
"""A batch as pools, each with the numbers of its rows."""


class Place(Protocol):
    """What makes batches of pools. Each method is called by one thread at a time.

    dtype: of its pools and batches.
    """

    dtype: torch.dtype

    def pool(self, rows: Tensor) -> Pool:
        """What is kept of a pool's rows, [n, d_in] on the CPU."""

    def batch(self, size: int, parts: Parts) -> Callable[[], Tensor]:
        """Begin a batch of ``size`` rows; what it gives is called, once, by the thread that
        computes on it."""


class InMemory:
    """On the CPU; float32."""

    dtype = torch.float32

    def __init__(self, d_in: int) -> None:
        self._d_in = d_in

    def pool(self, rows: Tensor) -> Pool:
        """The rows themselves."""
        return Pool(rows)

    def batch(self, size: int, parts: Parts) -> Callable[[], Tensor]:
        """It is there at once."""
        batch = torch.empty(size, self._d_in)
        filled = 0
        for pool, numbers in parts:
            out = batch[filled : filled + len(numbers)].numpy()
            # By numpy: torch's threads would spin on the cores that the training step needs. Clip:
            # the rows are a permutation's, and "raise" would gather into a buffer first.
            np.take(pool.rows.numpy(), numbers, axis=0, out=out, mode="clip")
            filled += len(numbers)
        return lambda: batch


class OnDevice:
    """On the device that trains, in ``dtype``, which must hold the rows exactly.

    A pool of ``room`` bytes at most lies there too, and a batch is gathered from it by row number.
    A larger one stays on the host: batches are gathered in pinned memory and copied while the step
    before is made.
    """

    def __init__(
        self, lane: Lane, d_in: int, dtype: torch.dtype, batch_size: int, room: int
    ) -> None:
        self._lane, self._d_in, self.dtype, self._room = lane, d_in, dtype, room
        row = d_in * dtype.itemsize
        self._part = max(1, PART_BYTES // row)
        self._pools = Sender(lane, self._part * row)
        self._batches = Sender(lane, batch_size * max(row, torch.int64.itemsize))
        self._given: deque[Mark] = deque()

    def pool(self, rows: Tensor) -> Pool:
        """There, where it fits."""
        size = rows.nbytes
        if self._room and size > self._room:
            self._stay(f"takes {size / 1e9:.2g} GB of {self._room / 1e9:.2g} that it may")
        if self._room:
            try:
                return Pool(self._sent(rows), there=True)
            except torch.OutOfMemoryError:
                self._stay(f"takes {size / 1e9:.2g} GB, and the device has not so much left")
        return Pool(rows)

    def batch(self, size: int, parts: Parts) -> Callable[[], Tensor]:
        """On the lane; whoever computes waits for it there."""
        lane, filled = self._lane, 0
        batch = lane.empty(size, self._d_in, dtype=self.dtype)
        for pool, numbers in parts:
            which = torch.from_numpy(numbers)
            out = batch[filled : filled + len(numbers)]
            if pool.there:
                places = lane.empty(len(numbers), dtype=torch.int64)
                self._batches.send(partial(_copy, which), places)
                lane.do(partial(torch.index_select, pool.rows, 0, places, out=out))
            else:
                self._batches.send(partial(_gather, pool.rows, which), out)
            filled += len(numbers)
        return partial(self._give, batch, lane.mark())

    def _sent(self, rows: Tensor) -> Tensor:
        there = self._lane.empty(*rows.shape, dtype=self.dtype)
        for first in range(0, len(rows), self._part):
            some = slice(first, first + self._part)
            self._pools.send(partial(_copy, rows[some]), there[some])
        return there

    def _stay(self, why: str) -> None:
        """From now on pools stay on the host: they are all of about one size."""
        self._room = 0
        log.warning("sae          batches come from the host: a pool of rows %s", why)

    def _give(self, batch: Tensor, written: Mark) -> Tensor:
        self._lane.give(batch, written)
        self._given.append(self._lane.reached())
        if len(self._given) > MOST_GIVEN:
            self._given.popleft().wait()
        return batch


def place_on(device: str, d_in: int, dtype: torch.dtype, batch_size: int) -> Place:
    """Where batches for a training on ``device`` are made; dtype: what rows are stored in.

    Where a device does not give what this needs, they are made on the CPU, and the step fetches
    them.
    """
    where = _indexed(device)
    if where.type == "cpu":
        return InMemory(d_in)
    try:
        return OnDevice(_lane(where), d_in, dtype, batch_size, _room(where))
    except RuntimeError as error:  # drivers raise what they like
        log.warning("sae          batches are made on the CPU: %s", error)
        return InMemory(d_in)


def near(rows: Callable[[torch.dtype], Tensor], dtype: torch.dtype, device: str) -> Tensor:
    """Rows, given in any precision, for a training on ``device``: there in ``dtype``, which holds
    them exactly, if they fit as a pool would; for the CPU in float32."""
    where = _indexed(device)
    if where.type == "cpu":
        return rows(torch.float32)
    found = rows(dtype)
    return found.to(where) if found.nbytes <= _room(where) else found


def _indexed(device: str) -> torch.device:
    """With the index that it means in this thread: others have a current device of their own."""
    where = torch.device(device)
    if where.type == "cpu" or where.index is not None:
        return where
    return torch.device(where.type, torch.cuda.current_device())


@cache
def _lane(device: torch.device) -> Lane:
    """One for all trainings: what the allocator has for one stream, it gives to no other."""
    return CudaLane(device)


def _room(device: torch.device) -> int:
    """`POOL_SHARE` of what is free, or kept by torch for whoever asks next."""
    free = torch.cuda.mem_get_info(device)[0]
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(POOL_SHARE * (free + kept))


def _copy(rows: Tensor, into: Tensor) -> None:
    into.copy_(rows)


def _gather(rows: Tensor, numbers: Tensor, into: Tensor) -> None:
    torch.index_select(rows, 0, numbers, out=into)
