"""One contender of `benchmarks.train`: trains in a process and an environment of its own.

    PYTHON benchmarks/train_contenders.py JOB.json

JOB: ``contender``, ``data`` (safetensors: ``train`` and ``held_out``, float32 [rows, d_in]),
``out``, ``d_sae``, ``k``, ``batch``, ``steps``, ``rate`` (none: the contender's own default),
``seed`` and ``judge`` (whether to measure the result on ``held_out``); ``architecture`` (none:
topk), of deconstruct and SAELens, whose L0, where it varies, is steered to ``k``. Every contender
reads the same rows in the same order and trains by its own trainer:
`sae_lens.training.sae_trainer.SAETrainer.fit`,
`sparsify.Trainer.fit`, `deconstruct.sae.training.loop.train`. A step's time runs from one request
for a batch to the next, so that it holds all that a trainer does between two batches.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Encoded = tuple[Tensor, Tensor]
"""Reconstructions [n, d_in], and which latents fire: bool [n, d_sae]."""
Judge = Callable[[Tensor], Encoded]


class Feed:
    """Batches of the training rows, shuffled once and round again; notes when one is asked for."""

    def __init__(self, rows: Tensor, batch: int, seed: int) -> None:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        self.rows, self.batch = rows[order], batch
        self.asked: list[float] = []
        self.l0: dict[int, float] = {}
        """Of steps, where a contender says it."""

    def at(self, step: int) -> Tensor:
        self.asked.append(time.perf_counter())
        first = step * self.batch % len(self.rows)
        if first + self.batch <= len(self.rows):
            return self.rows[first : first + self.batch]
        return self.rows[self.places(step)]

    def places(self, step: int) -> Tensor:
        """Row numbers of a step's batch."""
        first = step * self.batch
        return torch.arange(first, first + self.batch) % len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        step = 0
        while True:
            yield self.at(step)
            step += 1

    def milliseconds(self) -> list[float]:
        """Of each step but the first two, which warm up, and the last, whose end is not seen."""
        return [1e3 * (b - a) for a, b in zip(self.asked[2:-1], self.asked[3:], strict=True)]


