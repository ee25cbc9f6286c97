"""The latents of a run as a table, a page at a time; and which of them a search means."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from deconstruct.store.query import QueryError

Store = duckdb.DuckDBPyConnection
SORTS = {
    "latent": "f.latent",
    "density": "f.density DESC",
    "rare": "f.density",
    "max": "f.max_activation DESC",
    "mean": "f.mean_activation DESC",
    "documents": "f.n_documents DESC",
    "share": "f.top_token_share DESC",
    "cosine": "f.nearest_cosine DESC NULLS LAST",
    "effect": "abs(w.effect) DESC NULLS LAST",
}
"""Name of an order -> SQL."""
KINDS = {
    "all": "true",
    "living": "NOT f.dead",
    "dead": "f.dead",
    "rare": "NOT f.dead AND f.density < 0.0001",
    "dense": "f.density > 0.1",
}
"""Name of a choice by how often latents fire -> SQL; bounds as in ``unusual_latents``."""


class LatentRow(NamedTuple):
    """A latent at a glance. effect: its weight in the probe of the label that is asked for, per
    standard deviation."""

    latent: int
    n_fires: int
    density: float
    n_documents: int
    mean: float
    largest: float
    top_token: str
    top_token_share: float
    nearest_latent: int | None
    nearest_cosine: float | None
    dead: bool
    effect: float | None


class Choice(NamedTuple):
    """Which latents, in which order. kind: of `KINDS`. token: text in the token that it fires on
    most often. label: one whose probe weighs it. only: these latents alone, of the starred."""

    kind: str = "living"
    sort: str = "density"
    token: str = ""
    label: str = ""
    only: tuple[int, ...] | None = None


def latents(
    store: Store, run_id: str, choice: Choice, first: int, most: int
) -> tuple[list[LatentRow], int]:
    """Rows ``first`` to ``first + most`` of those chosen, and how many there are in all.

    Raises ``QueryError`` for an order or kind that there is not.
    """
    for given, known in ((choice.kind, KINDS), (choice.sort, SORTS)):
        if given not in known:
            raise QueryError(f"{given[:40]!r} is none of {', '.join(known)}")
    rows = store.execute(
        f"""
SELECT f.latent, f.n_fires, f.density, f.n_documents, f.mean_activation, f.max_activation,
    f.top_token, f.top_token_share, f.nearest_latent, f.nearest_cosine, f.dead, w.effect,
    count(*) OVER () AS total
FROM features AS f
LEFT JOIN probe_weights AS w ON w.run_id = $run AND w.latent = f.latent AND w.label = $label
    AND w.task = (SELECT r.label_column FROM runs AS r WHERE r.run_id = $run)
WHERE f.run_id = $run AND {KINDS[choice.kind]}
    AND ($token = '' OR contains(lower(f.top_token), lower($token)))
    AND ($label = '' OR w.effect <> 0)
    AND ($only IS NULL OR list_contains($only, f.latent))
ORDER BY {SORTS[choice.sort]}, f.latent LIMIT $most OFFSET $first""",
        {
            "run": run_id,
            "label": choice.label,
            "token": choice.token,
            "only": None if choice.only is None else list(choice.only),
            "first": first,
            "most": most,
        },
    ).fetchall()
    return [LatentRow(*row[:-1]) for row in rows], int(rows[0][-1]) if rows else 0


def label_names(store: Store, run_id: str) -> list[str]:
    """The labels that the run's first probes tell, by name."""
    rows = store.execute(
        "SELECT DISTINCT label FROM probe_weights WHERE run_id = $run AND label IS NOT NULL "
        "AND task = (SELECT r.label_column FROM runs AS r WHERE r.run_id = $run) ORDER BY label",
        {"run": run_id},
    ).fetchall()
    return [str(label) for (label,) in rows]
