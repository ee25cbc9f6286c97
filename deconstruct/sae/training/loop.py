"""Training: batches in, sparse autoencoders and their logs out.

The order of the data is a function of the step alone, so a checkpoint is an engine's state and a
step number, and a resumed run ends with the bytes of an undisturbed one. Several SAEs that read
the same batches are trained in one pass, each as it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from deconstruct.activations.shards import Moments
from deconstruct.common.progress import track
from deconstruct.config import SaeConfig
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.memory import within_memory
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training.checkpoint import LogRow
from deconstruct.sae.training.held_out import HeldOut
from deconstruct.sae.training.side_by_side import Batch, SideBySide
from deconstruct.sae.training.trainer import Trainer
from deconstruct.sae.training.warm import Start


class BatchSource(Protocol):
    """Batches by step number; `deconstruct.activations.reader.BatchSource` is the real one."""

    def at(self, step: int) -> Tensor:
        """The batch of ``step``, [batch, d_in]: a pure function of the step. On the CPU or on the
        device that trains, in any precision that holds it: it is scaled in float32, where it is."""


@dataclass(frozen=True)
class Output:
    """What a transcoder reconstructs: the other site's batches, row for row, and its moments."""

    batches: BatchSource
    moments: Moments


def train(
    batches: BatchSource,
    moments: Moments,
    config: SaeConfig,
    checkpoints: Path,
    *,
    output: Output | None = None,
    held_out: HeldOut | None = None,
    start: Start | None = None,
    device: str = "cpu",
) -> tuple[SparseAutoencoder, list[LogRow]]:
    """Train an SAE on ``config.tokens`` tokens.

    moments: of the training rows; activations are centred and scaled by them to E|z|^2 = 1, and
    both are folded into the weights at the end. checkpoints: a folder; what an earlier, killed
    call left there is continued. output: of a transcoder. held_out: see `Trainer`. start: an
    SAE to go on from; None: the seed. Returns the SAE, for raw activations, and rows of the log.
    """
    onto = Scaling.of(output.moments) if output else None
    inputs = Scaling.of(moments)
    member = Trainer(config, inputs, onto, checkpoints, device, held_out=held_out, start=start)
    train_all(batches, [member], output)
    return member.result(), member.rows


def train_all(
    batches: BatchSource, members: Sequence[Trainer], output: Output | None = None
) -> None:
    """Train all members on the same batches, each of which is read and scaled once.

    They agree in batch size, seed and scalings. On a CPU, members share the cores rather than
    each step its threads (`SideBySide`): what a step does on one thread alone then costs the
    others nothing.
    """
    total = sum(member.steps for member in members)
    size = members[0].config.batch_size
    done = sum(member.step for member in members)
    inputs, outputs = members[0].inputs, members[0].outputs
    on_cpu = members[0].engine.losses.device.type == "cpu"

    def read(step: int) -> Batch:
        with within_memory(members[0].engine.spec, members[0].device):
            z = inputs.apply(batches.at(step))
            return Batch(z, outputs.apply(output.batches.at(step)) if output and outputs else None)

    with ExitStack() as stack:
        for member in members:
            stack.callback(member.settle)
        advance = stack.enter_context(track("sae", total * size, "tokens", done * size))

        def told(row: LogRow | None) -> None:
            rows = [member.rows[-1] for member in members if member.rows] if row else []
            advance(size, **{n: _shown(rows, n) for n in ("fvu", "l0", "dead_share") if rows})

        SideBySide(members, read, told, len(members) if on_cpu else 1).run()


def _shown(rows: Sequence[LogRow], name: str) -> str:
    """A figure of the first members for the progress bar."""
    form = "{:.0f}" if name == "l0" else "{:.3f}"
    return " ".join(form.format(getattr(row, name)) for row in rows[:4])
