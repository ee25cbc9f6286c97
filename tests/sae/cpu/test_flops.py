"""The work of one TopK step on a CPU, counted from the calls that it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deconstruct.common.cores import share
from deconstruct.sae.engines.cpu import blocks, pairs, topk
from deconstruct.sae.engines.cpu.topk import CpuTopK
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec


def flops_of(kernel: str, arguments: tuple[Any, ...]) -> float:
    """Floating-point operations of one call over all rows; a multiply-add is two."""
    if kernel == "decode_and_slope":
        _, _, _, counts, _, _, x, _, rows = arguments[:9]
        width = rows.shape[0] * 64
        return counts.sum() * 4 * width + len(x) * 5 * width  # decode and dot; error, its square
    if kernel == "weight_gradients":
        starts, *_ = arguments
        grad_dec = arguments[7]
        return int(starts[-1]) * 4 * grad_dec.shape[1] + 6 * grad_dec.size
    if kernel == "adam_rows":
        return 16 * arguments[0].size
    if kernel == "add_weighted_rows":
        return 2 * arguments[1].size
    if kernel == "centre":
        return arguments[0].size
    assert kernel in ("choose", "pack"), kernel  # the product, counted apart; comparisons; copies
    return 0.0


@pytest.mark.parametrize(("d_in", "d_sae", "k"), [(640, 8192, 32), (768, 6144, 64)])
def test_a_step_costs_its_product_and_what_its_pairs_need(
    d_in: int, d_sae: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 4096
    spec = StepSpec("topk", batch, d_in, d_sae, k, 0.0, 1.0, k, 1 / 32, dead_after=10**9)
    engine = CpuTopK(spec, initial_weights(spec, 0), torch.full((2,), 1e-3))
    counted: dict[str, float] = {}

    def counting(kernel: Any, rows: Any, *arguments: Any) -> None:
        share(kernel, rows, *arguments)
        name = kernel.__name__
        counted[name] = counted.get(name, 0) + flops_of(name, arguments)

    for module in (topk, pairs, blocks):
        monkeypatch.setattr(module, "share", counting)
    z = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0)) / d_in**0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the counter sees products of its own thread
    try:
        with FlopCounterMode(display=False) as products:
            engine.step(z)
    finally:
        torch.set_num_threads(threads)
    product = 2 * batch * d_in * d_sae
    assert engine.firing()[0] == k
    assert products.get_total_flops() >= product
    assert np.isclose(counted["decode_and_slope"], 4 * batch * k * d_in, rtol=0.1)
    total = products.get_total_flops() + sum(counted.values())
    assert total <= 1.05 * (product + 8 * batch * k * d_in)
