"""Where documents lie, and the clusters that they fall into."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from deconstruct.report.chart import Missing
from deconstruct.report.reading.records import Record
from deconstruct.report.sections.look import Found, Look

MOST = 30
"""Clusters that have a card."""
SHOWN = 3
"""Documents of a cluster that are typical of it, and that hardly belong to it."""
LATENTS = 8
LABELS = 5

_CLUSTERS = """
SELECT cluster, size, top_label, top_label_share, latents, keywords, exemplars, jaccard
FROM cluster_summary WHERE run_id = $run_id ORDER BY size DESC, cluster
"""
_MIX = """
SELECT c.cluster, d.value AS label, count(*) AS n
FROM clusters AS c JOIN labels_of($run_id) AS d ON d.doc_id = c.doc_id
WHERE c.run_id = $run_id GROUP BY ALL ORDER BY n DESC, label
"""
_TYPICAL = """
SELECT s.cluster, e.n, d.doc_id, d.label, d.split, d.text
FROM cluster_summary AS s, unnest(s.exemplars[:$shown]) WITH ORDINALITY AS e(doc_id, n)
JOIN documents AS d ON d.run_id = $run_id AND d.doc_id = e.doc_id
WHERE s.run_id = $run_id ORDER BY s.cluster, e.n
"""
_ODD = """
SELECT c.cluster, d.doc_id, d.label, d.split, d.text, c.support
FROM (
    SELECT cluster, doc_id, support, row_number() OVER (
        PARTITION BY cluster ORDER BY support NULLS LAST, distance DESC, doc_id
    ) AS n
    FROM clusters WHERE run_id = $run_id
) AS c JOIN documents AS d ON d.run_id = $run_id AND d.doc_id = c.doc_id
WHERE c.n <= $shown ORDER BY c.cluster, c.n
"""
_SKIPPED = "SELECT facts ->> 'skipped' AS why FROM stages WHERE run_id = $run_id AND stage = $stage"


def places(look: Look) -> Found:
    """The map of documents."""
    found = look.figures("document_map", "pooled_map")
    if not found:
        raise Missing("This run has no map of its documents; run it again to have one.")
    return {"figures": found}


def clusters(look: Look) -> Found:
    """A card for each cluster."""
    rows = look.records(_CLUSTERS)
    if not rows:
        raise Missing(why(look, "cluster") or "This run has no clusters.")
    mix, typical = _by_cluster(look.records(_MIX)), _by_cluster(look.records(_TYPICAL, shown=SHOWN))
    odd = _by_cluster(look.records(_ODD, shown=SHOWN))
    massive = {row["cluster"]: row for row in look.massive.clusters}
    suspects = {row["cluster"] for row in look.massive.suspects}
    cards: list[dict[str, Any]] = []
    for row in rows[:MOST]:
        number = row["cluster"]
        look.name(row["latents"][:LATENTS])
        cards.append(
            {
                **row,
                "latents": row["latents"][:LATENTS],
                "mix": mix[number][:LABELS],
                "labelled": sum(one["n"] for one in mix[number]),
                "typical": typical[number],
                "odd": odd[number],
                "massive": massive.get(number),
                "suspect": number in suspects,
            }
        )
    return {
        "cards": cards,
        "all": len(rows),
        "scores": scores(look),
        "stability": look.head.get("cluster_stability"),
        "figures": look.figures("label_mix", "stability", "support"),
    }


def _by_cluster(rows: list[Record]) -> defaultdict[int, list[Record]]:
    found: defaultdict[int, list[Record]] = defaultdict(list)
    for row in rows:
        found[row["cluster"]].append(row)
    return found


_METRICS = """
SELECT metric, representation, kind, value FROM cluster_metrics
WHERE run_id = $run_id AND (
    (kind IN ('value', 'null') AND metric IN ('nmi', 'ami', 'ari', 'purity', 'silhouette'))
    OR (kind = 'stability' AND metric IN ('ari', 'jaccard', 'null_ari'))
)
"""


def scores(look: Look) -> Found:
    """Scores of the clusters by each representation, and of shuffled columns, as a table."""
    rows = look.records(_METRICS)
    named = {"value": "", "null": " (shuffled)", "stability": ""}
    columns = sorted(
        {r["representation"] for r in rows}, key=lambda name: (name != "latents", name)
    )
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        name = f"{row['metric']}{named[row['kind']]}"
        if row["kind"] == "stability":
            name = {"ari": "found again (ARI)", "jaccard": "found again (Jaccard)"}.get(
                row["metric"], "found again (ARI, shuffled)"
            )
        found.setdefault(name, {})[row["representation"]] = row["value"]
    table = [[name, *(of.get(column) for column in columns)] for name, of in sorted(found.items())]
    return {"columns": ["score", *columns], "rows": table}


def why(look: Look, stage: str) -> str | None:
    """Why a stage found nothing, as a sentence."""
    rows = look.records(_SKIPPED, stage=stage)
    reason = rows[0]["why"] if rows else None
    return f"Nothing to show: {reason}." if reason else None
