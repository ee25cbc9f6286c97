"""A document token by token: what fires on each, how strongly, and how well it is rendered."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from deconstruct.store.query import QueryError

Store = duckdb.DuckDBPyConnection
MOST_TOKENS = 4096
"""Tokens of a document that are shown; of longer ones the first."""


class Document(NamedTuple):
    """A document's row, and what the probe on all latents says of it, if it was held out."""

    doc_id: int
    label: str | None
    split: str
    text: str
    n_tokens: int
    cluster: int | None
    predicted: str | None
    probability: float | None
    documents: int
    """Of the corpus: doc_id is below that."""


class DocToken(NamedTuple):
    """A token. activation: of the latent that is asked for, None where it is silent. error: share
    of the activation's squared length that the SAE does not render; None where it is not known."""

    token_index: int
    position: int
    token: str
    special: bool
    activation: float | None
    error: float | None


class Fires(NamedTuple):
    """A latent that fires on a token. usual: its mean activation where it fires."""

    latent: int
    activation: float
    usual: float
    top_token: str

    @property
    def times(self) -> float | None:
        """How many times its usual activation it has here."""
        return self.activation / self.usual if self.usual else None


class Pooled(NamedTuple):
    """A latent of a document. n_fires: tokens of it on which it fires."""

    latent: int
    n_fires: int
    mean: float
    largest: float
    usual: float
    top_token: str


def document(store: Store, run_id: str, doc_id: int) -> Document:
    """Raises ``QueryError`` if the run has no such document."""
    rows = store.execute(
        """
SELECT d.doc_id, d.label, d.split, d.text, d.n_tokens, c.cluster, p.predicted, p.probability,
    r.documents
FROM documents AS d
JOIN runs AS r ON r.run_id = d.run_id
LEFT JOIN clusters AS c ON c.run_id = $run AND c.doc_id = d.doc_id
LEFT JOIN probe_predictions AS p ON p.run_id = $run AND p.doc_id = d.doc_id
    AND p.representation = 'latents' AND p.k IS NULL AND p.task = r.label_column
WHERE d.run_id = $run AND d.doc_id = $doc LIMIT 1""",
        {"run": run_id, "doc": doc_id},
    ).fetchall()
    if not rows:
        [(n,)] = store.execute("SELECT documents FROM runs WHERE run_id = ?", [run_id]).fetchall()
        raise QueryError(
            f"document {doc_id} is out of range: run {run_id} has {n} documents, 0 to {n - 1}"
        )
    return Document(*rows[0])


def tokens(store: Store, run_id: str, doc_id: int, latent: int | None = None) -> list[DocToken]:
    """The first `MOST_TOKENS` tokens of a document, in order."""
    own = store.execute(
        "SELECT t.token_index, t.position, t.token, t.special FROM tokens AS t "
        "WHERE t.run_id = ? AND t.doc_id = ? ORDER BY t.token_index LIMIT ?",
        [run_id, doc_id, MOST_TOKENS],
    ).fetchall()
    if not own:
        return []
    # Bounds that are known before a query begins are what row groups are skipped by.
    ends = [int(own[0][0]), int(own[-1][0])]
    fires: dict[int, float] = {}
    if latent is not None:
        found = store.execute(
            "SELECT token_index, activation FROM latents_by_token "
            "WHERE run_id = ? AND latent = ? AND token_index BETWEEN ? AND ?",
            [run_id, latent, *ends],
        )
        fires = dict(found.fetchall())
    found = store.execute(
        "SELECT token_index, squared_error / nullif(squared_norm, 0) FROM token_errors "
        "WHERE run_id = ? AND token_index BETWEEN ? AND ?",
        [run_id, *ends],
    )
    errors: dict[int, float | None] = dict(found.fetchall())
    return [
        DocToken(place, position, token, special, fires.get(place), errors.get(place))
        for place, position, token, special in own
    ]


def on_token(store: Store, run_id: str, token_index: int) -> list[Fires]:
    """The latents that fire on a token, the strongest first."""
    rows = store.execute(
        """
SELECT l.latent, l.activation, f.mean_activation, f.top_token FROM latents_by_token AS l
JOIN features AS f ON f.run_id = $run AND f.latent = l.latent
WHERE l.run_id = $run AND l.token_index = $token
ORDER BY l.activation DESC, l.latent LIMIT 200""",
        {"run": run_id, "token": token_index},
    ).fetchall()
    return [Fires(*row) for row in rows]


def strongest(store: Store, run_id: str, doc_id: int, n: int = 20) -> list[Pooled]:
    """The latents that a document has most of, for how much they have of it elsewhere."""
    rows = store.execute(
        """
SELECT x.latent, x.n_fires, x.mean, x.max, f.mean_activation, f.top_token
FROM document_latents AS x JOIN features AS f ON f.run_id = $run AND f.latent = x.latent
WHERE x.run_id = $run AND x.doc_id = $doc AND f.density < 0.1
ORDER BY x.max / nullif(f.mean_activation, 0) * ln(1 + x.n_fires) / sqrt(f.density) DESC, x.latent
LIMIT $n""",
        {"run": run_id, "doc": doc_id, "n": n},
    ).fetchall()
    return [Pooled(*row) for row in rows]
