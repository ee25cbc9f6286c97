"""The main flow.

text -> tokens -> activations -> SAE -> latents -> evaluation, probe, cluster -> store
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from deconstruct.activations.stage import recipes
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import Growth, RunConfig
from deconstruct.config.form import default_of
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.drift.stage import reference_of, sentence
from deconstruct.model.resolve import ResolvedModel
from deconstruct.recurring import gates
from deconstruct.recurring import standing as standing_runs
from deconstruct.recurring.standing import Standing
from deconstruct.sae import pretrained
from deconstruct.store import RunRecord
from deconstruct.store.query import data_root
from deconstruct.suggest.duration import about, foreseen
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.local import check_cancelled
from flows.preflight import check_recorded, preflight
from flows.ui import run_name, show_results, speak, tag
from tasks import stages as task
from tasks import training
from tasks.planning import Plan, Planning, explained
from tasks.spread import Spread
from tasks.stage import Call, Outcome, Ref, Stages
from tasks.store import store as publish

log = logging.getLogger("deconstruct.stages")


class SiteResult(BaseModel):
    """What a run left for one hook site."""

    model_config = ConfigDict(frozen=True)

    site: str
    run_id: str
    stages: list[Outcome]


@dataclass(frozen=True)
class Recorded:
    """What an SAE is trained and judged on: a corpus and its activations at one site.

    output: those of the site that a transcoder makes of them; None: an autoencoder.
    """

    corpus: Artifact
    activations: Artifact
    output: Artifact | None

    @property
    def site(self) -> str:
        """The site that is read."""
        return str(self.activations.facts["site"])


@dataclass(frozen=True)
class Running:
    """What all sites and SAEs of one run share."""

    config: RunConfig
    model: ResolvedModel
    device: str
    started: datetime
    growth: Growth = "anew"


DEFAULT = RunConfig()
HERE = Spread()
_CONFIG: Any = Field(DEFAULT, json_schema_extra={"default": default_of(DEFAULT)})
_ENGINE: Any = Field(HERE, json_schema_extra={"default": default_of(HERE)})
"""The same as what a form begins with; Prefect takes the defaults out of them."""
Home = Annotated[str | None, WithJsonSchema({"type": "string"})]
"""A data root; empty, or None as runs of earlier releases have it: the worker's own."""


@flow(name="pipeline", flow_run_name=run_name, persist_result=True, result_serializer="json")
def pipeline(
    config: RunConfig = _CONFIG,
    home: Home = "",
    device: str = "auto",
    growth: Growth = "anew",
    engine: Spread = _ENGINE,
) -> list[SiteResult]:
    """Take a language model apart as ``config`` says, one SAE per hook site.

    Stages whose results are there already are answered from cache. Raises ``DeconstructError``
    before any long work if the configuration can't be run, and in place of publishing if the run
    fails a gate.

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
    """
    started = datetime.now(UTC)
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    tag(config)
    model, source = preflight(root, config, device, whole=growth == "anew")
    run, stages = Running(config, model, device, started, growth), Stages(root)
    standing, base = going_on(root, run, source)
    corpus = read(run, stages, source, base)
    if not standing:
        foretell(run, stages, corpus)
    return [
        take_apart(run, stages.branch(), recorded, standing.get(recorded.site))
        for recorded in record(run, stages, corpus, engine)
    ]


def plan(root: DataRoot, config: RunConfig, device: str, growth: Growth) -> list[Plan]:
    """What the flow would do with each stage, but for drift, in their order; nothing is run.

    Raises what the flow raises before any long work.
    """
    model, source = preflight(root, config, device, whole=growth == "anew")
    run, stages = Running(config, model, device, datetime.now(UTC), growth), Planning(root)
    standing, base = going_on(root, run, source)
    for recorded in record(run, stages, read(run, stages, source, base)):
        judged(run, stages.branch(), recorded, standing.get(recorded.site))
    return explained(root, stages.plans)


def going_on(
    root: DataRoot, run: Running, source: ResolvedSource
) -> tuple[dict[str, Standing], Artifact | None]:
    """The standing run of each site that this one goes on from, and the corpus it grows from."""
    if run.growth == "anew":
        return {}, None
    standing = standing_runs.find(root, run.config, run.model)
    if not standing:
        log.info(
            "there is no run %r with these settings to go on from; this one trains the first SAE",
            run.config.name,
        )
        return {}, None
    newest = max(standing.values(), key=lambda one: int(one.corpus.facts["documents"]))
    return standing, standing_runs.base_of(root, run.config, source, newest.corpus)


def read(run: Running, stages: Stages, source: ResolvedSource, base: Artifact | None) -> Artifact:
    """The corpus. base: the one that it grew from."""
    config, model = run.config, run.model
    corpus = stages.run(task.corpus, config.corpus, source=source, model=model, base=base)
    trains = config.sae.pretrained is None
    if trains and corpus.path.exists():  # one that is planned does not
        check_recorded(config, corpus)
    return corpus


