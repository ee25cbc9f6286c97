"""Encoding with the trained SAE by both ways of the device: tokens per second, and the firings
beside those of a float32 product on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.clock import ms_of
from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.kernels.findings import relative
from benchmarks.gpu_check.pipeline.bench import Bench
from benchmarks.gpu_check.running.job import Missing, attempt
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.sae import files
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.encoding.banded import Banded
from deconstruct.sae.engines.encoding.check import fault
from deconstruct.sae.engines.encoding.encoder import Encoder
from deconstruct.sae.engines.encoding.selected import SelectedTopK

_ROWS, _SMOKE_ROWS = 2048, 16


def compare_encodings(bench: Bench, trained: Path, activations: Artifact) -> None:
    """trained: the folder of a TopK SAE of these activations."""
    sae = files.load(trained)
    block = next(iter(ActivationReader(activations, "test").rows_in_order()))
    rows = block.activation[: _SMOKE_ROWS if bench.job.smoke else _ROWS]
    wanted = sae.encode(rows)
    there = sae.to(bench.device)
    for name, make in (("fused", _fused), ("dense", _dense)):
        found = attempt(bench.job, partial(_measure, bench, there, make, rows, wanted))
        bench.record.note(f"encoding, {name}", found)


def _fused(sae: SparseAutoencoder) -> Encoder:
    if reason := unavailable(sae.W_enc.device):
        raise Missing(reason)
    return SelectedTopK(sae.weights(), sae.k or 0)


def _dense(sae: SparseAutoencoder) -> Encoder:
    return Banded(ARCHITECTURES[sae.architecture], sae.weights(), sae.k)


def _measure(
    bench: Bench,
    sae: SparseAutoencoder,
    make: Callable[[SparseAutoencoder], Encoder],
    rows: Tensor,
    wanted: Tensor,
) -> Mapping[str, object]:
    """wanted: float32 [n, d_sae], what fires on the rows. Raises ValueError for what float64 does
    not find."""
    encoder = make(sae)
    x = rows.to(bench.device)
    parts = [encoder(part) for part in torch.split(x, encoder.rows)]
    counts, latents, values = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    found = torch.zeros_like(wanted)
    found[torch.arange(len(rows)).repeat_interleave(counts), latents.long()] = values
    fires = wanted > 0
    if wrong := fault(encoder, sae.weights(), sae.k or 0, x[: encoder.rows]):
        raise ValueError(wrong)
    at_once = _SMOKE_ROWS if bench.job.smoke else encoder.rows
    many = x.repeat(-(-at_once // len(x)), 1)[:at_once]
    times, where = (1, "cpu") if bench.job.smoke else (20, "cuda")
    return {
        "tokens at once": at_once,
        "tokens/s": at_once / ms_of(lambda: encoder(many), times, where) * 1e3,
        "share of firings alike": float((found > 0)[fires].float().mean()),
        "firings too many": int((found > 0)[~fires].sum()),
        "activations": relative(found, wanted),
    }
