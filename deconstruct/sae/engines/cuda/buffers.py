"""The tensors of one fused step: allocated once, at addresses that a CUDA graph can keep."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.cuda.options import GpuOptions, power_of_two, shapes_of
from deconstruct.sae.spec import StepSpec

BF16, INT32 = torch.bfloat16, torch.int32


@dataclass(frozen=True)
class Card:
    """What of a device decides how kernels are launched.

    sms: multiprocessors; capability: NVIDIA's compute capability.
    """

    sms: int = 1
    capability: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, device: torch.device) -> "Card":
        """The device's; a card of one multiprocessor for the CPU, where kernels are interpreted."""
        if device.type != "cuda":
            return cls()
        sms = torch.cuda.get_device_properties(device).multi_processor_count
        # AMD's numbers are other families'.
        return cls(sms, (0, 0) if torch.version.hip else torch.cuda.get_device_capability(device))

    @property
    def fuses(self) -> bool:
        """Whether the fused product runs: TMA, and shared memory for its stages (227 KB; the
        workstation and consumer cards of capability 12 have TMA too, but 99 KB)."""
        return self.capability[0] in (9, 10)


def per_batch(spec: StepSpec) -> bool:
    """Whether a batch's tokens share their latents: k on average."""
    return ARCHITECTURES[spec.architecture].selection is Selection.PER_BATCH


def columns_a_group(d_sae: int, k: int) -> int:
    """Near sqrt(d_sae / k) of them, both levels of the selection read as much."""
    return min(128, max(16, power_of_two(math.sqrt(d_sae / k))))


def multiplies_fused(d_in: int, d_sae: int, options: GpuOptions, card: Card) -> bool:
    """Whether a kernel of ours makes the encoder's product, by TMA. Raises ``ValueError`` where
    that is asked for and can't be had."""
    able = card.fuses and d_in % 8 == 0 and d_sae % 8 == 0  # rows that begin on 16 bytes
    if options.encoder == "fused" and not able:
        raise ValueError("encoder='fused' needs compute capability 9 or 10, d_in and d_sae % 8 = 0")
    return able and options.encoder != "cublas"


def new_state(
    spec: StepSpec, options: GpuOptions, steps: int, device: torch.device
) -> dict[str, Tensor]:
    """Everything that a checkpoint holds, zeros. W_enc is [d_sae, d_in]."""
    f = spec.d_sae
    half = torch.bfloat16 if options.moments == "bfloat16" else torch.float32
    state = {
        "step": torch.zeros(1, dtype=torch.int32, device=device),
        "losses": torch.zeros(steps, device=device),
        "since_fired": torch.zeros(f, dtype=torch.int64, device=device),
        "updates": torch.zeros(f, dtype=torch.int32, device=device),
    }
    for name, given in shapes_of(spec).items():
        shape = given[::-1] if name == "W_enc" else given
        state[name] = torch.zeros(shape, device=device)
        for moment in ("m", "v"):
            dtype = half if len(shape) == 2 else torch.float32
            state[f"{name}.{moment}"] = torch.zeros(shape, dtype=dtype, device=device)
    if per_batch(spec):  # as `deconstruct.sae.engines.control` names it
        state["control.threshold"] = torch.zeros(1, dtype=torch.float64, device=device)
    return state


