"""Publishing: rows go into the store, and readers never notice but by the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import StorageError
from deconstruct.common.paths import absolute
from deconstruct.config import STAGES
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.load import RunRecord, load_beside, load_matching, load_run
from deconstruct.store.migrate import migrate
from deconstruct.store.query import open_store
from deconstruct.store.reading.checks import check_artifacts
from deconstruct.store.rewrite import FILE, rewriting

_PAIRS = "SELECT run_id, other_run, key FROM matchings"


def run_id_of(artifacts: Mapping[str, Artifact]) -> str:
    """12 hexadecimal digits, from the keys of all stages: equal work has an equal id."""
    keys = "\n".join(f"{stage} {artifacts[stage].key}" for stage in STAGES)
    return hashlib.sha256(keys.encode()).hexdigest()[:12]


def publish(home: Path, run: RunRecord, artifacts: Mapping[str, Artifact]) -> str:
    """Put a run into ``<home>/deconstruct.duckdb`` and return its run_id.

    ``artifacts`` maps each stage's name (`STAGES`) to its artifact under ``home``. Publishing a
    run again notes one more execution, and replaces the rows that come from files. Readers keep
    what they opened; a kill at any moment leaves the store as it was before or after. Raises
    ``StorageError`` if artifacts are missing, damaged or lie elsewhere, the disk is full, or the
    store is from a newer release.
    """
    home = absolute(home)
    for stage in STAGES:
        if stage not in artifacts:
            raise StorageError(f"artifacts has no {stage!r}; publishing needs {', '.join(STAGES)}")
        if artifacts[stage].path != home / stage / artifacts[stage].key:
            raise StorageError(
                f"artifact {artifacts[stage].path} is not under home {str(home)!r}; publish it "
                "into the home that it was made in"
            )
    check_artifacts(home, artifacts.values())
    run_id = run_id_of(artifacts)
    store = home / FILE
    with rewriting(store, start_from=store) as connection:
        migrate(connection, str(store))
        load_run(connection, run_id, run, artifacts)
        create_views(connection, home)
        create_macros(connection)
    return run_id


def publish_matchings(home: Path, run_id: str, matchings: Mapping[str, Artifact]) -> None:
    """Put a run's latents beside those of others into ``<home>/deconstruct.duckdb``.

    ``matchings`` maps the run_id of each other run to the artifact of the stage matching. What is
    there of a pair is replaced; nothing is written where all of it is there. Raises
    ``StorageError`` as `publish` does, and if one of the runs is not in the store any more.
    """
    home = absolute(home)
    store = home / FILE
    check_artifacts(home, matchings.values())
    wanted = {(run_id, other, artifact.key) for other, artifact in matchings.items()}
    with open_store(home, files=False, verify=False) as reader:
        if wanted <= set(reader.execute(_PAIRS).fetchall()):
            return
    with rewriting(store, start_from=store) as connection:
        migrate(connection, str(store))
        there = {str(run) for (run,) in connection.execute("SELECT run_id FROM runs").fetchall()}
        if gone := {run_id, *matchings} - there:
            raise StorageError(
                f"run {', '.join(sorted(gone))} was removed meanwhile; name runs of 'deconstruct "
                "runs'"
            )
        for other, artifact in matchings.items():
            load_matching(connection, run_id, other, artifact)
        create_views(connection, home)
        create_macros(connection)


def publish_beside(home: Path, run_id: str, artifact: Artifact) -> None:
    """Put what a stage found of a run that is in the store (`load_beside`) beside its rows.

    Nothing is written where it is there. Raises ``StorageError`` as `publish` does, and if the run
    was removed meanwhile.
    """
    home = absolute(home)
    store = home / FILE
    check_artifacts(home, [artifact])
    with open_store(home, files=False, verify=False) as reader:
        there = reader.execute(
            "SELECT key FROM stages WHERE run_id = ? AND stage = ?", [run_id, artifact.stage]
        ).fetchall()
    if there == [(artifact.key,)]:
        return
    with rewriting(store, start_from=store) as connection:
        migrate(connection, str(store))
        if not connection.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_id]).fetchall():
            raise StorageError(
                f"run {run_id} was removed meanwhile; name one of 'deconstruct runs'"
            )
        load_beside(connection, run_id, artifact)
        create_views(connection, home)
        create_macros(connection)
