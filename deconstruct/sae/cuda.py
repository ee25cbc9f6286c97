"""A TopK SAE's training step on one GPU: one dense product, and no other pass it can avoid.

    xc    = x - b_dec
    pre   = xc @ W_enc + b_enc                       the only dense product
    z     = top-k of relu(pre)
    e     = z @ W_dec + b_dec - x                    k rows a token
    loss  = mean over tokens of |e|^2  [+ aux_coef * AuxK]

Gradients are sums over the B*k firing (token, latent) pairs, sorted by latent once a step; they are
formed a row at a time in registers and meet Adam there, so the optimiser moves 24 bytes a parameter
plus 2 for the bf16 copy that the next step multiplies by. The kernels and their references:
`cuda_topk`, `cuda_rows`, ``tests/test_sae_cuda.py``.

Numbers: master weights and moments float32, products bf16 with float32 sums; W_enc is kept
transposed, [d_sae, d_in], so that a latent is a row everywhere.

Deterministic: no float atomics, no choice by timing; one GPU model, one torch and Triton give the
same bytes on every run, and a resumed run those of an uninterrupted one.

The host never waits within `FusedTopK.step`, but for one place: with AuxK, every
``refresh_every`` steps, the list of dead latents is read back and the step (a CUDA graph) for that
many dead latents is taken or built. Between two refreshes the list stands still.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import environ
from typing import Literal

import torch
from torch import Tensor

MAX_K = 512  # beyond, the second level of the selection no longer fits a program's registers
_INTERPRETED = environ.get("TRITON_INTERPRET") == "1"


def unavailable() -> str | None:
    """Why the fused step can't run here, as a sentence; None where it can."""
    if find_spec("triton") is None:
        return "the fused GPU step needs Triton, which is not installed"
    if not torch.cuda.is_available() and not _INTERPRETED:
        return "no CUDA device; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return "the fused GPU step needs bf16 tensor cores: compute capability 8.0 or later"
    return None


def _power(n: float) -> int:
    return 1 << max(0, math.ceil(math.log2(n)))


@dataclass(frozen=True)
class Tiling:
    """Block shapes. They change the order of sums, so they are fixed, not tuned at run time."""

    select_warps: int = 2
    decode_warps: int = 2
    decode_rows: int = 4
    row_warps: int = 4
    row_unroll: int = 4
    chunk: int = 64
    encode_block: tuple[int, int, int] = (128, 256, 64)  # tokens, latents, d_in
    encode_stages: int = 3
    encode_warps: int = 8
    encode_band: int = 8


@dataclass(frozen=True)
class TopKStep:
    """What a step computes. Sizes are fixed: a run's last, shorter batch is not for it.

    Raises ValueError where a size is out of range.
    """

    batch: int
    d_in: int
    d_sae: int
    k: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    unit_norm: bool = True
    # By the exact global norm of all gradients: they are summed once more for it, not written.
    clip_norm: float | None = None
    k_aux: int = 0
    aux_coef: float = 1 / 32
    dead_after: int = 10_000_000  # tokens without firing
    refresh_every: int = 64  # steps
    # "cublas": library product, then a pass for the maxima. "fused": Triton product that makes
    # them on its way out (Hopper's TMA).
    encoder: Literal["cublas", "fused"] = "cublas"
    tiling: Tiling = field(default_factory=Tiling)

    def __post_init__(self) -> None:
        if not 1 <= self.k <= min(self.d_sae, MAX_K):
            raise ValueError(f"k={self.k} must lie in 1..min(d_sae, {MAX_K})")
        if not 0 <= self.k_aux <= self.d_sae:
            raise ValueError(f"k_aux={self.k_aux} must lie in 0..d_sae={self.d_sae}")
        if min(self.batch, self.d_in) < 1 or self.batch * self.k >= 2**31:
            raise ValueError(f"batch={self.batch}, d_in={self.d_in} is out of range")

    @property
    def group(self) -> int:
        """Columns a group; near sqrt(d_sae / k) both levels of the selection read as much."""
        return min(128, max(16, _power(math.sqrt(self.d_sae / self.k))))


