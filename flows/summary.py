"""What a finished run found, in a few lines, and what to type next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from deconstruct.store import open_store

HEADLINES = {
    "fvu": "fraction of variance unexplained",
    "l0": "latents that fire on a token",
    "dead_share": "share of latents that never fire",
    "delta_loss": "what the reconstruction costs the model, nats",
    "loss_recovered": "loss recovered, against zero ablation",
    "loss_recovered_mean": "loss recovered, against mean ablation",
}
REPRESENTATIONS = ("latents", "activations", "tfidf", "majority")


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
        for metric, label in HEADLINES.items():
            found = store.execute(
                "SELECT value, ci_low, ci_high FROM sae_metrics WHERE run_id = ? AND metric = ?",
                [run_id, metric],
            ).fetchone()
            if found is not None:
                table.add_row(label, *_figures(*found))
        for representation in REPRESENTATIONS:
            found = store.execute(
                "SELECT value, ci_low, ci_high FROM probes WHERE run_id = ? AND k IS NULL "
                "AND label IS NULL AND metric = 'accuracy' AND representation = ?",
                [run_id, representation],
            ).fetchone()
            if found is not None:
                table.add_row(f"probe accuracy on {representation}, held out", *_figures(*found))
        for metric in ("nmi", "silhouette"):
            found = store.execute(
                "SELECT value FROM cluster_metrics WHERE run_id = ? AND metric = ?",
                [run_id, metric],
            ).fetchone()
            if found is not None:
                table.add_row(f"clusters: {metric}", f"{found[0]:.3f}")
        latent = store.execute(
            "SELECT latent FROM probe_weights WHERE run_id = ? AND effect > 0 "
            "ORDER BY rank, label LIMIT 1",
            [run_id],
        ).fetchone()
    console.print(f"\n[bold]{name}[/]  {site}, {d_sae} latents, {tokens:,} training tokens")
    console.print(table)
    number = latent[0] if latent else 0
    beyond = "" if home == Path("data").absolute() else f" --home {home}"
    command = _command()
    console.print("\n[dim]next[/]")
    console.print(f"  {command} show {run_id}{beyond}")
    console.print(f"  {command} latent {run_id} {number}{beyond}")
    question = "SELECT label, latent, effect FROM probe_weights WHERE rank <= 3"
    console.print(f'  {command} sql "{question}"{beyond}', soft_wrap=True)


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


def _figures(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    interval = "" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
    return f"{value:.3f}", interval
