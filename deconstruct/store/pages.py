"""What ``runs``, ``show`` and ``latent`` print, as rich tables and lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

import duckdb
from rich.console import RenderableType
from rich.text import Text

from deconstruct.common.showing import printable
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.query import CALLED, QueryError
from deconstruct.store.remove import Garbage
from deconstruct.store.render import Listing, names_of
from deconstruct.store.rewrite import REMEDY

SPARE = ("nmi", "published", "probe", "dead", "silent", "top1", "kl")
"""Columns of the list of runs that a narrow terminal does without, the first one first."""

FIRING = "bold black on yellow"
PEAK = "bold black on bright_green"

_REFUSED = re.compile(r"Cannot access \w+ (\".*?\") - file system operations are disabled")

_ADVICE = {
    "read-only mode": " The store is written by runs alone; write elsewhere with --output, or with "
    "--files and COPY (...) TO 'file'.",
    "files are read-only": "; write with --output",
    "has been locked": "; with --files settings can be changed",
    "xternal extensions is disabled": "; with --files they can be loaded",
    "automatically install": "; with --files it may be",
    "Out of Memory": " With --files, queries may use the disk for what memory does not hold.",
    "Corrupt database file": f"; the store is damaged: {REMEDY}",
}
"""What DuckDB says in its messages, and what helps."""

_COLUMNS = [headline for headline in HEADLINES if headline.column and headline.heading]
_FIRST = [headline.name for headline in reversed(HEADLINES) if headline.table == "sae_metrics"]

_NAME = f"""(
    SELECT string_agg({CALLED}, ', ' ORDER BY n.last_execution DESC) FROM names AS n
    WHERE n.run_id = runs.run_id
) AS name"""

_EXECUTED = "(SELECT max(n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id)"

_RUNS = f"""
SELECT run_id, {_NAME}, site, architecture || ' ' || d_sae || coalesce(' k=' || k, '') AS sae,
    {", ".join(f"{h.name} AS {h.heading}" for h in _COLUMNS)},
    strftime(published, '%Y-%m-%d %H:%M') AS published
FROM runs ORDER BY {_EXECUTED} DESC LIMIT ?
"""

_SEEN = "held out, but seen in training"
_OF_ANALYSES = ("trained_on", _SEEN)
"""Facts that only runs on a corpus of an analysis have."""

_RUN = f"""
SELECT run_id, {_NAME}, model, site, source, documents, tokens,
    architecture || ', ' || d_in || ' -> ' || d_sae || coalesce(', k = ' || k, '') AS sae,
    training_tokens, nullif(trained_on, source) AS trained_on,
    nullif(seen_documents, 0) AS "{_SEEN}",
    started, date_diff('millisecond', started, finished) / 1000 AS seconds
FROM runs WHERE run_id = ?
"""

_OTHER = "Metrics of the SAE, on other texts"
_PROBES = "Probes, on held-out documents"
_DRIFT = "Drift of the documents since the SAE was trained"
_DRIFTED = "Latents whose firing drifted most"
"""The last two sections only runs with a standing SAE have; that of other texts, those that name
any."""

_SECTIONS = {
    "Stages": """
SELECT stage, key, CASE WHEN cached THEN 'cached' ELSE 'made' END AS "was", seconds, rows,
    round(bytes / 1e6, 2) AS mb
FROM stages WHERE run_id = ? ORDER BY ordinal""",
    "Metrics of the SAE, on held-out documents": f"""
SELECT metric, value, ci_low, ci_high, n, unit FROM sae_metrics WHERE run_id = ? AND text = 'own'
ORDER BY list_indexof({_FIRST}, metric) DESC, metric""",
    _OTHER: f"""
SELECT text, metric, value, ci_low, ci_high, n, unit FROM sae_metrics
WHERE run_id = ? AND text <> 'own'
ORDER BY text, list_indexof({_FIRST}, metric) DESC, metric""",
    _PROBES: """
SELECT task, representation, coalesce(k::VARCHAR, 'all') AS k, metric, value, ci_low, ci_high,
    n_test
