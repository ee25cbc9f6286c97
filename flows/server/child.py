"""Processes that don't outlive the one that started them, however that ends.

    python -m flows.server.child PARENT MODULE [ARGUMENT ...]

runs ``python -m MODULE ARGUMENT ...``, and ends once process PARENT is gone, with all that it has
started: a worker of Prefect would wait for its runs to finish, and they for a server that is gone.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WATCH_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""From being asked to end to being ended."""


def watch_parent(parent: int) -> None:
    """Watch on another thread: this process ends when ``parent`` is its parent no more, and what
    it has started before it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        end(below(os.getpid()))
        end([os.getpid()])

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def below(process: int) -> list[int]:
    """Ids of the processes that one has started, and of those that they have, and so on."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def end(processes: Sequence[int], seconds: float = GRACE_SECONDS) -> None:
    """End processes kindly; after ``seconds``, not. Returns when they have been told so."""
    for one in processes:
        _tell(one, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while any(map(_lives, processes)):
        if time.monotonic() > deadline:
            for one in processes:
                _tell(one, signal.SIGKILL)
            return
        time.sleep(0.05)


def _tell(process: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, what)


def _lives(process: int) -> bool:
    """Whether it is there and more than a name that its parent has not asked for yet."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    watch_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
