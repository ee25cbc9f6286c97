"""What the store costs: queries, load and publishing, on synthetic runs of a real one's shape.

    .venv/bin/python -m benchmarks.store [--home FOLDER] [--tokens 10000000] [--skip-publishing]

Makes a run of so many tokens, 32 firings each (kept in FOLDER for the next time; 10 million take
some 10 GB of disk while they are made, 4 GB after), then measures on two threads: the ready-made
questions, on latents from the densest to one that fires on a few tokens; loading into one DuckDB
file, as ``export`` does; publishing a run into a store of 1, 10 and 100 runs, in the way that we
chose and in two others. Leaves ``benchmarks/results/store.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.store_synthetic import Size, Synthetic, make
from deconstruct.store import export_run, open_store, publish
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.load import load_run
from deconstruct.store.migrate import migrate
from deconstruct.store.rewrite import FILE, rewriting

REPEATS = 5
RUNS = (1, 10, 100)
RESULTS = Path(__file__).parent / "results" / "store.json"
THREADS = 2


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def questions(home: Path) -> dict[str, Any]:
    """Milliseconds of each question: median of `REPEATS`; over several latents the worst median.

    first: the first one of a new connection, footers of all files to be read.
    """
    with open_store(home) as store:
        store.execute(f"SET threads = {THREADS}")
        latents = store.execute(
            "SELECT latent, n_fires FROM features WHERE NOT dead ORDER BY n_fires DESC, latent"
        ).fetchall()
        places = [0, 10, 100, 1000, len(latents) // 8, len(latents) // 2, len(latents) - 1]
        asked = [int(latents[min(place, len(latents) - 1)][0]) for place in places]
        fires = dict(latents)
        cases: dict[str, list[tuple[str, list[Any]]]] = {
            "top 20 contexts": [("FROM top_contexts('latest', ?)", [a]) for a in asked],
            "co-firing of two": [
                ("FROM co_firing('latest', ?, ?)", list(pair)) for pair in itertools.pairwise(asked)
            ],
            "label separation": [("FROM latents_for_label('latest', 'sport')", [])],
            "two labels": [("FROM latents_for_label('latest', 'sport', against := 'tech')", [])],
            "label enrichment": [("FROM label_enrichment('latest')", [])],
            "fires with": [("FROM fires_with('latest', ?)", [asked[2]])],
            "token enrichment": [("FROM token_enrichment('latest') WHERE latent = ?", [asked[2]])],
            "error by token": [("FROM error_by_token('latest')", [])],
        }
        found: dict[str, Any] = {"firings of the latents asked": [int(fires[a]) for a in asked]}
        for name, queries in cases.items():
            medians = [
                statistics.median(
                    timed(lambda q=query, v=values: store.execute(q, v).fetchall())
                    for _ in range(REPEATS)
                )
                for query, values in queries
            ]
            found[name] = {"worst_ms": round(max(medians), 1), "ms": [round(m, 1) for m in medians]}

    def first() -> None:
        with open_store(home) as fresh:
            fresh.execute(f"SET threads = {THREADS}")
            fresh.execute("FROM top_contexts('latest', ?)", [asked[3]]).fetchall()

    found["open and first contexts"] = {"worst_ms": round(timed(first), 1)}
    return found


def loading(home: Path, run: Synthetic) -> dict[str, Any]:
    """One run into one DuckDB file, as ``export`` does; and the bytes a firing takes where."""
    with tempfile.TemporaryDirectory(dir=home) as folder:
        target = Path(folder) / "export.duckdb"
        seconds = timed(lambda: export_run(home, "latest", target)) / 1000
        size = target.stat().st_size
    latents = run.artifacts["latents"]
    by_latent, by_token = (
        latents.file(f"{name}.parquet").stat().st_size / run.rows
        for name in ("latents", "latents_by_token")
    )
    return {
        "rows": run.rows,
        "export_rows_per_second": round(run.rows / seconds),
        "export_bytes_per_row": round(size / run.rows, 2),
        "bytes_per_row_by_latent": round(by_latent, 2),
        "bytes_per_row_by_token": round(by_token, 2),
    }


def publishing(folder: Path) -> dict[str, Any]:
    """Milliseconds to publish one more run, and to open and list all, at each number of runs.

    draft: ours, a copy of the one file is changed and renamed. in place: the one file is changed
    where it is, which no reader may have open meanwhile. file a run: a DuckDB file for each,
    which a reader attaches all. Every run has 8192 latents and five labels.
    """
    home = folder / "publishing"
    run = make(home, Size(tokens=20_000, d_sae=8192), name="small")
    found: dict[str, Any] = {}
    for way, (add, read) in {
        "draft": (_add_by_draft, _read_one),
        "in place": (_add_in_place, _read_one),
        "file a run": (_add_file, _read_files),
    }.items():
        (home / FILE).unlink(missing_ok=True)
        shutil.rmtree(home / "stores", ignore_errors=True)
        (home / "stores").mkdir()
        costs = []
        for number in range(max(RUNS) + 1):
            cost = timed(lambda n=number, a=add: a(home, f"{n:012x}", run))  # type: ignore[misc]
            if number in RUNS:
                files = [home / FILE] if (home / FILE).exists() else [*(home / "stores").iterdir()]
                costs.append(
                    {
                        "runs_before": number,
                        "publish_ms": round(cost),
                        "open_and_list_ms": round(
                            statistics.median(timed(lambda r=read: r(home)) for _ in range(3)), 1
                        ),
                        "mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
                    }
                )
        found[way] = costs
    return found


def _add_by_draft(home: Path, run_id: str, run: Synthetic) -> None:
    with rewriting(home / FILE, start_from=home / FILE) as connection:
        _fill(connection, home, run_id, run)


def _add_in_place(home: Path, run_id: str, run: Synthetic) -> None:
    with duckdb.connect(home / FILE) as connection:
        connection.execute("BEGIN")
        _fill(connection, home, run_id, run)
        connection.execute("COMMIT")


def _add_file(home: Path, run_id: str, run: Synthetic) -> None:
    with rewriting(home / "stores" / f"{run_id}.duckdb") as connection:
        _fill(connection, home, run_id, run)


def _fill(connection: duckdb.DuckDBPyConnection, home: Path, run_id: str, run: Synthetic) -> None:
    migrate(connection, str(home))
    load_run(connection, run_id, run.record, run.artifacts)
    create_views(connection, home)
    create_macros(connection)


def _read_one(home: Path) -> None:
    with duckdb.connect(home / FILE, read_only=True) as connection:
        connection.execute("SELECT run_id, fvu FROM runs").fetchall()


def _read_files(home: Path) -> None:
    with duckdb.connect() as connection:
        names = []
        for number, file in enumerate(sorted((home / "stores").glob("*.duckdb"))):
            connection.execute(f"ATTACH '{file}' AS s{number} (READ_ONLY)")
            names.append(f"SELECT run_id, fvu FROM s{number}.runs")
        connection.execute(" UNION ALL ".join(names)).fetchall()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--skip-publishing", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.home or Path(scratch) / "home"
        run = make(home, Size(arguments.tokens))
        milliseconds = timed(lambda: publish(home, run.record, run.artifacts))
        found: dict[str, Any] = {
            "machine": platform.processor() or platform.machine(),
            "duckdb": duckdb.__version__,
            "tokens": arguments.tokens,
            "firings": run.rows,
            "order_and_write_firings_per_second": (
                round(run.rows / run.seconds) if run.seconds == run.seconds else None
            ),
            "publish_ms": round(milliseconds),
            "questions": questions(home),
            "loading": loading(home, run),
        }
        if not arguments.skip_publishing:
            found["publishing"] = publishing(Path(scratch))
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
