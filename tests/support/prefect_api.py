"""What tests ask of a Prefect server's API, as Prefect's own client asks it."""

from __future__ import annotations

import time
from typing import Any

import httpx

SECRET = "tests:what-their-servers-ask-for"
"""Of the servers that tests start for others; see `support.running.environment`."""


def ask(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    secret: str = SECRET,
    seconds: float = 60,
) -> Any:
    """The answer's JSON, None if it is empty; asked again while the database is busy (503)."""
    deadline = time.monotonic() + seconds
    while True:
        login = httpx.BasicAuth(*secret.split(":", maxsplit=1))
        answer = httpx.request(method, f"{url}{path}", json=body, auth=login, timeout=30)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            answer.raise_for_status()
            return answer.json() if answer.content else None
        time.sleep(0.5)
