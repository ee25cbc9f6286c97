"""Checkpoints of a training: an engine's state and the log so far, whole or not at all."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deconstruct.artifacts import fsync
from deconstruct.artifacts.scratch import checksum
from deconstruct.sae.engines.engine import Engine

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
SUM = "sum"
EVERY_SECONDS = 30.0
AFFORDED_SECONDS = 0.02 * EVERY_SECONDS
"""What one may hold training up to be written that often: 2% of the time."""
AFFORDED_WRITING = 0.2 * EVERY_SECONDS
"""What a thread may write, beside training: a fifth of the time."""


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


class Spacing:
    """When a checkpoint is due: `EVERY_SECONDS`, and where one takes longer than is afforded, more
    seldom in proportion, so that a large SAE trains for 98% of the time, too. A kill costs that
    much work at most.

    aside: training goes on as soon as the state is copied to the host, and a thread writes it. It
    is copied on the stream that trains: the next step changes the state, so it would have to wait
    for a copy on any other. Of 24,576 latents of width 768 that is 450 MB, some 0.1 s from a card.
    """

    def __init__(self, aside: bool = False) -> None:
        self._saved, self._took, self._wrote = time.monotonic(), 0.0, 0.0
        self._writer = ThreadPoolExecutor(1, "checkpoint") if aside else None
        self._writing: Future[float] | None = None

    def due(self) -> bool:
        """Whether enough time has passed since the last one, or since the start. Raises what the
        thread has raised."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            self.settle()
        most = max(self._took / AFFORDED_SECONDS, self._wrote / AFFORDED_WRITING)
        return time.monotonic() - self._saved > EVERY_SECONDS * max(1.0, most)

    def save(self, engine: Engine, rows: list[LogRow], folder: Path) -> None:
        """`save`, timed; by the thread, if there is one."""
        began = time.monotonic()
        if self._writer is None:
            save(engine, rows, folder)
        else:
            self.settle()
            tensors = {n: t.detach().to("cpu", copy=True) for n, t in engine.state_dict().items()}
            self._writing = self._writer.submit(_timed, tensors, _table(rows), folder)
        self._saved = time.monotonic()
        self._took = self._saved - began

    def settle(self) -> None:
        """Wait until what is being written is; raises what the thread has raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._wrote = writing.result()


def save(engine: Engine, rows: list[LogRow], folder: Path) -> None:
    """Write a checkpoint whole or not at all."""
    # From a device once, though they are read twice.
    tensors = {name: tensor.detach().cpu() for name, tensor in engine.state_dict().items()}
    _write(tensors, _table(rows), folder)


def _table(rows: list[LogRow]) -> torch.Tensor:
    values = [[math.nan if v is None else v for v in vars(row).values()] for row in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(len(rows), 7)


def _write(state: Mapping[str, torch.Tensor], table: torch.Tensor, folder: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    unfinished = folder / f"{CHECKPOINT}.unfinished"
    tensors["log"] = table
    save_file({**tensors, SUM: _sum(tensors, folder)}, unfinished)
    fsync(unfinished)
    os.replace(unfinished, folder / CHECKPOINT)
    fsync(folder)


def _timed(state: Mapping[str, torch.Tensor], table: torch.Tensor, folder: Path) -> float:
    """Write; seconds that it took."""
    began = time.monotonic()
    _write(state, table, folder)
    return time.monotonic() - began


def resume(engine: Engine, folder: Path) -> list[LogRow]:
    """Load the checkpoint that an earlier call left, if there is one, and its log."""
    if not (folder / CHECKPOINT).exists():
        return []
    try:
        state = load_file(folder / CHECKPOINT)
        if int(state.pop(SUM)) != int(_sum(state, folder)):
            raise ValueError("it is not as it was written")
        table = state.pop("log")
        engine.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        log.warning("%s does not load (%s); training starts anew", folder / CHECKPOINT, error)
        return []
    log.info("sae          goes on from step %d", step_of(engine))
    return [
        LogRow(int(r[0]), int(r[1]), r[2], r[3], r[4], r[5], None if math.isnan(r[6]) else r[6])
        for r in table.tolist()
    ]


def _sum(tensors: Mapping[str, torch.Tensor], folder: Path) -> torch.Tensor:
    """Of the tensors, as `checksum` says; int64."""
    contents = (
        (name, tensor.reshape(-1).view(torch.uint8).numpy().data)
        for name, tensor in sorted(tensors.items())
    )
    return torch.tensor(checksum(contents, folder), dtype=torch.int64)


def step_of(engine: Engine) -> int:
    """How many steps the engine has made."""
    return int(engine.state_dict()["step"])
