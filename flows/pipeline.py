"""The main flow.

text -> tokens -> activations -> SAE -> latents -> evaluation, probe, cluster -> store
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from prefect import flow
from pydantic import BaseModel, ConfigDict

from deconstruct.activations import stage as activation_stage
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.cluster import stage as cluster_stage
from deconstruct.common.site import Site
from deconstruct.config import Growth, RunConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus_stage
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.drift import stage as drift_stage
from deconstruct.evaluation import stage as evaluation_stage
from deconstruct.latents import stage as latents_stage
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.probe import stage as probe_stage
from deconstruct.recurring import gates
from deconstruct.recurring import standing as standing_runs
from deconstruct.recurring.standing import Standing
from deconstruct.sae import stage as sae_stage
from deconstruct.store import RunRecord
from flows.environment import data_root
from flows.liveness import hold_lock
from flows.seen import run_name, show_results, speak, tag
from tasks.activations import activations
from tasks.cluster import cluster
from tasks.corpus import corpus
from tasks.drift import drift
from tasks.evaluation import evaluation
from tasks.latents import latents
from tasks.probe import probe
from tasks.sae import sae
from tasks.spread import Engine
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
HERE = Engine()


@flow(name="pipeline", flow_run_name=run_name, persist_result=True, result_serializer="json")
def pipeline(
    config: RunConfig = DEFAULT,
    home: str | None = None,
    device: str = "auto",
    growth: Growth = "anew",
    engine: Engine = HERE,
) -> list[SiteResult]:
    """Take a language model apart as ``config`` says, one SAE a hook site.

    Stages whose results are there already are answered from cache. Raises ``DeconstructError``
    before any long work if the configuration can't be run, and in place of publishing if the run
    fails a gate.

    Args:
        config: What is run: model, corpus, sites, SAE and how it is judged.
        home: The data root; none: DECONSTRUCT_HOME of the worker, or ./data.
        device: auto, cpu, cuda or cuda:N.
        growth: What becomes of documents that the standing run of this name and these settings
            has seen. anew: nothing is known of it, the result is one of the configuration and the
            source alone. encode: their activations and firings stand; new documents are run
            through the model and the standing SAE, and compared with those that it was trained
            on. retrain: their activations stand, and an SAE is trained on all, from its seed.
            retrain-warm: the same, but from the standing SAE, on sae.warm_tokens; one that was
            trained on all of them already is kept. Without a standing run, all of these train
            the first one.
        engine: What extraction is spread over; by default this process does all of it.
    """
    started = datetime.now(UTC)
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.root)
    tag(config)
    model, source = preflight(root, config)
    shared = Stages(root)
    standing = standing_runs.find(root, config) if growth != "anew" else {}
    base = None
    if standing:
        newest = max(standing.values(), key=lambda run: int(run.corpus.facts["documents"]))
        base = standing_runs.base_of(root, config, source, newest.corpus)
    elif growth != "anew":
        log.info("no standing run %r of these settings yet; it trains the first", config.name)
    texts, by_site, output = read_and_record(shared, config, model, source, base, device, engine)
    return [
        take_apart(
            config,
            Stages(root, list(shared.outcomes)),
            model,
            texts,
            activity,
            output,
            standing.get(str(activity.facts["site"])),
            growth,
            started,
            device,
        )
        for activity in by_site.values()
    ]


def read_and_record(
    shared: Stages,
    config: RunConfig,
    model: ResolvedModel,
    source: ResolvedSource,
    base: Artifact | None,
    device: str,
    engine: Engine,
) -> tuple[Artifact, dict[str, Artifact], Artifact | None]:
    """The corpus, the activations of each site that an SAE reads, and those of a transcoder's
    output site. base: the corpus that this one grew from."""
    texts = shared.run(
        corpus,
        corpus_stage.recipe(config.corpus, source, model, base),
        config.corpus,
        source,
        model,
        Ref.of(base) if base is not None else None,
    )
    recorded = shared.run_all(
        activations,
        activation_stage.recipes(config.activations, model, texts, dtype=config.model.dtype),
        config.activations,
        model,
        Ref.of(texts),
        config.model.dtype,
        device,
        engine,
    )
    by_site = {str(activity.facts["site"]): activity for activity in recorded}
    output = by_site.pop(config.sae.output_site or "", None)
    return texts, by_site, output


def preflight(root: DataRoot, config: RunConfig) -> tuple[ResolvedModel, ResolvedSource]:
    """Find model and source, and check what can be checked before any long work.

    Raises ``DeconstructError`` for what can't be run, or if the remote can't be reached.
    """
    if root.mirror is not None:
        root.mirror.check()
    model = resolve(root, config.model)
    model.check_sites(Site.parse(site) for site in config.activations.sites)
    return model, sources.resolve(config.corpus)


def take_apart(
    config: RunConfig,
    stages: Stages,
    model: ResolvedModel,
    texts: Artifact,
    activity: Artifact,
    output: Artifact | None,
    standing: Standing | None,
    growth: Growth,
    started: datetime,
    device: str,
) -> SiteResult:
    """The stages of one hook site, from its activations to the store.

    output: the activations that a transcoder makes of them; None: an autoencoder.
    standing: the run that ``growth`` goes on from; None: there is none.
    """
    site = str(activity.facts["site"])
    if len(config.activations.sites) > 1:
        log.info("-- %s", site)
    kept, start = standing.role(growth, activity) if standing else (None, None)
    if standing and kept:
        dictionary = stages.keep(kept, f"of run {standing.run_id}")
    else:
        dictionary = stages.run(
            sae,
            sae_stage.recipe(config.sae, activity, output, start),
            config.sae,
            Ref.of(activity),
            *(Ref.of(ref) if ref else None for ref in (output, start)),
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
    everything = [texts, activity, dictionary, firings, judged, probed, clustered]
    figures = {name: judged.facts.get(name) for name in ("fvu", "dead_share", "loss_recovered")}
    figures["probe_accuracy"] = probed.facts.get("accuracy")
    reference = drift_stage.reference_of(stages.store, texts, dictionary)
    if reference is not None:
        compared = (reference, texts, activity, dictionary, firings)
        drifted = stages.run(
            drift,
            drift_stage.recipe(config.evaluation, *compared, output),
            config.evaluation,
            *map(Ref.of, compared),
            Ref.of(output) if output else None,
            device,
        )
        everything.append(drifted)
        figures["fvu_ratio"] = drifted.facts["fvu"] / drifted.facts["reference_fvu"]
        figures["latents_js"] = drifted.facts["latents_js"]
        log.info("%-12s %s", "drift", _said(drifted))
    gates.check(config.gates, figures)
    record = RunRecord(
        config=config,
        started=started,
        finished=datetime.now(UTC),
        cached=frozenset(outcome.stage for outcome in stages.outcomes if outcome.cached),
    )
    run_id = publish(str(stages.store.root), record, [Ref.of(a) for a in everything])
    log.info("%-12s run %s", "store", run_id)
    show_results(stages.store, config, run_id, site, stages.outcomes)
    return SiteResult(site=site, run_id=run_id, stages=stages.outcomes)


def _said(drifted: Artifact) -> str:
    facts = drifted.facts
    return (
        f"{facts['documents']:,} documents since training: fvu {facts['fvu']:.3f} "
        f"(reference {facts['reference_fvu']:.3f}), l0 {facts['l0']:.1f} "
        f"({facts['reference_l0']:.1f}), latents' JS {facts['latents_js']:.3f} bits, "
        f"labels' {facts['labels_js']:.3f}"
    )