class FusedTopK:
    """Parameters, Adam's moments and the step over them, in static buffers on one device.

    learning_rates: one a step, [steps]; the schedule lives on the device. weights: ``W_enc
    [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]``, any float dtype.

    Raises RuntimeError with `unavailable`'s reason, ValueError for weights of another shape.
    """

    def __init__(
        self,
        spec: TopKStep,
        weights: Mapping[str, Tensor],
        learning_rates: Tensor,
        device: torch.device | str = "cuda",
    ) -> None:
        if reason := unavailable():
            raise RuntimeError(reason)
        b, d, f, k = spec.batch, spec.d_in, spec.d_sae, spec.k
        shapes = {"W_enc": (d, f), "b_enc": (f,), "W_dec": (f, d), "b_dec": (d,)}
        for name, shape in shapes.items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(weights[name].shape)}, not {shape}")
        self.spec = spec
        self.device = torch.device(device)

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        # What a checkpoint holds.
        self._state = {n: new(*weights[n].mT.shape if n == "W_enc" else shapes[n]) for n in shapes}
        for name in shapes:
            self._state[f"{name}.m"] = torch.zeros_like(self._state[name])
            self._state[f"{name}.v"] = torch.zeros_like(self._state[name])
        self._state["step"] = new(1, dtype=torch.int32)
        self._state["since_fired"] = new(f, dtype=torch.int32)
        self._state["fired"] = new(f, dtype=torch.int64)
        self._state["dead"] = new(f, dtype=torch.bool)

        # What a step leaves to the next one, all of it derived from the state.
        bf16 = torch.bfloat16
        self._enc, self._dec = new(f, d, dtype=bf16), new(f, d, dtype=bf16)
        self._bias = new(f, dtype=bf16)
        self._schedule = _adam_schedule(learning_rates, spec.betas).to(self.device)
        self.losses = new(len(learning_rates))  # mean |e|^2 of each step; reading it waits
        self._clip = torch.ones(1, device=self.device)
        self.steps_done = 0  # the host's count of `step`

        # What lives within a step.
        pairs, chunk = b * k, spec.tiling.chunk
        small = torch.int16 if f < 2**15 - 1 else torch.int32  # two radix passes, not four
        self._x = new(b, d)
        self._xc, self._error = new(b, d, dtype=bf16), new(b, d, dtype=bf16)
        self._pre = new(b, f, dtype=bf16)
        self._bits = self._pre.view(torch.int16)
        self._maxima = new(b, -(-f // spec.group), dtype=torch.int16)
        self._index, self._value, self._slope = new(b, k, dtype=small), new(b, k), new(b, k)
        self._latents, self._order = new(pairs, dtype=small), new(pairs, dtype=torch.int64)
        self._edges = torch.arange(f + 1, dtype=small, device=self.device)
        self._row_ptr = new(f + 1, dtype=torch.int32)
        self._partial_dec = new(max(1, pairs // chunk), d)
        self._partial_enc = torch.zeros_like(self._partial_dec)
        self._token_loss = new(b)
        self._span_error, self._span_weight = _power(b / 64), max(16, _power(f / 512))
        self._error_sums = new(-(-b // self._span_error), d)
        self._weight_sums = new(-(-f // self._span_weight), d)
        self._grad_b_enc, self._grad_b_dec = new(f), new(d)
        self._squares = new(2, f)
        self._dead_list, self._aux_slot = new(f, dtype=torch.int64), new(f, dtype=torch.int32)
        self._aux_bias, self._aux_weight = new(f), new(1)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._capacity = 0
        on_gpu = self.device.type == "cuda"
        self._side = torch.cuda.Stream(self.device) if on_gpu else None
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self.load_weights(weights)

    # -- weights and state ---------------------------------------------------------------------

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in (names and shapes as in the class); moments and counts stay."""
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            source = weights[name].detach()
            self._state[name].copy_(source.mT if name == "W_enc" else source)
        self._refresh_shadows()

    def weights(self) -> dict[str, Tensor]:
        """Copies of the float32 weights, names and shapes as in the class."""
        found = {n: self._state[n].clone() for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
        found["W_enc"] = found["W_enc"].mT.contiguous()
        return found

    @property
    def fired(self) -> Tensor:
        """int64 [d_sae]: how often each latent has fired. The live buffer, not a copy."""
        return self._state["fired"]

    @property
    def since_fired(self) -> Tensor:
        """int32 [d_sae]: tokens since each latent last fired. The live buffer, not a copy."""
        return self._state["since_fired"]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that a resumed run needs to go on with the same bytes; W_enc transposed."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`; raises KeyError where a tensor is missing."""
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self.steps_done = int(self._state["step"].item())
        self._refresh_shadows()
        self._take_dead(self._state["dead"])

    def _refresh_shadows(self) -> None:
        self._enc.copy_(self._state["W_enc"])
        self._dec.copy_(self._state["W_dec"])
        self._bias.copy_(self._state["b_enc"])

    # -- the step ------------------------------------------------------------------------------

    def step(self, x: Tensor) -> None:
        """Train on x, [batch, d_in], any float dtype and device; returns before it is done.

        Raises ValueError for another shape, IndexError after the schedule's last step.
        """
        if tuple(x.shape) != tuple(self._x.shape):
            raise ValueError(f"x is {tuple(x.shape)}, not {tuple(self._x.shape)}")
        if self.steps_done >= len(self._schedule):
            raise IndexError(f"the schedule has {len(self._schedule)} steps, all of them done")
        if self.spec.k_aux and self.steps_done and self.steps_done % self.spec.refresh_every == 0:
            self._take_dead(self._state["since_fired"] > self.spec.dead_after)
        self._x.copy_(x, non_blocking=True)
        self.steps_done += 1
        if self.device.type != "cuda":
            self._launch(self._capacity)
            return
        if self._capacity not in self._graphs:
            self._graphs[self._capacity] = self._capture(self._capacity)
        self._graphs[self._capacity].replay()

    def _take_dead(self, dead: Tensor) -> None:
        """Fix the dead latents until the next refresh. Waits for the device."""
        if not self.spec.k_aux:
            return
        self._state["dead"].copy_(dead)
        found = dead.nonzero().squeeze(1)
        n = len(found)
        # Powers of two: few graphs, at most twice the work.
        self._capacity = min(self.spec.d_sae, _power(max(n, 64))) if n else 0
        self._dead_list.zero_()
        self._dead_list[:n] = found
        self._aux_slot.fill_(-1)
        self._aux_slot[found] = torch.arange(n, dtype=torch.int32, device=self.device)
        self._aux_bias.zero_()
        self._aux_bias[n:] = -torch.inf  # padding never fires
        # With fewer dead latents than k_aux the loss shrinks in proportion, as sparsify does it.
        self._aux_weight.fill_(self.spec.aux_coef * min(1.0, n / self.spec.k_aux))

    def _capture(self, capacity: int) -> "torch.cuda.CUDAGraph":
        saved = self.state_dict()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compile, and let the libraries set up, outside the graph
            self._launch(capacity)
        torch.cuda.current_stream().wait_stream(stream)
        for name, tensor in self._state.items():
            tensor.copy_(saved[name])
        self._refresh_shadows()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._launch(capacity)
        return graph

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

    def _launch(self, capacity: int) -> None:
        """Every kernel of one step, in order; ``capacity`` dead latents take part in AuxK."""
        self._encode()
        self._select()
        with self._aside():
            self._sort()
        self._decode()
        aux = self._auxk(capacity) if capacity else None
        self._join()
        self._chunk_sums()
        with self._aside():
            self._bias_gradients(aux)
        if self.spec.clip_norm is not None:
            self._update_rows("W_dec", aux, norm_only=True)
            self._update_rows("W_enc", aux, norm_only=True)
            self._join()
            self._clip_by_norm(self.spec.clip_norm)
        self._update_rows("W_dec", aux)
        self._join()  # the bias gradients read the bf16 copy of W_enc, which is written next
        self._update_rows("W_enc", aux)
        self._update_biases()

    def _encode(self) -> None:
        from deconstruct.sae import cuda_topk as kernels

        s = self.spec
        total = s.batch * s.d_in
        kernels.center_kernel[(-(-total // 4096),)](
            self._x, self._state["b_dec"], self._xc, self._state["step"], total, s.d_in, BLOCK=4096
        )
        if s.encoder == "fused":
            self._encode_fused()
            return
        torch.addmm(self._bias, self._xc, self._enc.mT, out=self._pre)
        groups, block = self._maxima.shape[1], 4096 // s.group
        kernels.group_max_kernel[(-(-groups // block), s.batch)](
            self._bits, self._maxima, s.d_sae, groups, GROUP=s.group, BLOCK_G=block
        )

    def _encode_fused(self) -> None:
        from triton.tools.tensor_descriptor import TensorDescriptor

        from deconstruct.sae import cuda_topk as kernels

        s = self.spec
        bm, bn, bk = s.tiling.encode_block
        sms = 1
        if self.device.type == "cuda":
            sms = torch.cuda.get_device_properties(self.device).multi_processor_count
        kernels.encode_kernel[(sms,)](
            TensorDescriptor.from_tensor(self._xc, [bm, bk]),
            TensorDescriptor.from_tensor(self._enc, [bn, bk]),
            TensorDescriptor.from_tensor(self._pre, [bm, bn // 2]),
            self._bias,
            self._maxima,
            s.batch,
            s.d_sae,
            s.d_in,
            self._maxima.shape[1],
            BM=bm,
            BN=bn,
            BK=bk,
            GROUP=s.group,
            BAND=s.tiling.encode_band,
            SMS=sms,
            num_warps=s.tiling.encode_warps,
            num_stages=s.tiling.encode_stages,
        )

    def _select(self) -> None:
        from deconstruct.sae import cuda_topk as kernels

        s = self.spec
        groups = self._maxima.shape[1]
        kernels.select_kernel[(s.batch,)](
            self._bits,
            self._maxima,
            self._index,
            self._value,
            s.d_sae,
            groups,
            K=s.k,
            GROUP=s.group,
            GROUPS_P2=_power(groups),
            SLOTS_P2=_power(min(s.k, groups)),
            K_P2=_power(s.k),
            num_warps=s.tiling.select_warps,
        )

    def _sort(self) -> None:
        torch.sort(self._index.view(-1), stable=True, out=(self._latents, self._order))
        torch.searchsorted(self._latents, self._edges, out_int32=True, out=self._row_ptr)

    def _decode(self) -> None:
        from deconstruct.sae import cuda_topk as kernels

        s = self.spec
        kernels.decode_kernel[(s.batch,)](
            self._x,
            self._state["b_dec"],
            self._dec,
            self._index,
            self._value,
            self._error,
            self._slope,
            self._token_loss,
            s.d_sae,
            s.d_in,
            K=s.k,
            BLOCK_D=_power(s.d_in),
            BLOCK_K=s.tiling.decode_rows,
            num_warps=s.tiling.decode_warps,
        )

    def _auxk(self, capacity: int) -> dict[str, Tensor]:
        """AuxK's gradients of the dead latents, [capacity, ...]: dense, over these latents only.

        ``aux_coef * |top-k_aux(dead pre) @ W_dec - (x - x_hat)|^2``; the residual is a constant.
        """
        from deconstruct.sae import cuda_topk as kernels

        s = self.spec
        listed = self._dead_list[:capacity]
        enc, dec = self._enc.index_select(0, listed), self._dec.index_select(0, listed)
        bias = self._bias.index_select(0, listed) + self._aux_bias[:capacity].to(torch.bfloat16)
        z = torch.addmm(bias, self._xc, enc.mT)
        if s.k_aux < capacity:
            block = min(4096, _power(capacity))
            kernels.keep_top_kernel[(s.batch,)](
                z.view(torch.int16), capacity, s.k_aux, BLOCK=block, num_warps=4
            )
        else:
            z.relu_()
        e = torch.addmm(self._error, z, dec) * self._aux_weight.to(torch.bfloat16)
        dz = torch.where(z > 0, e @ dec.mT, 0)
        return {"W_dec": z.mT @ e, "W_enc": dz.mT @ self._xc, "b_enc": dz.sum(0, dtype=torch.float)}

    def _chunk_sums(self) -> None:
        from deconstruct.sae import cuda_rows as kernels

        s = self.spec
        if blocks := s.batch * s.k // s.tiling.chunk:
            kernels.chunk_kernel[(blocks,)](
                self._error,
                self._xc,
                self._value,
                self._slope,
                self._latents,
                self._order,
                self._partial_dec,
                self._partial_enc,
                s.d_sae,
                s.d_in,
                K=s.k,
                CHUNK=s.tiling.chunk,
                BLOCK_D=_power(s.d_in),
                U=8,
                num_warps=s.tiling.row_warps,
            )

    def _bias_gradients(self, aux: dict[str, Tensor] | None) -> None:
        """Gradients of both biases, up to the loss's scale; the step's loss into the log."""
        from deconstruct.sae import cuda_rows as kernels

        s = self.spec
        kernels.bias_gradient_kernel[(s.d_sae,)](
            self._slope,
            self._order,
            self._row_ptr,
            self._aux_slot,
            aux["b_enc"] if aux else self._grad_b_enc,
            self._grad_b_enc,
            AUX=aux is not None,
            BLOCK=64,
            num_warps=1,
        )
        block = _power(s.d_in)
        for rows, coef, out, span in (
            (self._error, None, self._error_sums, self._span_error),
            (self._enc, self._grad_b_enc, self._weight_sums, self._span_weight),
        ):
            kernels.column_sum_kernel[(len(out),)](
                rows,
                out if coef is None else coef,
                out,
                len(rows),
                s.d_in,
                WEIGHTED=coef is not None,
                SPAN=span,
                U=min(8, span),
                BLOCK_D=block,
            )
        kernels.decoder_bias_gradient_kernel[(-(-s.d_in // 32),)](
            self._error_sums,
            self._weight_sums,
            self._grad_b_dec,
            len(self._error_sums),
            len(self._weight_sums),
            s.d_in,
            U=64,
            BLOCK=32,
        )
        kernels.log_kernel[(1,)](
            self._token_loss, self.losses, self._state["step"], s.batch, BLOCK=1024
        )

    def _update_rows(
        self, name: str, aux: dict[str, Tensor] | None, norm_only: bool = False
    ) -> None:
        from deconstruct.sae import cuda_rows as kernels

        s = self.spec
        decoder = name == "W_dec"
        kernels.update_rows_kernel[(s.d_sae,)](
            self._state[name],
            self._state[f"{name}.m"],
            self._state[f"{name}.v"],
            self._dec if decoder else self._enc,
            self._error if decoder else self._xc,
            self._value if decoder else self._slope,
            self._order,
            self._row_ptr,
            self._partial_dec if decoder else self._partial_enc,
            self._aux_slot,
            aux[name] if aux else self._enc,
            self._schedule,
            self._state["step"],
            self._clip,
            self._squares[int(decoder)],
            2.0 / s.batch,
            *s.betas,
            s.eps,
            s.d_in,
            K=s.k,
            CHUNK=s.tiling.chunk,
            BLOCK_D=_power(s.d_in),
            U=s.tiling.row_unroll,
            UNIT=decoder and s.unit_norm,
            AUX=aux is not None,
            NORM_ONLY=norm_only,
            num_warps=s.tiling.row_warps,
        )

    def _clip_by_norm(self, limit: float) -> None:
        """torch.nn.utils.clip_grad_norm_'s factor, over all four gradients."""
        scale = 2.0 / self.spec.batch
        biases = self._grad_b_enc.square().sum() + self._grad_b_dec.square().sum()
        norm = (self._squares.sum() + biases * scale**2).sqrt()
        self._clip.copy_((limit / (norm + 1e-6)).clamp(max=1.0))

    def _update_biases(self) -> None:
        from deconstruct.sae import cuda_rows as kernels

        s = self.spec
        for name, grad in (("b_enc", self._grad_b_enc), ("b_dec", self._grad_b_dec)):
            kernels.update_bias_kernel[(-(-len(grad) // 1024),)](
                self._state[name],
                self._state[f"{name}.m"],
                self._state[f"{name}.v"],
                self._bias,
                grad,
                self._row_ptr,
                self._state["since_fired"],
                self._state["fired"],
                self._schedule,
                self._state["step"],
                self._clip,
                2.0 / s.batch,
                *s.betas,
                s.eps,
                s.batch,
                len(grad),
                LATENTS=name == "b_enc",
                BLOCK=1024,
            )


def _adam_schedule(learning_rates: Tensor, betas: tuple[float, float]) -> Tensor:
    """float32 [steps, 2]: ``lr / (1 - beta1^t)`` and ``(1 - beta2^t)^-1/2`` of step t = 1, 2, ..."""
    t = torch.arange(1, len(learning_rates) + 1, dtype=torch.float64)
    rate = learning_rates.detach().to("cpu", torch.float64) / (1 - betas[0] ** t)
    return torch.stack([rate, (1 - betas[1] ** t).rsqrt()], dim=1).float()
