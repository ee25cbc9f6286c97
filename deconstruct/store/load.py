"""From artifacts to rows: what one run adds to the store's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from pydantic import BaseModel, ConfigDict

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import StorageError
from deconstruct.common.site import Site
from deconstruct.config import EVERY_STAGE, OPTIONAL_STAGES, TRAINING, Growth, RunConfig
from deconstruct.probe.tables import TASK
from deconstruct.store.ddl import PARQUET, literal, name
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.schema import RELATIONS, Relation

BESIDE = ("map", "explanation")
"""Stages whose rows may come to a run that is there (`load_beside`), and stay when it is published
again without them: they are of its corpus and its latents, which decide its id."""


class RunRecord(BaseModel):
    """What a run's artifacts don't say: how it was asked for, when it ran, what it found done.

    cached: stages whose artifact the run found instead of making it. analysis: what its corpus is
    called in the configuration. training_corpus: key of what [corpus] had come to; None: to the
    run's own corpus, or it was not read. stands: whether growing runs may go on from it. seen:
    held-out documents whose text the SAE was trained on; None: not known.
    """

    model_config = ConfigDict(frozen=True)

    config: RunConfig
    growth: Growth = "anew"
    started: datetime
    finished: datetime
    cached: frozenset[str] = frozenset()
    analysis: str = TRAINING
    training_corpus: str | None = None
    stands: bool = True
    seen: int | None = None


def load_run(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    run: RunRecord,
    artifacts: Mapping[str, Artifact],
) -> None:
    """Put the rows of a run in the place of those it had, and note that it was executed.

    Its rows in runs and stages are of its making: they stay. The caller holds the transaction.
    """
    for relation in RELATIONS:
        kept = relation.paired or (relation.stage in BESIDE and relation.stage not in artifacts)
        if relation.stage is not None and relation.stored and not kept:
            connection.execute(f"DELETE FROM {name(relation.name)} WHERE run_id = ?", [run_id])
    _load_files(connection, run_id, artifacts, label_column(run, artifacts["corpus"]))
    in_order = {stage: artifacts[stage] for stage in EVERY_STAGE if stage in artifacts}
    for stage in OPTIONAL_STAGES:  # which don't decide the run's id: this may be another one
        if stage in artifacts:
            connection.execute(
                "DELETE FROM stages WHERE run_id = ? AND stage = ? AND key <> ?",
                [run_id, stage, artifacts[stage].key],
            )
    _insert_stages(connection, run_id, run, in_order)
    _insert_run(connection, run_id, run, artifacts)
    _insert_execution(connection, run_id, run, in_order)


def _load_files(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    artifacts: Mapping[str, Artifact],
    column: str | None,
) -> None:
    """Copy the rows of the artifacts' files; those that stay where they lie are looked at.

    column: of the labels that files are about which name none.
    """
    for relation in RELATIONS:
        if (stage := relation.stage) is None or stage not in artifacts or relation.table is None:
            continue
        if relation.table.optional and relation.table.file not in artifacts[stage].manifest.files:
            continue
        file = artifacts[stage].file(relation.table.file)
        if relation.in_place:
            check_columns(connection, relation, file)
        else:
            insert_file(connection, relation, run_id, file, {TASK.name: column})


def load_matching(
    connection: duckdb.DuckDBPyConnection, run_id: str, other_run: str, matching: Artifact
) -> None:
    """Put what was found of two runs' latents in the place of what is there of them.

    The caller holds the transaction. Publishing either run again leaves the rows: they are of its
    SAE and its firings, which decide its id.
    """
    of = {"run_id": run_id, "other_run": other_run}
    for relation in RELATIONS:
        if not relation.paired:
            continue
        connection.execute(
            f"DELETE FROM {name(relation.name)} WHERE run_id = $run_id AND other_run = $other_run",
            of,
        )
        if relation.table is not None:
            file = matching.file(relation.table.file)
            insert_file(connection, relation, run_id, file, other_run=other_run)
    _insert(
        connection,
        "matchings",
        **of,
        key=matching.key,
        version=matching.manifest.version,
        seconds=matching.manifest.seconds,
        path=f"matching/{matching.key}",
        facts=json.dumps(matching.facts),
        made=matching.manifest.finished,
    )


def load_beside(connection: duckdb.DuckDBPyConnection, run_id: str, artifact: Artifact) -> None:
    """Put the rows of a stage of `BESIDE` in the place of those that a run has of it.

    The caller holds the transaction.
    """
    for relation in RELATIONS:
        if relation.stage == artifact.stage and relation.stored:
            connection.execute(f"DELETE FROM {name(relation.name)} WHERE run_id = ?", [run_id])
    [(column,)] = connection.execute(
        "SELECT label_column FROM runs WHERE run_id = ?", [run_id]
    ).fetchall()
    _load_files(connection, run_id, {artifact.stage: artifact}, column)
    connection.execute(
        "DELETE FROM stages WHERE run_id = ? AND stage = ?", [run_id, artifact.stage]
    )
    _insert_stage(connection, run_id, artifact, EVERY_STAGE.index(artifact.stage), cached=False)


def label_column(run: RunRecord, corpus: Artifact) -> str | None:
    """The column of labels that a run is about first of all: the first one of classes, or where
    there is none, the first."""
    if (tasks := corpus.facts.get("tasks")) is not None:
        of_classes = (str(task["task"]) for task in tasks if task["kind"] == "class")
        return next(of_classes, str(tasks[0]["task"]) if tasks else None)
    found = corpus.manifest.config.get("label_column", run.config.corpus.label_column)
    return None if found is None else str(found)


def check_columns(connection: duckdb.DuckDBPyConnection, relation: Relation, file: Path) -> None:
    """Raise ``StorageError`` unless a Parquet file has the relation's columns and types."""
    found = _columns(connection, file)
    for column in relation.from_file:
        if found.get(column.name) != column.type:
            raise StorageError(
                f"{file} has column {column.name} of type {found.get(column.name, '(missing)')}, "
                f"the store needs {column.type}; raise the version of stage {relation.stage} so "
                "that it is made anew"
            )


