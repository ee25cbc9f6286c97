"""BatchTopK and JumpReLU training on a CPU beside SAELens (bf16 autocast), in one run.

    .venv/bin/python -m benchmarks.variants --activations HOME/activations/KEY

Each trains in a process of its own over the same rows in the same order (`benchmarks.train` has
how), ``--repeats`` times in turn; medians over steps are compared. BatchTopK keeps ``--k`` latents
a token on both sides. JumpReLU is steered to the same L0 on both: SAELens' step is made of dense
products and costs the same at any L0; ours costs what its active pairs cost, so that its whole run
is timed, from the first steps on, and besides those steps alone in which its L0 is within a tenth
of the wanted one.
Leaves ``benchmarks/results/variants.json``. Without ``--activations`` the data are synthetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.train import HERE, interpreter, machine, recorded, run, synthetic

RESULT = HERE / "results" / "variants.json"
ARCHITECTURES = ("batchtopk", "jumprelu")


def measure(job: dict[str, Any], steps: dict[str, int], repeats: int, scratch: Path) -> Any:
    """Milliseconds per step of both, in turn, and how many times longer SAELens takes."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, own in runs.items():
            own.append(run(name, job | {"steps": steps[name]}, scratch))
    rows: dict[str, Any] = {}
    for name, own in runs.items():
        rows[name] = {
            "ms_per_step": statistics.median(r["ms_median"] for r in own),
            "peak_rss_gb": max(r["peak_rss_gb"] for r in own),
            "raw_ms": [r["ms"] for r in own],
        }
    pairs = [
        (ms, l0)
        for r in runs["deconstruct"]
        for ms, l0 in zip(r["ms"], r["l0_of_steps"], strict=True)
    ]
    there = [ms for ms, l0 in pairs if abs(l0 - job["k"]) <= 0.1 * job["k"]]
    ours, theirs = rows["deconstruct"], rows["sae_lens_bf16"]
    ours["l0_of_steps"] = [r["l0_of_steps"] for r in runs["deconstruct"]]
    ours["ms_at_wanted_l0"] = statistics.median(there) if there else None
    ours["steps_at_wanted_l0"] = len(there)
    found = {"contenders": rows, "ratio": theirs["ms_per_step"] / ours["ms_per_step"]}
    if there:
        found["ratio_at_wanted_l0"] = theirs["ms_per_step"] / ours["ms_at_wanted_l0"]
    return found


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--activations", type=Path, help="folder of an activations artifact")
    parser.add_argument("--d-in", type=int, default=640, help="of synthetic data")
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32, help="and the L0 that JumpReLU is steered to")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60, help="of each of our trainings")
    parser.add_argument("--peer-steps", type=int, default=8, help="of each of SAELens' trainings")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    interpreter("sae_lens_bf16")
    data = recorded(options.activations) if options.activations else synthetic(options.d_in)
    job = {
        "d_sae": options.d_sae,
        "k": options.k,
        "batch": options.batch,
        "rate": None,
        "seed": 0,
        "judge": False,
        "threads": torch.get_num_threads(),
    }
    steps = {"deconstruct": options.steps, "sae_lens_bf16": options.peer_steps}
    report: dict[str, Any] = {
        "shape": f"B={options.batch} d_in={data['train'].shape[1]} d_sae={options.d_sae} "
        f"k={options.k}",
        "data": "recorded" if options.activations else "synthetic",
        "machine": machine(),
        "threads": job["threads"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        job["data"] = str(scratch / "data.safetensors")
        save_file({n: t.contiguous() for n, t in data.items()}, job["data"])
        del data
        for name in ARCHITECTURES:
            found = measure(job | {"architecture": name}, steps, options.repeats, scratch)
            report[name] = found
            ours, theirs = found["contenders"].values()
            print(
                f"{name:10s} deconstruct {ours['ms_per_step']:7.1f} ms  "
                f"SAELens {theirs['ms_per_step']:7.1f} ms  ratio {found['ratio']:.1f}",
                end="",
            )
            if "ratio_at_wanted_l0" in found:
                print(
                    f"; at an L0 of about {options.k} ({ours['steps_at_wanted_l0']} steps) "
                    f"{ours['ms_at_wanted_l0']:.1f} ms, ratio {found['ratio_at_wanted_l0']:.1f}",
                    end="",
                )
            print(flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
