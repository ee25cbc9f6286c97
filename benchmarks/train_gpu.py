"""TopK training on one GPU: our fused step beside SAELens and sparsify, in one run.

    python benchmarks/train_gpu.py --out benchmarks/results/train_gpu.json

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
import gc
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.options import GpuOptions
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec

DEVICE = "cuda"
TRUE_LATENTS = 8192
ACTIVE = 40
DEAD_AFTER = 10_000_000  # tokens


class Contender(Protocol):
    def step(self, x: Tensor) -> None: ...

    def reconstruct(self, x: Tensor) -> Tensor: ...


class Ours:
    def __init__(
        self, d_in: int, d_sae: int, k: int, batch: int, steps: int, rate: float, moments: str
    ) -> None:
        spec = StepSpec("topk", batch, d_in, d_sae, k, 0.0, 1.0, d_in // 2, 1 / 32, DEAD_AFTER)
        rates = torch.full((steps,), rate)
        options = GpuOptions(moments="bfloat16" if moments == "bfloat16" else "float32")
        self.engine = FusedTopK(spec, initial_weights(spec, 0), rates, DEVICE, options)
        self.k = k
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


class SaeLens:
    def __init__(self, d_in: int, d_sae: int, k: int, batch: int, steps: int, rate: float) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(0)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, device=DEVICE))
        config = SAETrainerConfig(
            total_training_samples=batch * steps,
            train_batch_size_samples=batch,
            lr=rate,
            lr_end=rate,
            device=DEVICE,
            autocast=True,
            dead_feature_window=DEAD_AFTER // batch,
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
        sae.to(DEVICE)

    def step(self, x: Tensor) -> None:
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        found: Tensor = self.trainer.sae(x)
        return found


class Sparsify:
    """``sparsify.trainer.Trainer.fit``'s work between two batches, its language model left out."""

    def __init__(self, d_in: int, d_sae: int, k: int, rate: float, optimizer: str) -> None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.config import SparseCoderConfig
        from sparsify.sign_sgd import SignSGD
        from sparsify.sparse_coder import SparseCoder

        torch.manual_seed(0)
        self.sae = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), device=DEVICE)
        self.free = optimizer == "signum"
        if self.free:
            groups = [{"params": self.sae.parameters(), "lr": rate}]
            self.optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
            self.optimizer.train()
        else:
            self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=rate)
        self.fired = torch.zeros(d_sae, dtype=torch.bool, device=DEVICE)
        self.since_fired = torch.zeros(d_sae, dtype=torch.long, device=DEVICE)
        self.fvu = 0.0
        self.begun = False
        torch.set_float32_matmul_precision("high")  # as Trainer.fit does

    def step(self, x: Tensor) -> None:
        if not self.begun:
            self.sae.b_dec.data = x.mean(0).to(self.sae.dtype)
            self.begun = True
        self.sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.sae(x=x, y=x, dead_mask=None, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        self.fvu += float(out.fvu.detach())
        out.fvu.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.since_fired += len(x)
            self.since_fired[self.fired] = 0
            self.fired.zero_()

    def reconstruct(self, x: Tensor) -> Tensor:
        if self.free:
            self.optimizer.eval()
        found: Tensor = self.sae(x).sae_out
        if self.free:
            self.optimizer.train()
        return found


def activations(batches: int, batch: int, d_in: int, seed: int) -> list[Tensor]:
    """Synthetic batches, bf16 [batch, d_in], centred and scaled to E|x|^2 = 1."""
    sample = torch.cat(raw_activations(4, batch, d_in, seed=2))
    mean = sample.mean(0)
    scale = (sample - mean).square().sum(1).mean().sqrt()
    found = raw_activations(batches, batch, d_in, seed)
    return [((x - mean) / scale).bfloat16() for x in found]


def raw_activations(batches: int, batch: int, d_in: int, seed: int) -> list[Tensor]:
    """Sums of directions out of one true dictionary, with noise; float32 [batch, d_in]."""
    true = torch.Generator(DEVICE).manual_seed(1)
    directions = torch.randn(TRUE_LATENTS, d_in, generator=true, device=DEVICE)
    directions = torch.nn.functional.normalize(directions)
    share = 1 / (torch.arange(TRUE_LATENTS, device=DEVICE) + 10.0) ** 0.8
    share *= ACTIVE / share.sum()
    rng = torch.Generator(DEVICE).manual_seed(seed)
    found = []
    for _ in range(batches):
        fires = torch.rand(batch, TRUE_LATENTS, generator=rng, device=DEVICE) < share
        size = torch.randn(batch, TRUE_LATENTS, generator=rng, device=DEVICE).mul_(0.5).exp_()
        noise = 0.05 * torch.randn(batch, d_in, generator=rng, device=DEVICE)
        found.append((fires * size) @ directions + noise)
    return found


def seconds(work: Callable[[], object], times: int) -> float:
    """Device seconds of one call, as the mean of ``times`` in a row."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def ceilings(batch: int, d_in: int, d_sae: int) -> dict[str, float]:
    """Copy and product rates of this card now, and the encoder's product by the library alone."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2))
    x = torch.randn(batch, d_in, device=DEVICE).bfloat16()
    w = torch.randn(d_sae, d_in, device=DEVICE).bfloat16()
    out = torch.empty(batch, d_sae, device=DEVICE, dtype=torch.bfloat16)

    def rest() -> None:  # products in a row heat the card: leave the clock time to recover
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)

    for work in (lambda: target.copy_(source), lambda: a @ b, lambda: torch.mm(x, w.mT, out=out)):
        work()
    copies, squares, encodes = [], [], []
    for _ in range(7):
        rest()
        copies.append(seconds(lambda: target.copy_(source), 3))
        rest()
        squares.append(seconds(lambda: a @ b, 2))
        rest()
        encodes.append(seconds(lambda: torch.mm(x, w.mT, out=out), 3))
    return {
        "copy_gb_s": 2 * source.nbytes / statistics.median(copies) / 1e9,
        "product_tflop_s": 2 * 8192**3 / statistics.median(squares) / 1e12,
        "encode_ms": 1e3 * statistics.median(encodes),
    }


