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
-- the label `against`. Order and choice are by Cohen's d on the train documents (cohen_d_train), and
-- all other values are of the held-out ones, so that the first rows flatter nobody: mean activations
-- (zeros counted), their difference, Cohen's d with its 95% interval (Hedges and Olkin 1985;
-- documents of one group count as one), area under the ROC curve (for the 500 of largest
-- cohen_d_train), shares of documents it fires in; its weight in the probe, the weight per standard
-- deviation (effect) and its rank by that. Against one label these are differences to that label's,
-- without a rank. task: a column of labels other than the first, of classes or of lists of labels.
-- Example: FROM latents_for_label('latest', 'business') LIMIT 5
CREATE OR REPLACE MACRO latents_for_label(run, label, against := NULL, task := NULL) AS TABLE
    WITH labelled AS MATERIALIZED (
        SELECT y.doc_id, coalesce(bool_or(y.value = label), false) AS inside,
            any_value(g.group_id) AS group_id, any_value(g.split) = 'test' AS held_out
        FROM labels_of(run, task := task) AS y JOIN document_groups(run) AS g ON g.doc_id = y.doc_id
        GROUP BY y.doc_id
        HAVING against IS NULL OR bool_or(y.value = label) OR bool_or(y.value = against)
    ),
    named AS MATERIALIZED (
        SELECT CASE WHEN count(*) FILTER (y.inside) = 0
                THEN error('no document of run ''' || run || ''' has label ''' || label || '''')
                WHEN count(*) FILTER (NOT y.inside) = 0 AND against IS NOT NULL
                THEN error('no document of run ''' || run || ''' has label ''' || against || '''')
                ELSE true END AS there
        FROM labelled AS y
    ),
    total AS MATERIALIZED (
        SELECT c.held_out, sum(c.n_in)::BIGINT AS n_in, sum(c.n_out)::BIGINT AS n_out,
            sum(c.n_in) ** 2 / nullif(sum(c.n_in ** 2), 0) AS e_in,
            sum(c.n_out) ** 2 / nullif(sum(c.n_out ** 2), 0) AS e_out
        FROM (
            SELECT y.held_out, y.group_id, count(*) FILTER (y.inside) AS n_in,
                count(*) FILTER (NOT y.inside) AS n_out
            FROM labelled AS y GROUP BY y.held_out, y.group_id
        ) AS c, named AS m WHERE m.there
        GROUP BY c.held_out
    ),
    summed AS MATERIALIZED (
        SELECT x.latent, y.held_out, count(*) FILTER (y.inside) AS fires_in,
            count(*) FILTER (NOT y.inside) AS fires_out,
            coalesce(sum(x.mean::DOUBLE) FILTER (y.inside), 0) AS s_in,
            coalesce(sum(x.mean::DOUBLE) FILTER (NOT y.inside), 0) AS s_out,
            coalesce(sum(x.mean::DOUBLE * x.mean) FILTER (y.inside), 0) AS q_in,
            coalesce(sum(x.mean::DOUBLE * x.mean) FILTER (NOT y.inside), 0) AS q_out
        FROM document_latents AS x
        JOIN labelled AS y ON y.doc_id = x.doc_id
        WHERE x.run_id = resolve_run(run)
        GROUP BY x.latent, y.held_out
    ),
    told AS MATERIALIZED (
        SELECT s.latent, s.held_out, s.fires_in, s.fires_out,
            s.s_in / nullif(t.n_in, 0) AS mean_in, s.s_out / nullif(t.n_out, 0) AS mean_out,
            mean_in - mean_out AS difference,
            difference / nullif(sqrt(greatest(
                (s.q_in / t.n_in - mean_in ** 2 + s.q_out / t.n_out - mean_out ** 2) / 2, 0
            )), 0) AS cohen_d,
            1.96 * sqrt(1 / t.e_in + 1 / t.e_out + cohen_d ** 2 / (2 * (t.e_in + t.e_out))) AS half
        FROM summed AS s JOIN total AS t ON t.held_out = s.held_out
    ),
    candidate AS MATERIALIZED (
        SELECT e.latent FROM told AS e WHERE NOT e.held_out
        ORDER BY abs(e.cohen_d) DESC NULLS LAST, e.latent LIMIT 500
    ),
    ordered AS (
        SELECT v.latent, v.n_in,
            sum(v.n_out) OVER (PARTITION BY v.latent ORDER BY v.mean) - v.n_out / 2 AS below
        FROM (
            SELECT x.latent, x.mean, count(*) FILTER (y.inside) AS n_in,
                count(*) FILTER (NOT y.inside) AS n_out
            FROM document_latents AS x
            JOIN labelled AS y ON y.doc_id = x.doc_id
            WHERE x.run_id = resolve_run(run) AND y.held_out
                AND x.latent IN (SELECT c.latent FROM candidate AS c)
            GROUP BY x.latent, x.mean
        ) AS v
    ),
    area AS (
        -- A document of the label wins over each other one that is weaker, and half over equals:
        -- those where the latent is silent have no row, and are weaker than all that have one.
        SELECT e.latent, sum(o.n_in * (t.n_out - e.fires_out + o.below))
            + any_value((t.n_in - e.fires_in) * (t.n_out - e.fires_out)) / 2 AS wins
        FROM told AS e JOIN ordered AS o ON o.latent = e.latent CROSS JOIN total AS t
        WHERE e.held_out AND t.held_out
        GROUP BY e.latent
    ),
    known AS (
        SELECT DISTINCT e.latent FROM told AS e
    )
    SELECT k.latent, e.cohen_d, e.cohen_d - e.half AS ci_low, e.cohen_d + e.half AS ci_high,
        a.wins / nullif(t.n_in * t.n_out, 0) AS auroc, coalesce(e.difference, 0) AS difference,
        coalesce(e.mean_in, 0) AS mean_in, coalesce(e.mean_out, 0) AS mean_out,
        coalesce(e.fires_in, 0) / nullif(t.n_in, 0) AS documents_in,
        coalesce(e.fires_out, 0) / nullif(t.n_out, 0) AS documents_out,
        w.weight - coalesce(o.weight, 0) AS weight, w.effect - coalesce(o.effect, 0) AS effect,
        CASE WHEN against IS NULL THEN w.rank END AS effect_rank, f.top_token,
        r.cohen_d AS cohen_d_train
    FROM known AS k
    LEFT JOIN told AS r ON r.latent = k.latent AND NOT r.held_out
    LEFT JOIN told AS e ON e.latent = k.latent AND e.held_out
    LEFT JOIN total AS t ON t.held_out
    LEFT JOIN area AS a ON a.latent = k.latent
    LEFT JOIN probe_weights AS w
        ON w.run_id = resolve_run(run) AND w.label = label AND w.latent = k.latent
        AND w.task = coalesce(task, first_task(run))
    LEFT JOIN probe_weights AS o
        ON o.run_id = resolve_run(run) AND o.label = against AND o.latent = k.latent
        AND o.task = coalesce(task, first_task(run))
    LEFT JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = k.latent
    ORDER BY abs(r.cohen_d) DESC NULLS LAST, k.latent;

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

-- The ends of a share's 95% interval (Wilson 1927): `hits` of `n`, of which `texts` are independent.
CREATE OR REPLACE MACRO wilson_low(hits, n, texts) AS greatest(0, (hits / n + 1.9207 / texts
    - 1.96 * sqrt(greatest(hits / n * (1 - hits / n) / texts, 0) + 0.9604 / texts ** 2))
    / (1 + 3.8416 / texts));
CREATE OR REPLACE MACRO wilson_high(hits, n, texts) AS least(1, (hits / n + 1.9207 / texts
    + 1.96 * sqrt(greatest(hits / n * (1 - hits / n) / texts, 0) + 0.9604 / texts ** 2))
    / (1 + 3.8416 / texts));

-- How many times more often `fires` things have a label than all `n` do, as a record of lift, low
-- and high: n_both of those that fire have it, of n_label in all; texts, label_texts and all_texts:
-- how many of each are independent. Null where nothing fires or nothing has the label.
CREATE OR REPLACE MACRO lift_interval(
    n_both, fires, texts, n_label, label_texts, n, all_texts
) AS CASE WHEN fires > 0 AND n_label > 0 THEN {
    'lift': n_both / fires * n / n_label,
    'low': CASE WHEN n_both = 0 THEN 0.0 ELSE n_both / fires * n / n_label * exp(-sqrt(greatest(
        ln(n_both / fires / wilson_low(n_both, fires, texts)) ** 2
        + 3.8416 * ((2 * n_both / fires - 1) / label_texts - 1 / all_texts), 0))) END,
    'high': CASE WHEN n_both = 0 THEN wilson_high(n_both, fires, texts) * n / n_label
        ELSE n_both / fires * n / n_label * exp(sqrt(greatest(
        ln(wilson_high(n_both, fires, texts) / (n_both / fires)) ** 2
        + 3.8416 * ((2 * n_both / fires - 1) / label_texts - 1 / all_texts), 0))) END
} END;

-- For each latent and label: how many times more often documents in which the latent fires have the
-- label than all do (lift), with its 95% interval, on held-out documents: n_both of the n_latent in
-- which it fires, of the n_label of the label. The order is by the lower end of the interval on
-- train documents (low_train; lift_train is the lift there), so that what is chosen from the top is
-- measured on documents that did not choose it. The interval is Wilson's of n_both / n_latent, with
-- the error of the label's own share by the delta method; documents of one group count as one.
-- p_value, of a one-sided Fisher test over all documents, and p_corrected for all pairs of a living
-- latent and a label (Bonferroni) say whether there is anything at all: with thousands of documents
-- half of all latents pass, so they rank nothing. task: a column of labels other than the first.
-- Example: FROM label_enrichment('latest') WHERE latent = 7
CREATE OR REPLACE MACRO label_enrichment(run, task := NULL) AS TABLE
    WITH labelled AS MATERIALIZED (
        SELECT y.doc_id, y.value AS label, g.group_id, g.split = 'test' AS held_out
        FROM labels_of(run, task := task) AS y JOIN document_groups(run) AS g ON g.doc_id = y.doc_id
    ),
    document AS MATERIALIZED (
        SELECT d.*, count(*) OVER (PARTITION BY d.group_id, d.held_out) AS n_group
        FROM (SELECT DISTINCT y.doc_id, y.group_id, y.held_out FROM labelled AS y) AS d
    ),
    everything AS MATERIALIZED (
        SELECT d.held_out, count(*) AS n, count(*) ** 2 / sum(d.n_group) AS texts
        FROM document AS d GROUP BY d.held_out
    ),
    size AS MATERIALIZED (
        SELECT y.label, y.held_out, count(*) AS n,
            count(*) ** 2 / sum(y.n_group) AS texts
        FROM (
            SELECT l.label, l.held_out, count(*) OVER (
                PARTITION BY l.label, l.group_id, l.held_out
            ) AS n_group
            FROM labelled AS l WHERE l.label IS NOT NULL
        ) AS y
        GROUP BY y.label, y.held_out
    ),
    tests AS MATERIALIZED (
        SELECT (SELECT count(*) FROM features AS f
                WHERE f.run_id = resolve_run(run) AND NOT f.dead)
            * (SELECT count(DISTINCT z.label) FROM size AS z) AS n_tests
    ),
    alike AS MATERIALIZED (
        -- By how much the sum over groups of squared counts exceeds the count: of groups of one, 0.
        SELECT a.latent, a.held_out, sum(a.n * (a.n - 1))::BIGINT AS n_more
        FROM (
            SELECT x.latent, d.held_out, count(*) AS n
            FROM document_latents AS x JOIN document AS d ON d.doc_id = x.doc_id
            WHERE x.run_id = resolve_run(run) AND d.n_group > 1
            GROUP BY x.latent, d.held_out, d.group_id
        ) AS a
        GROUP BY a.latent, a.held_out
    ),
    fires AS MATERIALIZED (
        SELECT x.latent, count(*) FILTER (d.held_out) AS n_test,
            count(*) FILTER (NOT d.held_out) AS n_train
        FROM document_latents AS x JOIN document AS d ON d.doc_id = x.doc_id
        WHERE x.run_id = resolve_run(run)
        GROUP BY x.latent
    ),
    counted AS (
        SELECT x.latent, y.label, count(*) FILTER (y.held_out) AS n_test,
            count(*) FILTER (NOT y.held_out) AS n_train
        FROM document_latents AS x JOIN labelled AS y ON y.doc_id = x.doc_id
        WHERE x.run_id = resolve_run(run) AND y.label IS NOT NULL
        GROUP BY x.latent, y.label
    ),
    whole AS (
        SELECT c.latent, c.label, c.n_test, c.n_train, f.n_test AS fires_test,
            f.n_train AS fires_train, coalesce(t.n, 0) AS label_test,
            coalesce(r.n, 0) AS label_train, t.texts AS label_texts_test,
            r.texts AS label_texts_train,
            f.n_test ** 2 / nullif(f.n_test + coalesce(p.n_more, 0), 0) AS texts_test,
            f.n_train ** 2 / nullif(f.n_train + coalesce(q.n_more, 0), 0) AS texts_train
        FROM counted AS c
        JOIN fires AS f ON f.latent = c.latent
        LEFT JOIN size AS t ON t.label = c.label AND t.held_out
        LEFT JOIN size AS r ON r.label = c.label AND NOT r.held_out
        LEFT JOIN alike AS p ON p.latent = c.latent AND p.held_out
        LEFT JOIN alike AS q ON q.latent = c.latent AND NOT q.held_out
    ),
    measured AS (
        SELECT w.*, log_enrichment(
                w.n_test + w.n_train, w.fires_test + w.fires_train, w.label_test + w.label_train,
                (SELECT sum(e.n)::BIGINT FROM everything AS e)
            ) AS log_p,
            lift_interval(w.n_test, w.fires_test, w.texts_test, w.label_test, w.label_texts_test,
                e.n, e.texts) AS test,
            lift_interval(w.n_train, w.fires_train, w.texts_train, w.label_train,
                w.label_texts_train, a.n, a.texts) AS train
        FROM whole AS w
        LEFT JOIN everything AS e ON e.held_out
        LEFT JOIN everything AS a ON NOT a.held_out
    )
    SELECT m.latent, m.label, m.test.lift AS lift, m.test.low AS ci_low, m.test.high AS ci_high,
        m.n_test AS n_both, m.fires_test AS n_latent, m.label_test AS n_label,
        m.train.lift AS lift_train, m.train.low AS low_train, exp(m.log_p) AS p_value,
        least(1, exp(m.log_p + ln(n.n_tests))) AS p_corrected
    FROM measured AS m CROSS JOIN tests AS n
    ORDER BY low_train DESC NULLS LAST, m.log_p, m.latent, m.label;

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
