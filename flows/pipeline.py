"""The main flow.

text -> tokens -> activations -> reference, SAE -> latents -> what they tell -> store
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from pydantic import Field, WithJsonSchema

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import TRAINING, Growth, RunConfig
from deconstruct.config.form import default_of
from deconstruct.recurring import gates
from deconstruct.recurring.analyses import analysed_again
from deconstruct.sae import pretrained
from deconstruct.store.query import data_root
from deconstruct.suggest.duration import about, foreseen
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.preflight import other_texts, preflight
from flows.steps.judging import drifted, judged
from flows.steps.publishing import SiteResult, published
from flows.steps.reading import HERE, going_on, read, record
from flows.steps.reporting import reported
from flows.steps.running import AtSite, Running, on_disk
from flows.ui import run_name, speak, tag
from tasks.planning import Plan, Planning, explained
from tasks.spread import Spread
from tasks.stage import Stages

log = logging.getLogger("deconstruct.stages")


DEFAULT = RunConfig()
_CONFIG: Any = Field(DEFAULT, json_schema_extra={"default": default_of(DEFAULT)})
_ENGINE: Any = Field(HERE, json_schema_extra={"default": default_of(HERE)})
"""The same as what a form begins with; Prefect takes the defaults out of them."""
Home = Annotated[str | None, WithJsonSchema({"type": "string"})]
"""A data root; empty, or None as runs of earlier releases have it: the worker's own."""
Costs = Mapping[str, tuple[float, float]]
"""Key of an artifact that is to be made -> seconds, and bytes on disk."""


@flow(name="pipeline", flow_run_name=run_name, persist_result=True, result_serializer="json")
def pipeline(
    config: RunConfig = _CONFIG,
    home: Home = "",
    device: str = "auto",
    growth: Growth = "anew",
    engine: Spread = _ENGINE,
    sae_of: str = "",
) -> list[SiteResult]:
    """Take a language model apart as ``config`` says, one SAE per hook site.

    Each SAE and corpus that it is judged on is a run of the store. Stages whose results are there
    already are answered from cache. Raises ``DeconstructError`` before any long work if the
    configuration can't be run, and in place of publishing if the run fails a gate.

    Args:
        config: What is run: model, corpus, sites, SAE and how it is judged.
        home: The data root; empty: DECONSTRUCT_HOME of the worker, or ./data.
        device: auto, cpu, cuda or cuda:N.
        growth: How to go on from the standing run, the newest of this name and these settings.
            anew: take no notice of it; the result depends on configuration and source alone.
            encode: keep its activations, firings and SAE; new documents are run through the
            model and that SAE, and compared with those that it was trained on. retrain: keep its
            activations, and train an SAE on all documents, from its seed. retrain-warm: the same,
            but from the standing SAE, on sae.warm_tokens; an SAE that was trained on all of them
            already is kept. Without a standing run, all of these train the first SAE.
        engine: What extraction is spread over; by default this process does all of it.
        sae_of: A run of the store, as for show, whose SAE is judged on the corpora of
            config.analysis; nothing is trained, and all else is as that run has it. Empty: none.
    """
    started = datetime.now(UTC)
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    if sae_of:
        sae_of, config, growth = analysed_again(root.path, sae_of, config.analysis)
    tag(config)
    anew = growth == "anew"
    model, sources = preflight(root, config, device, whole=anew, trains=not sae_of)
    standing = going_on(root, config, model, growth, sae_of)
    run = Running(config, model, device, started, other_texts(config), growth, standing)
    stages = Stages(root)
    corpora = read(run, stages, sources)
    if not standing:
        foretell(run, stages, corpora)
    results = [
        result
        for site, recorded in record(run, stages, corpora, engine).items()
        for result in take_apart(run, stages, site, recorded)
    ]
    reported(root, results, config.name)
    return results


def plan(root: DataRoot, config: RunConfig, device: str, growth: Growth) -> list[Plan]:
    """What the flow would do with each stage, but for drift, in their order; nothing is run.

    Raises what the flow raises before any long work.
    """
    model, sources = preflight(root, config, device, whole=growth == "anew")
    standing = going_on(root, config, model, growth)
    other = other_texts(config)
    run = Running(config, model, device, datetime.now(UTC), other, growth, standing)
    planning = Planning(root)
    return explained(root, planned(run, planning, read(run, planning, sources)))


def foretell(run: Running, stages: Stages, corpora: Mapping[str, Artifact]) -> None:
    """Log how long what is left takes on this processor, and what it puts on disk."""
    say_costs(costs_of(run, stages.root, corpora))


def say_costs(costs: Costs) -> None:
    """Log what they come to, if there are any."""
    if costs:
        seconds, size = (sum(of) for of in zip(*costs.values(), strict=True))
        log.info(
            "%-12s %s on this processor, %.1f GB on disk", "to come", about(seconds), size / 1e9
        )


def costs_of(run: Running, root: DataRoot, corpora: Mapping[str, Artifact]) -> Costs:
    """What each artifact takes that is not there yet."""
    left = [plan for plan in planned(run, Planning(root), corpora) if not plan.there]
    if not left:
        return {}
    dictionary = pretrained.find(run.config, run.model)
    settings = run.config if dictionary is None else dictionary.as_if_trained(run.config)
    costs = {
        name: foreseen(settings, run.model, corpora[name], run.device)
        for name in {plan.analysis for plan in left}
    }
    return {plan.recipe.key: costs[plan.analysis][plan.recipe.stage] for plan in left}


def planned(run: Running, planning: Planning, corpora: Mapping[str, Artifact]) -> list[Plan]:
    """What becomes of each stage, those of the corpora among them, with the analysis it is of."""
    of = {corpus.key: name for name, corpus in corpora.items()}
    for site, recorded in record(run, planning, corpora).items():
        for name, one in recorded.items():
            both = (one.activations, one.output)
            of |= {a.key: name for a in both if isinstance(a, Artifact)}
        for name, artifacts in judged(run, planning, site, recorded).items():
            trained_on = TRAINING if TRAINING in corpora else name
            for artifact in artifacts:
                of.setdefault(artifact.key, trained_on if artifact.stage == "sae" else name)
    return [replace(plan, analysis=of[plan.recipe.key]) for plan in planning.plans]


def take_apart(run: Running, stages: Stages, site: str, recorded: AtSite) -> list[SiteResult]:
    """The stages of one hook site, from its activations to the store: a result per analysis.

    Where one fails a gate, none is published.
    """
    everything = judged(run, stages, site, recorded)
    for name, found in everything.items():
        found.extend(drifted(run, stages, name, on_disk(recorded, name), found))
    gates.check(
        run.config.gates,
        {name: gates.figures({a.stage: a for a in found}) for name, found in everything.items()},
    )
    return [
        published(run, stages, name, site, recorded, found) for name, found in everything.items()
    ]
