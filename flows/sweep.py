"""Many SAEs over the same activations: trained in one pass, each then a run of the store."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.runtime import flow_run

from deconstruct.artifacts import DataRoot
from deconstruct.config.sweep import SweepRun
from deconstruct.sae import stage as sae_stage
from flows.environment import data_root
from flows.liveness import hold_lock
from flows.pipeline import HERE, SiteResult, preflight, read_and_record, take_apart
from flows.seen import speak
from tasks.sae import sae_members
from tasks.spread import Engine
from tasks.stage import Ref, Stages


def _name() -> str:
    config = SweepRun.model_validate(flow_run.parameters["config"])
    return f"{config.name}: {len(config.members())} SAEs, {'+'.join(config.activations.sites)}"


@flow(name="sweep", flow_run_name=_name, persist_result=True, result_serializer="json")
def sweep(
    config: SweepRun, home: str | None = None, device: str = "auto", engine: Engine = HERE
) -> list[SiteResult]:
    """Train every member of ``config`` at every site, judge each, publish each as a run.

    A member's artifacts have the keys of a run of its own: what is there already is not made
    again, and a later single run finds it. All runs carry the name ``config.name``; the store's
    macro ``pareto(name)`` sets them beside each other. engine: what extraction is spread over, and
    training: processes of Dask or Ray train the members in groups; by default this process trains
    all of them in one pass. Raises as `flows.pipeline.pipeline` does.
    """
    started = datetime.now(UTC)
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.root)
    model, source = preflight(root, config)
    shared = Stages(root)
    texts, by_site, output = read_and_record(shared, config, model, source, None, device, engine)
    members = config.members()
    results = []
    for activity in by_site.values():
        Stages(root).run_all(
            sae_members,
            [sae_stage.recipe(member, activity, output) for member in members],
            members,
            Ref.of(activity),
            Ref.of(output) if output else None,
            device,
            engine,
        )
        for member in members:
            stages = Stages(root, list(shared.outcomes))
            run = config.run_of(member)
            results.append(
                take_apart(
                    run, stages, model, texts, activity, output, None, "anew", started, device
                )
            )
    return results
