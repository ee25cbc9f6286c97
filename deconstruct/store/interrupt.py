"""Ctrl-C for queries: left alone, DuckDB may not hear of it for minutes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

import duckdb

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds after which what does not stop is left to end with the process."""


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, done on a thread of its own, so that this one is free.

    What this one's context holds (options of a command), holds there too.

    Ctrl-C stops the query that ``work`` is at on ``connection`` and raises KeyboardInterrupt.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=copy_context().run, args=(run,), daemon=True).start()
    try:
        return answer.result()
    except KeyboardInterrupt:
        # An interrupt that comes before a query begins, or between two of its parts, is lost.
        for _ in range(int(PATIENCE / 0.1)):
            connection.interrupt()
            if wait([answer], timeout=0.1).done:
                break
        raise
