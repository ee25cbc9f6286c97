"""The command that reads any text with a run: try; and a latent's card, opened in a browser."""

from __future__ import annotations

import math
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from rich.text import Text

from deconstruct.commands import MOST, Home, Json, Run, report_errors
from deconstruct.common.errors import StorageError
from deconstruct.common.showing import say, say_json
from deconstruct.store.query import data_root
from deconstruct.store.render import Listing, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from deconstruct.firing import Firings, Top
    from deconstruct.report.card import Card

ON_A_TOKEN = 3
"""Latents that are shown beside each token."""


@report_errors
def try_(
    run: Run,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="Any text; '-' reads it from standard input.")
    ],
    other: Annotated[
        str | None,
        typer.Option(
            "--not", metavar="TEXT", help="Another text: which latents fire on the first alone?"
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=MOST, help="Latents that are listed.")] = 10,
    by: Annotated[
        Literal["activation", "lift", "label"],
        typer.Option(
            "--by",
            help="Order of the latents: activation, the strongest; lift, that over the latent's "
            "mean where it fires in the corpus; label, by what they add to the probe's log odds.",
        ),
    ] = "activation",
    home: Home = None,
    format_: Json = "table",
) -> None:
    """Read any text with a run's model and SAE: which latents fire on it, where, how strongly.

    The text is read as the run's corpus was, and its model must be there. What the probe says of a
    text is the less to be trusted the shorter that is: it was fitted on whole documents.
    """
    from deconstruct.firing import fire

    text = sys.stdin.read() if text == "-" else text
    found = fire(run, [text] if other is None else [text, other], home)
    only = None if other is None else found.only_in(0, 1, n)
    top = found.top(n, by, text=0)
    if format_ == "json":
        return say_json(_tried_record(found, top, only))
    terminal().print(*_tried(found, top, by, only), sep="\n")


def _tried(
    found: Firings, top: Sequence[Top], by: str, only: Sequence[Top] | None
) -> list[RenderableType]:
    """The page of a text that was tried."""
    read = found.texts[0]
    rows = [
        (repr(token), *(f"{latent} ({strength:.4g})" for latent, strength in here))
        for place, token in enumerate(read.tokens)
        if (here := found.on_token(0, place, ON_A_TOKEN)) or read.recorded[place]
    ]
    rows = [(*row, *[""] * (1 + ON_A_TOKEN - len(row))) for row in rows]
    page: list[RenderableType] = [
        Text(f"{len(rows)} tokens, read by run {found.run_id}", style="bold"),
        Text(""),
        Listing(["token", "strongest latent", "second", "third"], rows),
    ]
    if read.left_out:
        page.append(Text(f"{read.left_out:,} tokens after these are left out: corpus.max_tokens"))
    page += [Text(""), _latents(top, f"Latents by {by}")]
    if odds := found.log_odds(0):
        said = sorted(odds.items(), key=lambda pair: -pair[1])
        title = "What the probe says of it: log odds against all other labels"
        page += [Text(""), Listing(["label", "log odds"], said, title)]
    if only is not None:
        page += [Text(""), _latents(only, "Latents that fire on it, and not on the other text")]
        if not only:
            page.append(Text("none"))
    return page


def _latents(top: Sequence[Top], title: str) -> Listing:
    named = any(row.label is not None for row in top)
    names = ["latent", "activation", "on", "usual", "lift", "density", "most often on"]
    rows = [
        (
            row.latent, row.activation, repr(row.token), row.usual,
            row.lift if math.isfinite(row.lift) else "new", row.density,
            "" if row.top_token is None else repr(row.top_token),
            *((row.label, row.push) if named else ()),
        )
        for row in top
    ]  # fmt: skip
    names += ["label", "adds"] if named else []
    return Listing(names, rows, title, spare=("density", "usual"))


def _tried_record(found: Firings, top: Sequence[Top], only: Sequence[Top] | None) -> dict[str, Any]:
    """The same for programs, with every firing."""
    texts = [
        {
            "text": read.text,
            "left_out": read.left_out,
            "tokens": [
                {
                    "position": int(read.position[place]),
                    "token_id": int(read.ids[place]),
                    "token": token,
                    "recorded": bool(read.recorded[place]),
                    "latents": [
                        {"latent": latent, "activation": strength}
                        for latent, strength in found.on_token(number, place)
                    ],
                }
                for place, token in enumerate(read.tokens)
            ],
            "log_odds": found.log_odds(number),
        }
        for number, read in enumerate(found.texts)
    ]
    record: dict[str, Any] = {"run_id": found.run_id, "texts": texts}
    record["top"] = [row._asdict() for row in top]
    if only is not None:
        record["only"] = [row._asdict() for row in only]
    return record


def open_card(
    store: duckdb.DuckDBPyConnection, run_id: str, number: int, home: str | None,
    contexts: int, width: int,
) -> None:  # fmt: skip
    """Write the card of a latent as a page of its own, say where it is, and open it in a browser if
    there is one."""
    from deconstruct.report.card import card

    made = card(store, run_id, number, contexts=contexts, width=width)
    where = _written(made, f"{run_id}-latent-{number}.html", home)
    say(str(where))
    with suppress(webbrowser.Error, OSError):
        webbrowser.open(where.as_uri())


def _written(made: Card, name: str, home: str | None) -> Path:
    """Among the data root's reports; where that can't be written, in a folder of its own."""
    try:
        folder = data_root(home) / "reports"
        folder.mkdir(exist_ok=True)
        return made.write(folder / name)
    except (StorageError, OSError):  # a URL, or a data root of somebody else
        return made.write(Path(tempfile.mkdtemp(prefix="deconstruct-")) / name)
