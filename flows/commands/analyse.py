"""The command that judges an SAE of the store on one more corpus."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from deconstruct.commands import Home, Run
from deconstruct.recurring.analyses import analysed_again, one_analysis
from flows.commands.shared import Device, Engine, Workers, run_and_print, started


def analyse(
    run: Run,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Texts, as corpus.source names them.",
            show_default="those that the SAE was trained on",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the analysis is called.", show_default="after SOURCE"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change one field of the analysis, as in label_column=stars; may be repeated.",
        ),
    ] = None,
    home: Home = None,
    device: Device = "auto",
    engine: Engine = "threads",
    workers: Workers = 1,
) -> None:
    """Judge a run's SAE on another corpus, which trains nothing; the result is a run of its own.

    It is the run that a table [[analysis]] in the configuration would have given.
    """
    begun = time.monotonic()
    analysis = one_analysis(source, name, set_ or [])
    run_id, settings, growth = analysed_again(home, run, [analysis])
    root = started(home, settings, device, growth == "anew", trains=False)
    run_and_print(begun, root, settings, device, growth, engine, workers, run_id)
