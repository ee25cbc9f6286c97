"""The same bytes from the same state, by graph and by plain launches; and NaN is not swallowed."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.clock import wait
from benchmarks.gpu_check.engine import FusedTopK, buffers_of, launch_plainly, refresh_copies
from benchmarks.gpu_check.kernels.findings import Findings


def same_bytes(
    findings: Findings,
    engine: FusedTopK,
    state: dict[str, Tensor],
    x: Tensor,
    steps: int,
    repeats: int,
) -> None:
    """From one state: the graph ``repeats`` times, and plain launches, give the same bytes."""

    def ended(plain: bool) -> dict[str, Tensor]:
        engine.load_state_dict(state)
        for _ in range(steps):
            if plain:
                launch_plainly(engine, x)
            else:
                engine.step(x)
        wait(x.device.type)
        return {n: t.clone() for n, t in engine.state_dict().items() if n != "room"}

    kept = ended(plain=False)
    alike = dict.fromkeys(kept, True)
    for _ in range(repeats - 1):
        for name, tensor in ended(plain=False).items():
            alike[name] &= torch.equal(kept[name], tensor)
    for name, tensor in ended(plain=True).items():
        findings.equal(f"plain launches, same bytes as the graph: {name}", tensor, kept[name])
    for name, same in alike.items():
        findings.true(f"{repeats} repeats of {steps} steps, same bytes: {name}", same)


def not_a_number(
    findings: Findings, engine: FusedTopK, state: dict[str, Tensor], x: Tensor
) -> None:
    """NaN must be seen: `bf16_bits` makes minus zero of the NaN that the hardware makes."""
    engine.load_state_dict(state)
    bad = x.clone()
    bad[0, 0] = torch.nan
    engine.step(bad)
    centered = buffers_of(engine).centered.float()
    findings.true("a NaN in the batch stays one in `centered`", centered.isnan().any())
    findings.true("a NaN in the batch reaches the loss", engine.losses[0].isnan())
    engine.load_state_dict(state)
    engine.step(x)
    index = buffers_of(engine).index
    fires = int(index[index < engine.spec.d_sae][0])
    engine.load_state_dict(state)
    engine.state_dict()["W_dec"][fires] = torch.nan
    refresh_copies(engine)
    engine.step(x)
    findings.true("a NaN in a weight reaches the loss", engine.losses[0].isnan())
    engine.load_state_dict(state)
