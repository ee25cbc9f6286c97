"""TopK training on one GPU: our fused step beside SAELens and sparsify, in one run.

    python -m benchmarks.train_gpu --out benchmarks/results/train_gpu.json

Each engine trains on the same synthetic activations: sums of few directions out of a true
dictionary, whose frequencies fall off as a power law, plus noise. Steps are timed by device events
in blocks, engines in turn, and medians reported, so that a drift of the clocks hits all alike. The
two ceilings, copying and bf16 products, are read in the same run. Peers run their own step code:

- SAELens (`sae-lens`): ``SAETrainer.step``, bf16 autocast, its defaults.
- sparsify (`eai-sparsify`): ``SparseCoder`` with its Triton decoder, and the calls that its
  ``Trainer.fit`` makes between two batches, for its default optimiser and for Adam.

Learning rates are constant: multiples (``--rates``) of Gao et al.'s 2e-4 * sqrt(2^14 / d_sae) for
all that use Adam, of sparsify's default for its signum. Each engine's best FVU is shown, and the
multiple it was reached at; every one is in the JSON.

A peer that is not installed is left out, and said to be. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.clock import block_ms, ceilings, fresh_memory, median_ms, peak_gb, wait
from benchmarks.gpu.peers import Contender, SaeLens, Sparsify
from benchmarks.gpu.sizes import Sizes, floor_ms, topk_spec
from benchmarks.planted import Planted
from deconstruct.sae.engines.cuda.options import GpuOptions
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.initial import initial_weights

DEVICE = "cuda"
TRUE_LATENTS = 8192
ACTIVE = 40

Makers = dict[str, Callable[[float], Contender]]
"""Name -> makes a contender whose learning rate is so many times the usual one."""


class Ours:
    """The fused step; AuxK takes half as many latents as the width, as Gao et al. have it."""

    def __init__(self, sizes: Sizes, steps: int, rate: float, options: GpuOptions) -> None:
        spec = topk_spec(sizes, k_aux=sizes.d_in // 2)
        rates = torch.full((steps,), rate)
        self.engine = FusedTopK(spec, initial_weights(spec, 0), rates, DEVICE, options)
        self.k = sizes.k
        self.weights: dict[str, Tensor] = {}

    def step(self, x: Tensor) -> None:
        self.engine.step(x)
        self.weights = {}

    def reconstruct(self, x: Tensor) -> Tensor:
        w = self.weights = self.weights or {
            name: tensor.to(DEVICE) for name, tensor in self.engine.weights().items()
        }
        pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        top = pre.topk(self.k, dim=1)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values) @ w["W_dec"] + w["b_dec"]


def activations(batches: int, batch: int, d_in: int, seed: int) -> list[Tensor]:
    """Synthetic batches, bf16 [batch, d_in], centred and scaled to E|x|^2 = 1."""
    sample = torch.cat(raw_activations(4, batch, d_in, seed=2))
    mean = sample.mean(0)
    scale = (sample - mean).square().sum(1).mean().sqrt()
    found = raw_activations(batches, batch, d_in, seed)
    return [((x - mean) / scale).bfloat16() for x in found]


def raw_activations(batches: int, batch: int, d_in: int, seed: int) -> list[Tensor]:
    """Sums of directions out of one true dictionary, with noise; float32 [batch, d_in]."""
    true = Planted(TRUE_LATENTS, d_in, ACTIVE, torch.Generator(DEVICE).manual_seed(1))
    draw = torch.Generator(DEVICE).manual_seed(seed)

    def noise() -> Tensor:
        return 0.05 * torch.randn(batch, d_in, generator=draw, device=DEVICE)

    return [true.rows(batch, draw) + noise() for _ in range(batches)]


def roofline(sizes: Sizes) -> dict[str, float]:
    """The card's ceilings now, a step's floor at them, and the encoder's product alone."""
    found = ceilings(DEVICE)
    x = torch.randn(sizes.batch, sizes.d_in, device=DEVICE).bfloat16()
    w = torch.randn(sizes.d_sae, sizes.d_in, device=DEVICE).bfloat16()
    out = torch.empty(sizes.batch, sizes.d_sae, device=DEVICE, dtype=torch.bfloat16)
    found["encode_ms"] = median_ms(lambda: torch.mm(x, w.mT, out=out), 3, DEVICE)
    floor = floor_ms(sizes, found)
    return found | floor | {"floor_ms": sum(floor.values())}


