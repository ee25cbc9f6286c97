"""From texts to activations: the corpora of a run, and what is recorded of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from deconstruct.activations.stage import recipes
from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import TRAINING, Growth, RunConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.resolve import ResolvedModel
from deconstruct.recurring import standing as standing_runs
from deconstruct.recurring.standing import Standing
from flows.preflight import check_recorded, said_of
from flows.steps.running import AtSite, Recorded, Running, Streamed
from tasks import stages as task
from tasks.spread import Spread
from tasks.stage import Call, Stages

log = logging.getLogger("deconstruct.stages")

HERE = Spread()


def going_on(
    root: DataRoot, config: RunConfig, model: ResolvedModel, growth: Growth, sae_of: str = ""
) -> dict[str, Standing]:
    """The run of each site that this one goes on from; sae_of: that whose SAE is kept, if any."""
    if sae_of:
        return standing_runs.named(root, sae_of, model)
    if growth == "anew":
        return {}
    if config.activations.keep == "window":
        raise ConfigError(
            f"--growth {growth} goes on from recorded activations, and activations.keep = 'window' "
            "keeps none; leave --growth out, or set keep = 'all'"
        )
    standing = standing_runs.find(root, config, model)
    if not standing:
        log.info(
            "there is no run %r with these settings to go on from; this one trains the first SAE",
            config.name,
        )
    return standing


def read(
    run: Running, stages: Stages, sources: Mapping[str, ResolvedSource]
) -> dict[str, Artifact]:
    """The corpora that are trained on or judged on, by analysis."""
    before = _before(run, stages.root)
    corpora = {}
    for name, config in run.corpora().items():
        stages.begin(run.about(name))
        with said_of(name):
            if name in sources:
                base = before.get(name)
                if base is not None:
                    base = standing_runs.base_of(stages.root, config, sources[name], base)
                corpora[name] = stages.run(
                    task.corpus, config, source=sources[name], model=run.model, base=base
                )
            elif name in before:
                corpora[name] = stages.keep(before[name], "that the SAE was trained on")
            else:
                raise ConfigError(
                    "the corpus that the SAE was trained on is not there any more, or never was; "
                    "name texts of your own, under another name than 'corpus'"
                )
    if run.trains and corpora[TRAINING].path.exists():  # one that is planned has no files
        check_recorded(run.config, corpora[TRAINING])
    return corpora


def _before(run: Running, root: DataRoot) -> dict[str, Artifact]:
    """What the corpora had come to in the run that this one goes on from, by analysis."""
    trained = [one.corpus for one in run.standing.values() if one.corpus is not None]
    found = {}
    if trained:
        found[TRAINING] = max(trained, key=lambda corpus: int(corpus.facts["documents"]))
    if run.standing and not any(one.given for one in run.standing.values()):
        found |= standing_runs.analysed(root, run.config, run.model)
    return found


def record(
    run: Running, stages: Stages, corpora: Mapping[str, Artifact], engine: Spread = HERE
) -> dict[str, AtSite]:
    """The activations of each site that an SAE reads; one forward pass per corpus for all sites.

    Of what is trained on with a window none are recorded.
    """
    config, found = run.config, dict[str, dict[str, Recorded | Streamed]]()
    for name, corpus in corpora.items():
        stages.begin(run.about(name))
        if name == TRAINING and run.streams:
            for site, streamed in _streamed(run, corpus).items():
                found.setdefault(site, {})[name] = streamed
            continue
        wanted = recipes(config.activations, model=run.model, corpus=corpus, device=run.device)
        inputs = {"model": run.model, "corpus": corpus, "device": run.device, "engine": engine}
        made = stages.run_all(Call(task.activations, wanted, config.activations, inputs))
        by_site = dict(zip(config.activations.sites, made, strict=True))
        output = by_site.pop(config.sae.output_site or "", None)
        for site, activations in by_site.items():
            found.setdefault(site, {})[name] = Recorded(corpus, activations, output)
    return dict(found)


def _streamed(run: Running, corpus: Artifact) -> dict[str, Streamed]:
    config = run.config.activations
    by_site = {site: Stream(config, site, run.model, corpus, run.device) for site in config.sites}
    output = by_site.pop(run.config.sae.output_site or "", None)
    return {site: Streamed(corpus, stream, output) for site, stream in by_site.items()}
