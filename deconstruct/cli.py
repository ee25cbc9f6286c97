"""The commands of ``deconstruct`` that look after the store: runs, show, latent, sql, verify, gc.

They import neither torch nor Prefect, and answer in a fraction of a second. The commands that run
things are registered on the same ``app`` elsewhere.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import duckdb
import typer

from deconstruct.asking import explain
from deconstruct.commands import (
    MOST,
    Home,
    Json,
    Listed,
    Run,
    Safe,
    aside,
    check_place,
    looks_first,
    report_errors,
    safely,
    say_version,
    verifying,
)
from deconstruct.common.errors import StorageError
from deconstruct.common.showing import Plain, say, say_json
from deconstruct.examining import absorption, match, steer
from deconstruct.looking import explore, notes
from deconstruct.reporting import report
from deconstruct.sharing import export, push
from deconstruct.store import (
    QueryError,
    collect,
    garbage,
    open_store,
    pages,
    records,
    remote_garbage,
    remove_runs,
    render,
    resolve_run,
)
from deconstruct.store.interrupt import interruptible
from deconstruct.store.query import check_query, gives_rows, is_silent, misnamed_runs
from deconstruct.store.remove import UNUSED_HOURS
from deconstruct.store.render import format_of, opened
from deconstruct.trying import open_card, try_

# Without rich's markup, which takes [...] out of a help text.
app = typer.Typer(
    cls=Listed,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def command(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=say_version, is_eager=True, help="Say which version this is."
        ),
    ] = False,
) -> None:
    """Takes a language model apart: trains SAEs on its activations, and answers in SQL."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of few letters shows the rest
            stream.reconfigure(errors="backslashreplace")


runs_app = typer.Typer(cls=Listed)
app.add_typer(runs_app, name="runs")


@runs_app.callback(invoke_without_command=True)
@report_errors
def runs(
    context: typer.Context,
    home: Home = None,
    rows: Annotated[int, typer.Option(min=1, max=MOST, help="Show at most this many runs.")] = 50,
    format_: Json = "table",
) -> None:
    """List the runs, newest first, with their main figures; 'runs rm' takes runs out."""
    context.obj = home
    if context.invoked_subcommand is None:
        with open_store(home, files=False, verify=False) as connection:
            if format_ == "json":
                return say_json(records.runs(connection, rows))
            render.terminal().print(*pages.runs(connection, rows), sep="\n")


@runs_app.command()
@report_errors
def rm(
    context: typer.Context,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids or names, as for 'show'.")
    ],
    home: Home = None,
) -> None:
    """Take runs out of the store. Their artifacts stay until 'deconstruct gc --delete'."""
    for run_id in remove_runs(home or context.obj, runs):
        say(f"run {run_id} is removed")
    say(
        "its artifacts are still there: 'deconstruct gc' lists what no run needs, but for what was "
        "used within the last hour",
        error=True,
    )


@app.command()
@looks_first
@report_errors
def show(run: Run = "latest", home: Home = None, format_: Json = "table") -> None:
    """Show what one run found: its stages, metrics, probes with their baselines, and clusters."""
    with open_store(home, files=False, verify=False) as connection:
        run_id = resolve_run(connection, run)
        check_query(connection, home, pages.READ_BY_SHOW, run_id=run_id, verify=verifying.get())
        if format_ == "json":
            return say_json(records.show(connection, run_id))
        render.terminal().print(*pages.show(connection, run_id), sep="\n")


@app.command()
@looks_first
@report_errors
def latent(
    run: Run,
    number: Annotated[
        int, typer.Argument(metavar="N", min=0, max=MOST, help="Number of the latent.")
    ],
    home: Home = None,
    contexts: Annotated[
        int, typer.Option(min=1, max=MOST, help="Show at most this many contexts.")
    ] = 10,
    width: Annotated[
        int, typer.Option(min=0, max=MOST, help="Tokens shown on each side of a firing.")
    ] = 12,
    open_: Annotated[
        bool,
        typer.Option("--open", help="Write it as a page, say where, and open that in a browser."),
    ] = False,
    format_: Json = "table",
) -> None:
    """Show one latent: how often it fires, on which tokens, and in which contexts most strongly."""
    console = render.terminal()
    with open_store(home, files=False, verify=False) as connection:
        run_id = resolve_run(connection, run)
        check_query(connection, home, pages.READ_BY_LATENT, run_id=run_id, verify=verifying.get())
        if open_:
            return open_card(connection, run_id, number, home, contexts, width)
        if format_ == "json":
            return say_json(records.latent(connection, run_id, number, contexts, width))
        page = pages.latent(connection, run_id, number, contexts, width, console.is_terminal)
        console.print(*page, sep="\n")


