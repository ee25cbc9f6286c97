-- What latents know: of labels, of tokens, of what a probe gets wrong, of clusters.

-- The column of labels that a run is about first of all: runs.label_column.
CREATE OR REPLACE MACRO first_task(run) AS (
    SELECT max(r.label_column) FROM runs AS r WHERE r.run_id = resolve_run(run)
);

-- The labels of a run's documents in one column of labels: `task` or, where that is null, the one
-- that the run is about first of all; of a list of labels a row each.
-- Example: FROM labels_of('latest') LIMIT 5
CREATE OR REPLACE MACRO labels_of(run, task := NULL) AS TABLE
    SELECT y.doc_id, y.value FROM document_labels AS y
    WHERE y.run_id = resolve_run(run) AND y.task = coalesce(task, first_task(run));

-- How each latent tells the documents of a label from all other labelled ones, or from those of
-- the label `against`, most telling first: mean activations (zeros counted), their difference,
-- Cohen's d, area under the ROC curve (for the 500 of largest d), shares of documents it fires
-- in; its weight in the probe, the weight per standard deviation (effect) and its rank by that.
-- Against one label these are differences to that label's, without a rank. task: a column of
-- labels other than the first, of classes or of lists of labels.
-- Example: FROM latents_for_label('latest', 'business') LIMIT 5
CREATE OR REPLACE MACRO latents_for_label(run, label, against := NULL, task := NULL) AS TABLE
    WITH labelled AS MATERIALIZED (
        SELECT y.doc_id, coalesce(bool_or(y.value = label), false) AS inside
        FROM labels_of(run, task := task) AS y
        GROUP BY y.doc_id
        HAVING against IS NULL OR bool_or(y.value = label) OR bool_or(y.value = against)
    ),
    total AS MATERIALIZED (
        SELECT CASE WHEN count(*) FILTER (y.inside) = 0
                THEN error('no document of run ''' || run || ''' has label ''' || label || '''')
                WHEN count(*) FILTER (NOT y.inside) = 0 AND against IS NOT NULL
                THEN error('no document of run ''' || run || ''' has label ''' || against || '''')
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
    telling AS MATERIALIZED (
        SELECT s.latent, s.fires_in, s.fires_out, s.s_in / t.n_in AS mean_in,
            s.s_out / t.n_out AS mean_out, mean_in - mean_out AS difference,
            difference / nullif(sqrt(greatest(
                (s.q_in / t.n_in - mean_in ** 2 + s.q_out / t.n_out - mean_out ** 2) / 2, 0
            )), 0) AS cohen_d
        FROM summed AS s, total AS t
    ),
    candidate AS MATERIALIZED (
        SELECT e.latent, e.fires_in, e.fires_out FROM telling AS e
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
        w.weight - coalesce(o.weight, 0) AS weight, w.effect - coalesce(o.effect, 0) AS effect,
        CASE WHEN against IS NULL THEN w.rank END AS effect_rank, f.top_token
    FROM telling AS e CROSS JOIN total AS t
    LEFT JOIN area AS a ON a.latent = e.latent
    LEFT JOIN probe_weights AS w
        ON w.run_id = resolve_run(run) AND w.label = label AND w.latent = e.latent
        AND w.task = coalesce(task, first_task(run))
    LEFT JOIN probe_weights AS o
        ON o.run_id = resolve_run(run) AND o.label = against AND o.latent = e.latent
        AND o.task = coalesce(task, first_task(run))
    LEFT JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = e.latent
    ORDER BY abs(e.cohen_d) DESC NULLS LAST, e.latent;

-- Logarithm of the number of ways to choose k of n.
CREATE OR REPLACE MACRO log_choose(n, k) AS lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1);

-- Logarithm of a p-value for `hits` or more of `drawn` things being among the `good` of `total`,
-- were they drawn by chance: one-sided Fisher test. The hypergeometric tail is bounded by its first
-- term and a geometric series for the rest: never below the exact value, and little above it.
CREATE OR REPLACE MACRO log_enrichment(hits, drawn, good, total) AS
    CASE WHEN (hits + 1.0) * (total - good - drawn + hits + 1) <= (good - hits) * (drawn - hits)
        THEN 0.0
        ELSE least(0.0, log_choose(good, hits) + log_choose(total - good, drawn - hits)
            - log_choose(total, drawn)
            - ln(1 - (good - hits) * (drawn - hits)
                / ((hits + 1.0) * (total - good - drawn + hits + 1)))) END;

-- For each latent and label: in how many of the label's documents the latent fires (n_both), how
-- many times more than chance (lift), and the p-value of a one-sided Fisher test over documents;
-- p_corrected is for all pairs of a living latent and a label (Bonferroni: it holds however
-- latents depend on each other). Surest first. task: a column of classes other than the first.
-- Example: FROM label_enrichment('latest') WHERE latent = 7
CREATE OR REPLACE MACRO label_enrichment(run, task := NULL) AS TABLE
    WITH labelled AS MATERIALIZED (
        SELECT y.doc_id, y.value AS label FROM labels_of(run, task := task) AS y
    ),
    size AS MATERIALIZED (
        SELECT y.label, count(*) AS n_label, sum(count(*)) OVER ()::BIGINT AS n_all
        FROM labelled AS y GROUP BY y.label
    ),
    tests AS MATERIALIZED (
        SELECT (SELECT count(*) FROM features AS f
                WHERE f.run_id = resolve_run(run) AND NOT f.dead)
            * (SELECT count(*) FROM size) AS n_tests
    ),
    counted AS (
        SELECT c.*, sum(c.n_both) OVER (PARTITION BY c.latent)::BIGINT AS n_latent
        FROM (
            SELECT x.latent, y.label, count(*) AS n_both
            FROM document_latents AS x JOIN labelled AS y ON y.doc_id = x.doc_id
            WHERE x.run_id = resolve_run(run)
            GROUP BY x.latent, y.label
        ) AS c
    ),
    tested AS (
        SELECT c.latent, c.label, c.n_both, c.n_latent, s.n_label, s.n_all,
            log_enrichment(c.n_both, c.n_latent, s.n_label, s.n_all) AS log_p
        FROM counted AS c JOIN size AS s ON s.label = c.label
    )
    SELECT t.latent, t.label, t.n_both, t.n_latent, t.n_label,
        t.n_both * t.n_all / (t.n_latent * t.n_label) AS lift, exp(t.log_p) AS p_value,
        least(1, exp(t.log_p + ln(n.n_tests))) AS p_corrected
    FROM tested AS t CROSS JOIN tests AS n
    ORDER BY t.log_p, t.latent, t.label;

-- For each latent and token: how often the latent fires on the token (n_both), what share of its
-- firings that is, how many times more than chance (lift), and a p-value as in label_enrichment,
-- corrected for all pairs of a living latent and a token of the corpus. Tokens of one document
-- depend on each other, which the test does not know: take small p-values as an order. With
-- WHERE latent = ... it is fast; over all latents it reads every firing.
-- Example: FROM token_enrichment('latest') WHERE latent = 7
CREATE OR REPLACE MACRO token_enrichment(run) AS TABLE
    WITH word AS MATERIALIZED (
        SELECT t.token, count(*) AS n_token, sum(count(*)) OVER ()::BIGINT AS n_all,
            count(*) OVER () AS n_words
        FROM tokens AS t
        WHERE t.run_id = resolve_run(run) AND NOT t.special AND t.position >= (
            SELECT coalesce((r.config ->> '$.activations.skip_positions')::INTEGER, 0)
            FROM runs AS r WHERE r.run_id = resolve_run(run)
        )
        GROUP BY t.token
    ),
    living AS MATERIALIZED (
        SELECT count(*) AS n_living FROM features AS f
        WHERE f.run_id = resolve_run(run) AND NOT f.dead
    ),
    counted AS (
        SELECT l.latent, t.token, count(*) AS n_both
        FROM latents AS l JOIN tokens AS t ON t.token_index = l.token_index
        WHERE l.run_id = resolve_run(run) AND t.run_id = resolve_run(run)
        GROUP BY l.latent, t.token
    ),
    tested AS (
        SELECT c.latent, c.token, c.n_both, f.n_fires, w.n_token, w.n_all,
            log_enrichment(c.n_both, f.n_fires::BIGINT, w.n_token, w.n_all) AS log_p,
            ln(w.n_words) + ln(v.n_living) AS log_tests
        FROM counted AS c
        JOIN word AS w ON w.token = c.token
        JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = c.latent
        CROSS JOIN living AS v
    )
    SELECT t.latent, t.token, t.n_both, t.n_both / t.n_fires AS share,
        t.n_both * t.n_all / (t.n_fires * t.n_token) AS lift, exp(t.log_p) AS p_value,
        least(1, exp(t.log_p + t.log_tests)) AS p_corrected
    FROM tested AS t
    ORDER BY t.log_p, t.latent, t.token;

-- Held-out documents that the probe on all latents gets wrong, the surest mistakes first.
-- pushed_by: the latents that spoke most for the predicted label against the true one, each with
-- its push: (difference of the two labels' weights) x (the document's pooled activation). task: a
-- column of classes other than the first.
-- Example: FROM probe_errors('latest') LIMIT 5
CREATE OR REPLACE MACRO probe_errors(run, task := NULL) AS TABLE
    WITH wrong AS MATERIALIZED (
        SELECT p.doc_id, p.label, p.predicted, p.probability FROM probe_predictions AS p
        WHERE p.run_id = resolve_run(run) AND p.representation = 'latents' AND p.k IS NULL
            AND p.predicted <> p.label AND p.task = coalesce(task, first_task(run))
    ),
    pooled AS (
        SELECT x.doc_id, x.latent,
            CASE r.config ->> '$.probe.pooling' WHEN 'max' THEN x.max ELSE x.mean END AS value
        FROM document_latents AS x JOIN runs AS r ON r.run_id = x.run_id
        WHERE x.run_id = resolve_run(run) AND x.doc_id IN (SELECT w.doc_id FROM wrong AS w)
    ),
    weight AS MATERIALIZED (
        SELECT w.label, w.latent, w.weight FROM probe_weights AS w
        WHERE w.run_id = resolve_run(run) AND w.task = coalesce(task, first_task(run))
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

-- The documents of a cluster, nearest to its centre first. support: of the fits on 80% of the
-- documents that it was in, the share in which it stayed with this cluster.
-- Example: FROM documents_in_cluster('latest', 0) LIMIT 5
CREATE OR REPLACE MACRO documents_in_cluster(run, cluster) AS TABLE
    SELECT c.doc_id, c.distance, c.support, d.label, d.split, d.text
    FROM clusters AS c
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = c.doc_id
    WHERE c.run_id = resolve_run(run) AND c.cluster = cluster
    ORDER BY c.distance, c.doc_id;
