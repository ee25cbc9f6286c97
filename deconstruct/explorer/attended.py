"""Work that somebody waits for: if nobody does any longer, or for too long, its query is stopped.

Pages are made in threads of their own, so none waits for another; DuckDB stops at a word from
another thread alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import duckdb
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from deconstruct.store.query import QueryError

T = TypeVar("T")
LONGEST = 30.0
"""Seconds that a page may take."""
AGAIN = 0.1
"""Seconds after which a query is told once more: between two of its parts it hears nothing."""


class Queries:
    """The connections that a request asks something of."""

    def __init__(self) -> None:
        self._asked: list[duckdb.DuckDBPyConnection] = []
        self.stopped = False

    def attend(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have the queries of a connection stopped, if it comes to that."""
        self._asked.append(connection)

    def stop(self) -> None:
        """Stop what runs now."""
        self.stopped = True
        for connection in self._asked:
            with suppress(duckdb.Error):  # closed by now
                connection.interrupt()


async def attended(request: Request, work: Callable[[Queries], T], longest: float = LONGEST) -> T:
    """What ``work`` returns or raises, done on a thread; its queries stop when the browser has
    gone, and after ``longest`` seconds. Raises ``QueryError`` then."""
    queries = Queries()
    done = asyncio.ensure_future(run_in_threadpool(work, queries))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({done, gone}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
        while not done.done():
            queries.stop()
            await asyncio.wait({done}, timeout=AGAIN)
        return done.result()
    except duckdb.InterruptException as error:
        raise QueryError(
            f"this took longer than {longest:.0f} seconds and was stopped; ask for less of it"
        ) from error
    finally:
        gone.cancel()
        queries.stop()


async def _gone(request: Request) -> None:
    """Until the browser has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
