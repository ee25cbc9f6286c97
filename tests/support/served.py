"""``deconstruct serve`` as a user starts it, and what tests ask of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.prefect_api import ask
from support.running import COMMAND, environment


@dataclass
class Served:
    """A running ``deconstruct serve``."""

    home: Path
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def secret(self) -> str:
        return (self.home / ".prefect" / "secret").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, **fields: Any) -> Any:
        return ask(self.url, method, path, body or fields or None, secret=self.secret)

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/deployments/name/{name}")
        return found

    def start(self, name: str, **parameters: Any) -> str:
        """Have the workers run a deployment; the flow run's id."""
        deployment = self.deployment(name)["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask("POST", f"/deployments/{deployment}/create_flow_run", **body)["id"])

    def state(self, run: str) -> str:
        return str(self.ask("GET", f"/flow_runs/{run}")["state_name"])

    def runs(self, **where: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", flow_runs=where)
        return found

    def wait(self, what: Callable[[], Any], seconds: float = 300) -> Any:
        """Until ``what`` is true; returns what it is then."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.25)
        return found

    def wait_for(self, run: str, state: str) -> None:
        self.wait(lambda: self.state(run) in (state, "Failed"))
        assert self.state(run) == state, self.log.read_text()[-5000:]


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """A server over ``<folder>/home``, once it is ready; Ctrl-C ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    with (
        log.open("wb") as lines,
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, "serve", "--port", str(port), *options],
            env=environment(folder / "home", PYTHONUNBUFFERED="1"),
            stdout=lines,
            stderr=lines,
        ) as process,
    ):
        found = Served(folder / "home", f"http://127.0.0.1:{port}/api", process, log)
        try:
            found.wait(lambda: "ready; Ctrl-C ends it" in log.read_text(), 300)
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def children(pid: int) -> list[tuple[int, str]]:
    """Process id and command line of every process below ``pid``."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    table = [line.split(maxsplit=2) for line in listing.splitlines()]
    below = {pid}
    while more := {int(own) for own, parent, _ in table if int(parent) in below} - below:
        below |= more
    return [(int(own), line) for own, _, line in table if int(own) in below - {pid}]
