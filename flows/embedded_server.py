"""The Prefect server of one command: beside it while it lives, gone when it dies, however it dies.

Prefect would start such a server itself, but only when its first client asks, with all else
waiting, and leave it behind when the command is killed. This one starts while the command still
imports its libraries, and watches its parent.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deconstruct.common.errors import DeconstructError
from flows.child import watch_parent
from flows.importing import importing

HOST = "127.0.0.1"
START_SECONDS = 120


@dataclass
class EmbeddedServer:
    """A server process whose state lies in ``PREFECT_HOME``; on localhost, on a free port."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    answers: bool = False

    @classmethod
    def start(cls, log: Path, environment: Mapping[str, str]) -> EmbeddedServer:
        """Start it and return at once; it listens already, and answers when it is up."""
        with socket.create_server((HOST, 0)) as listening:
            port = listening.getsockname()[1]
            handle = listening.fileno()
            with log.open("wb") as lines:
                settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(handle), str(os.getpid())],
                    cwd=Path(__file__).resolve().parent.parent,
                    env={**environment, **settings},
                    pass_fds=[handle],
                    stdin=subprocess.DEVNULL,
                    stdout=lines,
                    stderr=lines,
                    start_new_session=True,  # Ctrl-C ends the run first, then the run ends it
                )
        return cls(process, f"http://{HOST}:{port}/api", log)

    def wait(self) -> None:
        """Return when it answers. Raises ``DeconstructError`` if it does not within two minutes."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                lines = self.log.read_text(errors="replace").strip().splitlines()
                raise DeconstructError(
                    f"the embedded Prefect server ended while starting: "
                    f"{lines[-1] if lines else 'no reason given'}; {self.log} says more"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=START_SECONDS) as answer:
                    if answer.status == 200:
                        self.answers = True
                        return
            except OSError:
                time.sleep(0.1)
        raise DeconstructError(
            f"the embedded Prefect server did not answer within {START_SECONDS} s; {self.log} "
            "may say why"
        )

    def stop(self) -> None:
        """End it kindly, then not. One that is not up yet may be making its database: that ends
        by itself, when it has done so and finds its parent gone."""
        if not self.answers:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _serve(handle: int, parent: int) -> None:
    watch_parent(parent)
    with importing():
        import uvicorn
        from prefect.server.api.server import create_app
    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run([socket.socket(fileno=handle)])


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
