"""A run and its controls: each is a run of the store, and what is there is not made again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from prefect import flow
from prefect.runtime import flow_run

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import DeconstructError
from deconstruct.config import TRAINING, RunConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.recurring.controls import Control, controls_of
from deconstruct.sae.stage import recipe
from deconstruct.store.query import data_root
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.local import RunCancelled
from flows.pipeline import costs_of, say_costs, take_apart
from flows.preflight import other_texts, preflight
from flows.steps.publishing import SiteResult
from flows.steps.reading import HERE, read, record
from flows.steps.running import AtSite, Running
from flows.ui import name_of, speak, tag
from tasks.spread import Spread
from tasks.stage import Call, Stages
from tasks.training import sae_members

log = logging.getLogger("deconstruct.stages")


class ControlsFailed(DeconstructError):
    """Some controls could not be made; the message says which and why. The others are there."""


@dataclass
class Faults:
    """What went wrong with single controls, which is no reason to lose the others."""

    said: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keeps what the block raises; not that somebody cancelled the run."""
        try:
            yield
        except RunCancelled:
            raise
        except Exception as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.said.setdefault(name, told)
            log.error("%-12s %s: %s", "controls", name, told)

    def check(self) -> None:
        """Raise `ControlsFailed` if there were any."""
        if self.said:
            told = "; ".join(f"{name}: {why}" for name, why in self.said.items())
            raise ControlsFailed(
                f"{told}. What is done comes from cache when you run the command again"
            )


def _name() -> str:
    return f"{name_of(RunConfig.model_validate(flow_run.parameters['config']))}, and controls"


@flow(name="controls", flow_run_name=_name, persist_result=True, result_serializer="json")
def controls(
    config: RunConfig,
    seeds: int = 3,
    home: str | None = None,
    device: str = "auto",
    engine: Spread = HERE,
) -> list[SiteResult]:
    """Make a run of ``config`` and its controls (`deconstruct.recurring.controls`).

    The SAEs of all seeds and of the frozen kinds are trained together: one pass over the
    activations for those that agree in the order of batches, which a seed decides. A control that
    fails is said, and the others go on; at the end ``ControlsFailed`` is raised. What keeps the run
    itself from being made is raised at once, as by `flows.pipeline.pipeline`.

    seeds: how many SAEs there are of other seeds, the run's own with them. engine: as
    `flows.sweep.sweep` has it.
    """
    started = datetime.now(UTC)
    speak()
    wanted = controls_of(config, seeds)
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    tag(config)
    model, sources = preflight(root, config, device)
    run = Running(config, model, device, started, other_texts(config))
    stages = Stages(root)
    of = {c: replace(run, config=c.config, model=_model_of(root, run, c)) for c in wanted}
    corpora = read(run, stages, sources)
    costs: dict[str, tuple[float, float]] = {}
    for one in (run, *of.values()):
        costs |= costs_of(one, root, corpora)
    say_costs(costs)
    at_sites = record(run, stages, corpora, engine)
    same = {c: own for c, own in of.items() if own.model is model}
    for recorded in at_sites.values():
        with Faults().of("training"):  # each is trained on its own then, and says what is wrong
            _train(stages, recorded, [config.sae, *(c.config.sae for c in same)], device, engine)
    results: list[SiteResult] = []
    for site, recorded in at_sites.items():
        results += take_apart(run, stages, site, recorded)
    faults = Faults()
    for control, own in of.items():
        log.info("%-12s %s", "control", control.name)
        with faults.of(control.name):
            recorded_at = at_sites if own.model is model else record(own, stages, corpora, engine)
            for site, recorded in recorded_at.items():
                results += take_apart(own, stages, site, recorded)
    faults.check()
    return results


def _model_of(root: DataRoot, run: Running, control: Control) -> ResolvedModel:
    same = control.config.model == run.config.model
    return run.model if same else resolve(root, control.config.model)


def _train(
    stages: Stages, recorded: AtSite, configs: Sequence[SaeConfig], device: str, engine: Spread
) -> None:
    """Train SAEs of one site together, each once."""
    members = list(dict.fromkeys(configs))
    activations, output = recorded[TRAINING].activations, recorded[TRAINING].output
    recipes = [recipe(member, activations=activations, output=output) for member in members]
    inputs = {"activations": activations, "output": output, "device": device, "engine": engine}
    together = Stages(stages.root, states=stages.states)
    together.run_all(Call(sae_members, recipes, members, inputs))
