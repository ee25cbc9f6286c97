"""What a latent goes with: labels of documents, and other latents.

The macros ``label_enrichment`` and ``fires_with`` answer the same of all latents, or of all its
firings; a page is of one latent, and has a fraction of a second.
"""

from __future__ import annotations

from typing import NamedTuple

import duckdb

Store = duckdb.DuckDBPyConnection
SMALL = 2_000_000
"""Tokens of a corpus in which all firings of a latent are counted."""
SAMPLE = 150
"""Firings whose partners are counted in a larger one, drawn without a preference: the tokens
beside them are found without reading all others. Shares are told to 8 points."""
SAMPLE_TOKENS = 400
"""The same for tokens, of which there are fewer to read: shares to 5 points."""

_LABELS = """
WITH labelled AS MATERIALIZED (
    SELECT y.doc_id, y.value AS label, g.group_id, g.split = 'test' AS held_out
    FROM labels_of($run) AS y JOIN document_groups($run) AS g ON g.doc_id = y.doc_id
), document AS MATERIALIZED (
    SELECT d.*, count(*) OVER (PARTITION BY d.group_id, d.held_out) AS n_group
    FROM (SELECT DISTINCT y.doc_id, y.group_id, y.held_out FROM labelled AS y) AS d
), everything AS (
    SELECT d.held_out, count(*) AS n, count(*) ** 2 / sum(d.n_group) AS texts
    FROM document AS d GROUP BY d.held_out
), size AS (
    SELECT y.label, y.held_out, count(*) AS n, count(*) ** 2 / sum(y.n_group) AS texts
    FROM (
        SELECT l.label, l.held_out, count(*) OVER (
            PARTITION BY l.label, l.group_id, l.held_out
        ) AS n_group
        FROM labelled AS l WHERE l.label IS NOT NULL
    ) AS y
    GROUP BY y.label, y.held_out
), own AS MATERIALIZED (
    SELECT x.doc_id FROM document_latents AS x WHERE x.run_id = $run AND x.latent = $latent
), fires AS (
    SELECT g.held_out, sum(g.n)::BIGINT AS n, sum(g.n) ** 2 / sum(g.n * g.n) AS texts
    FROM (
        SELECT d.held_out, d.group_id, count(*) AS n
        FROM own AS o JOIN document AS d ON d.doc_id = o.doc_id
        GROUP BY d.held_out, d.group_id
    ) AS g GROUP BY g.held_out
), counted AS (
    SELECT y.label, y.held_out, count(*) AS n_both
    FROM own AS o JOIN labelled AS y ON y.doc_id = o.doc_id
    WHERE y.label IS NOT NULL GROUP BY y.label, y.held_out
), measured AS (
    SELECT s.label, s.held_out, coalesce(c.n_both, 0) AS n_both, f.n AS n_latent,
        lift_interval(coalesce(c.n_both, 0), f.n, f.texts, s.n, s.texts, e.n, e.texts) AS lift
    FROM size AS s
    JOIN everything AS e ON e.held_out = s.held_out
    JOIN fires AS f ON f.held_out = s.held_out
    LEFT JOIN counted AS c ON c.label = s.label AND c.held_out = s.held_out
)
SELECT t.label, t.lift.lift, t.lift.low, t.lift.high, t.n_both, t.n_latent
FROM measured AS t LEFT JOIN measured AS r ON r.label = t.label AND NOT r.held_out
WHERE t.held_out ORDER BY r.lift.low DESC NULLS LAST, t.label LIMIT $most
"""

