"""From findings to the store: a row of runs for each analysis."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import StorageError
from deconstruct.config import TRAINING
from deconstruct.corpus.growth import held_out_but_known
from deconstruct.sae.stage import trained_on
from deconstruct.store import RunRecord
from flows.local import check_cancelled
from flows.steps.running import AtSite, Running, on_disk
from flows.ui import show_results
from tasks.stage import Outcome, Ref, Stages
from tasks.store import store

log = logging.getLogger("deconstruct.stages")


class SiteResult(BaseModel):
    """What a run left for one hook site and one corpus."""

    model_config = ConfigDict(frozen=True)

    site: str
    run_id: str
    stages: list[Outcome]
    analysis: str = TRAINING


def published(
    run: Running,
    stages: Stages,
    name: str,
    site: str,
    recorded: AtSite,
    found: list[Artifact],
) -> SiteResult:
    """Put what the stages of a site and an analysis left into the store, and show it in the UI.

    found: their artifacts.
    """
    of = {artifact.stage: artifact for artifact in found}
    output = on_disk(recorded, name).output
    outcomes = stages.outcomes_of([*found, *([output] if output else [])])
    standing = run.standing.get(site)
    trained = recorded[TRAINING].corpus if TRAINING in recorded else standing and standing.corpus
    record = RunRecord(
        config=run.config,
        growth=run.growth,
        started=run.started,
        finished=datetime.now(UTC),
        cached=frozenset(outcome.stage for outcome in outcomes if outcome.cached),
        analysis=name,
        training_corpus=trained.key if trained else None,
        stands=not (standing and standing.given),
        seen=seen(stages.root, name, of["corpus"], of["sae"]),
    )
    check_cancelled()
    refs = [Ref.of(artifact) for artifact in found]
    run_id = store(str(stages.root.path), record, refs, wait_for=stages.before(found))
    log.info("%-12s run %s", "store", run_id)
    show_results(stages.root, record, run_id, site, outcomes)
    return SiteResult(site=site, run_id=run_id, stages=outcomes, analysis=name)


def seen(root: DataRoot, name: str, corpus: Artifact, sae: Artifact) -> int | None:
    """How many held-out documents the SAE was trained on, which is said; None: not known."""
    try:
        trained = trained_on(root, sae)
    except StorageError:
        return None
    if trained is None:
        return None
    if name == TRAINING:
        return 0  # equal texts share a split
    known, of = held_out_but_known(corpus, trained), int(corpus.facts["test_documents"])
    if known:
        log.warning(
            "analysis %r: the SAE was trained on the texts of %d of the %d held-out documents, "
            "so that its figures tell in part of texts that it knows", name, known, of,
        )  # fmt: skip
    return known
