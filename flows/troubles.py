"""Faults in speaking with a Prefect server, as sentences for the person who has to mend them."""

from __future__ import annotations

import base64
import functools
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from deconstruct.common.errors import DeconstructError

if TYPE_CHECKING:
    import httpx

P = ParamSpec("P")
R = TypeVar("R")


PATIENCE_SECONDS = 10


class ServerLost(DeconstructError):
    """The Prefect server can't be reached, or does not take what it is told."""


@contextmanager
def server_faults_said() -> Iterator[None]:
    """Raise `ServerLost` in the place of what Prefect's client raises of a server."""
    try:
        yield
    except Exception as error:
        sentence = of_server(error)
        if sentence is None:
            raise
        raise ServerLost(sentence) from error


def with_server(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose faults with a server are said in one sentence."""

    @functools.wraps(command)
    def saying(*args: P.args, **kwargs: P.kwargs) -> R:
        with server_faults_said():
            return command(*args, **kwargs)

    return saying


def check_server() -> None:
    """Raise `ServerLost` if the server of ``PREFECT_API_URL`` is down, or refuses this command.

    Without Prefect, which takes seconds to import and longer to give up. What this can't judge
    (certificates of one's own) passes.
    """
    url = os.environ["PREFECT_API_URL"]
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/flow_runs/count", b"{}", headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500 and "PREFECT_CLIENT_CUSTOM_HEADERS" not in os.environ:
            raise ServerLost(_answered(url, error.code)) from error
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise ServerLost(_out_of_reach(url, error.reason)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise ServerLost(_out_of_reach(url, error)) from error


def of_server(error: BaseException) -> str | None:
    """What an error says of the Prefect server, as a sentence; None: nothing."""
    import httpx

    url = os.environ.get("PREFECT_API_URL", "")
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, DeconstructError):
        if isinstance(seen, httpx.HTTPStatusError | httpx.RequestError) and _asked_of(seen, url):
            if isinstance(seen, httpx.HTTPStatusError):
                return _answered(url, seen.response.status_code)
            return _out_of_reach(url, seen)
        seen = seen.__cause__ or seen.__context__
    return None


def _asked_of(error: httpx.HTTPStatusError | httpx.RequestError, url: str) -> bool:
    """Whether it was Prefect's server that was asked, not a hub for example."""
    try:
        return str(error.request.url).startswith(url.rstrip("/"))
    except RuntimeError:  # the error says no more
        return True


def _out_of_reach(url: str, reason: object) -> str:
    return (
        f"the Prefect server at {url!r} can't be reached ({str(reason) or type(reason).__name__}); "
        "start it, or unset PREFECT_API_URL, so that the command has a server of its own, and run "
        "again: what is finished comes from cache"
    )


def _answered(url: str, status: int) -> str:
    if status in (401, 403):
        return (
            f"the Prefect server at {url!r} refuses this command ({status}); set "
            "PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it asks for (`deconstruct serve` "
            "keeps that in the file .prefect/secret of its data root)"
        )
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return (
            f"the server of `deconstruct serve` is asked by its own address alone, not as {url!r}; "
            "set PREFECT_API_URL to the one that it says at its start"
        )
    if status in (404, 405):
        return (
            f"PREFECT_API_URL {url!r} names no Prefect server's API ({status}); it ends in /api, "
            "for example http://127.0.0.1:4200/api"
        )
    return f"the Prefect server at {url!r} failed ({status}); its own log says why"
