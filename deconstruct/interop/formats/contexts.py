"""Latents with the contexts that they fire in, batch after batch, for pages that others draw.

DuckDB counts and picks while it streams, so that memory is that of a batch, however often a latent
fires: the contexts that are shown, `BINS` counts for each latent, and no list of firings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np

from deconstruct.common.progress import track

BATCH = 128
"""Latents at a time."""
BINS = 1000
"""Counted over a latent's activations, from 0 to its strongest, of equal width."""
WIDTH = 24
"""Tokens on each side of a firing."""
TOP, INTERVALS, EACH = 20, 5, 5
"""Strongest firings, in different texts; intervals of equal width below the strongest activation,
and firings drawn from each."""

_FEATURES = """
SELECT latent, n_fires, density, max_activation, nearest_latent, nearest_cosine FROM features
WHERE run_id = $run AND latent BETWEEN $first AND $last ORDER BY latent
"""
_FIRINGS = """
FROM latents AS l JOIN features AS f ON f.run_id = $run AND f.latent = l.latent
WHERE l.run_id = $run AND l.latent BETWEEN $first AND $last
    AND f.latent BETWEEN $first AND $last
"""
_COUNTED = f"""
SELECT l.latent, least(floor(l.activation::DOUBLE / f.max_activation * $bins), $bins - 1)::INTEGER
    AS bin, count(*)
{_FIRINGS} GROUP BY ALL ORDER BY ALL
"""
_STRONGEST = f"""
SELECT l.latent, min_by(
    l.token_index, {{'rank': -l.activation, 'place': l.token_index}}, $top
)
{_FIRINGS} GROUP BY l.latent ORDER BY l.latent
"""
_DRAWN = f"""
SELECT l.latent,
    least(floor(l.activation::DOUBLE / f.max_activation * $intervals), $intervals - 1)::INTEGER
        AS interval,
    min_by(l.token_index, {{'rank': hash(l.token_index), 'place': l.token_index}}, $each)
{_FIRINGS} GROUP BY ALL ORDER BY ALL
"""
_AROUND = """
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT unnest($latents::UINTEGER[]) AS latent, unnest($places::UBIGINT[]) AS place
),
found AS MATERIALIZED (
    SELECT w.latent, w.place, t.doc_id FROM wanted AS w
    JOIN tokens AS t ON t.run_id = $run AND t.token_index = w.place
),
spread AS MATERIALIZED (
    SELECT f.latent, f.place, f.doc_id, unnest(range(
        greatest(f.place::BIGINT - $width, 0), f.place::BIGINT + $width + 1
    ))::UBIGINT AS token_index
    FROM found AS f
),
shown AS MATERIALIZED (
    SELECT s.latent, s.place, s.doc_id, s.token_index, t.token FROM spread AS s
    JOIN tokens AS t ON t.run_id = $run AND t.token_index = s.token_index
        AND t.doc_id = s.doc_id AND NOT t.special
),
firing AS (
    SELECT l.latent, l.token_index, l.activation FROM latents AS l
    WHERE l.run_id = $run AND l.latent BETWEEN $first AND $last
)
SELECT s.latent, s.place, s.doc_id, s.token_index, s.token,
    coalesce(f.activation, 0)::FLOAT AS activation
FROM shown AS s
LEFT JOIN firing AS f ON f.latent = s.latent AND f.token_index = s.token_index
ORDER BY s.latent, s.place, s.token_index
"""
_LOGITS = """
SELECT latent, direction, list(token ORDER BY rank), list(logit ORDER BY rank) FROM feature_logits
WHERE run_id = $run AND latent BETWEEN $first AND $last GROUP BY latent, direction
"""
_DIRECTIONS = """
SELECT latent, decoder FROM directions WHERE run_id = $run AND latent BETWEEN $first AND $last
"""
READ = ";\n".join((_FEATURES, _COUNTED, _AROUND, _LOGITS, _DIRECTIONS))
"""What is asked, for whoever looks at the files first."""


@dataclass(frozen=True)
class Context:
    """A firing among the tokens beside it, of its document alone, special tokens left out.

    values: activations of the tokens, 0 where the latent is silent. at: place of the firing among
    them. token_index: of it, in the corpus.
    """

    doc_id: int
    token_index: int
    tokens: list[str]
    values: list[float]
    at: int


@dataclass(frozen=True)
class Interval:
    """Firings drawn from those with an activation above ``low`` and up to ``high``; share: of all
    firings that these are."""

    low: float
    high: float
    share: float
    contexts: list[Context]


