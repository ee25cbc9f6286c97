"""Schema versions: an older store is brought up to date, a newer one is refused with a sentence."""

from __future__ import annotations

from importlib import metadata
from uuid import uuid4

import duckdb

from deconstruct.common.errors import StorageError
from deconstruct.store.ddl import create_tables
from deconstruct.store.schema import SCHEMA_VERSION

_PROBES_5 = """
CREATE TABLE IF NOT EXISTS probes_5 (
    run_id VARCHAR, task VARCHAR, representation VARCHAR, k UINTEGER, label VARCHAR,
    metric VARCHAR, value DOUBLE, ci_low DOUBLE, ci_high DOUBLE, n_train UINTEGER, n_test UINTEGER
);
CREATE TABLE IF NOT EXISTS probe_predictions_5 (
    run_id VARCHAR, task VARCHAR, representation VARCHAR, k UINTEGER, doc_id UINTEGER,
    label VARCHAR, predicted VARCHAR, probability DOUBLE
)"""
"""What schema 5 had of probes, for stores that are older still."""

BEFORE: dict[int, str] = {
    2: "DROP TABLE feature_logits",  # was never filled; now a view over the evaluation's file
    # Tables whose key changes are made anew.
    5: """
ALTER TABLE runs ADD COLUMN label_column VARCHAR;
CREATE TABLE probes_4 AS FROM probes; DROP TABLE probes;
CREATE TABLE probe_weights_4 AS FROM probe_weights; DROP TABLE probe_weights;
CREATE TABLE probe_predictions_4 AS FROM probe_predictions; DROP TABLE probe_predictions;
ALTER TABLE runs ADD COLUMN IF NOT EXISTS analysis VARCHAR;
ALTER TABLE runs ADD COLUMN IF NOT EXISTS trained_on VARCHAR;
ALTER TABLE runs ADD COLUMN IF NOT EXISTS seen_documents UBIGINT;
ALTER TABLE IF EXISTS executions ADD COLUMN IF NOT EXISTS analysis VARCHAR;
ALTER TABLE IF EXISTS executions ADD COLUMN IF NOT EXISTS training_corpus VARCHAR;
ALTER TABLE IF EXISTS executions ADD COLUMN IF NOT EXISTS stands BOOLEAN;
CREATE TABLE IF NOT EXISTS names (
    run_id VARCHAR, name VARCHAR, first_execution UBIGINT, last_execution UBIGINT
);
CREATE TABLE names_of_4 AS SELECT run_id, name, first_execution, last_execution FROM names;
DROP TABLE names
""",
    6: f"""
CREATE TABLE sae_metrics_5 AS FROM sae_metrics; DROP TABLE sae_metrics;
CREATE TABLE cluster_metrics_5 AS FROM cluster_metrics;
DROP TABLE cluster_metrics;
ALTER TABLE clusters ADD COLUMN IF NOT EXISTS support DOUBLE;
ALTER TABLE cluster_summary ADD COLUMN IF NOT EXISTS jaccard DOUBLE;
ALTER TABLE runs RENAME COLUMN loss_recovered TO loss_recovered_bos_kept;
ALTER TABLE runs ADD COLUMN fvu_typical DOUBLE;
ALTER TABLE runs ADD COLUMN silent_share DOUBLE;
ALTER TABLE runs ADD COLUMN delta_loss DOUBLE;
ALTER TABLE runs ADD COLUMN kl DOUBLE;
ALTER TABLE runs ADD COLUMN top1_agreement DOUBLE;
ALTER TABLE IF EXISTS probes RENAME TO probes_5;
ALTER TABLE IF EXISTS probe_predictions RENAME TO probe_predictions_5;
{_PROBES_5};
ALTER TABLE runs ADD COLUMN IF NOT EXISTS control VARCHAR;
""",
}
"""Version -> SQL that makes room for that version's tables among those of the one before it.

Only tables need an entry: views, comments and macros are made anew by every publish."""

