"""Replacing the store's file: a private copy is changed and takes the old one's name.

Readers keep the file they opened, which is never written to; the next one to open finds the new.
A writer that dies leaves the old file as it was and a draft that the next writer clears away.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb

from deconstruct.artifacts import fsync
from deconstruct.common.errors import StorageError
from deconstruct.store.ddl import HOME_VARIABLE, literal, name
from deconstruct.store.reading.obeyed import take_out

log = logging.getLogger(__name__)

FILE = "deconstruct.duckdb"
DRAFT = re.compile(r"\..+?(?:\.(\d+))?\.draft(?:\.newer)?(?:\.wal|\.spill)?")
MEMORY_LIMIT = "2GB"
COPY_ATTEMPTS = 20

SMALL_BLOCKS = 16_384
"""Many small tables: a column takes a block, and an empty store 0.5 MB instead of 6.5."""

STORAGE = "v1.2.0"
"""DuckDB's storage that files are written in: shells, notebooks and BI tools since 1.2 read it."""

DAMAGED = ("Corrupt database file", "not a valid DuckDB database file", "Failed to deserialize")
"""What DuckDB says of a file that is not as it was written: each of its blocks has a checksum."""

REMEDY = (
    "move it away and run the pipeline again: artifacts are kept, so only publishing is repeated"
)
"""What is done about such a file."""

LARGE_BLOCKS = 262_144
"""DuckDB's own default, for files that hold millions of rows."""


@contextmanager
def rewriting(
    target: Path, *, start_from: Path | None = None, block_size: int = SMALL_BLOCKS
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a draft of ``target``, which takes that name once the block has ended.

    The draft begins as a copy of ``start_from``, or empty with this ``block_size``. If the block
    raises, nothing changes. One process does this at a time for a target; others wait. Raises
    ``StorageError`` if the disk fills up or ``start_from`` is damaged.
    """
    draft = target.with_name(f".{target.name}.draft")
    with _single_writer(target):
        _clear(draft)  # of a writer that died
        try:
            if start_from is not None and start_from.exists():
                _warn_of_a_writer(start_from)
                copy_database(start_from, draft)
                with closing(_connect(draft, block_size)) as connection:
                    take_out(connection)
                _store_for_older(draft, block_size, start_from)
            connection = _connect(draft, block_size)
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
                connection.execute("CHECKPOINT")
            finally:
                connection.close()
            _replace(draft, target)
        except duckdb.Error as error:
            sentence = _sentence(target, error)
            if sentence is None:
                raise
            raise StorageError(sentence) from error
        except OSError as error:
            raise StorageError(_trouble(target, error.strerror or str(error))) from error
        finally:
            _clear(draft)


def _warn_of_a_writer(store: Path) -> None:
    """Say whose notes will be lost: what is written into a file after its name is another's."""
    try:
        duckdb.connect(store, read_only=True).close()
    except duckdb.IOException as error:
        held = re.search(r"Conflicting lock is held in (.*?\(PID \d+\))", str(error))
        if held is not None:
            log.warning(
                "%s has %s open for writing: what it wrote is kept, but what it writes there from "
                "now on is lost. Close it, open the store read-only, and keep notes in a file of "
                "their own",
                held[1],
                store,
            )
    except duckdb.Error:  # damaged, or open in this process: said by whoever meets it
        return


def copy_database(source: Path, target: Path) -> None:
    """Copy a DuckDB file and its write-ahead log, if it has one, as they were at one moment.

    Deconstruct never writes into ``source``, but a shell that opened it for writing may.
    """
    for _ in range(COPY_ATTEMPTS):
        before = state(source)
        shutil.copyfile(source, target)
        try:
            shutil.copyfile(_wal(source), _wal(target))
        except FileNotFoundError:
            _wal(target).unlink(missing_ok=True)
        if state(source) == before:
            return
        time.sleep(0.1)
    raise StorageError(
        f"{source} is being written to by another program all the time; close the shell that has "
        "it open, or open it there with 'duckdb -readonly'"
    )


def _store_for_older(draft: Path, block_size: int, store: Path) -> None:
    """Write a draft anew in `STORAGE` if it is in a newer one, which a file never leaves by itself.

    Views are made anew on the way, and need the artifacts that they look into: where those are
    gone, the draft stays as it is.
    """
    newer = _newer(draft)
    with closing(_connect(draft, block_size)) as connection:
        if _storage(connection) == f"{STORAGE}+":
            return
    draft.rename(newer)
    try:
        with closing(_connect(draft, block_size)) as connection:
            connection.execute(f"SET VARIABLE {HOME_VARIABLE} = ?", [str(store.parent)])
            file, aim = literal(str(newer)), name(_database(connection))
            connection.execute(f"ATTACH {file} AS newer (READ_ONLY)")
            connection.execute(f"COPY FROM DATABASE newer TO {aim}")
    except duckdb.Error as error:
        log.info("%s stays in its DuckDB's storage: %s", store, str(error).splitlines()[0])
        draft.unlink(missing_ok=True)
        newer.rename(draft)
    finally:
        newer.unlink(missing_ok=True)


def _storage(connection: duckdb.DuckDBPyConnection) -> str:
    found = connection.execute(
        "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = ?",
        [_database(connection)],
    ).fetchall()
    return str(found[0][0])


def _database(connection: duckdb.DuckDBPyConnection) -> str:
    return str(connection.execute("SELECT current_database()").fetchall()[0][0])


def _connect(draft: Path, block_size: int) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(_spill(draft)),
        "default_block_size": block_size,
        "storage_compatibility_version": STORAGE,
        "autoinstall_known_extensions": False,  # what a store's views name has no say in it
        "autoload_known_extensions": False,
    }
    try:
        return duckdb.connect(draft, config=settings)
    except duckdb.Error:
        # What another program left in its log may not fit the file. The file alone is whole:
        # nothing but complete drafts ever takes its name.
        if not _wal(draft).exists():
            raise
        log.warning(
            "changes that another program left beside %s can't be read; they are left out", draft
        )
        _wal(draft).unlink()
        return duckdb.connect(draft, config=settings)


