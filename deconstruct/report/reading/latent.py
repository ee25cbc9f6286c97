"""What there is to know of one latent: how often and how strongly it fires, on what, and with whom.

Each function is one question; what is slow (`across`, `neighbours`) stands alone, so that a page
can show the rest before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import duckdb

from deconstruct.store.pages import check_latent
from deconstruct.store.query import QueryError

Store = duckdb.DuckDBPyConnection
BANDS = ((0.9, 1.0), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25))
"""Shares of a latent's firings, by activation, that contexts are drawn from."""
FIFTHS = ((0.8, 1.0), (0.6, 0.8), (0.4, 0.6), (0.2, 0.4), (0.0, 0.2))
"""Those that they stand ready from, where a run has a map (``latent_contexts``)."""

_READY = """
WITH drawn AS MATERIALIZED (
    SELECT 5 - c.quantile AS band, c.token_index, c.place, c.low, c.high, c.n_fires
    FROM latent_contexts AS c WHERE c.run_id = $run AND c.latent = $latent
), around AS MATERIALIZED (
    FROM tokens_around($run, (
        SELECT list(d.token_index ORDER BY d.place, d.band) FROM drawn AS d
    ), $width, 100)
), firing AS MATERIALIZED (
    SELECT l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent = $latent
        AND l.token_index IN (SELECT a.token_index FROM around AS a)
)
SELECT d.band, a.rank, a.token, f.activation, a.token_index = a.place, a.doc_id, a.position,
    a.token_index, x.label, x.split, d.low, d.high, d.n_fires
FROM around AS a
JOIN drawn AS d ON d.token_index = a.place
LEFT JOIN firing AS f ON f.token_index = a.token_index
LEFT JOIN documents AS x ON x.run_id = $run AND x.doc_id = a.doc_id
WHERE NOT a.special ORDER BY d.band, a.rank, a.token_index
"""


class Facts(NamedTuple):
    """The row of ``features``, and where the latent stands in its dictionary."""

    latent: int
    n_fires: int
    density: float
    n_documents: int
    mean_activation: float
    max_activation: float
    top_token: str
    top_token_share: float
    dead: bool
    decoder_norm: float
    encoder_decoder_cosine: float
    nearest_latent: int | None
    nearest_cosine: float | None
    density_rank: int
    """1 for the latent that fires most often."""
    d_sae: int


class Token(NamedTuple):
    """A token of a context. activation: None where the latent is silent; peak: the token that the
    context is of."""

    token: str
    activation: float | None
    peak: bool


class Context(NamedTuple):
    """Tokens around a firing. activation: of that firing."""

    activation: float
    doc_id: int
    position: int
    token_index: int
    label: str | None
    split: str
    tokens: list[Token]


class Band(NamedTuple):
    """Contexts from one part of a latent's range. low, high: shares of its firings that are weaker;
    least, most: activations; n: firings in it."""

    low: float
    high: float
    least: float
    most: float
    n: int
    contexts: list[Context]


class Neighbour(NamedTuple):
    """A latent whose decoder row points nearly the same way, or away (cosine below 0)."""

    latent: int
    cosine: float
    n_fires: int
    top_token: str


class Counterpart(NamedTuple):
    """The latent of another run that is most like one. matched: by ``deconstruct match``."""

    run_id: str
    name: str
    site: str
    latent: int
    cosine: float | None
    correlation: float | None
    top_token: str
    matched: bool


class Score(NamedTuple):
    """How clear a latent is, beside what guessing gives (floor), with a 95% interval."""

    method: str
    value: float | None
    low: float | None
    high: float | None
    floor: float | None
    n: int


def facts(store: Store, run_id: str, latent: int) -> Facts:
    """Raises ``QueryError`` if the run has no latent of that number."""
    check_latent(store, run_id, latent)
    rows = store.execute(
        """
SELECT f.latent, f.n_fires, f.density, f.n_documents, f.mean_activation, f.max_activation,
    f.top_token, f.top_token_share, f.dead, f.decoder_norm, f.encoder_decoder_cosine,
    f.nearest_latent, f.nearest_cosine,
    1 + (SELECT count(*) FROM features AS g WHERE g.run_id = $run AND g.n_fires > f.n_fires),
    (SELECT r.d_sae FROM runs AS r WHERE r.run_id = $run)
FROM features AS f WHERE f.run_id = $run AND f.latent = $latent""",
        {"run": run_id, "latent": latent},
    ).fetchall()
    if not rows:
        raise QueryError(f"run {run_id} has nothing of latent {latent}")
    return Facts(*rows[0])


