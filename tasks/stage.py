"""What the tasks of all stages share: Prefect's cache on the stage key, JSON results, retries.

Prefect's record of a finished task is a hint and no more: it outlives files that were deleted or
damaged. So a stage is looked for in the data root first, and its task is told to refresh its cache
where that finds nothing sound.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from pydantic import BaseModel, ConfigDict

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.common.errors import DeconstructError
from deconstruct.common.progress import listening
from tasks.progress import ProgressArtifacts

log = logging.getLogger("deconstruct.stages")


class Ref(BaseModel):
    """An artifact by name: all that a task returns, and all that Prefect keeps of it.

    made: whether this very task made it, and not another run for which it waited.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    made: bool = False

    @classmethod
    def of(cls, artifact: Artifact) -> Ref:
        return cls(stage=artifact.stage, key=artifact.key, made=artifact.made)

    def open(self, store: DataRoot) -> Artifact:
        return store.open(self.stage, self.key)


class Outcome(BaseModel):
    """How one stage of one run went."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    cached: bool
    seconds: float


_TAGS: dict[str, list[str]] = {}


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    recipes: Sequence[Recipe] = parameters["recipes"]
    return "-".join([recipes[0].stage, *(recipe.key for recipe in recipes)])


def _worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """A fault that a person must put right stays the same at every try."""
    error: Any = state.result(raise_on_failure=False)
    return not isinstance(error, DeconstructError | MemoryError)


def stage_task(name: str, retries: int = 1, tags: Sequence[str] = ()) -> Callable[..., Any]:
    """Decorate ``f(recipes, home, ...) -> list[Ref]`` as the task of stage ``name``.

    Its tags, by which Prefect limits how many run at a time, hold where it has work to do: asking
    the server for a slot takes two seconds the first time, which a cached run need not wait.
    """
    _TAGS[name] = [name, *tags]
    as_task = task(
        name=name,
        cache_key_fn=_cache_key,
        persist_result=True,
        result_serializer="json",
        retries=retries,
        retry_delay_seconds=5,
        retry_condition_fn=_worth_retrying,
    )

    def decorate(work: Callable[..., list[Ref]]) -> Any:
        @functools.wraps(work)
        def told(*arguments: Any, **named: Any) -> list[Ref]:
            with listening(ProgressArtifacts()):
                return work(*arguments, **named)

        return as_task(told)

    return decorate


@dataclass
class Stages:
    """Runs stages over one data root and keeps what came of each."""

    store: DataRoot
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, stage: Task[..., list[Ref]], recipe: Recipe, *inputs: Any) -> Artifact:
        """Run the task of ``recipe``, or take its artifact from the data root."""
        return self.run_all(stage, [recipe], *inputs)[0]

    def keep(self, artifact: Artifact, whose: str) -> Artifact:
        """Take an artifact that stands in the place of a stage that would make another."""
        self.outcomes.append(
            Outcome(stage=artifact.stage, key=artifact.key, cached=True, seconds=0.0)
        )
        log.info("%-12s %s  (%s)", artifact.stage, whose, artifact.key[:12])
        return artifact

    def run_all(
        self, stage: Task[..., list[Ref]], recipes: Sequence[Recipe], *inputs: Any
    ) -> list[Artifact]:
        """Run one task that answers several recipes: several sites, one forward pass."""
        started = time.perf_counter()
        cached = [self.store.find(recipe) is not None for recipe in recipes]
        if not all(cached):
            stage = stage.with_options(refresh_cache=True, tags=_TAGS[stage.name])
        refs = stage(list(recipes), str(self.store.root), *inputs)
        artifacts = [ref.open(self.store) for ref in refs]
        seconds = time.perf_counter() - started
        for ref, was_there in zip(refs, cached, strict=True):
            self.outcomes.append(
                Outcome(
                    stage=ref.stage,
                    key=ref.key,
                    cached=was_there or not ref.made,
                    seconds=seconds,
                )
            )
            how = f"done in {seconds:.1f} s"
            if was_there:
                how = "from cache"
            elif not ref.made:
                how = f"from cache, after {seconds:.1f} s in which another run made it"
            log.info("%-12s %s  (%s)", ref.stage, how, ref.key[:12])
        return artifacts
