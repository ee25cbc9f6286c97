"""Many SAEs over the same activations: trained in one pass, each then a run of the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from prefect import flow
from prefect.runtime import flow_run

from deconstruct.artifacts import DataRoot
from deconstruct.config import TRAINING
from deconstruct.config.sweep import SweepRun
from deconstruct.sae.stage import recipe
from deconstruct.store.query import data_root
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.pipeline import take_apart
from flows.preflight import other_texts, preflight
from flows.steps.publishing import SiteResult
from flows.steps.reading import HERE, read, record
from flows.steps.running import Running
from flows.ui import speak
from tasks.spread import Spread
from tasks.stage import Call, Stages
from tasks.training import sae_members


def _name() -> str:
    config = SweepRun.model_validate(flow_run.parameters["config"])
    return f"{config.name}: {len(config.members())} SAEs, {'+'.join(config.activations.sites)}"


@flow(name="sweep", flow_run_name=_name, persist_result=True, result_serializer="json")
def sweep(
    config: SweepRun, home: str | None = None, device: str = "auto", engine: Spread = HERE
) -> list[SiteResult]:
    """Train every member of ``config`` at every site, judge each on every corpus, publish each as
    a run.

    A member's artifacts have the keys of a run of its own: what is there already is not made
    again, and a later single run finds it. All runs carry the name ``config.name``; the store's
    macro ``pareto(name)`` sets them beside each other. engine: what extraction is spread over, and
    training: processes of Dask or Ray train the members in groups; by default this process trains
    all of them in one pass. Raises as `flows.pipeline.pipeline` does.
    """
    started = datetime.now(UTC)
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    model, sources = preflight(root, config, device)
    run = Running(config, model, device, started, other_texts(config))
    stages = Stages(root)
    members = config.members()
    results = []
    at_sites = record(run, stages, read(run, stages, sources), engine)
    for site, recorded in at_sites.items():
        activations, output = recorded[TRAINING].activations, recorded[TRAINING].output
        recipes = [recipe(member, activations=activations, output=output) for member in members]
        inputs = {"activations": activations, "output": output, "device": device, "engine": engine}
        together = Stages(root, states=stages.states)
        together.run_all(Call(sae_members, recipes, members, inputs))
        for member in members:
            own_run = replace(run, config=config.run_of(member))
            results += take_apart(own_run, stages, site, recorded)
    return results
