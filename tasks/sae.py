"""Task of the stage sae: training, here or on a worker of the GPU pool."""

from __future__ import annotations

import logging

import torch
from prefect import task
from prefect.client.orchestration import get_client

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.artifacts.remote import VARIABLE
from deconstruct.common.errors import DeconstructError
from deconstruct.config import SaeConfig
from deconstruct.sae import stage as library
from tasks.spread import Engine, side_by_side
from tasks.stage import Ref, stage_task
from tasks.workers import online_workers, run_on_pool

log = logging.getLogger("deconstruct.stages")

GPU_POOL = "gpu"
GPU_DEPLOYMENT = "train/gpu"


@stage_task("sae", tags=["training"])
def sae(
    recipes: list[Recipe],
    home: str,
    config: SaeConfig,
    activations: Ref,
    output: Ref | None,
    start: Ref | None,
    device: str,
) -> list[Ref]:
    """Train the SAE of ``recipes[0]``: on the GPU pool if a worker of it is online, else here.

    A worker that is lost on the way is an error like any other: the task is tried again, and
    goes on from the last checkpoint, wherever it runs then.
    """
    if device == "auto" and _gpu_worker_online():
        log.info("sae          goes to a worker of pool %r", GPU_POOL)
        return [_train_on_gpu_pool(recipes[0], home, config, activations, output, start)]
    return [train_here(home, config, activations, output, start, device)]


@stage_task("sae", tags=["training"])
def sae_members(
    recipes: list[Recipe],
    home: str,
    configs: list[SaeConfig],
    activations: Ref,
    output: Ref | None,
    device: str,
    engine: Engine,
) -> list[Ref]:
    """Train the SAEs of ``recipes`` together, in this process; or in groups, side by side.

    Each group makes one pass over the activations. An engine of threads makes one group of all:
    they share this machine's cores in one pass.
    """
    groups = 1 if engine.kind == "threads" else min(engine.workers, len(configs))
    if groups == 1 and engine.address is None:
        return train_group(home, configs, activations, output, device)
    same = {"home": home, "activations": activations, "output": output, "device": device}
    dealt = [configs[first::groups] for first in range(groups)]
    calls = [{**same, "configs": own, "threads": engine.threads()} for own in dealt]
    found = {ref.key: ref for refs in side_by_side(engine, members, calls) for ref in refs}
    return [found[recipe.key] for recipe in recipes]


@task(name="members", tags=["training"], persist_result=False, retries=1, retry_delay_seconds=5)
def members(
    home: str,
    configs: list[SaeConfig],
    activations: Ref,
    output: Ref | None,
    device: str,
    threads: int | None,
) -> list[Ref]:
    """Train one group of a sweep's members, in a process of an engine.

    threads: of the CPU; their number changes no byte. None: all of this process'.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return train_group(home, configs, activations, output, device)


def train_group(
    home: str, configs: list[SaeConfig], activations: Ref, output: Ref | None, device: str
) -> list[Ref]:
    """Train some SAEs in this process, in passes that those share which can."""
    store = DataRoot(home)
    onto = output.open(store) if output else None
    made = library.train_all(store, configs, activations.open(store), onto, device=device)
    return [Ref.of(artifact) for artifact in made]


def train_here(
    home: str,
    config: SaeConfig,
    activations: Ref,
    output: Ref | None,
    start: Ref | None,
    device: str,
) -> Ref:
    """Train in this process."""
    store = DataRoot(home)
    onto, begun = (ref.open(store) if ref else None for ref in (output, start))
    made = library.train(store, config, activations.open(store), onto, begun, device=device)
    return Ref.of(made)


def _gpu_worker_online() -> bool:
    with get_client(sync_client=True) as client:
        return online_workers(client, GPU_POOL) > 0


def _train_on_gpu_pool(
    recipe: Recipe,
    home: str,
    config: SaeConfig,
    activations: Ref,
    output: Ref | None,
    start: Ref | None,
) -> Ref:
    """Artifacts pass by reference: the worker shares the data root, or has one with the remote."""
    store = DataRoot(home)
    parameters = {
        "home": None if store.mirror else home,
        "config": config.model_dump(mode="json"),
        "activations": activations.model_dump(),
        "output": output.model_dump() if output else None,
        "start": start.model_dump() if start else None,
    }
    run = run_on_pool(GPU_POOL, GPU_DEPLOYMENT, parameters, f"sae {recipe.key[:12]}")
    if run.state is None or not run.state.is_completed():
        raise DeconstructError(
            f"training on pool {GPU_POOL!r} ended as {run.state_name} "
            f"({run.state.message if run.state else ''}); see flow run {run.name!r}"
        )
    found = store.find(recipe)
    if found is None:
        where = f"{store.mirror}; set {VARIABLE} to it" if store.mirror else f"{home!r}; share it"
        raise DeconstructError(
            f"the worker of pool {GPU_POOL!r} that trained left nothing in {where} on that worker "
            "as on the one which runs the pipeline"
        )
    begun = run.start_time
    return Ref(
        stage=found.stage,
        key=found.key,
        made=begun is not None and found.manifest.started >= begun,
    )
