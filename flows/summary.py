"""What a finished run found, in a few lines, and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
from rich.console import Console
from rich.text import Text

from deconstruct.common.paths import absolute
from deconstruct.store import open_store
from deconstruct.store.ddl import literal
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.render import Listing, names_of, terminal
from tasks.planning import Plan

SPARE = ("95%", "loss_recovered", "dead", "seed")
"""Columns of a sweep's front that a narrow terminal does without, the first one first."""


_RUN = """
SELECT (SELECT arg_max(n.name, n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id),
    site, d_sae, training_tokens
FROM runs WHERE run_id = ?
"""
"""By the name that it was just executed under."""


class Figure(NamedTuple):
    """One figure of a run, with the ends of its 95% interval where it has one."""

    label: str
    value: float
    low: float | None
    high: float | None


def print_summary(home: Path, run_id: str) -> None:
    """Print the headline figures of a run, with intervals and baselines, on standard output."""
    console = terminal()
    with open_store(str(home), verify=False) as store:
        name, site, d_sae, tokens = _one(store, _RUN, run_id)
        rows = [_shown(*figure) for figure in _figures_of(store, run_id)]
        latent = store.execute(
            "SELECT latent FROM probe_weights WHERE run_id = ? AND effect > 0 "
            "ORDER BY rank, label LIMIT 1",
            [run_id],
        ).fetchone()
    heading = f"  {site}, {d_sae} latents, {tokens:,} training tokens"
    console.print(Text.assemble("\n", (str(name), "bold"), heading))
    console.print(Listing(["", "", ""], rows))
    number = latent[0] if latent else 0
    question = (
        f"SELECT label, latent, effect FROM probe_weights WHERE run_id = {literal(run_id)} "
        "AND rank <= 3"
    )
    _print_next(console, home, ["show", run_id], ["latent", run_id, str(number)], ["sql", question])


def _print_next(console: Console, home: Path, *commands: list[str]) -> None:
    """What to type next, whole, for a shell in this folder."""
    beyond = [] if home == absolute("data") else ["--home", str(home)]
    console.print(Text("\nnext", style="dim"))
    for command in commands:
        console.print(Text(f"  {_command()} {_quoted([*command, *beyond])}"), soft_wrap=True)


def _quoted(arguments: list[str]) -> str:
    """Arguments for a POSIX shell, in the quotes that SQL has no use for where that is safe."""
    return " ".join(
        f'"{one}"' if "'" in one and not set(one) & set('"$`\\!') else shlex.quote(one)
        for one in arguments
    )


def figures_of(home: Path, run_id: str) -> list[Figure]:
    """The headline figures of a run, in the order in which they are read."""
    with open_store(str(home), verify=False) as store:
        return _figures_of(store, run_id)


def _figures_of(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Figure]:
    found = []
    for headline in HEADLINES:
        interval = ("NULL", "NULL") if headline.stage == "cluster" else ("ci_low", "ci_high")
        row = store.execute(headline.select("value", *interval), {"run_id": run_id}).fetchone()
        if row is not None:
            found.append(Figure(headline.label, *row))
    return found


def _command() -> str:
    """How the reader's shell finds this command: by its name, or by the path that started it."""
    if shutil.which("deconstruct"):
        return "deconstruct"
    started = Path(sys.argv[0])
    return os.path.relpath(started) if started.name == "deconstruct" else "deconstruct"


def _one(store: duckdb.DuckDBPyConnection, query: str, run_id: str) -> tuple[object, ...]:
    row = store.execute(query, [run_id]).fetchone()
    assert row is not None
    return row


def _shown(label: str, value: float, low: float | None, high: float | None) -> tuple[Text, ...]:
    interval = "" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
    return (
        Text(label, style="bold"),
        Text(f"{value:.3f}", justify="right"),
        Text(interval, justify="right"),
    )


def print_front(home: Path, sweep: str) -> None:
    """Print the runs of a sweep by L0, those on the Pareto front of L0 and FVU marked."""
    with open_store(str(home), verify=False) as store:
        result = store.execute(
            "SELECT CASE WHEN p.on_front THEN '*' ELSE '' END AS front, p.site, p.architecture, "
            "p.d_sae, p.seed, p.l0, p.fvu, "
            "printf('%.4f .. %.4f', p.fvu_low, p.fvu_high) AS \"95%\", p.loss_recovered, "
            "p.dead_share AS dead, p.run_id FROM pareto(?) AS p",
            [sweep],
        )
        table = Listing(names_of(result), result.fetchall(), spare=SPARE)
    console = terminal()
    heading = "  * on the Pareto front of L0 and FVU of its site"
    console.print(Text.assemble("\n", (sweep, "bold"), heading))
    console.print(table)
    _print_next(console, home, ["sql", f"FROM pareto({literal(sweep)})"])


def print_plan(plans: Sequence[Plan]) -> None:
    """Print what becomes of each stage, and what that takes, going by the nearest that is there."""
    console = terminal()
    seconds, size, unknown = 0.0, 0, []
    for plan in plans:
        site = f" {plan.recipe.config['site']}" if "site" in plan.recipe.config else ""
        how = Text("from cache", style="green")
        if not plan.there:
            how = Text("made: " + "; ".join(plan.differences), style="bold")
            if plan.nearest is None:
                unknown.append(plan.recipe.stage)
            else:
                seconds += plan.nearest.manifest.seconds
                size += sum(entry.bytes for entry in plan.nearest.manifest.files.values())
        console.print(Text(f"{plan.recipe.stage + site:<12} ").append(how))
    if all(plan.there for plan in plans):
        console.print("\nnothing is left to do but to note that it was asked for")
        return
    console.print(f"\nabout {seconds:,.0f} s and {size / 1e6:,.0f} MB, as the nearest took", end="")
    console.print(f"; nothing is known of {', '.join(unknown)}" if unknown else "")
