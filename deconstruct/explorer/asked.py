"""What a page is given: the store, the run that it is about, and the ways to answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import duckdb
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from deconstruct.explorer.attended import Queries
from deconstruct.explorer.guard import led_here
from deconstruct.explorer.ready import Ready
from deconstruct.explorer.stores import Stores
from deconstruct.report.reading.runs import RunHeader, header
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


class Host(Protocol):
    """What all requests share: `app.Explorer`."""

    home: Path
    stores: Stores
    ready: Ready
    templates: Environment
    token: str


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

    def compare(self, one: str, other: str) -> str:
        return f"/compare/{quote(one)}/{quote(other)}"


@dataclass
class Asked:
    """One request. store: a cursor of the newest snapshot, for this request alone.

    publication: of that snapshot. queries: whose `attend` has further connections stopped when the
    browser leaves. form: the fields of a form of ours, of pages that write.
    """

    request: Request
    store: duckdb.DuckDBPyConnection
    publication: str
    app: Host
    queries: Queries
    form: Mapping[str, str]

    @property
    def token(self) -> str:
        """What a form that writes must bring along, in its field ``token``."""
        return self.app.token

    @cached_property
    def run_id(self) -> str:
        """The run of the address. Raises ``QueryError`` for an unknown one."""
        return resolve_run(self.store, str(self.request.path_params["run"]))

    @cached_property
    def header(self) -> RunHeader | None:
        """The run that the page is about: of the address, or ``?run=``; None of other pages."""
        if "run" in self.request.path_params:
            return header(self.store, self.run_id)
        named = self.word("run")
        return header(self.store, resolve_run(self.store, named)) if named else None

    @cached_property
    def links(self) -> Links:
        return Links(self.header.run_id if self.header else "")

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

    @property
    def from_elsewhere(self) -> bool:
        """Whether a page of another site has led here: what costs much then waits to be asked for
        by the user."""
        return led_here(self.request.headers)

    def page(self, template: str, /, status: int = HTTPStatus.OK, **shown: Any) -> Response:
        """A page, or a part of one where the template is a part; with ``shown`` and what all pages
        have: ``asked``, ``links``, ``token``."""
        every = {"asked": self, "links": self.links, "token": self.token}
        text = self.app.templates.get_template(template).render(every | shown)
        return known(self.request, HTMLResponse(text, status))

    def json(self, value: Any) -> Response:
        """For scripts."""
        return known(self.request, JSONResponse(value))

    def back(self, to: str) -> Response:
        """After a form: on to a page of ours."""
        return RedirectResponse(to, HTTPStatus.SEE_OTHER)


def known(request: Request, response: Response, kept: str = "no-cache") -> Response:
    """The answer; nothing, if the browser has this very one already."""
    tag = '"' + hashlib.sha256(bytes(response.body)).hexdigest()[:24] + '"'
    headers = {"ETag": tag, "Cache-Control": kept}
    response.headers.update(headers)
    # Packed on its way, it comes back as a weak one.
    asked = request.headers.get("if-none-match", "").removeprefix("W/")
    if asked == tag and response.status_code == HTTPStatus.OK:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return response
