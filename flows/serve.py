"""A local Prefect server with the deployments of ``prefect.yaml``, and workers for its pools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deconstruct.common.errors import DeconstructError
from flows import environment

CODE = Path(__file__).resolve().parent.parent
START_SECONDS = 60
HOST = "127.0.0.1"
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
    server: subprocess.Popen[bytes]
    workers: list[Worker]
    say: Say

    def tend(self) -> None:
        """Look after everything once: workers that ended start again, runs that died are marked.

        Raises ``DeconstructError`` if the server has ended.
        """
        from flows.liveness import mark_crashed, short

        if self.server.poll() is not None:
            raise DeconstructError("the Prefect server has ended; start it again")
        for worker in self.workers:
            if worker.keep():
                self.say(f"worker      {worker.name} had ended; started again")
        for run in mark_crashed(self.home):
            self.say(f"crashed     {run.name} ({short(run)}): its process has died")


@contextmanager
def serving(home: Path, port: int, gpus: int, say: Say) -> Iterator[Served]:
    """Start server, pools, deployments and workers; stop them all when the block ends.

    gpus: workers of pool ``gpu``, one a device, each of which runs one training at a time. The
    server listens on localhost alone. Raises ``DeconstructError`` if it does not answer in a
    minute.
    """
    environment.apply(home)
    url = f"http://{HOST}:{port}/api"
    if _healthy(url):
        raise DeconstructError(f"port {port} is taken by another server; choose one with --port")
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_SERVER_API_HOST"] = HOST
    os.environ["PREFECT_SERVER_UI_API_URL"] = url
    os.environ["DECONSTRUCT_CODE"] = str(CODE)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    note = environment.server_note(home)
    server = _prefect("server", "start", "--host", HOST, "--port", str(port))
    workers = [Worker("cpu", "local-cpu", ("--limit", str(CPU_RUNS))), *_gpu_workers(gpus)]
    try:
        _wait_until_healthy(url, server)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"api_url": url, "pid": os.getpid()}) + "\n")
        for pool in ("cpu", "gpu"):
            _run("work-pool", "create", pool, "--type", "process", "--overwrite")
        _run("--no-prompt", "deploy", "--all")
        say(f"UI          http://{HOST}:{port}")
        for worker in workers:
            worker.keep()
            say(f"worker      {worker.name}, of pool {worker.pool}")
        yield Served(home, server, workers, say)
    finally:
        note.unlink(missing_ok=True)
        for process in [*(w.process for w in reversed(workers)), server]:
            if process is not None:
                _stop(process)


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


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(url):
        if server.poll() is not None:
            raise DeconstructError("the Prefect server ended while starting; its lines say why")
        if time.monotonic() > deadline:
            raise DeconstructError(f"the Prefect server did not answer within {START_SECONDS} s")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process kindly, then not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