def top_contexts(
    store: Store, run_id: str, latent: int, n: int = 12, width: int = 24
) -> list[Context]:
    """The n strongest firings whose texts differ, with ``width`` tokens on each side."""
    rows = store.execute(
        """
SELECT c.rank, c.token, c.activation, c.peak, c.doc_id, c.position, c.token_index, d.label, d.split
FROM context_tokens($run, $latent, n := $n, width := $width) AS c
LEFT JOIN documents AS d ON d.run_id = $run AND d.doc_id = c.doc_id
WHERE NOT c.special ORDER BY c.rank, c.token_index""",
        {"run": run_id, "latent": latent, "n": n, "width": width},
    ).fetchall()
    return list(_contexts(rows))


def bands(store: Store, run_id: str, latent: int, n: int = 5, width: int = 16) -> list[Band]:
    """n contexts from each of `FIFTHS`, as they stand ready; of runs without a map from each of
    `BANDS`. Drawn without a preference, of different documents and texts where there are enough."""
    given = {"run": run_id, "latent": latent, "width": width}
    try:
        ready = store.execute(_READY, given).fetchall()
    except duckdb.CatalogException:  # a file that an older release exported
        ready = []
    if ready:
        return _banded(ready, FIFTHS, n)
    return _banded(_drawn(store, given | {"n": n}), BANDS, n)


