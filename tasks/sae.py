"""Task of the stage sae: training, here or on a worker of the GPU pool."""

from __future__ import annotations

import logging
from typing import cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from deconstruct.artifact import ArtifactStore, Recipe
from deconstruct.config import SaeConfig
from deconstruct.errors import DeconstructError
from deconstruct.sae import stage as library
from tasks.stage import Ref, stage_task

log = logging.getLogger("deconstruct.stages")

GPU_POOL = "gpu"
GPU_DEPLOYMENT = "train/gpu"


@stage_task("sae", tags=["training"])
def sae(
    recipes: list[Recipe], home: str, config: SaeConfig, activations: Ref, device: str
) -> list[Ref]:
    """Train the SAE of ``recipes[0]``: on the GPU pool if a worker of it is online, else here."""
    if device == "auto" and gpu_worker_online():
        log.info("sae          goes to a worker of pool %r", GPU_POOL)
        return [_train_on_gpu_pool(home, config, activations)]
    return [train_here(home, config, activations, device)]


def train_here(home: str, config: SaeConfig, activations: Ref, device: str) -> Ref:
    """Train in this process."""
    store = ArtifactStore(home)
    return Ref.of(library.train(store, config, activations.open(store), device=device))


def gpu_worker_online() -> bool:
    """Whether a worker of the GPU pool has been heard of lately. Without a server: no."""
    if not PREFECT_API_URL.value():
        return False
    with get_client(sync_client=True) as client:
        try:
            workers = client.request(
                "POST",
                "/work_pools/{work_pool_name}/workers/filter",
                path_params={"work_pool_name": GPU_POOL},
                json={},
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return False  # there is no such pool
    return any(worker["status"] == WorkerStatus.ONLINE.value for worker in workers.json())


def _train_on_gpu_pool(home: str, config: SaeConfig, activations: Ref) -> Ref:
    """Artifacts pass by reference: the worker shares the data root."""
    parameters = {
        "home": home,
        "config": config.model_dump(mode="json"),
        "activations": activations.model_dump(),
    }
    run = cast(FlowRun, run_deployment(GPU_DEPLOYMENT, parameters=parameters, poll_interval=1))
    state = run.state
    if state is None or not state.is_completed():
        raise DeconstructError(
            f"training on pool {GPU_POOL!r} ended as {state.name if state else 'unknown'} "
            f"({state.message if state else ''}); see flow run {run.name!r}"
        )
    ref = state.result()
    return Ref.model_validate(ref)
