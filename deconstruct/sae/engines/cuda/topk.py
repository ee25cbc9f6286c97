"""A TopK SAE's training step on one GPU: one dense product, and no other pass it can avoid.

    xc    = x - b_dec
    z     = top-k of relu(xc @ W_enc + b_enc)        the only dense product
    e     = z @ W_dec - xc                           k rows per token
    loss  = mean over tokens of |e|^2  [+ AuxK]

BatchTopK takes the B*k largest of the batch in their place, and Matryoshka has an error for each of
its nested dictionaries (`kernels.decode`). Gradients are sums over the firing (token, latent)
pairs, B*k at most, sorted by latent once per step; they are formed a row at a time in registers and
meet Adam there, so the optimiser moves 24 bytes per parameter plus 2 for the bf16 copy that the
next step multiplies by. The order of launches: `step`; the launches: `forward`, `backward`;
kernels: ``kernels/``; their reference, the CPU engine's: ``tests/support/sae_reference.py``.

Numbers: master weights and moments float32, products bf16 with float32 sums. W_enc is kept
transposed, [d_sae, d_in], so that a latent is a row everywhere.

Deterministic: no float atomics, nothing chosen by timing; one GPU model, one torch and one Triton
give the same bytes on every run, and a resumed run those of an uninterrupted one.

The host never waits within `FusedTopK.step`, but for one place: with AuxK, every
``refresh_every`` steps at most, the number of latents that can be dead before the next such look is
read back, and the step (a CUDA graph) with room for that many is taken or built. Which are dead,
the device finds out in every step.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.check import check_spec, disagreement
from deconstruct.sae.engines.cuda.elsewhere import wrong_elsewhere
from deconstruct.sae.engines.cuda.options import GpuOptions, shapes_of, unavailable, unsuited
from deconstruct.sae.engines.engine import Engine, UnfitError, as_given, is_dense, turned
from deconstruct.sae.spec import NAMES, StepSpec

log = logging.getLogger(__name__)


class FusedTopK(Engine):
    """Parameters, Adam's moments and the step over them, in static buffers on one device.

    spec: a step of TopK, BatchTopK or Matryoshka. ``clip_norm`` infinite: no clipping. weights:
    ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]``, any float
    dtype. learning_rates: one per step, [steps]; the schedule lives on the device.

    Raises RuntimeError with `unavailable`'s reason, ValueError for sizes out of range.
    """

    title = "the fused GPU step, which agrees with the dense one"

    def __init__(
        self,
        spec: StepSpec,
        weights: Mapping[str, Tensor],
        learning_rates: Tensor,
        device: torch.device | str = "cuda",
        options: GpuOptions | None = None,
    ) -> None:
        if reason := unavailable(device):
            raise RuntimeError(reason)
        from deconstruct.sae.engines.cuda.buffers import Buffers, new_state
        from deconstruct.sae.engines.cuda.step import Launcher  # imports Triton

        if reason := unsuited(spec):
            raise ValueError(reason)
        for name, shape in shapes_of(spec).items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(weights[name].shape)}, not {shape}")
        self.device, self.options = torch.device(device), options or GpuOptions()
        super().__init__(spec, new_state(spec, self.options, len(learning_rates), self.device))
        self.steps_done = 0  # the host's count of `step`
        # Steps between two looks at the dead: fewer than it takes to die, or all would need room.
        self._every = min(self.options.refresh_every, max(1, spec.dead_after // (8 * spec.batch)))
        self._room = torch.zeros(1, dtype=torch.int64)
        with self._current():
            self._buffers = Buffers(spec, self.options, self._state, learning_rates, self.device)
            self._launcher = Launcher(self._buffers)
            self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
            self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
            self.load_weights(weights)

    @classmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """What it was not built for, and float32 products."""
        several = f"the fused GPU step is for one process, not {ranks}" if ranks > 1 else None
        exact = "the fused GPU step multiplies in bfloat16" if dtype == "float32" else None
        return unavailable(device) or unsuited(spec) or several or exact

    @classmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """An engine that is compiled, and whose steps agree with the dense ones. Raises
        ``UnfitError`` where they don't, or can't be compiled, and ``torch.OutOfMemoryError``."""
        small = check_spec(spec)
        try:
            on_card = torch.device(device).type == "cuda"
            wrong = wrong_elsewhere(small, device) if on_card else None
            wrong = wrong or disagreement(cls, small, device)
            if wrong is None:
                engine = cls(spec, weights, rates, device)
                engine.prepare()
                return engine
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and drivers raise what they like
            wrong = f"the fused GPU step does not run here ({type(error).__name__}: {error})"
        raise UnfitError(wrong)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in (names and shapes as in the class); moments and counts stay."""
        for name in NAMES:
            source = weights[name].detach()
            self._state[name].copy_(source.mT if name == "W_enc" else source)
        self._refresh()

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies on the CPU, names and shapes as in the class; of BatchTopK and Matryoshka
        also the threshold, [d_sae]."""
        found = as_given(self._state, NAMES)
        if "control.threshold" in self._state:
            threshold = self._state["control.threshold"].float().cpu()
            found["threshold"] = threshold.expand(self.spec.d_sae).contiguous()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint, all that the same bytes need; W_enc transposed."""
        return super().state_dict() | {"room": self._room}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`, or that of a CPU's step or of the dense one; raises
        KeyError where a tensor is missing."""
        super().load_state_dict(turned(state) if is_dense(state) else state)
        self.steps_done = int(self._state["step"].item())
        ahead = self._every - self.steps_done % self._every
        self._room.copy_(state.get("room", torch.zeros(1)))
        self._room.clamp_(min=self._buffers.room_for_dead(ahead))

    def _l0(self) -> float:
        return float(self._buffers.row_ptr[-1]) / self.spec.batch

    def _refresh(self) -> None:
        """The copies in bfloat16."""
        self._buffers.refresh_copies()

    def prepare(self) -> None:
        """Compile the step, where that is not done: what can't run here says so before a run."""
        room = int(self._room)
        if self.device.type == "cuda" and room not in self._graphs:
            with self._current():
                self._graphs[room] = self._capture(room)

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, [batch, d_in], any float dtype and device; returns before it is done.

        Raises ValueError for another shape or a target, IndexError after the schedule's last step.
        """
        from deconstruct.sae.engines.cuda import forward

        self._can_step(z, target)
        if self.steps_done and self.steps_done % self._every == 0:
            self._room.fill_(self._buffers.room_for_dead(self._every))
        self.prepare()
        room = int(self._room)
        with self._current():
            forward.begin(self._buffers, z.to(self.device, non_blocking=True).contiguous())
            if room in self._graphs:
                self._graphs[room].replay()
            else:
                self._launcher.launch(room)
        self.steps_done += 1

    def first_step(self, z: Tensor, target: Tensor | None = None) -> None:
        """A step that is held against float64 (`first_step`). Raises ``UnfitError``, after it."""
        from deconstruct.sae.engines.cuda.first_step import fault, keep

        self._can_step(z, target)
        with self._current():
            kept = keep(self._buffers, z)
            self.step(kept.z)
            try:
                wrong = fault(kept, self._buffers)
            except torch.OutOfMemoryError:  # the step itself fits: training is not to end of this
                log.warning("sae          too little memory to hold the first step against float64")
                return
        if wrong is not None:
            raise UnfitError(wrong)

    def _can_step(self, z: Tensor, target: Tensor | None) -> None:
        spec = self.spec
        if target is not None:
            raise ValueError("the fused step reconstructs its input alone")
        if tuple(z.shape) != (spec.batch, spec.d_in):
            raise ValueError(f"z is {tuple(z.shape)}, not {(spec.batch, spec.d_in)}")
        if self.steps_done >= len(self.losses):
            raise IndexError(f"the schedule has {len(self.losses)} steps, all of them done")

    def _current(self) -> AbstractContextManager[object]:
        """Makes the engine's device the one that kernels are launched on."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _capture(self, capacity: int) -> "torch.cuda.CUDAGraph":
        """The step's launches as one graph; the state is left as it was."""
        from deconstruct.sae.engines.cuda import forward

        saved = {name: tensor.clone() for name, tensor in self._state.items()}
        blank = torch.zeros(self.spec.batch, self.spec.d_in, device=self.device)
        forward.begin(self._buffers, blank)
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compile, and let the libraries set up, outside the graph
            self._launcher.launch(capacity)
        torch.cuda.current_stream().wait_stream(stream)
        for name, tensor in self._state.items():
            tensor.copy_(saved[name])
        self._refresh()
        graph = torch.cuda.CUDAGraph()
        # Its own default is a stream of whichever device was captured on first. Other threads load
        # rows onto the card meanwhile (`activations.lane`), which is nothing to the capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            self._launcher.launch(capacity)
        return graph
