"""A step that the fused engine has made, beside all that it made it of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from benchmarks.gpu_check.engine import Buffers, FusedTopK, buffers_of, poison
from benchmarks.gpu_check.kernels.findings import Findings
from deconstruct.sae.spec import StepSpec

_ENTRIES = 2**26
"""Of float64 that a piece of a check holds at a time, for each tensor: 512 MB."""


@dataclass(frozen=True)
class Made:
    """number: of the step, from 0 on. x: its batch, float32 [batch, d_in]. before: the state that
    it began with, by name. enc, dec [d_sae, d_in], bias_half [d_sae]: the bf16 copies of the
    weights that it multiplied by. findings: where checks of it are noted.
    """

    engine: FusedTopK
    number: int
    x: Tensor
    before: dict[str, Tensor]
    enc: Tensor
    dec: Tensor
    bias_half: Tensor
    findings: Findings

    @classmethod
    def by(cls, engine: FusedTopK, number: int, x: Tensor, findings: Findings) -> Made:
        """Have the engine make its next step, over buffers that are poisoned first."""
        before = {name: tensor.clone() for name, tensor in engine.state_dict().items()}
        b = buffers_of(engine)
        enc, dec, bias_half = b.enc.clone(), b.dec.clone(), b.bias_half.clone()
        poison(engine)
        engine.step(x)
        findings.at = f"step {number + 1}: "
        return cls(engine, number, x, before, enc, dec, bias_half, findings)

    @property
    def spec(self) -> StepSpec:
        return self.engine.spec

    @property
    def buffers(self) -> Buffers:
        """What the kernels have written."""
        return buffers_of(self.engine)

    @property
    def after(self) -> dict[str, Tensor]:
        """The state that it ended with, by name."""
        return self.engine.state_dict()

    def by_token(self, pairs: Tensor) -> Tensor:
        """Something of each pair, [batch * k], as [batch, k]."""
        return pairs.view(self.spec.batch, self.spec.k)

    def pieces(self, entries: int) -> Iterator[slice]:
        """The batch in parts, where a check holds so many entries per token."""
        batch = self.spec.batch
        size = max(1, min(batch, _ENTRIES // entries))
        for first in range(0, batch, size):
            yield slice(first, min(batch, first + size))
