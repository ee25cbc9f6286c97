"""What a finished run found, in a few lines, and what to type next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import duckdb
from rich.console import Console
from rich.table import Table

from deconstruct.common.paths import absolute
from deconstruct.store import open_store
from deconstruct.store.headlines import HEADLINES


class Figure(NamedTuple):
    """One figure of a run, with the ends of its 95% interval where it has one."""

    label: str
    value: float
    low: float | None
    high: float | None


def print_summary(home: Path, run_id: str) -> None:
    """Print the headline figures of a run, with intervals and baselines, on standard output."""
    console = Console(highlight=False)
    with open_store(str(home)) as store:
        name, site, d_sae, tokens = _one(
            store, "SELECT name, site, d_sae, training_tokens FROM runs WHERE run_id = ?", run_id
        )
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        for column in ("value", "interval"):
            table.add_column(column, justify="right")
        for label, value, low, high in _figures_of(store, run_id):
            table.add_row(label, *_shown(value, low, high))
        latent = store.execute(
            "SELECT latent FROM probe_weights WHERE run_id = ? AND effect > 0 "
            "ORDER BY rank, label LIMIT 1",
            [run_id],
        ).fetchone()
    console.print(f"\n[bold]{name}[/]  {site}, {d_sae} latents, {tokens:,} training tokens")
    console.print(table)
    number = latent[0] if latent else 0
    beyond = "" if home == absolute("data") else f" --home {home}"
    command = _command()
    console.print("\n[dim]next[/]")
    console.print(f"  {command} show {run_id}{beyond}")
    console.print(f"  {command} latent {run_id} {number}{beyond}")
    question = "SELECT label, latent, effect FROM probe_weights WHERE rank <= 3"
    console.print(f'  {command} sql "{question}"{beyond}', soft_wrap=True)


def figures_of(home: Path, run_id: str) -> list[Figure]:
    """The headline figures of a run, in the order in which they are read."""
    with open_store(str(home)) as store:
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


def _shown(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    interval = "" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
    return f"{value:.3f}", interval


def print_front(home: Path, sweep: str) -> None:
    """Print the runs of a sweep by L0, those on the Pareto front of L0 and FVU marked."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "site", "architecture", "d_sae", "seed"):
        table.add_column(column)
    for column in ("L0", "FVU", "95%", "loss recovered", "dead", "run"):
        table.add_column(column, justify="right")
    with open_store(str(home)) as store:
        rows = store.execute(
            "SELECT on_front, site, architecture, d_sae, seed, l0, fvu, fvu_low, fvu_high, "
            "loss_recovered, dead_share, run_id FROM pareto(?)",
            [sweep],
        ).fetchall()
    for front, site, architecture, d_sae, seed, l0, fvu, low, high, recovered, dead, run in rows:
        shown = [f"{n:.4f}" if n is not None else "" for n in (fvu, recovered)]
        interval = f"{low:.4f} .. {high:.4f}" if low is not None and high is not None else ""
        table.add_row(
            "*" if front else "", site, architecture, str(d_sae), str(seed),
            f"{l0:.1f}", shown[0], interval, shown[1], f"{dead:.3f}", run,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(f"\n[bold]{sweep}[/]  * on the Pareto front of L0 and FVU of its site")
    console.print(table)
    console.print(f"\n[dim]next[/]  deconstruct sql \"FROM pareto('{sweep}')\"", soft_wrap=True)
