"""What differs in a run's documents since its SAE was trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import duckdb

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.places import Glance, glances
from deconstruct.report.reading.latent import Context, Token

_KNOWN = """
SELECT (s.facts ->> '$.reference_documents')::BIGINT, (s.facts ->> '$.documents')::BIGINT
FROM stages AS s WHERE s.run_id = ? AND s.stage = 'drift'
"""
_ROWS = """
SELECT d.subject, d.metric, d.reference, d.current, d.difference, d.ci_low, d.ci_high,
    d.n_reference, d.n_current
FROM drift AS d WHERE d.run_id = ?
ORDER BY list_indexof(['reconstruction', 'distance', 'label share'], d.subject),
    abs(d.difference) DESC, d.metric
"""
_LATENTS = """
SELECT d.latent, f.top_token, d.reference_density, d.current_density, d.log2_ratio
FROM latent_drift AS d
LEFT JOIN features AS f ON f.run_id = $run AND f.latent = d.latent
WHERE d.run_id = $run AND d.log2_ratio <> 0 AND (d.log2_ratio > 0) = $rising
ORDER BY abs(d.log2_ratio) DESC, d.latent LIMIT $most
"""
_NEW = """
SELECT d.doc_id FROM documents AS d WHERE d.run_id = ? AND d.doc_id >= ?
ORDER BY d.doc_id DESC LIMIT ?
"""
_CONTEXTS = """
WITH fired AS MATERIALIZED (
    SELECT l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent = $latent
),
-- Tokens are in the order of documents: one of them tells the new ones from all others.
bound AS MATERIALIZED (
    SELECT min(t.token_index) AS first FROM tokens AS t WHERE t.run_id = $run AND t.doc_id = $known
),
strongest AS (
    SELECT coalesce(f.token_index >= b.first, false) AS since,
        arg_max(f.token_index, f.activation) AS token_index
    FROM fired AS f CROSS JOIN bound AS b GROUP BY since
)
SELECT a.place, a.token, f.activation, a.token_index = a.place, a.doc_id, a.position,
    a.token_index, d.label, d.split, a.doc_id >= $known
FROM tokens_around($run, (SELECT list(s.token_index) FROM strongest AS s), $width, 2) AS a
LEFT JOIN fired AS f ON f.token_index = a.token_index
LEFT JOIN documents AS d ON d.run_id = $run AND d.doc_id = a.doc_id
WHERE NOT a.special ORDER BY a.place, a.token_index
"""


class Known(NamedTuple):
    """Documents that the SAE was trained on, those below ``reference``; and how many are new."""

    reference: int
    new: int


class Difference(NamedTuple):
    """A measure before and since, as ``drift`` has it."""

    subject: str
    metric: str
    reference: float | None
    current: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_reference: int
    n_current: int

    @property
    def apart(self) -> bool:
        """Whether its interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


class Moved(NamedTuple):
    """A latent whose share of tokens rose or fell. log2_ratio: 1 for twice as often."""

    latent: int
    top_token: str | None
    before: float
    since: float
    log2_ratio: float


def known(store: duckdb.DuckDBPyConnection, run_id: str) -> Known:
    """Raises ``Missing`` for a run whose SAE is of these very documents."""
    rows = store.execute(_KNOWN, [run_id]).fetchall()
    if not rows:
        raise Missing(
            f"run {run_id} has no drift: its SAE was trained on these very documents; runs with "
            "--growth encode compare new ones with those"
        )
    return Known(rows[0][0] or 0, rows[0][1] or 0)


def differences(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Difference]:
    """All that is measured before and since."""
    return [Difference(*row) for row in store.execute(_ROWS, [run_id]).fetchall()]


def moved(
    store: duckdb.DuckDBPyConnection, run_id: str, rising: bool, most: int = 10
) -> list[Moved]:
    """The latents that fire most more often since, or most less often."""
    given = {"run": run_id, "rising": rising, "most": most}
    return [Moved(*row) for row in store.execute(_LATENTS, given).fetchall()]


def new_documents(
    store: duckdb.DuckDBPyConnection, run_id: str, reference: int, most: int = 12
) -> list[Glance]:
    """The newest documents, those of the largest number first."""
    found = store.execute(_NEW, [run_id, reference, most]).fetchall()
    return glances(store, run_id, [doc_id for (doc_id,) in found])[::-1]


def before_and_since(
    store: duckdb.DuckDBPyConnection, run_id: str, latent: int, reference: int, width: int = 12
) -> tuple[Context | None, Context | None]:
    """Where a latent fires most strongly in documents before, and in those since."""
    given = {"run": run_id, "latent": latent, "known": reference, "width": width}
    found: dict[bool, list[tuple[Any, ...]]] = {}
    for row in store.execute(_CONTEXTS, given).fetchall():
        found.setdefault(bool(row[9]), []).append(row)
    return _context(found.get(False, [])), _context(found.get(True, []))


def _context(rows: list[tuple[Any, ...]]) -> Context | None:
    at = next((row for row in rows if row[3]), None)
    if at is None:
        return None
    tokens = [Token(row[1], row[2], row[3]) for row in rows]
    doc_id, position, token_index, label, split = at[4:9]
    return Context(at[2], doc_id, position, token_index, label, split, tokens)
