"""What takes a store back to the schema of an earlier release."""

TO_VERSION_6 = """
DROP TABLE latent_map; DROP TABLE label_latents; DROP TABLE massive_tokens;
DROP TABLE massive_latents; DROP VIEW document_map; DROP VIEW latent_histogram;
DROP VIEW latent_contexts;
UPDATE meta SET value = '6' WHERE name = 'schema_version';
"""
TO_VERSION_5 = f"""
{TO_VERSION_6}
CREATE TABLE m (run_id VARCHAR, metric VARCHAR, value DOUBLE, ci_low DOUBLE, ci_high DOUBLE,
    n UBIGINT, unit VARCHAR, note VARCHAR, PRIMARY KEY (run_id, metric));
INSERT INTO m BY NAME SELECT * EXCLUDE text FROM sae_metrics WHERE text = 'own';
DROP TABLE sae_metrics;
ALTER TABLE m RENAME TO sae_metrics;
UPDATE sae_metrics SET metric = 'loss_recovered' WHERE metric = 'loss_recovered_bos_kept';
UPDATE sae_metrics SET metric = 'loss_zero' WHERE metric = 'loss_zero_bos_kept';
UPDATE drift SET metric = 'fvu' WHERE metric = 'fvu_train_mean';
ALTER TABLE runs RENAME COLUMN loss_recovered_bos_kept TO loss_recovered;
ALTER TABLE runs DROP COLUMN fvu_typical;
ALTER TABLE runs DROP COLUMN silent_share;
ALTER TABLE runs DROP COLUMN delta_loss;
ALTER TABLE runs DROP COLUMN kl;
ALTER TABLE runs DROP COLUMN top1_agreement;
DROP TABLE document_metrics;
DROP TABLE document_losses;
CREATE TABLE c AS SELECT run_id, metric, value FROM cluster_metrics
    WHERE representation = 'latents' AND kind = 'value';
DROP TABLE cluster_metrics;
CREATE TABLE cluster_metrics (run_id VARCHAR, metric VARCHAR, value DOUBLE,
    PRIMARY KEY (run_id, metric));
INSERT INTO cluster_metrics FROM c; DROP TABLE c;
ALTER TABLE clusters DROP COLUMN support;
ALTER TABLE cluster_summary DROP COLUMN jaccard;
DROP TABLE cluster_curve; DROP TABLE latent_clusters;
CREATE TABLE d AS FROM probe_predictions; DROP VIEW probe_predictions;
ALTER TABLE d RENAME TO probe_predictions;
DROP TABLE probe_scores; DROP TABLE probe_curve;
CREATE TABLE p AS SELECT * EXCLUDE (target, seed) FROM probes; DROP TABLE probes;
ALTER TABLE p RENAME TO probes;
ALTER TABLE runs DROP COLUMN control;
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
SINCE_6 = (
    "document_map",
    "latent_map",
    "latent_histogram",
    "latent_contexts",
    "label_latents",
    "massive_tokens",
    "massive_latents",
)
SINCE_4 = (
    *SINCE_5,
    *SINCE_6,
    "task",
    "label_column",
    "document_labels",
    "control",
    "cluster_curve",
    "latent_clusters",
    "clusters.support",
    "cluster_summary.jaccard",
    "cluster_metrics.representation",
    "cluster_metrics.kind",
    "sae_metrics.text",
    "sae_metrics.metric",  # some have other names since
    "drift.metric",
    "document_metrics",
    "document_losses",
    "runs.fvu_typical",
    "runs.silent_share",
    "runs.delta_loss",
    "runs.kl",
    "runs.top1_agreement",
    "runs.loss_recovered_bos_kept",
)
"""Columns and relations that came after them."""