@app.command()
@looks_first
@aside("safe", Safe, safely)
@report_errors
def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY",
            help="The query; '-' reads it from standard input. Without a query, a terminal gets a "
            "prompt with history and completion.",
        ),
    ] = None,
    home: Home = None,
    file: Annotated[Path | None, typer.Option(help="Read the query from this file.")] = None,
    format_: Annotated[
        render.Format | None,
        typer.Option(
            "--format",
            help="How the result is written.",
            show_default="table, or by the ending of --output",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write to this file. Its ending tells the form: .csv, .json and .parquet hold "
            "every row, .txt the table."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, max=MOST, help="Show at most this many rows of a table.")
    ] = 100,
    full: Annotated[bool, typer.Option("--full", help="Show long texts of a table whole.")] = False,
    files: Annotated[
        bool,
        typer.Option(
            "--files",
            help="Let the query read and write files of yours, and change settings of DuckDB.",
        ),
    ] = False,
) -> None:
    """Answer a question in SQL, from all runs, read-only.

    "FROM duckdb_columns()" lists tables and columns, docs/macros.md ready-made questions.
    """
    if query is None and file is None and output is None and sys.stdin.isatty():
        from deconstruct.store.prompt import ask_on

        with open_store(home, files=files, verify=False) as connection:
            look = partial(check_query, connection, home, verify=verifying.get())
            ask_on(connection, render.terminal(), rows, full, look=look)
        return
    text = _query_text(query, file)
    check_place(output, "--output")
    format_ = format_of(format_, output)
    if safely.get() and format_ is not render.Format.csv:
        raise QueryError(f"--safe is for CSV, not for {format_}; leave it out")
    with open_store(home, files=files, verify=False) as connection:
        check_query(connection, home, text, verify=verifying.get())
        for note in misnamed_runs(connection, text):
            say(f"note: {note}", error=True)
        interruptible(connection, lambda: _answer(connection, text, format_, output, rows, full))


def _answer(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    format_: render.Format,
    output: Path | None,
    rows: int,
    full: bool,
) -> None:
    """Run the statements of a query and write what they answer; a file whole or not at all."""
    statements = connection.extract_statements(text)
    asked = [statement for statement in statements if gives_rows(statement)]
    if format_ is not render.Format.table and len(asked) != 1:
        raise QueryError(
            f"--format {format_} holds one answer, and the query has {len(asked)} statements that "
            "give one; ask them one by one"
        )
    with opened(output, format_) as (path, stream):
        console = Plain(file=stream, width=render.WIDEST) if path else render.terminal()
        for statement in statements:
            if format_ is render.Format.parquet and statement is asked[0] and path is not None:
                count = render.write_parquet(connection.sql(statement.query), path)
                say(f"{count:,} rows in {output}", error=True)
                continue
            result = connection.execute(statement)
            if format_ is render.Format.table and not is_silent(statement):
                render.write_table(result, console, rows, full)
            elif format_ is render.Format.csv and statement is asked[0]:
                render.write_csv(result, stream, safely.get())
            elif format_ is render.Format.json and statement is asked[0]:
                render.write_json(result, stream)


app.command()(explore)
app.command()(notes)
app.command()(match)
app.command()(steer)
app.command()(absorption)
app.command()(export)
app.command()(push)
app.command()(explain)
app.command("try")(try_)
app.command()(report)


@app.command()
@report_errors
def verify(
    home: Home = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Leave out files that are unchanged and were checked within a week."
        ),
    ] = False,
) -> None:
    """Look for damage in every file of the data root, and list it.

    The exit code is 1 where something is damaged, so that cron tells you of it.
    """
    from deconstruct.store.reading.verify import verify as look

    found = look(home, quick=quick)
    for fault in found.faults:
        say(fault)
    if found.faults:
        damaged = f"{len(found.faults)} damaged of {found.files:,} files"
        raise StorageError("; ".join(filter(None, (damaged, found.remedy))))
    say(f"{found.files:,} files of {found.artifacts:,} artifacts, and the store, are sound")


@app.command()
@report_errors
def gc(
    home: Home = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also what interrupted stages would go on from.")
    ] = False,
    remote: Annotated[
        bool,
        typer.Option(
            "--remote",
            help="Look into DECONSTRUCT_REMOTE instead. Only the runs of this data root count: "
            "other data roots may need what this one does not.",
        ),
    ] = False,
    unused_hours: Annotated[
        float, typer.Option(min=0, max=MOST, help="Keep what was used within this many hours.")
    ] = UNUSED_HOURS,
    format_: Json = "table",
) -> None:
    """List artifacts that no run needs, in the store or running; --delete removes them."""
    if remote:
        found = remote_garbage(home, unused_hours=unused_hours)
    else:
        found = garbage(home, partial=partial, unused_hours=unused_hours)
    if delete:
        found = collect(home, found)
    listed = {thing.path for thing in found}
    fresh = _fresh(home, partial, remote, listed) if unused_hours else 0
    if format_ == "json":
        return say_json(records.garbage(found, delete, fresh))
    if found:
        render.terminal().print(pages.garbage(found))
    total = sum(thing.bytes for thing in found) / 1e6
    if delete:
        say(f"removed {total:,.1f} MB")
    else:
        say(f"{total:,.1f} MB can go" + ("; --delete removes them" if found else ""))
    if fresh:
        within = "hour" if unused_hours == 1 else f"{unused_hours:g} hours"
        say(
            f"{fresh / 1e6:,.1f} MB more are needed by no run, but were used within the last "
            f"{within}, so they stay; --unused-hours 0 takes them too",
            error=True,
        )


def _fresh(home: str | None, partial: bool, remote: bool, listed: set[Path]) -> int:
    """How many bytes more no run needs, which were used of late."""
    if remote:
        unneeded = remote_garbage(home, unused_hours=0)
    else:
        unneeded = garbage(home, partial=partial, unused_hours=0)
    return sum(thing.bytes for thing in unneeded if thing.path not in listed)


def _query_text(query: str | None, file: Path | None) -> str:
    if query not in (None, "-") and file is not None:
        raise QueryError("the query is given twice, as argument and with --file; leave one out")
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise QueryError(f"--file {str(file)!r} can't be read: {error}") from error
    elif query in (None, "-"):
        text = sys.stdin.read()
    else:
        text = str(query)
    if not text.strip():
        raise QueryError('the query is empty; write one, for example "SELECT * FROM runs"')
    return text


@app.command()
def config() -> None:
    """Print every field of a configuration with its default and meaning, as Markdown."""
    from deconstruct.config.page import page

    sys.stdout.write(page())
