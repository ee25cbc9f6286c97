"""Publishing a run: its rows go into the store, and readers never notice but by the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import StorageError
from deconstruct.common.paths import absolute
from deconstruct.config import STAGES
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.load import RunRecord, load_run
from deconstruct.store.migrate import migrate
from deconstruct.store.reading.checks import check_artifacts
from deconstruct.store.rewrite import FILE, rewriting


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
