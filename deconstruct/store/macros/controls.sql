-- What figures of a run are worth: the same of its controls, which one thing was taken away from.

-- The controls of a run that the store has: runs of the same corpora, site and settings but for one
-- thing, as their newest executions have them. control: seed (another one), frozen-decoder, frozen-encoder, random-sae (sae.frozen),
-- random-model (model.name), shuffled (probe.shuffle_labels). seed: of the SAE.
-- Example: FROM control_runs('latest')
CREATE OR REPLACE MACRO control_runs(run) AS TABLE
    WITH newest AS MATERIALIZED (
        SELECT e.run_id, arg_max(e.config, e.execution) AS config,
            arg_max(e.training_corpus, e.execution) AS training
        FROM executions AS e GROUP BY e.run_id
    ),
    settled AS MATERIALIZED (
        SELECT r.run_id, r.site, r.analysis, s.key AS corpus, n.training, n.config ->> '$.model.name' AS model,
            CAST(n.config -> '$.sae.seed' AS UBIGINT) AS seed,
            coalesce(n.config ->> '$.sae.frozen', 'none') AS frozen,
            coalesce(CAST(n.config -> '$.probe.shuffle_labels' AS BOOLEAN), false) AS shuffled,
            json_merge_patch(
                '{"sae": {}, "probe": {}}', n.config,
                '{"name": null, "gates": null, "analysis": null, "explanation": null, "map": null,
                "model": {"name": null}, "corpus": null, "activations": {"sites": null},
                "sae": {"seed": null, "frozen": null, "warm_tokens": null},
                "probe": {"shuffle_labels": null}}'
            )::VARCHAR AS rest
        FROM runs AS r JOIN newest AS n ON n.run_id = r.run_id
        JOIN stages AS s ON s.run_id = r.run_id AND s.stage = 'corpus'
        WHERE of_store(:store)
    ),
    told AS (
        SELECT o.run_id, o.seed,
            o.model = b.model AS same_model, o.seed = b.seed AS same_seed,
            o.frozen = b.frozen AS same_part, o.shuffled = b.shuffled AS same_labels,
            CASE
                WHEN same_model AND NOT same_seed AND same_part AND same_labels THEN 'seed'
                WHEN same_model AND same_seed AND b.frozen = 'none' AND same_labels AND NOT same_part
                    THEN CASE o.frozen WHEN 'all' THEN 'random-sae' ELSE 'frozen-' || o.frozen END
                WHEN same_model AND same_seed AND same_part AND o.shuffled AND NOT same_labels
                    THEN 'shuffled'
                WHEN NOT same_model AND same_seed AND same_part AND same_labels
                    AND regexp_replace(o.model, '^random:[0-9]+:', '') = b.model
                    THEN 'random-model'
            END AS control
        FROM settled AS b
        JOIN settled AS o ON o.corpus = b.corpus AND o.site = b.site AND o.analysis = b.analysis
            AND o.training IS NOT DISTINCT FROM b.training AND o.rest = b.rest AND o.run_id <> b.run_id
        WHERE b.run_id = resolve_run(run)
    )
    SELECT t.control, t.seed, t.run_id FROM told AS t
    WHERE t.control IS NOT NULL
    ORDER BY CASE t.control WHEN 'seed' THEN 0 WHEN 'frozen-decoder' THEN 1
        WHEN 'frozen-encoder' THEN 2 WHEN 'random-sae' THEN 3 WHEN 'random-model' THEN 4
        ELSE 5 END, t.seed, t.run_id;

-- Metrics of a run beside those of its controls: value, value_control, their difference (control -
-- run) with its 95% interval over the n documents that both judged, and p_corrected by Holm over
-- all rows; see differences. metrics: a list of those to ask for.
-- Example: FROM controls('latest')
CREATE OR REPLACE MACRO controls(run, metrics := NULL) AS TABLE
    WITH asked AS (
        SELECT coalesce(metrics, [
            'fvu_typical', 'delta_loss', 'kl', 'top1_agreement', 'auroc of latents',
            'accuracy of latents', 'r2 of latents', 'nmi'
        ]) AS names
    )
    SELECT c.control, c.seed, d.metric, d.value_base AS value, d.value_other AS value_control,
        d.difference, d.ci_low, d.ci_high, d.n, d.p_corrected, d.paired, d.other AS run_id
    FROM differences(
        run, (SELECT coalesce(list(o.run_id), []) FROM control_runs(run) AS o),
        metrics := (SELECT a.names FROM asked AS a)
    ) AS d
    JOIN control_runs(run) AS c ON c.run_id = d.other
    CROSS JOIN asked AS a
    WHERE of_store(:store)
    ORDER BY CASE c.control WHEN 'seed' THEN 0 WHEN 'frozen-decoder' THEN 1
        WHEN 'frozen-encoder' THEN 2 WHEN 'random-sae' THEN 3 WHEN 'random-model' THEN 4
        ELSE 5 END, c.seed, list_position(a.names, d.metric), c.run_id;
