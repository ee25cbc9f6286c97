"""One fused step: the order of its launches, and what runs beside what.

On a GPU `launch` is captured into a CUDA graph: it allocates nothing that outlives it and reads
nothing on the host. What nobody waits for goes to a second stream.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deconstruct.sae.engines.cuda import backward, forward
from deconstruct.sae.engines.cuda.buffers import Buffers


class Launcher:
    """Launches a step's kernels over `Buffers`."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._side: torch.cuda.Stream | None = None
        if buffers.device.type == "cuda":
            self._side = torch.cuda.Stream(buffers.device)  # type: ignore[no-untyped-call]

    def launch(self, capacity: int) -> None:
        """All kernels of a step after `forward.begin`; AuxK has room for ``capacity`` dead."""
        b = self._buffers
        clips = not math.isinf(b.spec.clip_norm)
        forward.encode(b)
        forward.choose(b)
        with self._aside():
            forward.sort(b)
        forward.decode(b)
        aux = forward.auxk(b, capacity) if capacity else None
        self._join()
        forward.sort_slopes(b)
        backward.set_pace(b, aux)
        with self._aside():
            backward.bias_gradients(b, aux)
            if not clips:
                backward.update_biases(b)
        backward.chunk_sums(b)
        if clips:
            self._join()
            backward.clip(b, aux)
            with self._aside():
                backward.update_biases(b)
        backward.update_rows(b, "W_dec", aux)
        self._join()  # the bias gradients read the copy of W_enc that is written next
        backward.update_rows(b, "W_enc", aux)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Launch on the second stream, after what was launched so far."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            yield

    def _join(self) -> None:
        """Let what is launched next wait for the second stream."""
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
