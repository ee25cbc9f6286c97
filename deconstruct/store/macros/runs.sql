-- How good runs are, beside each other and over time, and what became of a latent in others.

-- Headline metrics of every execution, oldest first, also of those that made nothing new; the
-- change of fvu_typical is against the execution before of the same name, analysis and site.
-- Example: FROM metrics_over_time()
CREATE OR REPLACE MACRO metrics_over_time() AS TABLE
    SELECT e.started, e.name, e.analysis, r.site, r.run_id, len(e.made) AS made, r.tokens,
        r.fvu_typical, r.fvu_typical - lag(r.fvu_typical) OVER (
            PARTITION BY e.name, e.analysis, r.site ORDER BY e.execution
        ) AS fvu_typical_change,
        r.fvu, r.l0, r.delta_loss, r.kl, r.top1_agreement, r.silent_share, r.dead_share,
        r.loss_recovered_bos_kept, r.probe_accuracy, r.nmi
    FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
    WHERE of_store(:store)
    ORDER BY e.execution;

-- The latents of other runs (all of them, or `other`) that are most like one latent. cosine: of
-- the decoder rows, where the run took apart the same model at the same width. correlation: of
-- firing on the same tokens (phi), where it read the same corpus; n_both: on how many. Shown are
-- the n best of each run by either.
-- Example: FROM latent_across_runs('latest', 7, n := 3)
CREATE OR REPLACE MACRO latent_across_runs(run, latent, other := NULL, n := 1) AS TABLE
    WITH own AS MATERIALIZED (
        SELECT r.run_id, r.model_digest, r.d_in, s.key AS corpus, f.n_fires::DOUBLE AS n_fires,
            f.n_fires / nullif(f.density, 0) AS n_tokens,
            (SELECT any_value(d.decoder) FROM directions AS d
                WHERE d.run_id = resolve_run(run) AND d.latent = latent) AS decoder
        FROM runs AS r
        JOIN stages AS s ON s.run_id = r.run_id AND s.stage = 'corpus'
        JOIN features AS f ON f.run_id = r.run_id AND f.latent = latent
        WHERE r.run_id = resolve_run(run)
    ),
    others AS MATERIALIZED (
        SELECT r.run_id, r.name, r.site, s.key = o.corpus AS same_corpus,
            r.model_digest = o.model_digest AND r.d_in = o.d_in AS same_width
        FROM runs AS r
        JOIN stages AS s ON s.run_id = r.run_id AND s.stage = 'corpus'
        CROSS JOIN own AS o
        WHERE r.run_id <> o.run_id AND (other IS NULL OR r.run_id = resolve_run(other))
    ),
    pointing AS (
        SELECT d.run_id, d.latent, list_cosine_similarity(d.decoder, o.decoder) AS cosine
        FROM directions AS d
        JOIN others AS r ON r.run_id = d.run_id AND r.same_width
        CROSS JOIN own AS o
    ),
    fired AS MATERIALIZED (
        SELECT l.token_index FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    counted AS (
        SELECT l.run_id, l.latent, count(*) AS n_both
        FROM latents_by_token AS l
        JOIN fired AS x ON x.token_index = l.token_index
        JOIN others AS r ON r.run_id = l.run_id AND r.same_corpus
        GROUP BY l.run_id, l.latent
    ),
    compared AS (
        SELECT r.run_id, r.name, r.site, f.latent, p.cosine, f.n_fires, f.top_token,
            CASE WHEN r.same_corpus THEN coalesce(c.n_both, 0) END AS n_both,
            (o.n_tokens * n_both - o.n_fires * f.n_fires)
                / nullif(sqrt(o.n_fires * (o.n_tokens - o.n_fires))
                    * sqrt(f.n_fires * (o.n_tokens - f.n_fires)), 0) AS correlation
        FROM features AS f
        JOIN others AS r ON r.run_id = f.run_id
        CROSS JOIN own AS o
        LEFT JOIN pointing AS p ON p.run_id = f.run_id AND p.latent = f.latent
        LEFT JOIN counted AS c ON c.run_id = f.run_id AND c.latent = f.latent
    ),
    ranked AS (
        SELECT b.run_id, b.name, b.site, b.latent, b.cosine, b.correlation, b.n_both, b.n_fires,
            b.top_token,
            CASE WHEN b.cosine IS NOT NULL THEN row_number() OVER (
                PARTITION BY b.run_id ORDER BY b.cosine DESC NULLS LAST, b.latent
            ) END AS cosine_rank,
            CASE WHEN b.correlation IS NOT NULL THEN row_number() OVER (
                PARTITION BY b.run_id ORDER BY b.correlation DESC NULLS LAST, b.latent
            ) END AS correlation_rank
        FROM compared AS b
    )
    FROM ranked AS k
    WHERE k.cosine_rank <= n OR k.correlation_rank <= n
    ORDER BY k.site, k.run_id, least(k.cosine_rank, k.correlation_rank), k.cosine_rank;

-- For each latent of a run its likeliest counterpart in another run of the same corpus: of the 8
-- that fire most often on its `top` strongest tokens, the one whose decoder row has the largest
-- cosine with its own. share: of those tokens on which the counterpart fires. Some pairs are
-- missed, few of the close ones (an eighth of those with a cosine above 0.5, between two seeds).
-- Across widths cosine is null, and share decides. Several latents may have one counterpart, and
-- random rows have counterparts too: how much is found again, latent_matches and matching_metrics
-- say (deconstruct match).
-- Example: FROM counterparts('latest', 'demo') WHERE cosine > 0.7
CREATE OR REPLACE MACRO counterparts(run, other, top := 20) AS TABLE
    WITH strongest AS MATERIALIZED (
        SELECT s.latent, unnest(s.places) AS token_index, len(s.places) AS n
        FROM (
            SELECT l.latent,
                list(l.token_index ORDER BY l.activation DESC, l.token_index)[:top] AS places
            FROM latents AS l
            WHERE l.run_id = resolve_run(run)
            GROUP BY l.latent
        ) AS s
    ),
    candidate AS MATERIALIZED (
        SELECT s.latent, o.latent AS counterpart, count(*) / any_value(s.n) AS share
        FROM strongest AS s
        JOIN latents_by_token AS o
            ON o.run_id = resolve_run(other) AND o.token_index = s.token_index
        GROUP BY s.latent, o.latent
        QUALIFY row_number() OVER (PARTITION BY s.latent ORDER BY count(*) DESC, o.latent) <= 8
    ),
    matched AS MATERIALIZED (
        SELECT c.latent, c.counterpart, c.share,
            CASE WHEN len(a.decoder) = len(b.decoder)
                THEN list_cosine_similarity(a.decoder, b.decoder) END AS cosine
        FROM candidate AS c
        JOIN directions AS a ON a.run_id = resolve_run(run) AND a.latent = c.latent
        JOIN directions AS b ON b.run_id = resolve_run(other) AND b.latent = c.counterpart
        QUALIFY row_number() OVER (
            PARTITION BY c.latent ORDER BY cosine DESC NULLS LAST, c.share DESC, c.counterpart
        ) = 1
    )
    SELECT m.latent, m.counterpart, m.cosine, m.share, f.n_fires,
        g.n_fires AS counterpart_fires, f.top_token, g.top_token AS counterpart_token
    FROM matched AS m
    LEFT JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = m.latent
    LEFT JOIN features AS g ON g.run_id = resolve_run(other) AND g.latent = m.counterpart
    ORDER BY m.cosine DESC NULLS LAST, m.latent;

-- Latents that fire never (dead), on less than a share `rare` of the tokens, or on more than
-- `dense`; densest first.
-- Example: FROM unusual_latents('latest', dense := 0.2)
CREATE OR REPLACE MACRO unusual_latents(run, rare := 0.0001, dense := 0.1) AS TABLE
    SELECT CASE WHEN f.dead THEN 'dead' WHEN f.density < rare THEN 'rare' ELSE 'dense' END AS kind,
        f.latent, f.density, f.n_fires, f.n_documents, f.max_activation, f.top_token,
        f.top_token_share, f.encoder_decoder_cosine, f.nearest_latent, f.nearest_cosine
    FROM features AS f
    WHERE f.run_id = resolve_run(run) AND (f.density < rare OR f.density > dense)
    ORDER BY f.density DESC, f.latent;

-- The runs of a sweep (all that carry its name), with the Pareto front of each site and analysis:
-- on_front: no other has an fvu_typical as low at an L0 as low; on_loss_front: the same of the loss
-- added; null where that is not known. Intervals are the evaluation's: runs of other seeds differ by
-- more than they say.
-- Example: FROM pareto('demo')
CREATE OR REPLACE MACRO pareto(sweep) AS TABLE
    WITH own AS (
        SELECT r.* EXCLUDE (analysis), n.analysis,
            json_extract_string(r.config, '$.sae.output_site') AS output_site
        FROM runs AS r JOIN names AS n ON n.run_id = r.run_id
        WHERE n.name = sweep AND of_store(:store)
    )
    SELECT o.analysis, o.site, o.output_site, o.architecture, o.d_sae, o.k,
        CAST(json_extract(o.config, '$.sae.seed') AS UBIGINT) AS seed, o.l0, o.fvu_typical,
        m.ci_low AS fvu_typical_low, m.ci_high AS fvu_typical_high, o.fvu, o.delta_loss, o.kl,
        o.top1_agreement, o.silent_share, o.dead_share,
        CASE WHEN o.fvu_typical IS NOT NULL THEN NOT EXISTS (
            FROM own AS p
            WHERE p.analysis = o.analysis AND p.site = o.site
                AND p.output_site IS NOT DISTINCT FROM o.output_site
                AND p.l0 <= o.l0 AND p.fvu_typical <= o.fvu_typical
                AND (p.l0 < o.l0 OR p.fvu_typical < o.fvu_typical)
        ) END AS on_front,
        CASE WHEN o.delta_loss IS NOT NULL THEN NOT EXISTS (
            FROM own AS p
            WHERE p.analysis = o.analysis AND p.site = o.site
                AND p.output_site IS NOT DISTINCT FROM o.output_site
                AND p.l0 <= o.l0 AND p.delta_loss <= o.delta_loss
                AND (p.l0 < o.l0 OR p.delta_loss < o.delta_loss)
        ) END AS on_loss_front,
        o.run_id
    FROM own AS o
    LEFT JOIN sae_metrics AS m
        ON m.run_id = o.run_id AND m.text = 'own' AND m.metric = 'fvu_typical'
    ORDER BY o.analysis, o.site, o.output_site, o.l0, o.fvu_typical;

-- The n tokens in different texts whose activations the SAE renders worst, relative to their
-- length, in context.
-- Example: FROM worst_tokens('latest', n := 5)
CREATE OR REPLACE MACRO worst_tokens(run, n := 20, width := 10) AS TABLE
    WITH worst AS MATERIALIZED (
        SELECT e.token_index, e.squared_error, e.squared_norm,
            e.squared_error / nullif(e.squared_norm, 0) AS relative_error
        FROM token_errors AS e
        WHERE e.run_id = resolve_run(run)
        ORDER BY relative_error DESC NULLS LAST, e.token_index
        LIMIT candidates(n)
    )
    SELECT any_value(w.relative_error) AS relative_error,
        any_value(w.squared_error) AS squared_error, any_value(w.squared_norm) AS squared_norm,
        max(c.token) FILTER (c.token_index = c.place) AS token,
        string_agg(marked(c.token, c.token_index = c.place, false), '' ORDER BY c.token_index)
            FILTER (NOT c.special) AS context,
        any_value(c.doc_id) AS doc_id,
        max(c.position) FILTER (c.token_index = c.place) AS position, c.place AS token_index
    FROM tokens_around(run, (
        SELECT list(w.token_index ORDER BY w.relative_error DESC NULLS LAST, w.token_index)
        FROM worst AS w
    ), width, n) AS c
    JOIN worst AS w ON w.token_index = c.place
    GROUP BY c.rank, c.place
    ORDER BY c.rank;

-- Reconstruction error of each token that is held out at least min_n times: relative to the
-- activation (sum over sum), mean, and share of the error of all tokens. Worst first.
-- Example: FROM error_by_token('latest', min_n := 5)
CREATE OR REPLACE MACRO error_by_token(run, min_n := 10) AS TABLE
    SELECT t.token, count(*) AS n, sum(e.squared_error) / sum(e.squared_norm) AS relative_error,
        avg(e.squared_error) AS mean_squared_error, avg(e.squared_norm) AS mean_squared_norm,
        sum(e.squared_error) / (
            SELECT sum(a.squared_error) FROM token_errors AS a WHERE a.run_id = resolve_run(run)
        ) AS share_of_error
    FROM token_errors AS e
    JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = e.token_index
    WHERE e.run_id = resolve_run(run)
    GROUP BY t.token
    HAVING count(*) >= min_n
    ORDER BY relative_error DESC, t.token;
