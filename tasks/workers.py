"""Work for the workers of a pool: is one there; a deployment's run, watched to its end."""

from __future__ import annotations

import logging
import time
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError, TerminationSignal
from prefect.states import Cancelled, Cancelling

log = logging.getLogger("deconstruct.stages")

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
"""How long a run waits to be picked up before workers are looked for again."""


class WorkerLost(Exception):
    """No worker took the run, or the one that took it died: worth another try."""


def online_workers(client: SyncPrefectClient, pool: str) -> int:
    """How many workers of a pool the server has heard of lately; 0 if there is no such pool."""
    try:
        workers = client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/filter",
            path_params={"work_pool_name": pool},
            json={},
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return 0
    return sum(worker["status"] == WorkerStatus.ONLINE.value for worker in workers.json())


def run_on_pool(pool: str, deployment: str, parameters: dict[str, Any], name: str) -> FlowRun:
    """Run a deployment as a subflow and return its run once that has ended.

    Raises `WorkerLost` if the run crashed, or waits while no worker of ``pool`` is online. Who is
    interrupted or cancelled while it waits has the run cancelled too.
    """
    run = run_deployment(deployment, parameters=parameters, timeout=0, flow_run_name=name)
    assert isinstance(run, FlowRun)
    with get_client(sync_client=True) as client:
        try:
            return _ended(client, run, pool)
        except (KeyboardInterrupt, TerminationSignal):
            cancelling: State[Any] = Cancelling(message="who waits for it was interrupted")
            client.set_flow_run_state(run.id, cancelling)
            raise


def _ended(client: SyncPrefectClient, run: FlowRun, pool: str) -> FlowRun:
    """The run once it has ended; see `run_on_pool`."""
    asked = time.monotonic()
    while True:
        run = client.read_flow_run(run.id)
        state = run.state
        if state is not None and state.is_final():
            if state.is_crashed():
                raise WorkerLost(f"run {run.name!r} on pool {pool!r} crashed: {state.message}")
            return run
        waits = state is None or state.is_scheduled()
        if waits and time.monotonic() - asked > PATIENCE_SECONDS:
            if not online_workers(client, pool):
                gone: State[Any] = Cancelled(message=f"no worker of {pool!r} is online")
                client.set_flow_run_state(run.id, gone, force=True)
                raise WorkerLost(f"no worker of pool {pool!r} took run {run.name!r}")
            asked = time.monotonic()
        time.sleep(POLL_SECONDS)
