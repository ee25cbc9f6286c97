"""Fixtures of whole runs: a configuration, a home in which one has finished, a Prefect server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.prefect_api import SECRET
from support.running import deconstruct, environment, write_config

from flows.server.embedded import EmbeddedServer
from flows.server.secret import ASKED


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, texts: Path) -> Path:
    """A configuration of the whole pipeline over the small model and texts."""
    return write_config(tmp_path_factory.mktemp("config") / "small.toml", tiny_model, texts)


@pytest.fixture(scope="session")
def first_run_of(
    tmp_path_factory: pytest.TempPathFactory, config: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home in which the command ran once, with a server of its own, and how it ended."""
    home = tmp_path_factory.mktemp("finished") / "home"
    done = deconstruct(home, "run", config)
    assert done.returncode == 0, done.stderr
    return home, done


@pytest.fixture(scope="session")
def finished(first_run_of: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A home in which a run has finished; don't damage it."""
    return first_run_of[0]


@pytest.fixture(scope="session")
def first_run(first_run_of: tuple[Path, subprocess.CompletedProcess[str]]) -> str:
    """What that run printed at its end."""
    return first_run_of[1].stdout


@pytest.fixture(scope="session")
def server(finished: Path) -> Iterator[str]:
    """API address of a Prefect server, for commands that need not start their own."""
    state = str(finished.parent / "prefect")
    apart = environment(finished, PREFECT_HOME=state) | {ASKED: SECRET}
    own = EmbeddedServer.start(finished.parent / "server.log", apart)
    own.wait()
    yield own.url
    own.stop()