def _drawn(store: Store, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows as those of `_READY`, drawn now from all firings."""
    edges = [low for low, _ in BANDS[:-1]]
    return store.execute(
        """
WITH firing AS MATERIALIZED (
    SELECT l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent = $latent
), edge AS MATERIALIZED (
    SELECT quantile_disc(f.activation, $edges) AS at FROM firing AS f
), banded AS (
    SELECT f.token_index, f.activation,
        (f.activation < e.at[1])::INT + (f.activation < e.at[2])::INT
        + (f.activation < e.at[3])::INT + (f.activation < e.at[4])::INT AS band,
        (f.token_index % 4294967296) * 2654435761 % 4294967296 AS place
    FROM firing AS f CROSS JOIN edge AS e
), told AS MATERIALIZED (
    SELECT b.band, min(b.activation) AS least, max(b.activation) AS most, count(*) AS n,
        min_by(b.token_index, b.place, 3 * $n) AS drawn
    FROM banded AS b GROUP BY b.band
), drawn AS MATERIALIZED (
    SELECT t.band, unnest(t.drawn) AS token_index, generate_subscripts(t.drawn, 1) AS ordinal
    FROM told AS t
), around AS MATERIALIZED (
    FROM tokens_around($run, (
        SELECT list(d.token_index ORDER BY d.ordinal, d.band) FROM drawn AS d
    ), $width, 100)
)
SELECT d.band, a.rank, a.token, f.activation, a.token_index = a.place, a.doc_id, a.position,
    a.token_index, x.label, x.split, t.least, t.most, t.n
FROM around AS a
JOIN drawn AS d ON d.token_index = a.place
JOIN told AS t ON t.band = d.band
LEFT JOIN firing AS f ON f.token_index = a.token_index
LEFT JOIN documents AS x ON x.run_id = $run AND x.doc_id = a.doc_id
WHERE NOT a.special ORDER BY d.band, a.rank, a.token_index""",
        {**given, "edges": edges},
    ).fetchall()


def _banded(
    rows: Sequence[tuple[Any, ...]], parts: Sequence[tuple[float, float]], n: int
) -> list[Band]:
    found = []
    for band, group in groupby(rows, key=lambda row: int(row[0])):
        own = list(group)
        contexts = _from_different_documents(_contexts([row[1:10] for row in own]), n)
        low, high = parts[band]
        least, most, firings = own[0][10:13]
        found.append(Band(low, high, least, most, firings, contexts))
    return found


def _from_different_documents(contexts: Iterable[Context], n: int) -> list[Context]:
    seen: set[int] = set()
    first: list[Context] = []
    further: list[Context] = []
    for context in contexts:
        (further if context.doc_id in seen else first).append(context)
        seen.add(context.doc_id)
    return [*first, *further][:n]


def _contexts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Context]:
    """Of rows rank, token, activation, peak, doc_id, position, token_index, label, split."""
    for _, group in groupby(rows, key=lambda row: row[0]):
        own = list(group)
        tokens = [Token(token, activation, bool(peak)) for _, token, activation, peak, *_ in own]
        for _, _, activation, peak, doc_id, position, place, label, split in own:
            if peak:
                yield Context(activation, doc_id, position, place, label, split, tokens)


def logits(
    store: Store, run_id: str, latent: int, n: int = 10
) -> dict[str, list[tuple[str, float]]]:
    """Tokens that its direction speaks for (``promoted``) and against (``suppressed``)."""
    found: dict[str, list[tuple[str, float]]] = {}
    for direction, token, logit in store.execute(
        "SELECT direction, token, logit FROM feature_logits "
        "WHERE run_id = ? AND latent = ? AND rank <= ? ORDER BY direction, rank",
        [run_id, latent, n],
    ).fetchall():
        found.setdefault(str(direction), []).append((str(token), float(logit)))
    return found


def neighbours(store: Store, run_id: str, latent: int, n: int = 8) -> list[Neighbour]:
    """The latents whose decoder rows are most alike, by the cosine."""
    rows = store.execute(
        """
WITH own AS MATERIALIZED (
    SELECT d.decoder FROM directions AS d WHERE d.run_id = $run AND d.latent = $latent
), near AS (
    SELECT d.latent, list_cosine_similarity(d.decoder, o.decoder) AS cosine
    FROM directions AS d CROSS JOIN own AS o WHERE d.run_id = $run AND d.latent <> $latent
    ORDER BY cosine DESC, d.latent LIMIT $n
)
SELECT n.latent, n.cosine, f.n_fires, f.top_token
FROM near AS n JOIN features AS f ON f.run_id = $run AND f.latent = n.latent
ORDER BY n.cosine DESC, n.latent""",
        {"run": run_id, "latent": latent, "n": n},
    ).fetchall()
    return [Neighbour(*row) for row in rows]


def matched(store: Store, run_id: str, latent: int) -> list[Counterpart]:
    """Its partners in the runs that this one was matched with (``deconstruct match``)."""
    rows = store.execute(
        """
SELECT r.run_id, r.name, r.site, m.other_latent, m.cosine, m.correlation, f.top_token, true
FROM latent_matches AS m JOIN runs AS r ON r.run_id = m.other_run
JOIN features AS f ON f.run_id = m.other_run AND f.latent = m.other_latent
WHERE m.run_id = ? AND m.latent = ? ORDER BY m.cosine DESC, r.run_id""",
        [run_id, latent],
    ).fetchall()
    return [Counterpart(*row) for row in rows]


def across(store: Store, run_id: str, latent: int) -> list[Counterpart]:
    """The latent most like it in each other run, one by direction or one by firing."""
    rows = store.execute(
        "SELECT run_id, name, site, latent, cosine, correlation, top_token, false "
        "FROM latent_across_runs(?, ?) ORDER BY coalesce(cosine, correlation) DESC LIMIT 20",
        [run_id, latent],
    ).fetchall()
    return [Counterpart(*row) for row in rows]


def explanation(store: Store, run_id: str, latent: int) -> tuple[str, str] | None:
    """What a language model wrote of it, and the model's name; None where none was asked."""
    rows = store.execute(
        "SELECT text, model FROM explanations WHERE run_id = ? AND latent = ? AND text IS NOT NULL",
        [run_id, latent],
    ).fetchall()
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


def scores(store: Store, run_id: str, latent: int) -> list[Score]:
    """How clear it is, by words and by a language model; nothing of latents that were not asked."""
    rows = store.execute(
        "SELECT method, value, ci_low, ci_high, floor, n FROM latent_scores "
        "WHERE run_id = $run AND latent = $latent UNION ALL "
        "SELECT method, value, ci_low, ci_high, floor, n FROM explanation_scores "
        "WHERE run_id = $run AND latent = $latent ORDER BY method",
        {"run": run_id, "latent": latent},
    ).fetchall()
    return [Score(*row) for row in rows]
