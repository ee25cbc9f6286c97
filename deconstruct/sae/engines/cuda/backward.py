"""Launches of a fused TopK step, second half: from errors and slopes to new weights."""

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import LATENTS_A_PROGRAM, Buffers
from deconstruct.sae.engines.cuda.kernels import gradients, latents, update
from deconstruct.sae.engines.cuda.options import power_of_two
from deconstruct.sae.spec import pace_of


def set_pace(b: Buffers, aux: dict[str, Tensor] | None) -> None:
    """Which latents this step updates, and how far; their records of firing."""
    s = b.spec
    latents.pace_kernel[(-(-(s.d_sae + 1) // 1024),)](
        b.row_ptr,
        b.aux_slot,
        aux["largest"] if aux else b.clip,
        b.state["since_fired"],
        b.state["updates"],
        b.rates,
        b.corrections,
        b.state["step"],
        b.pace,
        s.batch,
        s.d_sae,
        AUX=aux is not None,
        EVERY=s.optimizer == "adam",
        BLOCK=1024,
    )


def chunk_sums(b: Buffers) -> None:
    s = b.spec
    if blocks := s.batch * s.k // b.options.tiling.chunk:
        gradients.chunk_kernel[(blocks,)](
            b.error,
            b.centered,
            b.value,
            b.slope,
            b.latents,
            b.order,
            b.partial["W_dec"],
            b.partial["W_enc"],
            s.d_sae,
            s.d_in,
            K=s.k,
            CHUNK=b.options.tiling.chunk,
            BLOCK_D=power_of_two(s.d_in),
            U=8,
            num_warps=b.warps(b.options.tiling.row_warps),
        )


def bias_gradients(b: Buffers, aux: dict[str, Tensor] | None) -> None:
    """Gradients of both biases, up to the loss's scale; the step's loss into the log."""
    s = b.spec
    if blocks := s.batch * s.k // b.options.tiling.chunk:
        gradients.chunk_scalars_kernel[(blocks,)](
            b.value,
            b.slope,
            b.loss,
            b.size,
            b.latents,
            b.order,
            b.partial["scalars"],
            s.d_sae,
            K=s.k,
            CHUNK=b.options.tiling.chunk,
            num_warps=1,
        )
    gradients.run_scalars_kernel[(len(b.bound),)](
        b.value,
        b.slope,
        b.loss,
        b.size,
        b.order,
        b.row_ptr,
        b.partial["scalars"],
        b.aux_slot,
        aux["b_enc"] if aux else b.grad["b_enc"],
        b.grad["b_enc"],
        b.bound,
        s.d_sae,
        K=s.k,
        CHUNK=b.options.tiling.chunk,
        AUX=aux is not None,
        BLOCK=LATENTS_A_PROGRAM,
        U=8,
        num_warps=1,
    )
    gradients.decoder_bias_partial_kernel[(len(b.b_dec_partial),)](
        b.error,
        b.enc,
        b.grad["b_enc"],
        b.b_dec_partial,
        s.batch,
        s.d_sae,
        s.d_in,
        ERROR_PROGRAMS=b.error_programs,
        SPAN_ERROR=b.span_error,
        SPAN_WEIGHT=b.span_weight,
        U=8,
        BLOCK_D=power_of_two(s.d_in),
        num_warps=b.warps(4),
    )
    gradients.decoder_bias_gradient_kernel[(-(-s.d_in // 32),)](
        b.b_dec_partial,
        b.grad["b_dec"],
        len(b.b_dec_partial),
        s.d_in,
        U=64,
        BLOCK=32,
    )
    gradients.log_kernel[(1,)](b.loss, b.state["losses"], b.state["step"], s.batch, BLOCK=1024)


def clip(b: Buffers, aux: dict[str, Tensor] | None) -> None:
    """The factor that clips by the exact global norm, into ``b.clip``.

    Gradient rows are never written, so their norm takes forming them once more; unless a
    bound on it, which costs next to nothing, shows that there is nothing to clip.
    """
    s = b.spec
    scale = 2.0 / s.batch
    update.norm_bound_kernel[(1,)](
        b.bound,
        b.grad["b_dec"],
        aux["squares"] if aux else b.norm_bound,
        b.norm_bound,
        scale,
        len(b.bound),
        s.d_in,
        AUX=aux is not None,
        BLOCK=4096,
        num_warps=16,
    )
    programs = len(b.squares)
    update.row_squares_kernel[(programs,)](
        b.dec,
        b.error,
        b.centered,
        b.value,
        b.slope,
        b.order,
        b.row_ptr,
        b.partial["W_dec"],
        b.partial["W_enc"],
        b.aux_slot,
        aux["W_dec"] if aux else b.dec,
        aux["W_enc"] if aux else b.dec,
        b.norm_bound,
        b.squares,
        s.clip_norm,
        scale,
        s.d_sae,
        s.d_in,
        K=s.k,
        CHUNK=b.options.tiling.chunk,
        BLOCK_D=power_of_two(s.d_in),
        U=b.options.tiling.row_unroll,
        UNIT=True,
        AUX=aux is not None,
        PROGRAMS=programs,
        num_warps=b.warps(b.options.tiling.row_warps),
    )
    update.clip_kernel[(1,)](
        b.norm_bound,
        b.squares,
        b.clip,
        s.clip_norm,
        programs,
        BLOCK=1024,
    )


def update_rows(b: Buffers, name: str, aux: dict[str, Tensor] | None) -> None:
    s = b.spec
    decoder = name == "W_dec"
    update.update_rows_kernel[(s.d_sae,)](
        b.state[name],
        _moment(b, f"{name}.m"),
        _moment(b, f"{name}.v"),
        (b.dec if decoder else b.enc).view(torch.int16),
        b.error if decoder else b.centered,
        b.value if decoder else b.slope,
        b.order,
        b.row_ptr,
        b.partial[name],
        b.aux_slot,
        aux[name] if aux else b.enc,
        b.pace,
        b.state["step"],
        b.clip,
        2.0 / s.batch,
        *s.betas,
        s.epsilon,
        s.d_in,
        K=s.k,
        CHUNK=b.options.tiling.chunk,
        BLOCK_D=power_of_two(s.d_in),
        U=b.options.tiling.row_unroll,
        UNIT=decoder,
        AUX=aux is not None,
        HALF=b.options.moments == "bfloat16",
        num_warps=b.warps(b.options.tiling.row_warps),
    )


def update_biases(b: Buffers) -> None:
    s = b.spec
    for name, grad in b.grad.items():
        update.update_bias_kernel[(-(-len(grad) // 1024),)](
            b.state[name],
            b.state[f"{name}.m"],
            b.state[f"{name}.v"],
            b.bias_half.view(torch.int16),
            grad,
            b.pace,
            pace_of(s, name),
            b.clip,
            2.0 / s.batch,
            *s.betas,
            s.epsilon,
            len(grad),
            s.d_sae,
            LATENTS=name == "b_enc",
            BLOCK=1024,
        )


def _moment(b: Buffers, name: str) -> Tensor:
    found = b.state[name]
    return found.view(torch.int16) if found.dtype == torch.bfloat16 else found
