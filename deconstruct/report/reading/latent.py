"""What there is to know of one latent: how often and how strongly it fires, on what, and with whom.

Each function is one question; what is slow (`fires_with`, `across`, `labels`) stands alone, so that
a page can show the rest before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import duckdb

from deconstruct.store.pages import check_latent

Store = duckdb.DuckDBPyConnection
BANDS = ((0.9, 1.0), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25))
"""Shares of a latent's firings, by activation, that contexts are drawn from; the strongest first."""
BINS = 20


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


class Bin(NamedTuple):
    """Firings from an activation to another."""

    low: float
    high: float
    n: int


class TopToken(NamedTuple):
    """A token that a latent fires on. share: of the latent's firings."""

    token: str
    n_fires: int
    share: float
    mean: float
    largest: float


class Lift(NamedTuple):
    """How many times more often documents with the latent have a label, on held-out documents, with
    its 95% interval; n_both of n_latent documents."""

    label: str
    lift: float | None
    low: float | None
    high: float | None
    n_both: int
    n_latent: int
    p: float


class Partner(NamedTuple):
    """A latent that fires together with another; share: of the other's firings."""

    latent: int
    n_both: int
    share: float
    jaccard: float
    lift: float
    top_token: str


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
    [row] = store.execute(
        """
SELECT f.latent, f.n_fires, f.density, f.n_documents, f.mean_activation, f.max_activation,
    f.top_token, f.top_token_share, f.dead, f.decoder_norm, f.encoder_decoder_cosine,
    f.nearest_latent, f.nearest_cosine,
    1 + (SELECT count(*) FROM features AS g WHERE g.run_id = $run AND g.n_fires > f.n_fires),
    (SELECT r.d_sae FROM runs AS r WHERE r.run_id = $run)
FROM features AS f WHERE f.run_id = $run AND f.latent = $latent""",
        {"run": run_id, "latent": latent},
    ).fetchall()
    return Facts(*row)


def histogram(store: Store, run_id: str, latent: int) -> list[Bin]:
    """Firings by activation: `BINS` parts of equal width from 0 to the strongest."""
    rows = store.execute(
        f"""
WITH firing AS MATERIALIZED (
    SELECT l.activation::DOUBLE AS a FROM latents AS l WHERE l.run_id = ? AND l.latent = ?
), top AS (SELECT max(f.a) AS a FROM firing AS f)
SELECT least({BINS - 1}, floor(f.a / t.a * {BINS}))::INTEGER AS bin, count(*), any_value(t.a)
FROM firing AS f CROSS JOIN top AS t GROUP BY bin""",
        [run_id, latent],
    ).fetchall()
    found = {int(place): int(n) for place, n, _ in rows}
    width = float(rows[0][2]) / BINS if rows else 0.0
    return [Bin(i * width, (i + 1) * width, found.get(i, 0)) for i in range(BINS if rows else 0)]


