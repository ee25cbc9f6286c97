-- Whether runs differ by more than the choice of documents: paired differences with intervals.
--
-- One mechanism for every metric. The part of a document is the metric plus the document's
-- influence on it (the infinitesimal jackknife: Efron 1982; Deville 1999), so that the mean of the
-- parts is the metric, and that of their differences is the difference of two runs. Documents are
-- summed within their group (texts alike), as these are drawn together. docs/methods.md says how
-- the intervals were chosen, and what they do not show.

-- Probability that a Student variable of `freedom` degrees is farther from 0 than `ratio`: Wallace's
-- normal one (1959), whose tail is that of Numerical Recipes' erfcc (relative error below 2e-7).
CREATE OR REPLACE MACRO student_p(ratio, freedom) AS (
    SELECT u.t * exp(
        -u.x * u.x - 1.26551223 + u.t * (1.00002368 + u.t * (0.37409196 + u.t * (0.09678418
        + u.t * (-0.18628806 + u.t * (0.27886807 + u.t * (-1.13520398 + u.t * (1.48851587
        + u.t * (-0.82215223 + u.t * 0.17087277))))))))
    )
    FROM (
        SELECT v.x, 1 / (1 + v.x / 2) AS t
        FROM (
            SELECT sqrt(freedom * ln(1 + ratio * ratio / freedom) / 2)
                * (8 * freedom + 1) / (8 * freedom + 3) AS x
        ) AS v
    ) AS u
);