def foretell(run: Running, stages: Stages, corpus: Artifact) -> None:
    """Log how long what is left takes on this processor, and what it puts on disk."""
    planning = Planning(stages.root)
    for recorded in record(run, planning, corpus):
        judged(run, planning.branch(), recorded, None)
    left = [plan.recipe.stage for plan in planning.plans if not plan.there]
    if left:
        dictionary = pretrained.find(run.config, run.model)
        settings = run.config if dictionary is None else dictionary.as_if_trained(run.config)
        all_stages = foreseen(settings, run.model, corpus, run.device)
        seconds, size = (sum(of) for of in zip(*(all_stages[stage] for stage in left), strict=True))
        log.info(
            "%-12s %s on this processor, %.1f GB on disk", "to come", about(seconds), size / 1e9
        )


def record(run: Running, stages: Stages, corpus: Artifact, engine: Spread = HERE) -> list[Recorded]:
    """The activations of each site that an SAE reads."""
    config, model, device = run.config, run.model, run.device
    wanted = recipes(config.activations, model=model, corpus=corpus, device=device)
    inputs = {"model": model, "corpus": corpus, "device": device, "engine": engine}
    found = stages.run_all(Call(task.activations, wanted, config.activations, inputs))
    by_site = dict(zip(config.activations.sites, found, strict=True))
    output = by_site.pop(config.sae.output_site or "", None)
    return [Recorded(corpus, activations, output) for activations in by_site.values()]


def take_apart(
    run: Running,
    stages: Stages,
    recorded: Recorded,
    standing: Standing | None = None,
) -> SiteResult:
    """The stages of one hook site, from its activations to the store.

    standing: the run that this one goes on from; None: there is none.
    """
    config, site = run.config, recorded.site
    if len(config.activations.sites) > 1:
        log.info("-- %s", site)
    everything = judged(run, stages, recorded, standing)
    corpus, activations, sae, latents, *_ = everything
    reference = reference_of(stages.root, corpus, sae)
    if reference is not None:
        drift = stages.run(
            task.drift, config.evaluation, reference=reference, activations=activations, sae=sae,
            latents=latents, output=recorded.output, device=run.device,
        )  # fmt: skip
        everything.append(drift)
        log.info("%-12s %s", "drift", sentence(drift))
    gates.check(config.gates, gates.figures({artifact.stage: artifact for artifact in everything}))
    return published(run, stages, site, everything)


def judged(
    run: Running, stages: Stages, recorded: Recorded, standing: Standing | None
) -> list[Artifact]:
    """The artifacts of the stages that every run has, in their order.

    Evaluation, probe and cluster need nothing of each other, and run at the same time.
    """
    config, device = run.config, run.device
    corpus, activations = recorded.corpus, recorded.activations
    sae = autoencoder(run, stages, recorded, standing)
    read = {"corpus": corpus, "activations": activations, "sae": sae}
    latents = stages.run(task.latents, config.latents, **read, device=device)
    evaluation, probe, cluster = stages.side_by_side(
        stages.call(
            task.evaluation, config.evaluation, model=run.model, **read, latents=latents,
            device=device,
        ),
        stages.call(
            task.probe, config.probe, corpus=corpus, latents=latents, activations=activations
        ),
        stages.call(task.cluster, config.cluster, corpus=corpus, latents=latents),
    )  # fmt: skip
    return [corpus, activations, sae, latents, evaluation, probe, cluster]


def autoencoder(
    run: Running,
    stages: Stages,
    recorded: Recorded,
    standing: Standing | None,
) -> Artifact:
    """The SAE of a site: trained, the standing one, or one that others trained."""
    dictionary = pretrained.find(run.config, run.model)
    if dictionary is not None:
        return stages.run(
            training.sae, run.config.sae, activations=recorded.activations, output=recorded.output,
            dictionary=dictionary, device=run.device,
        )  # fmt: skip
    kept, start = standing.role(run.growth, recorded.activations) if standing else (None, None)
    if standing and kept:
        return stages.keep(kept, f"of run {standing.run_id}")
    return stages.run(
        training.sae, run.config.sae, activations=recorded.activations, output=recorded.output,
        start=start, device=run.device,
    )  # fmt: skip


def published(run: Running, stages: Stages, site: str, everything: list[Artifact]) -> SiteResult:
    """Put what the stages of a site left into the store, and show it in the UI."""
    outcomes = stages.in_order()
    record = RunRecord(
        config=run.config,
        growth=run.growth,
        started=run.started,
        finished=datetime.now(UTC),
        cached=frozenset(outcome.stage for outcome in outcomes if outcome.cached),
    )
    refs = [Ref.of(artifact) for artifact in everything]
    check_cancelled()
    run_id = publish(str(stages.root.path), record, refs, wait_for=stages.before(everything))
    log.info("%-12s run %s", "store", run_id)
    show_results(stages.root, run.config, run_id, site, outcomes)
    return SiteResult(site=site, run_id=run_id, stages=outcomes)
