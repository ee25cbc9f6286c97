"""Running a failed run again: by the worker of its deployment, or here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from prefect.utilities.callables import get_call_parameters, parameters_to_args_kwargs

from deconstruct.common.errors import DeconstructError
from flows.liveness import short
from flows.local import in_this_process
from flows.pipeline import DEFAULT, pipeline
from flows.steps.publishing import SiteResult
from tasks.workers import online_workers

ENDED_BADLY = (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
SHOWN = 200
LISTED = 10


def failed_runs(home: Path) -> list[FlowRun]:
    """Runs of the pipeline in ``home`` that failed, crashed or were cancelled, newest first.

    Also those that *Retry* in the UI has scheduled, but that have no deployment whose worker
    would take them.
    """
    kinds = [kind.value for kind in (*ENDED_BADLY, StateType.SCHEDULED)]
    wanted = {"state": {"type": {"any_": kinds}}}
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [pipeline.name]}}),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.START_TIME_DESC,
            limit=SHOWN,
        )
    return [
        run
        for run in found
        if run.parameters.get("home") in (None, "", str(home))
        and (run.state_type in ENDED_BADLY or run.deployment_id is None)
    ]


def choose(runs: Sequence[FlowRun], wanted: str) -> FlowRun:
    """The run that ``wanted`` names: an id, its last twelve digits, its name or that of its
    configuration, or ``latest``.

    Raises ``DeconstructError`` if there is none, or more than one.
    """
    if not runs:
        raise DeconstructError("no run has failed; there is nothing to retry")
    if wanted == "latest":
        return runs[0]
    fitting = [run for run in runs if wanted in (str(run.id), short(run), run.name, _name(run))]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(
        f"{short(run)} {run.name} ({run.state_name}{_when(run)})"
        for run in (fitting or runs)[:LISTED]
    )
    what = "no failed run is" if not fitting else f"{len(fitting)} failed runs are"
    raise DeconstructError(f"{what} called {wanted!r}; name one by its id. There are: {listed}")


def _when(run: FlowRun) -> str:
    return f", {run.expected_start_time:%Y-%m-%d %H:%M}" if run.expected_start_time else ""


def _name(run: FlowRun) -> str:
    """What the run's configuration is called."""
    return str(run.parameters.get("config", {}).get("name", DEFAULT.name))


def retry(run: FlowRun) -> list[SiteResult] | None:
    """Run it again, with its parameters: stages that are done come from cache.

    None if it was handed to the workers of its deployment, because one of them is online; else
    what it returned here.
    """
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Scheduled(message="retried"), force=True)
        if run.deployment_id and online_workers(client, str(run.work_pool_name)):
            return None
        return _run_here(client, run)


def _run_here(client: SyncPrefectClient, run: FlowRun) -> list[SiteResult]:
    current = client.read_flow_run(run.id)
    arguments = parameters_to_args_kwargs(pipeline.fn, current.parameters)
    parameters: dict[str, Any] = get_call_parameters(pipeline.fn, *arguments)
    with in_this_process():
        return cast(list[SiteResult], run_flow(pipeline, flow_run=current, parameters=parameters))
