"""Tensors on their way from a GPU to the host while it computes what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from deconstruct.activations.lane import CudaMark, Mark, pinned

IN_FLIGHT = 2
Label = TypeVar("Label")


@dataclass(frozen=True)
class _Sent(Generic[Label]):
    """label: of who sent it. tensors: of the device; only their shapes and dtypes matter, and that
    ``packed`` lives until it was read. host: its copy. copied: when that is there."""

    label: Label
    shapes: list[tuple[torch.dtype, torch.Size]]
    packed: Tensor
    host: Tensor
    copied: Mark


class Landing(Generic[Label]):
    """At most two batches of tensors in flight, each as one copy into pinned memory, on a stream of
    its own. On a CPU they are there at once."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._pinned = [torch.empty(0, dtype=torch.uint8)] * IN_FLIGHT
        self._sent: deque[_Sent[Label]] = deque()
        self._number = 0

    @property
    def full(self) -> bool:
        """Whether something has to be taken before more is sent."""
        return len(self._sent) >= IN_FLIGHT

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, label: Label, tensors: Sequence[Tensor]) -> None:
        """Let them go, once the device's current stream has computed them."""
        assert not self.full
        shapes = [(one.dtype, one.shape) for one in tensors]
        packed = torch.cat(
            [tensors[n].contiguous().view(-1).view(torch.uint8) for n in _widest_first(shapes)]
        )
        host, copied = (packed, Mark()) if self._stream is None else self._copied(packed)
        self._sent.append(_Sent(label, shapes, packed, host, copied))

    def take(self) -> tuple[Label, list[Tensor]]:
        """What was sent first: its label, and its tensors on the host. They are valid until the
        second `send` from here."""
        sent = self._sent.popleft()
        sent.copied.wait()
        found: list[Tensor] = [sent.host] * len(sent.shapes)
        at = 0
        for n in _widest_first(sent.shapes):
            dtype, shape = sent.shapes[n]
            size = dtype.itemsize * shape.numel()
            found[n] = sent.host[at : at + size].view(dtype).view(shape)
            at += size
        return sent.label, found

    def _copied(self, packed: Tensor) -> tuple[Tensor, Mark]:
        """Its copy in pinned memory, and when it is whole."""
        slot = self._number % IN_FLIGHT  # what was in it has been taken
        self._number += 1
        if len(self._pinned[slot]) < len(packed):
            self._pinned[slot] = pinned(len(packed))
        host = self._pinned[slot][: len(packed)]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(packed, non_blocking=True)
        return host, CudaMark(self._stream)


def _widest_first(shapes: Sequence[tuple[torch.dtype, torch.Size]]) -> list[int]:
    """The order in which they are packed: so each begins at a place that its dtype may begin at."""
    return sorted(range(len(shapes)), key=lambda n: -shapes[n][0].itemsize)
