"""Latents of a run that is there, explained: the run found, the endpoint asked, rows added."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config.toml import changed
from deconstruct.explanation.endpoint import KEY_VARIABLE
from deconstruct.explanation.stage import explain
from deconstruct.store import data_root, open_store, publish_beside, resolve_run
from deconstruct.store.query import executed, stage_keys


def explain_run(
    home: Path | str | None, run: str, changes: Mapping[str, Any]
) -> tuple[str, Artifact]:
    """Explain latents of a run and publish what was answered; its id, and the artifact.

    run: as in `resolve_run`. changes: fields of `ExplanationConfig` in the place of those of the
    run's configuration. From cache the second time. Raises as `explain` does, ``QueryError`` for
    an unknown run, ``StorageError`` if its artifacts are gone.
    """
    root = DataRoot(data_root(home))
    with open_store(home, files=False, verify=False) as store:
        run_id = resolve_run(store, run)
        keys = stage_keys(store, run_id)
    config, _ = executed(home, run_id)
    if "endpoint" not in changes and os.environ.get(KEY_VARIABLE):
        raise ConfigError(
            f"the endpoint stands in the configuration of run {run_id} alone, which whoever made "
            f"that run wrote, and the key of {KEY_VARIABLE} would go there; name it by --endpoint, "
            "or unset the variable"
        )
    fields = config.explanation.model_dump(mode="json") | dict(changes)
    artifact = explain(
        root,
        changed(config, {"explanation": fields}, []).explanation,
        corpus=root.open("corpus", keys["corpus"]),
        latents=root.open("latents", keys["latents"]),
    )
    publish_beside(root.path, run_id, artifact)
    return run_id, artifact
