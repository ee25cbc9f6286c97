"""Tasks of the stage sae: training here, on a worker of the GPU pool, or many SAEs together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from prefect.client.orchestration import get_client

from deconstruct.activations.window import Stream
from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.artifacts.remote import VARIABLE
from deconstruct.common.errors import DeconstructError, files_said
from deconstruct.config import SaeConfig
from deconstruct.sae.stage import STAGE, train_all
from tasks.spread import Spread, on_engine
from tasks.stage import Inputs, Ref, made_here, opened, part_task, stage_task
from tasks.workers import online_workers, run_on_pool

log = logging.getLogger("deconstruct.stages")

GPU_POOL = "gpu"
GPU_DEPLOYMENT = "train/gpu"

train_here = made_here(STAGE)


def train(recipes: Sequence[Recipe], home: str, config: SaeConfig, inputs: Inputs) -> list[Ref]:
    """Train one SAE: on the GPU pool if a worker of it is online, else here. On a stream: here. One
    that others trained is taken over here, where its files are.

    A worker that is lost on the way is an error like any other: the task is tried again, and
    goes on from the last checkpoint, wherever it runs then.
    """
    stays = isinstance(inputs["activations"], Stream) or inputs.get("dictionary") is not None
    if inputs["device"] == "auto" and not stays and _gpu_worker_online():
        log.info("sae          goes to a worker of pool %r", GPU_POOL)
        return [_train_on_gpu_pool(recipes[0], home, config, inputs)]
    return train_here(recipes, home, config, inputs)


def train_members(
    recipes: Sequence[Recipe], home: str, configs: Sequence[SaeConfig], inputs: Inputs
) -> list[Ref]:
    """Train SAEs together, in this process; or in groups, side by side, as the input ``engine``
    says.

    Each group makes one pass over the activations. An engine of threads makes one group of all:
    they share this machine's cores in one pass.
    """
    given = dict(inputs)
    engine: Spread = given.pop("engine")
    groups = 1 if engine.kind == "threads" else min(engine.workers, len(configs))
    if groups == 1 and engine.address is None:
        return train_group(home, configs, given)
    dealt = [list(configs[first::groups]) for first in range(groups)]
    calls = [
        {"home": home, "configs": some, "inputs": given, "threads": engine.threads()}
        for some in dealt
    ]
    found = {ref.key: ref for refs in on_engine(engine, members, calls) for ref in refs}
    return [found[recipe.key] for recipe in recipes]


sae = stage_task(STAGE, train, ["training"])
sae_members = stage_task(STAGE, train_members, ["training"])


@part_task("members", "training")
def members(
    home: str, configs: list[SaeConfig], inputs: dict[str, Any], threads: int | None
) -> list[Ref]:
    """Train one group of a sweep's members, in a process of an engine.

    threads: of the CPU; their number changes no byte. None: all of this process'.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with files_said():
        return train_group(home, configs, inputs)


def train_group(home: str, configs: Sequence[SaeConfig], inputs: Inputs) -> list[Ref]:
    """Train some SAEs in this process, in passes that those share which can."""
    root = DataRoot(home)
    return [Ref.of(artifact) for artifact in train_all(root, configs, **opened(root, inputs))]


def _gpu_worker_online() -> bool:
    with get_client(sync_client=True) as client:
        return online_workers(client, GPU_POOL) > 0


def _train_on_gpu_pool(recipe: Recipe, home: str, config: SaeConfig, inputs: Inputs) -> Ref:
    """Artifacts pass by reference: the worker shares the data root, or has one with the remote."""
    root = DataRoot(home)
    parameters = {
        "home": None if root.mirror else home,
        "config": config.model_dump(mode="json"),
        **{n: i.model_dump() if isinstance(i, Ref) else i for n, i in inputs.items()},
    }
    run = run_on_pool(GPU_POOL, GPU_DEPLOYMENT, parameters, f"sae {recipe.key[:12]}")
    if run.state is None or not run.state.is_completed():
        raise DeconstructError(
            f"training on pool {GPU_POOL!r} ended as {run.state_name} "
            f"({run.state.message if run.state else ''}); see flow run {run.name!r}"
        )
    found = root.find(recipe)
    if found is None:
        where = f"{root.mirror}; set {VARIABLE} to it" if root.mirror else f"{home!r}; share it"
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
