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

-- A token between « and » if a latent fires on it, with leading spaces outside them.
CREATE OR REPLACE MACRO marked(token, fires) AS
    CASE WHEN NOT fires THEN token
        WHEN ltrim(token, ' ') = '' THEN '«' || token || '»'
        ELSE regexp_replace(token, '^( *)(.*)$', '\1«\2»', 's') END;

-- The tokens around each of `places` (a list of token_index), `width` on each side, within the
-- document. Documents are found first: some dozens of them become a filter on row groups.
CREATE OR REPLACE MACRO tokens_around(run, places, width) AS TABLE
    WITH place AS MATERIALIZED (
        SELECT t.token_index, t.doc_id FROM tokens AS t
        WHERE t.run_id = resolve_run(run) AND t.token_index IN (SELECT unnest(places))
    ),
    nearby AS (
        SELECT t.token_index, t.doc_id, t.position, t.token, t.special FROM tokens AS t
        WHERE t.run_id = resolve_run(run) AND t.doc_id IN (SELECT DISTINCT p.doc_id FROM place AS p)
    )
    SELECT p.token_index AS place, near.*
    FROM place AS p
    JOIN nearby AS near ON near.doc_id = p.doc_id
        AND near.token_index::BIGINT BETWEEN p.token_index::BIGINT - width
            AND p.token_index::BIGINT + width;

