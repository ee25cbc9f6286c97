"""The explorer's application: which pages there are, and what is true of all of them.

It answers programs of this machine and its own pages alone (`guard.py`); a page that is none is a
sentence that says why; answers are packed, and known ones are not sent again.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path

import duckdb
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from deconstruct.common.errors import DeconstructError
from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.guard import Guard
from deconstruct.explorer.pages import PAGES
from deconstruct.explorer.stores import Stores
from deconstruct.report import chart
from deconstruct.report.html import environment, static
from deconstruct.store import QueryError
from deconstruct.store.pages import sentence

HOST = "127.0.0.1"
PORT = 4300
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KEPT = "private, max-age=3600"


class Explorer:
    """The pages over one data root. port: that it listens on, which addresses must name.

    Raises ``StorageError`` if there is no store.
    """

    def __init__(self, home: Path, port: int = PORT) -> None:
        self.home, self.port = home, port
        self.stores = Stores(home)
        self.token = secrets.token_urlsafe(24)
        self.templates = environment("deconstruct.explorer")
        self.scripts: Callable[[], str] = cache(chart.scripts)

    def application(self) -> Starlette:
        """What uvicorn serves."""
        routes = [Route(p.path, self._serve(p), methods=list(p.methods)) for p in PAGES]
        routes.append(Route("/static/{name}", self._static))
        return Starlette(
            routes=routes,
            middleware=[
                Middleware(Guard, port=self.port, policy=POLICY),
                Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
            ],
            exception_handlers={
                DeconstructError: self._fault,
                duckdb.Error: self._fault,
                HTTPException: self._fault,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.stores.close()

    def _serve(self, page: Page) -> Callable[[Request], object]:
        def answer(request: Request) -> Response:
            with self.stores.cursor() as (cursor, publication):
                asked = Asked(request, cursor, publication, self.templates, self, self.token)
                return page.answer(asked)

        async def serve(request: Request) -> Response:
            return await run_in_threadpool(answer, request)

        return serve

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        kinds = {
            "style.css": ("text/css", lambda: static("style.css")),
            "live.js": ("text/javascript", lambda: static("live.js")),
            "vega.js": ("text/javascript", self.scripts),
        }
        if name not in kinds:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no file {name[:60]!r}")
        kind, text = kinds[name]
        body = await run_in_threadpool(text)
        return Response(body, media_type=kind, headers={"Cache-Control": KEPT})

    async def _fault(self, _: Request, error: Exception) -> Response:
        """A page with one sentence, for what is not there or can't be."""
        status, told = HTTPStatus.BAD_REQUEST, str(error)
        if isinstance(error, HTTPException):
            status, told = HTTPStatus(error.status_code), str(error.detail)
        elif isinstance(error, duckdb.Error):
            told = sentence(error)
        elif isinstance(error, QueryError):
            status = HTTPStatus.NOT_FOUND
        text = self.templates.get_template("fault.html").render(told=told)
        return HTMLResponse(text, status)
