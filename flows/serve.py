"""A local Prefect server with the deployments of ``prefect.yaml``, and workers for its pools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from deconstruct.common.errors import DeconstructError
from flows import environment
from flows.database import FILE as DATABASE
from flows.embedded_server import HOST, EmbeddedServer

CODE = Path(__file__).resolve().parent.parent
DEFINITIONS = "prefect.yaml"
CPU_RUNS = 2
"""Runs at a time on this machine; more would wait for its cores all the same."""

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
class Served:
    """What `serving` keeps running: the server and the workers."""

    home: Path
    server: EmbeddedServer
    workers: list[Worker]
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
        with suppress(httpx.HTTPError):  # busy: there is a next time
            for run in mark_crashed(self.home):
                self.say(f"crashed     {run.name} ({short(run)}): its process has died")


@contextmanager
def serving(home: Path, port: int, gpus: int, say: Say) -> Iterator[Served]:
    """Start server, pools, deployments and workers; stop them all when the block ends.

    gpus: workers of pool ``gpu``, one a device, each of which runs one training at a time. The
    server listens on localhost alone. Raises ``DeconstructError`` if the port is taken, the server
    does not answer, or ``prefect.yaml`` does not read.
    """
    environment.apply(home)
    already = environment.served_url(home)
    if already is not None:
        raise DeconstructError(f"{str(home)!r} is served already, at {already}; end that one first")
    os.environ.pop("PREFECT_API_URL", None)
    url = f"http://{HOST}:{port}/api"
    os.environ["PREFECT_SERVER_UI_API_URL"] = url
    os.environ["DECONSTRUCT_CODE"] = str(CODE)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    log, note = environment.server_log(), environment.server_note(home)
    server = EmbeddedServer.start(log, os.environ, port, ui=True)
    os.environ["PREFECT_API_URL"] = url
    workers = [Worker("cpu", "local-cpu", ("--limit", str(CPU_RUNS))), *_gpu_workers(gpus)]
    try:
        new = "" if (environment.state() / DATABASE).exists() else "; a new home takes it a while"
        say(f"server      starts at {url}{new}")
        _deploy_once_up(server, say)
        note.write_text(json.dumps({"api_url": url, "pid": os.getpid()}) + "\n")
        say(f"UI          http://{HOST}:{port}")
        say(f"commands    export PREFECT_API_URL={url}")
        for worker in workers:
            worker.keep()
            say(f"worker      {worker.name}, of pool {worker.pool}")
        yield Served(home, server, workers, say)
    finally:
        note.unlink(missing_ok=True)
        for process in [*(w.process for w in reversed(workers)), server.process]:
            if process is not None:
                _stop(process)


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
    """One a device: a worker's limit of one run is then a limit of one run a device."""
    one = ("--limit", "1")
    if gpus == 1:
        return [Worker("gpu", "local-gpu", one)]
    return [
        Worker("gpu", f"local-gpu-{device}", one, {"CUDA_VISIBLE_DEVICES": str(device)})
        for device in range(gpus)
    ]


def _prefect(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.child", str(os.getpid()), "prefect", *arguments],
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


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process kindly, then not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
