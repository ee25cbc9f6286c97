"""Work spread over an engine: threads here, Dask or Ray processes here or elsewhere.

Of an extraction, the engine computes shards into the artifact in the making; the stage's own task
finds them there, and publishes. Of a sweep, it trains members in groups (`tasks.training`). Either
way, which engine ran, and how many workers, changes no byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

from prefect import Task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from deconstruct.activations.forward import dtype_name
from deconstruct.activations.stage import Deal, Share, compute_shards
from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError, files_said
from deconstruct.common.hardware import devices, pick_dtype
from deconstruct.config import ActivationsConfig
from deconstruct.config.base import MOST_WORKERS
from deconstruct.config.form import readable
from deconstruct.model.resolve import ResolvedModel
from tasks.stage import part_task

Runner = TaskRunner[Any]
R = TypeVar("R")


class Spread(BaseModel):
    """What computes parts of a stage side by side. No part of any key: results are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=readable)

    kind: Literal["threads", "dask", "ray"] = Field(
        "threads", description="threads of this process; Dask or Ray: processes, here or elsewhere."
    )
    workers: int = Field(
        1, ge=1, le=MOST_WORKERS, description="Parts that are computed side by side."
    )
    address: str | None = Field(
        None, description="Of a running Dask scheduler or Ray cluster; none: one for this run."
    )

    def runner(self) -> Runner:
        """Prefect's task runner for it. Raises ``ConfigError`` if its package is not installed."""
        if self.kind == "threads":
            return ThreadPoolTaskRunner(max_workers=self.workers)
        try:
            if self.kind == "dask":
                from prefect_dask import DaskTaskRunner

                if self.address:
                    return cast(Runner, DaskTaskRunner(address=self.address))
                size = {"n_workers": self.workers, "threads_per_worker": 1}
                made: dict[str, Any] = {**size, "dashboard_address": None}
                return cast(Runner, DaskTaskRunner(cluster_kwargs=made))
            # Its usage reports are on by default, and are decided on when it is imported.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            from prefect_ray import RayTaskRunner

            if self.address:
                return cast(Runner, RayTaskRunner(address=self.address))
            cluster = {"num_cpus": self.workers, "include_dashboard": False}
            return cast(Runner, RayTaskRunner(init_kwargs=cluster))
        except ImportError as error:
            raise ConfigError(
                f"engine {self.kind!r} needs packages that are not installed; "
                f"run: pip install 'deconstruct[{self.kind}]'"
            ) from error

    def threads(self) -> int | None:
        """Of this machine's, what a worker of a cluster made for this run gets; None: all."""
        if self.kind == "threads" or self.address is not None:
            return None
        return max(1, (os.cpu_count() or 1) // self.workers)


def on_engine(spread: Spread, what: Task[..., R], calls: Sequence[Mapping[str, Any]]) -> list[R]:
    """What task ``what`` gives for each of ``calls``, in their order, computed side by side."""
    with spread.runner() as runner:
        futures = [runner.submit(what, dict(call)) for call in calls]
        return [future.result() for future in futures]


@part_task("shards", "activations")
def shards(
    home: str, config: ActivationsConfig, model: ResolvedModel, share: Share, device: str
) -> int:
    """Compute one share of an extraction; how many shards it has."""
    with files_said():
        compute_shards(DataRoot(home), config, model, share, device=device)
    return len(share.shards)


def extraction_over(
    spread: Spread, home: str, config: ActivationsConfig, model: ResolvedModel, device: str
) -> Callable[[Deal], None] | None:
    """How `deconstruct.activations.stage.extract` is to spread its shards; None: not at all."""
    if spread.workers == 1 and spread.address is None:
        return None

    def compute(deal: Deal) -> None:
        same = {"home": home, "config": config, "model": model}
        places = [device]
        here = spread.kind != "ray" and spread.address is None  # Ray hides GPUs not asked of it
        if here and len(devices(device)) > 1:  # in turn, all in the first one's precision
            places = devices(device)
            dtype = dtype_name(pick_dtype(model.dtype, places[0]))
            same["model"] = replace(model, dtype=dtype)
        on_engine(
            spread,
            shards,
            [
                {**same, "share": portion, "device": places[number % len(places)]}
                for number, portion in enumerate(deal(spread.workers))
            ],
        )

    return compute
