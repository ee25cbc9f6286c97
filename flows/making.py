"""What one stage makes as a flow of its own, for workers of the GPU pool."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import files_said
from deconstruct.common.progress import listening
from deconstruct.store.query import data_root
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.ui import speak
from tasks.order import NotThere, Order
from tasks.pool import DECLINED
from tasks.progress import ProgressArtifacts
from tasks.stage import Ref


@flow(name="make", persist_result=True, result_serializer="json")
def make(home: str | None, order: Order) -> list[Ref] | State[Any]:
    """Make the artifacts that ``order`` names, on this worker's device; returns their names.

    It ends as *Declined*, and whoever asked makes them, if a model or texts are not on this
    machine.

    Args:
        home: The data root, shared with the pipeline's worker; none: this worker's own, which
            shares its remote.
        order: Stage, settings, and inputs by name; a pipeline writes it.
    """
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    try:
        with listening(ProgressArtifacts()), files_said():
            return [Ref.of(artifact) for artifact in order.make(root)]
    except NotThere as error:
        return Completed(name=DECLINED, message=str(error))
