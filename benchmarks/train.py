"""TopK training on a CPU: our loop beside SAELens (bf16 autocast) and sparsify, in one run.

    .venv/bin/python -m benchmarks.train --activations HOME/activations/KEY --what time
    .venv/bin/python -m benchmarks.train --activations HOME/activations/KEY --what quality

``time``: every contender trains ``--steps`` steps in a process of its own, one after another,
``--repeats`` times round, so that a drift of the clock hits all alike; medians are compared, and
the encoder's bare product is timed between them. ``quality``: each trains on ``--tokens`` tokens,
from ``--seeds`` that decide initial weights and the order of the rows, and is judged on the
held-out rows, at ``--rates``: its own default, or multiples of 2e-4 * sqrt(2^14 / d_sae)
(sparsify's signum: of 5e-3 * the same). ``--isa`` caps what torch
multiplies with: AVX512_CORE_BF16 leaves AMX out, for a machine that has none. Results are merged
into ``benchmarks/results/train.json`` under the shape's name; the ratios of the slowest shape stand
at the top of that file. ``make bench-train`` times both shapes that benchmarks/README.md shows.

Peers live in ``benchmarks/.envs/sae-lens`` and ``benchmarks/.envs/sparsify``; a missing one is
made by pip on first use, torch first. Without ``--activations`` the data are synthetic: sums of
directions out of a planted dictionary.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.planted import Planted
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, Manifest
from deconstruct.common.hardware import pick_dtype

HERE = Path(__file__).parent
RESULT = HERE / "results" / "train.json"
ENVIRONMENTS = {"sae-lens": "sae-lens==6.54.12", "sparsify": "eai-sparsify==1.3.3"}
PEERS = {"sae_lens_bf16": "sae-lens", "sparsify": "sparsify", "sparsify_adam": "sparsify"}
HELD_OUT_ROWS = 20_480
METRICS = ("fvu", "l0", "silent_share", "dead_share")


def interpreter(contender: str) -> Path:
    """The Python that runs this contender; makes a peer's environment if there is none."""
    if contender not in PEERS:
        return Path(sys.executable)
    name = PEERS[contender]
    python = HERE / ".envs" / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", HERE / ".envs" / name], check=True)
        for package in ("torch==2.13.0", ENVIRONMENTS[name]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return python


def recorded(folder: Path) -> dict[str, Tensor]:
    """Training rows of an activations artifact, shuffled, and held-out rows; float32."""
    artifact = Artifact(
        folder, Manifest.model_validate_json((folder / "manifest.json").read_text())
    )

    def rows(split: str) -> Tensor:
        return torch.cat([b.activation for b in ActivationReader(artifact, split).rows_in_order()])

    shuffle = torch.Generator().manual_seed(0)
    train, test = rows("train"), rows("test")
    train = train[torch.randperm(len(train), generator=shuffle)]
    test = test[torch.randperm(len(test), generator=shuffle)[:HELD_OUT_ROWS]]
    return {"train": train, "held_out": test}


def synthetic(d_in: int, rows: int = 131_072, directions: int = 4096) -> dict[str, Tensor]:
    """Sums of planted directions whose frequencies fall off as a power law, off centre."""
    draw = torch.Generator().manual_seed(0)
    planted = Planted(directions, d_in, 30, draw)
    centre = torch.randn(d_in, generator=draw)
    found = torch.empty(rows + HELD_OUT_ROWS, d_in)
    for block in found.split(4096):
        sums = planted.rows(len(block), draw)
        noise = 0.05 * torch.randn(block.shape, generator=draw)
        block.copy_(sums + centre + noise)
    return {"train": found[:rows], "held_out": found[rows:].clone()}


def gemm_ms(batch: int, d_in: int, d_sae: int, repeats: int = 15) -> float:
    """Median time of the encoder's bare product, in the type that training multiplies in."""
    dtype = pick_dtype()
    x, w = torch.randn(batch, d_in).to(dtype), torch.randn(d_sae, d_in).to(dtype)
    out = torch.empty(batch, d_sae, dtype=dtype)
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        torch.mm(x, w.T, out=out)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[2:])


