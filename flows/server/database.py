"""Prefect's database under a data root: made whole or not at all, by one process at a time.

Prefect migrates its database whenever a server starts. Two servers that do so at once get into each
other's way, and one that is killed meanwhile leaves a database that no later one can use. So a new
one is made beside its place and gets its name at the end, under a lock that the kernel drops.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from pathlib import Path

from deconstruct.common.errors import StorageError

FILE = "prefect.db"
LOCK = ".prefect.db.lock"
DRAFT = ".prefect.db.draft"
ENDINGS = ("", "-wal", "-shm", "-journal")


def prepare() -> None:
    """Make the database of the server that this process is to be, or bring it up to date.

    Its place is what Prefect's settings say. Raises ``StorageError`` if it is damaged, or was made
    by a newer Prefect.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    place = settings.home / FILE
    url = settings.server.database.connection_url
    if url is not None and str(place) not in url.get_secret_value():
        asyncio.run(_migrate())  # a server of databases, which sees to its locks itself
        return
    with (settings.home / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if place.exists() and place.stat().st_size:
            _check(place)
            try:
                asyncio.run(_migrate())
            except Exception as error:
                raise StorageError(_unusable(place, error)) from error
        else:
            _make(place)


def _make(place: Path) -> None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

    draft = place.with_name(DRAFT)
    for ending in ENDINGS:
        draft.with_name(draft.name + ending).unlink(missing_ok=True)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{draft}"}):
        asyncio.run(_migrate())
    with sqlite3.connect(draft) as connection:  # all of it in one file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    for ending in ENDINGS[1:]:
        place.with_name(place.name + ending).unlink(missing_ok=True)
    os.replace(draft, place)


async def _migrate() -> None:
    from prefect.server.database import dependencies, provide_database_interface

    dependencies.MODELS_DEPENDENCIES["database_config"] = None  # of another place, perhaps
    try:
        interface = provide_database_interface()
        await interface.create_db()
        await (await interface.engine()).dispose()
    finally:
        dependencies.MODELS_DEPENDENCIES["database_config"] = None


def _check(place: Path) -> None:
    """Raise ``StorageError`` if SQLite can't read it."""
    try:
        connection = sqlite3.connect(place)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(_unusable(place, error)) from error


def _unusable(place: Path, error: Exception) -> str:
    reason = (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
    what, remedy = "is damaged, or was never finished", ""
    if "locate revision" in reason:
        what, remedy = "was made by a newer Prefect", "install that one, or "
    return (
        f"Prefect's database {str(place)!r} {what} ({reason}); {remedy}move it away: a new one is "
        "made then, without the history of runs and what the UI changed; artifacts and store stay"
    )
