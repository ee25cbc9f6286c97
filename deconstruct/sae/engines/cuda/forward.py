"""Launches of a fused TopK step, first half: from a batch to errors and AuxK's gradients."""

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.engines.cuda.kernels import latents, order, topk
from deconstruct.sae.engines.cuda.options import power_of_two
from deconstruct.sae.spec import aux_tokens


def begin(b: Buffers, x: Tensor) -> None:
    """Count a step and centre its batch [B, d_in]: all that reads x, so it is never copied."""
    s = b.spec
    topk.center_kernel[(-(-max(x.numel(), s.d_sae) // 4096),)](
        x,
        b.state["b_dec"],
        b.centered.view(torch.int16),
        b.state["step"],
        b.count,
        x.numel(),
        s.d_sae,
        s.d_in,
        BLOCK=4096,
        num_warps=8,
    )


def encode(b: Buffers) -> None:
    s, t = b.spec, b.options.tiling
    groups = b.maxima.shape[1]
    if not b.fused:
        torch.addmm(b.bias_half, b.centered, b.enc.mT, out=b.pre)
        block = 4096 // b.group
        topk.group_max_kernel[(-(-groups // block) * s.batch,)](
            b.pre.view(torch.int16),
            b.maxima,
            s.d_sae,
            groups,
            GROUP=b.group,
            BLOCK_G=block,
        )
        return
    bm, bn, bk = t.encode_block
    programs = b.sms * t.encode_programs
    topk.encode_kernel[(programs,)](
        TensorDescriptor.from_tensor(b.centered, [bm, bk]),
        TensorDescriptor.from_tensor(b.enc, [bn, bk]),
        TensorDescriptor.from_tensor(b.pre, [bm, bn // 2]),
        b.state["b_enc"],
        b.maxima,
        s.batch,
        s.d_sae,
        s.d_in,
        groups,
        BM=bm,
        BN=bn,
        BK=bk,
        GROUP=b.group,
        BAND=t.encode_band,
        PROGRAMS=programs,
        num_warps=t.encode_warps,
        num_stages=t.encode_stages,
    )


def select(b: Buffers) -> None:
    s = b.spec
    groups = b.maxima.shape[1]
    topk.choose_groups_kernel[(s.batch,)](
        b.maxima,
        b.groups,
        groups,
        K=s.k,
        GROUPS_P2=power_of_two(groups),
        num_warps=_warps(power_of_two(groups), b.options.tiling.select_keys),
    )
    candidates = power_of_two(min(s.k, groups)) * b.group
    topk.select_kernel[(s.batch,)](
        b.pre.view(torch.int16),
        b.groups,
        b.index,
        b.value,
        b.slot,
        b.count,
        s.d_sae,
        K=s.k,
        GROUP=b.group,
        SLOTS_P2=candidates // b.group,
        K_P2=power_of_two(s.k),
        num_warps=_warps(candidates, b.options.tiling.select_keys),
    )


def sort(b: Buffers) -> None:
    s = b.spec
    pairs = s.batch * s.k
    order.run_bounds_kernel[(-(-s.d_sae // 4096),)](
        b.count, b.row_ptr, s.d_sae, BLOCK=4096, WIDE=16384, num_warps=16
    )
    order.place_kernel[(-(-pairs // 512),)](
        b.index,
        b.slot,
        b.row_ptr,
        b.unordered,
        b.latents,
        pairs,
        s.d_sae,
        BLOCK=512,
    )
    order.rank_kernel[(-(-pairs // 32),)](
        b.unordered, b.latents, b.row_ptr, b.order, s.d_sae, BLOCK=32, SPAN=64
    )


def decode(b: Buffers) -> None:
    s, t = b.spec, b.options.tiling
    topk.decode_kernel[(s.batch,)](
        b.centered,
        b.dec,
        b.index,
        b.value,
        b.error.view(torch.int16),
        b.slope,
        b.loss,
        b.size,
        s.d_sae,
        D=s.d_in,
        K=s.k,
        BLOCK_D=power_of_two(s.d_in),
        BLOCK_K=t.decode_rows,
        num_warps=b.warps(t.decode_warps),
    )


def auxk(b: Buffers, capacity: int) -> dict[str, Tensor]:
    """AuxK's gradients of the dead latents, [capacity, ...]: dense, over these latents only, and
    over the first `aux_tokens`.

    largest: of each one's chosen activations, 0 where it is not chosen.
    """
    s = b.spec
    latents.list_dead_kernel[(-(-s.d_sae // 4096),)](
        b.state["since_fired"],
        b.dead_list,
        b.aux_slot,
        b.n_dead,
        s.dead_after,
        s.d_sae,
        capacity,
        BLOCK=4096,
        WIDE=16384,
        num_warps=16,
    )
    listed = b.dead_list[:capacity]
    enc, dec = b.enc.index_select(0, listed), b.dec.index_select(0, listed)
    padding = b.places[:capacity] >= b.n_dead  # never fires
    bias = b.bias_half.index_select(0, listed).masked_fill_(padding, -torch.inf)
    some = aux_tokens(s.batch)
    centered, error = b.centered[:some], b.error[:some]
    # Gradients are divided by the whole batch later on.
    weight = (b.n_dead / s.k_aux).clamp_(max=1.0) * (s.aux_coefficient * s.batch / some)
    z = torch.addmm(bias, centered, enc.mT)
    if s.k_aux < capacity:
        block = min(4096, power_of_two(capacity))
        topk.keep_top_kernel[(some,)](
            z.view(torch.int16), capacity, s.k_aux, BLOCK=block, num_warps=4
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
