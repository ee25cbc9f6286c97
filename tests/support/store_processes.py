"""Processes of the store's tests: a publisher that dies when told to, and a reader that loops.

python store_processes.py die HOME      reads "PHASE SEED" lines, forks, publishes, is killed
python store_processes.py read HOME     reads until standard input ends, prints what it saw
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
from support.store_artifacts import Planted, plant

from deconstruct.store import open_store, publish, rewrite

DOCUMENTS = 6
KILLED_BEFORE = (
    "locked",
    "half copied",
    "copied",
    "first row",
    "some rows",
    "commit",
    "committed",
    "checkpointed",
    "synced",
    "rename",
)
"""Phases of a publish after which the store is the old one, in their order."""
KILLED_AFTER = ("renamed", "cleared")
COUNTS = ("latents", "tokens", "features", "stages", "sae_metrics")


def planted(home: Path, seed: int) -> Planted:
    return plant(home, f"run {seed}", seed=seed, documents=DOCUMENTS)


def contents(home: Path) -> dict[str, list[int]]:
    """Names of the runs in the store, and how many rows each has in some of its relations."""
    counts = ", ".join(
        f"(SELECT count(*) FROM {table} AS t WHERE t.run_id = r.run_id)" for table in COUNTS
    )
    with open_store(home) as store:
        rows = store.execute(f"SELECT r.name, {counts} FROM runs AS r").fetchall()
    return {row[0]: list(row[1:]) for row in rows}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingConnection:
    """A connection that ends its process at a statement."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, phase: str) -> None:
        self.connection = connection
        self.phase = phase
        self.inserts = 0

    def execute(self, query: str, *values: Any) -> Any:
        self.inserts += query.startswith("INSERT")
        last_words = {
            "first row": self.inserts == 1,
            "some rows": self.inserts == 12,
            "commit": query == "COMMIT",
            "committed": query == "CHECKPOINT",
        }
        if last_words.get(self.phase):
            die()
        return self.connection.execute(query, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def arm(phase: str) -> None:
    """Have this process killed when publishing comes to ``phase``."""
    copy, connect, replace = rewrite.copy_database, rewrite._connect, os.replace
    sync, clear = rewrite.fsync, rewrite._clear

    def copying(source: Path, target: Path) -> None:
        if phase == "locked":
            die()
        if phase == "half copied":
            target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            die()
        copy(source, target)
        if phase == "copied":
            die()

    def syncing(path: Path) -> None:
        if path.suffix == ".draft" and phase == "checkpointed":
            die()
        if path.is_dir() and phase == "renamed":
            die()
        sync(path)
        if path.suffix == ".draft" and phase == "synced":
            die()

    def replacing(source: Path, target: Path) -> None:
        if phase == "rename":
            die()
        replace(source, target)

    cleared = 0

    def clearing(draft: Path) -> None:
        nonlocal cleared
        cleared += 1
        clear(draft)
        if phase == "cleared" and cleared == 2:
            die()

    rewrite.copy_database = copying
    rewrite._connect = lambda *a: DyingConnection(connect(*a), phase)  # type: ignore[assignment]
    rewrite.fsync = syncing
    rewrite._clear = clearing
    os.replace = replacing  # type: ignore[assignment]


def serve_deaths(home: Path) -> None:
    for line in sys.stdin:
        phase, seed = line.strip().rsplit(" ", 1)
        run = planted(home, int(seed))  # outside of the clock
        child = os.fork()
        if child == 0:
            if not phase.startswith("after"):
                arm(phase)
            publish(home, run.record, run.artifacts)
            os._exit(0)
        if phase.startswith("after"):
            time.sleep(float(phase.split()[1]))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), flush=True)


def read_on(home: Path) -> None:
    reads, seen, draw = 0, [], random.Random(os.getpid())
    held = open_store(home)
    first = held.execute("SELECT count(*) FROM runs").fetchall()
    stopped = False
    while not stopped:
        stopped = bool(select.select([sys.stdin], [], [], 0)[0])  # and read once more
        found = contents(home)
        assert len({tuple(counts[1:]) for counts in found.values()}) == 1, found
        assert all(all(counts) for counts in found.values()), found
        assert not seen or set(seen[-1]) <= set(found), "a run is gone"
        if not seen or set(seen[-1]) != set(found):
            seen.append(sorted(found))
        reads += 1
        time.sleep(0.02)
        if draw.random() < 0.1:
            assert held.execute("SELECT count(*) FROM runs").fetchall() == first
    print(json.dumps({"reads": reads, "states": len(seen), "runs": len(seen[-1])}), flush=True)


if __name__ == "__main__":
    {"die": serve_deaths, "read": read_on}[sys.argv[1]](Path(sys.argv[2]))
