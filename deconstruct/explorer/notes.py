"""Stars and notes on latents: the one thing that the explorer writes.

They lie in a file of their own beside the store, which every publish replaces. It is SQLite's:
several tabs, explorers and commands read and write it at a time, and wait for each other, where
DuckDB gives a file to one process alone. A note is of a latent of an autoencoder (its key), so it
is found again by every run that has the same one: after a publish, a rerun, and an analysis of
other texts. The file may have come from others: nothing in it but rows is believed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from deconstruct.common.errors import StorageError
from deconstruct.store.query import QueryError

FILE = "notes.sqlite"
LONGEST = 20_000
"""Characters of a note."""
MOST = 50_000
"""Latents with a star or a note, of a data root."""
ROOM = 50_000_000
"""Characters of all notes together."""
BRIEF = 200
"""Characters of a note in a list of latents."""
PATIENCE = 10.0
"""Seconds that one waits for others who write."""
FIELDS = ("sae", "latent", "starred", "text", "run_id", "run", "site", "top_token", "changed")

_TABLE = """
CREATE TABLE IF NOT EXISTS notes (
    sae TEXT NOT NULL, latent INTEGER NOT NULL, starred INTEGER NOT NULL DEFAULT 0,
    text TEXT NOT NULL DEFAULT '', run_id TEXT NOT NULL, run TEXT NOT NULL, site TEXT NOT NULL,
    top_token TEXT NOT NULL, changed TEXT NOT NULL, PRIMARY KEY (sae, latent)
)"""

_ORDER = "ORDER BY starred DESC, changed DESC, sae, latent"
_REMEDY = "save them (deconstruct notes --output notes.csv) and clear some, then write this again"

_OURS = {("table", "notes"), ("index", "sqlite_autoindex_notes_1")}
"""No trigger and no view of somebody else's does anything."""


class About(NamedTuple):
    """What a note is on: a latent of an autoencoder, and the run in which somebody looked at it."""

    sae: str
    latent: int
    run_id: str
    run: str
    site: str
    top_token: str


class Note(NamedTuple):
    """A row of `FIELDS`. run_id, run: where it was written last. changed: when, in UTC."""

    sae: str
    latent: int
    starred: bool
    text: str
    run_id: str
    run: str
    site: str
    top_token: str
    changed: str


class Changed(QueryError):
    """Somebody else has changed the note since it was looked at. note: as it is by now."""

    def __init__(self, note: Note) -> None:
        super().__init__("this note was changed elsewhere since this page was loaded")
        self.note = note


class Refused(QueryError):
    """A note that is not kept: it is too long, or there is no room for it."""


class Notes:
    """The stars and notes of one data root. Opened anew by each call, never held.

    There are `MOST` of them at most, with `ROOM` characters: what is beyond is refused with a
    `Refused` that says what to do, and what has been saved stays as it was.
    """

    def __init__(self, home: Path) -> None:
        self.file = home / FILE

    def all(self) -> list[Note]:
        """Stars first, then the newest."""
        with self._reading() as connection:
            return _rows(connection, _ORDER)

    def some(self, first: int, most: int) -> tuple[list[Note], int]:
        """So many of `all`, from the one numbered ``first``; and how many there are. Texts that are
        longer than any we write are cut."""
        with self._reading() as connection:
            cut, page = f"substr(text, 1, {LONGEST})", f"{_ORDER} LIMIT ? OFFSET ?"
            return _rows(connection, page, most, first, text=cut), _count(connection)

    def of(self, sae: str) -> dict[int, Note]:
        """Those of one autoencoder, by latent; of each text the first `BRIEF` characters."""
        with self._reading() as connection:
            found = _rows(connection, "WHERE sae = ?", sae, text=f"substr(text, 1, {BRIEF})")
            return {note.latent: note for note in found}

    def one(self, sae: str, latent: int) -> Note | None:
        """That of one latent."""
        with self._reading() as connection:
            return next(iter(_rows(connection, "WHERE sae = ? AND latent = ?", sae, latent)), None)

    def star(self, about: About, starred: bool) -> None:
        """Give a latent a star, or take it back. Raises `Refused` for one too many."""
        with self._writing() as connection:
            if starred:
                _check_number(connection, about)
            _put(connection, about, "starred", int(starred))

    def write(self, about: About, text: str, seen: str) -> None:
        """Write, change or (an empty text) clear a note.

        seen: `changed` of the note that was looked at, empty where there was none. Raises
        `Changed` if somebody has changed the text since, and `Refused` if it is too long or there
        is no room for it.
        """
        if len(text) > LONGEST:
            raise Refused(
                f"a note has {LONGEST:,} characters at most, and this {len(text):,}; shorten it"
            )
        with self._writing() as connection:
            found = _rows(connection, "WHERE sae = ? AND latent = ?", about.sae, about.latent)
            if found and found[0].text and found[0].changed != seen and found[0].text != text:
                raise Changed(found[0])
            if text:
                _check_number(connection, about)
                _check_room(connection, len(text) - (len(found[0].text) if found else 0))
            _put(connection, about, "text", text)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self.file.exists():
            yield None
            return
        with self._open() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if not self.file.parent.is_dir():
            raise StorageError(f"there is no folder {str(self.file.parent)!r} for notes; make it")
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # others wait from here on
            connection.execute(_TABLE)
            yield connection
            connection.execute("DELETE FROM notes WHERE NOT starred AND text = ''")
            connection.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.file, PATIENCE, isolation_level=None)) as one:
                one.execute("PRAGMA trusted_schema = OFF")
                if not _OURS.issuperset(one.execute("SELECT type, name FROM sqlite_schema")):
                    raise sqlite3.DatabaseError("it holds more than notes")
                yield one
        except (sqlite3.Error, ValueError) as error:  # the latter of a number that is none
            raise StorageError(
                f"notes {str(self.file)!r} can't be read or written: {error}; "
                "move the file away to begin another"
            ) from error