def positions(store: Store, run_id: str, latent: int) -> list[Bin]:
    """Firings by place in what the model reads at once, in parts of equal width."""
    rows = store.execute(
        f"""
WITH place AS MATERIALIZED (
    SELECT t.position::INTEGER AS p FROM latents AS l
    JOIN tokens AS t ON t.run_id = $run AND t.token_index = l.token_index
    WHERE l.run_id = $run AND l.latent = $latent
), width AS (SELECT ceil((max(p.p) + 1) / {BINS}) AS w FROM place AS p)
SELECT floor(p.p / w.w)::INTEGER AS bin, count(*), any_value(w.w)
FROM place AS p CROSS JOIN width AS w GROUP BY bin ORDER BY bin""",
        {"run": run_id, "latent": latent},
    ).fetchall()
    found = {int(place): int(n) for place, n, _ in rows}
    width = float(rows[0][2]) if rows else 0.0
    return [
        Bin(i * width, (i + 1) * width, found.get(i, 0)) for i in range(max(found, default=-1) + 1)
    ]


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
    """n contexts from each of `BANDS`, drawn without a preference, of different documents and
    texts where there are enough."""
    edges = [edge for band in BANDS for edge in band]
    rows = store.execute(
        """
WITH firing AS MATERIALIZED (
    SELECT l.token_index, l.activation,
        percent_rank() OVER (ORDER BY l.activation, l.token_index) AS place
    FROM latents AS l WHERE l.run_id = $run AND l.latent = $latent
), banded AS MATERIALIZED (
    SELECT f.*, b.band FROM firing AS f
    JOIN (SELECT range AS band, ($edges)[1 + 2 * range] AS low, ($edges)[2 + 2 * range] AS high
        FROM range(len($edges) // 2)) AS b
    ON f.place >= b.low AND (f.place < b.high OR b.high = 1)
), told AS MATERIALIZED (
    SELECT b.band, min(b.activation) AS least, max(b.activation) AS most, count(*) AS n
    FROM banded AS b GROUP BY b.band
), drawn AS MATERIALIZED (
    FROM banded AS b
    QUALIFY row_number() OVER (PARTITION BY b.band ORDER BY scattered(b.token_index)) <= 3 * $n
), around AS MATERIALIZED (
    FROM tokens_around($run, (
        SELECT list(d.token_index ORDER BY scattered(d.token_index)) FROM drawn AS d
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
        {"run": run_id, "latent": latent, "edges": edges, "n": n, "width": width},
    ).fetchall()
    found = []
    for band, group in groupby(rows, key=lambda row: int(row[0])):
        own = list(group)
        contexts = _from_different_documents(_contexts([row[1:10] for row in own]), n)
        found.append(Band(*BANDS[band], *own[0][10:13], contexts))
    return found


def _from_different_documents(contexts: Iterable[Context], n: int) -> list[Context]:
    seen: set[int] = set()
    first, further = [], []
    for context in contexts:
        (further if context.doc_id in seen else first).append(context)
        seen.add(context.doc_id)
    return [*first, *further][:n]


def _contexts(rows: Sequence[tuple[object, ...]]) -> Iterable[Context]:
    """Of rows rank, token, activation, peak, doc_id, position, token_index, label, split."""
    for _, group in groupby(rows, key=lambda row: row[0]):
        own = list(group)
        at = next((row for row in own if row[3]), None)
        if at is not None:
            tokens = [Token(str(row[1]), row[2], bool(row[3])) for row in own]  # type: ignore[arg-type]
            yield Context(at[2], *at[4:9], tokens)  # type: ignore[arg-type]


def top_tokens(store: Store, run_id: str, latent: int, n: int = 10) -> list[TopToken]:
    """The tokens that it fires on most often."""
    rows = store.execute("FROM top_tokens(?, ?, n := ?)", [run_id, latent, n]).fetchall()
    return [TopToken(*row) for row in rows]


def logits(store: Store, run_id: str, latent: int, n: int = 10) -> dict[str, list[tuple[str, float]]]:
    """Tokens that its direction speaks for (``promoted``) and against (``suppressed``)."""
    found: dict[str, list[tuple[str, float]]] = {}
    for direction, token, logit in store.execute(
        "SELECT direction, token, logit FROM feature_logits "
        "WHERE run_id = ? AND latent = ? AND rank <= ? ORDER BY direction, rank",
        [run_id, latent, n],
    ).fetchall():
        found.setdefault(str(direction), []).append((str(token), float(logit)))
    return found


def labels(store: Store, run_id: str, latent: int) -> list[Lift]:
    """The labels of documents that it fires in, beside those of all documents."""
    rows = store.execute(
        "SELECT label, lift, ci_low, ci_high, n_both, n_latent, p_corrected "
        "FROM label_enrichment(?) WHERE latent = ?",
        [run_id, latent],
    ).fetchall()
    return [Lift(*row) for row in rows]


def fires_with(store: Store, run_id: str, latent: int, n: int = 12) -> list[Partner]:
    """The latents that fire together with it, by the Jaccard index of their tokens."""
    rows = store.execute(
        "SELECT latent, n_both, share, jaccard, lift, top_token FROM fires_with(?, ?, n := ?)",
        [run_id, latent, n],
    ).fetchall()
    return [Partner(*row) for row in rows]


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
        "SELECT text, model FROM explanations WHERE run_id = ? AND latent = ? "
        "AND text IS NOT NULL",
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
