"""The command that draws what a run found: report."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deconstruct.commands import Home, check_place, report_errors
from deconstruct.common.showing import say
from deconstruct.store import QueryError, open_store, resolve_run
from deconstruct.store.query import data_root, report_file

if TYPE_CHECKING:
    import duckdb


@report_errors
def report(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run's id or its beginning, a name, NAME@SITE, either of them with /ANALYSIS.",
            show_default="latest",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The page to write.", show_default="reports/RUN_ID.html in HOME"
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Save the figures there instead, each as SVG, PNG, PDF, and its data as CSV.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The run to compare with, as RUN.",
            show_default="the one before of the same name and site",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="In place of a run: how the last 30 runs of a name went."
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Write a page about a run: one HTML file that opens from disk and needs nothing else.

    The last line is its address. A run writes its page by itself, at its end.
    """
    _check(run, output, figures, compare, name)
    with open_store(home, files=False) as store:
        if figures is not None:
            made = _figures(store, resolve_run(store, run or "latest"), figures)
        elif name is not None:
            made = _trend(store, name, output, home)
        else:
            made = _page(store, run or "latest", compare, output, home)
    url = made.resolve().as_uri()
    if open_:
        webbrowser.open(url)
    say(url)


def _check(
    run: str | None,
    output: Path | None,
    figures: Path | None,
    compare: str | None,
    name: str | None,
) -> None:
    """Raise ``QueryError`` for what does not go together, or can't be written."""
    check_place(output, "--output")
    if name is not None:
        others = {"RUN": run, "--compare": compare, "--figures": figures}
        for option, given in others.items():
            if given is not None:
                raise QueryError(
                    f"--name {name!r} is about all its runs; leave {option} {str(given)!r} out"
                )
    if figures is None:
        return
    for option, other in {"--output": output, "--compare": compare}.items():
        if other is not None:
            raise QueryError(
                f"--figures saves the figures alone; leave {option} {str(other)!r} out"
            )
    if figures.exists() and not figures.is_dir():
        raise QueryError(f"--figures {str(figures)!r} is a file; name a folder")


def _page(
    store: duckdb.DuckDBPyConnection,
    run: str,
    compare: str | None,
    output: Path | None,
    home: str | None,
) -> Path:
    from deconstruct.report import page

    run_id = resolve_run(store, run)
    base = None if compare is None else resolve_run(store, compare)
    if base == run_id:
        raise QueryError(f"--compare {compare!r} is the run itself, {run_id}; name another")
    return page.write(store, run_id, output or report_file(data_root(home), run_id), base)


def _trend(
    store: duckdb.DuckDBPyConnection, name: str, output: Path | None, home: str | None
) -> Path:
    from deconstruct.report import trend

    return trend.write(store, name, output or trend.place(data_root(home), name))


def _figures(store: duckdb.DuckDBPyConnection, run_id: str, folder: Path) -> Path:
    from deconstruct.report.files import saving

    for name, files, missing in saving(store, run_id, folder):
        if missing:
            say(f"left out: {missing}", error=True)
        else:
            say(f"{folder / name} ({', '.join(file.suffix[1:] for file in files)})")
    return folder
