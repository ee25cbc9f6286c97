"""Massive activations: a few tokens whose activation is far from all others, and what they do.

Sun et al., Massive activations in large language models (2024). Pooled into a document they drown
whatever else is said in it, so that probes and clusters may be about one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from deconstruct.report.reading.records import Record, has, records

_SHARES = """
SELECT metric, value FROM sae_metrics
WHERE run_id = $run_id AND text = 'own' AND metric IN ('outlier_share', 'outlier_variance_share')
"""
_TOKENS = """
SELECT token, n, n_tokens, n_documents, share, variance_share, max_ratio
FROM massive_tokens WHERE run_id = $run_id ORDER BY variance_share DESC, token_id LIMIT $n
"""
_LATENTS = """
SELECT latent, n_massive, mean_massive, mean_typical, max_massive, share_of_document_maxima,
    share_of_pooled, token
FROM massive_latents WHERE run_id = $run_id ORDER BY share_of_pooled DESC, latent LIMIT $n
"""
_CLUSTERS = """
SELECT c.cluster, count(*) AS documents, avg((m.massive > 0)::INT) AS share,
    (SELECT avg((massive > 0)::INT) FROM document_map WHERE run_id = $run_id) AS share_of_all
FROM clusters AS c
JOIN document_map AS m ON m.run_id = c.run_id AND m.doc_id = c.doc_id
WHERE c.run_id = $run_id
GROUP BY c.cluster ORDER BY share DESC, c.cluster
"""
_FAR = 10.0
"""A token is far whose squared activation is so many times the median of all held-out tokens."""
_LONG = """
WITH far AS (
    SELECT token_index, squared_norm FROM token_errors
    WHERE run_id = $run_id AND squared_norm > $far * (
        SELECT median(squared_norm) FROM token_errors WHERE run_id = $run_id
    )
)
SELECT t.token, count(*) AS n, count(DISTINCT t.doc_id) AS n_documents,
    sum(far.squared_norm) / (SELECT sum(squared_norm) FROM token_errors WHERE run_id = $run_id)
        AS variance_share
FROM far JOIN tokens AS t ON t.run_id = $run_id AND t.token_index = far.token_index
GROUP BY t.token ORDER BY variance_share DESC, t.token LIMIT $n
"""


@dataclass(frozen=True)
class Massive:
    """What a run has of them.

    share, variance_share: of the held-out tokens that are outliers, and of the variance that they
    hold; None where that was not measured. tokens: by text, the heaviest first; with ``n``,
    ``n_documents`` and ``variance_share``. latents: those that fire far stronger on them, if the
    run has a map. clusters: for each, the share of its documents that hold such a token, beside
    the share of all documents.
    """

    share: float | None
    variance_share: float | None
    mapped: bool
    tokens: list[Record]
    latents: list[Record]
    clusters: list[Record]

    @property
    def heavy(self) -> bool:
        """Whether they hold so much that figures over all tokens are about them."""
        return (self.variance_share or 0) >= 0.1 or sum(
            row["variance_share"] or 0 for row in self.tokens
        ) >= 0.1

    @property
    def suspects(self) -> list[Record]:
        """Clusters that are rich in such tokens: half of their documents and twice as many as
        elsewhere."""
        return [
            row for row in self.clusters
            if row["share"] >= 0.5 and row["share"] >= 2 * row["share_of_all"]
        ]  # fmt: skip


def massive(store: duckdb.DuckDBPyConnection, run_id: str, n: int = 10) -> Massive:
    """The massive activations of a run, from its map if it has one, else from the held-out tokens
    that are measured. n: at most so many tokens, and latents."""
    shares = {row["metric"]: row["value"] for row in records(store, _SHARES, run_id=run_id)}
    mapped = has(store, "document_map", run_id)
    if mapped:
        tokens = records(store, _TOKENS, run_id=run_id, n=n)
    else:
        tokens = records(store, _LONG, run_id=run_id, far=_FAR, n=n)
    return Massive(
        shares.get("outlier_share"),
        shares.get("outlier_variance_share"),
        mapped,
        tokens,
        records(store, _LATENTS, run_id=run_id, n=n) if mapped else [],
        records(store, _CLUSTERS, run_id=run_id) if mapped else [],
    )
