"""What the tasks of all stages share: Prefect's cache on the stage key, JSON results, retries.

Prefect's record of a finished task is a hint and no more: it outlives files that were deleted or
damaged. So a stage is looked for in the data root first, and its task is told to refresh its cache
where that finds nothing sound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import Any, NamedTuple, ParamSpec, TypeVar

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from pydantic import BaseModel, ConfigDict

from deconstruct.artifacts import Artifact, DataRoot, Recipe, Stage
from deconstruct.common.errors import DeconstructError, files_said, of_files
from deconstruct.common.progress import listening
from deconstruct.common.threads import import_before_threads, one_blas_thread
from deconstruct.config import EVERY_STAGE
from tasks.progress import ProgressArtifacts
from tasks.records import only_plain

log = logging.getLogger("deconstruct.stages")

P = ParamSpec("P")
R = TypeVar("R")


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

    def open(self, root: DataRoot) -> Artifact:
        return root.open(self.stage, self.key)


class Outcome(BaseModel):
    """How one stage of one run went."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    cached: bool
    seconds: float


Inputs = dict[str, Any]
"""What a stage takes by name: artifacts as `Ref`s, all else as it is."""

Work = Callable[[Sequence[Recipe], str, Any, Inputs], list[Ref]]
"""Called as ``work(recipes, home, config, inputs)``: the artifacts of the recipes, in their order,
in the data root ``home``."""


@dataclass(frozen=True)
class StageTask:
    """A stage and the Prefect task that answers its recipes.

    tags: by which Prefect limits how many run at a time. They hold where there is work to do:
    asking the server for a slot takes two seconds the first time, which a cached run need not wait.
    """

    stage: Stage
    task: Task[..., list[Ref]]
    tags: tuple[str, ...]


def stage_task(stage: Stage, work: Work | None = None, tags: Sequence[str] = ()) -> StageTask:
    """The task of a stage. work: what it does, where that is not to call ``stage.make`` here."""
    work = work or made_here(stage)

    @task(
        name=stage.name,
        cache_key_fn=_cache_key,
        persist_result=True,
        result_serializer="json",
        retries=1,
        retry_delay_seconds=5,
        retry_condition_fn=worth_retrying,
    )
    def told(recipes: list[Recipe], home: str, config: Any, inputs: dict[str, Any]) -> list[Ref]:
        with listening(ProgressArtifacts()), files_said():
            return work(recipes, home, config, inputs)

    return StageTask(stage, told, (stage.name, *tags))


def made_here(stage: Stage) -> Work:
    """Makes a stage's one artifact in this process."""

    def work(recipes: Sequence[Recipe], home: str, config: Any, inputs: Inputs) -> list[Ref]:
        root = DataRoot(home)
        return [Ref.of(stage.make(root, config, **opened(root, inputs)))]

    return work


def opened(root: DataRoot, inputs: Inputs) -> dict[str, Any]:
    """The inputs with every `Ref` opened."""
    return {name: i.open(root) if isinstance(i, Ref) else i for name, i in inputs.items()}


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """The key of what a task gives; None, and the task runs, if Prefect may not read what it has
    under it."""
    recipes: Sequence[Recipe] = parameters["recipes"]
    key = "-".join([recipes[0].stage, *(recipe.key for recipe in recipes)])
    return key if only_plain(context, key, Ref) else None


def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """A fault that a person must put right stays the same at every try."""
    error: Any = state.result(raise_on_failure=False)
    if isinstance(error, OSError) and of_files(error) is not None:
        return False
    return not isinstance(error, DeconstructError | MemoryError | ImportError)


