"""Texts around the tokens on which a latent fires, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import duckdb

from deconstruct.report.reading.records import records

Token = tuple[str, float | None, bool]
"""Its text, how strongly the latent fires on it (None: not), and whether the context is of it."""

_CONTEXTS = """
SELECT c.rank, c.doc_id, c.token, c.activation, c.peak, d.label, d.split
FROM context_tokens($run_id, $latent, n := $n, width := $width) AS c
JOIN documents AS d ON d.run_id = $run_id AND d.doc_id = c.doc_id
WHERE NOT c.special OR c.activation IS NOT NULL
ORDER BY c.rank, c.token_index
"""

_STRONGEST = """
WITH peaks AS MATERIALIZED (
    SELECT latent, arg_max(token_index, (activation, -token_index::BIGINT)) AS peak
    FROM latents WHERE run_id = $run_id AND latent IN (SELECT unnest($latents::UINTEGER[]))
    GROUP BY latent
),
places AS MATERIALIZED (
    SELECT p.latent, p.peak, t.doc_id FROM peaks AS p
    JOIN tokens AS t ON t.run_id = $run_id AND t.token_index = p.peak
),
around AS MATERIALIZED (
    SELECT latent, peak, doc_id, peak + o - $left AS place
    FROM places, range($left + $right + 1) AS r(o) WHERE peak + o >= $left
)
SELECT a.latent, t.token, l.activation, a.place = a.peak AS peak
FROM around AS a
JOIN tokens AS t
    ON t.run_id = $run_id AND t.token_index = a.place AND t.doc_id = a.doc_id AND NOT t.special
LEFT JOIN latents AS l
    ON l.run_id = $run_id AND l.latent = a.latent AND l.token_index = a.place
    AND l.latent IN (SELECT unnest($latents::UINTEGER[]))
ORDER BY a.latent, a.place
"""


class Context(NamedTuple):
    """A place in a document on which a latent fires."""

    doc_id: int
    label: str | None
    split: str
    activation: float
    tokens: list[Token]


def contexts(
    store: duckdb.DuckDBPyConnection, run_id: str, latent: int, n: int = 3, width: int = 12
) -> list[Context]:
    """The n strongest contexts of a latent whose texts differ, strongest first, with ``width``
    tokens on each side."""
    rows = records(store, _CONTEXTS, run_id=run_id, latent=latent, n=n, width=width)
    found = []
    for _, group in groupby(rows, key=lambda row: row["rank"]):
        tokens = list(group)
        peak = next((t for t in tokens if t["peak"]), tokens[0])
        found.append(
            Context(
                peak["doc_id"], peak["label"], peak["split"], peak["activation"] or 0.0,
                [(t["token"], t["activation"], bool(t["peak"])) for t in tokens],
            )
        )  # fmt: skip
    return found


def strongest(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    latents: Sequence[int],
    left: int = 6,
    right: int = 3,
) -> dict[int, list[Token]]:
    """The strongest context of each of many latents, in one question."""
    rows = records(store, _STRONGEST, run_id=run_id, latents=list(latents), left=left, right=right)
    return {
        latent: [(row["token"], row["activation"], bool(row["peak"])) for row in group]
        for latent, group in groupby(rows, key=lambda row: row["latent"])
    }
