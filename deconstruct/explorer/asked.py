"""What a page is given: the store, the run that it is about, and the ways to answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import duckdb
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from deconstruct.store.query import QueryError, resolve_run


class Page(NamedTuple):
    """Where a page is, and who makes it.

    path: as Starlette has it, ``/run/{run}/latent/{latent:int}``. methods: GET alone, but of pages
    that write notes.
    """

    path: str
    answer: Answer
    methods: tuple[str, ...] = ("GET",)


class Answer(Protocol):
    """Makes a page. It is called in a thread of its own, and may wait for DuckDB."""

    def __call__(self, asked: Asked, /) -> Response:
        """Raises ``QueryError`` for what is not there, and ``DeconstructError`` for bad input."""
        ...


class Links:
    """Where the pages about a run are."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def run(self, run_id: str | None = None, part: str = "") -> str:
        """The page of a run, or a part of it: map, clusters, labels, errors, drift."""
        return f"/run/{quote(run_id or self.run_id)}" + (f"/{part}" if part else "")

    def latent(self, number: int, run_id: str | None = None) -> str:
        return f"{self.run(run_id)}/latent/{number}"

    def document(self, doc_id: int, **show: Any) -> str:
        """show: what is coloured in it (``latent=7``, ``token=120``)."""
        return f"{self.run()}/doc/{doc_id}" + (f"?{urlencode(show)}" if show else "")

    def cluster(self, number: int) -> str:
        return f"{self.run(part='clusters')}#cluster-{number}"

    def label(self, name: str) -> str:
        return f"{self.run(part='labels')}?{urlencode({'label': name})}"


@dataclass
class Asked:
    """One request. store: a cursor of the newest snapshot, for this request alone.

    publication: of that snapshot. token: what a form that writes must bring along (`Notes`).
    """

    request: Request
    store: duckdb.DuckDBPyConnection
    publication: str
    templates: Environment
    app: Any
    token: str

    @cached_property
    def run_id(self) -> str:
        """The run of the address. Raises ``QueryError`` for an unknown one."""
        return resolve_run(self.store, str(self.request.path_params["run"]))

    @cached_property
    def links(self) -> Links:
        return Links(self.run_id)

    def number(self, name: str, default: int, least: int = 0, most: int = 10**9) -> int:
        """A whole number of the address, after the question mark."""
        given = self.request.query_params.get(name)
        if given is None or given == "":
            return default
        try:
            found = int(given)
        except ValueError:
            found = least - 1
        if not least <= found <= most:
            raise QueryError(f"{name} = {given[:40]!r}: name a whole number, {least} to {most}")
        return found

    def word(self, name: str, default: str = "") -> str:
        """A text of the address, after the question mark."""
        return self.request.query_params.get(name, default)

    def page(self, template: str, /, status: int = HTTPStatus.OK, **shown: Any) -> Response:
        """A page, or a part of one where the template is a part; with ``shown`` and what all pages
        have."""
        text = self.templates.get_template(template).render(
            asked=self, path=self.request.url.path, token=self.token, **shown
        )
        return self._unless_known(HTMLResponse(text, status))

    def json(self, value: Any) -> Response:
        """For scripts."""
        return self._unless_known(JSONResponse(value))

    def _unless_known(self, response: Response) -> Response:
        """Nothing, if the browser has this very answer already."""
        tag = '"' + hashlib.sha256(bytes(response.body)).hexdigest()[:24] + '"'
        response.headers["ETag"] = tag
        response.headers["Cache-Control"] = "no-cache"
        if self.request.headers.get("if-none-match") == tag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
        return response
