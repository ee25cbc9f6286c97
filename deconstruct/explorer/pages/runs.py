"""The runs of the store, one run, and two beside each other."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import RedirectResponse, Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.pages.figures import OF_RUN
from deconstruct.report.reading import runs as reading
from deconstruct.report.reading.massive import massive
from deconstruct.report.reading.records import has
from deconstruct.report.reading.verdict import COMPARED
from deconstruct.store.query import resolve_run

SHOWN = 100
"""Rows of a table of latents that were matched or lost."""
NAMES = {name: headline.label for name, headline in COMPARED.items()}
"""Of headline metrics, as people read them."""


def _runs(asked: Asked) -> Response:
    """All runs, the newest first."""
    return asked.page("runs.html", runs=reading.newest(asked.store))


def _run(asked: Asked) -> Response:
    """A run: headline figures, and the report's figures after."""
    mapped = has(asked.store, "document_map", asked.run_id)
    return asked.page(
        "run.html",
        cards=reading.cards(asked.store, asked.run_id),
        others=reading.same_runs(asked.store, asked.run_id),
        massive=massive(asked.store, asked.run_id) if mapped else None,
        figures=tuple(OF_RUN),
    )


def _two(asked: Asked) -> tuple[str, str]:
    names = (str(asked.request.path_params[side]) for side in ("a", "b"))
    one, other = (resolve_run(asked.store, name) for name in names)
    return one, other


def _compare(asked: Asked) -> Response:
    """Two runs: headline metrics, and whose latents the other has."""
    one, other = _two(asked)
    store = asked.store
    return asked.page(
        "compare.html",
        a=reading.header(store, one),
        b=reading.header(store, other),
        measured=reading.matching(store, one, other),
        matched=reading.matched(store, one, other, SHOWN),
        lost=reading.lost(store, one, other, SHOWN),
        found=reading.lost(store, other, one, SHOWN),
    )


def _metrics(asked: Asked) -> Response:
    """Headline metrics of two runs; it takes a second, so it comes after."""
    found = reading.compared(asked.store, *_two(asked))
    return asked.page("differences.html", differences=found, names=NAMES)


def _compare_all(asked: Asked) -> Response:
    """Every metric of two runs."""
    found = reading.compared_all(asked.store, *_two(asked))
    return asked.page("differences.html", differences=found, names=NAMES)


def _choose(asked: Asked) -> Response:
    """Where a form without scripts compares two runs."""
    to = asked.links.compare(asked.word("a"), asked.word("b"))
    return RedirectResponse(to, HTTPStatus.SEE_OTHER)


PAGES = (
    Page("/", _runs),
    Page("/run/{run}", _run),
    Page("/compare", _choose),
    Page("/compare/{a}/{b}", _compare),
    Page("/compare/{a}/{b}/metrics", _metrics),
    Page("/compare/{a}/{b}/all", _compare_all),
)
