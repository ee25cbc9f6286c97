"""The commands that look at what a run found: explore, notes."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from deconstruct.commands import Home, Safe, aside, check_place, report_errors, safely
from deconstruct.common.showing import Plain, say
from deconstruct.explorer import PORT
from deconstruct.store import QueryError, open_store, render, resolve_run
from deconstruct.store.query import data_root
from deconstruct.store.render import format_of, opened


@report_errors
def explore(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="The run to begin with: an id or its beginning, a name, NAME@SITE, 'latest'.",
            show_default="a page of all runs",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port on this machine; 0: any that is free.")
    ] = PORT,
    home: Home = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Look around in the runs, in a browser: latents, texts, clusters, labels. Ctrl-C ends it.

    Pages are served to this machine alone, and write nothing but your stars and notes.
    """
    root = data_root(home)
    with open_store(root, files=False, verify=False) as store:
        path = f"/run/{resolve_run(store, run)}" if run else "/"
    from deconstruct.explorer import server  # takes a second, which a sentence need not wait for

    def ready(url: str) -> None:
        say(f"explorer  {url}{path}")
        say("ready; Ctrl-C ends it")
        if open_:
            webbrowser.open(f"{url}{path}")

    server.explore(root, port, ready)


@aside("safe", Safe, safely)
@report_errors
def notes(
    home: Home = None,
    format_: Annotated[
        render.Format | None,
        typer.Option(
            "--format",
            help="How they are written.",
            show_default="table, or by the ending of --output",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write to this file: .csv, .json, .parquet, or .txt for the table."),
    ] = None,
) -> None:
    """Show the stars and notes that were made in the explorer, or write them to a file."""
    import duckdb
    import pyarrow as pa

    from deconstruct.explorer.notes import FIELDS, Notes

    check_place(output, "--output")
    format_ = format_of(format_, output)
    if safely.get() and format_ is not render.Format.csv:
        raise QueryError(f"--safe is for CSV, not for {format_}; leave it out")
    found = Notes(data_root(home)).all()
    kinds = {"latent": pa.int64(), "starred": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])
    columns: list[list[Any]] = [list(column) for column in zip(*found, strict=True)]
    table = pa.table(columns or [[] for _ in FIELDS], schema=schema)
    with duckdb.connect() as connection, opened(output, format_) as (path, stream):
        connection.register("notes", table)
        if format_ is render.Format.parquet and path is not None:
            render.write_parquet(connection.sql("FROM notes"), path)
            return
        result = connection.execute("FROM notes")
        if format_ is render.Format.csv:
            render.write_csv(result, stream, safely.get())
        elif format_ is render.Format.json:
            render.write_json(result, stream)
        else:
            console = Plain(file=stream, width=render.WIDEST) if path else render.terminal()
            render.write_table(result, console, len(found) or 1, False)
