-- Which representation tells labels, and whether by more than the choice of held-out documents.

-- The part of each held-out document in the scores of probes, for a list of run_ids: their mean over
-- the documents is the score, their spread its uncertainty. Of the area under the ROC curve parts
-- are DeLong's placements (1988), of balanced accuracy the two shares of which it is the mean, of R2
-- those of a ratio of sums. metric: as compare_runs calls it. Of runs before schema 6: accuracy alone.
-- Example: FROM probe_parts([resolve_run('latest')]) WHERE label IS NULL LIMIT 5
CREATE OR REPLACE MACRO probe_parts(runs) AS TABLE
    WITH scored AS MATERIALIZED (
        SELECT s.run_id, s.task, s.representation, s.k, s.target, s.doc_id, s.score, s.truth
        FROM probe_scores AS s
        SEMI JOIN (FROM probes AS p WHERE p.seed IS NOT NULL) AS now
            ON now.run_id = s.run_id AND now.task IS NOT DISTINCT FROM s.task
        WHERE of_store(:store) AND list_contains(runs, s.run_id)
    ),
    ranked AS (
        SELECT s.*, rank() OVER whole + (count(*) OVER (whole RANGE CURRENT ROW) - 1) / 2 AS among_all,
            rank() OVER own + (count(*) OVER (own RANGE CURRENT ROW) - 1) / 2 AS among_own,
            sum(s.truth) OVER probe AS n_in, count(*) OVER probe AS n
        FROM scored AS s
        WHERE s.target IS NOT NULL
        WINDOW probe AS (PARTITION BY s.run_id, s.task, s.representation, s.k, s.target),
            whole AS (PARTITION BY s.run_id, s.task, s.representation, s.k, s.target
                ORDER BY s.score),
            own AS (PARTITION BY s.run_id, s.task, s.representation, s.k, s.target, s.truth
                ORDER BY s.score)
    ),
    -- right_side: the share of documents of the other side that it lies on the right side of.
    placed AS MATERIALIZED (
        SELECT r.* EXCLUDE (among_all, among_own), r.among_all - r.among_own AS above, r.n / nullif(
                CASE WHEN r.truth = 1 THEN r.n_in ELSE r.n - r.n_in END, 0) AS weight,
            CASE WHEN r.truth = 1 THEN (r.among_all - r.among_own) / (r.n - r.n_in)
                ELSE 1 - (r.among_all - r.among_own) / r.n_in END AS right_side,
            ((r.score > m.score) = (r.truth = 1))::DOUBLE AS hit
        FROM ranked AS r
        JOIN scored AS m ON m.representation = 'majority' AND m.k IS NULL
            AND m.run_id = r.run_id AND m.task IS NOT DISTINCT FROM r.task
            AND m.target = r.target AND m.doc_id = r.doc_id
        WHERE r.n_in BETWEEN 1 AND r.n - 1
    ),
    sided AS (
        -- Sums of halves and of ones: the same in any order.
        SELECT q.*, avg(q.hit) OVER side AS share,
            abs((q.truth = 0)::INTEGER - sum(q.above) OVER side / (q.n_in * (q.n - q.n_in))) AS area,
            (avg(q.hit) FILTER (q.truth = 1) OVER probe
                + avg(q.hit) FILTER (q.truth = 0) OVER probe) / 2 AS balanced
        FROM placed AS q
        WINDOW side AS (
                PARTITION BY q.run_id, q.task, q.representation, q.k, q.target, q.truth
            ),
            probe AS (PARTITION BY q.run_id, q.task, q.representation, q.k, q.target)
    ),
    of_labels AS MATERIALIZED (
        SELECT d.run_id, d.task, d.representation, d.k, d.target, d.doc_id,
            unnest(['auroc', 'balanced_accuracy']) AS metric,
            unnest([
                d.area + d.weight * (d.right_side - d.area),
                d.balanced + d.weight * (d.hit - d.share) / 2
            ]) AS part
        FROM sided AS d
    ),
    numbers AS (
        SELECT s.*, (s.truth - s.score) ** 2 AS error,
            (s.truth - avg(s.truth) OVER probe) ** 2 AS square
        FROM scored AS s WHERE s.target IS NULL
        WINDOW probe AS (
            PARTITION BY s.run_id, s.task, s.representation, s.k ORDER BY s.doc_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        )
    ),
    parts AS (
        SELECT l.run_id, l.task, l.representation, l.k, l.target AS label, l.metric, l.doc_id, l.part
        FROM of_labels AS l
        UNION ALL
        SELECT l.run_id, l.task, l.representation, l.k, NULL, l.metric, l.doc_id,
            avg(l.part ORDER BY l.target)
        FROM of_labels AS l
        GROUP BY l.run_id, l.task, l.representation, l.k, l.metric, l.doc_id
        UNION ALL
        SELECT x.run_id, x.task, x.representation, x.k, NULL, 'accuracy', x.doc_id,
            (x.predicted = x.label)::DOUBLE
        FROM probe_predictions AS x
        WHERE of_store(:store) AND list_contains(runs, x.run_id)
        UNION ALL
        SELECT y.run_id, y.task, y.representation, y.k, NULL, 'r2', y.doc_id,
            1 - avg(y.error) OVER probe / avg(y.square) OVER probe
                - (y.error - y.square * avg(y.error) OVER probe / avg(y.square) OVER probe)
                    / avg(y.square) OVER probe
        FROM numbers AS y
        WINDOW probe AS (
            PARTITION BY y.run_id, y.task, y.representation, y.k ORDER BY y.doc_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        )
    )
    SELECT p.run_id, 'probe' AS stage, p.metric || ' of ' || p.representation
            || coalesce(', k = ' || p.k, '') || coalesce(', ' || p.label, '')
            || CASE WHEN p.task = r.label_column THEN '' ELSE ', on ' || p.task END AS metric,
        p.task, p.representation, p.k, p.label, p.metric AS measure, p.doc_id, p.part
    FROM parts AS p JOIN runs AS r ON r.run_id = p.run_id
    ORDER BY p.run_id, 3, p.doc_id;

