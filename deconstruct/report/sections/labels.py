"""What is read off the latents: labels, which latents tell them, and where that goes wrong."""

from __future__ import annotations

from typing import Any

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus import labels as reading
from deconstruct.report.reading.latent import top_contexts
from deconstruct.report.reading.records import Record
from deconstruct.report.sections.documents import why
from deconstruct.report.sections.look import Found, Look

LABELS = 12
"""Labels that are shown, the most frequent ones."""
LATENTS, CONTEXTS, WIDTH = 3, 3, 10
NAMED = 10
"""Latents of a label that the table of the dictionary has."""
ERRORS = 12

_LABELS = """
SELECT value AS label, count(*) AS n FROM labels_of($run_id) GROUP BY ALL ORDER BY n DESC, label
"""
_READY = """
SELECT l.label, l.latent, l.rank, l.cohen_d, l.ci_low, l.ci_high, l.auroc, l.documents_in,
    l.documents_out, f.top_token
FROM label_latents AS l
JOIN features AS f ON f.run_id = l.run_id AND f.latent = l.latent
JOIN runs AS r ON r.run_id = l.run_id AND r.label_column = l.task
WHERE l.run_id = $run_id AND l.rank <= $n ORDER BY l.label, l.rank
"""
_WEIGHTS = """
SELECT w.label, w.latent, w.rank, w.effect, f.top_token
FROM probe_weights AS w
JOIN features AS f ON f.run_id = w.run_id AND f.latent = w.latent
JOIN runs AS r ON r.run_id = w.run_id AND r.label_column = w.task
WHERE w.run_id = $run_id
QUALIFY row_number() OVER (PARTITION BY w.label ORDER BY w.effect DESC, w.latent) <= $n
ORDER BY w.label, w.effect DESC, w.latent
"""
_TABLE = "FROM probe_table($run_id)"
_WRONG = """
SELECT count(*) AS n, count(*) FILTER (label <> predicted) AS wrong FROM probe_predictions
WHERE run_id = $run_id AND representation = 'latents' AND k IS NULL
    AND task = (SELECT label_column FROM runs WHERE run_id = $run_id)
"""


def labels(look: Look) -> Found:
    """Probes, and for each label the latents that tell it, in context."""
    shown = look.records(_LABELS)[:LABELS]
    probes = look.records(_TABLE) if look.has("probes") else []
    ready = look.has("label_latents")
    rows = look.records(_READY if ready else _WEIGHTS, n=NAMED)
    if not rows and not probes:
        raise Missing(why(look, "probe") or "This run has no labels that latents could tell.")
    cards = []
    for label in shown:
        of = [row for row in rows if row["label"] == label["label"]]
        look.name(row["latent"] for row in of)
        cards.append({**label, "latents": [_shown(look, row) for row in of[:LATENTS]]})
    return {
        "cards": [card for card in cards if card["latents"]],
        "ready": ready,
        "probes": probes,
        "errors": _errors(look),
        "figures": look.figures("representations", "probe_curve", "learning_curve", "confusion"),
        **_wrong(look),
    }


def _shown(look: Look, row: Record) -> Record:
    found = top_contexts(look.store, look.run_id, row["latent"], CONTEXTS, WIDTH)
    return {**row, "contexts": found, "largest": max((c.activation for c in found), default=None)}


def _wrong(look: Look) -> dict[str, Any]:
    (row,) = look.records(_WRONG)
    return {"judged": row["n"], "wrong": row["wrong"]}


def _errors(look: Look) -> list[Record]:
    if not look.has("probe_weights"):
        return []
    rows, _ = reading.errors(look.store, look.run_id, most=ERRORS)
    for row in rows:
        look.name(one.latent for one in row.pushed_by[:3])
    return [
        {**row._asdict(), "doc_id": row.document.doc_id, "text": row.document.text} for row in rows
    ]
