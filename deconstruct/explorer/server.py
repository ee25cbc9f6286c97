"""The explorer as a server of this machine: its port, its note of where it is, its end."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from deconstruct.common.errors import DeconstructError
from deconstruct.explorer import HOST
from deconstruct.explorer.app import Explorer

NOTE = ".explorer"
"""In a data root: where its explorer is, as long as that holds the file."""
ARENAS = 2
"""Of the C library's allocator. It makes up to eight for each core, each of which keeps what its
threads have let go."""
_M_ARENA_MAX = -8
GRACE_SECONDS = 2
"""That requests have to be answered once the end has come."""
_URL = re.compile(rf"http://{re.escape(HOST)}:\d{{1,5}}")


def explore(home: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve pages over a data root until Ctrl-C, or SIGTERM, which end it quietly.

    port: 0 for any that is free. ready: told the address, once the port is ours. Raises
    ``DeconstructError`` if the port is taken.
    """
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
    with _listening(port) as listening:
        port = listening.getsockname()[1]
        url = f"http://{HOST}:{port}"
        application = Explorer(home, port).application()
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # told on by uvicorn at its end
        with noted(home, url), suppress(KeyboardInterrupt):
            ready(url)
            uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listening = socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        raise DeconstructError(
            f"port {port} can't be had ({error.strerror or error}): if another explorer is there, "
            "look at that one, or name a free port with --port"
        ) from error
    with listening:
        yield listening


@contextmanager
def noted(home: Path, url: str) -> Iterator[None]:
    """Note the address in the data root while the block lasts; the first explorer's note stays."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(home / NOTE, flags, 0o644)
    except OSError:  # a folder that we may only read
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
    except OSError:  # held by another explorer, or no file that takes a note
        os.close(handle)
        yield
        return
    try:
        os.pwrite(handle, f"{json.dumps({'url': url, 'pid': os.getpid()})}\n".encode(), 0)
        yield
    finally:
        (home / NOTE).unlink(missing_ok=True)
        os.close(handle)


def running(home: Path) -> str | None:
    """The address of the explorer that runs over a data root; None if none does, or if the note is
    of one that has died."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no pipe has us wait
    try:
        with open(os.open(home / NOTE, flags), encoding="utf-8") as note:
            with suppress(BlockingIOError):
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # nobody holds it
            url = str(json.loads(note.read(1000))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if _URL.fullmatch(url) else None
