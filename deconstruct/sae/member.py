"""One SAE in training: its engine, its log, its checkpoints."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deconstruct.artifact import fsync
from deconstruct.config import SaeConfig
from deconstruct.model import pick_dtype
from deconstruct.sae.control import dead_after, learning_rates, step_count
from deconstruct.sae.engine import Engine, StepSpec, initial_weights
from deconstruct.sae.folding import Scaling, fold
from deconstruct.sae.model import SparseAutoencoder
from deconstruct.sae.parallel import own_rows, ranks, take_first
from deconstruct.sae.warm import Start

log = logging.getLogger(__name__)

LOG_ROWS = 200
HELD_OUT_LOOKS = 20
CHECKPOINT_SECONDS = 30.0
CHECKPOINT = "checkpoint.safetensors"
PENALTIES = {"relu": 0.1, "gated": 0.1, "jumprelu": 0.002}
"""Where ``sae.penalty`` is none: what steering starts from."""
WORTH_WAITING_FOR = 0.002
"""Relative fall of the held-out FVU that counts as an improvement."""


@dataclass(frozen=True)
class LogRow:
    """The state of training after ``step`` steps. fvu: on the step's batch. held_out_fvu: on
    documents that are not trained on; none where it was not looked at."""

    step: int
    tokens: int
    learning_rate: float
    fvu: float
    l0: float
    dead_share: float
    held_out_fvu: float | None = None

    def figures(self) -> Mapping[str, float]:
        """What there is of it by name, but for the step."""
        return {n: v for n, v in asdict(self).items() if n != "step" and v is not None}


@dataclass(frozen=True)
class HeldOut:
    """Rows of documents that are not trained on: raw activations x [n, d_in], and what is
    reconstructed, y [n, d_out]."""

    x: Tensor
    y: Tensor

    def fvu(self, sae: SparseAutoencoder) -> float:
        """Squared error over squares about the mean of these rows."""
        error = (sae(self.x) - self.y).double().square().sum()
        return float(error / (self.y.double() - self.y.double().mean(0)).square().sum())


class Member:
    """Trains one SAE, a batch at a time, and goes on from where an earlier, killed one was.

    inputs, outputs: scalings of what is read and, in a transcoder, reconstructed. checkpoints: a
    folder of its own. held_out: what decides on an early stop, where ``config.patience`` asks
    for one. start: what takes the place of initial weights.
    """

    watch: Callable[[LogRow], None] | None = None
    """Called with each new row of the log."""

    def __init__(
        self,
        config: SaeConfig,
        inputs: Scaling,
        outputs: Scaling | None,
        checkpoints: Path,
        device: str = "cpu",
        dtype: str = "auto",
        held_out: HeldOut | None = None,
        start: Start | None = None,
    ) -> None:
        self.config = config
        self.inputs, self.outputs, self.held_out = inputs, outputs, held_out
        self.checkpoints = checkpoints
        spec = step_spec(config, len(inputs.mean), len(outputs.mean) if outputs else 0)
        self.steps = step_count(config)
        self.rates = learning_rates(config, self.steps)
        weights = (
            start.weights(spec, inputs, outputs) if start else initial_weights(spec, config.seed)
        )
        self.engine = build_engine(spec, weights, self.rates, device, dtype)
        if start is not None:
            controls = start.controls(inputs, outputs)
            self.engine.load_state_dict({**self.engine.state_dict(), **controls})
        self.rows = _resume(self.engine, checkpoints)
        take_first(self.engine)
        self.step = _step_of(self.engine)
        self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all steps are made, or the held-out error has stopped falling."""
        return self.step >= self.steps or self._stalled()

    def train(self, z: Tensor, target: Tensor | None) -> LogRow | None:
        """Make the next step, on that step's batch in scaled coordinates; its row of the log."""
        self.engine.step(own_rows(z), None if target is None else own_rows(target))
        self.step += 1
        every = max(1, self.steps // LOG_ROWS)
        looks = self.held_out and self.step % max(1, self.steps // HELD_OUT_LOOKS) == 0
        row = None
        if self.step % every == 0 or self.step == self.steps or looks:
            row = self._log_row(bool(looks))
            self.rows.append(row)
            if self.watch is not None:
                self.watch(row)
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            _save(self.engine, self.rows, self.checkpoints)
            self._saved = time.monotonic()
        return row

    def result(self) -> SparseAutoencoder:
        """What has been trained so far, for raw activations."""
        config = self.config
        weights = self.engine.weights()
        return fold(config.architecture, weights, config.k, self.inputs, self.outputs)

    @property
    def penalty_factor(self) -> float | None:
        """What the target-L0 controller has made of the penalty; None: there is no penalty."""
        factor = self.engine.state_dict().get("control.factor")
        return None if factor is None else float(factor)

    def _log_row(self, looks: bool) -> LogRow:
        l0, dead = self.engine.firing()
        loss = float(self.engine.losses[self.step - 1])
        tokens, rate = self.step * self.config.batch_size, float(self.rates[self.step - 1])
        seen = self.held_out.fvu(self.result()) if looks and self.held_out else None
        return LogRow(self.step, tokens, rate, loss, l0, dead, seen)

    def _stalled(self) -> bool:
        if self.held_out is None or self.config.patience is None:
            return False
        seen = [row.held_out_fvu for row in self.rows if row.held_out_fvu is not None]
        best = math.inf
        since = 0
        for fvu in seen:
            since = 0 if fvu < best * (1 - WORTH_WAITING_FOR) else since + 1
            best = min(best, fvu)
        return since >= self.config.patience


def step_spec(config: SaeConfig, d_in: int, d_out: int = 0) -> StepSpec:
    """Sizes and weights of a step, with the defaults that depend on the run filled in.

    d_out: of the site that a transcoder reconstructs; 0: an autoencoder.
    """
    below = config.prefixes or tuple(sorted({config.d_sae >> n for n in (4, 3, 2, 1)} - {0}))
    return StepSpec(
        architecture=config.architecture,
        batch=config.batch_size,
        d_in=d_in,
        d_sae=config.d_sae,
        k=config.k,
        penalty=PENALTIES.get(config.architecture, 0) if config.penalty is None else config.penalty,
        clip_norm=config.clip_norm,
        k_aux=min(config.d_sae, config.k if config.aux_k is None else config.aux_k),
        aux_coefficient=config.aux_coefficient,
        dead_after=dead_after(config),
        d_out=d_out,
        skip=config.skip_connection,
        prefixes=(*below, config.d_sae) if config.architecture == "matryoshka" else (),
        sparsity=config.sparsity,
        bandwidth=config.bandwidth,
        target_l0=config.wanted_l0,
        penalty_warmup=round(config.penalty_warmup_share * step_count(config)),
        optimizer=config.optimizer,
    )


def build_engine(
    spec: StepSpec, weights: dict[str, Tensor], rates: Tensor, device: str, dtype: str
) -> Engine:
    """The fastest engine that can run the step on this device."""
    if spec.architecture == "topk" and device == "cpu" and not spec.transcoder and ranks() == 1:
        from deconstruct.sae.cpu import CpuTopK

        return CpuTopK(spec, weights, rates)
    if device == "cpu" and dtype != "float32":
        from deconstruct.sae.cpu_varying import VaryingEngine

        return VaryingEngine(spec, weights, rates)
    if device != "cpu":
        from deconstruct.sae.cuda_choice import gpu_engine

        return gpu_engine(spec, weights, rates, device, dtype)
    from deconstruct.sae.dense import DenseEngine

    return DenseEngine(spec, weights, rates, device, pick_dtype(dtype, device))


def _save(engine: Engine, rows: list[LogRow], folder: Path) -> None:
    """Write a checkpoint whole or not at all."""
    values = [[math.nan if v is None else v for v in vars(row).values()] for row in rows]
    table = torch.tensor(values, dtype=torch.float64)
    tensors = {name: tensor.contiguous() for name, tensor in engine.state_dict().items()}
    unfinished = folder / f"{CHECKPOINT}.unfinished"
    save_file({**tensors, "log": table.reshape(len(rows), 7)}, unfinished)
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
    return [
        LogRow(int(r[0]), int(r[1]), r[2], r[3], r[4], r[5], None if math.isnan(r[6]) else r[6])
        for r in table.tolist()
    ]


def _step_of(engine: Engine) -> int:
    """How many steps the engine has made."""
    return int(engine.state_dict()["step"])
