"""One SAE in training: its engine, its log, its early stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from deconstruct.config import SaeConfig
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.choice import another_engine, build_engine
from deconstruct.sae.engines.engine import Engine, UnfitError
from deconstruct.sae.engines.memory import within_memory
from deconstruct.sae.engines.ranks import own_rows, take_first
from deconstruct.sae.folding import Scaling, fold
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.rates import learning_rates
from deconstruct.sae.schedule import step_count
from deconstruct.sae.spec import ALL, step_spec
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.checkpoint import LogRow
from deconstruct.sae.training.held_out import HeldOut, Judge
from deconstruct.sae.training.warm import Start

log = logging.getLogger(__name__)

LOG_ROWS = 200
HELD_OUT_LOOKS = 20
WORTH_WAITING_FOR = 0.002
"""Relative fall of the held-out FVU that counts as an improvement."""


class Trainer:
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
        self.checkpoints, self.device, self._dtype = checkpoints, device, dtype
        self._start = start
        self.steps = step_count(config)
        self.rates = learning_rates(config, self.steps)
        self.engine, self.rows = self._begun()
        take_first(self.engine)
        self.step = checkpoint.step_of(self.engine)
        self._stepped = False
        self._judge = Judge(held_out, self.result, device) if held_out else None
        on_cpu = self.engine.losses.device.type == "cpu"
        self._spacing = checkpoint.Spacing(aside=not on_cpu)

    @property
    def finished(self) -> bool:
        """Whether all steps are made, or the held-out error has stopped falling."""
        return self.step >= self.steps or self._stalled()

    def train(self, z: Tensor, target: Tensor | None) -> LogRow | None:
        """Make the next step, on that step's batch in scaled coordinates; its row of the log."""
        with within_memory(self.engine.spec, self.device):
            self._make(own_rows(z), None if target is None else own_rows(target))
        self.step += 1
        every = max(1, self.steps // LOG_ROWS)
        looks = self._judge and self.step % max(1, self.steps // HELD_OUT_LOOKS) == 0
        row = None
        if self.step % every == 0 or self.step == self.steps or looks:
            row = self._log_row(bool(looks))
            self.rows.append(row)
            if self.watch is not None:
                self.watch(row)
        if self._spacing.due():
            self._spacing.save(self.engine, self.rows, self.checkpoints)
        return row

    def result(self, device: str = "cpu") -> SparseAutoencoder:
        """What has been trained so far, for raw activations, folded and kept on a device."""
        config = self.config
        weights = {name: weight.to(device) for name, weight in self.engine.weights().items()}
        outputs = self.outputs and self.outputs.to(device)
        return fold(config.architecture, weights, config.k, self.inputs.to(device), outputs)

    def settle(self) -> None:
        """Wait until the last checkpoint is written; raises what writing it raises."""
        self._spacing.settle()

    @property
    def penalty_factor(self) -> float | None:
        """What the target-L0 controller has made of the penalty; None: there is no penalty."""
        factor = self.engine.state_dict().get("control.factor")
        return None if factor is None else float(factor)

    def _begun(self, wrong: type[Engine] | None = None) -> tuple[Engine, list[LogRow]]:
        """An engine, and the log, where an earlier process left them, or at the start; wrong: one
        that was found out."""
        inputs, outputs, start = self.inputs, self.outputs, self._start
        spec = step_spec(self.config, len(inputs.mean), len(outputs.mean) if outputs else 0)
        weights = initial_weights(spec, self.config.seed)
        if start is not None and spec.frozen != ALL:
            # What is frozen is at its random start in a warm one, too.
            still = {name: weights[name] for name in spec.still}
            weights = start.weights(spec, inputs, outputs) | still
        build = build_engine if wrong is None else partial(another_engine, wrong)
        engine = build(spec, weights, self.rates, self.device, self._dtype)
        if start is not None:
            controls = start.controls(inputs, outputs)
            engine.load_state_dict({**engine.state_dict(), **controls})
        return engine, checkpoint.resume(engine, self.checkpoints)

    def _make(self, z: Tensor, target: Tensor | None) -> None:
        """The next step. Where the first one shows that the engine is wrong, another makes it, from
        where the wrong one began."""
        if self._stepped:
            self.engine.step(z, target)
            return
        self._stepped = True
        try:
            self.engine.first_step(z, target)
            return
        except UnfitError as error:
            log.warning("sae          %s; this step is made anew by another engine", error)
        kind = type(self.engine)
        del self.engine  # there may be no room for two
        self.engine, _ = self._begun(wrong=kind)
        self.engine.step(z, target)

    def _log_row(self, looks: bool) -> LogRow:
        l0, dead = self.engine.firing()
        loss = float(self.engine.losses[self.step - 1])
        tokens, rate = self.step * self.config.batch_size, float(self.rates[self.step - 1])
        seen = self._judge.fvu() if looks and self._judge else None
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
