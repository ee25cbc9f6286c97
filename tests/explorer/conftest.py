"""One published store of synthetic data, and an explorer over it, for all that look at pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.explored import running
from support.massive import massive
from support.store_artifacts import Planted, plant

from deconstruct.explorer.app import Explorer
from deconstruct.store import publish, run_id_of

DOCUMENTS = 60


@dataclass(frozen=True)
class Explored:
    """A data root with the runs ``demo`` and ``other`` of one corpus. Read it only."""

    home: Path
    demo: Planted
    other: Planted
    ids: tuple[str, str]


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """Published once for all; `support.massive.ISLAND` fire on its massive activation."""
    home = tmp_path_factory.mktemp("explored")
    other = plant(home, "other", seed=1, documents=DOCUMENTS, change=massive)
    demo = plant(home, documents=DOCUMENTS, change=massive)
    for run in (other, demo):
        publish(home, run.record, run.artifacts)
    ids = tuple(run_id_of(run.artifacts) for run in (demo, other))
    return Explored(home, demo, other, (ids[0], ids[1]))


@pytest.fixture(scope="session")
def explorer(explored: Explored) -> Iterator[Explorer]:
    """An explorer over it that no port has."""
    one = Explorer(explored.home, 4300)
    yield one
    one.stores.close()


@pytest.fixture(scope="session")
def client(explorer: Explorer) -> Iterator[TestClient]:
    """Asks it without a browser, by the name that it goes by."""
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as one:
        yield one


@pytest.fixture(scope="session")
def address(explored: Explored) -> Iterator[str]:
    """``http://127.0.0.1:<port>`` of an explorer that a browser can ask."""
    with running(explored.home) as where:
        yield where
