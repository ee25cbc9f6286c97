"""``/run/ID/drift``: what is new since the SAE was trained; ``/trend``: a schedule's nights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.pages.figures import OF_RUN
from deconstruct.report.chart import Missing
from deconstruct.report.html import drawn
from deconstruct.report.reading.corpus import drift as reading
from deconstruct.report.reading.latent import facts
from deconstruct.store import QueryError
from deconstruct.store.pages import check_latent

MOST = 30
"""Executions of a trend."""

_NAMES = """
SELECT e.name, r.site, count(*), max(e.execution) FROM executions AS e
JOIN runs AS r ON r.run_id = e.run_id
WHERE e.analysis = 'corpus' AND r.site IS NOT NULL
GROUP BY e.name, r.site ORDER BY max(e.execution) DESC
"""
_NIGHTS = f"""
SELECT e.execution, e.started, e.run_id, len(e.made), r.documents, r.fvu_typical, r.delta_loss,
    r.dead_share, r.probe_accuracy,
    lag(r.fvu_typical) OVER (ORDER BY e.execution),
    EXISTS (FROM drift AS d WHERE d.run_id = e.run_id)
FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
WHERE e.analysis = 'corpus' AND e.name = ? AND r.site = ?
ORDER BY e.execution DESC LIMIT {MOST}
"""


def _drift(asked: Asked) -> Response:
    try:
        known = reading.known(asked.store, asked.run_id)
    except Missing as missing:
        return asked.page("drift.html", missing=str(missing))
    return asked.page(
        "drift.html", missing="", known=known,
        differences=reading.differences(asked.store, asked.run_id),
        moved={
            "up": reading.moved(asked.store, asked.run_id, rising=True),
            "down": reading.moved(asked.store, asked.run_id, rising=False),
        },
        new=reading.new_documents(asked.store, asked.run_id, known.reference),
        figures=[name for name in ("drift", "drifted_latents") if name in OF_RUN],
    )  # fmt: skip


def _contexts(asked: Asked) -> Response:
    """One context of a latent before, and one since."""
    latent = asked.number("latent", 0)
    check_latent(asked.store, asked.run_id, latent)
    known = reading.known(asked.store, asked.run_id)
    pair = reading.before_and_since(asked.store, asked.run_id, latent, known.reference)
    largest = facts(asked.store, asked.run_id, latent).max_activation
    return asked.page("drift_contexts.html", pair=pair, largest=largest, latent=latent)


def _trend(asked: Asked) -> Response:
    names = asked.store.execute(_NAMES).fetchall()
    if not names:
        raise QueryError("no run has been executed yet; 'deconstruct run' does")
    name = asked.word("name") or names[0][0]
    sites = [site for one, site, *_ in names if one == name]
    site = asked.word("site") or (sites[0] if sites else "")
    if site not in sites:
        raise QueryError(f"no run is called {name[:60]!r} at site {site[:40]!r}")
    nights = asked.store.execute(_NIGHTS, [name, site]).fetchall()
    return asked.page(
        "trend.html", names=names, name=name, site=site, nights=nights,
        figure=_figure(asked, nights[0][2], name),
    )  # fmt: skip


def _figure(asked: Asked, run_id: str, name: str) -> Any:
    """The figure of a trend, of a name that was executed more than once."""
    draw: Callable[..., Any] | None = OF_RUN.get("trend")
    if draw is None:
        return None
    try:
        return drawn(draw(asked.store, run_id, name))
    except Missing:
        return None


PAGES = (
    Page("/run/{run}/drift", _drift),
    Page("/run/{run}/drift/contexts", _contexts),
    Page("/trend", _trend),
)
