"""What all commands share: options, how errors and versions are said, how help is laid out."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import version
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import duckdb
import typer
from typer.core import TyperGroup

from deconstruct.common.errors import DeconstructError, of_files
from deconstruct.common.showing import say
from deconstruct.store import pages

Home = Annotated[
    str | None,
    typer.Option(help="Data root.", show_default="$DECONSTRUCT_HOME or ./data"),
]
Run = Annotated[
    str, typer.Argument(help="A run_id, its beginning, a name, NAME@SITE, or 'latest'.")
]
Json = Annotated[
    Literal["table", "json"],
    typer.Option("--format", help="table: for people. json: one object, for programs."),
]
MOST = 10**9
"""That a number on the command line may be: more rows, tokens or hours than anybody shows."""
Verify = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="Digest every file that is read; or look at none.",
        show_default="those that changed, or were not looked at for a week",
    ),
]
Safe = Annotated[
    bool,
    typer.Option(
        "--safe", help="CSV: no text is taken for a formula by a spreadsheet; it gets a quote."
    ),
]
P = ParamSpec("P")
R = TypeVar("R")


class Listed(TyperGroup):
    """A command with others below it, each with its first sentence, whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As click does, which cuts the sentences at 45 characters."""
        told = {name: " ".join((one.help or "").split()) for name, one in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, text.partition(". ")[0].rstrip(".")) for name, text in told.items()]
            )


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
