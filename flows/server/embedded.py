"""The Prefect server of one command: beside it while it lives, gone when it dies, however it dies.

Prefect would start such a server itself, but only when its first client asks, with all else
waiting, and leave it behind when the command is killed. This one starts while the command still
imports its libraries, and watches its parent. `deconstruct serve` has one too, on a port of its
choice and with the UI. Both stand behind `deconstruct.explorer.guard`, and ask for a secret.
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
from http.client import HTTPException
from pathlib import Path

from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.common.importing import importing
from flows.server import secret
from flows.server.child import watch_parent

HOST = "127.0.0.1"
START_SECONDS = 120
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine itself, whatever proxy the environment names."""

WITHOUT_UI = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
"""Nor has it the services that schedules need."""

SAID = "error: "
"""Before the sentence with which a server gives up."""


@dataclass
class EmbeddedServer:
    """A server process whose state lies in ``PREFECT_HOME``; it listens on localhost alone.

    auth: the secret that its API asks for. begin: where its lines begin in the log, to which
    every server of a home adds.
    """

    process: subprocess.Popen[bytes]
    url: str
    auth: str
    log: Path
    begin: int
    answers: bool = False

    @classmethod
    def start(
        cls, log: Path, environment: Mapping[str, str], port: int = 0, ui: bool = False
    ) -> EmbeddedServer:
        """Start it and return at once; it listens already, and answers when it is up.

        port: 0 takes a free one. ui: with Prefect's UI, and the services that run schedules. The
        secret is what ``environment`` says (`secret.ASKED`), else a new one.
        Raises ``ConfigError`` if the port is taken.
        """
        try:
            listening = socket.create_server((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} can't be listened on ({error}); choose another with --port"
            ) from error
        auth = environment.get(secret.ASKED) or secret.make()
        with listening, log.open("ab") as lines:
            port, handle, begin = listening.getsockname()[1], listening.fileno(), lines.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(handle), str(os.getpid())],
                cwd=Path(__file__).resolve().parents[2],
                env={**environment, secret.ASKED: auth, **({} if ui else WITHOUT_UI)},
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                start_new_session=True,  # Ctrl-C ends the run first, then the run ends it
            )
        return cls(process, f"http://{HOST}:{port}/api", auth, log, begin)

    def wait(self) -> None:
        """Return when it answers. Raises ``DeconstructError`` if it does not within two minutes."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise DeconstructError(self.last_words())
            if healthy(self.url, START_SECONDS):
                self.answers = True
                return
            time.sleep(0.1)
        raise DeconstructError(
            f"the Prefect server did not answer within {START_SECONDS} s; {self.log} may say why"
        )

    def last_words(self) -> str:
        """Why it ended, as a sentence."""
        lines = self.log.read_bytes()[self.begin :].decode(errors="replace").strip().splitlines()
        if lines and lines[-1].startswith(SAID):
            return lines[-1].removeprefix(SAID)
        killed = f"it was killed (signal {-self.process.returncode})"
        last = lines[-1] if lines else killed if self.process.returncode < 0 else "it did not say"
        return f"the Prefect server has ended: {last}; {self.log} may say more"

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


def healthy(url: str, seconds: float = 2) -> bool:
    """Whether a server on this machine answers at ``url``."""
    try:
        with OPENER.open(f"{url}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException, ValueError):
        return False


def _serve(handle: int, parent: int) -> None:
    watch_parent(parent)
    with importing():
        import uvicorn
        from prefect.server.api.server import create_app

        from deconstruct.explorer.guard import Guard
        from flows.server import database

    try:
        database.prepare()
    except (DeconstructError, OSError) as error:
        sys.exit(f"{SAID}{error}")
    listening = socket.socket(fileno=handle)
    guarded = Guard(create_app(), listening.getsockname()[1])
    config = uvicorn.Config(guarded, log_level="error", lifespan="on")
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
