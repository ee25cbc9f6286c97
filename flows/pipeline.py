"""The main flow.

text -> tokens -> activations -> SAE -> latents -> evaluation, probe, cluster -> store
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from prefect import flow
from pydantic import BaseModel, ConfigDict

from deconstruct import activations as activation_stage
from deconstruct import cluster as cluster_stage
from deconstruct import corpus as corpus_stage
from deconstruct import evaluate as evaluation_stage
from deconstruct import latents as latents_stage
from deconstruct import probe as probe_stage
from deconstruct import sources
from deconstruct.artifact import Artifact, ArtifactStore
from deconstruct.config import RunConfig
from deconstruct.model import ResolvedModel, resolve
from deconstruct.sae import stage as sae_stage
from deconstruct.site import Site
from deconstruct.sources import ResolvedSource
from deconstruct.store import RunRecord
from flows.environment import data_root
from flows.liveness import hold_lock
from flows.seen import run_name, show_results, tag
from tasks.activations import activations
from tasks.cluster import cluster
from tasks.corpus import corpus
from tasks.evaluation import evaluation
from tasks.latents import latents
from tasks.probe import probe
from tasks.sae import sae
from tasks.stage import Outcome, Ref, Stages
from tasks.store import store as publish

log = logging.getLogger("deconstruct.stages")


class SiteResult(BaseModel):
    """What a run left for one hook site."""

    model_config = ConfigDict(frozen=True)

    site: str
    run_id: str
    stages: list[Outcome]


DEFAULT = RunConfig()


@flow(name="pipeline", flow_run_name=run_name, persist_result=True, result_serializer="json")
def pipeline(
    config: RunConfig = DEFAULT, home: str | None = None, device: str = "auto"
) -> list[SiteResult]:
    """Take a language model apart as ``config`` says, one SAE a hook site.

    home: the data root; none: ``DECONSTRUCT_HOME`` or ``./data``. device: ``auto``, ``cpu`` or
    ``cuda``. Stages whose results are there already are answered from cache. Raises
    ``DeconstructError`` before any long work if the configuration can't be run.
    """
    started = datetime.now(UTC)
    root = ArtifactStore(data_root(home))
    hold_lock(root.root)
    tag(config)
    model, source = preflight(root, config)
    shared = Stages(root)
    texts = shared.run(
        corpus, corpus_stage.recipe(config.corpus, source, model), config.corpus, source, model
    )
    recorded = shared.run_all(
        activations,
        activation_stage.recipes(config.activations, model, texts, dtype=config.model.dtype),
        config.activations,
        model,
        Ref.of(texts),
        config.model.dtype,
        device,
    )
    by_site = {str(activity.facts["site"]): activity for activity in recorded}
    output = by_site.pop(config.sae.output_site or "", None)
    return [
        _take_apart(
            config,
            Stages(root, list(shared.outcomes)),
            model,
            texts,
            activity,
            output,
            started,
            device,
        )
        for activity in by_site.values()
    ]


def preflight(root: ArtifactStore, config: RunConfig) -> tuple[ResolvedModel, ResolvedSource]:
    """Find model and source, and check what can be checked before any long work.

    Raises ``DeconstructError`` for what can't be run.
    """
    model = resolve(root, config.model)
    model.check_sites(Site.parse(site) for site in config.activations.sites)
    return model, sources.resolve(config.corpus)


def _take_apart(
    config: RunConfig,
    stages: Stages,
    model: ResolvedModel,
    texts: Artifact,
    activity: Artifact,
    output: Artifact | None,
    started: datetime,
    device: str,
) -> SiteResult:
    """The stages of one hook site, from its activations to the store.

    output: the activations that a transcoder makes of them; None: an autoencoder.
    """
    site = str(activity.facts["site"])
    if len(config.activations.sites) > 1:
        log.info("-- %s", site)
    dictionary = stages.run(
        sae,
        sae_stage.recipe(config.sae, activity, output),
        config.sae,
        Ref.of(activity),
        Ref.of(output) if output else None,
        device,
    )
    firings = stages.run(
        latents,
        latents_stage.recipe(config.latents, dictionary, activity, texts),
        config.latents,
        *map(Ref.of, (dictionary, activity, texts)),
        device,
    )
    judged = stages.run(
        evaluation,
        evaluation_stage.recipe(config.evaluation, model, texts, activity, dictionary, firings),
        config.evaluation,
        model,
        *map(Ref.of, (texts, activity, dictionary, firings)),
        config.model.dtype,
        device,
    )
    probed = stages.run(
        probe,
        probe_stage.recipe(config.probe, texts, firings, activity),
        config.probe,
        *map(Ref.of, (texts, firings, activity)),
    )
    clustered = stages.run(
        cluster,
        cluster_stage.recipe(config.cluster, texts, firings),
        config.cluster,
        *map(Ref.of, (texts, firings)),
    )
    record = RunRecord(
        config=config,
        started=started,
        finished=datetime.now(UTC),
        cached=frozenset(outcome.stage for outcome in stages.outcomes if outcome.cached),
    )
    everything = (texts, activity, dictionary, firings, judged, probed, clustered)
    run_id = publish(str(stages.store.root), record, [Ref.of(a) for a in everything])
    log.info("%-12s run %s", "store", run_id)
    show_results(stages.store, run_id, site)
    return SiteResult(site=site, run_id=run_id, stages=stages.outcomes)
