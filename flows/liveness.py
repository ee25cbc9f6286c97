"""Which runs live: each holds a lock that the kernel drops when its process dies, however it dies.

Prefect leaves the run of a process that died together with its worker *Running* for ever, and
refuses to retry it. `mark_crashed` finds such runs by their locks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from deconstruct.artifacts import running

GRACE = timedelta(seconds=60)
"""A run takes its lock within moments of its start; one without a lock is given so long."""

_held: dict[str, IO[bytes]] = {}


def hold_lock(home: Path) -> None:
    """Take the lock of the flow run that this code is in, until the process ends.

    Not until the run ends: its last word to the server comes after that.
    """
    name = flow_run.get_id()
    if not name or name in _held:
        return
    _held[name] = running.hold(home, name)


def held() -> list[str]:
    """Ids of the flow runs that this process has begun."""
    return list(_held)


def mark_crashed(home: Path) -> list[FlowRun]:
    """Mark the runs of this data root whose process is dead as *Crashed*; returns them.

    Those that were to be cancelled become *Cancelled*. After that they can be retried, from the UI
    too. Needs a server to speak with.
    """
    crashed = []
    with get_client(sync_client=True) as client:
        for run_id in running.dead(home):
            crashed += _crash(client, UUID(run_id))
        going = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(going)):
            ours = run.parameters.get("home") == str(home)
            began = run.start_time or datetime.now(UTC)
            # It died before it took its lock.
            late = datetime.now(UTC) - began > GRACE and not running.has_lock(home, str(run.id))
            if ours and late:
                crashed += _crash(client, run.id)
    return crashed


def set_cancelled(run_id: UUID, why: str) -> None:
    """Have the server know that a run which was to be cancelled has ended."""
    cancelled: State[Any] = Cancelled(message=why)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, cancelled, force=True)


def short(run: FlowRun) -> str:
    """The end of a run's id: ids begin with the time, and runs of one minute begin alike."""
    return str(run.id)[-12:]


def _crash(client: SyncPrefectClient, run_id: UUID) -> list[FlowRun]:
    """Force the state of a run and of its unfinished tasks, unless it has ended."""
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:  # a run of another server
        return []
    if run.state is not None and run.state.is_cancelling():
        set_cancelled(run.id, "Its process has died; found by its lock.")
    if run.state is None or not run.state.is_running():
        return []
    crashed: State[Any] = Crashed(message="Its process has died; found by its lock.")
    unfinished = {
        "flow_run_id": {"any_": [str(run.id)]},
        "state": {"type": {"any_": ["RUNNING", "PENDING"]}},
    }
    for task in client.read_task_runs(task_run_filter=TaskRunFilter.model_validate(unfinished)):
        client.set_task_run_state(task.id, crashed, force=True)
    client.set_flow_run_state(run.id, crashed, force=True)
    return [run]
