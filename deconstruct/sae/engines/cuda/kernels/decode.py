"""The Triton kernel between a step's choice and its gradients: decode, errors, slopes.

Pairs come token after token: ``token_ptr[b] : token_ptr[b + 1]`` of ``index`` and ``value`` are
token b's, by ascending latent; an index of F is a slot that nothing fires in.
"""

import triton
import triton.language as tl

from deconstruct.sae.engines.cuda.kernels.topk import bf16_bits


@triton.jit
def _weights(weight, latent, cols, F, D: tl.constexpr):
    """Rows of the latents, float32; zeros past the last one."""
    real = (latent < F)[:, None] & (cols < D)[None, :]
    at = latent.to(tl.int64)[:, None] * D + cols[None, :]
    return tl.load(weight + at, mask=real, other=0.0).to(tl.float32)


@triton.jit
def decode_kernel(
    centered,
    weight,
    token_ptr,
    index,
    value,
    ends,
    error,
    slope,
    loss,
    size,
    B,
    F,
    D: tl.constexpr,
    NESTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Decode, error and the chosen activations' gradients; one program per token.

    centered: bf16 [B, D], ``x - b_dec``; weight: bf16 [F, D]. ends: int32 [NESTS], of the nested
    dictionaries, whose losses add up: the m-th leaves ``e_m = value[:end_m] @ weight[:end_m] -
    centered``, so latents between ends n - 1 and n learn from ``E_n``, the sum of e_m over m >= n.
    error: bf16 bits [NESTS, B, D], E; slope: float32 [P], ``E . weight[index]`` by the latent's own
    n, 0 where nothing fires; loss: float32 [NESTS, B], |E|^2; size: float32 [B], ``|centered|^2``.

    Every row is gathered twice. Gathering once, with slopes out of the rows' Gram matrix, was
    tried: its small tensor-core products took four times as long.
    """
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_D)
    lo = tl.load(token_ptr + row)
    end = tl.load(token_ptr + row + 1)
    e = -tl.load(centered + row * D + cols, mask=cols < D, other=0.0).to(tl.float32)
    tl.store(size + row, tl.sum(e * e, axis=0))
    for start in tl.range(lo, end, BLOCK_K):
        slots = start + tl.arange(0, BLOCK_K)
        latent = tl.load(index + slots, mask=slots < end, other=F)
        a = tl.load(value + slots, mask=slots < end, other=0.0)
        e += tl.sum(_weights(weight, latent, cols, F, D) * a[:, None], axis=0)
    total = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for outer in tl.static_range(NESTS):
        nest = NESTS - 1 - outer  # from the whole dictionary to the smallest
        total += e
        at = nest * B + row
        tl.store(error + at * D + cols, bf16_bits(total), mask=cols < D)
        tl.store(loss + at, tl.sum(total * total, axis=0))
        first = lo
        if outer < NESTS - 1:
            smaller = tl.load(ends + nest - 1)
            for start in tl.range(lo, end, 64):
                slots = start + tl.arange(0, 64)
                latent = tl.load(index + slots, mask=slots < end, other=F)
                first += tl.sum((latent < smaller).to(tl.int32), axis=0)
        for start in tl.range(first, end, BLOCK_K):
            slots = start + tl.arange(0, BLOCK_K)
            latent = tl.load(index + slots, mask=slots < end, other=F)
            w = _weights(weight, latent, cols, F, D)
            tl.store(slope + slots, tl.sum(w * total[None, :], axis=1), mask=slots < end)
            if outer < NESTS - 1:  # what the next smaller dictionary leaves
                a = tl.load(value + slots, mask=slots < end, other=0.0)
                e -= tl.sum(w * a[:, None], axis=0)
        end = first
