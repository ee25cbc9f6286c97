"""Which runs live over a data root: each holds a lock that dies with its process.

A run's lock is a file ``<home>/.runs/<run>``, which its process has locked from its first moment
under that name until it ends; the kernel drops the lock however that comes about. The file's time
is that of the run's start.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FOLDER = ".runs"
RUN = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def hold(home: Path, run: str) -> IO[bytes]:
    """Take a run's lock: it is held until what this returns is closed, or the process ends.

    run: its id, a UUID. Nobody ever sees the file without its lock: it gets its name after that.
    """
    folder = home / FOLDER
    if folder.is_symlink():  # of whoever has made the data root: where it leads is not ours
        folder.unlink()
    folder.mkdir(exist_ok=True)
    unnamed = folder / f".{run}.{os.getpid()}"
    unnamed.unlink(missing_ok=True)
    handle = open(unnamed, "xb")  # noqa: SIM115
    fcntl.flock(handle, fcntl.LOCK_EX)
    unnamed.rename(folder / run)
    return handle


def living(home: Path) -> dict[str, float]:
    """The runs that live, by id, and when each began, in seconds since the epoch."""
    found = {}
    for path in _files(home):
        with _opened(path) as handle:
            if handle is not None and not try_lock(handle):
                found[path.name] = os.fstat(handle).st_mtime
    return found


def has_lock(home: Path, run: str) -> bool:
    """Whether a run has a lock file, be it alive or dead."""
    return (home / FOLDER / run).exists()


def dead(home: Path) -> Iterator[str]:
    """The runs whose process has died, one after another; each goes to one process alone.

    A run is forgotten once the caller asks for the next one.
    """
    for path in _files(home):
        with _opened(path) as handle:
            if handle is not None and try_lock(handle) and _is(handle, path):
                yield path.name
                path.unlink(missing_ok=True)


def _files(home: Path) -> list[Path]:
    folder = home / FOLDER
    found = () if folder.is_symlink() else folder.glob("*")
    return sorted(path for path in found if RUN.fullmatch(path.name))


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A run's file; None if another process has removed it meanwhile, or it is no file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield handle if stat.S_ISREG(os.fstat(handle).st_mode) else None
    finally:
        os.close(handle)


def try_lock(handle: int | IO[bytes]) -> bool:
    """Lock an open file until it is closed; False if another opening of it has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(handle: int, path: Path) -> bool:
    """Whether the open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
