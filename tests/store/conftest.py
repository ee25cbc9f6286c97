"""A store that several files query."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.store_artifacts import Planted, plant

from deconstruct.store import publish


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted, Planted]:
    """A data root with two published runs of one corpus, ``demo`` and ``other``; read it only."""
    home = tmp_path_factory.mktemp("two-runs")
    planted = plant(home), plant(home, "other", seed=1)
    for run in planted:
        publish(home, run.record, run.artifacts)
    return home, *planted