_PARTNERS = """
WITH drawn AS MATERIALIZED (
    SELECT l.token_index FROM latents AS l WHERE l.run_id = $run AND l.latent = $latent
    ORDER BY scattered(l.token_index), l.token_index LIMIT $sample
), counted AS MATERIALIZED (
    SELECT o.latent, count(*) AS n_both FROM latents_by_token AS o
    WHERE o.run_id = $run AND o.latent <> $latent
        AND o.token_index IN (SELECT d.token_index FROM drawn AS d)
    GROUP BY o.latent
), total AS (
    SELECT (SELECT count(*) FROM drawn) AS n_drawn,
        max(f.n_fires / nullif(f.density, 0)) AS n_tokens,
        max(f.n_fires) FILTER (f.latent = $latent) AS n_own
    FROM features AS f WHERE f.run_id = $run
), scaled AS (
    SELECT c.latent, c.n_both / t.n_drawn AS share, c.n_both / t.n_drawn * t.n_own AS n_both,
        t.n_own, t.n_tokens, t.n_drawn
    FROM counted AS c CROSS JOIN total AS t
)
SELECT s.latent, s.share, s.n_both / (s.n_own + f.n_fires - s.n_both) AS jaccard,
    s.n_both * s.n_tokens / (s.n_own * f.n_fires) AS lift, f.top_token, s.n_drawn
FROM scaled AS s JOIN features AS f ON f.run_id = $run AND f.latent = s.latent
ORDER BY jaccard DESC, s.latent LIMIT $most
"""


_TOKENS = """
WITH drawn AS MATERIALIZED (
    SELECT l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent = $latent
    ORDER BY scattered(l.token_index), l.token_index LIMIT $sample
)
SELECT t.token, count(*) AS n_fires, count(*) / sum(count(*)) OVER () AS share,
    max(d.activation), (SELECT count(*) FROM drawn)
FROM drawn AS d JOIN tokens AS t ON t.run_id = $run AND t.token_index = d.token_index
WHERE t.token_index IN (SELECT o.token_index FROM drawn AS o)
GROUP BY t.token ORDER BY n_fires DESC, t.token LIMIT $most
"""


class TopToken(NamedTuple):
    """A token that a latent fires on. share: of its firings, of which ``drawn`` were looked at."""

    token: str
    n_fires: int
    share: float
    largest: float
    drawn: int


class Lift(NamedTuple):
    """How many times more often documents with the latent have a label, on held-out documents, with
    its 95% interval; n_both of n_latent documents."""

    label: str
    lift: float | None
    low: float | None
    high: float | None
    n_both: int
    n_latent: int


class Partner(NamedTuple):
    """A latent that fires together with another; share: of the other's firings, of which ``drawn``
    were looked at."""

    latent: int
    share: float
    jaccard: float
    lift: float
    top_token: str
    drawn: int


def labels(store: Store, run_id: str, latent: int, most: int = 50) -> list[Lift]:
    """The labels of documents that it fires in, beside those of all documents; in the order of
    train documents, as ``label_enrichment`` has it."""
    given = {"run": run_id, "latent": latent, "most": most}
    return [Lift(*row) for row in store.execute(_LABELS, given).fetchall()]


def fires_with(store: Store, run_id: str, latent: int, most: int = 12) -> list[Partner]:
    """The latents that fire where it does, by the Jaccard index of their tokens; of a large corpus
    estimated by `SAMPLE` of its firings."""
    sample = _sample(store, run_id, SAMPLE)
    given = {"run": run_id, "latent": latent, "most": most, "sample": sample}
    return [Partner(*row) for row in store.execute(_PARTNERS, given).fetchall()]


def top_tokens(store: Store, run_id: str, latent: int, most: int = 10) -> list[TopToken]:
    """The tokens that it fires on most often; of a large corpus by `SAMPLE_TOKENS` firings."""
    sample = _sample(store, run_id, SAMPLE_TOKENS)
    given = {"run": run_id, "latent": latent, "most": most, "sample": sample}
    return [TopToken(*row) for row in store.execute(_TOKENS, given).fetchall()]


def _sample(store: Store, run_id: str, most: int) -> int:
    [(tokens,)] = store.execute("SELECT tokens FROM runs WHERE run_id = ?", [run_id]).fetchall()
    return int(tokens) if tokens <= SMALL else most
