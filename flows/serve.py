"""A local Prefect server with the deployments of ``prefect.yaml``, and workers for its pools."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TextIO

import yaml

from deconstruct.common.errors import DeconstructError
from flows import environment
from flows.server import secret
from flows.server.child import below, end
from flows.server.database import FILE as DATABASE
from flows.server.embedded import HOST, EmbeddedServer

CODE = Path(__file__).resolve().parent.parent
DEFINITIONS = "prefect.yaml"
STOP_SECONDS = 10.0
CPU_RUNS = 2
"""Runs at a time on this machine; more would wait for its cores all the same."""
VISIBLE = "CUDA_VISIBLE_DEVICES"

Say = Callable[[str], None]


@dataclass
class Worker:
    """A worker of a pool, started again if it ends."""

    pool: str
    name: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def keep(self) -> bool:
        """Start it if it does not run; whether that was so."""
        if self.process is not None and self.process.poll() is None:
            return False
        which = ("--pool", self.pool, "--name", self.name, *self.options)
        self.process = _prefect("worker", "start", *which, **self.environment)
        return True


@dataclass
class Explorer:
    """The explorer of the data root, a child of ours; started again if it ends.

    It says where it is itself. Its port may be taken: then it is said once that there is none.
    """

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    given_up: bool = False

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def keep(self, say: Say) -> None:
        """Start it if it does not run."""
        if self.given_up or (self.process is not None and self.process.poll() is None):
            return
        if not _free(self.port):
            self.given_up = True
            say(f"explorer    none: port {self.port} is taken; 'deconstruct explore' takes another")
            return
        again = self.process is not None
        self.process = _child("deconstruct.explorer", str(self.home), str(self.port))
        say(f"explorer    {'had ended; started again' if again else 'starts'} at {self.url}")


def _free(port: int) -> bool:
    """Whether nobody listens on a port of this machine, and somebody may."""
    try:
        with socket.create_server((HOST, port)):
            return True
    except (OSError, OverflowError):
        return False


@dataclass
class Served:
    """What `serving` keeps running: the server, the workers and the explorer."""

    home: Path
    server: EmbeddedServer
    workers: list[Worker]
    explorer: Explorer
    say: Say

    def tend(self) -> None:
        """Look after everything once: workers that ended start again, runs that died are marked.

        Raises ``DeconstructError`` if the server has ended.
        """
        import httpx

        from flows.liveness import mark_crashed, short

        if self.server.process.poll() is not None:
            raise DeconstructError(f"{self.server.last_words()}; start it again")
        for worker in self.workers:
            if worker.keep():
                self.say(f"worker      {worker.name} had ended; started again")
        self.explorer.keep(self.say)
        with suppress(httpx.HTTPError):  # busy: there is a next time
            for run in mark_crashed(self.home):
                self.say(f"crashed     {run.name} ({short(run)}): its process has died")


@contextmanager
def serving(home: Path, port: int, gpus: int, say: Say) -> Iterator[Served]:
    """Start server, pools, deployments, workers and the explorer; stop them all when the block
    ends. The explorer has the port after ``port``.

    gpus: workers of pool ``gpu``, one per device, each of which runs one training at a time. The
    server listens on localhost alone. Raises ``DeconstructError`` if the port is taken, the server
    does not answer, or ``prefect.yaml`` does not read.
    """
    environment.apply(home)
    already = environment.served_url(home)
    if already is not None:
        raise DeconstructError(f"{str(home)!r} is served already, at {already}; end that one first")
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_SERVER_UI_API_URL"] = "/api"  # of whichever name the page was asked by
    os.environ["DECONSTRUCT_CODE"] = str(CODE)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    kept = environment.secret_file(home)
    auth = {secret.ASKED: secret.keep(kept, os.environ.get(secret.ASKED))}
    server = EmbeddedServer.start(environment.server_log(), {**os.environ, **auth}, port, ui=True)
    environment.speak_to(server.url, server.auth)
    noted: TextIO | None = None
    workers = [Worker("cpu", "local-cpu", ("--limit", str(CPU_RUNS))), *_gpu_workers(gpus)]
    explorer = Explorer(home, port + 1)
    try:
        new = (
            ""
            if (environment.state() / DATABASE).exists()
            else "; in a new data root this takes a while"
        )
        say(f"server      starts at {server.url}{new}")
        _deploy_once_up(server, say)
        noted = environment.note_server(home, server.url)
        say(f"UI          http://{HOST}:{port}; its password is in {str(kept)!r}")
        say("prefect     its own commands need")
        say(f"            export PREFECT_API_URL={server.url}")
        say(f'            export {secret.CARRIED}="$(cat {shlex.quote(str(kept))})"')
        for worker in workers:
            worker.keep()
            say(f"worker      {worker.name}, for pool {worker.pool}")
        explorer.keep(say)
        yield Served(home, server, workers, explorer, say)
    finally:
        if noted is not None:
            environment.server_note(home).unlink(missing_ok=True)
            noted.close()
        ours = [*(worker.process for worker in workers), explorer.process]
        _stop([process for process in ours if process is not None])
        server.stop()


def _deploy_once_up(server: EmbeddedServer, say: Say) -> None:
    """Wait for the server, and bring it pools and deployments."""
    from flows.deployments import bring, make_pool  # Prefect, while its server starts

    server.wait()
    for pool in ("cpu", "gpu"):
        make_pool(pool)
    file, note = CODE / DEFINITIONS, environment.state() / "deployed.json"
    for done in bring(file, note, CODE, partial(deploy, file)):
        say(f"deployment  {done}")


def deploy(definitions: Path, deployments: Sequence[Mapping[str, Any]]) -> None:
    """Have Prefect bring deployments to its server, with all else that ``definitions`` says."""
    content = yaml.safe_load(definitions.read_text())
    with NamedTemporaryFile("w", prefix="deconstruct-", suffix=".yaml") as file:
        yaml.safe_dump(content | {"deployments": [dict(one) for one in deployments]}, file)
        file.flush()
        _run("--no-prompt", "deploy", "--all", "--prefect-file", file.name)


def _gpu_workers(gpus: int) -> list[Worker]:
    """One per device: a worker's limit of one run is then a limit of one run per device."""
    one = ("--limit", "1")
    if gpus == 1:
        return [Worker("gpu", "local-gpu", one)]
    return [
        Worker("gpu", f"local-gpu-{number}", one, {VISIBLE: device})
        for number, device in enumerate(visible(gpus))
    ]


def visible(gpus: int) -> list[str]:
    """What each of the first ``gpus`` devices that torch sees is called: as whoever started us has
    named them (numbers, UUIDs, MIG instances), or else by its number."""
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:gpus] if len(named) >= gpus else [str(device) for device in range(gpus)]


def _prefect(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return _child("prefect", *arguments, **environment)


def _child(module: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.server.child", str(os.getpid()), module, *arguments],
        cwd=CODE,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us: workers are ended before their server
    )


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=CODE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeconstructError(
            f"`prefect {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}"
        )


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers kindly, then not, and their runs before them: they would wait for those."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()  # it takes no further run; told so twice, it drops dead
    end([run for worker in workers for run in below(worker.pid)], STOP_SECONDS)
    deadline = time.monotonic() + STOP_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
