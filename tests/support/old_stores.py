"""What takes a store back to the schema of an earlier release."""

TO_VERSION_4 = """
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
SINCE_4 = ("task", "label_column", "document_labels")
"""Columns and relations that came after it."""
