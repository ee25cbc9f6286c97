"""The store, open as long as the explorer runs: a cursor per request, and the newest publication.

A publish puts a new file in the place of the old one. Requests that are being answered go on with
the snapshot that they have; the next one gets the new.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from deconstruct.store import open_store
from deconstruct.store.migrate import publication
from deconstruct.store.rewrite import FILE, state


@dataclass
class _Snapshot:
    connection: duckdb.DuckDBPyConnection
    publication: str
    seen: object
    """What the file was when it was opened, by name, size and time."""
    readers: int = 0


class Stores:
    """Hands out cursors of the newest snapshot of the store of one data root.

    Files of artifacts are reached by the store's views alone; SQL that a person writes on a page
    can neither write nor reach any other file.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._current = self._open()

    @contextmanager
    def cursor(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """A cursor for one request, and the publication that it reads."""
        with self._lock:
            if state(self.home / FILE) != self._current.seen:
                old, self._current = self._current, self._open()
                if not old.readers:
                    old.connection.close()
            snapshot = self._current
            snapshot.readers += 1
        cursor = snapshot.connection.cursor()
        try:
            if _attached(cursor):
                cursor.execute("USE deconstruct")
            yield cursor, snapshot.publication
        finally:
            cursor.close()
            with self._lock:
                snapshot.readers -= 1
                if snapshot is not self._current and not snapshot.readers:
                    snapshot.connection.close()

    def close(self) -> None:
        """Give the store back."""
        with self._lock:
            self._current.connection.close()

    def _open(self) -> _Snapshot:
        seen = state(self.home / FILE)
        connection = open_store(self.home, files=False, verify=False)
        return _Snapshot(connection, publication(connection) or "", seen)


def _attached(cursor: duckdb.DuckDBPyConnection) -> bool:
    """Whether the store is a database beside the connection's own (`open_store` says when)."""
    found = cursor.execute("SELECT 1 FROM duckdb_databases() WHERE database_name = 'deconstruct'")
    return found.fetchone() is not None
