"""What the fused GPU step can do, and how it is done where there is a choice."""

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import environ
from shutil import which
from typing import Literal

import torch

from deconstruct.sae.architectures.batchtopk import BatchTopK
from deconstruct.sae.architectures.matryoshka import Matryoshka
from deconstruct.sae.architectures.topk import TopK
from deconstruct.sae.spec import StepSpec

MAX_K = 512  # beyond, the second level of the selection no longer fits a program's registers
MAX_D_IN = 8192  # a program holds rows of that width
MAX_PAIRS = 2**31  # they are counted in 32 bits
TRAINED = (TopK.name, BatchTopK.name, Matryoshka.name)


COMPILERS = ("gcc", "clang")
NO_COMPILER = (
    "the fused GPU step needs a C compiler, by which Triton makes its launchers; install gcc, or "
    "name one in the variable CC"
)


def unavailable(device: torch.device | str = "cuda") -> str | None:
    """Why the fused step can't run on the device, as a sentence; None where it can."""
    if find_spec("triton") is None:
        return "the fused GPU step needs Triton, which is not installed"
    if not torch.cuda.is_available():
        if environ.get("TRITON_INTERPRET") == "1":
            return None
        return "no CUDA device; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the fused GPU step needs bf16 tensor cores: compute capability 8.0 or later"
    return None if has_compiler() else NO_COMPILER


def has_compiler() -> bool:
    """Whether Triton finds a C compiler: where it looks itself (``triton/runtime/build.py``)."""
    return "CC" in environ or any(which(name) for name in COMPILERS)


def unsuited(spec: StepSpec) -> str | None:
    """Why the fused step does not make this step, as a sentence; None where it does."""
    if spec.architecture not in TRAINED:
        return f"the fused GPU step trains {', '.join(TRAINED)}, not {spec.architecture}"
    if spec.transcoder:
        return "the fused GPU step trains autoencoders, no transcoders"
    if spec.frozen != "none":
        return f"the fused GPU step trains all weights, and sae.frozen is {spec.frozen!r}"
    most = MAX_K if spec.architecture == TopK.name else spec.d_sae
    if not 1 <= spec.k <= min(spec.d_sae, most):
        return f"the fused GPU step takes k in 1..{min(spec.d_sae, most)}, not {spec.k}"
    if spec.batch * spec.k >= MAX_PAIRS:
        return f"the fused GPU step takes fewer than {MAX_PAIRS} pairs of a batch, batch_size * k"
    if not 0 <= spec.k_aux <= spec.d_sae:
        return f"the fused GPU step takes aux_k in 0..d_sae = {spec.d_sae}, not {spec.k_aux}"
    if spec.d_in > MAX_D_IN:
        return f"the fused GPU step takes d_in up to {MAX_D_IN}, not {spec.d_in}"
    return None


@dataclass(frozen=True)
class Tiling:
    """Block shapes. They change the order of sums, so they are fixed, not tuned at run time."""

    encode_block: tuple[int, int, int] = (128, 256, 64)  # tokens, latents, d_in
    encode_stages: int = 4
    encode_warps: int = 8
    encode_band: int = 32  # tile rows walked down before the next tile column
    encode_programs: int = 1  # a multiprocessor
    select_keys: int = 1024  # a warp
    decode_rows: int = 4
    decode_warps: int = 1
    row_warps: int = 4
    row_unroll: int = 2
    chunk: int = 32


@dataclass(frozen=True)
class GpuOptions:
    """How the fused step is done, where there is a choice."""

    refresh_every: int = 64  # steps between two looks at how many latents may be dead, at most
    # bfloat16: 18 bytes per parameter in place of 26, rounded stochastically.
    moments: Literal["float32", "bfloat16"] = "float32"
    # fused: a Triton product that makes the selection's maxima on its way out (Hopper's TMA).
    # cublas: the library's, then a pass for the maxima. auto: fused where it can be.
    encoder: Literal["auto", "fused", "cublas"] = "auto"
    tiling: Tiling = field(default_factory=Tiling)


def shapes_of(spec: StepSpec) -> dict[str, tuple[int, ...]]:
    """Of the weights that the engine takes and gives."""
    d, f = spec.d_in, spec.d_sae
    return {"W_enc": (d, f), "b_enc": (f,), "W_dec": (f, d), "b_dec": (d,)}


def power_of_two(n: float) -> int:
    """The smallest power of two that is n or more, at least 1."""
    return 1 << max(0, math.ceil(math.log2(n)))
