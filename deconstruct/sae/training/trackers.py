"""Figures of long work, step by step, to TensorBoard or Weights & Biases: optional extras.

``DECONSTRUCT_LOG_TO=tensorboard``, ``wandb`` or both (``tensorboard,wandb``) asks for them; what
they write lies under ``HOME/logs``. Weights & Biases stays offline, so that nothing leaves the
machine, unless ``WANDB_MODE`` says otherwise; ``wandb sync`` sends a finished log later. They are
no part of a result: artifacts have the same keys and bytes with and without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from deconstruct.common.errors import ConfigError

VARIABLE = "DECONSTRUCT_LOG_TO"
PROJECT = "deconstruct"

Write = Callable[[int, Mapping[str, float]], None]
"""Called as ``write(step, figures)``, steps ascending."""


class _Opens(Protocol):
    def __call__(
        self, folder: Path, name: str, settings: Mapping[str, object]
    ) -> tuple[Write, Callable[[], None]]: ...


def wanted() -> tuple[str, ...]:
    """What ``DECONSTRUCT_LOG_TO`` names. Raises ``ConfigError`` for a name that is unknown or
    whose package is not installed."""
    names = tuple(filter(None, (n.strip() for n in os.environ.get(VARIABLE, "").split(","))))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"{VARIABLE} names {name!r}; it may name {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"{VARIABLE} names {name!r}, which is not installed; "
                f"pip install 'deconstruct[{name}]', or leave it out"
            )
    return names


@contextmanager
def opened(
    names: Sequence[str],
    folder: Path,
    name: str,
    settings: Mapping[str, object],
) -> Iterator[Write]:
    """A function that writes a step's figures to all of ``names``, which are closed in the end.

    folder: of all logs; name: of this one in it, which takes the place of an earlier one. settings:
    shown beside it.
    """
    with ExitStack() as stack:
        writers: list[Write] = []
        for kind in names:
            write, close = TRACKERS[kind](folder / kind, name, settings)
            stack.callback(close)
            writers.append(write)

        def to_all(step: int, figures: Mapping[str, float]) -> None:
            for write in writers:
                write(step, figures)

        yield to_all


def _tensorboard(
    folder: Path, name: str, settings: Mapping[str, object]
) -> tuple[Write, Callable[[], None]]:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(folder / name), purge_step=0)
    lines = "\n".join(f"    {field} = {value!r}" for field, value in settings.items())
    writer.add_text("settings", lines, 0)

    def write(step: int, figures: Mapping[str, float]) -> None:
        for figure, value in figures.items():
            writer.add_scalar(f"sae/{figure}", value, step)

    return write, writer.close


def _wandb(
    folder: Path, name: str, settings: Mapping[str, object]
) -> tuple[Write, Callable[[], None]]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=PROJECT,
        name=name,
        id=name,
        resume="allow",
        reinit="create_new",  # members of a sweep are logged side by side
        dir=folder,
        mode=None if "WANDB_MODE" in os.environ else "offline",
        config=dict(settings),
        settings=wandb.Settings(silent=True, console="off"),
    )

    def write(step: int, figures: Mapping[str, float]) -> None:
        run.log({f"sae/{figure}": value for figure, value in figures.items()}, step=step)

    return write, run.finish


TRACKERS: Mapping[str, _Opens] = {"tensorboard": _tensorboard, "wandb": _wandb}
