"""Work on a device beside what is computed there: a queue of its own, and marks to wait for.

On CUDA a queue is a stream: what is asked of it begins once all before it has ended, while the host
goes on and the device computes. Three rules make that safe:

1. Memory that the host fills is filled again only after the copy out of it has ended: `Sender`.
2. Whoever computes reads a tensor only after it was written: `Lane.give`.
3. A tensor's memory is used for something else only after whoever computes has read it:
   `Lane.give`, too. Whatever is not given is written, read and let go by the queue alone, and the
   allocator gives memory out again in the queue's order.

On a CPU all is done at once, and nothing is to wait for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Mark:
    """A place in a queue."""

    def wait(self) -> None:
        """Until all before it has ended; the host waits."""


class Lane:
    """A queue of work on a device: this one on a CPU, which has none."""

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Room on the device, for the queue's own work until it is given."""
        return torch.empty(shape, dtype=dtype)

    def pinned(self, size: int) -> Tensor:
        """Memory of the host that can be copied while the host goes on, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8)

    def do(self, work: Callable[[], object]) -> None:
        """Queue operations of torch."""
        work()

    def mark(self) -> Mark:
        """After all that is queued so far."""
        return Mark()

    def give(self, tensor: Tensor, written: Mark) -> None:
        """To whoever computes from here on, in this thread: after the mark, they may read it, and
        let go of it whenever they like."""

    def reached(self) -> Mark:
        """After all that whoever computes in this thread has asked for so far."""
        return Mark()


def pinned(size: int) -> Tensor:
    """Memory of the host that a GPU copies from and to while the host goes on, uint8 [size]. Where
    the system pins no more, memory that is copied more slowly, and as safely: of such memory a copy
    returns once it needs it no more."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        log.warning("no pinned memory (%s); copies are slower", error)
        return torch.empty(size, dtype=torch.uint8)


class CudaMark(Mark):
    """An event of a stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def wait(self) -> None:
        """The thread sleeps meanwhile."""
        self.event.synchronize()


class CudaLane(Lane):
    """A stream of its own. Any thread may ask, whichever device is its current one."""

    def __init__(self, device: torch.device) -> None:
        """device: with its index."""
        self._device = device
        # Of high priority: torch hands out the same few streams again and again, and one of those
        # that graphs are captured on would take what is queued here for a part of the graph.
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Of the stream's part of the allocator."""
        with torch.cuda.stream(self._stream):
            return torch.empty(shape, dtype=dtype, device=self._device)

    def pinned(self, size: int) -> Tensor:
        """See `pinned`."""
        return pinned(size)

    def do(self, work: Callable[[], object]) -> None:
        """On the stream; its device is the current one meanwhile."""
        with torch.cuda.stream(self._stream):
            work()

    def mark(self) -> Mark:
        """An event on the stream."""
        return CudaMark(self._stream)

    def give(self, tensor: Tensor, written: Mark) -> None:
        """The current stream waits; the allocator keeps the memory until it has passed the place
        that it has come to when the tensor is let go."""
        assert isinstance(written, CudaMark)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(written.event)
        tensor.record_stream(current)

    def reached(self) -> Mark:
        """An event on the current stream."""
        return CudaMark(torch.cuda.current_stream(self._device))


class Sender:
    """Sends to a device by way of two pinned buffers: one is filled while the other is copied.

    most: bytes of what is sent at once. Not thread-safe: each thread has its own.
    """

    def __init__(self, lane: Lane, most: int) -> None:
        self._lane = lane
        self._buffers = [lane.pinned(most), lane.pinned(most)]
        self._copied = [Mark(), Mark()]
        self._turn = 0

    def send(self, fill: Callable[[Tensor], object], into: Tensor) -> None:
        """Queue a copy into ``into``, contiguous and of the lane, of what ``fill`` writes to a
        tensor like it."""
        turn, self._turn = self._turn, 1 - self._turn
        self._copied[turn].wait()
        host = self._buffers[turn][: into.nbytes].view(into.dtype).view(into.shape)
        fill(host)
        self._lane.do(partial(into.copy_, host, non_blocking=True))
        self._copied[turn] = self._lane.mark()
