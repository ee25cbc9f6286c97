"""What all commands share: options, how errors and versions are said, how help is laid out."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import duckdb
import typer
from typer.core import TyperGroup

from deconstruct.common.errors import DeconstructError, of_files
from deconstruct.common.showing import say
from deconstruct.store import QueryError, pages

Home = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="The data root: the folder with the cache and the store.",
        show_default="$DECONSTRUCT_HOME or ./data",
    ),
]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or its beginning, a name, NAME@SITE, either of them with /ANALYSIS, or "
        "'latest'.",
    ),
]
Json = Annotated[
    Literal["table", "json"],
    typer.Option("--format", help="table is for people; json is one object, for programs."),
]
MOST = 10**9
"""The largest number on the command line: more rows, tokens or hours than anybody shows."""
Verify = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="Check every file that is read by its SHA-256, or none.",
        show_default="files that have changed, or were not checked within a week",
    ),
]
Safe = Annotated[
    bool,
    typer.Option(
        "--safe",
        help="CSV: a quote before each text that a spreadsheet would take for a formula.",
    ),
]
ORDER = (
    *("init", "plan", "run", "analyse", "retry", "sweep", "controls"),
    *("runs", "report", "explore", "show", "latent", "try", "notes"),
    *("sql", "match", "steer", "absorption", "explain"),
    *("export", "push"),
    *("serve", "doctor", "config", "verify", "gc"),
)
"""Of commands in the help and in docs/commands.md; others follow."""
P = ParamSpec("P")
R = TypeVar("R")


class Listed(TyperGroup):
    """A command with others below it, each with its first sentence, whole."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which a newcomer needs them, whatever module they come from."""
        places = {name: place for place, name in enumerate(ORDER)}
        return sorted(self.commands, key=lambda name: places.get(name, len(ORDER)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As click does, which cuts the sentences at 45 characters."""
        listed = self.list_commands(ctx)
        told = {name: " ".join((self.commands[name].help or "").split()) for name in listed}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, text.partition(". ")[0].rstrip(".")) for name, text in told.items()]
            )


def check_place(file: Path | None, what: str) -> None:
    """Raise ``QueryError``, before the work, if a file can't be made where it is to be."""
    if file is None:
        return
    if file.is_dir():
        raise QueryError(f"{what} {str(file)!r} is a folder; name a file")
    if not file.absolute().parent.is_dir():
        raise QueryError(f"{what} {str(file)!r}: there is no folder {str(file.parent)!r}; make it")


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """End with exit code 1 and one sentence on stderr where a `DeconstructError` is raised."""

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            found = command(*args, **kwargs)
            sys.stdout.flush()  # here, where somebody hears that nobody reads on
            return found
        except DeconstructError as error:
            say(f"error: {error}", error=True)
            raise typer.Exit(1) from error
        except duckdb.Error as error:
            say(f"error: {pages.sentence(error)}", error=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            say("interrupted", error=True)
            raise typer.Exit(130) from error
        except BrokenPipeError:  # the reader of our output (head, less) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            sentence = of_files(error)
            if sentence is None:
                raise
            say(f"error: {sentence}", error=True)
            raise typer.Exit(1) from error

    return reporting


verifying: ContextVar[bool | None] = ContextVar("verify", default=None)
"""Whether the command that runs was told to digest every file, or none."""
safely: ContextVar[bool] = ContextVar("safe", default=False)
"""Whether it was told that no text may be taken for a formula."""


def aside(name: str, option: Any, holder: ContextVar[Any]) -> Callable[[Callable[P, R]], Any]:
    """Give a command an option that ``holder`` holds while it runs, in place of a parameter."""

    def give(command: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            holder.set(kwargs.pop(name, holder.get()))
            return command(*args, **kwargs)

        named, kind = list(signature.parameters.values()), inspect.Parameter.KEYWORD_ONLY
        named.append(inspect.Parameter(name, kind, default=holder.get(), annotation=option))
        told.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        return told

    return give


looks_first = aside("verify", Verify, verifying)


def say_version(wanted: bool) -> None:
    """The callback of ``--version``."""
    if wanted:
        say(f"deconstruct {version('deconstruct')}")
        raise typer.Exit
