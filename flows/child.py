"""Processes that don't outlive the one that started them, however that ends.

    python -m flows.child PARENT MODULE [ARGUMENT ...]

runs ``python -m MODULE ARGUMENT ...``, and sends itself SIGTERM once process PARENT is gone.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

WATCH_SECONDS = 0.5


def watch_parent(parent: int) -> None:
    """Watch on another thread: SIGTERM to this process when ``parent`` is its parent no more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    watch_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
