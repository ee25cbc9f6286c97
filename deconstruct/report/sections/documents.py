"""Where documents lie, and the clusters that they fall into."""

from __future__ import annotations

from typing import Any

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus import clusters as reading
from deconstruct.report.sections.look import Found, Look

MOST = 30
"""Clusters that have a card."""
LABELS = 5

_SKIPPED = "SELECT facts ->> 'skipped' AS why FROM stages WHERE run_id = $run_id AND stage = $stage"


def places(look: Look) -> Found:
    """The map of documents."""
    found = look.figures("document_map", "pooled_map")
    if not found:
        raise Missing("This run has no map of its documents; run it again to have one.")
    return {"figures": found}


def clusters(look: Look) -> Found:
    """A card for each cluster."""
    try:
        found = reading.clusters(look.store, look.run_id)
    except Missing as missing:
        raise Missing(why(look, "cluster") or "This run has no clusters.") from missing
    massive = {row["cluster"]: row for row in look.massive.clusters}
    suspects = {row["cluster"] for row in look.massive.suspects}
    cards: list[dict[str, Any]] = []
    for one in found[:MOST]:
        latents = [latent.latent for latent in one.latents]
        look.name(latents)
        cards.append(
            {
                "cluster": one.cluster,
                "size": one.size,
                "top_label": one.top_label,
                "keywords": one.keywords,
                "jaccard": one.jaccard,
                "latents": latents,
                "mix": [{"label": label, "n": n} for label, n in one.mix[:LABELS]],
                "labelled": sum(n for _, n in one.mix),
                "typical": one.exemplars,
                "odd": one.odd,
                "massive": massive.get(one.cluster),
                "suspect": one.cluster in suspects,
            }
        )
    return {
        "cards": cards,
        "all": len(found),
        "scores": scores(look),
        "stability": look.head.get("cluster_stability"),
        "figures": look.figures("label_mix", "stability", "support"),
    }


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
