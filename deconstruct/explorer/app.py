"""The explorer's application: which pages there are, and what is true of all of them.

It answers programs of this machine and its own pages alone (`guard.py`); a page that is none is a
sentence that says why; answers are packed, and known ones are not sent again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

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
from deconstruct.explorer import PORT
from deconstruct.explorer.asked import Asked, Page, known
from deconstruct.explorer.attended import Queries, attended
from deconstruct.explorer.guard import Guard
from deconstruct.explorer.pages import PAGES
from deconstruct.explorer.ready import Ready
from deconstruct.explorer.stores import Stores
from deconstruct.report import chart
from deconstruct.report.html import environment, static
from deconstruct.store import QueryError
from deconstruct.store.pages import sentence

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KEPT = "private, max-age=3600"
MOST = 4_000_000
"""Bytes of a form."""


class Explorer:
    """The pages over one data root. port: that it listens on, which addresses must name.

    Where there is no store yet, pages say so until there is one.
    """

    def __init__(self, home: Path, port: int = PORT) -> None:
        self.home, self.port = home, port
        self.stores = Stores(home)
        self.ready = Ready(self.stores)
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
                Exception: self._fault,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        # Figures need what takes two seconds to start; nobody waits for it here.
        threading.Thread(target=self.scripts, daemon=True).start()
        yield
        self.stores.close()

    def _serve(self, page: Page) -> Callable[[Request], object]:
        async def serve(request: Request) -> Response:
            form = await self._form(request) if request.method == "POST" else {}

            def answer(queries: Queries) -> Response:
                with self.stores.cursor() as (cursor, publication):
                    queries.attend(cursor)
                    asked = Asked(request, cursor, publication, self, queries, form)
                    return page.answer(asked)

            return await attended(request, answer)

        return serve

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form of ours: any other page's is turned away."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this form is too large")
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if not secrets.compare_digest(fields.pop("token", "").encode(), self.token.encode()):
            raise HTTPException(
                HTTPStatus.FORBIDDEN, "this form is of another start of the explorer; load it anew"
            )
        return fields

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        shared: dict[str, Callable[[], str]] = {
            "style.css": lambda: static("style.css"),
            "live.js": lambda: static("live.js"),
            "vega.js": self.scripts,
        }
        own = HERE / "static" / name
        if name in shared:
            body = await run_in_threadpool(shared[name])
        elif own.parent == HERE / "static" and own.is_file():
            body = own.read_text(encoding="utf-8")
        else:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no file {name[:60]!r}")
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return known(request, Response(body, media_type=kind), KEPT)

    async def _fault(self, request: Request, error: Exception) -> Response:
        """A page with one sentence, for what is not there or can't be."""
        status, told = HTTPStatus.BAD_REQUEST, str(error)
        if isinstance(error, HTTPException):
            status, told = HTTPStatus(error.status_code), str(error.detail)
            if told == HTTPStatus.NOT_FOUND.phrase:
                told = f"there is no page {request.url.path[:100]!r}"
        elif isinstance(error, duckdb.Error):
            told = sentence(error)
        elif isinstance(error, QueryError):
            status = HTTPStatus.NOT_FOUND
        elif not isinstance(error, DeconstructError):
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            told = f"this page has a fault ({type(error).__name__}); the explorer's log says where"
        text = self.templates.get_template("fault.html").render(told=told)
        return HTMLResponse(text, status)
