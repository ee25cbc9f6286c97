"""Whole runs on two data roots that share nothing but a remote: on S3, and on a GPU worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.prefect_api import SECRET, ask
from support.running import (
    ROOT,
    STAGES,
    artifacts,
    cached_stages,
    deconstruct,
    digests,
    environment,
)

from flows.server.embedded import EmbeddedServer
from flows.server.secret import ASKED


@pytest.fixture(scope="module")
def remote(new_bucket: Callable[[str], str]) -> str:
    """URL of an empty remote on the local S3 server."""
    return f"s3://test:test@runs/data{new_bucket('runs')}"


def test_of_two_homes_with_one_remote_the_second_computes_nothing(
    remote: str, tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    env = {"PREFECT_API_URL": server, "DECONSTRUCT_REMOTE": remote}
    first = deconstruct(tmp_path / "first", "run", config, env=env)
    assert first.returncode == 0, first.stderr
    assert cached_stages(first.stderr) == dict.fromkeys(STAGES, False)
    second = deconstruct(tmp_path / "second", "run", config, env=env)
    assert second.returncode == 0, second.stderr
    assert cached_stages(second.stderr) == dict.fromkeys(STAGES, True)
    assert "fetched from s3://***@runs/data" in second.stderr
    assert "test:test" not in first.stderr + second.stderr
    assert second.stdout.replace("second", "first") == first.stdout
    assert digests(tmp_path / "second") == digests(tmp_path / "first") == digests(finished)


def test_a_remote_out_of_reach_is_said_before_any_work(
    tmp_path: Path, config: Path, server: str
) -> None:
    env = {"PREFECT_API_URL": server, "DECONSTRUCT_REMOTE": f"file://{config}/not-a-folder"}
    run = deconstruct(tmp_path / "home", "run", config, env=env)
    assert run.returncode == 1
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: remote 'file:///")
    assert "unset DECONSTRUCT_REMOTE" in said
    assert artifacts(tmp_path / "home") == {}


@contextmanager
def gpu_worker(home: Path, url: str, remote: str) -> Iterator[None]:
    """A worker of pool gpu, as on another machine: with a data root of its own."""
    env = environment(
        home,
        PREFECT_API_URL=url,
        DECONSTRUCT_REMOTE=remote,
        DECONSTRUCT_CODE=str(ROOT),
        PREFECT_WORKER_QUERY_SECONDS="1",
    )
    (home / ".prefect").mkdir(parents=True)
    prefect = [sys.executable, "-m", "prefect"]
    for arguments in (
        ["work-pool", "create", "gpu", "--type", "process"],
        ["--no-prompt", "deploy", "--name", "make/gpu"],
    ):
        subprocess.run([*prefect, *arguments], cwd=ROOT, env=env, check=True, capture_output=True)
    with subprocess.Popen(
        [*prefect, "worker", "start", "--pool", "gpu", "--name", "far"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while not ask(url, "POST", "/work_pools/gpu/workers/filter", {}):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield
        finally:
            process.terminate()


def test_a_gpu_worker_with_a_data_root_of_its_own_works_through_the_remote(
    tmp_path: Path, config: Path, finished: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    remote = f"file://{tmp_path}/remote"
    (tmp_path / "server" / ".prefect").mkdir(parents=True)
    env = environment(tmp_path / "server") | {ASKED: SECRET}
    server = EmbeddedServer.start(tmp_path / "server.log", env)
    server.wait()
    try:
        with gpu_worker(there, server.url, remote):
            env = {"PREFECT_API_URL": server.url, "DECONSTRUCT_REMOTE": remote}
            run = deconstruct(here, "run", config, env=env)
    finally:
        server.stop()
    assert run.returncode == 0, run.stderr
    gone = re.findall(r"([a-z]+) +goes to a worker of pool 'gpu'", run.stderr)
    assert gone == ["activations", "reference", "sae", "latents", "evaluation"]
    assert "fetched from file://" in run.stderr
    assert set(artifacts(there)) == {"corpus", *gone}
    for stage in gone:
        assert artifacts(there)[stage].manifest == artifacts(here)[stage].manifest
    assert digests(here) == digests(finished)
    assert os.listdir(here / "sae") == [artifacts(here)["sae"].key]
