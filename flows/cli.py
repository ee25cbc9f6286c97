"""The ``deconstruct`` command: the reading commands of the library, and those that run flows."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from deconstruct.artifacts import DataRoot
from deconstruct.cli import app
from deconstruct.commands import Home, Json, check_place, report_errors
from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.common.importing import importing
from deconstruct.common.showing import lines, quoted, say, say_json
from deconstruct.config import Growth, load
from deconstruct.config.base import MOST_WORKERS
from deconstruct.store import render
from deconstruct.store.query import data_root, executed
from deconstruct.store.render import terminal
from flows import environment
from flows.commands import analyse, controls
from flows.commands.shared import (
    Config,
    Device,
    Engine,
    EngineName,
    Overrides,
    Workers,
    run_and_print,
    speak,
    started,
    tell,
)
from flows.troubles import check_server, with_server

TEND_SECONDS = 2

for command in (analyse.analyse, controls.controls):
    app.command()(report_errors(with_server(command)))


@app.command()
@report_errors
@with_server
def run(
    config: Config = None,
    set_: Overrides = None,
    home: Home = None,
    device: Device = "auto",
    growth: Annotated[
        Growth,
        typer.Option(
            help="How to go on from the newest run of the same name. anew: take no notice of it. "
            "encode: keep its SAE, and take in new documents alone. retrain: keep its activations, "
            "and train on all documents from the seed. retrain-warm: the same, from its SAE."
        ),
    ] = "anew",
    engine: Engine = "threads",
    workers: Workers = 1,
    again: Annotated[
        str | None,
        typer.Option(
            "--again",
            metavar="RUN",
            help="Repeat a run of the store, with its configuration: what is damaged of it is made "
            "anew.",
        ),
    ] = None,
) -> None:
    """Take a language model apart and print what was found; what is done comes from cache."""
    begun = time.monotonic()
    if again is None:
        settings = load(config, set_ or [])
    elif config is None and not set_:
        settings, growth = executed(home, again)
    else:
        raise ConfigError(
            f"--again {again!r} has a configuration of its own; leave CONFIG and --set out"
        )
    root = started(home, settings, device, growth == "anew")
    run_and_print(begun, root, settings, device, growth, engine, workers)


@app.command()
@report_errors
def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Texts: a CSV, JSONL or Parquet file, a folder of texts, or hub:<data set>.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A folder or a hub id.", show_default="the embedded Gemma 3 270M"
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The subset of a hub data set that has several."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write; '-' prints it.",
            show_default="in this folder, named after SOURCE",
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Write a configuration for your own texts and model, with the reason for each value."""
    from deconstruct.suggest import default_file, suggest

    printed = str(output) == "-"
    file = output or default_file(source)
    if not printed:
        check_place(file, "--output")
        if file.exists():
            raise ConfigError(f"{str(file)!r} is there already; name another file with --output")
    root = None
    if (model is None or model.startswith("embedded:")) and data_root(home).is_dir():
        root = DataRoot(data_root(home))  # where it may have been unpacked
    page = suggest(source, model, subset, root)
    if printed:
        sys.stdout.write(lines(page))
        return
    with render.whole(file) as path:
        path.write_text(page, encoding="utf-8")
    say(f"{file} is written; look it over, then")
    say(f"  deconstruct run {quoted(str(file))}")


@app.command()
@report_errors
def plan(
    config: Config = None,
    set_: Overrides = None,
    home: Home = None,
    device: Device = "auto",
    growth: Annotated[Growth, typer.Option(help="As for 'run'.")] = "anew",
    format_: Json = "table",
) -> None:
    """Say what a run would do: what comes from cache, what is made, why, and how long it takes."""
    settings = load(config, set_ or [])
    root = DataRoot(data_root(home))
    environment.apply(root.path, quiet=True)
    speak()
    with importing():
        from flows import pipeline
        from flows.summary import plan_record, print_plan
    plans = pipeline.plan(root, settings, device, growth)
    if format_ == "json":
        return say_json(plan_record(plans))
    print_plan(plans)


@app.command()
@report_errors
@with_server
def sweep(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A TOML file with a table [sweep].")
    ],
    set_: Overrides = None,
    home: Home = None,
    device: Device = "auto",
    engine: Annotated[
        EngineName,
        typer.Option(
            help="What computes the parts where --workers is above 1; threads train all SAEs in "
            "one pass."
        ),
    ] = "threads",
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_WORKERS, help="Compute this many parts at once.")
    ] = 1,
) -> None:
    """Train many SAEs in one pass over the activations, and print their Pareto front."""
    begun = time.monotonic()
    from deconstruct.config.sweep import load_sweep

    settings = load_sweep(config, set_ or [])
    root = started(home, settings, device)
    from flows.local import run_here
    from flows.summary import print_front
    from flows.sweep import sweep as flow

    run_here(
        flow,
        config=settings,
        home=str(root),
        device=device,
        engine={"kind": engine, "workers": workers},
    )
    tell(f"finished in {time.monotonic() - begun:.0f} s")
    print_front(root, settings.name)


@app.command()
@report_errors
@with_server
def serve(
    home: Home = None,
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Port of the server and its UI, on this machine.")
    ] = 4200,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="Start workers for a GPU's work, or none.",
            show_default="one per CUDA device",
        ),
    ] = None,
) -> None:
    """Start a Prefect server with its UI, schedules and workers here; Ctrl-C ends them all."""
    from flows.serve import serving

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        serving(data_root(home), port, _gpus(gpu), tell) as served,
    ):
        tell("ready; Ctrl-C ends it")
        while True:
            served.tend()
            time.sleep(TEND_SECONDS)


def _gpus(wanted: bool | None) -> int:
    """How many workers of pool gpu to start."""
    if wanted is False:
        return 0
    import torch

    return max(torch.cuda.device_count(), int(wanted is True))


@app.command()
@report_errors
@with_server
def retry(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a failed run, or its end, or its name.")
    ] = "latest",
    home: Home = None,
) -> None:
    """Repeat a run that failed or was killed; what it had finished comes from cache.

    If a worker of its deployment is online, that one takes it; otherwise it runs here.
    """
    root = data_root(home)
    DataRoot(root)
    environment.apply(root, quiet=True)
    speak()
    if not environment.has_history():
        raise DeconstructError(f"no run has failed in {str(root)!r}; there is nothing to retry")
    server = environment.start_server()
    if server is None:
        check_server()
    with importing():
        from flows.liveness import mark_crashed, short
        from flows.retry import choose, failed_runs
        from flows.retry import retry as again
        from flows.summary import print_summary

    if server is not None:
        server.wait()
    mark_crashed(root)
    chosen = choose(failed_runs(root), run)
    tell(f"retry        {chosen.name} ({short(chosen)})")
    results = again(chosen)
    if results is None:
        tell("a worker of its deployment takes it; the UI shows how it goes")
        return
    for result in results:
        print_summary(root, result.run_id)


@app.command()
@report_errors
def doctor(home: Home = None, format_: Json = "table") -> None:
    """Say what this machine has: versions, device, hub, disk space, and what is in the cache."""
    from deconstruct.doctor import examine

    findings = list(examine(data_root(home)))
    sound = all(finding.sound for finding in findings)
    if format_ == "json":
        say_json({"sound": sound, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark = Text("ok", "green") if finding.sound else Text("no", "red")
            table.add_row(mark, Text(finding.subject, "bold"), finding.found)
        terminal().print(table)
    if not sound:
        raise typer.Exit(1)
