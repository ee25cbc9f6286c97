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
from deconstruct.store.ddl import HOME_VARIABLE
from deconstruct.store.migrate import publication
from deconstruct.store.reading.files import LOCAL_ROOT
from deconstruct.store.rewrite import FILE, state

LIMITS = {"memory_limit": "350MB"}
"""Of DuckDB: what all requests together may hold of the store, so that the explorer stays small."""


@dataclass
class _Snapshot:
    connection: duckdb.DuckDBPyConnection
    publication: str
    seen: object
    """What the file was when it was opened, by name, size and time."""
    readers: int = 0


class Stores:
    """Hands out cursors of the newest snapshot of the store of one data root.

    A store may be somebody else's work (`store.reading.obeyed`), and people write SQL on a page: so
    all that is asked of it, by our own pages too, can neither write nor reach any other file than
    those that the store's views read.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._current: _Snapshot | None = None

    @contextmanager
    def cursor(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """A cursor for one request, and the publication that it reads.

        Raises ``StorageError`` if there is no store (yet), or none that this release can read.
        """
        snapshot = self._newest()
        try:
            cursor = snapshot.connection.cursor()
            try:
                # What a session has set, its cursors have not.
                cursor.execute("USE deconstruct")
                cursor.execute(f"SET VARIABLE {HOME_VARIABLE} = ?", [LOCAL_ROOT])
                yield cursor, snapshot.publication
            finally:
                cursor.close()
        finally:
            self._leave(snapshot)

    @contextmanager
    def apart(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one piece of SQL that a person writes: what it attaches, detaches or
        makes for itself is gone with it, and no other request is touched."""
        connection = open_store(self.home, files=False, verify=False, limits=LIMITS)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Give the store back; those who still read go on."""
        with self._lock:
            old, self._current = self._current, None
        if old is not None and not old.readers:
            old.connection.close()

    def _newest(self) -> _Snapshot:
        """The newest snapshot, with one reader more. Who asks while it is opened waits for it."""
        with self._lock:
            current = self._current
            if current is None or state(self.home / FILE) != current.seen:
                self._current = self._open()
                if current is not None and not current.readers:
                    current.connection.close()
                current = self._current
            current.readers += 1
            return current

    def _leave(self, snapshot: _Snapshot) -> None:
        with self._lock:
            snapshot.readers -= 1
            if snapshot is not self._current and not snapshot.readers:
                snapshot.connection.close()

    def _open(self) -> _Snapshot:
        seen = state(self.home / FILE)
        connection = open_store(self.home, files=False, verify=False, limits=LIMITS)
        return _Snapshot(connection, publication(connection) or "", seen)
