"""A home with published runs of a small model."""

from __future__ import annotations

import pytest
from firing.houses import House


@pytest.fixture(scope="session")
def fired(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A home with the run ``plain``; don't damage it."""
    house = House(tmp_path_factory.mktemp("fired-plain"))
    house.publish("plain")
    return house
