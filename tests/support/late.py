"""A device that works as late as it may, for what must not depend on when a device works."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

import torch
from torch import Tensor

from deconstruct.activations.lane import Lane, Mark


class Late(Lane):
    """A device that begins nothing before somebody waits for it. What is not written yet is -7.

    careless: as if the host did not wait for copies before it fills a buffer again.
    """

    def __init__(self, careless: bool = False) -> None:
        self.careless = careless
        self.given: list[Tensor] = []
        self.waited = 0
        self._queue: list[Callable[[], object]] = []
        self._done, self._lock = 0, RLock()

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.full(shape, -7, dtype=dtype)

    def do(self, work: Callable[[], object]) -> None:
        with self._lock:
            self._queue.append(work)

    def mark(self) -> Mark:
        with self._lock:
            return _Until(self, len(self._queue))

    def give(self, tensor: Tensor, written: Mark) -> None:
        assert isinstance(written, _Until)
        self.run(written.number)
        self.given.append(tensor)

    def reached(self) -> Mark:
        return _Counting(self)

    def run(self, number: int) -> None:
        with self._lock:
            while self._done < number:
                self._queue[self._done]()
                self._queue[self._done] = int  # lets go of its tensors
                self._done += 1


class _Until(Mark):
    def __init__(self, lane: Late, number: int) -> None:
        self._lane, self.number = lane, number

    def wait(self) -> None:
        if not self._lane.careless:
            self._lane.run(self.number)


class _Counting(Mark):
    def __init__(self, lane: Late) -> None:
        self._lane = lane

    def wait(self) -> None:
        self._lane.waited += 1
