"""The launches of one fused TopK step and the buffers that live within it. Needs Triton at import.

On a GPU `StepKernels.launch` is captured into a CUDA graph: it allocates nothing that outlives it,
reads nothing on the host, and puts what nobody waits for on a second stream.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from deconstruct.sae import cuda_order, cuda_rows, cuda_topk
from deconstruct.sae.cuda import GpuOptions, power_of_two
from deconstruct.sae.engine import StepSpec

LATENTS_A_PROGRAM = 32


class StepKernels:
    """One step's kernels over a state that belongs to `deconstruct.sae.cuda.FusedTopK`.

    state: its tensors by name; schedule: float32 [steps, 2] as `cuda_rows` reads it. Public
    tensors are the last step's intermediate results, for tests.
    """

    def __init__(
        self,
        spec: StepSpec,
        options: GpuOptions,
        state: dict[str, Tensor],
        schedule: Tensor,
        device: torch.device,
    ) -> None:
        b, d, f, k = spec.batch, spec.d_in, spec.d_sae, spec.k
        self.spec, self.options, self._state, self._schedule = spec, options, state, schedule
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._side: torch.cuda.Stream | None = None
        self._sms = 1
        hopper = False
        if self._on_gpu:
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._sms = torch.cuda.get_device_properties(device).multi_processor_count
            hopper = torch.cuda.get_device_capability(device) >= (9, 0)
        # Near sqrt(d_sae / k) columns a group, both levels of the selection read as much.
        self._group = min(128, max(16, power_of_two(math.sqrt(f / k))))
        # TMA wants rows that begin on 16 bytes.
        able = hopper and d % 8 == 0 and f % 8 == 0
        self.fused = options.encoder == "fused" or (options.encoder == "auto" and able)
        if self.fused and not able:
            raise ValueError("encoder='fused' needs compute capability 9.0, d_in and d_sae % 8 = 0")

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        bf16, int32 = torch.bfloat16, torch.int32
        # bf16 copies of the weights, written by the update, read by the next step
        self.enc, self.dec = new(f, d, dtype=bf16), new(f, d, dtype=bf16)
        self._bias_half = new(f, dtype=bf16)
        self.clip = torch.ones(1, device=device)
        # activations
        self.centered, self.error = new(b, d, dtype=bf16), new(b, d, dtype=bf16)
        self.pre = new(b, f, dtype=bf16)
        self._maxima = new(b, -(-f // self._group), dtype=torch.int16)
        self.index, self.value, self.slope = new(b, k, dtype=int32), new(b, k), new(b, k)
        self._groups = new(b, k + 2, dtype=int32)
        self._loss, self._size = new(b), new(b)
        # the firing pairs by latent
        pairs = b * k
        self._slot, self._count = new(b, k, dtype=int32), new(f, dtype=int32)
        self._unordered, self._order = new(pairs, dtype=int32), new(pairs, dtype=int32)
        self._latents, self.row_ptr = new(pairs, dtype=int32), new(f + 1, dtype=int32)
        blocks = max(1, pairs // options.tiling.chunk)
        self._partial = {
            "W_dec": new(blocks, d),
            "W_enc": new(blocks, d),
            "scalars": new(blocks, 5),
        }
        # gradients that are small enough to be written
        self.grad = {"b_enc": new(f), "b_dec": new(d)}
        self._span_error, self._span_weight = (
            max(8, power_of_two(b / 64)),
            max(16, power_of_two(f / 512)),
        )
        self._error_programs = -(-b // self._span_error)
        self._b_dec_partial = new(self._error_programs + -(-f // self._span_weight), d)
        # the norm: parts of a bound; [bound, biases' part]; a sum for each program
        self._bound = new(-(-f // LATENTS_A_PROGRAM), 2)
        self._norm_bound, self._squares = new(2), new(8 * self._sms)
        # AuxK: the dead latents, padded to a power of two
        self.dead_capacity = 0
        self._dead_list, self._aux_slot = new(f, dtype=torch.int64), new(f, dtype=int32)
        self._aux_bias, self._aux_weight = new(f), new(1)

    def refresh_copies(self) -> None:
        """Renew the bf16 copies after the float32 weights were set from outside."""
        self.enc.copy_(self._state["W_enc"])
        self.dec.copy_(self._state["W_dec"])
        self._bias_half.copy_(self._state["b_enc"])

    def take_dead(self) -> None:
        """Fix the dead latents until the next call, from ``state["dead"]``. Waits."""
        s = self.spec
        if not s.k_aux:
            return
        found = self._state["dead"].nonzero().squeeze(1)
        n = len(found)
        # Powers of two: few graphs, at most twice the work.
        self.dead_capacity = min(s.d_sae, power_of_two(max(n, 64))) if n else 0
        self._dead_list.zero_()
        self._dead_list[:n] = found
        self._aux_slot.fill_(-1)
        self._aux_slot[found] = torch.arange(n, dtype=torch.int32, device=self._device)
        self._aux_bias.zero_()
        self._aux_bias[n:] = -torch.inf  # padding never fires
        self._aux_weight.fill_(s.aux_coefficient * min(1.0, n / s.k_aux))

    def begin(self, x: Tensor) -> None:
        """Count a step and centre its batch [B, d_in]: all that reads x, so it is never copied."""
        s = self.spec
        cuda_topk.center_kernel[(-(-max(x.numel(), s.d_sae) // 4096),)](
            x,
            self._state["b_dec"],
            self.centered,
            self._state["step"],
            self._count,
            x.numel(),
            s.d_sae,
            s.d_in,
            BLOCK=4096,
            num_warps=8,
        )

    def launch(self, capacity: int) -> None:
        """Every kernel of a step after `begin`; ``capacity`` dead latents take part in AuxK."""
        self._encode()
        self._select()
        with self._aside():
            self._sort()
        self._decode()
        aux = self._auxk(capacity) if capacity else None
        self._join()
        with self._aside():
            self._bias_gradients(aux)
            if math.isinf(self.spec.clip_norm):
                self._update_biases()
        self._chunk_sums()
        if not math.isinf(self.spec.clip_norm):
            self._join()
            self._clip(aux)
            with self._aside():
                self._update_biases()
        self._update_rows("W_dec", aux)
        self._join()  # the bias gradients read the copy of W_enc that is written next
        self._update_rows("W_enc", aux)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Launch on the second stream what the next kernels don't wait for."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            yield

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    def _encode(self) -> None:
        s, t = self.spec, self.options.tiling
        groups = self._maxima.shape[1]
        if not self.fused:
            torch.addmm(self._bias_half, self.centered, self.enc.mT, out=self.pre)
            block = 4096 // self._group
            cuda_topk.group_max_kernel[(-(-groups // block), s.batch)](
                self.pre.view(torch.int16),
                self._maxima,
                s.d_sae,
                groups,
                GROUP=self._group,
                BLOCK_G=block,
            )
            return
        bm, bn, bk = t.encode_block
        programs = self._sms * t.encode_programs
        cuda_topk.encode_kernel[(programs,)](
            TensorDescriptor.from_tensor(self.centered, [bm, bk]),
            TensorDescriptor.from_tensor(self.enc, [bn, bk]),
            TensorDescriptor.from_tensor(self.pre, [bm, bn // 2]),
            self._state["b_enc"],
            self._maxima,
            s.batch,
            s.d_sae,
            s.d_in,
            groups,
            BM=bm,
            BN=bn,
            BK=bk,
            GROUP=self._group,
            BAND=t.encode_band,
            PROGRAMS=programs,
            num_warps=t.encode_warps,
            num_stages=t.encode_stages,
        )

    def _select(self) -> None:
        s = self.spec
        groups = self._maxima.shape[1]
        cuda_topk.choose_groups_kernel[(s.batch,)](
            self._maxima,
            self._groups,
            groups,
            K=s.k,
            GROUPS_P2=power_of_two(groups),
            num_warps=_warps(power_of_two(groups), self.options.tiling.select_keys),
        )
        candidates = power_of_two(min(s.k, groups)) * self._group
        cuda_topk.select_kernel[(s.batch,)](
            self.pre.view(torch.int16),
            self._groups,
            self.index,
            self.value,
            self._slot,
            self._count,
            s.d_sae,
            K=s.k,
            GROUP=self._group,
            SLOTS_P2=candidates // self._group,
            K_P2=power_of_two(s.k),
            num_warps=_warps(candidates, self.options.tiling.select_keys),
        )

    def _sort(self) -> None:
        s = self.spec
        pairs = s.batch * s.k
        cuda_order.run_bounds_kernel[(-(-s.d_sae // 2048),)](
            self._count, self.row_ptr, s.d_sae, BLOCK=2048, WIDE=8192, num_warps=8
        )
        cuda_order.place_kernel[(-(-pairs // 512),)](
            self.index,
            self._slot,
            self.row_ptr,
            self._unordered,
            self._latents,
            pairs,
            s.d_sae,
            BLOCK=512,
        )
        cuda_order.rank_kernel[(-(-pairs // 32),)](
            self._unordered, self._latents, self.row_ptr, self._order, s.d_sae, BLOCK=32, SPAN=64
        )

    def _decode(self) -> None:
        s, t = self.spec, self.options.tiling
        cuda_topk.decode_kernel[(s.batch,)](
            self.centered,
            self.dec,
            self.index,
            self.value,
            self.error,
            self.slope,
            self._loss,
            self._size,
            s.d_sae,
            D=s.d_in,
            K=s.k,
            BLOCK_D=power_of_two(s.d_in),
            BLOCK_K=t.decode_rows,
            num_warps=t.decode_warps,
        )

    def _auxk(self, capacity: int) -> dict[str, Tensor]:
        """AuxK's gradients of the dead latents, [capacity, ...]: dense, over these latents only."""
        s = self.spec
        listed = self._dead_list[:capacity]
        enc, dec = self.enc.index_select(0, listed), self.dec.index_select(0, listed)
        bias = self._bias_half.index_select(0, listed) + self._aux_bias[:capacity].bfloat16()
        z = torch.addmm(bias, self.centered, enc.mT)
        if s.k_aux < capacity:
            block = min(4096, power_of_two(capacity))
            cuda_topk.keep_top_kernel[(s.batch,)](
                z.view(torch.int16), capacity, s.k_aux, BLOCK=block, num_warps=4
            )
        else:
            z.relu_()
        e = torch.addmm(self.error, z, dec) * self._aux_weight.bfloat16()
        dz = torch.where(z > 0, e @ dec.mT, 0)
        rows_dec, rows_enc = z.mT @ e, dz.mT @ self.centered
        squares = sum(
            torch.linalg.vector_norm(r, dtype=torch.float32) for r in (rows_dec, rows_enc)
        )
        return {
            "W_dec": rows_dec,
            "W_enc": rows_enc,
            "b_enc": dz.sum(0, dtype=torch.float32),
            "squares": torch.as_tensor(squares).square(),  # (a + b)^2, at least a^2 + b^2
        }

    def _chunk_sums(self) -> None:
        s = self.spec
        if blocks := s.batch * s.k // self.options.tiling.chunk:
            cuda_rows.chunk_kernel[(blocks,)](
                self.error,
                self.centered,
                self.value,
                self.slope,
                self._latents,
                self._order,
                self._partial["W_dec"],
                self._partial["W_enc"],
                s.d_sae,
                s.d_in,
                K=s.k,
                CHUNK=self.options.tiling.chunk,
                BLOCK_D=power_of_two(s.d_in),
                U=8,
                num_warps=self.options.tiling.row_warps,
            )

    def _bias_gradients(self, aux: dict[str, Tensor] | None) -> None:
        """Gradients of both biases, up to the loss's scale; the step's loss into the log."""
        s = self.spec
        if blocks := s.batch * s.k // self.options.tiling.chunk:
            cuda_rows.chunk_scalars_kernel[(blocks,)](
                self.value,
                self.slope,
                self._loss,
                self._size,
                self._latents,
                self._order,
                self._partial["scalars"],
                s.d_sae,
                K=s.k,
                CHUNK=self.options.tiling.chunk,
                num_warps=1,
            )
        cuda_rows.run_scalars_kernel[(len(self._bound),)](
            self.value,
            self.slope,
            self._loss,
            self._size,
            self._order,
            self.row_ptr,
            self._partial["scalars"],
            self._aux_slot,
            aux["b_enc"] if aux else self.grad["b_enc"],
            self.grad["b_enc"],
            self._bound,
            s.d_sae,
            K=s.k,
            CHUNK=self.options.tiling.chunk,
            AUX=aux is not None,
            BLOCK=LATENTS_A_PROGRAM,
            U=8,
            num_warps=1,
        )
        cuda_rows.decoder_bias_partial_kernel[(len(self._b_dec_partial),)](
            self.error,
            self.enc,
            self.grad["b_enc"],
            self._b_dec_partial,
            s.batch,
            s.d_sae,
            s.d_in,
            ERROR_PROGRAMS=self._error_programs,
            SPAN_ERROR=self._span_error,
            SPAN_WEIGHT=self._span_weight,
            U=8,
            BLOCK_D=power_of_two(s.d_in),
        )
        cuda_rows.decoder_bias_gradient_kernel[(-(-s.d_in // 32),)](
            self._b_dec_partial,
            self.grad["b_dec"],
            len(self._b_dec_partial),
            s.d_in,
            U=64,
            BLOCK=32,
        )
        cuda_rows.log_kernel[(1,)](
            self._loss, self._state["losses"], self._state["step"], s.batch, BLOCK=1024
        )

    def _clip(self, aux: dict[str, Tensor] | None) -> None:
        """The factor that clips by the exact global norm, into ``self.clip``.

        Gradient rows are never written, so their norm takes forming them once more; unless a
        bound on it, which costs next to nothing, shows that there is nothing to clip.
        """
        s = self.spec
        scale = 2.0 / s.batch
        cuda_rows.norm_bound_kernel[(1,)](
            self._bound,
            self.grad["b_dec"],
            aux["squares"] if aux else self._norm_bound,
            self._norm_bound,
            scale,
            len(self._bound),
            s.d_in,
            AUX=aux is not None,
            BLOCK=4096,
            num_warps=16,
        )
        programs = len(self._squares)
        cuda_rows.row_squares_kernel[(programs,)](
            self.dec,
            self.error,
            self.centered,
            self.value,
            self.slope,
            self._order,
            self.row_ptr,
            self._partial["W_dec"],
            self._partial["W_enc"],
            self._aux_slot,
            aux["W_dec"] if aux else self.dec,
            aux["W_enc"] if aux else self.dec,
            self._norm_bound,
            self._squares,
            s.clip_norm,
            scale,
            s.d_sae,
            s.d_in,
            K=s.k,
            CHUNK=self.options.tiling.chunk,
            BLOCK_D=power_of_two(s.d_in),
            U=self.options.tiling.row_unroll,
            UNIT=self.options.unit_norm,
            AUX=aux is not None,
            PROGRAMS=programs,
            num_warps=self.options.tiling.row_warps,
        )
        cuda_rows.clip_kernel[(1,)](
            self._norm_bound,
            self._squares,
            self.clip,
            s.clip_norm,
            programs,
            BLOCK=1024,
        )

    def _moment(self, name: str) -> Tensor:
        found = self._state[name]
        return found.view(torch.int16) if found.dtype == torch.bfloat16 else found

    def _update_rows(self, name: str, aux: dict[str, Tensor] | None) -> None:
        s = self.spec
        decoder = name == "W_dec"
        cuda_rows.update_rows_kernel[(s.d_sae,)](
            self._state[name],
            self._moment(f"{name}.m"),
            self._moment(f"{name}.v"),
            self.dec if decoder else self.enc,
            self.error if decoder else self.centered,
            self.value if decoder else self.slope,
            self._order,
            self.row_ptr,
            self._partial[name],
            self._aux_slot,
            aux[name] if aux else self.enc,
            self._schedule,
            self._state["step"],
            self.clip,
            2.0 / s.batch,
            *s.betas,
            s.epsilon,
            s.d_in,
            K=s.k,
            CHUNK=self.options.tiling.chunk,
            BLOCK_D=power_of_two(s.d_in),
            U=self.options.tiling.row_unroll,
            UNIT=decoder and self.options.unit_norm,
            AUX=aux is not None,
            HALF=self.options.moments == "bfloat16",
            num_warps=self.options.tiling.row_warps,
        )

    def _update_biases(self) -> None:
        s = self.spec
        for name, grad in self.grad.items():
            cuda_rows.update_bias_kernel[(-(-len(grad) // 1024),)](
                self._state[name],
                self._state[f"{name}.m"],
                self._state[f"{name}.v"],
                self._bias_half,
                grad,
                self.row_ptr,
                self._state["since_fired"],
                self._state["fired"],
                self._schedule,
                self._state["step"],
                self.clip,
                2.0 / s.batch,
                *s.betas,
                s.epsilon,
                s.batch,
                len(grad),
                LATENTS=name == "b_enc",
                BLOCK=1024,
            )


def _warps(keys: int, a_warp: int) -> int:
    """Warps for a program that holds so many keys."""
    return min(16, max(1, keys // a_warp))