AFTER: dict[int, str] = {
    4: """
INSERT INTO executions BY NAME
    SELECT run_id, row_number() OVER (ORDER BY published, run_id) AS execution, name, started,
        finished, published, config,
        (SELECT coalesce(list(stage ORDER BY ordinal), []) FROM stages AS s
            WHERE s.run_id = runs.run_id AND NOT s.cached) AS made,
        (SELECT coalesce(list(stage ORDER BY ordinal), []) FROM stages AS s
            WHERE s.run_id = runs.run_id AND s.cached) AS cached
    FROM runs;
INSERT INTO names BY NAME
    SELECT name, 'corpus' AS analysis, run_id, execution AS first_execution,
        execution AS last_execution
    FROM executions
""",
    5: """
UPDATE runs SET analysis = 'corpus', trained_on = source, seen_documents = 0;
UPDATE executions SET analysis = 'corpus', stands = true, training_corpus = (
    SELECT s.key FROM stages AS s WHERE s.run_id = executions.run_id AND s.stage = 'corpus'
);
INSERT INTO names BY NAME SELECT *, 'corpus' AS analysis FROM names_of_4;
DROP TABLE names_of_4;
UPDATE runs SET label_column = config ->> '$.corpus.label_column';
INSERT INTO probes_5 BY NAME
    SELECT p.*, r.label_column AS task FROM probes_4 AS p JOIN runs AS r USING (run_id);
INSERT INTO probe_weights BY NAME
    SELECT p.*, r.label_column AS task FROM probe_weights_4 AS p JOIN runs AS r USING (run_id);
INSERT INTO probe_predictions_5 BY NAME
    SELECT p.*, r.label_column AS task FROM probe_predictions_4 AS p JOIN runs AS r USING (run_id);
DROP TABLE probes_4; DROP TABLE probe_weights_4; DROP TABLE probe_predictions_4;
""",
    # A prediction and how sure it was: log odds of the predicted class, and of all others together,
    # and, where it was wrong, a row that says what is true.
    6: """
INSERT INTO sae_metrics BY NAME
    SELECT * REPLACE (CASE metric WHEN 'loss_recovered' THEN 'loss_recovered_bos_kept'
        WHEN 'loss_zero' THEN 'loss_zero_bos_kept' ELSE metric END AS metric), 'own' AS text
    FROM sae_metrics_5;
DROP TABLE sae_metrics_5;
UPDATE drift SET metric = 'fvu_train_mean' WHERE subject = 'reconstruction' AND metric = 'fvu';
INSERT INTO cluster_metrics BY NAME
    SELECT *, 'latents' AS representation, 'value' AS kind FROM cluster_metrics_5;
DROP TABLE cluster_metrics_5;
UPDATE runs SET
    delta_loss = (SELECT max(m.value) FROM sae_metrics AS m
        WHERE m.run_id = runs.run_id AND m.metric = 'delta_loss'),
    kl = (SELECT max(m.value) FROM sae_metrics AS m
        WHERE m.run_id = runs.run_id AND m.metric = 'kl');
INSERT INTO probes BY NAME FROM probes_5;
INSERT INTO probe_scores BY NAME
    WITH told AS (
        SELECT *, least(greatest(probability, 1e-12), 1 - 1e-12) AS p FROM probe_predictions_5
    )
    SELECT run_id, task, representation, k, predicted AS target, doc_id, ln(p / (1 - p)) AS score,
        (label = predicted)::DOUBLE AS truth FROM told
    UNION ALL BY NAME
    SELECT run_id, task, representation, k, doc_id, ln((1 - p) / p) AS score, 0 AS truth FROM told
    UNION ALL BY NAME
    SELECT run_id, task, representation, k, label AS target, doc_id, 1 AS truth FROM told
    WHERE label <> predicted;
DROP TABLE probes_5; DROP TABLE probe_predictions_5;
""",
}
"""Version -> SQL that fills that version's new tables from those that were there before."""


def version(connection: duckdb.DuckDBPyConnection) -> int:
    """Schema version of an open store; 0 for a file without tables of ours."""
    return int(_meta(connection, "schema_version") or 0)


def publication(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Which state of the store this is: equal for equal states; None in one without tables."""
    return _meta(connection, "publication")


def _meta(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    # All rows are fetched: a result that is not at its end would stop the caller's connection.
    tables = connection.execute(
        "SELECT 1 FROM duckdb_tables() "
        "WHERE table_name = 'meta' AND database_name = current_database()"
    ).fetchall()
    if not tables:
        return None
    rows = connection.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchall()
    return str(rows[0][0]) if rows else None


def check(found: int, where: str) -> None:
    """Raise ``StorageError`` if a store's version is newer than this release knows."""
    if found > SCHEMA_VERSION:
        raise StorageError(
            f"{where} was written by a newer release of Deconstruct (schema {found}; this one "
            f"knows {SCHEMA_VERSION}); upgrade with pip install -U deconstruct"
        )


def migrate(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Make the tables of an empty file, or bring those of an older release up to date."""
    found = version(connection)
    check(found, where)
    steps = range(found + 1, SCHEMA_VERSION + 1) if found else ()
    for step in steps:
        if step in BEFORE:
            connection.execute(BEFORE[step])
    create_tables(connection)
    for step in steps:
        if step in AFTER:
            connection.execute(AFTER[step])
    facts = {
        "schema_version": str(SCHEMA_VERSION),
        "deconstruct": metadata.version("deconstruct"),
        "publication": uuid4().hex,
    }
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(facts.items()))
