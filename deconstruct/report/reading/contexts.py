"""The strongest context of each of many latents; `latent.top_contexts` has several of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import duckdb

from deconstruct.report.reading.latent import Token
from deconstruct.report.reading.records import records

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
        latent: [Token(row["token"], row["activation"], bool(row["peak"])) for row in group]
        for latent, group in groupby(rows, key=lambda row: row["latent"])
    }
