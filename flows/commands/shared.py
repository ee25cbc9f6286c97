"""What the commands that run flows share: options, the start of a run, how stages are heard."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from tqdm import tqdm

from deconstruct.artifacts import DataRoot
from deconstruct.common.importing import importing
from deconstruct.common.progress import waiting
from deconstruct.common.showing import Plain, plain_record, say
from deconstruct.config import Growth, RunConfig
from deconstruct.config.base import MOST_WORKERS
from deconstruct.sae.training import trackers
from deconstruct.store.query import data_root
from flows import environment
from flows.troubles import check_server

Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG",
        help="A TOML file; 'deconstruct init' writes one.",
        show_default="Gemma 3 270M on BBC News",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.FIELD=VALUE",
        help="Change one field, as in sae.k=64; may be repeated.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]

EngineName = Literal["threads", "dask", "ray"]
Engine = Annotated[
    EngineName, typer.Option(help="What computes the parts where --workers is above 1.")
]
Workers = Annotated[
    int,
    typer.Option(
        min=1, max=MOST_WORKERS, help="Extract the activations in this many parts at once."
    ),
]

tell = partial(say, error=True)
"""Says one line of how it goes, on standard error: results alone stand on standard output."""


def started(
    home: str | None, settings: RunConfig, device: str, whole: bool = True, trains: bool = True
) -> Path:
    """The data root, with a Prefect server that answers, after ``settings`` have been checked.

    whole, trains: as `flows.preflight.preflight` has them.
    """
    trackers.wanted()
    root = data_root(home)
    store = DataRoot(root)  # an unwritable home is said at once, before Prefect starts in it
    speak()
    with waiting("starting"):
        from deconstruct.model.embedded import PREFIX, embedded_model
        from flows.preflight import preflight

        preflight(store, settings, device, whole, trains, unpack=False)
        environment.apply(root, quiet=True)
        server = environment.start_server()
        if server is None:
            check_server()
        with importing():  # Prefect and torch, while the server starts
            from flows import pipeline  # noqa: F401
            from flows.liveness import mark_crashed, short

        if settings.model.itself.startswith(PREFIX):
            embedded_model(store, settings.model.itself)  # unpacked meanwhile, if it is not yet
        if server is not None:
            server.wait()
    for dead in mark_crashed(root):
        tell(f"crashed      {dead.name} ({short(dead)}): its process had died")
    return root


def run_and_print(
    begun: float,
    root: Path,
    settings: RunConfig,
    device: str,
    growth: Growth,
    engine: EngineName,
    workers: int,
    sae_of: str = "",
) -> None:
    """Run the main flow in this process, and print what it found.

    begun: by the monotonic clock, when the command began. sae_of: as `flows.pipeline.pipeline` has
    it.
    """
    from flows.local import run_here
    from flows.pipeline import pipeline
    from flows.summary import print_summary

    results = run_here(
        pipeline,
        config=settings,
        home=str(root),
        device=device,
        growth=growth,
        engine={"kind": engine, "workers": workers},
        sae_of=sae_of,
    )
    tell(f"finished in {time.monotonic() - begun:.0f} s")
    for result in results:
        print_summary(root, result.run_id)


class Beside(RichHandler):
    """Writes a line above the bars that are drawn, not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        drawn = sys.stderr.isatty()
        with tqdm.external_write_mode(sys.stderr) if drawn else contextlib.nullcontext():
            super().emit(record)


def speak() -> None:
    """Show what the library and the stages log, one plain line each."""
    handler = Beside(
        console=Plain(stderr=True),
        show_time=False,
        show_level=False,
        show_path=False,
        highlighter=NullHighlighter(),
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(plain_record)
    logger = logging.getLogger("deconstruct")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
