"""A small published store for figures and pages, with what planted runs have not laid over it.

Temporary tables hide the store's own of the same name: a test says what a run holds in rows.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
from support.store_artifacts import Planted, plant

from deconstruct import open_store
from deconstruct.store import publish

NAMES = ("<script>alert(1)</script>", "]]> &amp; \u202egnitirw", "=cmd|'/c \"calc\\'!A1")
"""Labels that nothing may obey: markup, the end of a CDATA section, a formula."""
NIGHTS = 3


def published(home: Path, names: tuple[str, str, str]) -> Planted:
    """A store with `NIGHTS` runs under one name, of which the last is given."""
    for seed in range(NIGHTS):
        planted = plant(home, "nightly", seed=seed, names=names)
        publish(home, planted.record, planted.artifacts)
    return planted


def shown(home: Path) -> duckdb.DuckDBPyConnection:
    """The store, with a map, massive tokens, losses, controls and matches of every run."""
    store = open_store(home)
    store.execute(_LAID_OVER)
    return store


def emptied(home: Path) -> duckdb.DuckDBPyConnection:
    """The store, whose runs have nothing but their names."""
    store = shown(home)
    kept = {"runs", "names", "executions", "meta"}
    found = store.execute("SELECT DISTINCT table_name FROM information_schema.tables").fetchall()
    for (name,) in found:
        if name not in kept:
            store.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {name} LIMIT 0")
    return store


_LAID_OVER = """
CREATE TEMP TABLE document_map AS SELECT run_id, doc_id, (hash(doc_id) % 100)::FLOAT AS x,
    doc_id::FLOAT AS y, doc_id::FLOAT AS pooled_x, (doc_id % 7)::FLOAT AS pooled_y,
    (doc_id % 3)::UINTEGER AS massive FROM documents;
CREATE TEMP TABLE latent_map AS SELECT run_id, latent, latent::FLOAT AS x, (latent % 4)::FLOAT AS y
    FROM features WHERE NOT dead;
CREATE TEMP TABLE label_latents AS SELECT DISTINCT d.run_id, r.label_column AS task, d.label,
    7 AS latent, d.doc_id AS rank, d.doc_id::DOUBLE AS cohen_d
    FROM documents AS d JOIN runs AS r ON r.run_id = d.run_id WHERE d.doc_id < 3;
CREATE TEMP TABLE massive_tokens AS SELECT run_id, 5 AS token_id, '<b>' AS token, 3 AS n,
    0.01 AS share, 0.5 AS variance_share FROM runs;
CREATE TEMP TABLE massive_latents AS SELECT run_id, 7 AS latent, '<b>' AS token,
    2.5 AS mean_massive, NULL::DOUBLE AS mean_typical, 3 AS n_massive, 0.4 AS share_of_pooled
    FROM runs UNION ALL SELECT run_id, 4, '<b>', 2.0, 0.5, 3, 0.1 FROM runs;
CREATE TEMP TABLE latent_histogram AS SELECT run_id, latent, 19 AS bin,
    (max_activation * 0.95)::FLOAT AS low, max_activation AS high, n_fires AS n FROM features
    WHERE latent = 4;
CREATE TEMP TABLE more AS FROM sae_metrics UNION ALL BY NAME SELECT run_id, 'own' AS text,
    x.metric, x.value, x.value - 0.1 AS ci_low, x.value + 0.1 AS ci_high, 40 AS n,
    'nats' AS unit, '' AS note FROM runs, (VALUES ('loss_clean', 3.0), ('loss_spliced', 3.5),
    ('loss_token_lookup', 4.75), ('loss_unigram', 7.25)) AS x (metric, value);
CREATE TEMP TABLE sae_metrics AS FROM more;
CREATE TEMP MACRO control_runs(run) AS TABLE SELECT 'seed' AS control, 1 AS seed, run_id FROM runs
    WHERE run_id <> resolve_run(run);
CREATE TEMP TABLE matchings AS SELECT a.run_id, b.run_id AS other_run, a.published AS made
    FROM runs AS a JOIN runs AS b ON a.run_id <> b.run_id;
CREATE TEMP TABLE latent_matches AS SELECT run_id, other_run, i AS latent,
    (i / 10 + 0.01)::DOUBLE AS cosine FROM matchings, range(10) AS r (i);
CREATE TEMP TABLE matching_metrics AS SELECT run_id, other_run, m.metric, m.value FROM matchings,
    (VALUES ('pw_mcc', 0.46), ('pw_mcc_null', 0.145)) AS m (metric, value);
"""