-- What labels are read off, and how well: each representation by the number of dimensions k that a
-- probe reads, worst first. value: mean over the labels of the area under the ROC curve, with its
-- 95% interval; of a column of numbers R2. gap: to the activations of as many dimensions, paired by
-- held-out document, with its interval; p: Holm's, over all rows. task: a column of labels other than
-- the first. Rounded to 3 digits: probe_parts and probes have all.
-- Example: FROM probe_table('latest')
CREATE OR REPLACE MACRO probe_table(run, task := NULL) AS TABLE
    WITH part AS MATERIALIZED (
        SELECT p.representation, coalesce(p.k, 0) AS k, p.doc_id, g.group_id, p.part
        FROM probe_parts([resolve_run(run)]) AS p
        JOIN document_groups(run) AS g ON g.doc_id = p.doc_id
        WHERE p.label IS NULL AND p.measure IN ('auroc', 'r2')
            AND p.task = coalesce(task, first_task(run))
    ),
    summed AS (
        SELECT p.representation, p.k, p.group_id, count(*) AS documents,
            sum(p.part - a.part ORDER BY p.doc_id) AS total
        FROM part AS p
        JOIN part AS a
            ON a.representation = 'activations' AND a.k = p.k AND a.doc_id = p.doc_id
        WHERE p.representation <> 'activations'
        GROUP BY p.representation, p.k, p.group_id
    ),
    meant AS (
        SELECT s.*, count(*) OVER probe - 1 AS freedom, sum(s.documents) OVER probe AS n,
            sum(s.total) OVER probe / sum(s.documents) OVER probe AS gap
        FROM summed AS s
        WINDOW probe AS (
            PARTITION BY s.representation, s.k ORDER BY s.group_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        )
    ),
    spread AS (
        SELECT m.representation, m.k, any_value(m.gap) AS gap, any_value(m.freedom) AS freedom,
            sqrt(sum((m.total - m.documents * m.gap) ** 2 ORDER BY m.group_id)
                * (any_value(m.freedom) + 1) / nullif(any_value(m.freedom), 0)
            ) / any_value(m.n) AS error
        FROM meant AS m GROUP BY m.representation, m.k
    ),
    tested AS (
        SELECT s.*, CASE WHEN s.error > 1e-12 THEN student_p(s.gap / s.error, s.freedom)
            WHEN abs(s.gap) > 1e-12 THEN 0 ELSE 1 END AS p
        FROM spread AS s WHERE s.error IS NOT NULL
    ),
    held AS (
        SELECT t.*, t.p * (count(*) OVER () + 1 - row_number() OVER (
            ORDER BY t.p, t.representation, t.k
        )) AS product
        FROM tested AS t
    ),
    corrected AS (
        SELECT h.*, least(1, max(h.product) OVER (ORDER BY h.p, h.representation, h.k)) AS holm
        FROM held AS h
    )
    -- A zero more, so that none is shown as -0.
    SELECT v.representation, coalesce(v.k::VARCHAR, 'all') AS k, round(v.value, 3) + 0 AS value,
        round(v.ci_low, 3) + 0 AS low, round(v.ci_high, 3) + 0 AS high, round(c.gap, 3) + 0 AS gap,
        round(c.gap - student_ratio(c.freedom) * c.error, 3) + 0 AS gap_low,
        round(c.gap + student_ratio(c.freedom) * c.error, 3) + 0 AS gap_high,
        round(c.holm, 4) AS p
    FROM probes AS v
    LEFT JOIN corrected AS c ON c.representation = v.representation AND c.k = coalesce(v.k, 0)
    WHERE v.run_id = resolve_run(run) AND v.label IS NULL AND v.metric IN ('auroc', 'r2')
        AND v.task = coalesce(task, first_task(run))
    ORDER BY v.k NULLS LAST, v.value, v.representation;
