"""Task of the stage store: one site's results published into the DuckDB file."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import files_said
from deconstruct.store import RunRecord, publish
from tasks.stage import Ref


@task(name="store", persist_result=False)  # nothing is read of earlier times
def store(home: str, run: RunRecord, artifacts: list[Ref]) -> str:
    """Publish ``run`` and return its run_id. Publishing again what is there changes nothing."""
    root = DataRoot(home)
    with files_said():
        return publish(Path(home), run, {ref.stage: ref.open(root) for ref in artifacts})
