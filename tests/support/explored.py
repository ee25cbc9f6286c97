"""An explorer that listens, in a thread of the test's process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from deconstruct.explorer import HOST
from deconstruct.explorer.app import Explorer


@contextmanager
def running(home: Path) -> Iterator[str]:
    """Its address while the block lasts."""
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        application = Explorer(home, port).application()
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://{HOST}:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