-- The ratio whose student_p is 0.05: an interval leaves 0 out where its p is below that.
CREATE OR REPLACE MACRO student_ratio(freedom) AS sqrt(
    freedom * (exp((1.959963985 * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom) - 1)
);

-- The part of each held-out document in the metrics of an SAE, for a list of run_ids: their mean
-- over the documents is the metric, their spread its uncertainty. Of a ratio R of sums a / b, the
-- part is R + (a - R b) / mean(b). read: tokens read of another text; runs that read as many of it
-- read the same documents.
-- Example: FROM document_parts([resolve_run('latest')]) WHERE metric = 'fvu'
CREATE OR REPLACE MACRO document_parts(runs) AS TABLE
    WITH sums AS (
        SELECT m.run_id, m.text, m.doc_id, m.tokens, unnest([
            {'metric': 'fvu', 'a': m.error, 'b': m.variance},
            {'metric': 'fvu_typical', 'a': m.error_typical, 'b': m.variance_typical},
            {'metric': 'explained_variance', 'a': m.variance - m.error, 'b': m.variance},
            {'metric': 'mse', 'a': m.error, 'b': m.tokens * r.d_in},
            {'metric': 'outlier_share', 'a': m.tokens - m.tokens_typical, 'b': m.tokens},
            {'metric': 'l0', 'a': m.fires, 'b': m.tokens},
            {'metric': 'loss_clean', 'a': m.clean, 'b': m.predictions},
            {'metric': 'loss_spliced', 'a': m.spliced, 'b': m.predictions},
            {'metric': 'delta_loss', 'a': m.spliced - m.clean, 'b': m.predictions},
            {'metric': 'kl', 'a': m.kl, 'b': m.predictions},
            {'metric': 'top1_agreement', 'a': m.top1, 'b': m.predictions},
            {'metric': 'ce_loss_score', 'a': l.zero - m.spliced, 'b': l.zero - m.clean},
            {'metric': 'kl_score', 'a': l.kl_zero - m.kl, 'b': l.kl_zero},
            {'metric': 'loss_recovered_bos_kept', 'a': l.zero_bos_kept - m.spliced,
                'b': l.zero_bos_kept - m.clean},
            {'metric': 'loss_recovered_mean', 'a': l.mean - m.spliced, 'b': l.mean - m.clean},
            {'metric': 'loss_recovered_token_lookup', 'a': l.token_lookup - m.spliced,
                'b': l.token_lookup - m.clean},
            {'metric': 'loss_zero', 'a': l.zero, 'b': l.predictions},
            {'metric': 'loss_zero_bos_kept', 'a': l.zero_bos_kept, 'b': l.predictions},
            {'metric': 'loss_mean', 'a': l.mean, 'b': l.predictions},
            {'metric': 'loss_token_lookup', 'a': l.token_lookup, 'b': l.predictions},
            {'metric': 'loss_pca', 'a': l.pca, 'b': l.predictions},
            {'metric': 'loss_unigram', 'a': l.unigram, 'b': l.predictions}
        ], recursive := true)
        FROM document_metrics AS m JOIN runs AS r ON r.run_id = m.run_id
        LEFT JOIN document_losses AS l
            ON l.run_id = m.run_id AND l.doc_id = m.doc_id AND m.text = 'own'
        WHERE of_store(:store) AND list_contains(runs, m.run_id)
    ),
    judged AS MATERIALIZED (FROM sums AS s WHERE s.a IS NOT NULL AND s.b IS NOT NULL),
    -- In the order of the documents: equal documents then have the same value to the last digit.
    whole AS (
        SELECT j.run_id, j.text, j.metric, avg(j.b ORDER BY j.doc_id) AS mean,
            CASE WHEN j.text = 'own' THEN 0 ELSE sum(j.tokens) END AS read,
            sum(j.a ORDER BY j.doc_id) / nullif(sum(j.b ORDER BY j.doc_id), 0) AS value
        FROM judged AS j GROUP BY j.run_id, j.text, j.metric
    )
    SELECT j.run_id, 'evaluation' AS stage,
        j.metric || CASE WHEN j.text = 'own' THEN '' ELSE ' on ' || j.text END AS metric,
        j.text, w.read, j.doc_id, w.value + (j.a - w.value * j.b) / w.mean AS part
    FROM judged AS j
    JOIN whole AS w ON w.run_id = j.run_id AND w.text = j.text AND w.metric = j.metric
    WHERE w.value IS NOT NULL
    ORDER BY j.run_id, metric, j.doc_id;

-- What is measured of runs, as differences and compare_runs call it, for a list of run_ids.
-- Example: FROM measured([resolve_run('latest')])
CREATE OR REPLACE MACRO measured(runs) AS TABLE
    SELECT m.run_id, 'evaluation' AS stage,
        m.metric || CASE WHEN m.text = 'own' THEN '' ELSE ' on ' || m.text END AS metric, m.value
    FROM sae_metrics AS m WHERE of_store(:store) AND list_contains(runs, m.run_id)
    UNION ALL
    SELECT p.run_id, 'probe', p.metric || ' of ' || p.representation
            || coalesce(', k = ' || p.k, '') || coalesce(', ' || p.label, '')
            || CASE WHEN p.task = r.label_column THEN '' ELSE ', on ' || p.task END,
        p.value
    FROM probes AS p JOIN runs AS r ON r.run_id = p.run_id
    WHERE of_store(:store) AND list_contains(runs, p.run_id)
    UNION ALL
    SELECT m.run_id, 'cluster', m.metric, m.value
    FROM cluster_metrics AS m
    WHERE of_store(:store) AND list_contains(runs, m.run_id)
        AND m.representation = 'latents' AND m.kind = 'value';

-- Every metric of the runs `others` (a list) beside that of `base`: difference (other - base) with
-- its 95% interval, over the n documents that both judged; p_corrected: Holm's, over all rows of
-- this answer that have a p. paired: false where there is a difference without an interval, as the
-- runs read other corpora, or as the metric is no mean over documents. metrics: a list of those to
-- ask for; the fewer are asked, the less is corrected.
-- Example: FROM differences('demo', ['latest'], metrics := ['fvu', 'l0'])
CREATE OR REPLACE MACRO differences(base, others, metrics := NULL) AS TABLE
    WITH pair AS MATERIALIZED (
        SELECT DISTINCT x.base_id, x.other_id, (
            SELECT count(DISTINCT s.key) = 1 FROM stages AS s
            WHERE s.stage = 'corpus' AND s.run_id IN (x.base_id, x.other_id)
        ) AS same_corpus
        FROM (
            SELECT resolve_run(base) AS base_id, resolve_run(o.called) AS other_id
            FROM (SELECT unnest(others) AS called) AS o
        ) AS x
    ),
    value AS MATERIALIZED (
        FROM measured((SELECT list(p.other_id) || [any_value(p.base_id)] FROM pair AS p)) AS m
        WHERE metrics IS NULL OR list_contains(metrics, m.metric)
    ),
    part AS MATERIALIZED (
        SELECT d.run_id, d.stage, d.metric, d.text, d.read, d.doc_id, d.part
        FROM document_parts((
            SELECT list(p.other_id) || [any_value(p.base_id)] FROM pair AS p WHERE p.same_corpus
        )) AS d
        WHERE metrics IS NULL OR list_contains(metrics, d.metric)
        UNION ALL
        SELECT d.run_id, d.stage, d.metric, 'own', 0, d.doc_id, d.part
        FROM probe_parts((  -- which take a second: of no run, where no measure of probes is asked for
            SELECT list(p.other_id) || [any_value(p.base_id)] FROM pair AS p
            WHERE p.same_corpus AND EXISTS (FROM value AS v WHERE v.stage = 'probe')
        )) AS d
        WHERE metrics IS NULL OR list_contains(metrics, d.metric)
    ),
    summed AS MATERIALIZED (
        SELECT p.other_id, x.stage, x.metric, coalesce(g.group_id, x.doc_id) AS group_id,
            count(*) AS documents, fsum(y.part - x.part) AS total
        FROM pair AS p
        JOIN part AS x ON x.run_id = p.base_id
        JOIN part AS y ON y.run_id = p.other_id AND y.stage = x.stage AND y.metric = x.metric
            AND y.doc_id = x.doc_id AND y.read = x.read
        LEFT JOIN document_groups(base) AS g ON x.text = 'own' AND g.doc_id = x.doc_id
        WHERE p.same_corpus
        GROUP BY p.other_id, x.stage, x.metric, coalesce(g.group_id, x.doc_id)
    ),
    meant AS (
        SELECT s.other_id, s.stage, s.metric, sum(s.documents)::UBIGINT AS n, count(*) - 1 AS freedom,
            fsum(s.total) / n AS difference
        FROM summed AS s GROUP BY s.other_id, s.stage, s.metric
    ),
    spread AS (
        SELECT m.other_id, m.stage, m.metric, any_value(m.n) AS n,
            any_value(m.freedom) AS freedom, any_value(m.difference) AS difference,
            CASE WHEN any_value(m.freedom) > 0 THEN sqrt(
                fsum((s.total - s.documents * m.difference) ** 2)
                * (any_value(m.freedom) + 1) / any_value(m.freedom)
            ) / any_value(m.n) END AS error
        FROM meant AS m
        JOIN summed AS s
            ON s.other_id = m.other_id AND s.stage = m.stage AND s.metric = m.metric
        GROUP BY m.other_id, m.stage, m.metric
    ),
    beside AS (
        SELECT p.other_id, v.stage, v.metric,
            max(v.value) FILTER (v.run_id = p.base_id) AS value_base,
            max(v.value) FILTER (v.run_id = p.other_id) AS value_other,
            1e-12 * max(abs(v.value)) AS rounding
        FROM pair AS p JOIN value AS v ON v.run_id IN (p.base_id, p.other_id)
        GROUP BY p.other_id, v.stage, v.metric
    ),
    tested AS (
        SELECT b.other_id, b.stage, b.metric, b.value_base, b.value_other,
            coalesce(s.difference, b.value_other - b.value_base) AS difference,
            s.difference - student_ratio(s.freedom) * s.error AS ci_low,
            s.difference + student_ratio(s.freedom) * s.error AS ci_high,
            s.n, s.error IS NOT NULL AS paired,
            -- Where all documents agree, up to rounding, there is nothing to test or to doubt.
            CASE WHEN s.error > b.rounding THEN student_p(s.difference / s.error, s.freedom)
                WHEN s.error IS NOT NULL AND abs(s.difference) > b.rounding THEN 0 END AS p
        FROM beside AS b
        LEFT JOIN spread AS s
            ON s.other_id = b.other_id AND s.stage = b.stage AND s.metric = b.metric
    ),
    ranked AS (
        SELECT t.*, t.p * (count(t.p) OVER () + 1 - row_number() OVER (
            ORDER BY t.p, t.other_id, t.stage, t.metric
        )) AS held
        FROM tested AS t
    )
    SELECT r.other_id AS other, r.stage, r.metric, r.value_base, r.value_other, r.difference,
        r.ci_low, r.ci_high, r.n,
        CASE WHEN r.p IS NOT NULL THEN least(1, max(r.held) OVER (
            ORDER BY r.p, r.other_id, r.stage, r.metric
        )) WHEN r.paired THEN 1 END AS p_corrected,
        r.paired
    FROM ranked AS r
    ORDER BY r.other_id, CASE r.stage WHEN 'evaluation' THEN 0 WHEN 'probe' THEN 1 ELSE 2 END,
        r.metric;

-- Every metric of two runs side by side, with the difference (b - a) as differences has it.
-- Example: FROM compare_runs('demo', 'latest')
CREATE OR REPLACE MACRO compare_runs(a, b, metrics := NULL) AS TABLE
    SELECT d.stage, d.metric, d.value_base AS value_a, d.value_other AS value_b, d.difference,
        d.ci_low, d.ci_high, d.n, d.p_corrected, d.paired
    FROM differences(a, [b], metrics := metrics) AS d
    WHERE of_store(:store);
