"""What is no number stays none in the bfloat16 copies: tried on the integers, so that the answer is
the same on every processor (NVIDIA's NaN is 0x7FFFFFFF, an x86's 0xFFC00000)."""

from __future__ import annotations

import pytest
import torch
from support.cuda import DEVICE, REASON
from torch import Tensor

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

NANS = (0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFF8000)
NUMBERS = (
    0x00000000, 0x80000000, 0x3F800000, 0x3F808000, 0x3F818000, 0x3F80FFFF, 0xBF80FFFF,
    0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x00000001, 0x80007FFF,
)  # fmt: skip


def as_int32(bits: tuple[int, ...]) -> Tensor:
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32)


if REASON is None:
    import triton
    import triton.language as tl

    from deconstruct.sae.engines.cuda.kernels.topk import bf16_bits, upper_half

    @triton.jit
    def halves_kernel(at, out, carry, n, NEAREST: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        place = tl.arange(0, BLOCK)
        bits = tl.load(at + place, mask=place < n, other=0)
        if NEAREST:  # noqa: SIM108 - each branch is compiled alone
            half = bf16_bits(bits.to(tl.float32, bitcast=True))
        else:
            half = upper_half(bits, carry)
        tl.store(out + place, half, mask=place < n)


def upper_halves(bits: Tensor, carry: int | None) -> Tensor:
    """By the kernels: rounded to the nearest if there is no carry; bfloat16."""
    out = torch.zeros(len(bits), dtype=torch.int16, device=DEVICE)
    halves_kernel[(1,)](bits.to(DEVICE), out, carry or 0, len(bits), carry is None, 32)
    return out.cpu().view(torch.bfloat16)


def test_no_number_is_rounded_to_none() -> None:
    assert upper_halves(as_int32(NANS), None).isnan().all()


@pytest.mark.parametrize("carry", [0, 1, 0x7FFF, 0xFFFF])
def test_no_moment_that_is_none_becomes_a_number(carry: int) -> None:
    assert upper_halves(as_int32(NANS), carry).isnan().all()


def test_numbers_are_rounded_as_torch_does() -> None:
    bits = as_int32(NUMBERS)
    wanted = bits.view(torch.float32).bfloat16().view(torch.int16)
    assert upper_halves(bits, None).view(torch.int16).tolist() == wanted.tolist()
