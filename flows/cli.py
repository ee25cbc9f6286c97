"""The ``deconstruct`` command: the reading commands of the library, and those that run flows."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.table import Table

from deconstruct.artifact import ArtifactStore
from deconstruct.cli import app, report_errors
from deconstruct.config import load
from flows import environment

Home = Annotated[
    str | None,
    typer.Option(help="Data root.", show_default="$DECONSTRUCT_HOME or ./data"),
]

console = Console(stderr=True, highlight=False)


@app.command()
@report_errors
def run(
    config: Annotated[
        Path | None,
        typer.Argument(help="A TOML file.", show_default="the embedded configuration"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Change one field; repeatable."),
    ] = None,
    home: Home = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Take a language model apart; stages that are done already come from cache."""
    started = time.monotonic()
    settings = load(config, set_ or [])
    root = environment.data_root(home)
    store = ArtifactStore(root)  # an unwritable home is said at once, before Prefect starts in it
    environment.apply(root, quiet=True)
    _speak()
    server = environment.start_server(root)
    from flows.local import run_here  # Prefect and torch, imported while the server starts
    from flows.pipeline import pipeline, preflight
    from flows.summary import print_summary

    preflight(store, settings)  # a server in a new home takes its time; a fault is said before
    if server is not None:
        server.wait()
    results = run_here(pipeline, config=settings, home=str(root), device=device)
    console.print(f"finished in {time.monotonic() - started:.0f} s")
    for result in results:
        print_summary(root, result.run_id)


@app.command()
@report_errors
def serve(
    home: Home = None,
    port: Annotated[int, typer.Option(help="Port of the server on localhost.")] = 4200,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="Start a worker of pool gpu.",
            show_default="if there is a GPU",
        ),
    ] = None,
) -> None:
    """Start a local Prefect server with its schedules, and workers; Ctrl-C ends them all."""
    from flows.serve import serving

    if gpu is None:
        import torch

        gpu = torch.cuda.is_available()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        serving(environment.data_root(home), port, gpu, console.print) as processes,
    ):
        console.print("ready; Ctrl-C ends it")
        while all(process.poll() is None for process in processes):
            time.sleep(1)


@app.command()
@report_errors
def doctor(home: Home = None) -> None:
    """Say what this machine can do: versions, device, hub, disk, what the cache holds."""
    from deconstruct.doctor import examine

    table = Table(box=None, show_header=False, pad_edge=False)
    sound = True
    for finding in examine(environment.data_root(home)):
        mark = "[green]ok[/]" if finding.sound else "[red]no[/]"
        table.add_row(mark, f"[bold]{finding.subject}[/]", finding.found)
        sound = sound and finding.sound
    Console(highlight=False).print(table)
    if not sound:
        raise typer.Exit(1)


def _speak() -> None:
    """Show what the library and the stages log, one plain line each."""
    handler = RichHandler(
        console=console,
        show_time=False,
        show_level=False,
        show_path=False,
        highlighter=NullHighlighter(),
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("deconstruct")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
