"""Figures as parts of pages: each comes after the page, and is drawn once as long as a store is the
same."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import HTMLResponse, Response

from deconstruct.explorer.asked import Asked, Page, known
from deconstruct.explorer.ready import Kept
from deconstruct.report import figures
from deconstruct.report.chart import Chart, Missing
from deconstruct.report.drawing import careful
from deconstruct.report.html import drawn
from deconstruct.store.pages import check_latent
from deconstruct.store.query import QueryError

OF_RUN = figures.BY_NAME
OF_LATENT = {
    "activations": careful(figures.activations),
    "latent_positions": careful(figures.latent_positions),
}

_DRAWN = Kept[str](most=200)


def _figure(asked: Asked) -> Response:
    """A figure of a run."""
    name = str(asked.request.path_params["name"])
    if name not in OF_RUN:
        raise QueryError(f"there is no figure {name[:60]!r}")
    return _part(asked, (name,), lambda: OF_RUN[name](asked.store, asked.run_id))


def _latent_figure(asked: Asked) -> Response:
    """A figure of a latent."""
    name, latent = str(asked.request.path_params["name"]), asked.request.path_params["latent"]
    if name not in OF_LATENT:
        raise QueryError(f"there is no figure {name[:60]!r}")
    check_latent(asked.store, asked.run_id, latent)
    return _part(asked, (name, latent), lambda: OF_LATENT[name](asked.store, asked.run_id, latent))


def _part(asked: Asked, which: tuple[object, ...], make: Callable[[], Chart]) -> Response:
    key = (str(asked.app.home), asked.publication, asked.run_id, *which)
    text = _DRAWN.get(key)
    if text is None:
        template = asked.app.templates.get_template("figure_part.html")
        try:
            text = template.render(one=drawn(make()))
        except Missing as missing:
            text = template.render(one=None, told=str(missing))
        _DRAWN.put(key, text)
    return known(asked.request, HTMLResponse(text))


PAGES = (
    Page("/run/{run}/figure/{name}", _figure),
    Page("/run/{run}/latent/{latent:int}/figure/{name}", _latent_figure),
)
