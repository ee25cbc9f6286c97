"""The Triton kernel for what a step keeps of each latent: when it fired, how far Adam moves it.

Unless the optimiser is plain Adam, a latent without a gradient keeps its weights and moments, as in
torch's SparseAdam, and each counts its own updates, by which Adam's moments are corrected
(`deconstruct.sae.engines.cpu.adam.RowAdam`).
"""

import triton
import triton.language as tl


@triton.jit
def pace_kernel(
    row_ptr,
    aux_slot,
    aux_largest,
    since_fired,
    updates,
    rates,
    corrections,
    step,
    pace,
    B,
    F,
    AUX: tl.constexpr,
    EVERY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How far Adam moves each latent in this step, and the records of its firing.

    row_ptr: int32 [F + 1], runs of the firing pairs; aux_largest: float32, of each dead latent's
    chosen activations in AuxK, by ``aux_slot``. Where either has something positive there is a
    gradient, and ``updates`` (int32 [F]) is raised; EVERY: for all latents, as in plain Adam.
    since_fired: int64 [F], tokens since the latent
    last fired; AuxK's choice does not count.

    rates: float32 [steps]; corrections: float32 [steps, 2], ``1 / (1 - beta1^n)`` and
    ``(1 - beta2^n)^-1/2`` of the n-th update, from n = 1 on. pace: float32 [F + 1, 2], rate times
    the first and the second itself; 0 and 1 where the latent is left alone. The last row is for
    parameters that every step updates. step: int32 [1], 1 in the first step.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < F
    fired = tl.load(row_ptr + at + 1, mask=inside, other=0)
    fired = fired > tl.load(row_ptr + at, mask=inside, other=0)
    age = tl.load(since_fired + at, mask=inside, other=0)
    tl.store(since_fired + at, tl.where(fired, 0, age + B), mask=inside)
    touched = fired
    if AUX:
        place = tl.load(aux_slot + at, mask=inside, other=-1)
        touched = touched | (tl.load(aux_largest + place, mask=place >= 0, other=0.0) > 0)
    if EVERY:
        touched = inside
    made = tl.load(updates + at, mask=inside, other=0) + touched.to(tl.int32)
    tl.store(updates + at, made, mask=inside)
    t = tl.load(step)
    made = tl.where(at == F, t, made)
    moves = (touched & inside) | (at == F)
    correction = corrections + 2 * (made - 1)
    rate = tl.load(rates + t - 1) * tl.load(correction, mask=moves, other=0.0)
    tl.store(pace + 2 * at, rate, mask=at <= F)
    tl.store(pace + 2 * at + 1, tl.load(correction + 1, mask=moves, other=1.0), mask=at <= F)
