"""A verdict on the GPU path, in one command and within its budget of time.

    python -m benchmarks.gpu_check --out OUT --budget 470

Each part runs in a process of its own with a limit of its own, so that a crash, a hang or a sticky
CUDA error costs one part; what is found is written after every part, and a summary is printed last.

    versions   what is here; the card's two ceilings
    tests      tests/sae/cuda on the device (hypothesis capped), beside `kernels`
    kernels    every kernel of the fused step at real shapes against float64, each buffer poisoned
               before the step; graph against plain launches, and repeats, byte for byte
    speed      fused step (float32 and bf16 moments, fused and cuBLAS product), the dense engine,
               plain torch eager and compiled, sparsify, SAELens: ms, tokens/s, memory, share of
               the roofline; kernel by kernel; the feed from host memory; loss after equal steps
    pipeline   corpus -> activations -> SAE -> latents -> evaluation -> probe on the device, against
               the CPU; how well extraction uses the device; encoding by both of its ways
    sanitize   compute-sanitizer memcheck and racecheck over a small step, if time is left

Leaves in OUT: report.json (all figures), report.txt (the summary), profile.txt (kernel by kernel),
tests.txt, logs.txt. A part is done, skipped (its reason says what is missing), failed or out of
time. The exit status is 1 where something is wrong: a part failed, a kernel is off, a test fails.

``--smoke`` runs it all on a CPU, in Triton's interpreter, at tiny sizes, all parts side by side: it
shows that the check runs, and that kernels are right there; its times mean nothing. Nothing here
needs Prefect or DuckDB.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.gpu_check.plan import NAMES, rounds_of
from benchmarks.gpu_check.running.driver import Budget, drive
from benchmarks.gpu_check.summary import faults, summary

HERE = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
SMOKE = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",  # parts run side by side, over a handful of numbers
    "SPARSIFY_DISABLE_TRITON": "1",
    "TRITON_INTERPRET": "1",
}


def main() -> int:
    """Run the parts that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--repo", type=Path, default=HERE, help="the checkout to check, by its own copy of this"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--budget", type=float, default=470, help="seconds for all parts")
    parser.add_argument("--smoke", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--parts", nargs="+", choices=NAMES, default=list(NAMES))
    args = parser.parse_args()
    budget, out = Budget(args.budget), args.out.absolute()
    if not (args.repo / "benchmarks" / "gpu_check").is_dir():
        parser.error(f"--repo {args.repo}: there is no benchmarks/gpu_check in it")
    os.environ.update(ENVIRONMENT | (SMOKE if args.smoke else {}))
    os.chdir(args.repo)  # parts run there
    report = drive(rounds_of(args.parts, args.smoke), out, budget, args.smoke)
    text = summary(report)
    (out / "report.txt").write_text(text + "\n")
    print(text)
    return 1 if faults(report) else 0


if __name__ == "__main__":
    sys.exit(main())
