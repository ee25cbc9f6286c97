"""What is told of a run that is taken out: its dictionary, what that was made of, how good it is.

Whatever is made of it may be published, so it names no folder of this machine: of a model or a file
that lies here, the last part of its path is told.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import StorageError
from deconstruct.common.site import Site
from deconstruct.config.redrawn import RANDOM, named
from deconstruct.corpus.hub import PREFIX
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.query import resolve_run

EMBEDDED = {"embedded:gemma-3-270m": "google/gemma-3-270m"}
"""Embedded models, and the hub's ids of the models that they are made from."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")

_RUN = """
SELECT run_id, name, site, model, model_digest, source, trained_on, architecture, d_in, d_sae, k,
    documents, tokens, training_tokens, config, finished, (
        SELECT e.training_corpus FROM executions AS e WHERE e.run_id = runs.run_id
        ORDER BY e.execution DESC LIMIT 1
    ) AS training_corpus
FROM runs WHERE run_id = ?
"""
_METRICS = """
SELECT metric, value, ci_low, ci_high, n, unit, note FROM sae_metrics
WHERE run_id = ? AND text = 'own'
"""
_STAGES = "SELECT stage, path, facts FROM stages WHERE run_id = ?"


@dataclass(frozen=True)
class Metric:
    """A figure on held-out documents. low, high: of its 95% interval; None if it has none."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit: str
    note: str


@dataclass(frozen=True)
class Subject:
    """A run of the store.

    output_site: of a transcoder. model, source: as they may be told. base_model: the model's id on
    the hub, with its commit (``model_revision``) if it came from there; dataset likewise. k:
    latents per token; None: their number is not fixed. trained_on: where the texts came from that
    it was trained on (of one that was not trained here, that it is judged on); taken_from: where a
    dictionary came from that was not trained here. keys: of its artifacts, by stage.
    """

    run_id: str
    name: str
    site: Site
    output_site: Site | None
    model: str
    base_model: str | None
    model_revision: str | None
    source: str
    trained_on: str
    dataset: str | None
    dataset_revision: str | None
    taken_from: str | None
    architecture: str
    d_in: int
    d_sae: int
    k: int | None
    documents: int
    tokens: int
    training_tokens: int | None
    config: dict[str, Any]
    finished: datetime
    metrics: tuple[Metric, ...]
    keys: dict[str, str]

    @property
    def transcoder(self) -> bool:
        """Whether it reconstructs another site than it reads."""
        return self.output_site is not None

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""
        return "transcoder" if self.transcoder else "sparse autoencoder"

    def artifact(self, root: DataRoot, stage: str) -> Artifact:
        """Its artifact of a stage, verified. Raises ``StorageError`` if that is absent or damaged,
        or if the run has none."""
        if stage not in self.keys:
            what = "SAE" if stage == "sae" else f"stage {stage}"
            raise StorageError(f"run {self.run_id} has no {what}; name another run")
        return root.open(stage, self.keys[stage])


def subject_of(store: duckdb.DuckDBPyConnection, root: DataRoot, run: str) -> Subject:
    """The run that ``run`` means. Raises ``QueryError`` for an unknown one, ``StorageError`` for
    one without an SAE."""
    run_id = resolve_run(store, run)
    cursor = store.execute(_RUN, [run_id])
    names = [column[0] for column in cursor.description or ()]
    row = dict(zip(names, cursor.fetchall()[0], strict=True))
    stages = store.execute(_STAGES, [run_id]).fetchall()
    facts = {str(stage): json.loads(found or "{}") for stage, _, found in stages}
    keys = {str(stage): str(path).partition("/")[2] for stage, path, _ in stages}
    if "sae" not in keys:
        raise StorageError(f"run {run_id} has no SAE; name another run")
    config = json.loads(row["config"])
    base, model_revision = _base_model(str(row["model"]), str(row["model_digest"] or ""))
    output, taken = facts["sae"].get("output_site"), facts["sae"].get("source")
    trained_on = str(row["source"] if taken else row["trained_on"])
    dataset, texts = _dataset(trained_on), row["training_corpus"] or keys.get("corpus")
    return Subject(
        run_id=run_id,
        name=str(row["name"]),
        site=Site.parse(str(row["site"])),
        output_site=Site.parse(str(output)) if output else None,
        model=_told(str(row["model"]), base is not None),
        base_model=base,
        model_revision=model_revision,
        source=_told(str(row["source"] or "")),
        trained_on=_told(trained_on),
        dataset=dataset,
        dataset_revision=_revision(root, texts) if dataset and texts else None,
        taken_from=_told(str(taken)) if taken else None,
        architecture=str(row["architecture"]),
        d_in=int(row["d_in"]),
        d_sae=int(row["d_sae"]),
        k=row["k"],
        documents=int(row["documents"] or 0),
        tokens=int(row["tokens"] or 0),
        training_tokens=row["training_tokens"],
        config=config,
        finished=row["finished"].astimezone(UTC),
        metrics=_metrics(store, run_id),
        keys=keys,
    )


def _metrics(store: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Metric, ...]:
    """In the order in which `show` has them."""
    order = {headline.name: place for place, headline in enumerate(HEADLINES)}
    found = [
        Metric(str(name), value, low, high, n, str(unit or ""), str(note or ""))
        for name, value, low, high, n, unit, note in store.execute(_METRICS, [run_id]).fetchall()
    ]
    return tuple(sorted(found, key=lambda one: (order.get(one.name, len(order)), one.name)))


def _base_model(name: str, digest: str) -> tuple[str | None, str | None]:
    """Id and commit on the hub of a model that came from there: its digest is a commit then, which
    has another length than those of folders."""
    if name in EMBEDDED:
        return EMBEDDED[name], None
    if _COMMIT.fullmatch(digest) and _PREFIX_ID.fullmatch(name):
        return name, digest
    return None, None


def _dataset(source: str) -> str | None:
    found = source.removeprefix(PREFIX)
    return found if found != source and _PREFIX_ID.fullmatch(found) else None


def _revision(root: DataRoot, corpus: str) -> str | None:
    """The hub's commit of the texts. corpus: its artifact's key. None if that is gone."""
    try:
        digest = str(root.open("corpus", corpus).manifest.inputs.get("source", ""))
    except StorageError:
        return None
    return digest if _COMMIT.fullmatch(digest) else None


def _told(name: str, public: bool = False) -> str:
    if name.startswith(RANDOM):  # a model's: what is made of it stays said
        _, itself = named(name)
        return name.removesuffix(itself) + _told(itself, public)
    if public or name.startswith(("embedded:", PREFIX)):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def slug(text: str) -> str:
    """``text`` in letters, digits, ``.``, ``_`` and ``-``, for names of files and ids."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "run"