def _rows(
    connection: sqlite3.Connection | None, which: str, *values: str | int, text: str = "text"
) -> list[Note]:
    if connection is None:
        return []
    fields = ", ".join(text if field == "text" else field for field in FIELDS)
    found = connection.execute(f"SELECT {fields} FROM notes {which}", values)
    return [
        Note(str(r[0]), int(r[1]), bool(r[2]), *(str(value) for value in r[3:]))
        for r in found.fetchall()
    ]


def _count(connection: sqlite3.Connection | None) -> int:
    if connection is None:
        return 0
    return int(connection.execute("SELECT count(*) FROM notes").fetchone()[0])


def _check_number(connection: sqlite3.Connection, about: About) -> None:
    """Raises `Refused` if this would be a star or note too many."""
    if _count(connection) < MOST:
        return
    if not _rows(connection, "WHERE sae = ? AND latent = ?", about.sae, about.latent):
        raise Refused(f"there are {MOST:,} stars and notes, the most that are kept; {_REMEDY}")


def _check_room(connection: sqlite3.Connection, more: int) -> None:
    """Raises `Refused` if there is no room for so many characters more."""
    if more <= 0:
        return
    [held] = connection.execute("SELECT coalesce(sum(length(text)), 0) FROM notes").fetchone()
    if int(held) + more > ROOM:
        raise Refused(f"all notes together have {ROOM:,} characters at most; {_REMEDY}")


def _put(connection: sqlite3.Connection, about: About, field: str, value: str | int) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    connection.execute(
        f"""
INSERT INTO notes (sae, latent, run_id, run, site, top_token, changed, {field})
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (sae, latent) DO UPDATE SET run_id = excluded.run_id, run = excluded.run,
    site = excluded.site, top_token = excluded.top_token, {field} = excluded.{field},
    changed = {"excluded.changed" if field == "text" else "changed"}""",
        (*about, now, value),
    )


def about(store: duckdb.DuckDBPyConnection, run_id: str, latent: int) -> About:
    """What a note on a latent of a run is on. Raises ``QueryError`` if there is no such latent."""
    rows = store.execute(
        """
SELECT s.key, f.latent, r.run_id, r.name, r.site, f.top_token FROM runs AS r
JOIN stages AS s ON s.run_id = r.run_id AND s.stage = 'sae'
JOIN features AS f ON f.run_id = r.run_id AND f.latent = $latent
WHERE r.run_id = $run""",
        {"run": run_id, "latent": latent},
    ).fetchall()
    if not rows:
        raise QueryError(f"run {run_id} has no latent {latent}")
    sae, number, run, name, site, token = rows[0]
    return About(str(sae), int(number), str(run), str(name), str(site), str(token or ""))


def sae_key(store: duckdb.DuckDBPyConnection, run_id: str) -> str:
    """The key of a run's autoencoder."""
    rows = store.execute(
        "SELECT key FROM stages WHERE run_id = ? AND stage = 'sae'", [run_id]
    ).fetchall()
    return str(rows[0][0]) if rows else ""
