"""Who is let through to a server of ours, by headers alone: smuggled, doubled, odd and none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from deconstruct.explorer.guard import Guard

PORT = 4200
HOST = ("host", f"127.0.0.1:{PORT}")
OWN = ("origin", f"http://127.0.0.1:{PORT}")
SITE = "sec-fetch-site"
Headers = Sequence[tuple[str, str]]

PASS: dict[str, Headers] = {
    "a program": [HOST],
    "our page": [HOST, OWN, (SITE, "same-origin")],
    "the user": [HOST, (SITE, "none")],
    "by name": [("host", f"localhost:{PORT}")],
    "in capitals": [("host", f"LOCALHOST:{PORT}")],
    "by IPv6": [("host", f"[::1]:{PORT}")],
}
REFUSED: dict[str, Headers] = {
    "no host": [],
    "empty host": [("host", "")],
    "two hosts": [HOST, ("host", "page.example")],
    "twice the host": [HOST, HOST],
    "a list of hosts": [("host", f"127.0.0.1:{PORT}, page.example")],
    "no port": [("host", "127.0.0.1")],
    "a user": [("host", f"user@127.0.0.1:{PORT}")],
    "as a user": [("host", f"127.0.0.1:{PORT}@page.example")],
    "a trailing dot": [("host", f"localhost.:{PORT}")],
    "a path": [("host", f"127.0.0.1:{PORT}/x")],
    "a fragment": [("host", f"127.0.0.1:{PORT}#x")],
    "a port with a zero": [("host", f"127.0.0.1:0{PORT}")],
    "another way to write it": [("host", f"127.1:{PORT}")],
    "as one number": [("host", f"2130706433:{PORT}")],
    "IPv4 in IPv6": [("host", f"[::ffff:127.0.0.1]:{PORT}")],
    "any address": [("host", f"0.0.0.0:{PORT}")],
    "empty origin": [HOST, ("origin", "")],
    "two origins": [HOST, OWN, ("origin", "http://page.example")],
    "a list of origins": [HOST, ("origin", f"{OWN[1]} http://page.example")],
    "an origin alike": [HOST, ("origin", f"{OWN[1]}.page.example")],
    "two sites": [HOST, (SITE, "same-origin"), (SITE, "cross-site")],
    "an empty site": [HOST, (SITE, "")],
    "a site of another case": [HOST, (SITE, "Same-Origin")],
    "a list of sites": [HOST, (SITE, "same-origin, cross-site")],
}


def status(headers: Headers, kind: str) -> int | str:
    """What the guard answers; 200 and "accepted" are the words of the application behind it."""
    said: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            await send({"type": "websocket.accept"})

    async def receive() -> Message:
        return {"type": f"{kind}.connect" if kind == "websocket" else "http.request"}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": kind,
        "method": "GET",
        "path": "/api/version",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(Guard(application, PORT)(scope, receive, send))
    return said[0].get("status", said[0]["type"])


@pytest.mark.parametrize("headers", PASS.values(), ids=PASS)
def test_our_own_are_let_through(headers: Headers) -> None:
    assert status(headers, "http") == 200
    assert status(headers, "websocket") == "websocket.accept"


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_all_others_are_not(headers: Headers) -> None:
    assert status(headers, "http") in (403, 421)
    assert status(headers, "websocket") == "websocket.close"