def fvu(contender: Contender, held_out: list[Tensor]) -> float:
    """Fraction of variance unexplained over all held-out tokens, in float64."""
    x = torch.cat(held_out).double()
    total = (x - x.mean(0)).square().sum()
    with torch.no_grad():
        left = sum(
            (contender.reconstruct(part.float()).double() - part.double()).square().sum()
            for batch in held_out
            for part in batch.split(1024)
        )
    return float(left / total)


def measure(
    makers: dict[str, Callable[[float], Contender]],
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
            gc.collect()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            try:
                contender = alive[name] = make(multiple)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                break
            for step in range(train_steps):
                contender.step(data[step % len(data)])
            peak = torch.cuda.max_memory_allocated() - before
            row = rows.setdefault(name, {"fvu": math.inf})
            found = row[f"fvu_at_{multiple:g}"] = fvu(contender, held_out)
            row["peak_gb"] = peak / 1e9
            if found < row["fvu"]:
                row |= {"fvu": found, "rate_multiple": multiple}
    times: dict[str, list[float]] = {name: [] for name in alive}
    for repeat in range(repeats):
        for name, contender in alive.items():
            feed = iter(range(repeat, 10**9))
            contender.step(data[0])
            torch.cuda.synchronize()
            ms = 1e3 * seconds(lambda c=contender, f=feed: c.step(data[next(f) % len(data)]), block)
            times[name].append(ms)
    batch = len(data[0])
    for name, took in times.items():
        ms = statistics.median(took)
        rows[name] |= {"ms": ms, "ms_min": min(took), "ms_max": max(took)}
        rows[name]["tokens_s"] = 1e3 * batch / ms
    return rows


def main() -> None:
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
    batch, d_in, k = args.batch, args.d_in, args.k
    data, held_out = activations(128, batch, d_in, 3), activations(8, batch, d_in, 4)
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "arguments": {n: str(v) for n, v in vars(args).items()},
    }
    for d_sae in args.d_sae:
        steps = args.train_steps + args.repeats * (args.block + 1) + 100
        root = math.sqrt(2**14 / d_sae)
        adam, signum = 2e-4 * root, 5e-3 * root  # Gao et al.'s rule; sparsify's default
        makers: dict[str, Callable[[float], Contender]] = {
            "deconstruct": lambda r, f=d_sae, n=steps, a=adam: Ours(
                d_in, f, k, batch, n, r * a, "float32"
            ),
            "deconstruct, bf16 moments": lambda r, f=d_sae, n=steps, a=adam: Ours(
                d_in, f, k, batch, n, r * a, "bfloat16"
            ),
            "sparsify, signum": lambda r, f=d_sae, a=signum: Sparsify(d_in, f, k, r * a, "signum"),
            "sparsify, adam": lambda r, f=d_sae, a=adam: Sparsify(d_in, f, k, r * a, "adam"),
            "sae_lens, bf16 autocast": lambda r, f=d_sae, n=steps, a=adam: SaeLens(
                d_in, f, k, batch, n, r * a
            ),
        }
        roof = ceilings(batch, d_in, d_sae)
        gc.collect()
        torch.cuda.empty_cache()
        rows = measure(
            makers, args.rates, data, held_out, args.train_steps, args.repeats, args.block
        )
        product = 2 * batch * d_in * d_sae / roof["product_tflop_s"] / 1e9
        traffic = 2 * d_in * d_sae * 26 / roof["copy_gb_s"] / 1e6
        roof |= {"product_ms": product, "optimiser_ms": traffic, "floor_ms": product + traffic}
        ours = rows["deconstruct"]["ms"]
        for row in rows.values():
            row["over_deconstruct"] = row["ms"] / ours
            row["share_of_roofline"] = roof["floor_ms"] / row["ms"]
        report[f"d_sae={d_sae}"] = {"roofline": roof, "engines": rows}
        print(f"\nB={batch} d_in={d_in} d_sae={d_sae} k={k} | " + " ".join(
            f"{n}={v:.4g}" for n, v in roof.items()
        ))  # fmt: skip
        print(f"{'engine':28s} {'ms/step':>9s} {'M tok/s':>8s} {'x':>6s} {'roof':>6s} "
              f"{'peak GB':>8s} {'FVU':>7s} {'rate':>5s}")  # fmt: skip
        for name, row in rows.items():
            print(f"{name:28s} {row['ms']:9.4f} {row['tokens_s'] / 1e6:8.3f} "
                  f"{row['over_deconstruct']:6.2f} {row['share_of_roofline']:6.3f} "
                  f"{row['peak_gb']:8.2f} {row['fvu']:7.4f} {row['rate_multiple']:5g}")  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