def deconstruct(job: dict[str, Any], feed: Feed, optimizer: str = "sparse_adam") -> Judge:
    """Our training loop, checkpoints and log included."""
    from deconstruct.activations.shards import Moments
    from deconstruct.config import SaeConfig
    from deconstruct.sae.training.loop import train

    rows = feed.rows
    sample = rows[:: max(1, len(rows) // 50_000)].double()
    moments = Moments(len(rows), sample.mean(0).numpy(), sample.var(0).numpy())
    config = SaeConfig(
        architecture=job.get("architecture", "topk"),
        d_sae=job["d_sae"],
        k=job["k"],
        batch_size=job["batch"],
        tokens=job["batch"] * job["steps"],
        learning_rate=job["rate"],
        optimizer=optimizer,
        seed=job["seed"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        sae, log = train(feed, moments, config, Path(scratch), device="cpu")
    feed.l0 = {row.step - 1: row.l0 for row in log}

    def judge(x: Tensor) -> Encoded:
        active = sae.encode(x)
        return sae.decode(active), active > 0

    return judge


def sae_lens(job: dict[str, Any], feed: Feed, autocast: bool = True) -> Judge:
    """SAELens' trainer; inputs scaled by its own estimate, as its documentation advises."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes import batchtopk_sae, jumprelu_sae, topk_sae
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(job["seed"])
    sizes = {"d_in": feed.rows.shape[1], "d_sae": job["d_sae"]}
    sizes |= {"normalize_activations": "expected_average_only_in"}
    architecture = job.get("architecture", "topk")
    if architecture == "jumprelu":  # as for Gemma Scope 2: a penalty about a wanted L0
        steered = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": job["k"]}
        sae = jumprelu_sae.JumpReLUTrainingSAE(
            jumprelu_sae.JumpReLUTrainingSAEConfig(**sizes, **steered)
        )
    elif architecture == "batchtopk":
        sae = batchtopk_sae.BatchTopKTrainingSAE(
            batchtopk_sae.BatchTopKTrainingSAEConfig(**sizes, k=job["k"])
        )
    else:
        sae = topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(**sizes, k=job["k"]))
    steps = job["steps"]
    rate = SAETrainerConfig.lr if job["rate"] is None else job["rate"]
    config = SAETrainerConfig(
        total_training_samples=job["batch"] * steps,
        train_batch_size_samples=job["batch"],
        autocast=autocast,
        dead_feature_window=max(1, steps // 10),
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        n_batches_for_norm_estimate=8,
        lr=rate,
        lr_end=rate / 10,  # its own rule, which its trainer alone does not fill in
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=_after_estimate(feed, 8))
    trainer.fit()
    sae.eval()

    def judge(x: Tensor) -> Encoded:
        active = sae.encode(x)
        return sae.decode(active), active > 0

    return judge


def _after_estimate(feed: Feed, batches: int) -> Iterator[Tensor]:
    """The feed's first batches once more in front, for an estimate that is not training."""
    for step in range(batches):
        yield feed.rows[feed.places(step)]
    yield from feed


def sparsify(job: dict[str, Any], feed: Feed, optimizer: str = "signum") -> Judge:
    """sparsify's trainer; its language model is an embedding that looks up recorded rows."""
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    class Recorded(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, rows: Tensor) -> None:
            super().__init__(PretrainedConfig())
            self.rows = torch.nn.Embedding.from_pretrained(rows)
            self.site = torch.nn.Identity()

        @property
        def dummy_inputs(self) -> dict[str, Tensor]:
            return {"input_ids": torch.zeros(1, 2, dtype=torch.long)}

        def forward(self, input_ids: Tensor) -> Tensor:
            if input_ids.numel() == feed.batch:
                feed.asked.append(time.perf_counter())
            found: Tensor = self.site(self.rows(input_ids))
            return found

    sequence = 128
    places = torch.cat([feed.places(step) for step in range(job["steps"])])
    dataset = Dataset.from_dict({"input_ids": places.view(-1, sequence).numpy()})
    config = TrainConfig(
        SparseCoderConfig(num_latents=job["d_sae"], k=job["k"]),
        batch_size=feed.batch // sequence,
        hookpoints=["site"],
        init_seeds=[job["seed"]],
        optimizer=optimizer,
        lr=job["rate"],
        lr_warmup_steps=job["steps"] // 20,
        log_to_wandb=False,
        save_every=10**9,
        save_dir=tempfile.mkdtemp(),
    )
    trainer = Trainer(config, dataset.with_format("torch"), Recorded(feed.rows))
    trainer.fit()
    coder = next(iter(trainer.saes.values()))
    for each in trainer.optimizers:
        if hasattr(each, "eval"):
            each.eval()  # schedule-free: the averaged weights

    def judge(x: Tensor) -> Encoded:
        out = coder(x)
        fires = torch.zeros(len(x), job["d_sae"], dtype=torch.bool)
        return out.sae_out.float(), fires.scatter(1, out.latent_indices, out.latent_acts > 0)

    return judge


CONTENDERS: dict[str, Callable[[dict[str, Any], Feed], Judge]] = {
    "deconstruct": deconstruct,
    "deconstruct_adam": lambda job, feed: deconstruct(job, feed, "adam"),
    "sae_lens_bf16": sae_lens,
    "sparsify": sparsify,
    "sparsify_adam": lambda job, feed: sparsify(job, feed, "adam"),
}


@torch.no_grad()
def verdict(judge: Judge, held_out: Tensor, trained_on: Tensor, d_sae: int) -> dict[str, float]:
    """Held-out FVU about the mean, in float64, and L0; the share of latents that are *silent*
    (fire on no held-out row) and *dead* (nor on any training row): one rule for all."""
    fired = torch.zeros(d_sae, dtype=torch.bool)
    left, firings = 0.0, 0
    for x in held_out.split(2048):
        found, fires = judge(x)
        left += float((found.double() - x.double()).square().sum())
        firings += int(fires.sum())
        fired |= fires.any(0)
    total = float((held_out.double() - held_out.double().mean(0)).square().sum())
    silent = float((~fired).double().mean())
    for x in trained_on.split(2048):
        fired |= judge(x)[1].any(0)
    return {
        "fvu": left / total,
        "l0": firings / len(held_out),
        "silent_share": silent,
        "dead_share": float((~fired).double().mean()),
    }


def main() -> None:
    """Run one job and write its result."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    data = load_file(job["data"])
    feed = Feed(data["train"], job["batch"], job["seed"])
    judge = CONTENDERS[job["contender"]](job, feed)
    times = feed.milliseconds()
    result: dict[str, Any] = {
        "ms": times,
        "ms_median": statistics.median(times),
        "l0_of_steps": [feed.l0.get(step) for step in range(2, 2 + len(times))],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    if job["judge"]:
        result |= verdict(judge, data["held_out"], data["train"], job["d_sae"])
    Path(job["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
