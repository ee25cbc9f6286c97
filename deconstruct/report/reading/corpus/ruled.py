"""Whether a latent tells documents apart by what they say, or by one token in each of them.

A language model gives a few tokens activations that are a hundred times as long as others' (massive
activations: Sun et al. 2024). A latent that fires there fires so strongly that the document's mean
is that one token's, and documents gather by where such a token stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb
import numpy as np

HALF = 0.5
TIMES = 10
"""A token rules a latent if it has more than half of the latent's sum in most documents; that is an
artefact if the latent fires there ten times as strongly as latents do."""

_PEAKS = """
WITH asked AS MATERIALIZED (SELECT unnest($groups) AS part, unnest($latents) AS latent),
member AS MATERIALIZED (SELECT unnest($parts) AS part, unnest($documents) AS doc_id),
read AS MATERIALIZED (
    SELECT m.part, t.doc_id, t.token_index, t.token
    FROM tokens AS t JOIN member AS m ON m.doc_id = t.doc_id WHERE t.run_id = $run
),
fired AS MATERIALIZED (
    SELECT l.latent, l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent IN (SELECT unnest($latents))
),
peak AS (
    SELECT r.part, f.latent, r.doc_id, max(f.activation) AS top,
        max(f.activation) / sum(f.activation) AS share, arg_max(r.token, f.activation) AS token
    FROM fired AS f
    JOIN read AS r ON r.token_index = f.token_index
    JOIN asked AS a ON a.part = r.part AND a.latent = f.latent
    GROUP BY r.part, f.latent, r.doc_id
)
SELECT p.part, p.latent, p.token, count(*) FILTER (p.share > 0.5) AS n, median(p.top) AS top,
    sum(count(*)) OVER (PARTITION BY p.part, p.latent)::BIGINT AS n_fires
FROM peak AS p GROUP BY p.part, p.latent, p.token
QUALIFY row_number() OVER (PARTITION BY p.part, p.latent ORDER BY n DESC, p.token) = 1
"""

_ELSEWHERE = """
WITH asked AS MATERIALIZED (SELECT DISTINCT unnest($latents) AS latent, unnest($tokens) AS token),
there AS MATERIALIZED (
    SELECT t.token_index, t.token FROM tokens AS t
    WHERE t.run_id = $run AND t.token IN (SELECT unnest($tokens))
),
fired AS MATERIALIZED (
    SELECT l.latent, l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent IN (SELECT unnest($latents))
)
SELECT a.latent, a.token, median(f.activation)
FROM asked AS a
JOIN fired AS f ON f.latent = a.latent
LEFT JOIN there AS t ON t.token_index = f.token_index AND t.token = a.token
WHERE t.token_index IS NULL
GROUP BY a.latent, a.token
"""

_USUAL = "SELECT median(mean_activation) FROM features WHERE run_id = ? AND NOT dead"


class Ruled(NamedTuple):
    """What one token is to a latent in some documents.

    documents: share of those it fires in whose sum is by more than half that token's. activation:
    on it, the median of the documents. elsewhere: its median activation on all other tokens of the
    corpus; None if it fires on none, or where this is no artefact. usual: what latents of this run
    fire at, the median of their means.
    """

    token: str
    documents: float
    activation: float
    elsewhere: float | None
    usual: float

    @property
    def artefact(self) -> bool:
        """Whether the latent's value in these documents is that of one massive activation."""
        return self.documents > HALF and self.activation > TIMES * self.usual > 0


def usual_activation(store: duckdb.DuckDBPyConnection, run_id: str) -> float:
    """What latents of a run fire at: the median of their means."""
    [(middle,)] = store.execute(_USUAL, [run_id]).fetchall()
    return float(middle or 0)


def ruled(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    members: Mapping[int, Sequence[int]],
    latents: Mapping[int, Sequence[int]],
) -> dict[tuple[int, int], Ruled]:
    """By group and latent: the token that rules it most often in the documents of the group.

    members, latents: documents and latents to be looked at, by group. Latents that fire in no
    document of their group are not there.
    """
    pairs = [(part, latent) for part, those in latents.items() for latent in those]
    if not pairs:
        return {}
    usual = usual_activation(store, run_id)
    found = store.execute(
        _PEAKS,
        {
            "run": run_id,
            "groups": np.array([part for part, _ in pairs], np.int32),
            "latents": np.array([latent for _, latent in pairs], np.uint32),
            "parts": np.repeat(list(members), [len(one) for one in members.values()]),
            "documents": np.concatenate([np.asarray(one) for one in members.values()]),
        },
    ).fetchall()
    first = {
        (part, latent): Ruled(token, n / fires, top, None, usual)
        for part, latent, token, n, top, fires in found
    }
    massive = [(latent, one.token) for (_, latent), one in first.items() if one.artefact]
    if not massive:
        return first
    given = {
        "run": run_id,
        "latents": [latent for latent, _ in massive],
        "tokens": [token for _, token in massive],
    }
    typical = {
        (latent, token): middle
        for latent, token, middle in store.execute(_ELSEWHERE, given).fetchall()
    }
    return {
        at: one._replace(elsewhere=typical.get((at[1], one.token))) if one.artefact else one
        for at, one in first.items()
    }