def run(contender: str, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Train once in a process of its own, and return what it measured."""
    job = job | {"contender": contender, "out": str(scratch / "out.json")}
    (scratch / "job.json").write_text(json.dumps(job))
    command = [interpreter(contender), HERE / "train_contenders.py", scratch / "job.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((scratch / "out.json").read_text())
    return found


def measure_time(
    contenders: list[str], job: dict[str, Any], d_in: int, repeats: int, scratch: Path
) -> dict[str, Any]:
    """Milliseconds per step of every contender, in turn, beside the bare product."""
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    gemm = []
    for _ in range(repeats):
        for name in contenders:
            gemm.append(gemm_ms(job["batch"], d_in, job["d_sae"]))
            took[name].append(run(name, job, scratch))
    gemm.append(gemm_ms(job["batch"], d_in, job["d_sae"]))
    rows = {}
    for name, results in took.items():
        ms = statistics.median(r["ms_median"] for r in results)
        rows[name] = {
            "ms_per_step": ms,
            "tokens_per_second": 1e3 * job["batch"] / ms,
            "peak_rss_gb": max(r["peak_rss_gb"] for r in results),
            "raw_ms": [r["ms"] for r in results],
        }
    ours = rows.get("deconstruct", {}).get("ms_per_step", math.nan)
    report: dict[str, Any] = {"gemm_ms": statistics.median(gemm), "raw_gemm_ms": gemm}
    report |= {"contenders": rows, "step_over_gemm": ours / statistics.median(gemm)}
    for name in PEERS:
        if name in rows:
            report[f"over_{name}"] = rows[name]["ms_per_step"] / ours
    print(f"{'encoder product alone':24s} {report['gemm_ms']:9.1f} ms")
    for name, row in rows.items():
        print(
            f"{name:24s} {row['ms_per_step']:9.1f} ms {row['tokens_per_second']:9.0f} tokens/s "
            f"{row['ms_per_step'] / ours:6.2f}x {row['peak_rss_gb']:6.2f} GB"
        )
    print(f"step over product {report['step_over_gemm']:.2f}")
    return report


def measure_quality(
    contenders: list[str],
    job: dict[str, Any],
    multiples: list[float | None],
    seeds: list[int],
    scratch: Path,
) -> dict[str, Any]:
    """Held-out FVU, silent and dead latents of every contender at multiples of a usual rate, or
    (None) at its default."""
    root = math.sqrt(2**14 / job["d_sae"])
    rows: dict[str, Any] = {}
    for name in contenders:
        base = root * (5e-3 if name == "sparsify" else 2e-4)
        for rate in [None if m is None else base * m for m in multiples]:
            label = "default" if rate is None else f"{rate:.2e}"
            runs = [run(name, job | {"rate": rate, "seed": seed}, scratch) for seed in seeds]
            mean = {"runs": [{n: found[n] for n in METRICS} for found in runs]}
            for metric in METRICS:
                values = [found[metric] for found in runs]
                mean[metric] = statistics.mean(values)
                mean[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else math.nan
            rows.setdefault(name, {})[label] = mean
            print(
                f"{name:13s} {job['architecture']:10s} rate {label:9s} "
                f"FVU {mean['fvu']:.4f} +- {mean['fvu_std']:.4f}  "
                f"L0 {mean['l0']:5.1f}  silent {mean['silent_share']:.3f} "
                f"+- {mean['silent_share_std']:.3f}  dead {mean['dead_share']:.3f} "
                f"+- {mean['dead_share_std']:.3f}",
                flush=True,
            )
    return rows


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--activations", type=Path, help="folder of an activations artifact")
    parser.add_argument("--what", choices=["time", "quality"], default="time")
    parser.add_argument("--d-in", type=int, default=640, help="of synthetic data")
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12, help="of each timed training")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each judged training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rates", type=multiple, nargs="+", default=[None, 1.0, 3.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of judged trainings")
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=["topk"],
        help="of judged trainings of ours; those whose L0 varies are steered to k",
    )
    parser.add_argument("--isa", help="oneDNN's ONEDNN_MAX_CPU_ISA")
    parser.add_argument(
        "--contenders", nargs="+", default=["deconstruct", "sae_lens_bf16", "sparsify"]
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="file to merge into")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and merge into the result file."""
    options = arguments()
    if options.isa:  # read at the first product, here and in the contenders' processes
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.isa
    for name in options.contenders:
        interpreter(name)
    data = recorded(options.activations) if options.activations else synthetic(options.d_in)
    d_in = data["train"].shape[1]
    judged = options.what == "quality"
    job = {
        "d_sae": options.d_sae,
        "k": options.k,
        "batch": options.batch,
        "steps": round(options.tokens / options.batch) if judged else options.steps,
        "rate": None,
        "seed": 0,
        "judge": judged,
        "threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        job["data"] = str(scratch / "data.safetensors")
        save_file({n: t.contiguous() for n, t in data.items()}, job["data"])
        del data
        if judged:
            found = {}
            for name in options.architectures:
                end = "" if name == "topk" else f" {name}"
                how = (options.rates, options.seeds, scratch)
                rows = measure_quality(options.contenders, job | {"architecture": name}, *how)
                found |= {contender + end: row for contender, row in rows.items()}
        else:
            found = measure_time(options.contenders, job, d_in, options.repeats, scratch)
    report = json.loads(options.result.read_text()) if options.result.exists() else {}
    shape = f"B={options.batch} d_in={d_in} d_sae={options.d_sae} k={options.k}"
    if options.isa:
        shape += f" isa={options.isa}"
    place = report.setdefault("shapes", {}).setdefault(shape, {})
    if judged:  # contenders and rates may be measured one call at a time
        place = place.setdefault(f"quality of {job['steps']} steps", {})
        found = {name: place.get(name, {}) | rows for name, rows in found.items()}
    else:
        place = place.setdefault("time", {})
    place |= found | {
        "data": "recorded" if options.activations else "synthetic",
        "machine": machine(),
        "threads": job["threads"],
        "steps": job["steps"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    options.result.parent.mkdir(exist_ok=True)
    options.result.write_text(json.dumps(report | worst(report), indent=1) + "\n")


def multiple(text: str) -> float | None:
    """``default``, or a number."""
    return None if text == "default" else float(text)


def machine() -> dict[str, Any]:
    """What decides a CPU's speed at this, as Linux tells it."""
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = {w for line in cpuinfo.read_text().splitlines()[:30] for w in line.split()}
    fast = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    return {"processor": platform.machine(), "cores": os.cpu_count(), "features": fast}


def worst(report: dict[str, Any]) -> dict[str, float]:
    """The ratios of the shape that shows them worst, on all that the machine multiplies with."""
    timed = [r["time"] for s, r in report["shapes"].items() if "time" in r and "isa=" not in s]
    found = {}
    for name, of in (("over_sae_lens_bf16", min), ("over_sparsify", min), ("step_over_gemm", max)):
        values = [row[name] for row in timed if name in row]
        if values:
            found[name] = of(values)
    return found


if __name__ == "__main__":
    main()
