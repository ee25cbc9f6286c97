-- Questions that come up every day, as macros: they are stored in the file and answer in any
-- DuckDB shell. `run` is a run_id, the beginning of one, a name, '<name>@<site>' or 'latest'.
-- Parameters stand for columns of the same name wherever those are not qualified, so every
-- column here is.

CREATE OR REPLACE MACRO resolve_run(run) AS (
    SELECT coalesce(
        max(r.run_id) FILTER (r.run_id = run),
        arg_max(r.run_id, r.published) FILTER (
            run = 'latest' OR r.name = run OR r.name || '@' || r.site = run
        ),
        CASE WHEN count(*) FILTER (starts_with(r.run_id, run)) = 1 AND run <> ''
            THEN max(r.run_id) FILTER (starts_with(r.run_id, run)) END,
        error(
            CASE WHEN count(*) FILTER (starts_with(r.run_id, run)) > 1
                THEN 'run ''' || run || ''' is the beginning of several run_ids; write more of it'
                ELSE 'no run is called ''' || run || '''; see SELECT run_id, name FROM runs' END
        )
    )
    FROM runs AS r
);

-- A token with its neighbours as text, the ones on which a latent fires between « and ».
CREATE OR REPLACE MACRO marked(token, fires) AS
    CASE WHEN fires THEN regexp_replace(token, '^(\s*)(.*)$', '\1«\2»', 's') ELSE token END;

-- Token by token: the n strongest firings of a latent with `width` tokens on each side.
-- activation is null where the latent is silent; `peak` marks the firing that the row is about.
CREATE OR REPLACE MACRO context_tokens(run, latent, n := 20, width := 10) AS TABLE
    WITH firing AS MATERIALIZED (
        SELECT l.token_index, l.activation FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    strongest AS MATERIALIZED (
        SELECT f.token_index, f.activation FROM firing AS f
        ORDER BY f.activation DESC, f.token_index LIMIT n
    ),
    ranked AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY s.activation DESC, s.token_index) AS rank,
            s.token_index, t.doc_id
        FROM strongest AS s
        JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = s.token_index
    ),
    -- By document first: up to some dozens of them become a filter on row groups.
    nearby AS MATERIALIZED (
        SELECT t.token_index, t.doc_id, t.position, t.token, t.special
        FROM tokens AS t
        WHERE t.run_id = resolve_run(run) AND t.doc_id IN (SELECT DISTINCT r.doc_id FROM ranked AS r)
    )
    SELECT r.rank, near.token_index, near.doc_id, near.position, near.token, near.special,
        f.activation, near.token_index = r.token_index AS peak
    FROM ranked AS r
    JOIN nearby AS near ON near.doc_id = r.doc_id
        AND near.token_index::BIGINT BETWEEN r.token_index::BIGINT - width
            AND r.token_index::BIGINT + width
    LEFT JOIN firing AS f ON f.token_index = near.token_index
    ORDER BY r.rank, near.token_index;

-- The n strongest contexts of a latent, firing tokens marked.
CREATE OR REPLACE MACRO top_contexts(run, latent, n := 20, width := 10) AS TABLE
    SELECT c.rank, max(c.activation) FILTER (c.peak) AS activation,
        max(c.token) FILTER (c.peak) AS token,
        string_agg(marked(c.token, c.activation IS NOT NULL), '' ORDER BY c.token_index)
            FILTER (NOT c.special) AS context,
        any_value(d.label) AS label, any_value(d.split) AS split, c.doc_id,
        max(c.position) FILTER (c.peak) AS position,
        max(c.token_index) FILTER (c.peak) AS token_index
    FROM context_tokens(run, latent, n := n, width := width) AS c
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = c.doc_id
    GROUP BY c.rank, c.doc_id
    ORDER BY c.rank;