-- Token by token: the n strongest firings of a latent with `width` tokens on each side.
-- activation is null where the latent is silent; `peak` marks the firing that the rank is of.
CREATE OR REPLACE MACRO context_tokens(run, latent, n := 20, width := 10) AS TABLE
    WITH firing AS MATERIALIZED (
        SELECT l.token_index, l.activation FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    strongest AS MATERIALIZED (
        SELECT f.token_index, row_number() OVER (ORDER BY f.activation DESC, f.token_index) AS rank
        FROM (FROM firing AS g ORDER BY g.activation DESC, g.token_index LIMIT n) AS f
    )
    SELECT s.rank, c.token_index, c.doc_id, c.position, c.token, c.special, f.activation,
        c.token_index = c.place AS peak
    FROM tokens_around(run, (SELECT list(s.token_index) FROM strongest AS s), width) AS c
    JOIN strongest AS s ON s.token_index = c.place
    LEFT JOIN firing AS f ON f.token_index = c.token_index
    ORDER BY s.rank, c.token_index;

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

-- The tokens on which a latent fires most often; share: of the latent's firings.
CREATE OR REPLACE MACRO top_tokens(run, latent, n := 10) AS TABLE
    SELECT t.token, count(*) AS n_fires, count(*) / sum(count(*)) OVER () AS share,
        avg(l.activation) AS mean_activation, max(l.activation) AS max_activation
    FROM latents AS l
    JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = l.token_index
    WHERE l.run_id = resolve_run(run) AND l.latent = latent
    GROUP BY t.token
    ORDER BY n_fires DESC, t.token
    LIMIT n;

-- How each latent tells the documents of a label from all other labelled ones, most telling
-- first: mean activations (zeros counted), their difference, Cohen's d, area under the ROC curve
-- (for the 500 of largest d), shares of documents it fires in, weight and rank in the probe.
CREATE OR REPLACE MACRO latents_for_label(run, label) AS TABLE
    WITH labelled AS MATERIALIZED (
        SELECT d.doc_id, d.label = label AS inside FROM documents AS d
        WHERE d.run_id = resolve_run(run) AND d.label IS NOT NULL
    ),
    total AS MATERIALIZED (
        SELECT CASE WHEN count(*) FILTER (y.inside) = 0
                THEN error('no document of run ''' || run || ''' has label ''' || label || '''')
                ELSE count(*) FILTER (y.inside) END::BIGINT AS n_in,
            count(*) FILTER (NOT y.inside) AS n_out
        FROM labelled AS y
    ),
    summed AS MATERIALIZED (
        SELECT x.latent, count(*) FILTER (y.inside) AS fires_in,
            count(*) FILTER (NOT y.inside) AS fires_out,
            coalesce(sum(x.mean::DOUBLE) FILTER (y.inside), 0) AS s_in,
            coalesce(sum(x.mean::DOUBLE) FILTER (NOT y.inside), 0) AS s_out,
            coalesce(sum(x.mean::DOUBLE * x.mean) FILTER (y.inside), 0) AS q_in,
            coalesce(sum(x.mean::DOUBLE * x.mean) FILTER (NOT y.inside), 0) AS q_out
        FROM document_latents AS x
        JOIN labelled AS y ON y.doc_id = x.doc_id
        WHERE x.run_id = resolve_run(run)
        GROUP BY x.latent
    ),
    effect AS MATERIALIZED (
        SELECT s.latent, s.fires_in, s.fires_out, s.s_in / t.n_in AS mean_in,
            s.s_out / t.n_out AS mean_out, mean_in - mean_out AS difference,
            difference / nullif(sqrt(greatest(
                (s.q_in / t.n_in - mean_in ** 2 + s.q_out / t.n_out - mean_out ** 2) / 2, 0
            )), 0) AS cohen_d
        FROM summed AS s, total AS t
    ),
    candidate AS MATERIALIZED (
        SELECT e.latent, e.fires_in, e.fires_out FROM effect AS e
        ORDER BY abs(e.cohen_d) DESC NULLS LAST LIMIT 500
    ),
    ordered AS (
        SELECT v.latent, v.n_in,
            sum(v.n_out) OVER (PARTITION BY v.latent ORDER BY v.mean) - v.n_out / 2 AS below
        FROM (
            SELECT x.latent, x.mean, count(*) FILTER (y.inside) AS n_in,
                count(*) FILTER (NOT y.inside) AS n_out
            FROM document_latents AS x
            JOIN labelled AS y ON y.doc_id = x.doc_id
            WHERE x.run_id = resolve_run(run) AND x.latent IN (SELECT c.latent FROM candidate AS c)
            GROUP BY x.latent, x.mean
        ) AS v
    ),
    area AS (
        -- A document of the label wins over each other one that is weaker, and half over equals:
        -- those where the latent is silent have no row, and are weaker than all that have one.
        SELECT c.latent, sum(o.n_in * (t.n_out - c.fires_out + o.below))
            + any_value((t.n_in - c.fires_in) * (t.n_out - c.fires_out)) / 2 AS wins
        FROM candidate AS c JOIN ordered AS o ON o.latent = c.latent CROSS JOIN total AS t
        GROUP BY c.latent
    )
    SELECT e.latent, e.cohen_d, a.wins / (t.n_in * t.n_out) AS auroc, e.difference, e.mean_in,
        e.mean_out, e.fires_in / t.n_in AS documents_in, e.fires_out / t.n_out AS documents_out,
        w.weight, w.rank AS weight_rank, f.top_token
    FROM effect AS e CROSS JOIN total AS t
    LEFT JOIN area AS a ON a.latent = e.latent
    LEFT JOIN probe_weights AS w
        ON w.run_id = resolve_run(run) AND w.label = label AND w.latent = e.latent
    LEFT JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = e.latent
    ORDER BY abs(e.cohen_d) DESC NULLS LAST, e.latent;

-- The n tokens on which latents a and b fire together most strongly (by the product), marked;
-- n_both counts all such tokens.
CREATE OR REPLACE MACRO co_firing(run, a, b, n := 20, width := 10) AS TABLE
    WITH both_fire AS MATERIALIZED (
        SELECT x.token_index, x.activation AS activation_a, y.activation AS activation_b
        FROM latents AS x
        JOIN latents AS y ON y.token_index = x.token_index
        WHERE x.run_id = resolve_run(run) AND y.run_id = resolve_run(run)
            AND x.latent = a AND y.latent = b
    ),
    strongest AS MATERIALIZED (
        SELECT f.*, row_number() OVER (
                ORDER BY f.activation_a * f.activation_b DESC, f.token_index
            ) AS rank
        FROM (
            FROM both_fire AS g ORDER BY g.activation_a * g.activation_b DESC, g.token_index LIMIT n
        ) AS f
    )
    SELECT s.rank, any_value(s.activation_a) AS activation_a,
        any_value(s.activation_b) AS activation_b,
        max(c.token) FILTER (c.token_index = c.place) AS token,
        string_agg(marked(c.token, f.token_index IS NOT NULL), '' ORDER BY c.token_index)
            FILTER (NOT c.special) AS context,
        any_value(c.doc_id) AS doc_id,
        max(c.position) FILTER (c.token_index = c.place) AS position,
        c.place AS token_index, (SELECT count(*) FROM both_fire) AS n_both
    FROM tokens_around(run, (SELECT list(s.token_index) FROM strongest AS s), width) AS c
    JOIN strongest AS s ON s.token_index = c.place
    LEFT JOIN both_fire AS f ON f.token_index = c.token_index
    GROUP BY s.rank, c.place
    ORDER BY s.rank;

-- The latents that fire together with a latent: on how many of its tokens, as a share of them,
-- Jaccard index, and lift over what chance would give.
CREATE OR REPLACE MACRO fires_with(run, latent, n := 20) AS TABLE
    WITH own AS MATERIALIZED (
        SELECT l.token_index FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    counted AS (
        SELECT other.latent, count(*) AS n_both FROM latents_by_token AS other
        JOIN own AS o ON o.token_index = other.token_index
        WHERE other.run_id = resolve_run(run) AND other.latent <> latent
        GROUP BY other.latent
    ),
    total AS (
        SELECT max(f.n_fires / nullif(f.density, 0)) AS n_tokens,
            max(f.n_fires) FILTER (f.latent = latent) AS n_own
        FROM features AS f WHERE f.run_id = resolve_run(run)
    )
    SELECT c.latent, c.n_both, c.n_both / t.n_own AS share,
        c.n_both / (t.n_own + f.n_fires - c.n_both) AS jaccard,
        c.n_both * t.n_tokens / (t.n_own * f.n_fires) AS lift, f.n_fires, f.top_token
    FROM counted AS c
    JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = c.latent
    CROSS JOIN total AS t
    ORDER BY jaccard DESC, c.latent
    LIMIT n;

-- Every metric of two runs side by side; apart: their 95% intervals do not touch.
CREATE OR REPLACE MACRO compare_runs(a, b) AS TABLE
    WITH measured AS (
        SELECT m.run_id, 'evaluation' AS stage, m.metric, m.value, m.ci_low, m.ci_high
        FROM sae_metrics AS m
        UNION ALL
        SELECT p.run_id, 'probe', p.metric || ' of ' || p.representation
                || coalesce(', k = ' || p.k, '') || coalesce(', ' || p.label, ''),
            p.value, p.ci_low, p.ci_high
        FROM probes AS p
        UNION ALL
        SELECT m.run_id, 'cluster', m.metric, m.value, NULL, NULL FROM cluster_metrics AS m
    )
    SELECT coalesce(x.stage, y.stage) AS stage, coalesce(x.metric, y.metric) AS metric,
        x.value AS value_a, y.value AS value_b, y.value - x.value AS difference,
        x.ci_high < y.ci_low OR y.ci_high < x.ci_low AS apart
    FROM (FROM measured AS m WHERE m.run_id = resolve_run(a)) AS x
    FULL JOIN (FROM measured AS m WHERE m.run_id = resolve_run(b)) AS y
        ON y.stage = x.stage AND y.metric = x.metric
    ORDER BY CASE coalesce(x.stage, y.stage)
        WHEN 'evaluation' THEN 0 WHEN 'probe' THEN 1 ELSE 2 END, 2;

-- The documents of a cluster, nearest to its centre first.
CREATE OR REPLACE MACRO documents_in_cluster(run, cluster) AS TABLE
    SELECT c.doc_id, c.distance, d.label, d.split, d.text
    FROM clusters AS c
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = c.doc_id
    WHERE c.run_id = resolve_run(run) AND c.cluster = cluster
    ORDER BY c.distance, c.doc_id;

-- Held-out documents that the probe on all latents gets wrong, the surest mistakes first.
-- pushed_by: the latents that spoke most for the predicted label against the true one, each with
-- its push: (difference of the two labels' weights) x (the document's pooled activation).
CREATE OR REPLACE MACRO probe_errors(run) AS TABLE
    WITH wrong AS MATERIALIZED (
        SELECT p.doc_id, p.label, p.predicted, p.probability FROM probe_predictions AS p
        WHERE p.run_id = resolve_run(run) AND p.representation = 'latents' AND p.k IS NULL
            AND p.predicted <> p.label
    ),
    pooled AS (
        SELECT x.doc_id, x.latent,
            CASE r.config ->> '$.probe.pooling' WHEN 'max' THEN x.max ELSE x.mean END AS value
        FROM document_latents AS x JOIN runs AS r ON r.run_id = x.run_id
        WHERE x.run_id = resolve_run(run) AND x.doc_id IN (SELECT w.doc_id FROM wrong AS w)
    ),
    weight AS MATERIALIZED (
        SELECT w.label, w.latent, w.weight FROM probe_weights AS w
        WHERE w.run_id = resolve_run(run)
    ),
    push AS (
        SELECT w.doc_id, list({
                'latent': x.latent, 'push': (yes.weight - no.weight) * x.value
            } ORDER BY (yes.weight - no.weight) * x.value DESC)[:5] AS pushed_by
        FROM wrong AS w
        JOIN pooled AS x ON x.doc_id = w.doc_id
        JOIN weight AS yes ON yes.label = w.predicted AND yes.latent = x.latent
        JOIN weight AS no ON no.label = w.label AND no.latent = x.latent
        GROUP BY w.doc_id
    )
    SELECT w.doc_id, w.label, w.predicted, w.probability, p.pushed_by, d.text
    FROM wrong AS w
    LEFT JOIN push AS p ON p.doc_id = w.doc_id
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = w.doc_id
    ORDER BY w.probability DESC, w.doc_id;

-- The n tokens whose activations the SAE renders worst, relative to their length, in context.
CREATE OR REPLACE MACRO worst_tokens(run, n := 20, width := 10) AS TABLE
    WITH worst AS MATERIALIZED (
        SELECT e.token_index, e.squared_error, e.squared_norm,
            e.squared_error / nullif(e.squared_norm, 0) AS relative_error
        FROM token_errors AS e
        WHERE e.run_id = resolve_run(run)
        ORDER BY relative_error DESC NULLS LAST, e.token_index
        LIMIT n
    )
    SELECT any_value(w.relative_error) AS relative_error,
        any_value(w.squared_error) AS squared_error, any_value(w.squared_norm) AS squared_norm,
        max(c.token) FILTER (c.token_index = c.place) AS token,
        string_agg(marked(c.token, c.token_index = c.place), '' ORDER BY c.token_index)
            FILTER (NOT c.special) AS context,
        any_value(c.doc_id) AS doc_id,
        max(c.position) FILTER (c.token_index = c.place) AS position, c.place AS token_index
    FROM tokens_around(run, (SELECT list(w.token_index) FROM worst AS w), width) AS c
    JOIN worst AS w ON w.token_index = c.place
    GROUP BY c.place
    ORDER BY 1 DESC NULLS LAST, c.place;

-- Headline metrics of all runs, oldest first; the change of FVU is against the run before of the
-- same name and site.
CREATE OR REPLACE MACRO metrics_over_time() AS TABLE
    SELECT r.started, r.name, r.site, r.run_id, r.tokens, r.fvu,
        r.fvu - lag(r.fvu) OVER (PARTITION BY r.name, r.site ORDER BY r.started) AS fvu_change,
        r.l0, r.dead_share, r.loss_recovered, r.probe_accuracy, r.nmi
    FROM runs AS r
    ORDER BY r.started, r.site;