class Buffers:
    """What a step reads and writes, beside its batch.

    state: the trained tensors by name, which belong to the engine; learning_rates: [steps]; card:
    None is the device's own. The rest is derived from the state or lives within a step; shapes and
    dtypes are explained where kernels take them.

    Raises ValueError where ``encoder="fused"`` can't be had.
    """

    def __init__(
        self,
        spec: StepSpec,
        options: GpuOptions,
        state: dict[str, Tensor],
        learning_rates: Tensor,
        device: torch.device,
        card: Card | None = None,
    ) -> None:
        d, f, k = spec.d_in, spec.d_sae, spec.k
        self.spec, self.options, self.state, self.device = spec, options, state, device
        card = card or Card.of(device)
        self.sms, self.per_batch = card.sms, per_batch(spec)
        self.group, self.fused = columns_a_group(f, k), multiplies_fused(d, f, options, card)
        self._make_activations()
        self._make_pairs()
        self._make_gradients()
        # the optimiser's schedule, and how far each latent moves in this step
        self.rates = learning_rates.detach().to(device, torch.float32)
        self.corrections = _corrections(len(learning_rates), spec.betas).to(device)
        self.pace = self._new(f + 1, 2)
        # AuxK: the dead latents
        self.aux_slot = self._new(f, dtype=INT32)  # a dead latent's place among them, or -1
        self.places = torch.arange(f + 1, dtype=INT32, device=device)

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _make_activations(self) -> None:
        """Room for the first half of a step: copies of weights, activations, firing pairs."""
        spec, new = self.spec, self._new
        b, d, f = spec.batch, spec.d_in, spec.d_sae
        # copies of the weights, written by the update, read by the next step
        self.enc, self.dec = new(f, d, dtype=BF16), new(f, d, dtype=BF16)
        self.bias_half = new(f, dtype=BF16)
        self.centered, self.pre = new(b, d, dtype=BF16), new(b, f, dtype=BF16)
        self.maxima = new(b, -(-f // self.group), dtype=torch.int16)
        # errors of the nested dictionaries, a latent's being the first whose end is beyond it: of
        # one that is not nested, one; the last is that of the whole
        ends = spec.prefixes or (f,)
        self.ends = torch.tensor(ends, dtype=INT32, device=self.device)
        sizes = torch.diff(torch.tensor((0, *ends)))
        self.nest = torch.arange(len(ends), dtype=INT32).repeat_interleave(sizes).to(self.device)
        self.scale = 2.0 / (b * len(ends))  # of gradients, which are sums over tokens and ends
        self.error, self.loss = new(len(ends), b, d, dtype=BF16), new(len(ends), b)
        self.size = new(b)

    def _make_pairs(self) -> None:
        """Room for the firing pairs: batch * k, as many as there can be; see `kernels.decode`."""
        spec, new, device = self.spec, self._new, self.device
        b, f, k = spec.batch, spec.d_sae, spec.k
        pairs = b * k
        # token after token
        self.token_ptr = torch.arange(0, pairs + 1, k, dtype=INT32, device=device)
        self.token = torch.arange(pairs, dtype=INT32, device=device).div_(k, rounding_mode="floor")
        self.index, self.value, self.slope = new(pairs, dtype=INT32), new(pairs), new(pairs)
        if self.per_batch:
            self.level, self.counts = new(1, dtype=INT32), new(b, 2, dtype=INT32)
            self.room = new(b, dtype=INT32)
        else:
            self.groups = new(b, k + 2, dtype=INT32)
        # latent after latent: `kernels.gradients`
        self.latents, self.order = new(pairs, dtype=INT32), new(pairs, dtype=torch.int64)
        self.row_ptr = new(f + 1, dtype=INT32)
        self.runs = {"token": new(pairs, dtype=INT32), "value": new(pairs), "slope": new(pairs)}

    def _make_gradients(self) -> None:
        """Room for the second half: sums over chunks of pairs, gradients that are small enough to
        be written, what clips."""
        spec, new = self.spec, self._new
        b, d, f = spec.batch, spec.d_in, spec.d_sae
        blocks = max(1, b * spec.k // self.options.tiling.chunk)
        self.partial = {name: new(blocks, d) for name in ("W_dec", "W_enc")}
        self.grad = {"b_enc": new(f), "b_dec": new(d)}
        self.span_error = max(8, power_of_two(b / 64))
        self.span_weight = max(16, power_of_two(f / 512))
        self.error_programs = -(-b // self.span_error)
        self.b_dec_partial = new(self.error_programs + -(-f // self.span_weight), d)
        # squares of the norm: its bound, by latent and of all; a sum for each program
        self.bound, self.norm_bound, self.squares = new(f), new(1), new(8 * self.sms)
        self.clip = torch.ones(1, device=self.device)

    def refresh_copies(self) -> None:
        """Renew the bf16 copies after the float32 weights were set from outside."""
        self.enc.copy_(self.state["W_enc"])
        self.dec.copy_(self.state["W_dec"])
        self.bias_half.copy_(self.state["b_enc"])

    def warps(self, narrow: int) -> int:
        """Warps of a program that holds rows of d_in entries, of which ``narrow`` hold 1024.

        Several for 1024 are half as many for each 1024 of wider rows, so that two programs fit a
        multiprocessor and no register spills.
        """
        wide = max(1, power_of_two(self.spec.d_in) // 1024)
        return narrow * wide if narrow == 1 or wide == 1 else narrow * wide // 2

    def room_for_dead(self, steps: int) -> int:
        """For how many latents AuxK needs room in the next ``steps`` steps. Waits.

        A power of two, so that there are few graphs, with at most twice the work; 0 where no latent
        can be dead so soon.
        """
        s = self.spec
        silent_for = s.dead_after - (steps - 1) * s.batch
        n = int((self.state["since_fired"] >= silent_for).sum()) if s.k_aux else 0
        return min(s.d_sae, power_of_two(max(n, 64))) if n else 0


def _corrections(steps: int, betas: tuple[float, float]) -> Tensor:
    """Adam's bias corrections, float32 [steps, 2]: ``1 / (1 - beta1^n)`` and
    ``(1 - beta2^n)^-1/2`` of the n-th update, from n = 1 on."""
    n = torch.arange(1, steps + 1, dtype=torch.float64)
    return torch.stack([1 / (1 - betas[0] ** n), (1 - betas[1] ** n).rsqrt()], dim=1).float()
