"""Who may ask our servers anything at all: programs of this machine, and the pages they serve.

A browser sends what any page asks it to, to this machine too. Some requests come without asking
first (a POST of a form or of plain text), websockets always do; and a page whose name is bound anew
to 127.0.0.1 is to the browser of one origin with the server. So who asks by a name that is not this
machine's, or for a page that is not the server's own, is turned away before the application sees
it: the explorer, and Prefect's server, which asks for a secret besides (`flows.server.secret`).
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Of this machine, as a browser's address has them."""

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; "
    "frame-ancestors 'none'"
)
"""For the server's own pages: they ask nobody else (Prefect's would tell a service that counts
visitors), and no page shows them within itself, to have the user click what they don't see."""
OWN = ("same-origin", "none")
"""What a browser says (``Sec-Fetch-Site``) of what the server's pages or the user asked for."""


class Guard:
    """An ASGI application in front of another that listens on ``port`` of this machine."""

    def __init__(self, app: ASGIApp, port: int, policy: str = POLICY) -> None:
        """policy: the content policy of answers that bring none of their own."""
        self.app, self.policy = app, policy
        self.hosts = {f"{name}:{port}" for name in NAMES} | ({*NAMES} if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be asked; answer all else with a sentence that says why not."""

        async def alone(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Frame-Options"] = "DENY"
                headers.setdefault("Content-Security-Policy", self.policy)
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        fault = self.fault(scope)
        if fault is None:
            await self.app(scope, receive, alone)
        elif scope["type"] == "websocket":
            await WebSocketClose(reason=fault[1])(scope, receive, send)
        else:
            await PlainTextResponse(f"{fault[1]}\n", fault[0])(scope, receive, send)

    def fault(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for what may not be asked; None: it may."""
        headers = Headers(scope=scope)
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            names = ", ".join(NAMES)
            return HTTPStatus.MISDIRECTED_REQUEST, f"ask by one of {names}, with the server's port"
        if not self.origins.issuperset(headers.getlist("origin")):
            return HTTPStatus.FORBIDDEN, "no page of another origin is answered"
        if not {*OWN}.issuperset(headers.getlist("sec-fetch-site")) and not _is_link(
            scope, headers
        ):
            return HTTPStatus.FORBIDDEN, "no page of another site is answered"
        return None


def led_here(headers: Headers) -> bool:
    """Whether a page of another site may have led the user here, of a request that `Guard` has let
    pass: its address may then be one that the user has never read.

    Old browsers don't say (``Sec-Fetch-Site``): of those a page of ours must be the one that led
    here. What is no browser follows nobody's links.
    """
    site, before = headers.get("sec-fetch-site"), headers.get("referer")
    if site is not None:
        return site not in OWN
    if before is not None:
        return not before.startswith(f"http://{headers['host']}/")
    return headers.get("user-agent", "").startswith("Mozilla/")


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Whether somebody has followed a link: the browser leaves the other page for ours."""
    asked = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope.get("method") == "GET" and asked == ("navigate", "document")