def part_task(name: str, tag: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorates what does a part of a stage's work on an engine; nothing is kept of its result.

    tag: as `StageTask` has them.
    """
    return task(
        name=name,
        tags=[tag],
        persist_result=False,
        retries=1,
        retry_delay_seconds=5,
        retry_condition_fn=worth_retrying,
    )


class Call(NamedTuple):
    """A stage that is to be run. config: settings for one recipe, or for all that one task
    answers."""

    stage: StageTask
    recipes: Sequence[Recipe]
    config: Any
    inputs: Inputs


@dataclass
class Stages:
    """Runs stages over one data root and keeps what came of each.

    states: of the tasks that gave artifacts, by key, so that Prefect's graph of a run shows what
    was made from what.
    """

    root: DataRoot
    outcomes: list[Outcome] = field(default_factory=list)
    states: dict[str, State[Any]] = field(default_factory=dict)

    def begin(self, what: str) -> None:
        """Say of what the next stages are; empty: there is no choice."""
        if what:
            log.info("-- %s", what)

    def call(
        self, stage: StageTask, config: Any, *, device: str | None = None, **inputs: Any
    ) -> Call:
        """A stage on ``inputs``, which its recipe knows by the same names.

        device: where it computes, for stages that ask.
        """
        how = {} if device is None else {"device": device}
        return Call(stage, [stage.stage.recipe(config, **inputs)], config, inputs | how)

    def run(
        self, stage: StageTask, config: Any, *, device: str | None = None, **inputs: Any
    ) -> Artifact:
        """Run a stage (see `call`), or take its artifact from the data root."""
        return self.run_all(self.call(stage, config, device=device, **inputs))[0]

    def side_by_side(self, *calls: Call) -> list[Artifact]:
        """Run stages that need nothing of each other at the same time; each has one artifact."""
        if sum(self.root.find(call.recipes[0]) is None for call in calls) < 2:
            return [self.run_all(call)[0] for call in calls]
        import_before_threads()
        found = side_by_side(*(partial(self.run_all, call) for call in calls))
        return [artifact for [artifact] in found]

    def run_all(self, call: Call) -> list[Artifact]:
        """Run one task that answers several recipes: several sites, one forward pass."""
        started = time.perf_counter()
        cached = [self.root.find(recipe) is not None for recipe in call.recipes]
        work = call.stage.task
        if not all(cached):
            work = work.with_options(refresh_cache=True, tags=list(call.stage.tags))
        inputs = {n: Ref.of(i) if isinstance(i, Artifact) else i for n, i in call.inputs.items()}
        made_of = [i for i in call.inputs.values() if isinstance(i, Artifact)]
        state = work(
            list(call.recipes), str(self.root.path), call.config, inputs,
            return_state=True, wait_for=self.before(made_of),
        )  # fmt: skip
        given = {ref.key: ref for ref in state.result()}
        artifacts = [self.root.open(recipe.stage, recipe.key) for recipe in call.recipes]
        seconds = time.perf_counter() - started
        refs = [given.get(artifact.key, Ref.of(artifact)) for artifact in artifacts]
        for ref, was_there in zip(refs, cached, strict=True):
            self.states[ref.key] = state
            self._note(ref, was_there, seconds)
        return artifacts

    def keep(self, artifact: Artifact, whose: str) -> Artifact:
        """Take an artifact that stands in the place of a stage that would make another."""
        self.outcomes.append(
            Outcome(stage=artifact.stage, key=artifact.key, cached=True, seconds=0.0)
        )
        log.info("%-12s %s  (%s)", artifact.stage, whose, artifact.key[:12])
        return artifact

    def before(self, artifacts: Sequence[Artifact]) -> list[State[Any]]:
        """States of the tasks that gave these artifacts, as far as this run has had them."""
        return [self.states[a.key] for a in artifacts if a.key in self.states]

    def outcomes_of(self, artifacts: Sequence[Artifact]) -> list[Outcome]:
        """What came of one of several runs that share stages, in the order of the pipeline."""
        keys = {artifact.key for artifact in artifacts}
        first = {o.key: o for o in reversed(self.outcomes) if o.key in keys}
        return sorted(first.values(), key=lambda outcome: EVERY_STAGE.index(outcome.stage))

    def _note(self, ref: Ref, was_there: bool, seconds: float) -> None:
        cached = was_there or not ref.made
        self.outcomes.append(Outcome(stage=ref.stage, key=ref.key, cached=cached, seconds=seconds))
        how = f"done in {seconds:.1f} s"
        if was_there:
            how = "from cache"
        elif not ref.made:
            how = f"from cache, after {seconds:.1f} s in which another run made it"
        log.info("%-12s %s  (%s)", ref.stage, how, ref.key[:12])


def side_by_side(*works: Callable[[], R]) -> list[R]:
    """What each of ``works`` gives, in their order; they run at the same time.

    Raises what the first of them that fails raises, once all have ended. The first is done by this
    thread: Ctrl-C, which Python brings to no other, ends it, and does not wait for the others.
    """
    found: dict[int, R] = {}
    faults: dict[int, Exception] = {}

    def do(place: int) -> None:
        try:
            found[place] = works[place]()
        except Exception as error:
            faults[place] = error

    # In copies of this context, in which Prefect keeps the run that their tasks belong to.
    others = [
        Thread(target=copy_context().run, args=(do, place), name=f"stage-{place}", daemon=True)
        for place in range(1, len(works))
    ]
    # OpenBLAS gets its threads back from none but the thread that took them.
    with one_blas_thread():
        for thread in others:
            thread.start()
        do(0)
        for thread in others:
            thread.join()
    if faults:
        raise faults[min(faults)]
    return [found[place] for place in range(len(works))]
