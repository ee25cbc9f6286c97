"""What takes a store back to the schema of an earlier release."""

CLUSTERS_TO_5 = """
CREATE TABLE c AS SELECT run_id, metric, value FROM cluster_metrics
    WHERE representation = 'latents' AND kind = 'value';
DROP TABLE cluster_metrics;
CREATE TABLE cluster_metrics (run_id VARCHAR, metric VARCHAR, value DOUBLE,
    PRIMARY KEY (run_id, metric));
INSERT INTO cluster_metrics FROM c; DROP TABLE c;
ALTER TABLE clusters DROP COLUMN support;
ALTER TABLE cluster_summary DROP COLUMN jaccard;
DROP TABLE cluster_curve; DROP TABLE latent_clusters;
UPDATE meta SET value = '5' WHERE name = 'schema_version';
"""
"""What release 5 had of clusters."""

TO_VERSION_5 = f"""
{CLUSTERS_TO_5}
CREATE TABLE d AS FROM probe_predictions; DROP VIEW probe_predictions;
ALTER TABLE d RENAME TO probe_predictions;
DROP TABLE probe_scores; DROP TABLE probe_curve;
CREATE TABLE p AS SELECT * EXCLUDE (target, seed) FROM probes; DROP TABLE probes;
ALTER TABLE p RENAME TO probes;
UPDATE meta SET value = '5' WHERE name = 'schema_version';
"""
TO_VERSION_4 = f"""
{TO_VERSION_5}
DROP VIEW document_labels;
CREATE TABLE p AS SELECT * EXCLUDE task FROM probes; DROP TABLE probes;
ALTER TABLE p RENAME TO probes;
CREATE TABLE w (run_id VARCHAR, label VARCHAR, latent UINTEGER, weight DOUBLE, effect DOUBLE,
    rank UINTEGER, PRIMARY KEY (run_id, label, latent));
INSERT INTO w BY NAME SELECT * EXCLUDE task FROM probe_weights; DROP TABLE probe_weights;
ALTER TABLE w RENAME TO probe_weights;
CREATE TABLE d AS SELECT * EXCLUDE task FROM probe_predictions; DROP TABLE probe_predictions;
ALTER TABLE d RENAME TO probe_predictions;
ALTER TABLE runs DROP COLUMN label_column;
UPDATE meta SET value = '4' WHERE name = 'schema_version';
"""
SINCE_5 = ("target", "seed", "probe_scores", "probe_curve")
SINCE_4 = (
    *SINCE_5,
    "task",
    "label_column",
    "document_labels",
    "cluster_curve",
    "latent_clusters",
    "clusters.support",
    "cluster_summary.jaccard",
    "cluster_metrics.representation",
    "cluster_metrics.kind",
)
"""Columns and relations that came after them."""
