"""A local Prefect server with the deployments of ``prefect.yaml``, and workers for its pools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deconstruct.errors import DeconstructError
from flows import environment

CODE = Path(__file__).resolve().parent.parent
START_SECONDS = 60
HOST = "127.0.0.1"

Say = Callable[[str], None]


@contextmanager
def serving(home: Path, port: int, gpu: bool, say: Say) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start server, pools, deployments and workers; stop them all when the block ends.

    gpu: start a worker of pool ``gpu`` beside the one of pool ``cpu``. The server listens on
    localhost alone. Raises ``DeconstructError`` if it does not answer in a minute.
    """
    environment.apply(home)
    url = f"http://{HOST}:{port}/api"
    if _healthy(url):
        raise DeconstructError(f"port {port} is taken by another server; choose one with --port")
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_SERVER_API_HOST"] = HOST
    os.environ["DECONSTRUCT_CODE"] = str(CODE)
    os.environ["PREFECT_SERVER_UI_API_URL"] = url
    note = environment.server_note(home)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_prefect("server", "start", "--host", HOST, "--port", str(port)))
        _wait_until_healthy(url, processes[0])
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"api_url": url, "pid": os.getpid()}) + "\n")
        for pool in ("cpu", "gpu"):
            _run("work-pool", "create", pool, "--type", "process", "--overwrite")
        _run("work-pool", "set-concurrency-limit", "gpu", "1")
        _run("--no-prompt", "deploy", "--all")
        say(f"UI          http://{HOST}:{port}")
        say("deployments pipeline/nightly (03:00 UTC), pipeline/on-demand, train/gpu")
        for pool in ("cpu", "gpu") if gpu else ("cpu",):
            processes.append(_prefect("worker", "start", "--pool", pool, "--name", f"local-{pool}"))
            say(f"worker      of pool {pool!r}")
        yield processes
    finally:
        note.unlink(missing_ok=True)
        for process in reversed(processes):
            _stop(process)


def _prefect(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments], cwd=CODE, stdin=subprocess.DEVNULL
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
