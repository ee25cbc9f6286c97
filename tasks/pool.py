"""Stages that a GPU is worth a way for: made by a worker of the GPU pool while one is online.

There is one deployment for all of them, and it makes what an `Order` names. Where a worker has a
limit of one run, its device has one order at a time; the others wait.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from deconstruct.artifacts import DataRoot, Recipe, Stage
from deconstruct.artifacts.remote import VARIABLE
from deconstruct.common.errors import DeconstructError
from deconstruct.common.showing import printable
from tasks.order import ORDERED, Order
from tasks.stage import Inputs, Ref, StageTask, Work, made_here, stage_task
from tasks.workers import online_workers, run_on_pool

log = logging.getLogger("deconstruct.stages")

POOL = "gpu"
DEPLOYMENT = "make/gpu"
DECLINED = "Declined"
"""The state of a run that made nothing, as its worker has not what it would read."""


def pool_task(stage: Stage, here: Work | None = None, tags: Sequence[str] = ()) -> StageTask:
    """The task of a stage: its artifacts are made on the GPU pool if a worker of it is online, else
    here.

    here: what it does here, where that is not to call ``stage.make``. Who names a device or an
    engine keeps the work here. A worker that is lost on the way is an error like any other: the
    task is tried again, and goes on from what is there, wherever it runs then.
    """
    assert stage.name in ORDERED
    here = here or made_here(stage)

    def work(recipes: Sequence[Recipe], home: str, config: Any, inputs: Inputs) -> list[Ref]:
        order = Order.of(recipes, config, inputs)
        if order is not None and _worker_online():
            root = DataRoot(home)
            if any(root.find(recipe) is None for recipe in recipes):
                made = _made_there(root, recipes, order)
                if made is not None:
                    return made
        return here(recipes, home, config, inputs)

    return stage_task(stage, work, tags)


def _worker_online() -> bool:
    with get_client(sync_client=True) as client:
        return online_workers(client, POOL) > 0


def _made_there(root: DataRoot, recipes: Sequence[Recipe], order: Order) -> list[Ref] | None:
    """What a worker has made, which shares the data root or has one with the remote; None: it has
    not what it would read."""
    log.info("%-12s goes to a worker of pool %r", order.stage, POOL)
    parameters = {
        "home": None if root.mirror else str(root.path),
        "order": order.model_dump(mode="json"),
    }
    try:
        run = run_on_pool(POOL, DEPLOYMENT, parameters, f"{order.stage} {order.keys[0][:12]}")
    except ObjectNotFound as error:
        raise DeconstructError(
            f"a worker of pool {POOL!r} is online, but its server has no deployment "
            f"{DEPLOYMENT!r}: start `deconstruct serve` of this release again, or run `prefect "
            "--no-prompt deploy --all` on a server of your own; --device cpu keeps the run here"
        ) from error
    if run.state_name == DECLINED:
        log.warning(
            "%-12s stays here: the worker of pool %r can't read what it needs (%s)",
            order.stage, POOL, printable(_said(run)),
        )  # fmt: skip
        return None
    if run.state is None or not run.state.is_completed():
        raise DeconstructError(
            f"stage {order.stage!r} on pool {POOL!r} ended as {run.state_name} ({_said(run)}); "
            f"see flow run {run.name!r}"
        )
    return [_found(root, recipe, run) for recipe in recipes]


def _said(run: FlowRun) -> str:
    return (run.state.message if run.state else None) or ""


def _found(root: DataRoot, recipe: Recipe, run: FlowRun) -> Ref:
    """The artifact that a run has left."""
    found = root.find(recipe)
    if found is None:
        where = (
            f"{root.mirror}; set {VARIABLE} to it"
            if root.mirror
            else f"{str(root.path)!r}; share it"
        )
        raise DeconstructError(
            f"the worker of pool {POOL!r} that made stage {recipe.stage!r} left nothing in {where} "
            "on that worker as on the one which runs the pipeline"
        )
    begun = run.start_time
    made = begun is not None and found.manifest.started >= begun
    return Ref(stage=found.stage, key=found.key, made=made)
