"""Launches of a fused step, second half: from errors and slopes to new weights."""

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.engines.cuda.kernels import gradients, latents, update
from deconstruct.sae.engines.cuda.options import power_of_two
from deconstruct.sae.spec import pace_of


def set_pace(buffers: Buffers, aux: dict[str, Tensor] | None) -> None:
    """Which latents this step updates, and how far; their records of firing."""
    spec = buffers.spec
    latents.pace_kernel[(-(-(spec.d_sae + 1) // 1024),)](
        buffers.row_ptr,
        buffers.aux_slot,
        aux["largest"] if aux else buffers.clip,
        buffers.state["since_fired"],
        buffers.state["updates"],
        buffers.rates,
        buffers.corrections,
        buffers.state["step"],
        buffers.pace,
        spec.batch,
        spec.d_sae,
        AUX=aux is not None,
        EVERY=spec.optimizer == "adam",
        BLOCK=1024,
    )


def chunk_sums(buffers: Buffers) -> None:
    """Gradient rows of latents whose pairs fill whole chunks of the order, a sum per chunk: so that
    a latent that fires everywhere is summed by many programs."""
    spec, runs = buffers.spec, buffers.runs
    if blocks := spec.batch * spec.k // buffers.options.tiling.chunk:
        gradients.chunk_kernel[(blocks,)](
            buffers.error,
            buffers.centered,
            runs["value"],
            runs["slope"],
            runs["token"],
            buffers.latents,
            buffers.nest,
            buffers.partial["W_dec"],
            buffers.partial["W_enc"],
            spec.batch,
            spec.d_sae,
            spec.d_in,
            CHUNK=buffers.options.tiling.chunk,
            BLOCK_D=power_of_two(spec.d_in),
            U=4,
            NESTED=len(buffers.ends) > 1,
            num_warps=buffers.warps(buffers.options.tiling.row_warps),
        )


def bias_gradients(buffers: Buffers, aux: dict[str, Tensor] | None) -> None:
    """Gradients of both biases, up to the loss's scale; the step's loss into the log."""
    _encoder_bias(buffers, aux)
    _decoder_bias(buffers)
    at = (buffers.state["step"] - 1).long()
    buffers.state["losses"].index_copy_(0, at, buffers.loss[-1].mean(0, keepdim=True))


def _encoder_bias(buffers: Buffers, aux: dict[str, Tensor] | None) -> None:
    """Each latent's pushes summed, and a bound on its rows' norm."""
    spec, runs = buffers.spec, buffers.runs
    gradients.run_sums_kernel[(spec.d_sae,)](
        runs["value"],
        runs["slope"],
        runs["token"],
        buffers.loss,
        buffers.size,
        buffers.row_ptr,
        buffers.nest,
        buffers.aux_slot,
        aux["b_enc"] if aux else buffers.grad["b_enc"],
        buffers.grad["b_enc"],
        buffers.bound,
        spec.batch,
        AUX=aux is not None,
        U=64,
        NESTED=len(buffers.ends) > 1,
        num_warps=1,
    )


def _decoder_bias(buffers: Buffers) -> None:
    """Errors summed over tokens, less what the encoder's product passes on of its bias."""
    spec = buffers.spec
    gradients.decoder_bias_partial_kernel[(len(buffers.b_dec_partial),)](
        buffers.error[0],
        buffers.enc,
        buffers.grad["b_enc"],
        buffers.b_dec_partial,
        spec.batch,
        spec.d_sae,
        spec.d_in,
        ERROR_PROGRAMS=buffers.error_programs,
        SPAN_ERROR=buffers.span_error,
        SPAN_WEIGHT=buffers.span_weight,
        U=8,
        BLOCK_D=power_of_two(spec.d_in),
        num_warps=buffers.warps(4),
    )
    gradients.decoder_bias_gradient_kernel[(-(-spec.d_in // 32),)](
        buffers.b_dec_partial,
        buffers.grad["b_dec"],
        len(buffers.b_dec_partial),
        spec.d_in,
        U=64,
        BLOCK=32,
    )


def clip(buffers: Buffers, aux: dict[str, Tensor] | None) -> None:
    """The factor that clips by the exact global norm, into ``buffers.clip``.

    Gradient rows are never written, so their norm takes forming them once more; unless a
    bound on it, which costs next to nothing, shows that there is nothing to clip.
    """
    spec, runs = buffers.spec, buffers.runs
    rows = buffers.bound.sum()
    if aux:
        rows = (rows.sqrt() + aux["squares"].sqrt()).square()
    biases = buffers.grad["b_enc"].square().sum() + buffers.grad["b_dec"].square().sum()
    limit = spec.clip_norm**2
    # Rounding rows to bfloat16 may add 2 %.
    buffers.norm_bound.copy_((1.02 * rows + biases) * buffers.scale**2)
    programs = len(buffers.squares)
    update.row_squares_kernel[(programs,)](
        buffers.dec,
        buffers.error,
        buffers.centered,
        runs["value"],
        runs["slope"],
        runs["token"],
        buffers.row_ptr,
        buffers.nest,
        buffers.partial["W_dec"],
        buffers.partial["W_enc"],
        buffers.aux_slot,
        aux["W_dec"] if aux else buffers.dec,
        aux["W_enc"] if aux else buffers.dec,
        buffers.norm_bound,
        buffers.squares,
        limit,
        spec.batch,
        spec.d_sae,
        spec.d_in,
        CHUNK=buffers.options.tiling.chunk,
        BLOCK_D=power_of_two(spec.d_in),
        U=buffers.options.tiling.row_unroll,
        UNIT=True,
        AUX=aux is not None,
        NESTED=len(buffers.ends) > 1,
        PROGRAMS=programs,
        num_warps=buffers.warps(buffers.options.tiling.row_warps),
    )
    norm = (buffers.squares.sum() + biases).sqrt() * buffers.scale
    factor = (spec.clip_norm / norm.clamp(min=1e-30)).clamp(max=1.0)
    buffers.clip.copy_(torch.where(buffers.norm_bound > limit, factor, 1.0))


def update_rows(buffers: Buffers, name: str, aux: dict[str, Tensor] | None) -> None:
    """Form each gradient row of W_dec or W_enc, and let Adam move it; renew its bfloat16 copy."""
    spec = buffers.spec
    decoder = name == "W_dec"
    update.update_rows_kernel[(spec.d_sae,)](
        buffers.state[name],
        _moment(buffers, f"{name}.m"),
        _moment(buffers, f"{name}.v"),
        (buffers.dec if decoder else buffers.enc).view(torch.int16),
        buffers.error if decoder else buffers.centered,
        buffers.runs["value" if decoder else "slope"],
        buffers.runs["token"],
        buffers.row_ptr,
        buffers.nest,
        buffers.partial[name],
        buffers.aux_slot,
        aux[name] if aux else buffers.enc,
        buffers.pace,
        buffers.state["step"],
        buffers.clip,
        buffers.scale,
        *spec.betas,
        spec.epsilon,
        spec.batch,
        spec.d_in,
        CHUNK=buffers.options.tiling.chunk,
        BLOCK_D=power_of_two(spec.d_in),
        U=buffers.options.tiling.row_unroll,
        UNIT=decoder,
        AUX=aux is not None,
        HALF=buffers.options.moments == "bfloat16",
        NESTED=decoder and len(buffers.ends) > 1,
        num_warps=buffers.warps(buffers.options.tiling.row_warps),
    )


def update_biases(buffers: Buffers) -> None:
    """Let Adam move b_enc, with its bfloat16 copy, and b_dec."""
    spec = buffers.spec
    for name, grad in buffers.grad.items():
        update.update_bias_kernel[(-(-len(grad) // 512),)](
            buffers.state[name],
            buffers.state[f"{name}.m"],
            buffers.state[f"{name}.v"],
            buffers.bias_half.view(torch.int16),
            grad,
            buffers.pace,
            pace_of(spec, name),
            buffers.clip,
            buffers.scale,
            *spec.betas,
            spec.epsilon,
            len(grad),
            spec.d_sae,
            LATENTS=name == "b_enc",
            BLOCK=512,
        )


def _moment(buffers: Buffers, name: str) -> Tensor:
    """A moment of Adam as a kernel takes it: bfloat16 by its bits."""
    found = buffers.state[name]
    return found.view(torch.int16) if found.dtype == torch.bfloat16 else found