def _columns(connection: duckdb.DuckDBPyConnection, file: Path) -> dict[str, str]:
    """Names and types of a Parquet file's columns."""
    described = connection.execute(
        f"DESCRIBE SELECT * FROM read_parquet(?, {PARQUET})", [str(file)]
    )
    return {str(row[0]): str(row[1]) for row in described.fetchall()}


def insert_file(
    connection: duckdb.DuckDBPyConnection,
    relation: Relation,
    run_id: str,
    file: Path,
    absent: Mapping[str, str | None] | None = None,
    other_run: str | None = None,
) -> None:
    """Copy a Parquet file's rows into the relation's table, as those of ``run_id``.

    absent: what optional columns hold that the file has not; null where it does not say.
    other_run: the second run of a relation of two.
    """
    whose = {"run_id": run_id} | ({"other_run": other_run} if other_run is not None else {})
    into = [column for column in relation.columns if column.name not in whose]
    if relation.table is not None and relation.table.wide:
        rows = (
            "SELECT step, metric, value FROM (UNPIVOT (SELECT step::UBIGINT AS step, "
            f"COLUMNS(* EXCLUDE step)::DOUBLE FROM read_parquet($file, {PARQUET})) "
            "ON COLUMNS(* EXCLUDE step) INTO NAME metric VALUE value)"
        )
    else:
        optional = any(column.optional for column in into)
        there = _columns(connection, file) if optional else {}
        given = absent or {}
        casts = (
            f"CAST({name(c.name)} AS {c.type})" if not c.optional or c.name in there
            else "NULL" if given.get(c.name) is None
            else literal(str(given[c.name]))
            for c in into
        )  # fmt: skip
        rows = f"SELECT {', '.join(casts)} FROM read_parquet($file, {PARQUET})"
    columns = ", ".join(name(column.name) for column in into)
    try:
        connection.execute(
            f"INSERT INTO {name(relation.name)} ({', '.join(whose)}, {columns}) "
            f"SELECT {', '.join(f'${one}' for one in whose)}, rows.* FROM ({rows}) AS rows",
            {**whose, "file": str(file)},
        )
    except (
        duckdb.BinderException,
        duckdb.ConversionException,
        duckdb.ConstraintException,
    ) as error:
        raise StorageError(
            f"{file} does not fit table {relation.name}: {str(error).splitlines()[0]}; raise the "
            f"version of stage {relation.stage} so that it is made anew"
        ) from error


def _insert_stages(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    run: RunRecord,
    artifacts: Mapping[str, Artifact],
) -> None:
    for stage, artifact in artifacts.items():
        ordinal = EVERY_STAGE.index(stage)
        _insert_stage(connection, run_id, artifact, ordinal, cached=stage in run.cached)


