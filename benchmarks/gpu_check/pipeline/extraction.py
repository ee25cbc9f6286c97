"""Activations: tokens per second, padded, by length, and bare; float32 values beside the CPU's."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.clock import ms_of, wait
from benchmarks.gpu_check.kernels.findings import relative
from benchmarks.gpu_check.pipeline.bench import Bench, Corpus, tokenise
from benchmarks.gpu_check.running.job import attempt
from deconstruct.activations import layout
from deconstruct.activations import stage as activations
from deconstruct.activations.forward import Forward
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig
from deconstruct.model.hooks import capture
from deconstruct.model.loading import load

_TIMED = "activations, bf16, device"


def record_activations(bench: Bench, corpus: Corpus) -> Artifact:
    """One site's activations in bf16, the default; and what else is measured of extraction."""
    smoke = bench.job.smoke
    site = "1.resid_post" if smoke else "6.resid_post"
    config = ActivationsConfig(sites=(site,), shard_tokens=512 if smoke else 32_768)
    found = bench.clock(
        _TIMED,
        lambda: activations.extract(
            corpus.root, config, model=corpus.model, corpus=corpus.artifact, device=bench.device
        ),
    )
    record = bench.record
    record["extraction_tokens_s"] = bench.rate(_TIMED, corpus.tokens)
    record.note("extraction", attempt(bench.job, lambda: _ceiling(bench, corpus, site)))
    record.note("extraction paths", attempt(bench.job, lambda: _paths(bench, corpus, site)))
    gap = attempt(bench.job, lambda: _from_cpu(bench, corpus, config))
    record.note("float32 activations, device from CPU", gap)
    return found[Site.parse(site)]


def _ceiling(bench: Bench, corpus: Corpus, site: str) -> dict[str, float]:
    """The bare forward pass up to the site: batches as extraction makes them, and full ones."""
    lm = load(replace(corpus.model, dtype="bfloat16"), bench.device)
    where, sites = bench.device.split(":")[0], [Site.parse(site)]
    found = {}
    for n, length in ((1, 60), (32, 128), (512, 128)):
        shape = (2, 16) if bench.job.smoke else (n, length)
        ids = torch.randint(3, 200, shape, device=bench.device)

        def forward(ids: Tensor = ids) -> None:
            capture(lm, ids, sites)

        for _ in range(2):
            forward()
        wait(where)
        ms = ms_of(forward, 2 if bench.job.smoke else 8, where)
        found[f"{n} x {length}: ms"] = ms
        found[f"{n} x {length}: tokens/s"] = 1e3 * shape[0] * shape[1] / ms
    return found


def _paths(bench: Bench, corpus: Corpus, site: str) -> dict[str, float]:
    """The passes of both paths over one shard, to activations on the host, and how much of the
    padded ones is padding."""
    rows = 512 if bench.job.smoke else 131_072
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        tokens = layout.Tokens.read(corpus.artifact, 1, Path(folder))
        shard = layout.shards(corpus.artifact, tokens, rows, 0)[0]
        model = replace(corpus.model, dtype="bfloat16")
        forward = Forward(model, tokens, [Site.parse(site)], bench.device)
        found = {
            "may be padded": float(forward.padded),
            "share of padding": layout.padding([shard], tokens.lengths, layout.PADDED_TOKENS),
        }
        for path, padded in (("padded", True), ("of one length", False)):
            forward.padded = padded
            took = []
            for _ in range(1 if bench.job.smoke else 4):
                began = time.perf_counter()
                forward.compute(shard, _unheard)
                took.append(time.perf_counter() - began)
            size = int(tokens.lengths[shard.documents].sum())
            found[f"{path}: tokens/s"] = size / min(took)
    return found


def _unheard(rows: int) -> None:
    """Of progress."""


def _from_cpu(bench: Bench, corpus: Corpus, config: ActivationsConfig) -> float:
    """Relative difference of float32 activations from the CPU's, over a few texts."""
    model = replace(corpus.model, dtype="float32")
    few = corpus.config.model_copy(update={"limit": 40 if bench.job.smoke else 200})

    def recorded(name: str, device: str) -> Tensor:
        root = bench.root(name)
        texts = tokenise(root, few, model)
        made = activations.extract(root, config, model=model, corpus=texts, device=device)
        reader = ActivationReader(next(iter(made.values())), "train")
        return torch.cat([block.activation for block in reader.rows_in_order()])

    return relative(recorded("float32-device", bench.device), recorded("float32-cpu", "cpu"))