def fvu(contender: Contender, held_out: list[Tensor]) -> float:
    """Fraction of variance unexplained over all held-out tokens, in float64."""
    x = torch.cat(held_out).double()
    total = (x - x.mean(0)).square().sum()
    with torch.no_grad():
        left = sum(
            (contender.reconstruct(part.float()).double() - part.double()).square().sum()
            for batch in held_out
            for part in torch.split(batch, 1024)
        )
    return float(left / total)


def measure(
    makers: Makers,
    multiples: list[float],
    data: list[Tensor],
    held_out: list[Tensor],
    train_steps: int,
    repeats: int,
    block: int,
) -> dict[str, dict[str, float]]:
    """Train every contender on the same tokens at every rate, then time all of them in turn."""
    rows: dict[str, dict[str, float]] = {}
    alive: dict[str, Contender] = {}
    for name, make in makers.items():
        for multiple in multiples:
            alive.pop(name, None)
            before = fresh_memory(DEVICE)
            try:
                contender = alive[name] = make(multiple)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                break
            for step in range(train_steps):
                contender.step(data[step % len(data)])
            peak = peak_gb(before, DEVICE) or 0.0
            row = rows.setdefault(name, {"fvu": math.inf})
            found = row[f"fvu_at_{multiple:g}"] = fvu(contender, held_out)
            row["peak_gb"] = peak
            if found < row["fvu"]:
                row |= {"fvu": found, "rate_multiple": multiple}
    times: dict[str, list[float]] = {name: [] for name in alive}
    for repeat in range(repeats):
        for name, contender in alive.items():
            contender.step(data[0])
            wait(DEVICE)
            times[name].append(block_ms(contender.step, data, repeat, block, DEVICE))
    batch = len(data[0])
    for name, took in times.items():
        ms = statistics.median(took)
        rows[name] |= {"ms": ms, "ms_min": min(took), "ms_max": max(took)}
        rows[name]["tokens_s"] = 1e3 * batch / ms
    return rows


def makers_of(sizes: Sizes, steps: int) -> Makers:
    """Ours and the peers, for so many steps."""
    adam, signum = sizes.adam_rate, sizes.signum_rate
    half = GpuOptions(moments="bfloat16")
    return {
        "deconstruct": lambda r: Ours(sizes, steps, r * adam, GpuOptions()),
        "deconstruct, bf16 moments": lambda r: Ours(sizes, steps, r * adam, half),
        "sparsify, signum": lambda r: Sparsify(sizes, r * signum, "signum"),
        "sparsify, adam": lambda r: Sparsify(sizes, r * adam, "adam"),
        "sae_lens, bf16 autocast": lambda r: SaeLens(sizes, steps, r * adam),
    }


def show(sizes: Sizes, roof: dict[str, float], rows: dict[str, dict[str, float]]) -> None:
    """Print the ceilings and a line per contender."""
    batch, d_in, d_sae, k = sizes
    ceilings_now = " ".join(f"{n}={v:.4g}" for n, v in roof.items())
    print(f"\nB={batch} d_in={d_in} d_sae={d_sae} k={k} | {ceilings_now}")
    print(f"{'engine':28s} {'ms/step':>9s} {'M tok/s':>8s} {'x':>6s} {'roof':>6s} "
          f"{'peak GB':>8s} {'FVU':>7s} {'rate':>5s}")  # fmt: skip
    for name, row in rows.items():
        print(f"{name:28s} {row['ms']:9.4f} {row['tokens_s'] / 1e6:8.3f} "
              f"{row['over_deconstruct']:6.2f} {row['share_of_roofline']:6.3f} "
              f"{row['peak_gb']:8.2f} {row['fvu']:7.4f} {row['rate_multiple']:5g}")  # fmt: skip


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train_gpu.json"))
    parser.add_argument("--d-sae", type=int, nargs="+", default=[24576, 131072])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--train-steps", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--block", type=int, default=20)
    args = parser.parse_args()
    data = activations(128, args.batch, args.d_in, 3)
    held_out = activations(8, args.batch, args.d_in, 4)
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "arguments": {n: str(v) for n, v in vars(args).items()},
    }
    for d_sae in args.d_sae:
        sizes = Sizes(args.batch, args.d_in, d_sae, args.k)
        steps = args.train_steps + args.repeats * (args.block + 1) + 100
        roof = roofline(sizes)
        rows = measure(
            makers_of(sizes, steps), args.rates, data, held_out,
            args.train_steps, args.repeats, args.block,
        )  # fmt: skip
        ours = rows["deconstruct"]["ms"]
        for row in rows.values():
            row["over_deconstruct"] = row["ms"] / ours
            row["share_of_roofline"] = roof["floor_ms"] / row["ms"]
        report[f"d_sae={d_sae}"] = {"roofline": roof, "engines": rows}
        show(sizes, roof, rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
