"""Launches of a fused step, first half: from a batch to errors and AuxK's gradients."""

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from deconstruct.sae.engines.control import THRESHOLD_RATE
from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.engines.cuda.kernels import batch, topk
from deconstruct.sae.engines.cuda.kernels import decode as decoding
from deconstruct.sae.engines.cuda.options import power_of_two
from deconstruct.sae.spec import aux_tokens


def begin(buffers: Buffers, x: Tensor) -> None:
    """Count a step and centre its batch [B, d_in]: all that reads x, so it is never copied."""
    spec = buffers.spec
    topk.center_kernel[(-(-x.numel() // 4096),)](
        x,
        buffers.state["b_dec"],
        buffers.centered.view(torch.int16),
        buffers.state["step"],
        x.numel(),
        spec.d_in,
        BLOCK=4096,
        num_warps=8,
    )


def encode(buffers: Buffers) -> None:
    """Pre-activations, bfloat16 [B, F], and the ReLU'd maximum of each group of columns."""
    spec, tiling = buffers.spec, buffers.options.tiling
    groups = buffers.maxima.shape[1]
    if not buffers.fused:
        torch.addmm(buffers.bias_half, buffers.centered, buffers.enc.mT, out=buffers.pre)
        block = 4096 // buffers.group
        topk.group_max_kernel[(-(-groups // block) * spec.batch,)](
            buffers.pre.view(torch.int16),
            buffers.maxima,
            spec.d_sae,
            groups,
            GROUP=buffers.group,
            BLOCK_G=block,
        )
        return
    bm, bn, bk = tiling.encode_block
    programs = buffers.sms * tiling.encode_programs
    topk.encode_kernel[(programs,)](
        TensorDescriptor.from_tensor(buffers.centered, [bm, bk]),
        TensorDescriptor.from_tensor(buffers.enc, [bn, bk]),
        TensorDescriptor.from_tensor(buffers.pre, [bm, bn // 2]),
        buffers.state["b_enc"],
        buffers.maxima,
        spec.batch,
        spec.d_sae,
        spec.d_in,
        groups,
        BM=bm,
        BN=bn,
        BK=bk,
        GROUP=buffers.group,
        BAND=tiling.encode_band,
        PROGRAMS=programs,
        num_warps=tiling.encode_warps,
        num_stages=tiling.encode_stages,
    )


def choose(buffers: Buffers) -> None:
    """The firing pairs, token after token."""
    if buffers.per_batch:
        select_of_batch(buffers)
    else:
        select(buffers)


def select(buffers: Buffers) -> None:
    """The k largest of each token, which lie in the k groups with the largest maxima: latents and
    activations [B, k]."""
    spec = buffers.spec
    groups = buffers.maxima.shape[1]
    topk.choose_groups_kernel[(spec.batch,)](
        buffers.maxima,
        buffers.groups,
        groups,
        K=spec.k,
        GROUPS_P2=power_of_two(groups),
        num_warps=_warps(power_of_two(groups), buffers.options.tiling.select_keys),
    )
    candidates = power_of_two(min(spec.k, groups)) * buffers.group
    topk.select_kernel[(spec.batch,)](
        buffers.pre.view(torch.int16),
        buffers.groups,
        buffers.index,
        buffers.value,
        spec.d_sae,
        K=spec.k,
        GROUP=buffers.group,
        SLOTS_P2=candidates // buffers.group,
        K_P2=power_of_two(spec.k),
        num_warps=_warps(candidates, buffers.options.tiling.select_keys),
    )


def select_of_batch(buffers: Buffers) -> None:
    """The batch * k largest of the batch, of equal ones those of earlier tokens and lower latents;
    and the running mean of the smallest, which is the threshold of what was trained.

    torch's selection is exact, and reads the product about three times: 0.2 ms of an H100's memory
    at 4,096 tokens and 24,576 latents.
    """
    spec, pre = buffers.spec, buffers.pre.view(torch.int16)
    wanted = spec.batch * spec.k
    level = torch.topk(pre.view(-1), wanted, sorted=False).values.amin()
    buffers.level.copy_(level.clamp(min=0))
    shape = (spec.d_sae, buffers.maxima.shape[1])
    sizes = {"GROUP": buffers.group, "BLOCK": 1024, "num_warps": 4}
    batch.count_kernel[(spec.batch,)](
        pre, buffers.maxima, buffers.level, buffers.counts, *shape, **sizes
    )
    above, tied = buffers.counts.unbind(1)
    left = wanted - above.sum(dtype=torch.int32)
    before = tied.cumsum(0, dtype=torch.int32) - tied
    buffers.room.copy_(torch.minimum((left - before).clamp(min=0), tied))
    torch.cumsum(above + buffers.room, 0, dtype=torch.int32, out=buffers.token_ptr[1:])
    buffers.index.fill_(spec.d_sae)
    buffers.value.zero_()
    batch.list_kernel[(spec.batch,)](
        pre, buffers.maxima, buffers.level, buffers.room, buffers.token_ptr,
        buffers.index, buffers.value, buffers.token, *shape, **sizes,
    )  # fmt: skip
    _follow_threshold(buffers)


def _follow_threshold(buffers: Buffers) -> None:
    """As `Control.observe`, without waiting for the step's number."""
    least = torch.where(buffers.index < buffers.spec.d_sae, buffers.value, torch.inf).amin()
    least = torch.where(least.isinf(), 0.0, least).double()
    rate = (1 / buffers.state["step"].double()).clamp(min=THRESHOLD_RATE)
    threshold = buffers.state["control.threshold"]
    threshold += rate * (least - threshold)


def sort(buffers: Buffers) -> None:
    """The firing pairs by latent, and within a latent by token: order, latents with d_sae in the
    slots that nothing fires in, and each pair's token and activation; row_ptr [F + 1]."""
    torch.sort(buffers.index, stable=True, out=(buffers.latents, buffers.order))
    torch.searchsorted(buffers.latents, buffers.places, out_int32=True, out=buffers.row_ptr)
    for name, of in (("token", buffers.token), ("value", buffers.value)):
        torch.index_select(of, 0, buffers.order, out=buffers.runs[name])


def decode(buffers: Buffers) -> None:
    """Errors, bfloat16 [nests, B, d_in], each pair's slope, and each token's |e|^2 [nests, B] and
    |x - b_dec|^2 [B]."""
    spec, tiling = buffers.spec, buffers.options.tiling
    decoding.decode_kernel[(spec.batch,)](
        buffers.centered,
        buffers.dec,
        buffers.token_ptr,
        buffers.index,
        buffers.value,
        buffers.ends,
        buffers.error.view(torch.int16),
        buffers.slope,
        buffers.loss,
        buffers.size,
        spec.batch,
        spec.d_sae,
        D=spec.d_in,
        NESTS=len(buffers.ends),
        BLOCK_D=power_of_two(spec.d_in),
        BLOCK_K=tiling.decode_rows,
        num_warps=buffers.warps(tiling.decode_warps),
    )


def sort_slopes(buffers: Buffers) -> None:
    """The pairs' slopes, latent after latent."""
    torch.index_select(buffers.slope, 0, buffers.order, out=buffers.runs["slope"])


def auxk(buffers: Buffers, capacity: int) -> dict[str, Tensor]:
    """AuxK's gradients of the dead latents, [capacity, ...]: dense, over these latents only, and
    over the first `aux_tokens`.

    largest: of each one's chosen activations, 0 where it is not chosen.
    """
    spec = buffers.spec
    dead = buffers.state["since_fired"] >= spec.dead_after
    place = dead.cumsum(0, dtype=torch.int32)
    n_dead = place[-1:].clamp(max=capacity)
    buffers.aux_slot.copy_(torch.where(dead & (place <= capacity), place - 1, -1))
    # Where the running count reaches 1, 2, ...; past the last one, any latent.
    listed = torch.searchsorted(place, buffers.places[1 : capacity + 1])
    listed.clamp_(max=spec.d_sae - 1)
    enc, dec = buffers.enc.index_select(0, listed), buffers.dec.index_select(0, listed)
    padding = buffers.places[:capacity] >= n_dead  # never fires
    bias = buffers.bias_half.index_select(0, listed).masked_fill_(padding, -torch.inf)
    some = aux_tokens(spec.batch)
    centered, error = buffers.centered[:some], buffers.error[-1, :some]
    # Gradients are divided by the whole batch, and the number of errors, later on.
    over = spec.batch * len(buffers.ends) / some
    weight = (n_dead / spec.k_aux).clamp_(max=1.0) * (spec.aux_coefficient * over)
    z = torch.addmm(bias, centered, enc.mT)
    if spec.k_aux < capacity:
        block = min(4096, power_of_two(capacity))
        topk.keep_top_kernel[(some,)](
            z.view(torch.int16), capacity, spec.k_aux, BLOCK=block, num_warps=4
        )
    else:
        z.relu_()
    e = (torch.addmm(error, z, dec) * weight).bfloat16()
    dz = torch.where(z > 0, e @ dec.mT, 0)
    rows_dec, rows_enc = z.mT @ e, dz.mT @ centered
    squares = sum(torch.linalg.vector_norm(r, dtype=torch.float32) for r in (rows_dec, rows_enc))
    return {
        "W_dec": rows_dec,
        "W_enc": rows_enc,
        "b_enc": dz.sum(0, dtype=torch.float32),
        "largest": z.amax(0).float(),
        "squares": torch.as_tensor(squares).square(),  # (a + b)^2, at least a^2 + b^2
    }


def _warps(keys: int, a_warp: int) -> int:
    """Warps for a program that holds so many keys."""
    return min(16, max(1, keys // a_warp))