FROM probes WHERE run_id = ? AND label IS NULL
    AND (metric IN ('auroc', 'average_precision', 'r2') OR metric = 'accuracy' AND k IS NULL)
ORDER BY task <> (SELECT r.label_column FROM runs AS r WHERE r.run_id = probes.run_id), task,
    metric, probes.k DESC NULLS FIRST, value DESC, representation""",
    _DRIFT: """
SELECT subject, metric, reference, current, difference, ci_low, ci_high FROM drift
WHERE run_id = ? ORDER BY list_indexof(['reconstruction', 'distance'], subject) DESC, metric""",
    _DRIFTED: """
SELECT d.latent, d.reference_density AS reference, d.current_density AS current, d.log2_ratio,
    f.top_token
FROM latent_drift AS d LEFT JOIN features AS f USING (run_id, latent)
WHERE d.run_id = ? ORDER BY abs(d.log2_ratio) DESC, d.latent LIMIT 5""",
    "Clustering, beside other representations and shuffled columns (null)": """
PIVOT (
    SELECT kind, metric, representation, value FROM cluster_metrics WHERE run_id = ?
) ON representation IN ('latents', 'activations', 'tfidf') USING any_value(value)
ORDER BY kind DESC, metric""",
    "Numbers of clusters": """
SELECT k, stability, standard_error, null_stability, silhouette, chosen
FROM cluster_curve WHERE run_id = ? ORDER BY k""",
    "Clusters": """
SELECT cluster, size, jaccard, top_label, top_label_share AS share,
    array_to_string(keywords[:6], ', ') AS keywords, array_to_string(latents[:6], ', ') AS latents
FROM cluster_summary WHERE run_id = ? ORDER BY cluster""",
}

_LATENT = """
SELECT n_fires, density, n_documents, mean_activation, max_activation, encoder_decoder_cosine,
    nearest_latent, nearest_cosine
