"""One temporary folder per process, which does not stay if the process is killed.

It is locked as long as the process lives, however that ends. The next process to need one removes
those whose lock is free.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "deconstruct-"
GRACE_SECONDS = 60
"""A folder so young may not be locked yet."""


def own_folder() -> Path:
    """This process' own folder, which nobody else may read; made when it is first asked for."""
    return _made(os.getpid())


@functools.cache
def _made(process: int) -> Path:
    clear_left()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # open, and locked, until the end
    fcntl.flock(handle, fcntl.LOCK_EX)

    def remove() -> None:
        if os.getpid() == process:  # a fork has the same duties on its list
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def clear_left() -> None:
    """Remove this user's folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or no folder
            continue
        try:
            found = os.fstat(handle)
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > GRACE_SECONDS:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
