"""Extraction spread over an engine: threads here, Dask or Ray processes here or elsewhere.

The engine computes shards into the artifact in the making; the stage's own task finds them there,
and publishes. So which engine ran, and how many workers, changes no byte.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

from prefect import task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from deconstruct import activations as library
from deconstruct.activations import Part
from deconstruct.artifact import ArtifactStore
from deconstruct.config import ActivationsConfig
from deconstruct.errors import ConfigError
from deconstruct.model import ResolvedModel

Runner = TaskRunner[Any]


class Engine(BaseModel):
    """What computes shards side by side. No part of any key: results are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["threads", "dask", "ray"] = Field(
        "threads", description="threads of this process; Dask or Ray: processes, here or elsewhere."
    )
    workers: int = Field(1, ge=1, description="Parts that are computed side by side.")
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
                own = {"n_workers": self.workers, "threads_per_worker": 1}
                made: dict[str, Any] = {**own, "dashboard_address": None}
                return cast(Runner, DaskTaskRunner(cluster_kwargs=made))
            from prefect_ray import RayTaskRunner

            cluster = {"num_cpus": self.workers}
            return cast(Runner, RayTaskRunner(address=self.address, init_kwargs=cluster))
        except ImportError as error:
            raise ConfigError(
                f"engine {self.kind!r} needs packages that are not installed; "
                f"run: pip install 'deconstruct[{self.kind}]'"
            ) from error


@task(name="shards", tags=["activations"], persist_result=False, retries=1, retry_delay_seconds=5)
def shards(
    home: str, config: ActivationsConfig, model: ResolvedModel, part: Part, dtype: str, device: str
) -> int:
    """Compute one part of an extraction; how many shards it has."""
    library.compute_shards(ArtifactStore(home), config, model, part, dtype=dtype, device=device)
    return len(part.shards)


def spread_over(
    engine: Engine,
    home: str,
    config: ActivationsConfig,
    model: ResolvedModel,
    dtype: str,
    device: str,
) -> library.Spread | None:
    """How `deconstruct.activations.extract` is to spread its shards; None: not at all."""
    if engine.workers == 1 and engine.address is None:
        return None
    return partial(_spread, engine, home, config, model, dtype, device)


def _spread(
    engine: Engine,
    home: str,
    config: ActivationsConfig,
    model: ResolvedModel,
    dtype: str,
    device: str,
    deal: Callable[[int], list[Part]],
) -> None:
    with engine.runner() as runner:
        futures = [
            runner.submit(
                shards,
                {
                    "home": home,
                    "config": config,
                    "model": model,
                    "part": part,
                    "dtype": dtype,
                    "device": device,
                },
            )
            for part in deal(engine.workers)
        ]
        for future in futures:
            future.result()
