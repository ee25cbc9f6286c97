"""From activations to findings: the SAE of a site, and what each of its corpora says of it."""

from __future__ import annotations

import logging

from deconstruct.artifacts import Artifact
from deconstruct.config import TRAINING
from deconstruct.drift.stage import beginning_of, reference_of, sentence
from deconstruct.sae import pretrained
from flows.steps.running import AtSite, Recorded, Running, on_disk
from tasks import stages as task
from tasks import training
from tasks.stage import Call, Stages

log = logging.getLogger("deconstruct.stages")


def judged(run: Running, stages: Stages, site: str, recorded: AtSite) -> dict[str, list[Artifact]]:
    """Of each analysis the artifacts of the stages that every run has, in their order."""
    found, references = {}, {}
    for name in run.config.analysed():
        stages.begin(run.about(name, site))
        references[name] = reference(run, stages, on_disk(recorded, name))
    stages.begin(run.about(site=site))
    sae = autoencoder(run, stages, site, recorded)
    for name in run.config.analysed():
        if run.config.analysis:
            stages.begin(run.about(name, site))
        found[name] = judged_on(run, stages, on_disk(recorded, name), references[name], sae)
    return found


def reference(run: Running, stages: Stages, recorded: Recorded) -> Artifact:
    """What the model loses without an SAE at the site that one would replace."""
    return stages.run(
        task.reference, run.config.evaluation, model=run.model, corpus=recorded.corpus,
        activations=recorded.output or recorded.activations, device=run.device,
    )  # fmt: skip


def judged_on(
    run: Running, stages: Stages, recorded: Recorded, reference: Artifact, sae: Artifact
) -> list[Artifact]:
    """The artifacts of an SAE on one corpus, the map last, where the run has one.

    The stages after the latents need nothing of each other, and run at the same time.
    """
    config, device = run.config, run.device
    corpus, activations = recorded.corpus, recorded.activations
    read = {"corpus": corpus, "activations": activations, "sae": sae}
    latents = stages.run(task.latents, config.latents, **read, device=device)
    evaluation, probe, cluster, interpretation, *looked_at = stages.side_by_side(
        stages.call(
            task.evaluation, config.evaluation, model=run.model, reference=reference, sae=sae,
            latents=latents, other=run.other, device=device,
        ),
        stages.call(
            task.probe, config.probe, model=run.model, corpus=corpus, latents=latents,
            activations=activations,
        ),
        stages.call(
            task.cluster, config.cluster, corpus=corpus, latents=latents, activations=activations
        ),
        stages.call(
            task.interpretation, config.interpretation, corpus=corpus, latents=latents
        ),
        *_maps(run, stages, recorded, reference, latents),
    )  # fmt: skip
    return [
        corpus, activations, reference, sae, latents, evaluation, probe, cluster, interpretation,
        *looked_at,
    ]  # fmt: skip


def _maps(
    run: Running, stages: Stages, recorded: Recorded, reference: Artifact, latents: Artifact
) -> list[Call]:
    """The call of the map, or none; massive tokens are of what is reconstructed."""
    if not run.config.map.enabled:
        return []
    return [
        stages.call(
            task.maps, run.config.map, corpus=recorded.corpus, latents=latents,
            activations=recorded.output or recorded.activations, reference=reference,
        )
    ]  # fmt: skip


def autoencoder(run: Running, stages: Stages, site: str, recorded: AtSite) -> Artifact:
    """The SAE of a site: trained on what is recorded of [corpus], the standing one, or one that
    others trained."""
    standing, own = run.standing.get(site), recorded.get(TRAINING)
    activations = own.activations if isinstance(own, Recorded) else None
    kept, start = standing.role(run.growth, activations) if standing else (None, None)
    if standing and kept:
        return stages.keep(kept, f"of run {standing.run_id}")
    dictionary = pretrained.find(run.config, run.model)
    if dictionary is not None:
        any_of = on_disk(recorded, next(iter(recorded)))
        return stages.run(
            training.sae, run.config.sae, activations=any_of.activations, output=any_of.output,
            dictionary=dictionary, device=run.device,
        )  # fmt: skip
    trained = recorded[TRAINING]
    return stages.run(
        training.sae, run.config.sae, activations=trained.activations, output=trained.output,
        start=start, device=run.device,
    )  # fmt: skip


def drifted(
    run: Running, stages: Stages, name: str, recorded: Recorded, found: list[Artifact]
) -> list[Artifact]:
    """The comparison of an analysis' documents with those that came before; none of a first run.

    found: what `judged` has of it.
    """
    root, device = stages.root, run.device
    corpus, activations, _, sae, latents, *_ = found
    own = name == TRAINING
    before = reference_of(root, corpus, sae) if own else beginning_of(root, corpus)
    if before is None:
        return []
    drift = stages.run(
        task.drift, run.config.evaluation, reference=before, activations=activations, sae=sae,
        latents=latents, output=recorded.output, device=device,
    )  # fmt: skip
    log.info("%-12s %s", "drift", sentence(drift, "training" if own else "its first run"))
    return [drift]
