"""All latents together, and three hundred of them one by one; and massive activations."""

from __future__ import annotations

from deconstruct.report.chart import Missing
from deconstruct.report.reading.contexts import strongest
from deconstruct.report.sections.look import Found, Look

MOST = 300
"""Latents that the table has."""

_KINDS = """
SELECT count(*) AS latents, count(*) FILTER (dead) AS dead,
    count(*) FILTER (NOT dead AND density < 0.0001) AS rare,
    count(*) FILTER (density > 0.1) AS dense
FROM features WHERE run_id = $run_id
"""
_CHOSEN = """
WITH living AS (SELECT latent, density, max_activation FROM features
    WHERE run_id = $run_id AND NOT dead),
ordered AS (
    SELECT 0 AS turn, i AS place, latent::UINTEGER AS latent
    FROM (SELECT unnest($named::BIGINT[]) AS latent, generate_subscripts($named::BIGINT[], 1) AS i)
    UNION ALL SELECT 1, row_number() OVER (ORDER BY density DESC, latent), latent FROM living
    QUALIFY row_number() OVER (ORDER BY density DESC, latent) <= 20
    UNION ALL SELECT 1, row_number() OVER (ORDER BY max_activation DESC, latent), latent FROM living
    QUALIFY row_number() OVER (ORDER BY max_activation DESC, latent) <= 20
    UNION ALL SELECT 2, row_number() OVER (ORDER BY scattered(latent), latent), latent FROM living
    QUALIFY row_number() OVER (ORDER BY scattered(latent), latent) <= $most
)
SELECT latent FROM ordered GROUP BY latent ORDER BY min(turn), min(place), latent LIMIT $most
"""
_ROWS = """
WITH told AS (
    SELECT latent, arg_max(label, effect) AS label FROM probe_weights AS w
    JOIN runs AS r ON r.run_id = w.run_id AND r.label_column = w.task
    WHERE w.run_id = $run_id AND w.effect > 0 GROUP BY latent
)
SELECT f.latent, f.density, f.n_documents, f.mean_activation, f.max_activation, f.top_token,
    f.top_token_share, f.nearest_latent, f.nearest_cosine, told.label
FROM features AS f LEFT JOIN told ON told.latent = f.latent
WHERE f.run_id = $run_id AND f.latent IN (SELECT unnest($latents::UINTEGER[])) ORDER BY f.latent
"""
_SCORES = """
SELECT s.method, avg(s.value) AS value, avg(s.floor) AS floor, count(s.value) AS n
FROM latent_scores AS s WHERE s.run_id = $run_id GROUP BY s.method ORDER BY s.method
"""


def dictionary(look: Look) -> Found:
    """Counts, figures and the table; called after the sections whose latents it has."""
    (kinds,) = look.records(_KINDS)
    if not kinds["latents"]:
        raise Missing("This run has no latents on record.")
    look.name(row["latent"] for row in look.massive.latents)
    chosen = chosen_of(look)
    rows = look.records(_ROWS, latents=chosen)
    shown = strongest(look.store, look.run_id, chosen)
    return {
        "kinds": kinds,
        "rows": [{**row, "tokens": shown.get(row["latent"], [])} for row in rows],
        "scores": look.records(_SCORES),
        "massive": look.massive,
        "figures": look.figures(
            "density",
            "strength",
            "nearest",
            "massive_tokens",
            "massive_latents",
            "latent_map",
            "intruders",
            "matches",
        ),
    }


def chosen_of(look: Look) -> list[int]:
    """Latents of the table: those that sections speak of, the densest, the strongest, and as many
    of the others as there is room for, drawn without regard to anything."""
    named = list(dict.fromkeys(look.named))
    return [row["latent"] for row in look.records(_CHOSEN, named=named, most=MOST)]