def _insert_stage(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    artifact: Artifact,
    ordinal: int,
    cached: bool,
) -> None:
    manifest = artifact.manifest
    counted = [entry.rows for entry in manifest.files.values() if entry.rows is not None]
    _insert(
        connection,
        "stages",
        run_id=run_id,
        stage=artifact.stage,
        ordinal=ordinal,
        key=artifact.key,
        version=manifest.version,
        cached=cached,
        seconds=manifest.seconds,
        rows=sum(counted) if counted else None,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        path=f"{artifact.stage}/{artifact.key}",
        facts=json.dumps(artifact.facts),
        made=manifest.finished,
    )


def _insert_run(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    run: RunRecord,
    artifacts: Mapping[str, Artifact],
) -> None:
    corpus, activations = artifacts["corpus"].facts, artifacts["activations"].facts
    sae = artifacts["sae"].facts
    site = Site.parse(str(activations["site"]))
    elsewhere = sae.get("source")  # of a dictionary that was not trained here
    _insert(
        connection,
        "runs",
        run_id=run_id,
        name=run.config.name,
        site=str(site),
        layer=site.layer,
        hook=site.hook,
        model=run.config.model.name,
        model_digest=activations.get("model_digest"),
        source=run.config.analysed().get(run.analysis, run.config.corpus).place,
        analysis=run.analysis,
        trained_on=elsewhere or run.config.corpus.place,
        # Equal texts of one corpus share a split.
        seen_documents=0 if run.analysis == TRAINING and not elsewhere else run.seen,
        architecture=sae.get("architecture", run.config.sae.architecture),
        d_in=sae["d_in"],
        d_sae=sae["d_sae"],
        k=sae.get("k"),
        documents=corpus["documents"],
        tokens=corpus["tokens"],
        training_tokens=sae.get("tokens"),
        config=run.config.model_dump_json(),
        software=json.dumps(artifacts["sae"].manifest.software),
        started=run.started,
        finished=run.finished,
        published=_next_moment(connection),
        label_column=label_column(run, artifacts["corpus"]),
        control=run.config.control,
    )
    figures = ", ".join(f"{h.name} = ({h.select('max(value)')})" for h in HEADLINES if h.column)
    connection.execute(f"UPDATE runs SET {figures} WHERE run_id = $run_id", {"run_id": run_id})


def _insert_execution(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    run: RunRecord,
    stages: Mapping[str, Artifact],
) -> None:
    own = stages["corpus"].key if run.analysis == TRAINING else None
    [(execution,)] = connection.execute(
        "SELECT coalesce(max(execution), 0) + 1 FROM executions"
    ).fetchall()
    _insert(
        connection,
        "executions",
        run_id=run_id,
        execution=execution,
        name=run.config.name,
        analysis=run.analysis,
        growth=run.growth,
        started=run.started,
        finished=run.finished,
        published=_next_moment(connection),
        made=[stage for stage in stages if stage not in run.cached],
        cached=[stage for stage in stages if stage in run.cached],
        config=run.config.model_dump_json(),
        training_corpus=run.training_corpus or own,
        stands=run.stands,
    )
    called = {"name": run.config.name, "analysis": run.analysis, "run_id": run_id}
    connection.execute(
        "INSERT INTO names (name, analysis, run_id, first_execution, last_execution) "
        "VALUES ($name, $analysis, $run_id, $execution, $execution) "
        "ON CONFLICT DO UPDATE SET last_execution = excluded.last_execution",
        {**called, "execution": execution},
    )


def _next_moment(connection: duckdb.DuckDBPyConnection) -> datetime:
    """Now, but after all executions that are there: a clock may have been ahead once."""
    now = datetime.now().astimezone()
    ((newest,),) = connection.execute("SELECT max(published) FROM executions").fetchall()
    return now if newest is None else max(now, newest + timedelta(microseconds=1))


def _insert(connection: duckdb.DuckDBPyConnection, table: str, **values: Any) -> None:
    """Insert a row, unless the table has one of its key."""
    columns = ", ".join(name(column) for column in values)
    places = ", ".join("?" for _ in values)
    connection.execute(
        f"INSERT OR IGNORE INTO {name(table)} ({columns}) VALUES ({places})", list(values.values())
    )