FROM features WHERE run_id = ? AND latent = ?
"""

_LABELS = """
SELECT label, n_both AS documents, lift, ci_low, ci_high FROM label_enrichment(?)
WHERE latent = ? AND p_corrected < 0.05 AND lift_train > 1 ORDER BY low_train DESC
"""

_LOGITS = """
SELECT direction, list(token ORDER BY rank) FROM feature_logits
WHERE run_id = ? AND latent = ? GROUP BY direction ORDER BY direction
"""

_CONTEXTS = """
SELECT c.rank, c.token, c.activation, c.peak, d.label
FROM context_tokens($run, $latent, n := $n, width := $width) AS c
LEFT JOIN documents AS d ON d.run_id = $run AND d.doc_id = c.doc_id
WHERE NOT c.special ORDER BY c.rank, c.token_index
"""

_TOP_TOKENS = "FROM top_tokens(?, ?)"

READ_BY_SHOW = ";\n".join((_RUN, *_SECTIONS.values()))
READ_BY_LATENT = ";\n".join((_LATENT, _TOP_TOKENS, _LABELS, _LOGITS, _CONTEXTS))
"""What the pages ask, for whoever looks at the files first."""


def runs(connection: duckdb.DuckDBPyConnection, limit: int) -> list[RenderableType]:
    """The newest runs and their headline metrics."""
    result = connection.execute(_RUNS, [limit])
    return [Listing(names_of(result), result.fetchall(), spare=SPARE)]


def show(connection: duckdb.DuckDBPyConnection, run_id: str) -> list[RenderableType]:
    """All tables of one run that fit on a page."""
    result = connection.execute(_RUN, [run_id])
    facts = [
        (name, fact)
        for name, fact in zip(names_of(result), result.fetchall()[0], strict=True)
        if fact is not None or name not in _OF_ANALYSES
    ]
    page: list[RenderableType] = [Listing(["", ""], facts)]
    for title, query in _SECTIONS.items():
        result = connection.execute(query, [run_id])
        names, rows = names_of(result), result.fetchall()
        if title == _PROBES and len({row[0] for row in rows}) < 2:  # one column of labels
            names, rows = names[1:], [row[1:] for row in rows]
        if rows or title not in (_OTHER, _DRIFT, _DRIFTED):
            page += ["", Listing(names, rows, title) if rows else f"{title}: none"]
    return page


def latent(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    number: int,
    contexts: int,
    width: int,
    colour: bool,
) -> list[RenderableType]:
    """One latent; firing tokens are coloured or, if ``colour`` is False, between ‹ and ›;
    the one that a context is of between « and »."""
    check_latent(connection, run_id, number)
    result = connection.execute(_LATENT, [run_id, number])
    facts = list(zip(names_of(result), result.fetchone() or (), strict=False))
    page: list[RenderableType] = [Listing(["", ""], facts, f"Latent {number} of run {run_id}")]
    result = connection.execute(_TOP_TOKENS, [run_id, number])
    names, rows = names_of(result), result.fetchall()
    if not rows:
        return [*page, "", "It never fires in this corpus: a dead latent."]
    page += ["", Listing(names, [(repr(r[0]), *r[1:]) for r in rows], "Tokens it fires on")]
    result = connection.execute(_LABELS, [run_id, number])
    names, rows = names_of(result), result.fetchall()
    if rows:
        page += ["", Listing(names, rows, "Labels it goes with, beyond chance")]
    rows = connection.execute(_LOGITS, [run_id, number]).fetchall()
    if rows:
        told = [(direction, " ".join(map(repr, tokens))) for direction, tokens in rows]
        page += ["", Listing(["", ""], told, "Tokens its direction speaks for (logit lens)")]
    found = connection.execute(
        _CONTEXTS,
        {"run": run_id, "latent": number, "n": contexts, "width": width},
    ).fetchall()
    shown = []
    for _, group in groupby(found, key=lambda token: token[0]):
        tokens = list(group)
        text = Text()
        for _, token, activation, peak, _ in tokens:
            _append(text, printable(str(token)), activation is not None, bool(peak), colour)
        strength = next(activation for _, _, activation, peak, _ in tokens if peak)
        shown.append((strength, tokens[0][4], text))
    page += ["", Listing(["activation", "label", "context"], shown, "Strongest contexts")]
    return page


def check_latent(connection: duckdb.DuckDBPyConnection, run_id: str, number: int) -> None:
    """Raise ``QueryError`` if the run has no latent of that number."""
    row = connection.execute("SELECT d_sae FROM runs WHERE run_id = ?", [run_id]).fetchone()
    d_sae = int(row[0] or 0) if row else 0
    if not 0 <= number < d_sae:
        raise QueryError(
            f"latent {number} is out of range: run {run_id} has {d_sae} latents, 0 to {d_sae - 1}"
        )


def garbage(things: Sequence[Garbage]) -> RenderableType:
    """Folders that can go, or are gone."""
    rows = [(t.kind, t.stage, t.key, t.bytes / 1e6, datetime.fromtimestamp(t.used)) for t in things]
    return Listing(["kind", "stage", "key", "mb", "last used"], rows)


def sentence(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the copy of the query that follows it."""
    message = re.split(r"\n\s*\n?LINE \d+:", str(error))[0]
    refused = _REFUSED.search(message)
    if refused is not None:
        return f"{refused[1]!r} is no file of the store's artifacts; with --files queries reach it"
    if "Traceback (most recent call last)" in message:  # of a file system of ours
        message = message.strip().splitlines()[-1].partition(": ")[2]
    for sign, advice in _ADVICE.items():
        if sign in message:
            message += advice
    return " ".join(message.split())


def _append(text: Text, token: str, fires: bool, peak: bool, colour: bool) -> None:
    bare = token.lstrip(" ") or token
    text.append(token[: len(token) - len(bare)])
    if colour:
        text.append(bare, style=PEAK if peak else FIRING if fires else "")
    else:
        text.append(f"«{bare}»" if peak else f"‹{bare}›" if fires else bare)
