"""Training: batches in, a sparse autoencoder and its log out.

The order of the data is a function of the step alone, so a checkpoint is the engine's state and a
step number, and a resumed run ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deconstruct.artifact import fsync
from deconstruct.config import SaeConfig
from deconstruct.model import pick_dtype
from deconstruct.progress import track
from deconstruct.sae.engine import Engine, StepSpec, initial_weights
from deconstruct.sae.model import SparseAutoencoder
from deconstruct.shards import Moments

log = logging.getLogger(__name__)

LOG_ROWS = 200
CHECKPOINT_SECONDS = 30.0
CHECKPOINT = "checkpoint.safetensors"
DEAD_SHARE_OF_RUN = 0.1
DEAD_TOKENS_AT_MOST = 10_000_000


class BatchSource(Protocol):
    """Batches by step number; `deconstruct.reader.BatchSource` is the real one."""

    def at(self, step: int) -> Tensor:
        """The batch of ``step``, float32 [batch, d_in]: a pure function of the step."""


@dataclass(frozen=True)
class LogRow:
    """The state of training after ``step`` steps. fvu: on the step's batch."""

    step: int
    tokens: int
    learning_rate: float
    fvu: float
    l0: float
    dead_share: float


def train(
    batches: BatchSource,
    moments: Moments,
    config: SaeConfig,
    checkpoints: Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
) -> tuple[SparseAutoencoder, list[LogRow]]:
    """Train an SAE on ``config.tokens`` tokens.

    moments: of the training rows; activations are centred and scaled by them to E|z|^2 = 1, and
    both are folded into the weights at the end. checkpoints: a folder; what an earlier, killed
    call left there is continued. Returns the SAE, for raw activations, and rows of the log.
    """
    spec = step_spec(config, len(moments.mean))
    steps = max(1, round(config.tokens / config.batch_size))
    rates = learning_rates(config, steps)
    engine = build_engine(spec, initial_weights(spec, config.seed), rates, device, dtype)
    rows = _resume(engine, checkpoints)
    mean = torch.from_numpy(moments.mean)
    scale = math.sqrt(float(moments.variance.sum()))
    centre, shrink = mean.float(), 1 / scale
    every = max(1, steps // LOG_ROWS)
    saved = time.monotonic()
    first = rows[-1].step if rows else 0
    first = max(first, _step_of(engine))
    with track("sae", steps * config.batch_size, "tokens", first * config.batch_size) as advance:
        for step in range(first, steps):
            engine.step((batches.at(step) - centre) * shrink)
            if (step + 1) % every == 0 or step + 1 == steps:
                rows.append(_log_row(engine, step, config.batch_size, float(rates[step])))
                last = rows[-1]
                advance(
                    0, fvu=f"{last.fvu:.3f}", l0=f"{last.l0:.0f}", dead=f"{last.dead_share:.3f}"
                )
            advance(config.batch_size)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(engine, rows, checkpoints)
                saved = time.monotonic()
    k = config.k if config.architecture == "topk" else None
    weights = engine.weights()
    return SparseAutoencoder.from_scaled(config.architecture, weights, k, mean, scale), rows


def step_spec(config: SaeConfig, d_in: int) -> StepSpec:
    """Sizes and weights of a step, with the defaults that depend on the run filled in."""
    dead_after = config.dead_after_tokens or max(
        config.batch_size, min(DEAD_TOKENS_AT_MOST, int(DEAD_SHARE_OF_RUN * config.tokens))
    )
    return StepSpec(
        architecture=config.architecture,
        batch=config.batch_size,
        d_in=d_in,
        d_sae=config.d_sae,
        k=config.k,
        l1_coefficient=config.l1_coefficient,
        clip_norm=config.clip_norm,
        k_aux=min(config.d_sae, config.k if config.aux_k is None else config.aux_k),
        aux_coefficient=config.aux_coefficient,
        dead_after=dead_after,
    )


def learning_rates(config: SaeConfig, steps: int) -> Tensor:
    """One rate a step, [steps]: linear warm-up, a plateau, linear decay to zero."""
    peak = config.learning_rate or default_learning_rate(config.d_sae, steps)
    step = torch.arange(steps, dtype=torch.float64)
    warm = (step + 1) / max(1.0, config.warmup_share * steps)
    decay = (steps - step) / max(1.0, config.decay_share * steps)
    return peak * torch.minimum(warm, decay).clamp(max=1.0)


def default_learning_rate(d_sae: int, steps: int) -> float:
    """Adam's peak rate: Gao et al.'s 2e-4 * sqrt(2^14 / d_sae), raised for short runs.

    That rule was found for runs of some 10^5 steps. A run of a few hundred steps has no time for
    it: measured on residual streams, the best rate falls with the square root of the steps.
    """
    return 2e-4 * math.sqrt(2**14 / d_sae) * min(10.0, max(1.0, math.sqrt(20_000 / steps)))


def build_engine(
    spec: StepSpec, weights: dict[str, Tensor], rates: Tensor, device: str, dtype: str
) -> Engine:
    """The fastest engine that can run the step on this device."""
    if spec.architecture == "topk" and device == "cpu":
        from deconstruct.sae.cpu import CpuTopK

        return CpuTopK(spec, weights, rates)
    from deconstruct.sae.dense import DenseEngine

    return DenseEngine(spec, weights, rates, device, pick_dtype(dtype, device))


def _log_row(engine: Engine, step: int, batch_size: int, rate: float) -> LogRow:
    l0, dead = engine.firing()
    loss = float(engine.losses[step])
    return LogRow(step + 1, (step + 1) * batch_size, rate, loss, l0, dead)


def _save(engine: Engine, rows: list[LogRow], folder: Path) -> None:
    """Write a checkpoint whole or not at all."""
    table = torch.tensor([list(vars(row).values()) for row in rows], dtype=torch.float64)
    tensors = {name: tensor.contiguous() for name, tensor in engine.state_dict().items()}
    unfinished = folder / f"{CHECKPOINT}.unfinished"
    save_file({**tensors, "log": table.reshape(len(rows), 6)}, unfinished)
    fsync(unfinished)
    os.replace(unfinished, folder / CHECKPOINT)
    fsync(folder)


def _resume(engine: Engine, folder: Path) -> list[LogRow]:
    """Load the checkpoint that an earlier call left, if there is one, and its log."""
    if not (folder / CHECKPOINT).exists():
        return []
    try:
        state = load_file(folder / CHECKPOINT)
        table = state.pop("log")
        engine.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        log.warning("%s does not load (%s); training starts anew", folder / CHECKPOINT, error)
        return []
    log.info("sae          goes on from step %d", _step_of(engine))
    return [LogRow(int(r[0]), int(r[1]), *map(float, r[2:])) for r in table.tolist()]


def _step_of(engine: Engine) -> int:
    """How many steps the engine has made."""
    return int(engine.state_dict()["step"])
