"""Triton kernels that sort a step's firing (token, latent) pairs by latent, then by token.

A radix sort of B*k pairs costs eight launches. The selection has counted the pairs of each latent
already and handed every pair a slot in its latent's run, in whatever order the programs came by.
So: sum the counts, put each pair in its slot, and sort within the runs, which are short, by
counting. Integers only: the order that comes out is the same on every run.
"""

import triton
import triton.language as tl


@triton.jit
def sum_before(values, first, least, WIDE: tl.constexpr):
    """Sum of ``values[:first]``, int32; with ``least``, how many of them are so large or larger.

    Every program of a scan calls it for its block: cheaper than a second launch.
    """
    total = tl.zeros((WIDE,), dtype=tl.int32)
    start = 0
    while start < first:
        at = start + tl.arange(0, WIDE)
        value = tl.load(values + at, mask=at < first, other=0)
        if least is not None:
            value = (value >= least) & (at < first)
        total += value.to(tl.int32)
        start += WIDE
    return tl.sum(total, axis=0)


@triton.jit
def run_bounds_kernel(count, row_ptr, F, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """``row_ptr[i + 1] = sum(count[: i + 1])``; int32 [F] to [F + 1]; row_ptr[0] is 0 already."""
    first = tl.program_id(0) * BLOCK
    before = sum_before(count, first, None, WIDE)
    at = first + tl.arange(0, BLOCK)
    here = tl.load(count + at, mask=at < F, other=0)
    tl.store(row_ptr + at + 1, before + tl.cumsum(here, axis=0), mask=at < F)


@triton.jit
def place_kernel(index, slot, row_ptr, unordered, latents, N, F, BLOCK: tl.constexpr):
    """Put the N pairs into their latents' runs: ``unordered[row_ptr[latent] + slot] = pair``.

    index, slot: int32 [N]. latents: int32 [N], the latent at each position; F after the last run.
    """
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    latent = tl.load(index + pair, mask=pair < N, other=F)
    real = latent < F
    to = tl.load(row_ptr + latent, mask=real, other=0)
    to += tl.load(slot + pair, mask=real, other=0)
    tl.store(unordered + to, pair, mask=real)
    tl.store(latents + to, latent, mask=real)
    rest = (pair < N) & (pair >= tl.load(row_ptr + F))
    tl.store(latents + pair, tl.zeros((BLOCK,), tl.int32) + F, mask=rest)


@triton.jit
def rank_kernel(unordered, latents, row_ptr, order, F, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """``order``: each run of ``unordered`` sorted by pair number; one program BLOCK positions."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = at < tl.load(row_ptr + F)
    pair = tl.load(unordered + at, mask=real, other=0)
    latent = tl.load(latents + at, mask=real, other=0)
    lo = tl.load(row_ptr + latent, mask=real, other=0)
    hi = tl.load(row_ptr + latent + 1, mask=real, other=0)
    rank = tl.zeros((BLOCK,), dtype=tl.int32)
    start = tl.min(tl.where(real, lo, 1 << 30), axis=0)
    end = tl.max(hi, axis=0)
    while start < end:
        other = start + tl.arange(0, SPAN)
        rival = tl.load(unordered + other, mask=other < end, other=0)
        same = (other[None, :] >= lo[:, None]) & (other[None, :] < hi[:, None])
        rank += tl.sum((same & (rival[None, :] < pair[:, None])).to(tl.int32), axis=1)
        start += SPAN
    tl.store(order + lo + rank, pair, mask=real)
