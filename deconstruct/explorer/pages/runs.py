"""The first page: the runs of the store."""

from __future__ import annotations

from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Links, Page
from deconstruct.report.reading.runs import newest


def runs(asked: Asked) -> Response:
    """All runs, the newest first."""
    return asked.page("runs.html", runs=newest(asked.store), links=Links(""))


PAGES = (Page("/", runs),)
