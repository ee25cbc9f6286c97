"""Every kernel of the fused GPU step, compiled for cards that are not here, and what each takes.

    python -m benchmarks.compile_gpu --card h100 --d-in 768 --d-sae 24576 --k 32

The step's own launches are made over tensors without storage, on a card that exists on paper:
Triton specialises, compiles and assembles (ptxas) as it would there, checks shared memory and
threads against the card's limits, and is then told that the kernel ran. It shows that kernels
compile and fit, and what spills; it does not show that they are right, or fast. Prints a line a
kernel: shared memory and spilled bytes per thread, registers per thread, warps, grid. Needs Triton
(Linux, x86-64), no GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.gpu.sizes import Sizes, topk_spec
from deconstruct.sae.engines.cuda import forward
from deconstruct.sae.engines.cuda.buffers import Buffers, Card, new_state
from deconstruct.sae.engines.cuda.options import TRAINED, GpuOptions
from deconstruct.sae.engines.cuda.step import Launcher
from deconstruct.sae.spec import StepSpec

CARDS = {
    "a100": (Card(108, (8, 0)), 163),
    "l4": (Card(58, (8, 9)), 99),
    "h100": (Card(132, (9, 0)), 227),
    "b200": (Card(148, (10, 0)), 227),
    "rtx5090": (Card(170, (12, 0)), 99),
}
"""Multiprocessors and capability; KiB of shared memory that a program can have there (CUDA C++
Programming Guide, technical specifications per compute capability)."""
LARGEST_GRID = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class Launch:
    """One launch: bytes of shared memory a program, of spills per thread; registers per thread."""

    kernel: str
    grid: tuple[int, int, int]
    warps: int
    shared: int
    registers: int
    spilled: int


class PaperCard:
    """Triton's driver for a card that is not there: compiles for it, and runs nothing."""

    def __init__(self, name: str) -> None:
        self.card, self._kib = CARDS[name]
        self.launches: list[Launch] = []
        self.utils = self  # where Triton looks for the two methods below

    def get_current_target(self) -> GPUTarget:
        major, minor = self.card.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self._kib * 1024}

    def load_binary(
        self, name: str, cubin: bytes, shared: int, device: int
    ) -> tuple[str, tuple[int, int], int, int, int]:
        """(module, function, registers, spilled bytes, threads a program can have)."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            tool = triton.knobs.nvidia.cuobjdump.path
            said = subprocess.run(
                [tool, "--dump-resource-usage", file.name],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        used = {n: int(v) for n, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
        registers, spilled = used["REG"], used["STACK"] + used["LOCAL"]
        return name, (registers, spilled), registers, spilled, min(1024, 65536 // registers)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """What Triton calls to launch a kernel: keeps a record of it."""

        def launch(x: int, y: int, z: int, stream: int, function: tuple[int, int], *_: Any) -> None:
            grid = (x, y, z)
            if not all(0 < n <= most for n, most in zip(grid, LARGEST_GRID, strict=True)):
                raise ValueError(f"{metadata.name} has a grid that no card takes: {grid}")
            self.launches.append(
                Launch(metadata.name, grid, metadata.num_warps, metadata.shared, *function)
            )

        return launch


def compile_step(name: str, spec: StepSpec, options: GpuOptions, capacity: int) -> list[Launch]:
    """All launches of a step on the card; capacity: room for dead latents, 0 for no AuxK.

    Raises what Triton raises where a kernel does not compile, or does not fit.
    """
    paper = PaperCard(name)
    driver.set_active(paper)
    nowhere = torch.device("meta")
    state = new_state(spec, options, 8, nowhere)
    buffers = Buffers(spec, options, state, torch.zeros(8), nowhere, paper.card)
    forward.begin(buffers, torch.zeros(spec.batch, spec.d_in, device=nowhere))
    Launcher(buffers).launch(capacity)
    return paper.launches


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--card", choices=CARDS, default="h100")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=24576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--dead", type=int, default=1024, help="room for dead latents; 0: no AuxK")
    parser.add_argument("--architecture", choices=TRAINED, default="topk")
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--optimizer", choices=("sparse_adam", "adam"), default="sparse_adam")
    parser.add_argument("--moments", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    capacity = min(args.dead, args.d_sae)
    sizes = Sizes(args.batch, args.d_in, args.d_sae, args.k)
    spec = topk_spec(sizes, args.clip_norm, max(1, capacity // 2))
    nested = tuple(args.d_sae >> n for n in (4, 3, 2, 1, 0))
    ends = nested if args.architecture == "matryoshka" else ()
    spec = replace(spec, optimizer=args.optimizer, architecture=args.architecture, prefixes=ends)
    launches = compile_step(args.card, spec, GpuOptions(moments=args.moments), capacity)
    if args.json:
        print(json.dumps([asdict(launch) for launch in launches]))
        return
    print(f"{'kernel':30s} {'shared':>7s} {'spilled':>7s} {'regs':>4s} {'warps':>5s} grid")
    for one in launches:
        print(f"{one.kernel:30s} {one.shared:7d} {one.spilled:7d} {one.registers:4d} "
              f"{one.warps:5d} {' x '.join(str(n) for n in one.grid if n > 1) or 1}")  # fmt: skip


if __name__ == "__main__":
    main()