@dataclass
class Latent:
    """A latent, and what it fires on.

    bins: `BINS` counts of its activations from 0 to ``strongest``. promoted, suppressed: tokens and
    logits of the logit lens, the most telling first. nearest: the latent whose decoder row points
    most nearly its way, and the cosine. decoder: [d]; empty where no stage kept it.
    """

    number: int
    n_fires: int
    density: float
    strongest: float
    nearest: tuple[int, float] | None
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    top: list[Context] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    promoted: list[tuple[str, float]] = field(default_factory=list)
    suppressed: list[tuple[str, float]] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)

    def histogram(self, bars: int) -> list[int]:
        """Counts in so many bars of equal width; a divisor of `BINS`."""
        each = BINS // bars
        return [sum(self.bins[first : first + each]) for first in range(0, BINS, each)]

    @cached_property
    def percentiles(self) -> list[float]:
        """Activations below which 1, 2, ..., 99 percent of the firings are, to a bin's width."""
        if not self.n_fires:
            return []
        found, below, place = [], 0, 0
        for percent in range(1, 100):
            wanted = percent / 100 * sum(self.bins)
            while below + self.bins[place] < wanted:
                below, place = below + self.bins[place], place + 1
            inside = (wanted - below) / self.bins[place]
            found.append((place + inside) / BINS * self.strongest)
        return found


def latents(store: duckdb.DuckDBPyConnection, run_id: str, d_sae: int) -> Iterator[list[Latent]]:
    """All latents of a run in their order, `BATCH` at a time."""
    with track("latents", d_sae, "latents") as advance:
        for first in range(0, d_sae, BATCH):
            last = min(first + BATCH, d_sae) - 1
            yield _batch(store, {"run": run_id, "first": first, "last": last})
            advance(last - first + 1)


def _batch(store: duckdb.DuckDBPyConnection, of: dict[str, Any]) -> list[Latent]:
    found: dict[int, Latent] = {}
    for number, fires, density, strongest, nearest, cosine in _rows(store, _FEATURES, of):
        known = nearest is not None and cosine is not None and math.isfinite(cosine)
        beside = (nearest, cosine) if known else None
        found[number] = Latent(number, fires, density or 0.0, strongest or 0.0, beside)
    for number, bin_, count in _rows(store, _COUNTED, {**of, "bins": BINS}):
        found[number].bins[bin_] = count
    for number, direction, tokens, logits in _rows(store, _LOGITS, of):
        told = list(zip(tokens, logits, strict=True))
        one = found[number]
        one.promoted, one.suppressed = (
            (told, one.suppressed) if direction == "promoted" else (one.promoted, told)
        )
    for number, decoder in _rows(store, _DIRECTIONS, of):
        found[number].decoder = decoder
    _add_contexts(store, found, of)
    return list(found.values())


def _add_contexts(
    store: duckdb.DuckDBPyConnection, found: dict[int, Latent], of: dict[str, Any]
) -> None:
    # Texts that are given away more often than this leave fewer contexts, as in `context_tokens`.
    strongest = dict(_rows(store, _STRONGEST, {**of, "top": 2 * TOP + 20}))
    drawn = _rows(store, _DRAWN, {**of, "intervals": INTERVALS, "each": EACH})
    wanted = [(number, place) for number, places in strongest.items() for place in places]
    wanted += [(number, place) for number, _, places in drawn for place in places]
    if not wanted:
        return
    numbers, places = map(list, zip(*wanted, strict=True))
    # As text: DuckDB takes seconds to plan for lists of some thousand constants.
    asked = {**of, "latents": str(numbers), "places": str(places), "width": WIDTH}
    contexts = _around(store, asked)
    for number, at in strongest.items():
        texts: dict[str, Context] = {}
        for shown in (contexts[number, place] for place in at if (number, place) in contexts):
            texts.setdefault("".join(shown.tokens), shown)
        found[number].top = list(texts.values())[:TOP]
    for number, interval, at in reversed(drawn):
        one = found[number]
        edges = [one.strongest * i / INTERVALS for i in range(INTERVALS + 1)]
        low, high = list(pairwise(edges))[interval]
        counted = one.histogram(INTERVALS)[interval]
        some = [contexts[number, place] for place in at if (number, place) in contexts]
        one.intervals.append(Interval(low, high, counted / sum(one.bins), some))


def _around(
    store: duckdb.DuckDBPyConnection, asked: dict[str, Any]
) -> dict[tuple[int, int], Context]:
    """Contexts by latent and place. Lists are cut here: DuckDB takes longer to gather them."""
    table = store.sql(_AROUND, params=asked).to_arrow_table()
    if not len(table):
        return {}
    latent, place, doc, at = (
        # By chunks: a column's own to_numpy imports pandas.
        np.concatenate([part.to_numpy() for part in table[name].chunks]).astype(np.int64)
        for name in ("latent", "place", "doc_id", "token_index")
    )
    tokens, values = table["token"].to_pylist(), table["activation"].to_pylist()
    begins = np.flatnonzero((np.diff(latent, prepend=-1) != 0) | (np.diff(place, prepend=-1) != 0))
    found = {}
    for first, last in zip(begins, [*begins[1:], len(latent)], strict=True):
        one = slice(int(first), int(last))
        before = int(np.searchsorted(at[one], place[first]))
        found[int(latent[first]), int(place[first])] = Context(
            int(doc[first]), int(place[first]), tokens[one], values[one], before
        )
    return found


def _rows(store: duckdb.DuckDBPyConnection, query: str, given: dict[str, Any]) -> list[Any]:
    return store.execute(query, given).fetchall()