def _replace(draft: Path, target: Path) -> None:
    fsync(draft)
    # The log belongs to the file that goes (the draft took it in); the next one must not meet it.
    _wal(target).unlink(missing_ok=True)
    os.replace(draft, target)
    fsync(target.parent)


def _clear(draft: Path) -> None:
    draft.unlink(missing_ok=True)
    _newer(draft).unlink(missing_ok=True)
    _wal(draft).unlink(missing_ok=True)
    shutil.rmtree(_spill(draft), ignore_errors=True)


def left_drafts(folder: Path) -> list[Path]:
    """Drafts in a folder whose writer died; none while somebody writes there."""
    with _writing_now(folder) as busy:
        found = [] if busy else [path for path in folder.iterdir() if DRAFT.fullmatch(path.name)]
    return sorted(path for path in found if not path.is_symlink() and not _writer_lives(path))


def clear_left(draft: Path) -> bool:
    """Remove what `left_drafts` has found, unless somebody writes there by now; whether it did."""
    with _writing_now(draft.parent) as busy:
        if busy or not draft.exists():
            return False
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    return True


def _writer_lives(draft: Path) -> bool:
    """Of a draft that is named by its process (`deconstruct.store.render.whole`)."""
    named = DRAFT.fullmatch(draft.name)
    if named is None or named[1] is None:
        return False
    try:
        os.kill(int(named[1]), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _newer(draft: Path) -> Path:
    return draft.with_name(f"{draft.name}.newer")


def _wal(database: Path) -> Path:
    return database.with_name(database.name + ".wal")


def _spill(database: Path) -> Path:
    return database.with_name(database.name + ".spill")


def state(database: Path) -> list[tuple[int, int, int] | None]:
    """Marks of a database's file and log: they differ once another file has taken the name."""
    states: list[tuple[int, int, int] | None] = []
    for path in (database, _wal(database)):
        try:
            stat = path.stat()
        except FileNotFoundError:
            states.append(None)
        else:
            states.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return states


def _sentence(target: Path, error: duckdb.Error) -> str | None:
    """What became of writing; None: it is a fault of ours."""
    if any(sign in str(error) for sign in DAMAGED):
        return f"store {target} is damaged ({' '.join(str(error).split())}); {REMEDY}"
    faults = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException)
    return _trouble(target, str(error)) if isinstance(error, faults) else None


def _trouble(target: Path, what: str) -> str:
    return (
        f"store {target} can't be written: {what.splitlines()[0].rstrip('.')}; what was published "
        "before is unchanged. Free some space or repair the file, and run again"
    )


@contextmanager
def _writing_now(folder: Path) -> Iterator[bool]:
    """Whether somebody writes a store or an export in a folder; if not, nobody begins to."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield True
    else:
        yield False
    finally:
        os.close(handle)


@contextmanager
def _single_writer(target: Path) -> Iterator[None]:
    """Hold the right to write. The kernel drops the lock when its holder dies, however it dies."""
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)  # leaves no lock file behind
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another run is writing %s; waiting", target)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
