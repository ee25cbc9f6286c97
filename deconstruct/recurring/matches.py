"""Runs whose latents are matched: found in the store, matched, and put into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.matching.stage import match
from deconstruct.store import QueryError, data_root, open_store, publish_matchings, resolve_run
from deconstruct.store.query import stage_keys


@dataclass(frozen=True)
class Matched:
    """A pair of runs, as ids of the store, and what the stage matching found of their latents."""

    run_id: str
    other_run: str
    matching: Artifact


def match_runs(home: Path | str | None, run: str, others: Sequence[str]) -> list[Matched]:
    """Match a run's latents with those of others, each by itself, and publish what was found.

    ``run`` and ``others`` as in `resolve_run`. Of equal pairs, what is there comes from cache, and
    a store that has it stays as it is. Raises ``QueryError``, before any work, for a run that is
    not there, the same run twice, or models of different width; ``StorageError`` for artifacts
    that are gone.
    """
    root = DataRoot(data_root(home))
    with open_store(home, files=False, verify=False) as store:
        own = resolve_run(store, run)
        ids = list(dict.fromkeys(resolve_run(store, other) for other in others))
        if own in ids:
            raise QueryError(f"{run!r} is the run {own} itself; name other runs to match it with")
        for other in ids:
            _check_width(store, own, other)
        stages = {one: _artifacts(store, root, one) for one in (own, *ids)}
    found = []
    for other in ids:
        sae, latents = stages[own]
        other_sae, other_latents = stages[other]
        matching = match(
            root, sae=sae, latents=latents, other_sae=other_sae, other_latents=other_latents
        )
        found.append(Matched(own, other, matching))
    publish_matchings(root.path, own, {one.other_run: one.matching for one in found})
    return found


def _check_width(store: duckdb.DuckDBPyConnection, own: str, other: str) -> None:
    """Raise ``QueryError`` if the directions of two runs differ in width.

    Of transcoders, whose directions are as wide as another site, the stage itself finds out.
    """
    found = store.execute(
        "SELECT r.d_in, r.model FROM runs AS r JOIN stages AS s ON s.run_id = r.run_id "
        "WHERE r.run_id IN ($own, $other) AND s.stage = 'sae' "
        "AND s.facts ->> '$.output_site' IS NULL ORDER BY r.run_id <> $own",
        {"own": own, "other": other},
    ).fetchall()
    if len(found) == 2 and found[0][0] != found[1][0]:
        (width, model), (other_width, other_model) = found
        raise QueryError(
            f"run {other} is of {other_model!r}, {other_width} wide, and {own} of {model!r}, "
            f"{width} wide: their latents' directions have no cosine; name runs of one width"
        )


def _artifacts(
    store: duckdb.DuckDBPyConnection, root: DataRoot, run_id: str
) -> tuple[Artifact, Artifact]:
    """The SAE and the latents of a run."""
    keys = stage_keys(store, run_id)
    return root.open("sae", keys["sae"]), root.open("latents", keys["latents"])
