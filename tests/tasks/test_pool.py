"""What is made of a run on the GPU pool, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.common.errors import DeconstructError
from deconstruct.config import SaeConfig
from deconstruct.sae import stage as sae_stage
from tasks import pool
from tasks.order import Order
from tasks.pool import pool_task
from tasks.stage import Ref

CONFIG = SaeConfig(d_sae=64, k=4, tokens=2048, batch_size=256)
NOW = datetime.now(UTC)


class Pool:
    """A pool in whose place a test says what becomes of orders."""

    def __init__(self, root: DataRoot, activations: Artifact) -> None:
        self.root, self.activations = root, activations
        self.orders: list[Order] = []
        self.here = 0
        self.ends: Callable[[Order], State[Any]] = lambda order: Completed()

    def run(self, pool: str, deployment: str, parameters: dict[str, Any], name: str) -> FlowRun:
        assert (pool, deployment) == ("gpu", "make/gpu")
        assert parameters["home"] == str(self.root.path)
        order = Order.model_validate(parameters["order"])
        self.orders.append(order)
        state = self.ends(order)
        begun = NOW - timedelta(days=1)
        return FlowRun(
            id=uuid4(), flow_id=uuid4(), name=name, state=state, state_name=state.name,
            start_time=begun,
        )  # fmt: skip

    def made(self, *, device: str = "auto") -> Ref:
        """What the task gives."""

        def here(recipes: Any, home: str, config: Any, inputs: Any) -> list[Ref]:
            self.here += 1
            return [Ref(stage="sae", key=recipes[0].key, made=True)]

        task = pool_task(sae_stage.STAGE, here).task
        inputs = {"activations": Ref.of(self.activations), "output": None, "device": device}
        return task.fn([self.recipe], str(self.root.path), CONFIG, inputs)[0]

    @property
    def recipe(self) -> Recipe:
        return sae_stage.recipe(CONFIG, activations=self.activations)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so many workers online."""
    return lambda count: monkeypatch.setattr(pool, "_worker_online", lambda: count > 0)


@pytest.fixture
def standing(
    activations_artifact: Artifact,
    workers: Callable[[int], None],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Pool:
    place = tmp_path / "activations" / activations_artifact.key
    place.parent.mkdir()
    place.symlink_to(activations_artifact.path)
    found = Pool(DataRoot(tmp_path), activations_artifact)
    monkeypatch.setattr(pool, "run_on_pool", found.run)
    workers(1)
    return found


def test_what_a_worker_made_is_taken_and_what_is_there_is_not_asked_for(standing: Pool) -> None:
    def making(order: Order) -> State[Any]:
        order.make(standing.root)
        return Completed()

    standing.ends = making
    assert standing.made() == Ref(stage="sae", key=standing.recipe.key, made=True)
    assert (len(standing.orders), standing.here) == (1, 0)
    standing.made()
    assert (len(standing.orders), standing.here) == (1, 1)


def test_without_a_worker_or_on_a_chosen_device_it_is_made_here(
    standing: Pool, workers: Callable[[int], None]
) -> None:
    standing.made(device="cpu")
    workers(0)
    standing.made()
    assert (standing.orders, standing.here) == ([], 2)


def test_what_a_worker_can_not_read_is_made_here_with_a_warning(
    standing: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    why = "there is no such folder\x1b[2J"
    standing.ends = lambda order: Completed(name="Declined", message=why)
    with caplog.at_level(logging.WARNING):
        standing.made()
    assert (len(standing.orders), standing.here) == (1, 1)
    assert "stays here: the worker of pool 'gpu' can't read what it needs (there is no" in (
        caplog.text
    )
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            Failed(message="ConfigError: another release"),
            "as Failed (ConfigError: another release)",
        ),
        (Cancelled(message=None), "stage 'sae' on pool 'gpu' ended as Cancelled ()"),
        (Completed(), "that made stage 'sae' left nothing in"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_other_ends_are_a_sentence(standing: Pool, state: State[Any], said: str) -> None:
    standing.ends = lambda order: state
    with pytest.raises(DeconstructError) as caught:
        standing.made()
    assert said in str(caught.value)
    assert standing.here == 0


def test_a_server_without_the_deployment_is_a_sentence(
    standing: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> FlowRun:
        raise ObjectNotFound(http_exc=ValueError())

    monkeypatch.setattr(pool, "run_on_pool", missing)
    with pytest.raises(DeconstructError, match="its server has no deployment 'make/gpu': start"):
        standing.made()
